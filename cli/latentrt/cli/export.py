"""The work of `latentrt export`: with the graphs that ship, or with PyTorch."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from latentrt.bundle.errors import CheckpointError, LatentrtError
from latentrt.bundle.manifest import FILE_NAME
from latentrt.cli.progress import Bars
from latentrt.runtime.conversion.make import NoGraphError, make_bundle
from latentrt.runtime.conversion.make_controlnet import make_control_bundle
from latentrt.weights.clip_checkpoint import ClipCheckpoint, is_clip
from latentrt.weights.controlnet import ControlNetCheckpoint, is_controlnet
from latentrt.weights.opening import open_source

_RANDOM = "random:"


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How a checkpoint becomes a bundle.

    `dtype` ("fp32", "fp16", "bf16") is how weights are stored; `variant` names the weights files of
    a folder. `golden` None stores goldens where PyTorch traces. `trace` traces graphs that ship
    too. `force` replaces a bundle.
    """

    dtype: str
    variant: str | None
    golden: bool | None
    trace: bool
    force: bool


def make(checkpoint: str, bundle: Path, options: ExportOptions, bars: Bars) -> None:
    """Make a bundle of a checkpoint.

    PyTorch is loaded only for goldens, for tracing, for random weights, and for a checkpoint that
    cannot be converted without it.
    """
    if (Path(checkpoint) / FILE_NAME).is_file():
        raise CheckpointError(checkpoint, "is a bundle already: `latentrt generate` takes it")
    if not checkpoint.startswith(_RANDOM) and is_clip(Path(checkpoint)):
        _make_clip(Path(checkpoint), bundle, options, bars)
        return
    if not checkpoint.startswith(_RANDOM) and is_controlnet(Path(checkpoint)):
        _make_controlnet(Path(checkpoint), bundle, options, bars)
        return
    if not checkpoint.startswith(_RANDOM):
        source = open_source(checkpoint, options.variant)
        if not options.golden and not options.trace:
            try:
                make_bundle(source, bundle, dtype=options.dtype, force=options.force, progress=bars)
            except CheckpointError:
                if importlib.util.find_spec("torch") is None:
                    raise
            else:
                return
    _with_torch(checkpoint, bundle, options, bars)


def _make_controlnet(checkpoint: Path, bundle: Path, options: ExportOptions, bars: Bars) -> None:
    """Make a ControlNet's bundle. PyTorch is loaded for an architecture that does not ship."""
    opened = ControlNetCheckpoint.open(checkpoint, options.variant)
    if not options.trace:
        try:
            make_control_bundle(
                opened, bundle, dtype=options.dtype, force=options.force, progress=bars
            )
        except NoGraphError:
            if importlib.util.find_spec("torch") is None:
                raise
        else:
            return
    from latentrt.export.libraries import quiet_libraries

    with quiet_libraries():
        try:
            from latentrt.export.control import export_controlnet
        except ImportError as error:
            problem = f"{error.name} is missing: pip install 'latentrt[export]'"
            raise LatentrtError(problem) from error
        export_controlnet(opened, bundle, dtype=options.dtype, force=options.force, progress=bars)


def _make_clip(checkpoint: Path, bundle: Path, options: ExportOptions, bars: Bars) -> None:
    """Make the bundle of a CLIP, whose graphs PyTorch traces."""
    opened = ClipCheckpoint.open(checkpoint, options.variant)
    from latentrt.export.libraries import quiet_libraries

    with quiet_libraries():
        try:
            from latentrt.export.clip import export_clip
        except ImportError as error:
            problem = f"{error.name} is missing: pip install 'latentrt[export]'"
            raise LatentrtError(problem) from error
        export_clip(opened, bundle, dtype=options.dtype, force=options.force, progress=bars)


def _with_torch(checkpoint: str, bundle: Path, options: ExportOptions, bars: Bars) -> None:
    from latentrt.export.libraries import quiet_libraries

    with quiet_libraries():
        bars("load", 0, 1)
        try:
            from latentrt.export.export import export
        except ImportError as error:
            problem = f"{error.name} is missing: pip install 'latentrt[export]'"
            raise LatentrtError(problem) from error
        bars("load", 1, 1)
        export(
            checkpoint,
            bundle,
            dtype=options.dtype,
            variant=options.variant,
            golden=options.golden is not False,
            trace=options.trace,
            force=options.force,
            progress=bars,
        )
