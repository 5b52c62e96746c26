"""What `latentrt compare` found, as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from latentrt.benchmarks.comparison import Comparison, Row
from latentrt.benchmarks.findings import Findings
from latentrt.benchmarks.layer_table import LayerRow, LayerTable
from latentrt.bundle.golden import Difference


def print_findings(findings: Findings) -> None:
    """Tables of what was compared, then of layers, then the verdict."""
    for comparison in findings.comparisons:
        _print_comparison(comparison)
    for table in findings.layers:
        _print_layers(table)
    if findings.layers and findings.layers[0].own:
        print(
            "PyTorch took the bundle's own weights, as the engine does: a fault in their file shows"
            " in no layer; --checkpoint names weights to trust"
        )
    print("within tolerance" if findings.passed else "OUT OF TOLERANCE")


def _print_comparison(comparison: Comparison) -> None:
    """One row a component and a step, then the picture."""
    table = _table(f"{comparison.name}, against PyTorch fp32", "")
    for row in comparison.components:
        table.add_row(*_cells(row))
    for row in comparison.alone:
        table.add_row(f"{row.name} alone", *_cells(row)[1:])
    for row in comparison.steps:
        table.add_row(*_cells(row))
    _console().print(table, markup=False)
    good = comparison.picture_psnr >= comparison.least_psnr
    print(
        f"picture: PSNR {comparison.picture_psnr:.1f} dB, at least {comparison.least_psnr:.0f}: "
        f"{'ok' if good else 'FAILED'}; SSIM {comparison.picture_ssim:.5f}"
    )
    bad = comparison.first_bad_step
    if bad is not None:
        print(f"first step out of tolerance: {bad}")


def _print_layers(table: LayerTable) -> None:
    """One row a layer in the order in which they are computed, then where a fault arises."""
    title = f"{table.component}: {table.engine} {table.precision}, against PyTorch fp32"
    rows = _table(f"{title} with {table.weights}", "layer", "module")
    for row in table.rows:
        numbers = _numbers(row.difference, row.tolerance, passed=row.passed)
        rows.add_row(row.name, row.kind, *numbers)
    _console().print(rows, markup=False)
    for line in verdict(table):
        print(line)


def verdict(table: LayerTable) -> list[str]:
    """Where a component's faults arise, in words."""
    lines: list[str] = []
    if table.other_weights:
        lines.append(
            f"{table.component}: PyTorch itself is {table.golden:.1e} from the goldens, which were"
            f" made with other weights than {table.weights}"
        )
    if not table.origins:
        worst = max(table.rows, key=lambda row: row.difference.relative)
        return [
            *lines,
            f"{table.component}: {len(table.rows)} layers within tolerance, the worst"
            f" {worst.name} ({worst.difference.relative:.1e})",
        ]
    first, *others = table.origins
    lines.append(f"{table.component}: first layer out of tolerance: {_described(first)}")
    lines += [f"{table.component}: and, from no fault before it: {_described(o)}" for o in others]
    return lines


def _described(row: LayerRow) -> str:
    return (
        f"{row.name} ({row.kind}), {row.difference.relative:.1e}, {row.tolerance:.1e} allowed;"
        f" the layers before it agree; it reads {', '.join(row.tensors)}"
    )


def _console() -> Console:
    # A pipe has no width, and cut cells would be no numbers.
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _table(title: str, *names: str) -> Table:
    table = Table(title=title, box=None)
    for name in names:
        table.add_column(name, overflow="fold")
    for heading in ("relative", "max abs", "1 - cosine", "tolerance"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    return table


def _cells(row: Row) -> tuple[str, ...]:
    return (row.name, *_numbers(row.difference, row.tolerance, passed=row.passed))


def _numbers(difference: Difference, tolerance: float, *, passed: bool) -> tuple[str, ...]:
    d = difference
    numbers = (d.relative, d.max_abs, max(0.0, 1 - d.cosine), tolerance)
    return (*(f"{n:.1e}" for n in numbers), "ok" if passed else "FAILED")
