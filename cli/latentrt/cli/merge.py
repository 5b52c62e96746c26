"""The work of `latentrt merge`."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console

from latentrt.bundle.errors import InputError
from latentrt.bundle.publish import publishing, publishing_file
from latentrt.cli.progress import Bars
from latentrt.weights.merged_checkpoint import merge_checkpoints


def run(
    a: Path, b: Path, c: Path | None, alpha: float, output: Path, *, force: bool, quiet: bool
) -> tuple[str, ...]:
    """Write the merge whole or not at all; returns notes."""
    if not math.isfinite(alpha) or (c is None and not 0 <= alpha <= 1):
        expected = "a finite number" if c is not None else "a number from 0 to 1"
        raise InputError("alpha", expected, alpha)
    with Bars(Console(stderr=True), quiet=quiet) as bars:

        def progress(done: int, total: int) -> None:
            bars("merge", done, total)

        if a.is_dir():
            with publishing(output, force=force) as folder:
                return merge_checkpoints(a, b, c, alpha, folder, progress=progress)
        with publishing_file(output, force=force) as path:
            return merge_checkpoints(a, b, c, alpha, path, progress=progress)
