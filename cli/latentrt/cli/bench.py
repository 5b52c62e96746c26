"""`latentrt bench`: what it found as tables, and beside an earlier run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from latentrt.benchmarks.arrivals import Curve
from latentrt.benchmarks.cold import Cold
from latentrt.benchmarks.contest import Settings, against
from latentrt.benchmarks.report import SCHEMA, STAGES, Report
from latentrt.benchmarks.samples import Samples
from latentrt.benchmarks.standings import Standings
from latentrt.benchmarks.verdict import Verdict, verdicts
from latentrt.bundle.errors import FileError
from latentrt.runtime import Size

_UNITS: Final = ((1.0, "s"), (1e-3, "ms"), (0.0, "us"))


def read_runs(path: Path) -> dict[str, list[float]]:
    """The seconds of every row of an earlier report.

    Raises `FileError` for a file that is none, or of another schema.
    """
    try:
        value: Any = json.loads(path.read_bytes())
    except OSError as error:
        raise FileError(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise FileError(path, f"is not JSON: {error}") from error
    try:
        found: object = value["schema"]
    except (KeyError, TypeError):
        found = None
    if found != SCHEMA:
        raise FileError(path, f"is no report of `latentrt bench`: schema {found!r}, not {SCHEMA!r}")
    return value["runs"]


def beside(report: Report, old: Mapping[str, Sequence[float]]) -> tuple[Verdict, ...]:
    """A verdict on every row that an earlier report has too."""
    return verdicts(report.runs, old)


def peers(names: Sequence[str]) -> tuple[str, ...] | None:
    """The names of other libraries, None for "all"."""
    return None if "all" in names else tuple(names)


def contest(
    report: Report,
    bundle: Path,
    checkpoint: str | None,
    names: Sequence[str] | None,
    rounds: int,
) -> Standings:
    """The report's picture drawn in turns with other libraries; says how far it is.

    The sampler is DDIM, which all of them step alike; of what the report's engines were asked for
    only the number of threads is kept. Raises what `against` raises.
    """
    request: Any = report.subject["request"]
    settings = Settings(
        Size.parse(report.subject["size"]),
        steps=request["sampling"]["steps"],
        prompt=request["prompt"],
        guidance_scale=request["guidance"]["scale"],
        threads=report.subject["options"]["threads"],
    )
    return against(bundle, checkpoint, settings, names, rounds=rounds)


def print_standings(standings: Standings) -> None:
    """The contest's table, and what everybody in it had in common."""
    sampler = standings.settings["sampler"]
    print(f"\nin turns with others, all by {sampler}, latentrt by a fixed set of engines")
    print(standings)


def print_report(report: Report) -> None:
    """Tables of all that was measured."""
    console = Console()
    console.print(_title(report), highlight=False)
    console.print(_stages(report))
    print(f"{'':<2}own: {report.own_share:.1%} of a picture is spent outside engines")
    for title, table in (
        ("cold start, in a process of its own", _cold(report.cold)),
        ("beside what this machine can do", _limits(report)),
        ("served together, pictures a second", _served(report)),
        ("arriving at random (Poisson), seconds to the picture", _arrivals(report.arrivals)),
        ("away from PyTorch fp32", _errors(report)),
    ):
        if table.row_count:
            print(f"\n{title}")
            console.print(table)
    for state in report.gpu.values():
        print(
            f"\n{state.name}: {state.sm_clock} MHz, {state.power:.0f} W, {state.temperature} C, "
            f"throttled: {', '.join(state.throttle) or 'no'} (NVML, unverified)"
        )
    for note in report.notes:
        print(f"note: {note}")


def print_verdicts(found: Iterable[Verdict], path: Path) -> None:
    """Then beside now: how many times as fast it is."""
    table = _table("", "ratio", "95 % of resamples", "")
    for each in found:
        interval = f"{each.low:.3f} to {each.high:.3f}"
        table.add_row(each.row, f"{each.ratio:.3f}", interval, each.word)
    print(f"\nagainst {path}, times as fast")
    Console().print(table)


def _title(report: Report) -> str:
    request: Any = report.subject["request"]
    used = sorted({f"{e} {report.precisions[c]}" for c, e in report.engines.items()})
    sampling, guidance = request["sampling"], request["guidance"]
    return (
        f"{report.subject['source']}: {', '.join(used)}; {report.subject['size']}, "
        f"{sampling['steps']} steps of {report.subject['sampler']}, "
        f"guidance {guidance['scale']:g}\n{report.machine.processor}, "
        f"{report.machine.cores} cores"
    )


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def _stages(report: Report) -> Table:
    table = _table("", "p50", "p90", "p99", "runs", "")
    names = (*STAGES, *(name for name in report.rows if name not in STAGES))
    for name in names:
        row = report.rows[name]
        cells = (_time(row.percentile(n)) for n in (50, 90, 99))
        table.add_row(name, *cells, str(len(row.seconds)), _stability(row))
    return table


def _stability(row: Samples) -> str:
    return "" if row.stable else "unstable"


def _cold(starts: Sequence[Cold]) -> Table:
    table = _table("engines", "total", "import", "open", "engines", "picture", "peak memory")
    for each in starts:
        if each.problem:
            continue
        parts = (each.total, each.imports, each.opens, each.engines, each.picture)
        memory = "?" if each.memory is None else f"{each.memory / 1e9:.2f} GB"
        table.add_row("loaded" if each.hit else "built", *map(_time, parts), memory)
    return table


def _limits(report: Report) -> Table:
    table = _table("", "a call", "GFLOP", "TFLOP/s", "limit", "share", "bound by")
    for name, limit in report.limits.items():
        seconds = report.rows[f"{name} call"].percentile(50)
        table.add_row(
            name,
            _time(seconds),
            f"{limit.operations / 1e9:.2f}",
            f"{limit.rate / 1e12:.3f}",
            _time(limit.least),
            f"{limit.share:.0%}",
            limit.bound,
        )
    for name, ceiling in report.ceilings.items():
        reached = f"{ceiling.rate / 1e12:.3f}"
        table.add_row(
            f"ceiling, {name}", "", "", reached, "", "", f"{ceiling.bandwidth / 1e9:.1f} GB/s"
        )
    return table


def _served(report: Report) -> Table:
    table = _table("", "pictures/s", "ratio", "calls", "filled")
    for row in report.served:
        calls = "" if row.calls is None else str(row.calls)
        filled = "" if row.filled is None else f"{row.filled:.0%}"
        table.add_row(row.name, f"{row.median:.3f}", f"{row.ratio:.2f}", calls, filled)
    return table


def _arrivals(curves: Sequence[Curve]) -> Table:
    table = _table("", "a second", "p50", "p95", "")
    for curve in curves:
        for point in curve.points:
            table.add_row(curve.server, f"{point.rate:.2f}", _time(point.p50), _time(point.p95), "")
        most = f"{'at least ' if curve.open_ended else ''}{curve.goodput:.2f}"
        table.add_row(curve.server, most, "", "", "goodput")
    return table


def _errors(report: Report) -> Table:
    table = _table("", "relative")
    for name, error in report.errors.items():
        table.add_row(name, f"{error:.1e}")
    if report.picture_psnr is not None:
        table.add_row("picture", f"{report.picture_psnr:.1f} dB")
    return table


def _time(seconds: float) -> str:
    scale, unit = next((s, u) for s, u in _UNITS if seconds >= s)
    return f"{seconds / (scale or 1e-6):.3g} {unit}"
