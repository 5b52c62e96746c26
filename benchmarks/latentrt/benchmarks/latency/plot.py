"""A report or a sweep as a plot, and as one HTML page that needs no other file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from latentrt.benchmarks.latency.report import STAGES, Report
from latentrt.benchmarks.latency.sweep import Point, Sweep, table
from latentrt.benchmarks.latency.tables import Table, tables, title
from latentrt.benchmarks.page import COLOURS, GREY, document, drawn, folded, paragraph, plot
from latentrt.benchmarks.page import table as html_table
from latentrt.benchmarks.samples import Samples
from latentrt.bundle.publish import write_file

_WIDTH: Final = 8.0
_HEIGHT: Final = 2.5
"""Inches of one panel."""
_MARKERS: Final = "os^Dv<>pP*"

Draw = Callable[[Any], None]


def write_png(found: Report | Sweep, path: Path) -> None:
    """Write the plot. Raises `Unavailable` without matplotlib, `FileError`."""
    draw, size = _figure(found)
    write_file(path, drawn(draw, size, "png"))


def write_html(
    found: Report | Sweep, path: Path, *, more: Sequence[Table | str] = (), value: Any = None
) -> None:
    """Write the plot, the tables, `more` tables and text, and the JSON `value`, by default its own.

    Raises as `write_png`.
    """
    draw, size = _figure(found)
    if isinstance(found, Report):
        name, head, shown = str(found.workload["source"]), title(found), tables(found)
        notes = [f"note: {note}" for note in found.notes]
    else:
        name, head, shown = found.source, _machine(found), (table(found),)
        notes = ["interrupted: points are missing"] if found.interrupted else []
    body = [
        *(paragraph(line, "soft") for line in (*head.splitlines(), *notes)),
        plot(draw, "plot of the tables below", size),
        *map(_part, (*shown, *more)),
        folded("JSON", f"<pre>{escape(json.dumps(value or found.to_json(), indent=1))}</pre>"),
    ]
    write_file(path, document(f"latentrt bench: {name}", body).encode())


def _part(part: Table | str) -> str:
    if isinstance(part, str):
        return f"<pre>{escape(part)}</pre>"
    rows = [[escape(cell) for cell in row] for row in part.rows]
    return f"<h2>{escape(part.title)}</h2>{html_table(part.heads, rows)}"


def _machine(found: Sweep) -> str:
    return f"{found.machine.processor}, {found.machine.cores} cores"


def _figure(found: Report | Sweep) -> tuple[Draw, tuple[float, float]]:
    """What draws on a figure, and the figure's inches."""
    if isinstance(found, Sweep):
        return lambda figure: _sweep(figure, found), (_WIDTH, 1.6 * _HEIGHT)
    panels = [
        draw
        for draw, measured in (
            (_stages, found.rows),
            (_shares, found.rooflines),
            (_throughput, found.throughput),
            (_arrivals, found.arrivals),
        )
        if measured
    ]

    def every(figure: Any) -> None:
        axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for place, draw in zip(axes, panels, strict=True):
            draw(place, found)
        figure.suptitle(title(found), fontsize=8, color=GREY)

    return every, (_WIDTH, _HEIGHT * len(panels))


def _stages(axes: Any, report: Report) -> None:
    names = [name for name in STAGES if name in report.rows][::-1]
    rows = [report.rows[name] for name in names]
    medians = [1e3 * row.median for row in rows]
    axes.barh(names, medians, xerr=_ends(rows, 1e3), color=COLOURS[0], ecolor=GREY, height=0.6)
    for number, (row, value) in enumerate(zip(rows, medians, strict=True)):
        place = (1e3 * row.percentile(90), number)
        axes.annotate(f"  {value:.3g} ms", place, va="center", fontsize=8, color=GREY)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_title("a warm image and its stages: median, p10 to p90, milliseconds")


def _shares(axes: Any, report: Report) -> None:
    names = list(report.rooflines)[::-1]
    shares = [100 * report.rooflines[name].share for name in names]
    axes.barh(names, shares, color=COLOURS[0], height=0.6)
    for number, name in enumerate(names):
        each = report.rooflines[name]
        words = f"  {each.rate / 1e12:.3f} TFLOP/s, bound by {each.bound}"
        axes.annotate(words, (shares[number], number), va="center", fontsize=8, color=GREY)
    axes.set_xlim(0, 1.3 * max(100, *shares))
    axes.set_title("per cent of the roofline")


def _throughput(axes: Any, report: Report) -> None:
    names = [row.name for row in report.throughput]
    rates = [row.rate for row in report.throughput]
    colours = [GREY if row.batch is None else COLOURS[0] for row in report.throughput]
    for bar, rate in zip(axes.bar(names, rates, color=colours, width=0.6), rates, strict=True):
        place = (bar.get_x() + bar.get_width() / 2, rate)
        axes.annotate(f"{rate:.3g}", place, ha="center", va="bottom", fontsize=8, color=GREY)
    axes.margins(y=0.15)
    axes.set_title("images a second, closed loop")


def _arrivals(axes: Any, report: Report) -> None:
    for colour, server in zip(
        COLOURS, dict.fromkeys(a.server for a in report.arrivals), strict=False
    ):
        points = [each for each in report.arrivals if each.server == server]
        rates = [each.rate for each in points]
        for percent, style in ((50, "--"), (95, "-")):
            waits = [each.waits.percentile(percent) for each in points]
            label = f"{server}, p{percent}"
            axes.plot(rates, waits, style, marker="o", markersize=3, color=colour, label=label)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("Poisson arrivals a second")
    axes.set_title("seconds from arrival to image")
    axes.legend(fontsize=8)


def _sweep(figure: Any, found: Sweep) -> None:
    """Images a second by batch; a line for each engine, size and number of steps."""
    axes = figure.subplots()
    lines: dict[tuple[str, str, int], list[Point]] = {}
    for point in found.points:
        if point.samples is not None:
            key = f"{point.engine} {point.precision}", point.size, point.steps
            lines.setdefault(key, []).append(point)
    engines = list(dict.fromkeys(engine for engine, _, _ in lines))
    shapes = list(dict.fromkeys((size, steps) for _, size, steps in lines))
    for (engine, size, steps), points in lines.items():
        marker = _MARKERS[shapes.index((size, steps)) % len(_MARKERS)]
        axes.errorbar(
            [point.batch for point in points],
            [point.rate for point in points],
            yerr=_rates(points),
            marker=marker,
            markersize=4,
            linewidth=1,
            color=COLOURS[engines.index(engine) % len(COLOURS)],
            label=f"{engine}, {size}, {steps} steps",
        )
    batches = sorted({point.batch for points in lines.values() for point in points})
    if lines:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.grid(axis="y")
    axes.set_xlabel("batch, images")
    axes.set_title(f"{found.source}: images a second, median, p10 to p90\n{_machine(found)}")


def _ends(rows: Sequence[Samples], scale: float) -> list[list[float]]:
    """How far p10 and p90 are from the median."""
    low = [scale * (row.median - row.percentile(10)) for row in rows]
    return [low, [scale * (row.percentile(90) - row.median) for row in rows]]


def _rates(points: Sequence[Point]) -> list[list[float]]:
    ends: list[list[float]] = [[], []]
    for point in points:
        assert point.samples is not None
        rates = [point.batch / point.samples.percentile(n) for n in (90, 50, 10)]
        ends[0].append(rates[1] - rates[0])
        ends[1].append(rates[2] - rates[1])
    return ends
