"""The README's table of how fast models/shapes is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latentrt.benchmarks.cells import markdown_table, seconds_of
from latentrt.benchmarks.latency.report import error_beside


def bench_table(found: Mapping[str, Any]) -> str:
    """How fast every row is, and below it what both servers bear.

    `found` is what `latentrt bench --json` wrote.
    """
    rows = [
        (
            name,
            *(seconds_of(row[p]) for p in ("p50", "p90", "p99")),
            f"{row['count']}{'' if row['stable'] else ', unstable'}",
            _share(found, name),
            error_beside(name, found["errors"], found["picture_psnr"]),
        )
        for name, row in found["rows"].items()
    ]
    for start in found["cold"]:
        # One that failed is no 0.0 ms; the notes of the report say why.
        total = sum(start[part] for part in ("imports", "opens", "engines", "picture"))
        shown = "failed" if start["problem"] else seconds_of(total)
        name = f"first picture of a fresh process, {_engines_were(start)}"
        rows.append((name, shown, "", "", "1", "", ""))
    table = markdown_table(
        ("", "p50", "p90", "p99", "runs", "of what the machine can do", "error"), rows
    )
    return "\n\n".join(filter(None, (table, _goodputs(found))))


def _engines_were(start: Mapping[str, Any]) -> str:
    if start["hit"] is None:
        return f"{start['cache']} cache"
    return f"engines {'loaded' if start['hit'] else 'built'}"


def _goodputs(found: Mapping[str, Any]) -> str:
    """What both servers bear, and how many times as much the batcher does; nothing if not asked."""
    said = [f"{_goodput(each)} {each['server']}" for each in found["arrivals"]]
    gain = found["goodput_gain"]
    if gain is not None:
        said.append(f"{_within(gain['value'], gain)} times as many batched")
    words = "Arrivals a second of which 95 of 100 have their picture within 4 times what one takes"
    return f"{words}: {'; '.join(said)}." if said else ""


def _goodput(curve: Mapping[str, Any]) -> str:
    if curve["bound"]:
        return f"{curve['bound']} {curve['goodput']:.2f}"
    return _within(curve["goodput"], curve)


def _within(value: float, ends: Mapping[str, Any]) -> str:
    return f"{value:.2f} ({ends['low']:.2f} to {ends['high']:.2f})"


def _share(found: Mapping[str, Any], row: str) -> str:
    limit = found["limits"].get(row.removesuffix(" call")) if row.endswith(" call") else None
    return "" if limit is None else f"{limit['share']:.0%}, {limit['rate'] / 1e12:.3f} TFLOP/s"
