"""The bundle of whatever a command is given: a bundle, or a checkpoint that one is made of."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from latentrt.cli.progress import Bars
from latentrt.runtime.conversion.opened import is_checkpoint
from latentrt.runtime.conversion.options import CheckpointOptions
from latentrt.weights.inference import Overrides


def bundle_of(path: Path, options: CheckpointOptions | None = None, *, quiet: bool = False) -> Path:
    """A bundle's own path, or that of the bundle which is made of a checkpoint, once.

    Raises what making it raises.
    """
    if not is_checkpoint(path):
        return path
    from latentrt.runtime.conversion.cached import cached_bundle

    made: list[str] = []
    with Bars(Console(stderr=True), quiet=quiet) as bars:

        def tell(stage: str, done: int, total: int) -> None:
            made.append(stage)
            bars(stage, done, total)

        bundle = cached_bundle(path, options or CheckpointOptions(), tell)
    if made:
        print(f"latentrt: made a bundle: {bundle}", file=sys.stderr)
    return bundle


def checkpoint_options(
    *,
    dtype: str | None,
    variant: str | None,
    text_encoder: Path | None,
    configs: Path | None,
    prediction_type: str | None,
    ema: bool,
) -> CheckpointOptions:
    """How a command reads a checkpoint; raises `InputError` for a prediction type."""
    stated = prediction_type is not None or ema
    return CheckpointOptions(
        dtype=dtype,
        variant=variant,
        text_encoder=text_encoder,
        configs=configs,
        overrides=Overrides(prediction_type=prediction_type, ema=ema) if stated else None,
    )
