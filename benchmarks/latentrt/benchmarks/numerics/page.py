"""What `latentrt compare` found, as an HTML page."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.numerics.comparison import Check, Comparison, RunComparison, relative
from latentrt.benchmarks.numerics.findings import Findings
from latentrt.benchmarks.numerics.layer_table import LayerTable
from latentrt.benchmarks.page import (
    COLOURS,
    GREY,
    bad,
    document,
    folded,
    image,
    paragraph,
    plot,
    table,
)
from latentrt.runtime.image import to_picture

AMPLIFIED: Final = 16
"""How many times brighter differences are shown than they are."""
_FEW: Final = 24
"""Up to this many points, each has a marker."""


def page(findings: Findings) -> str:
    """The page; raises `Unavailable` without matplotlib."""
    found = {
        "within tolerance": "Everything is within its tolerance.",
        "nothing was compared": "Nothing was compared.",
        "FAILED": "An engine failed.",
    }.get(findings.verdict, findings.verdict)
    parts = [
        paragraph(f"Compared with {findings.reference}.", "soft"),
        paragraph(f"{findings.made_with}.", "soft"),
        paragraph(found, "" if findings.passed else "bad"),
        *_engines(findings),
        *_steps(findings.comparisons),
        *_pictures(findings.comparisons),
        *_layers(findings.layers),
    ]
    return document(f"{findings.bundle['name']}: accuracy", parts)


def _engines(findings: Findings) -> Iterator[str]:
    """A row for each engine and precision."""
    if findings.comparisons or findings.failed:
        yield "<h2>Engines</h2>"
        yield paragraph(
            "Relative error, ||a - b|| / ||b||, the worst of all runs. A step alone is computed"
            " from PyTorch's latents and prompt states. The run is our own; its errors add up."
        )
        names = [check.name for each in findings.comparisons[:1] for check in each.components]
        heads = ["engine", *names, "step alone", "run", "PSNR, dB", "SSIM", ""]
        empty = [""] * (len(heads) - 2)
        failed = [[escape(name), *empty, bad("FAILED")] for name in findings.failed]
        yield table(heads, [*map(_summary, findings.comparisons), *failed])
    for name, problem in findings.skipped.items():
        yield paragraph(f"{name} was skipped: {problem}")
    for name, problem in findings.failed.items():
        yield paragraph(f"{name} failed: {problem}", "bad")


def _summary(comparison: Comparison) -> list[str]:
    groups = [*([check] for check in comparison.components), comparison.alone, comparison.steps]
    psnr = f"{comparison.picture_psnr:.1f}"
    return [
        escape(comparison.name),
        *map(_error, groups),
        psnr if comparison.alike else bad(psnr),
        f"{comparison.picture_ssim:.5f}",
        "ok" if comparison.passed else bad("FAILED"),
    ]


def _error(checks: Sequence[Check]) -> str:
    """The largest relative error, marked where any is out of tolerance."""
    text = f"{max(map(relative, checks)):.1e}"
    return text if all(check.passed for check in checks) else bad(text)


def _numbers(check: Check) -> list[str]:
    return [_error([check]), f"{check.difference.max_abs:.1e}", f"{check.tolerance:.1e}"]


def _steps(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """The error of every step, alone and in the run."""
    if not comparisons:
        return
    lines: list[_Line] = []
    for colour, each in zip(itertools.cycle(COLOURS), comparisons, strict=False):
        lines.append(_Line(f"{each.name}, run", each.steps, colour))
        lines.append(_Line(f"{each.name}, step alone", each.alone, colour, "--"))
    yield "<h2>Steps</h2>"
    yield paragraph("Relative error of the latent after each step.")
    yield _error_plot("relative error by step", "step", lines)
    numbers = ("relative", "max abs", "tolerance")
    heads = ["step", *(f"alone: {name}" for name in numbers), *(f"run: {n}" for n in numbers)]
    for comparison in comparisons:
        pairs = zip(comparison.alone, comparison.steps, strict=True)
        rows = [[escape(alone.name), *_numbers(alone), *_numbers(run)] for alone, run in pairs]
        yield folded(comparison.name, table(heads, rows))


def _pictures(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """For every run PyTorch's picture, each engine's, and their differences."""
    if not comparisons:
        return
    yield "<h2>Pictures</h2>"
    yield paragraph(
        f"Below each picture is its difference from PyTorch's, {AMPLIFIED} times as bright. Black"
        " is equal."
    )
    for runs in zip(*(comparison.runs for comparison in comparisons), strict=True):
        yield f"<h3>{escape(runs[0].prompt)}</h3>"
        yield paragraph(f"noise: {runs[0].noise}", "soft")
        yield f'<div class="images"><figure>{_image(runs[0].reference, "PyTorch")}'
        yield "<figcaption>PyTorch</figcaption></figure>"
        for comparison, run in zip(comparisons, runs, strict=True):
            yield _picture(comparison.name, run)
        yield "</div>"


def _picture(name: str, run: RunComparison) -> str:
    off = np.abs(run.picture - run.reference) * AMPLIFIED - 1  # black is -1
    images = _image(run.picture, name) + _image(off, f"difference of {name}")
    caption = f"{escape(name)}<br>PSNR {run.psnr:.1f} dB<br>SSIM {run.ssim:.5f}"
    return f"<figure>{images}<figcaption>{caption}</figcaption></figure>"


def _image(pixels: NDArray[np.float32], description: str) -> str:
    """Pixels [3, h, w] in [-1, 1], clipped; NaN is white."""
    buffer = io.BytesIO()
    to_picture(np.nan_to_num(pixels, nan=1.0)).save(buffer, "PNG")
    return image(buffer.getvalue(), description)


def _layers(tables: Sequence[LayerTable]) -> Iterator[str]:
    """A plot for each component, and each engine's layers."""
    if not tables:
        return
    yield "<h2>Layers</h2>"
    yield paragraph(
        "Relative error of every layer's output, in the order in which layers are computed. PyTorch"
        f" computed with {tables[0].weights}."
    )
    ordered = sorted(tables, key=lambda each: each.component)
    for component, group in itertools.groupby(ordered, key=lambda each: each.component):
        found = list(group)
        yield f"<h3>{escape(component)}</h3>"
        lines = [
            _Line(each.name, each.layers, colour)
            for colour, each in zip(itertools.cycle(COLOURS), found, strict=False)
            if each.layers
        ]
        yield _error_plot(f"relative error by layer of {component}", "layer", lines)
        for each in found:
            for line in each.verdict():
                yield paragraph(f"{each.name}: {line}", "" if each.passed else "bad")
            yield folded(each.name, _layer_rows(each))


def _layer_rows(found: LayerTable) -> str:
    rows = [[escape(each.name), escape(each.kind), *_numbers(each)] for each in found.layers]
    return table(["layer", "module", "relative", "max abs", "tolerance"], rows)


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of a plot of errors."""

    name: str
    checks: Sequence[Check]
    colour: str
    style: str = "-"


def _error_plot(title: str, across: str, lines: Sequence[_Line]) -> str:
    """Errors on a logarithmic scale, and their tolerances.

    An error of zero, or one that is not finite, leaves a gap.
    """
    if not lines:
        return ""
    tolerances = dict.fromkeys(tuple(check.tolerance for check in line.checks) for line in lines)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for line in lines:
            errors = np.array([relative(check) for check in line.checks])
            errors[~(np.isfinite(errors) & (errors > 0))] = np.nan
            marker = "o" if len(errors) <= _FEW else ""
            axes.plot(errors, line.style, marker=marker, ms=3, lw=1.3, color=line.colour,
                      label=line.name)  # fmt: skip
        for number, each in enumerate(tolerances):
            label = None if number else "tolerance"
            axes.plot(each, ":", color=GREY, label=label)
        axes.set_yscale("log")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")
        axes.set_title(title)
        axes.set_xlabel(across)
        figure.legend(loc="outside right upper")

    return plot(draw, title)
