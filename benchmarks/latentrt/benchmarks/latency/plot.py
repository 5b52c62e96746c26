"""A benchmark's report as a picture, and as one page that needs nothing else."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from latentrt.benchmarks.latency.report import STAGES, Report
from latentrt.benchmarks.latency.sections import Section, compared, sections, used
from latentrt.benchmarks.latency.verdict import Verdict
from latentrt.benchmarks.page import document, folded, table
from latentrt.bundle.errors import Unavailable
from latentrt.bundle.publish import write_file

_MISSING: Final = "plots: matplotlib is not installed; pip install 'latentrt[bench]'"
_BLUE, _GREY, _ORANGE = "#3b6ea8", "#9aa3ad", "#c8702a"
_WIDTH: Final = 8.0
_HEIGHT: Final = 2.6
"""Inches of one panel."""


def check_installed() -> None:
    """Raise `Unavailable` without matplotlib, which is not loaded: it would count as memory."""
    if importlib.util.find_spec("matplotlib") is None:
        raise Unavailable(_MISSING)


def write_png(report: Report, path: Path) -> None:
    """Write the plots; raises `Unavailable` without matplotlib, `FileError`."""
    write_file(path, _drawn(report, "png"))


def write_html(
    report: Report,
    verdicts: Sequence[Verdict],
    path: Path,
    *,
    differences: Sequence[str] = (),
    standings: str = "",
) -> None:
    """Write the plots, the tables and the whole report; raises as `write_png` does.

    `differences` are what else is not as in the report of the verdicts, `standings` a contest's, as
    they are printed.
    """
    drawn = _drawn(report, "svg").decode()
    drawn = drawn[drawn.index("<svg") :]
    parts = [
        f'<p class="soft">{escape(_where(report))}</p>',
        f'<figure class="plot">{drawn}</figure>',
        *(f'<p class="soft">note: {escape(note)}</p>' for note in report.notes),
        *map(_shown, sections(report)),
    ]
    if standings:
        parts.append(f"<h2>in turns with others</h2><pre>{escape(standings)}</pre>")
    if verdicts:
        parts.append(_shown(compared(verdicts, "the earlier report")))
    parts += [f'<p class="soft">not the same: {escape(line)}</p>' for line in differences]
    whole = escape(json.dumps(report.to_json(), indent=1))
    parts.append(folded("The whole report", f"<pre>{whole}</pre>"))
    write_file(path, document(f"latentrt bench: {report.subject['source']}", parts).encode())


def _shown(section: Section) -> str:
    rows = [[escape(cell) for cell in row] for row in section.rows]
    return f"<h2>{escape(section.title)}</h2>{table(section.heads, rows)}"


def _where(report: Report) -> str:
    return f"{used(report)}; {report.machine.processor}, {report.machine.cores} cores"


def _drawn(report: Report, form: str) -> bytes:
    try:
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise Unavailable(_MISSING) from error
    panels: list[Callable[[Any, Report], None]] = [_stages]
    panels += [
        draw
        for draw, has in (
            (_limits, report.limits),
            (_served, report.served),
            (_arrivals, report.arrivals),
        )
        if has
    ]
    figure = figures.Figure(figsize=(_WIDTH, _HEIGHT * len(panels)), layout="constrained")
    places = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for place, draw in zip(places, panels, strict=True):
        draw(place, report)
        place.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{report.subject['source']}, {_where(report)}", fontsize=9)
    content = io.BytesIO()
    # No date in it, and no metadata that name other places.
    fields = ("Creator", "Date", "Format", "Type") if form == "svg" else ()
    metadata = dict.fromkeys(fields)
    figure.savefig(content, format=form, dpi=150, metadata=metadata)
    return content.getvalue()


def _stages(place: Any, report: Report) -> None:
    names = [name for name in STAGES if name in report.rows][::-1]
    middle = [1e3 * report.rows[n].percentile(50) for n in names]
    late = [1e3 * report.rows[n].percentile(99) for n in names]
    place.barh(names, late, color=_GREY, height=0.35, label="p99")
    place.barh(names, middle, color=_BLUE, height=0.6, label="p50")
    for number, value in enumerate(middle):
        place.annotate(f" {value:.3g} ms", (late[number], number), va="center", fontsize=8)
    place.set_xscale("log")
    place.margins(x=0.15)
    place.set_title("a warm picture and its parts, milliseconds", loc="left", fontsize=9)
    place.legend(frameon=False, fontsize=8, loc="lower right")


def _limits(place: Any, report: Report) -> None:
    names = list(report.limits)[::-1]
    shares = [100 * report.limits[name].share for name in names]
    place.barh(names, shares, color=_BLUE, height=0.6)
    for number, name in enumerate(names):
        limit = report.limits[name]
        words = f" {limit.rate / 1e12:.3f} TFLOP/s, bound by {limit.bound}"
        place.annotate(words, (shares[number], number), va="center", fontsize=8)
    # A call may be faster than what was measured as the best.
    place.set_xlim(0, max(100, *shares))
    place.set_title("per cent of what the machine can do", loc="left", fontsize=9)


def _served(place: Any, report: Report) -> None:
    names = [row.name for row in report.served]
    middle = [row.median for row in report.served]
    ends = [
        [row.median - row.least for row in report.served],
        [row.greatest - row.median for row in report.served],
    ]
    colours = [_GREY if row.batch is None else _BLUE for row in report.served]
    place.bar(names, middle, yerr=ends, color=colours, width=0.6, capsize=3)
    title = "pictures a second, requests served together by U-Net rows a call"
    place.set_title(title, loc="left", fontsize=9)


def _arrivals(place: Any, report: Report) -> None:
    for curve, colour in zip(report.arrivals, (_GREY, _ORANGE), strict=False):
        rates = [point.rate for point in curve.points]
        late = [point.p95 for point in curve.points]
        bound = f"{curve.bound} " if curve.bound else ""
        words = f"{curve.server}: {bound}{curve.goodput:.2f} a second"
        place.plot(rates, late, marker="o", markersize=3, color=colour, label=words)
    place.set_ylim(bottom=0)
    place.set_xlabel("arrivals a second", fontsize=8)
    place.set_title("95 of 100 requests wait at most, seconds", loc="left", fontsize=9)
    place.legend(frameon=False, fontsize=8)
