"""The README's table of how far engines are from PyTorch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from latentrt.benchmarks.cells import decibels, markdown_table


def compare_table(found: Mapping[str, Any]) -> str:
    """How far the engines are from PyTorch's fp32, beside what they are allowed.

    `found` is what `latentrt compare --json` wrote.
    """
    compared = found["comparisons"]
    names = [row["name"] for each in compared[:1] for row in each["components"]]
    heads = ["", *names, "a step alone", "a step of the run", "PSNR", "SSIM"]
    judged = [" / ".join(each["adherence"]) for each in compared[:1] if each.get("adherence")]
    heads += [f"of {found['drawn']} pictures, right in {asked}" for asked in judged]
    failed = [
        (f"`{name}` failed: {problem}", *[""] * (len(heads) - 1))
        for name, problem in found["failed"].items()
    ]
    return markdown_table(heads, [*(_comparison(each) for each in compared), *failed])


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
    shares = found.get("adherence") or {}
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
    ssim, least = found["picture_ssim"], decibels(found["least_psnr"])
    if ssim is None:
        return f"not finite / {least}", "not finite"
    return f"{decibels(found['picture_psnr'])} / {least}", f"{ssim:.5f}"
