"""The README's numbers, written from the committed measurements.

    python -m latentrt.benchmarks.tables README.md [--check]

Everything between `<!-- NAME -->` and `<!-- end -->` is made from the JSON files under
benchmarks/results that the table NAME reads; nothing there is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from latentrt.benchmarks.aims import AIMS, interval
from latentrt.benchmarks.bench_table import bench_table
from latentrt.benchmarks.cells import decibels, markdown_table, milliseconds, seconds_of
from latentrt.benchmarks.compare_table import compare_table
from latentrt.benchmarks.peers.standings import Best, Ratio, Row, Standings
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
    """Reads the files of a folder; raises `FileError` naming one that is missing or no JSON."""

    def read(name: str) -> Any:
        try:
            return json.loads((folder / name).read_bytes())
        except OSError as error:
            raise FileError(folder / name, error.strerror or str(error)) from error
        except ValueError as error:
            raise FileError(folder / name, f"no JSON: {error}") from error

    return read


def _aims(*names: str) -> Callable[[Read], str]:
    """What the project means to reach beside others, and what it did in these contests."""

    def table(read: Read) -> str:
        found = [_standings(read, name) for name in names]
        rows = [(aim, *(str(outcome(each)) for each in found)) for aim, outcome in AIMS.items()]
        return markdown_table(("aim", *map(_drawn, found)), rows)

    return table


def _standings(read: Read, name: str) -> Standings:
    """A contest's; raises `FileError` for one that was interrupted."""
    found = Standings.from_json(read(name))
    if found.interrupted:
        raise FileError(name, "is of a contest that was interrupted: hold it again")
    return found


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
        (
            "`import latentrt.runtime`",
            milliseconds(imports["median"], 0),
            milliseconds(aims["import_aim"], 0),
        ),
        (
            "the runtime's own time per guided step of `euler`, 64 x 64 and 128 x 128 latents",
            ", ".join(milliseconds(s) for s in steps),
            f"{milliseconds(aims['step_aim_64x64'], 1)} at 64 x 64",
        ),
        (
            "the slowest sampler's own step at 128 x 128 latents, noise apart "
            f"(`{slowest['sampler']}`)",
            milliseconds(slowest["median"], 2),
            milliseconds(aims["sampler_aim_128x128"], 0),
        ),
        (
            "a batched step of 8 rows beyond the engine, 64 x 64 and 128 x 128 latents",
            ", ".join(milliseconds(s, 2) for s in batched),
            "",
        ),
        (
            f"what a call adds to bare OpenVINO, U-Net of models/shapes in {' and '.join(calls)}",
            ", ".join(f"{added:.1%}" for added in calls.values()),
            f"{read('calls.json')['aim']:.0%}",
        ),
        (
            "pictures a second of the batcher at batch 8 against one request at a time, "
            "models/shapes",
            f"{served[8]:.2f}",
            "",
        ),
    ]
    return markdown_table(("", "", "aim"), rows)


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
    return markdown_table(("", "U-Net", *part, "VAE", *part), rows)


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


def _contest(name: str) -> Callable[[Read], str]:
    """A table of a contest's standings, the fastest first."""

    def table(read: Read) -> str:
        found = _standings(read, name)
        ran = [(row.ratio, row) for row in found.rows if row.ratio and not row.problem]
        ran.sort(key=lambda each: -each[0].median)
        rows = [_standing(found, row, ratio) for ratio, row in ran]
        heads = ("", f"times as fast as `{found.reference}`", found.interval)
        more = ("as the best peer of its precision", "a picture", "U-Net", "VAE", "own")
        last = ("the same picture", "memory", "of its time alone")
        return markdown_table((*heads, *more, *last), rows)

    return table


def _standing(found: Standings, row: Row, ratio: Ratio) -> tuple[str, ...]:
    stages = row.stages or {}
    return (
        f"`{row.name}`",
        f"**{ratio.median:.2f}**",
        f"{ratio.low:.2f} to {ratio.high:.2f}",
        _ratio(found.best(row)),
        seconds_of(row.median),
        *(seconds_of(stages.get(part)) for part in ("unet", "decode", "own")),
        "" if row.name == found.reference else decibels(row.psnr),
        "" if row.rss_peak is None else f"{row.rss_peak / 1e9:.1f} GB",
        _ratio(row.beside),
    )


def _ratio(ratio: Best | Ratio | None) -> str:
    return "" if ratio is None else interval(ratio)


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
    "compare": lambda read: compare_table(read("compare-shapes.json")),
    "bench": lambda read: bench_table(read("bench-shapes.json")),
    "peers-shapes": _contest("peers-shapes.json"),
    "peers-sd15": _contest("peers-sd15.json"),
    "aims": _aims("peers-shapes.json", "peers-sd15.json"),
    "avx2-aims": _aims("avx2/peers-shapes.json"),
    "avx2-peers-shapes": _contest("avx2/peers-shapes.json"),
    "adherence": _adherence,
    "install": _install,
}


def _by_latent(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    return [row["median"] for row in sorted(rows, key=lambda row: row["latent"])]


def main() -> None:
    """Write the document, or with --check only say whether it is up to date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("document", type=Path)
    parser.add_argument("--check", action="store_true", help="change nothing; status 1: it is old")
    options = parser.parse_args()
    try:
        text = options.document.read_text(encoding="utf-8")
        new = filled(text, reading(options.document.parent / RESULTS))
    except (OSError, FileError) as error:
        sys.exit(f"error: {error}")
    if options.check:
        sys.exit(
            f"{options.document} is not what the results say: make tables" if new != text else 0
        )
    write_file(options.document, new.encode())


if __name__ == "__main__":
    main()
