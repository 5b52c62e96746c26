"""What `latentrt compare` found, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from latentrt.benchmarks.numerics.comparison import Comparison, Row, RunComparison
from latentrt.benchmarks.numerics.findings import Findings
from latentrt.benchmarks.numerics.layer_table import LayerRow, LayerTable
from latentrt.bundle.golden import Difference
from latentrt.cli.table import print_table


def print_findings(findings: Findings, *, several: bool) -> None:
    """Tables of what was compared, then of layers, then the verdict.

    One comparison is told row by row; where there may be `several`, each is one row of a table.
    """
    print(findings.provenance)
    if several:
        _print_summary(findings)
    else:
        for comparison in findings.comparisons:
            _print_comparison(comparison, findings)
    for table in findings.layers:
        _print_layers(table)
    if findings.layers and findings.layers[0].own:
        print(
            "PyTorch took the bundle's own weights, as the engine does: a fault in their file shows"
            " in no layer; --checkpoint names weights to trust"
        )
    print(_whole(findings))


def _whole(findings: Findings) -> str:
    if findings.passed:
        return "within tolerance"
    return "FAILED" if findings.within else "OUT OF TOLERANCE"


def _print_summary(findings: Findings) -> None:
    """One row an engine and precision: the worst relative error of each kind, and the picture."""
    names = [row.name for each in findings.comparisons[:1] for row in each.components]
    asked = [name for each in findings.comparisons[:1] for name in each.adherence]
    heads = ("", *names, "step alone", "run", "PSNR dB", "SSIM", *asked, "")
    rows: list[tuple[str, ...]] = []
    for comparison in findings.comparisons:
        groups = (*((row,) for row in comparison.components), comparison.alone, comparison.steps)
        cells = [_worst(group) for group in groups]
        psnr = _marked(f"{comparison.picture_psnr:.1f}", passed=comparison.alike)
        pictures = (psnr, f"{comparison.picture_ssim:.5f}")
        shares = [f"{share:.0%}" for share in comparison.adherence.values()]
        verdict = "ok" if comparison.passed else "FAILED"
        rows.append((comparison.name, *cells, *pictures, *shares, verdict))
    for name in findings.failed:
        rows.append((name, *[""] * (len(heads) - 2), "FAILED"))
    if rows:  # there may be layers alone
        print(f"relative error against {findings.reference}")
        print_table(heads, rows, right=range(1, len(heads) - 1))
    if findings.drawn:
        print(f"percentages: of {findings.drawn} pictures, those that show what was asked for")
    for name, problem in findings.skipped.items():
        print(f"{name}: not compared: {problem}")
    for name, problem in findings.failed.items():
        print(f"{name}: FAILED: {problem}")


def _worst(rows: Sequence[Row]) -> str:
    row = max(rows, key=lambda row: row.difference.relative)
    return _marked(f"{row.difference.relative:.1e}", passed=all(each.passed for each in rows))


def _marked(number: str, *, passed: bool) -> str:
    return number if passed else f"{number} !"


def _print_comparison(comparison: Comparison, findings: Findings) -> None:
    """One row a component and a step, then the pictures."""
    rows = [
        *map(_cells, comparison.components),
        *((f"{row.name} alone", *_cells(row)[1:]) for row in comparison.alone),
        *map(_cells, comparison.steps),
    ]
    _print_table(f"{comparison.name}, against {findings.reference}", ("",), rows)
    for run in comparison.runs:
        good = run.psnr >= comparison.least_psnr
        print(
            f"picture: PSNR {run.psnr:.1f} dB, at least {comparison.least_psnr:.0f}: "
            f"{'ok' if good else 'FAILED'}; SSIM {run.ssim:.5f}{_which(comparison, run)}"
        )
    if comparison.adherence:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in comparison.adherence.items())
        print(f"{findings.drawn} pictures show what was asked for: {shares}")
    bad = comparison.first_bad_step
    if bad is not None:
        print(f"first step out of tolerance: {bad}")


def _which(comparison: Comparison, run: RunComparison) -> str:
    return f"  {run.noise}: {run.prompt}" if len(comparison.runs) > 1 else ""


def _print_layers(table: LayerTable) -> None:
    """One row a layer in the order in which they are computed, then where a fault arises."""
    title = f"{table.component}: {table.engine} {table.precision}, against PyTorch fp32"
    rows = [
        (row.name, row.kind, *_numbers(row.difference, row.tolerance, passed=row.passed))
        for row in table.rows
    ]
    _print_table(f"{title} with {table.weights}", ("layer", "module"), rows)
    for line in verdict(table):
        print(line)


def verdict(table: LayerTable) -> list[str]:
    """How much of a component was compared, and where its faults arise, in words."""
    failed = "" if table.rows else "FAILED: "
    lines = [f"{table.component}: {failed}{table.coverage}"]
    if table.other_weights:
        lines.append(
            f"{table.component}: PyTorch itself is {table.golden:.1e} from the goldens, which were"
            f" made with other weights than {table.weights}"
        )
    if not table.rows:
        return lines
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


def _print_table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    numbers = ("relative", "max abs", "1 - cosine", "tolerance")
    first, last = len(names), len(names) + len(numbers)
    print(title)
    print_table((*names, *numbers, ""), rows, right=range(first, last))


def _cells(row: Row) -> tuple[str, ...]:
    return (row.name, *_numbers(row.difference, row.tolerance, passed=row.passed))


def _numbers(difference: Difference, tolerance: float, *, passed: bool) -> tuple[str, ...]:
    d = difference
    numbers = (d.relative, d.max_abs, max(0.0, 1 - d.cosine), tolerance)
    return (*(f"{n:.1e}" for n in numbers), "ok" if passed else "FAILED")
