"""The work of `latentrt compare`: engines, and their layers, held against PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from latentrt.benchmarks.compare import compare as hold
from latentrt.benchmarks.comparison import Comparison
from latentrt.benchmarks.findings import Findings
from latentrt.benchmarks.layer_table import LayerTable
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError, LatentrtError
from latentrt.cli.progress import Bars
from latentrt.engines.engine import Options
from latentrt.runtime import Pipeline
from latentrt.runtime.bundle_engines import choices


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked at beside the stored answers.

    `layers` asks for every layer; `checkpoint` names the weights that PyTorch takes, None the
    bundle's own.
    """

    layers: bool = False
    checkpoint: str | None = None


def compare(
    bundle: Path,
    *,
    engine: str,
    options: Options,
    components: Mapping[str, str],
    wanted: Wanted,
    progress: Bars,
) -> Findings:
    """Hold a bundle's engines against PyTorch.

    Raises `InputError` for options that do not go together, `LatentrtError` without PyTorch where
    it is needed, and what opening a bundle and compiling engines raises.
    """
    if wanted.checkpoint is not None and not wanted.layers:
        raise InputError("checkpoint", "--layers beside it", "neither")
    opened = Bundle.open(bundle)
    comparisons: list[Comparison] = []
    if opened.manifest.has_goldens or not wanted.layers:
        with Pipeline(opened, engine, options, components, guarded=False) as pipeline:
            comparisons.append(hold(pipeline))
    layers = _layers(opened, engine, options, components, wanted, progress)
    return Findings(
        bundle=opened.path.name,
        reference="the bundle's goldens",
        comparisons=tuple(comparisons),
        layers=layers,
        skipped={},
    )


def _layers(
    bundle: Bundle,
    engine: str,
    options: Options,
    components: Mapping[str, str],
    wanted: Wanted,
    progress: Bars,
) -> tuple[LayerTable, ...]:
    if not wanted.layers:
        return ()
    chosen = choices(bundle, engine, options, components)
    try:
        from latentrt.benchmarks.layers import layer_table
        from latentrt.benchmarks.original import Original
    except ImportError as error:
        raise LatentrtError(f"{error.name} is missing: pip install 'latentrt[bench]'") from error
    original = Original.of(bundle, wanted.checkpoint)
    found: list[LayerTable] = []
    for name in chosen:
        progress("layers", len(found), len(chosen), name)
        found.append(layer_table(bundle, name, chosen[name], original))
    progress("layers", len(found), len(chosen))
    return tuple(found)
