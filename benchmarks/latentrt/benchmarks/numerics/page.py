"""What was found as one HTML page that needs nothing else: tables, charts, and the pictures."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentrt.benchmarks.numerics.chart import Chart, Series
from latentrt.benchmarks.numerics.comparison import Comparison, Row, RunComparison
from latentrt.benchmarks.numerics.findings import Findings
from latentrt.benchmarks.numerics.layer_table import LayerRow, LayerTable
from latentrt.benchmarks.page import document, folded, table
from latentrt.runtime.image import to_picture

AMPLIFIED: Final = 16
"""How much brighter differences are shown than they are."""


def page(findings: Findings) -> str:
    """The page, for light and dark screens."""
    title = f"{findings.provenance.bundle}: distance from PyTorch"
    parts = [
        f'<p class="soft">Against {escape(findings.reference)}.</p>',
        f'<p class="soft">{escape(str(findings.provenance))}.</p>',
        f"<p{'' if findings.passed else ' class=bad'}>{_verdict(findings)}</p>",
        *_comparisons(findings),
        *_steps(findings.comparisons),
        *_pictures(findings.comparisons),
        *_adherence(findings),
        *_layers(findings.layers),
    ]
    return document(title, parts)


def _verdict(findings: Findings) -> str:
    if not findings.compared:
        return "Nothing was compared."
    if findings.passed:
        return "Everything is within its tolerance."
    return "An engine failed." if findings.within else "OUT OF TOLERANCE"


def _comparisons(findings: Findings) -> Iterator[str]:
    """One row an engine and precision."""
    if findings.comparisons or findings.failed:
        yield "<h2>Engines</h2>"
        yield (
            "<p>Relative error, ||a - b|| / ||b||, the worst of all runs. A step alone is made from"
            " the reference's own latents and prompts; the run is ours, whose errors add up.</p>"
        )
        names = [row.name for each in findings.comparisons[:1] for row in each.components]
        heads = ["engine", *names, "step alone", "run", "PSNR, dB", "SSIM", ""]
        failed = [
            [escape(name), *[""] * (len(heads) - 2), _bad("FAILED")] for name in findings.failed
        ]
        yield table(heads, [*map(_summary, findings.comparisons), *failed])
    for name, problem in findings.skipped.items():
        yield f"<p>{escape(name)} was not compared: {escape(problem)}</p>"
    for name, problem in findings.failed.items():
        yield f'<p class="bad">{escape(name)} failed: {escape(problem)}</p>'


def _adherence(findings: Findings) -> Iterator[str]:
    """How many pictures show what was asked for, by engine."""
    if not (findings.drawn and findings.comparisons):
        return
    yield "<h2>Prompt adherence</h2>"
    yield (
        f"<p>How many of {findings.drawn} pictures show the colour, the background, the position"
        " and the shape that was asked for, and all four. Every engine has the same prompts and"
        " noise.</p>"
    )
    rows = [
        [escape(each.name), *(f"{share:.0%}" for share in each.adherence.values())]
        for each in findings.comparisons
    ]
    yield table(["engine", *findings.comparisons[0].adherence], rows)


def _summary(comparison: Comparison) -> list[str]:
    groups: list[Sequence[Row]] = [[row] for row in comparison.components]
    cells = [_error(group) for group in (*groups, comparison.alone, comparison.steps)]
    psnr = f"{comparison.picture_psnr:.1f}"
    return [
        escape(comparison.name),
        *cells,
        psnr if comparison.alike else _bad(psnr),
        f"{comparison.picture_ssim:.5f}",
        "ok" if comparison.passed else _bad("FAILED"),
    ]


def _bad(text: str) -> str:
    return f'<span class="bad">{text}</span>'


def _error(rows: Sequence[Row]) -> str:
    worst = max(rows, key=lambda row: row.difference.relative)
    text = f"{worst.difference.relative:.1e}"
    return text if all(row.passed for row in rows) else _bad(text)


def _held(row: Row) -> tuple[str, str]:
    """An error, and what was allowed."""
    return _error([row]), f"{row.tolerance:.1e}"


def _steps(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Error by step: alone and in our own run."""
    if not comparisons:
        return
    series: list[Series] = []
    for colour, each in enumerate(comparisons):
        series.append(Series(f"{each.name}, run", _relative(each.steps), colour))
        series.append(Series(f"{each.name}, step alone", _relative(each.alone), colour, True))
    places = [row.name for row in comparisons[0].steps]
    chart = Chart("relative error of the latents by step", "step", places, series)
    yield "<h2>Steps</h2><p>Relative error of the latents after each step.</p>"
    yield _figure(chart)
    for comparison in comparisons:
        heads = ["step", "alone", "tolerance", "run", "tolerance"]
        pairs = zip(comparison.alone, comparison.steps, strict=True)
        rows = [[a.name, *_held(a), *_held(b)] for a, b in pairs]
        yield folded(comparison.name, table(heads, rows))


def _pictures(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """For every run the reference's picture, each engine's, and what they differ in."""
    if not comparisons:
        return
    yield "<h2>Pictures</h2>"
    yield (
        f"<p>Below each picture its difference from PyTorch's, {AMPLIFIED} times as bright as it"
        " is; black is equal.</p>"
    )
    for runs in zip(*(comparison.runs for comparison in comparisons), strict=True):
        yield f"<h3>{escape(runs[0].prompt)}</h3>"
        yield f'<p class="soft">noise: {escape(runs[0].noise)}</p><div class="pictures">'
        yield f"<figure>{_image(runs[0].reference, 'PyTorch')}"
        yield "<figcaption>PyTorch</figcaption></figure>"
        for comparison, run in zip(comparisons, runs, strict=True):
            yield _picture(comparison.name, run)
        yield "</div>"


def _picture(name: str, run: RunComparison) -> str:
    off = np.abs(run.picture - run.reference) * AMPLIFIED - 1  # black is -1
    images = _image(run.picture, name) + _image(off, f"difference of {name}")
    caption = f"{escape(name)}<br>PSNR {run.psnr:.1f} dB<br>SSIM {run.ssim:.5f}"
    return f"<figure>{images}<figcaption>{caption}</figcaption></figure>"


def _image(pixels: NDArray[np.float32], described: str) -> str:
    """Pixels [3, h, w] in [-1, 1], clipped, as an image inside the page; NaN is white."""
    buffer = io.BytesIO()
    picture: Image.Image = to_picture(np.nan_to_num(pixels, nan=1.0))
    picture.save(buffer, "PNG")
    content = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(described)}" src="data:image/png;base64,{content}">'


def _layers(tables: Sequence[LayerTable]) -> Iterator[str]:
    """A chart a component, and each engine's layers."""
    if not tables:
        return
    yield "<h2>Layers</h2>"
    yield (
        "<p>Relative error of every layer's output, in the order in which layers are computed."
        f" PyTorch computed with {escape(tables[0].weights)}.</p>"
    )
    for component, group in itertools.groupby(
        sorted(tables, key=lambda each: each.component), key=lambda each: each.component
    ):
        yield from _component(component, list(group))


def _component(component: str, tables: Sequence[LayerTable]) -> Iterator[str]:
    yield f"<h3>{escape(component)}</h3>"
    matched = [each for each in tables if each.rows]
    if matched:
        yield _figure(_layer_chart(component, matched))
    for each in tables:
        yield from _engine_layers(each)


def _layer_chart(component: str, tables: Sequence[LayerTable]) -> Chart:
    series = [
        Series(f"{each.engine} {each.precision}", _relative(each.rows), colour)
        for colour, each in enumerate(tables)
    ]
    # Of several precisions none of the tolerances is everybody's.
    limits = {each.rows[0].tolerance for each in tables}
    limit = limits.pop() if len(limits) == 1 else None
    places = [row.name for row in tables[0].rows]
    return Chart(f"relative error by layer of {component}", "layer", places, series, limit)


def _engine_layers(found: LayerTable) -> Iterator[str]:
    """How much of an engine was compared, where faults arise, and the layers."""
    name = f"{found.engine} {found.precision}"
    kind = "soft" if found.rows else "bad"
    yield f'<p class="{kind}">{escape(name)}: {found.coverage}</p>'
    for origin in found.origins:
        yield (
            f'<p class="bad">{escape(name)}: a fault arises in {escape(origin.name)};'
            f" it reads {escape(', '.join(origin.tensors))}</p>"
        )
    heads = ["layer", "module", "relative", "max abs", "tolerance"]
    yield folded(name, table(heads, [_layer(row) for row in found.rows]))


def _layer(row: LayerRow) -> list[str]:
    relative = f"{row.difference.relative:.1e}"
    return [
        escape(row.name),
        escape(row.kind),
        relative if row.passed else _bad(relative),
        f"{row.difference.max_abs:.1e}",
        f"{row.tolerance:.1e}",
    ]


def _relative(rows: Iterable[Row | LayerRow]) -> list[float]:
    return [row.difference.relative for row in rows]


def _figure(chart: Chart) -> str:
    return f'{chart.legend()}<div class="wide">{chart.svg()}</div>'
