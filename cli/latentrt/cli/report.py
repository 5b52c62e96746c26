"""Comparisons as a table."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from latentrt.benchmarks.compare import Comparison, Row


def print_comparison(comparison: Comparison) -> None:
    """One row a component and a step, then the picture and the verdict."""
    console = Console()
    used = {f"{name} {comparison.precisions[c]}" for c, name in comparison.engines.items()}
    table = Table(title=f"{', '.join(sorted(used))}, against PyTorch fp32", box=None)
    table.add_column("")
    for heading in ("relative", "max abs", "1 - cosine", "tolerance"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for row in (*comparison.components, *comparison.steps):
        table.add_row(*_cells(row))
    good = comparison.picture_psnr >= comparison.least_psnr
    console.print(table)
    print(
        f"picture: PSNR {comparison.picture_psnr:.1f} dB, at least {comparison.least_psnr:.0f}: "
        f"{'ok' if good else 'FAILED'}"
    )
    bad = comparison.first_bad_step
    if bad is not None:
        print(f"first step out of tolerance: {bad}")
    print("within tolerance" if comparison.passed else "OUT OF TOLERANCE")


def _cells(row: Row) -> tuple[str, ...]:
    d = row.difference
    numbers = (d.relative, d.max_abs, max(0.0, 1 - d.cosine), row.tolerance)
    return (row.name, *(f"{n:.1e}" for n in numbers), "ok" if row.passed else "FAILED")
