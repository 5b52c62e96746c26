"""The commands that change and compare weights: merge, diff, extract."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from latentrt.cli.options import JsonOption

CheckpointArgument = Annotated[
    Path, typer.Argument(help="A diffusers folder, or a single .safetensors file.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what is there.")]


def merge(
    a: CheckpointArgument,
    b: CheckpointArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="What to write; of A's kind.")],
    alpha: Annotated[float, typer.Option(help="The share of B, from 0 to 1.")] = 0.5,
    minus: Annotated[
        Path | None,
        typer.Option("--add-difference", metavar="C", help="Add alpha * (B - C) to A instead."),
    ] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Merge two checkpoints by weight: (1 - alpha) * A + alpha * B, in fp32, rounded once."""
    from latentrt.cli.merge import run

    notes = run(a, b, minus, alpha, output, force=force, quiet=as_json)
    if as_json:
        print(json.dumps({"checkpoint": str(output), "notes": notes}))
        return
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(output)


def diff(a: CheckpointArgument, b: CheckpointArgument, as_json: JsonOption = False) -> None:
    """Compare two checkpoints' weights, by component and by layer."""
    from latentrt.cli.diff import compare_weights, print_comparison

    found = compare_weights(a, b, quiet=as_json)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_comparison(found)


def extract(
    tuned: CheckpointArgument,
    base: CheckpointArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="The LoRA to write.")],
    rank: Annotated[int, typer.Option(help="The rank of every layer.")] = 16,
    dtype: Annotated[str, typer.Option(help="How factors are stored: fp32, fp16, bf16.")] = "fp16",
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Extract a LoRA from the difference of two checkpoints, and measure its error."""
    from latentrt.cli.extract import print_extraction, run

    found = run(tuned, base, output, rank, dtype, force=force, quiet=as_json)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print_extraction(found)
