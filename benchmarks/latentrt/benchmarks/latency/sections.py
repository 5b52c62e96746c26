"""A benchmark's report as tables of words, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from latentrt.benchmarks.latency.goodput import Curve, gain
from latentrt.benchmarks.latency.nvml import GpuState
from latentrt.benchmarks.latency.report import STAGES, Report, error_beside
from latentrt.benchmarks.latency.verdict import Verdict

_UNITS: Final = ((1.0, "s"), (1e-3, "ms"), (0.0, "us"))


@dataclass(frozen=True, slots=True)
class Section:
    """A table below its title; the first of its columns names the rows."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def sections(report: Report) -> tuple[Section, ...]:
    """All that was measured; what was not has no table."""
    found = (
        _stages(report),
        _memory(report),
        _gpu(report.gpu),
        _cold(report),
        _limits(report),
        _served(report),
        _arrivals(report),
        _errors(report),
    )
    return tuple(section for section in found if section.rows)


def compared(verdicts: Iterable[Verdict], name: str) -> Section:
    """Then beside now: how many times as fast it is than in the report of that name."""
    return Section(
        f"against {name}, times as fast",
        ("", "ratio", "95 %", ""),
        tuple(
            (each.row, f"{each.ratio:.3f}", f"{each.low:.3f} to {each.high:.3f}", each.remarks)
            for each in verdicts
        ),
    )


def used(report: Report) -> str:
    """The engines with their precisions, and the size of the picture."""
    engines = sorted({f"{e} {report.precisions[c]}" for c, e in report.engines.items()})
    return f"{', '.join(engines)}; {report.subject['size']}"


def _stages(report: Report) -> Section:
    names = (*STAGES, *(name for name in report.rows if name not in STAGES))
    rows = ((name, report.rows[name]) for name in names)
    return Section(
        f"a warm picture, its parts, and the calls of its engines; {_pictures(report)}",
        ("", "p50", "p90", "p99", "runs", "error", ""),
        tuple(
            (
                name,
                *(_time(row.percentile(n)) for n in (50, 90, 99)),
                str(len(row.seconds)),
                error_beside(name, report.errors, report.picture_psnr),
                "" if row.stable else "unstable",
            )
            for name, row in rows
        ),
    )


def _pictures(report: Report) -> str:
    count = len(report.rows["picture"].pictures)
    return f"{count} picture{'s' if count > 1 else ''}"


def _memory(report: Report) -> Section:
    parts = (("at its peak", report.memory.peak), ("without mapped files", report.memory.own))
    return Section(
        "memory of this process after the warm pictures",
        ("", ""),
        tuple((name, _gigabytes(count)) for name, count in parts if count is not None),
    )


def _gpu(state: GpuState | None) -> Section:
    title = "the GPU during the warm pictures (NVML, unverified)"
    if state is None:
        return Section(title, (), ())
    throttled = "?" if state.throttle is None else ", ".join(state.throttle) or "no"
    return Section(
        title,
        ("", ""),
        (
            ("device", f"{state.name or '?'}, driver {state.driver or '?'}"),
            ("clock, median", _known(state.sm_clock, "MHz")),
            ("memory's clock, median", _known(state.memory_clock, "MHz")),
            ("power, median", _known(state.power, "W")),
            ("temperature, greatest", _known(state.temperature, "C")),
            ("memory in use, greatest", _gigabytes(state.memory_used)),
            ("of that this process's", _gigabytes(state.memory_own)),
            ("throttled", throttled),
        ),
    )


def _cold(report: Report) -> Section:
    rows: list[tuple[str, ...]] = []
    for each in report.cold:
        if each.problem:
            rows.append((each.name, *("",) * 6))
            continue
        parts = (each.total, each.imports, each.opens, each.engines, each.picture)
        rows.append((each.name, *map(_time, parts), _gigabytes(each.memory)))
    return Section(
        "cold start, in a process of its own",
        ("", "total", "import", "open", "engines", "picture", "peak memory"),
        tuple(rows),
    )


def _limits(report: Report) -> Section:
    rows = [
        (
            name,
            _time(report.rows[f"{name} call"].percentile(50)),
            f"{limit.operations / 1e9:.2f}",
            f"{limit.rate / 1e12:.3f}",
            _time(limit.least),
            f"{limit.share:.0%}",
            limit.bound,
        )
        for name, limit in report.limits.items()
    ]
    for name, ceiling in report.ceilings.items():
        moved = "" if ceiling.bandwidth is None else f"{ceiling.bandwidth / 1e9:.1f} GB/s"
        rows.append((f"ceiling, {name}", "", "", f"{ceiling.rate / 1e12:.3f}", "", "", moved))
    return Section(
        "beside what this machine can do",
        ("", "a call", "GFLOP", "TFLOP/s", "limit", "share", "bound by"),
        tuple(rows),
    )


def _served(report: Report) -> Section:
    each = report.subject["rows"]
    return Section(
        f"served together, pictures a second; a batch is U-Net rows, {each} a picture",
        ("", "pictures/s", "ratio", "calls", "filled", "from alone"),
        tuple(
            (
                row.name,
                f"{row.median:.3f}",
                f"{row.ratio:.2f}",
                "" if row.calls is None else str(row.calls),
                "" if row.filled is None else f"{row.filled:.0%}",
                "" if row.batch is None else f"{row.apart:.1e}",
            )
            for row in report.served
        ),
    )


def _arrivals(report: Report) -> Section:
    rows: list[tuple[str, ...]] = []
    for curve in report.arrivals:
        rows += [
            (curve.server, f"{point.rate:.2f}", _time(point.p50), _time(point.p95), "")
            for point in curve.points
        ]
        rows.append((curve.server, _goodput(curve), "", "", "goodput"))
    more = gain(report.arrivals)
    if more is not None:
        ends = f"{more.low:.2f} to {more.high:.2f}"
        rows.append(("batched over one at a time", f"{more.value:.2f} ({ends})", "", "", "goodput"))
    return Section(
        "arriving at random (Poisson), seconds to the picture",
        ("", "a second", "p50", "p95", ""),
        tuple(rows),
    )


def _goodput(curve: Curve) -> str:
    """With its interval, or, where it is a bound, what it bounds."""
    if curve.bound:
        return f"{curve.bound} {curve.goodput:.2f}"
    found = curve.interval
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def _errors(report: Report) -> Section:
    rows = [(name, f"{error:.1e}") for name, error in report.errors.items()]
    picture = error_beside("picture", report.errors, report.picture_psnr)
    return Section(
        "away from PyTorch fp32",
        ("", "relative"),
        (*rows, ("picture", picture)) if picture else tuple(rows),
    )


def _known(value: float | None, unit: str) -> str:
    return "?" if value is None else f"{value:.0f} {unit}"


def _gigabytes(count: int | None) -> str:
    return "?" if count is None else f"{count / 1e9:.2f} GB"


def _time(seconds: float) -> str:
    scale, unit = next((s, u) for s, u in _UNITS if seconds >= s)
    return f"{seconds / (scale or 1e-6):.3g} {unit}"
