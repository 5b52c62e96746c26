"""The work of `latentrt diff`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from latentrt.bundle.errors import CheckpointError
from latentrt.cli.progress import Bars
from latentrt.cli.table import print_table
from latentrt.weights.difference import Summary, TensorDifference, diff
from latentrt.weights.source import TensorSource
from latentrt.weights.tensor_sources import stored_tensors, tensor_sources

_BLOCK: Final = re.compile(
    r"(down_blocks\.\d+|mid_block|up_blocks\.\d+|(encoder|decoder)\.(down_blocks\.\d+|mid_block"
    r"|up_blocks\.\d+)|text_model\.encoder\.layers\.\d+"
    r"|model\.diffusion_model\.(input_blocks\.\d+|middle_block|output_blocks\.\d+)"
    r"|first_stage_model\.(encoder|decoder)|cond_stage_model|conditioner\.embedders\.\d+)\..*",
    re.ASCII,
)
_REST: Final = "the rest"
_SHOWN: Final = 10
"""Problems that the table lists."""


def compare_weights(a: Path, b: Path, *, quiet: bool) -> dict[str, Any]:
    """Differences by component and block; raises `CheckpointError` where nothing compares."""
    first, second = _sources(a, b)
    shared = [folder for folder in first if folder in second]
    if not shared:
        raise CheckpointError(b, f"has none of the components of {a}")
    components: dict[str, Any] = {}
    with Bars(Console(stderr=True), quiet=quiet) as bars:
        total = sum(len({*first[folder], *second[folder]}) for folder in shared)
        done = 0
        for folder in shared:
            found: list[TensorDifference] = []
            for difference in diff(first[folder], second[folder]):
                found.append(difference)
                done += 1
                bars("diff", done, total)
            components[folder] = {
                **asdict(Summary.of(found)),
                "blocks": {block: asdict(Summary.of(of)) for block, of in _by_block(found).items()},
                "problems": {d.name: d.problem for d in found if d.problem},
            }
    alone = {"only_in_a": set(first) - set(second), "only_in_b": set(second) - set(first)}
    return {
        "components": components,
        **{name: sorted(folders) for name, folders in alone.items()},
    }


def _sources(a: Path, b: Path) -> tuple[dict[str, TensorSource], dict[str, TensorSource]]:
    if a.is_file() and b.is_file():  # as they are: their architecture need not be known
        return {"file": stored_tensors(a)}, {"file": stored_tensors(b)}
    return tensor_sources(a), tensor_sources(b)


def _by_block(found: Iterable[TensorDifference]) -> dict[str, list[TensorDifference]]:
    blocks: dict[str, list[TensorDifference]] = {}
    for difference in found:
        match = _BLOCK.fullmatch(difference.name)
        blocks.setdefault(match[1] if match else _REST, []).append(difference)
    return blocks


def print_comparison(found: Mapping[str, Any]) -> None:
    """As a table: a line for each component, and below it one for each block that differs."""
    rows: list[tuple[str, ...]] = []
    for folder, component in found["components"].items():
        rows.append((folder, *_cells(component)))
        changed = {n: s for n, s in component["blocks"].items() if s["changed_tensors"]}
        rows += [(f"  {name}", *_cells(summary)) for name, summary in changed.items()]
    heads = ("", "tensors", "differ", "parameters", "share", "relative", "largest")
    print_table(heads, rows, right=(1, 2, 3, 4, 5, 6))
    for folder, component in found["components"].items():
        problems = list(component["problems"].items())
        for name, problem in problems[:_SHOWN]:
            print(f"{folder}: {name}: {problem}")
        if len(problems) > _SHOWN:
            print(f"{folder}: {len(problems) - _SHOWN} more are in one checkpoint alone or differ")
    for side in ("a", "b"):
        for folder in found[f"only_in_{side}"]:
            print(f"{folder}: in {side.upper()} alone")


def _cells(summary: Mapping[str, Any]) -> tuple[str, ...]:
    share = summary["changed"] / summary["count"] if summary["count"] else 0.0
    return (
        str(summary["tensors"]),
        str(summary["changed_tensors"]),
        str(summary["count"]),
        f"{100 * share:.1f} %",
        f"{summary['relative']:.2e}",
        f"{summary['largest']:.2e}",
    )
