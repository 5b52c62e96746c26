"""A report as tables of text, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from latentrt.benchmarks.latency.nvml import GpuState
from latentrt.benchmarks.latency.report import STAGES, Report
from latentrt.benchmarks.samples import Ratio

_UNITS: Final = ((1.0, "s"), (1e-3, "ms"))


@dataclass(frozen=True, slots=True)
class Table:
    """Rows below their heads; the first column names the rows."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(report: Report) -> tuple[Table, ...]:
    """One table for each part that was measured."""
    found = (
        _image(report),
        _memory(report),
        _gpu(report.gpu),
        _cold(report),
        _rooflines(report),
        _throughput(report),
        _arrivals(report),
    )
    return tuple(table for table in found if table.rows)


def comparison(ratios: Sequence[tuple[str, Ratio, str]], name: str) -> Table:
    """Each row's ratio to an earlier report of that name, and a remark."""
    return Table(
        f"speed relative to {name}, ratio of medians (of quartiles)",
        ("", "ratio", "", ""),
        tuple((row, str(ratio), ratio.verdict, remark) for row, ratio, remark in ratios),
    )


def title(report: Report) -> str:
    """What was measured, and on what, in two lines."""
    work: Any = report.workload
    request, guidance = work["request"], work["request"]["guidance"]["scale"]
    return (
        f"{work['source']}: {engines(report.engines, report.precisions)}; {work['size']}, "
        f"{request['sampling']['steps']} steps of {work['sampler']}, guidance {guidance:g}\n"
        f"{report.machine.processor}, {report.machine.cores} cores"
    )


def engines(names: Any, precisions: Any) -> str:
    """The engines and their precisions, each once."""
    return ", ".join(sorted({f"{name} {precisions[part]}" for part, name in names.items()}))


def seconds(value: float) -> str:
    """Three digits, in the unit that suits."""
    scale, unit = next(((s, u) for s, u in _UNITS if value >= s), (1e-6, "us"))
    return f"{value / scale:.3g} {unit}"


def gigabytes(count: int | None) -> str:
    """Bytes, as GB."""
    return "?" if count is None else f"{count / 1e9:.2f} GB"


def _image(report: Report) -> Table:
    names = (*STAGES, *(name for name in report.rows if name not in STAGES))
    rows = ((name, report.rows[name]) for name in names if name in report.rows)
    return Table(
        "a warm image, its stages, and the calls of its engines; errors relative to PyTorch fp32",
        ("", "median", "p10", "p90", "n", "error"),
        tuple(
            (
                name,
                *(seconds(row.percentile(n)) for n in (50, 10, 90)),
                str(len(row.seconds)),
                report.errors.beside(name),
            )
            for name, row in rows
        ),
    )


def _memory(report: Report) -> Table:
    parts = (("peak", report.memory.peak), ("without mapped files", report.memory.own))
    rows = tuple((name, gigabytes(count)) for name, count in parts if count is not None)
    return Table("memory of this process after the warm images", ("", ""), rows)


def _gpu(state: GpuState | None) -> Table:
    name = "the GPU during the warm images (NVML, unverified)"
    if state is None:
        return Table(name, (), ())
    throttled = "?" if state.throttle is None else ", ".join(state.throttle) or "no"
    return Table(
        name,
        ("", ""),
        (
            ("device", f"{state.name or '?'}, driver {state.driver or '?'}"),
            ("clock, median", _unit(state.sm_clock, "MHz")),
            ("memory clock, median", _unit(state.memory_clock, "MHz")),
            ("power, median", _unit(state.power, "W")),
            ("temperature, maximum", _unit(state.temperature, "C")),
            ("memory in use, maximum", gigabytes(state.memory_used)),
            ("memory of this process", gigabytes(state.memory_own)),
            ("throttled", throttled),
        ),
    )


def _cold(report: Report) -> Table:
    rows: list[tuple[str, ...]] = []
    for each in report.cold:
        name = f"{each.cache} cache"
        if each.problem:
            rows.append((f"{name}: failed",))
            continue
        parts = (each.total, each.import_, each.open_, each.engines, each.image)
        rows.append((name, *map(seconds, parts), gigabytes(each.memory)))
    return Table(
        "cold start: a fresh process, to its first image",
        ("", "total", "import", "open", "engines", "image", "peak memory"),
        tuple(rows),
    )


def _rooflines(report: Report) -> Table:
    rows: list[tuple[str, ...]] = []
    for name, each in report.rooflines.items():
        call = seconds(report.rows[f"{name} call"].median)
        work = (f"{each.operations / 1e9:.2f}", f"{each.rate / 1e12:.3f}")
        rows.append((name, call, *work, seconds(each.least), f"{each.share:.0%}", each.bound))
    for name, each in report.ceilings.items():
        moved = "" if each.bandwidth is None else f"{each.bandwidth / 1e9:.1f} GB/s"
        rows.append((f"ceiling, {name}", "", "", f"{each.rate / 1e12:.3f}", "", "", moved))
    return Table(
        "engine calls beside the machine's ceilings (roofline)",
        ("", "call", "GFLOP", "TFLOP/s", "least", "share", "bound by"),
        tuple(rows),
    )


def _throughput(report: Report) -> Table:
    alone = report.throughput[0].rate if report.throughput else 1.0
    return Table(
        "throughput: a closed loop of as many clients as a batch has images",
        ("", "images/s", "ratio", "p50", "p95", "n", "difference from one at a time"),
        tuple(
            (
                row.name,
                f"{row.rate:.3f}",
                f"{row.rate / alone:.2f}",
                seconds(row.waits.median),
                seconds(row.waits.percentile(95)),
                str(len(row.waits.seconds)),
                f"{row.difference:.1e}",
            )
            for row in report.throughput
        ),
    )


def _arrivals(report: Report) -> Table:
    return Table(
        "Poisson arrivals: seconds from a request's arrival to its image",
        ("", "a second", "p50", "p95", "n"),
        tuple(
            (
                each.server,
                f"{each.rate:.2f}",
                seconds(each.waits.median),
                seconds(each.waits.percentile(95)),
                str(len(each.waits.seconds)),
            )
            for each in report.arrivals
        ),
    )


def _unit(value: float | None, unit: str) -> str:
    return "?" if value is None else f"{value:.0f} {unit}"
