"""The work of `latentrt extract`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from latentrt.bundle.errors import InputError
from latentrt.bundle.publish import publishing_file
from latentrt.cli.progress import Bars
from latentrt.cli.table import print_table
from latentrt.weights.extraction import extract
from latentrt.weights.tensor_sources import tensor_sources

_DTYPES: Final = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_SHOWN: Final = 5
"""Layers with the largest error that are listed."""


def run(
    tuned: Path, base: Path, output: Path, rank: int, dtype: str, *, force: bool, quiet: bool
) -> dict[str, Any]:
    """Write the LoRA whole or not at all; returns its errors."""
    if dtype not in _DTYPES:
        raise InputError("dtype", f"one of {', '.join(_DTYPES)}", repr(dtype))
    first, second = tensor_sources(tuned), tensor_sources(base)
    with Bars(Console(stderr=True), quiet=quiet) as bars, publishing_file(output, force=force) as p:

        def progress(done: int, total: int) -> None:
            bars("extract", done, total)

        found = extract(first, second, rank, p, dtype=_DTYPES[dtype], progress=progress)
    return {
        "lora": str(output),
        "error": found.error,
        "layers": [
            {**asdict(layer), "error": layer.missed / layer.distance} for layer in found.layers
        ],
        "left_out": dict(found.left_out),
    }


def print_extraction(found: Mapping[str, Any]) -> None:
    """The error by component, the worst layers, and what is left out; the path last."""
    layers = found["layers"]
    worst = sorted(layers, key=lambda layer: -layer["missed"])[:_SHOWN]
    rows = [
        (f"{layer['folder']}: {layer['layer']}", str(layer["rank"]), f"{layer['error']:.2e}")
        for layer in worst
    ]
    print_table(("largest errors", "rank", "relative error"), rows, right=(1, 2))
    if found["left_out"]:
        print(f"left out: {len(found['left_out'])} changed norms and biases, which no LoRA holds")
    print(f"{len(layers)} layers; relative error of the whole change {found['error']:.2e}")
    print(found["lora"])
