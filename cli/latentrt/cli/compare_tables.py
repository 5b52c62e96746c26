"""What `latentrt compare` found, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from latentrt.benchmarks.numerics.comparison import Check, Comparison, relative
from latentrt.benchmarks.numerics.findings import Findings
from latentrt.benchmarks.numerics.layer_table import LayerTable
from latentrt.cli.table import print_table


def print_findings(findings: Findings, *, several: bool) -> None:
    """Tables of engines, then of layers, then the verdict.

    A single engine has a row for each component and step; of several, each has one row.
    """
    print(findings.made_with)
    if several:
        _print_engines(findings)
    for comparison in () if several else findings.comparisons:
        _print_comparison(comparison, findings.reference)
    for table in findings.layers:
        _print_layers(table)
    if findings.layers and findings.layers[0].own:
        print(
            "PyTorch has the bundle's own weights, as the engine does: a fault in their file shows"
            " in no layer; --checkpoint names weights that are right"
        )
    print(findings.verdict)


def _print_engines(findings: Findings) -> None:
    """A row for each engine and precision: the largest errors, and the picture."""
    names = [check.name for each in findings.comparisons[:1] for check in each.components]
    similar = ("CLIP",) if any(each.clip for each in findings.comparisons) else ()
    heads = ("", *names, "step alone", "run", "PSNR dB", "SSIM", *similar, "")
    rows: list[Sequence[str]] = []
    for each in findings.comparisons:
        groups = (*((check,) for check in each.components), each.alone, each.steps)
        psnr = _marked(f"{each.picture_psnr:.1f}", passed=each.alike)
        verdict = "ok" if each.passed else "FAILED"
        clip = () if each.clip is None else (_clip(each.clip),)
        ssim = f"{each.picture_ssim:.5f}"
        rows.append((each.name, *map(_worst, groups), psnr, ssim, *clip, verdict))
    rows += [(name, *[""] * (len(heads) - 2), "FAILED") for name in findings.failed]
    if rows:
        print(f"relative error, compared with {findings.reference}")
        print_table(heads, rows, right=range(1, len(heads) - 1))
    for name, problem in findings.skipped.items():
        print(f"{name}: skipped: {problem}")
    for name, problem in findings.failed.items():
        print(f"{name}: FAILED: {problem}")


def _clip(similarity: tuple[float, float]) -> str:
    """The picture's, and how far it is from that of PyTorch's."""
    ours, theirs = similarity
    return f"{ours:.4f} ({ours - theirs:+.4f})"


def _worst(checks: Sequence[Check]) -> str:
    number = f"{max(map(relative, checks)):.1e}"
    return _marked(number, passed=all(check.passed for check in checks))


def _marked(number: str, *, passed: bool) -> str:
    return number if passed else f"{number} !"


def _print_comparison(comparison: Comparison, reference: str) -> None:
    """A row for each component and step, then the pictures."""
    rows = [
        *((check.name, *_numbers(check)) for check in comparison.components),
        *((f"{check.name} alone", *_numbers(check)) for check in comparison.alone),
        *((check.name, *_numbers(check)) for check in comparison.steps),
    ]
    _print_checks(f"{comparison.name}, compared with {reference}", ("",), rows)
    for run in comparison.runs:
        passed = "ok" if run.psnr >= comparison.least_psnr else "FAILED"
        which = f"  {run.noise}: {run.prompt}" if len(comparison.runs) > 1 else ""
        clip = "" if run.clip is None else f"; CLIP {_clip(run.clip)}"
        print(
            f"picture: PSNR {run.psnr:.1f} dB, at least {comparison.least_psnr:.0f}: {passed};"
            f" SSIM {run.ssim:.5f}{clip}{which}"
        )
    if comparison.first_bad_step is not None:
        print(f"first step out of tolerance: {comparison.first_bad_step}")


def _print_layers(table: LayerTable) -> None:
    """A row for each layer in the order in which they are computed, then where a fault begins."""
    title = f"{table.component}: {table.name}, compared with PyTorch fp32 with {table.weights}"
    rows = [(layer.name, layer.kind, *_numbers(layer)) for layer in table.layers]
    _print_checks(title, ("layer", "module"), rows)
    for line in table.verdict():
        print(f"{table.component}: {line}")


def _print_checks(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    numbers = ("relative", "max abs", "1 - cosine", "tolerance")
    print(title)
    right = range(len(names), len(names) + len(numbers))
    print_table((*names, *numbers, ""), rows, right=right)


def _numbers(check: Check) -> tuple[str, ...]:
    off = check.difference
    numbers = (off.relative, off.max_abs, max(0.0, 1 - off.cosine), check.tolerance)
    return (*(f"{n:.1e}" for n in numbers), "ok" if check.passed else "FAILED")
