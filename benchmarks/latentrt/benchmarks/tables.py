"""The README's numbers, written from the committed measurements.

    python -m latentrt.benchmarks.tables README.md [--check]

Everything between `<!-- NAME -->` and `<!-- end -->` is made from the JSON files under
benchmarks/results that the table NAME reads; nothing there is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from latentrt.benchmarks.aims import AIMS, interval
from latentrt.benchmarks.report import error_beside
from latentrt.benchmarks.standings import Best, Ratio, Row, Standings
from latentrt.bundle.errors import FileError
from latentrt.bundle.publish import write_file

RESULTS: Final = Path("benchmarks/results")
_BLOCK: Final = re.compile(r"(<!-- (?P<name>[a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Read = Callable[[str], Any]
"""Gives the content of a JSON file by its name under `RESULTS`."""


def filled(text: str, read: Read) -> str:
    """A document with every table made anew; raises `FileError` for one that nobody makes."""

    def fill(block: re.Match[str]) -> str:
        name = block["name"]
        if name not in TABLES:
            raise FileError("README.md", f"has a table {name!r}, not one of {', '.join(TABLES)}")
        return f"{block[1]}{TABLES[name](read)}\n{block[3]}"

    return _BLOCK.sub(fill, text)


def reading(folder: Path) -> Read:
    """Reads the files of a folder; raises `FileError` naming one that is not there."""

    def read(name: str) -> Any:
        try:
            return json.loads((folder / name).read_bytes())
        except OSError as error:
            raise FileError(folder / name, error.strerror or str(error)) from error

    return read


def _rows(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |".replace("|  |", "| |") for cells in lines)


def _aims(read: Read) -> str:
    """What the project means to reach beside others, and what it did."""
    contests = ("peers-shapes.json", "peers-sd15.json")
    found = [Standings.from_json(read(name)) for name in contests]
    rows = [(aim, *(str(outcome(each)) for each in found)) for aim, outcome in AIMS.items()]
    return _rows(("aim", *map(_drawn, found)), rows)


def _drawn(found: Standings) -> str:
    settings, disturbed = found.settings, ", disturbed" if found.disturbed else ""
    return f"`{found.source}`, {settings['steps']} steps at {settings['size']}{disturbed}"


def _own(read: Read) -> str:
    """What the runtime costs by itself."""
    found = read("runtime.json")
    imports, aims = found["import_seconds"], found
    steps = _by_latent(found["step_seconds"])
    batched = _by_latent(found["batched_step_seconds"])
    large = [row for row in found["sampler_seconds"] if row["latent"][1:] == [128, 128]]
    slowest = max(large, key=lambda row: row["median"])
    calls = {row["precision"]: row["added"] for row in read("calls.json")["calls"]}
    served = {row["batch"]: row["ratio"] for row in read("batching-shapes.json")["rows"]}
    rows = [
        ("`import latentrt.runtime`", _ms(imports["median"], 0), _ms(aims["import_aim"], 0)),
        (
            "the runtime's own time per guided step of `euler`, 64 x 64 and 128 x 128 latents",
            ", ".join(_ms(s) for s in steps),
            f"{_ms(aims['step_aim_64x64'], 1)} at 64 x 64",
        ),
        (
            "the slowest sampler's own step at 128 x 128 latents, noise apart "
            f"(`{slowest['sampler']}`)",
            _ms(slowest["median"], 2),
            _ms(aims["sampler_aim_128x128"], 0),
        ),
        (
            "a batched step of 8 rows beyond the engine, 64 x 64 and 128 x 128 latents",
            ", ".join(_ms(s, 2) for s in batched),
            "",
        ),
        (
            "what a call adds to bare OpenVINO, U-Net of models/shapes in fp32 and bf16",
            f"{calls['fp32']:.1%}, {calls['bf16']:.1%}",
            f"{read('calls.json')['aim']:.0%}",
        ),
        (
            "pictures a second of the batcher at batch 8 against one request at a time, "
            "models/shapes",
            f"{served[8]:.2f}",
            "",
        ),
    ]
    return _rows(("", "", "aim"), rows)


def _engines(read: Read) -> str:
    """The CPU engines beside PyTorch at SD 1.5's size."""
    parts = read("engines.json")["components"]
    unet, vae = (parts[name]["results"] for name in ("unet", "vae_decoder"))
    rows = [
        (_who(one), *(cell for each in (one, other) for cell in _speed(each)))
        for one, other in zip(unet, vae, strict=True)
    ]
    ratio = "against PyTorch fp32"
    part = (ratio, "of the ceiling", "error")
    return _rows(("", "U-Net", *part, "VAE", *part), rows)


def _who(result: Mapping[str, Any]) -> str:
    name: str = result["contestant"]
    engine = name.removeprefix("engine ")
    shown = f"`--engine {engine}`" if engine != name else name
    return f"{shown}, {result['precision']}"


def _speed(result: Mapping[str, Any]) -> tuple[str, ...]:
    error = result["relative_error"]
    return (
        f"{result['seconds']['median']:.2f} s",
        f"{result['ratio']:.2f}",
        f"{result['share']:.0%}",
        f"{error:.1e}" if error else "",
    )


def _compare(read: Read) -> str:
    """How far the engines are from PyTorch's fp32, beside what they are allowed."""
    found = read("compare-shapes.json")
    compared = found["comparisons"]
    names = [row["name"] for each in compared[:1] for row in each["components"]]
    heads = ["", *names, "a step alone", "a step of the run", "PSNR", "SSIM"]
    judged = [" / ".join(each["adherence"]) for each in compared[:1] if each["adherence"]]
    heads += [f"of {found['drawn']} pictures, right in {asked}" for asked in judged]
    failed = [
        (f"`{name}` failed: {problem}", *[""] * (len(heads) - 1))
        for name, problem in found["failed"].items()
    ]
    return _rows(heads, [*(_comparison(each) for each in compared), *failed])


def _comparison(found: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        _engines_of(found),
        *(_held(row) for row in found["components"]),
        *(_held(_worst(found[steps])) for steps in ("steps_alone", "steps")),
        *_picture(found),
        *_shares(found),
    )


def _shares(found: Mapping[str, Any]) -> tuple[str, ...]:
    """How many pictures were right, in one cell; none where that was not looked at."""
    shares = found["adherence"] or {}
    return (" / ".join(f"{share:.1%}" for share in shares.values()),) if shares else ()


def _engines_of(comparison: Mapping[str, Any]) -> str:
    precisions = comparison["precisions"]
    used = (f"`--engine {e}`, {precisions[c]}" for c, e in comparison["engines"].items())
    return "; ".join(dict.fromkeys(used))


def _worst(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Of rows the farthest off; null is not finite."""
    return max(rows, key=lambda row: math.inf if row["relative"] is None else row["relative"])


def _held(row: Mapping[str, Any]) -> str:
    off = "not finite" if row["relative"] is None else f"{row['relative']:.1e}"
    return f"{off} / {row['tolerance']:.1e}"


def _picture(found: Mapping[str, Any]) -> tuple[str, str]:
    """PSNR beside what is allowed, and SSIM; without SSIM there is no picture, but NaN."""
    ssim, least = found["picture_ssim"], _decibels(found["least_psnr"])
    if ssim is None:
        return f"not finite / {least}", "not finite"
    return f"{_decibels(found['picture_psnr'])} / {least}", f"{ssim:.5f}"


def _bench(read: Read) -> str:
    """What `latentrt bench` found of models/shapes."""
    found = read("bench-shapes.json")
    rows = [
        (
            name,
            *(_seconds(row[p]) for p in ("p50", "p90", "p99")),
            f"{row['count']}{'' if row['stable'] else ', unstable'}",
            _share(found, name),
            error_beside(name, found["errors"], found["picture_psnr"]),
        )
        for name, row in found["rows"].items()
    ]
    for start in found["cold"]:
        # One that failed is no 0.0 ms; the notes of the report say why.
        total = sum(start[part] for part in ("imports", "opens", "engines", "picture"))
        shown = "failed" if start["problem"] else _seconds(total)
        name = f"first picture of a fresh process, {_engines_were(start)}"
        rows.append((name, shown, "", "", "1", "", ""))
    table = _rows(("", "p50", "p90", "p99", "runs", "of what the machine can do", "error"), rows)
    return "\n\n".join(filter(None, (table, _goodputs(found))))


def _engines_were(start: Mapping[str, Any]) -> str:
    if start["hit"] is None:
        return f"{start['cache']} cache"
    return f"engines {'loaded' if start['hit'] else 'built'}"


def _goodputs(found: Mapping[str, Any]) -> str:
    """What both servers bear, and how many times as much the batcher does; nothing if not asked."""
    said = [f"{_goodput(each)} {each['server']}" for each in found["arrivals"]]
    gain = found.get("goodput_gain")
    if gain is not None:
        said.append(f"{_within(gain['value'], gain)} times as many batched")
    words = "Arrivals a second of which 95 of 100 have their picture within 4 times what one takes"
    return f"{words}: {'; '.join(said)}." if said else ""


def _goodput(curve: Mapping[str, Any]) -> str:
    # A report of schema 1 knows neither bounds nor intervals.
    if curve.get("bound"):
        return f"{curve['bound']} {curve['goodput']:.2f}"
    return _within(curve["goodput"], curve)


def _within(value: float, ends: Mapping[str, Any]) -> str:
    interval = f" ({ends['low']:.2f} to {ends['high']:.2f})" if "low" in ends else ""
    return f"{value:.2f}{interval}"


def _share(found: Mapping[str, Any], row: str) -> str:
    limit = found["limits"].get(row.removesuffix(" call")) if row.endswith(" call") else None
    return "" if limit is None else f"{limit['share']:.0%}, {limit['rate'] / 1e12:.3f} TFLOP/s"


def _contest(name: str) -> Callable[[Read], str]:
    """A table of a contest's standings, the fastest first."""

    def table(read: Read) -> str:
        found = Standings.from_json(read(name))
        ran = [(row.ratio, row) for row in found.rows if row.ratio and not row.problem]
        ran.sort(key=lambda each: -each[0].median)
        rows = [_standing(found, row, ratio) for ratio, row in ran]
        heads = ("", f"times as fast as `{found.reference}`", found.interval)
        more = ("as the best peer of its precision", "a picture", "U-Net", "VAE", "own")
        last = ("the same picture", "memory", "of its time alone")
        return _rows((*heads, *more, *last), rows)

    return table


def _standing(found: Standings, row: Row, ratio: Ratio) -> tuple[str, ...]:
    stages = row.stages or {}
    return (
        f"`{row.name}`",
        f"**{ratio.median:.2f}**",
        f"{ratio.low:.2f} to {ratio.high:.2f}",
        _ratio(found.best(row)),
        _seconds(row.median),
        *(_seconds(stages.get(part)) for part in ("unet", "decode", "own")),
        "" if row.name == found.reference else _decibels(row.psnr),
        "" if row.rss_peak is None else f"{row.rss_peak / 1e9:.1f} GB",
        _ratio(row.beside),
    )


def _ratio(ratio: Best | Ratio | None) -> str:
    return "" if ratio is None else interval(ratio)


def _decibels(psnr: float | None) -> str:
    return "equal" if psnr is None else f"{psnr:.0f} dB"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


def _adherence(read: Read) -> str:
    """Whether models/shapes draws what was asked."""
    found = read("../../models/shapes/adherence.json")
    shares = found["shares"]["all"]
    said = ", ".join(f"{n} {shares[n]:.1%}" for n in ("colour", "background", "position", "shape"))
    return f"Prompt adherence of models/shapes on {found['count']} held-out prompts: {said}."


def _install(read: Read) -> str:
    """What an installation takes on disk."""
    found = read("install.json")
    return (
        f"A fresh environment with `latentrt[onnxruntime]` takes {found['onnxruntime_mb']} MB on "
        f"disk, the base installation {found['base_mb']} MB."
    )


TABLES: Final[Mapping[str, Callable[[Read], str]]] = {
    "own": _own,
    "engines": _engines,
    "compare": _compare,
    "bench": _bench,
    "peers-shapes": _contest("peers-shapes.json"),
    "peers-sd15": _contest("peers-sd15.json"),
    "aims": _aims,
    "adherence": _adherence,
    "install": _install,
}


def _by_latent(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [row["median"] for row in sorted(rows, key=lambda row: row["latent"])]


def _ms(seconds: float, digits: int = 3) -> str:
    return f"{1e3 * seconds:.{digits}f} ms"


def main() -> None:
    """Write the document, or with --check only say whether it is up to date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("document", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; status 1: it is old")
    options = parser.parse_args()
    text = options.document.read_text()
    new = filled(text, reading(options.document.parent / RESULTS))
    if options.check:
        sys.exit(
            f"{options.document} is not what the results say: make tables" if new != text else 0
        )
    write_file(options.document, new.encode())


if __name__ == "__main__":
    main()
