"""A pipeline's engines compared with PyTorch: components, steps of a run, and the picture.

Needs no PyTorch where the reference is the bundle's goldens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.numerics.comparison import (
    Check,
    Comparison,
    RunComparison,
    relative,
    worst,
)
from latentrt.benchmarks.numerics.reference import Reference
from latentrt.benchmarks.numerics.repeated_run import Latents, RepeatedRun
from latentrt.benchmarks.numerics.similarity import ssim
from latentrt.benchmarks.numerics.tolerances import RunTolerances, step_tolerances
from latentrt.bundle.errors import BundleError
from latentrt.bundle.golden import Difference, psnr
from latentrt.engines.verification.tolerances import TOLERANCES
from latentrt.runtime.pipeline import Pipeline


def compare(pipeline: Pipeline, references: Sequence[Reference] = ()) -> Comparison:
    """Compare a pipeline's engines with references, by default the bundle's goldens.

    Raises `BundleError` if there are none, or if PyTorch's own picture is not finite.
    """
    given = references or (Reference.stored(pipeline.bundle),)
    precisions = pipeline.precisions
    allowed = RunTolerances.of(precisions)
    components: list[tuple[Check, ...]] = []
    runs: list[RunComparison] = []
    for reference in given:
        if not np.isfinite(reference.tensors["run/images"]).all():
            raise BundleError(pipeline.bundle.path, "PyTorch's own picture is not finite")
        checks = [
            _component(pipeline, reference, name, TOLERANCES[precision].of(name))
            for name, precision in precisions.items()
        ]
        run = RepeatedRun(pipeline, reference)
        checks.append(_prompts(run.conditions, reference, allowed.prompts))
        components.append(tuple(checks))
        runs.append(_run(run, reference, allowed))
    return Comparison(
        engines=pipeline.engines,
        precisions=precisions,
        components=worst(components),
        runs=tuple(runs),
        least_psnr=allowed.psnr,
    )


def _component(pipeline: Pipeline, reference: Reference, name: str, tolerance: float) -> Check:
    """One evaluation of a component; of several outputs the worst."""
    bundle = pipeline.bundle
    engine = pipeline.engine(name, reference.sizes(bundle, name))
    inputs = reference.inputs(bundle, name)
    outputs = engine({s.name: inputs[s.name].astype(s.dtype) for s in engine.inputs})
    expected = reference.outputs(bundle, name)
    return _worst_of(name, {key: (outputs[key], expected[key]) for key in expected}, tolerance)


def _prompts(
    conditions: Sequence[Mapping[str, NDArray[Any]]], reference: Reference, tolerance: float
) -> Check:
    """The text states that the U-Net is given, from the prompt on."""
    pairs = {
        name: (np.stack([each[name] for each in conditions]), reference.tensors[f"run/{name}"])
        for name in ("encoder_hidden_states", "text_embeds")
        if name in conditions[0]
    }
    return _worst_of("prompts", pairs, tolerance)


def _worst_of(
    name: str, pairs: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], tolerance: float
) -> Check:
    checks = [Check(name, Difference.between(*pair), tolerance) for pair in pairs.values()]
    return max(checks, key=relative)


def _run(run: RepeatedRun, reference: Reference, allowed: RunTolerances) -> RunComparison:
    ours = run.steps()
    alone = step_tolerances(reference, run.schedule, allowed.alone, carried=False)
    steps = step_tolerances(reference, run.schedule, allowed.steps, carried=True)
    pictures = _clipped(run.picture(ours[-1])), _clipped(reference.tensors["run/images"][0])
    return RunComparison(
        prompt=reference.prompt,
        noise=reference.noise,
        alone=_steps(run.steps_alone(), reference, alone),
        steps=_steps(ours, reference, steps),
        psnr=psnr(*pictures, peak=2.0),
        ssim=ssim(*pictures, peak=2.0),
        picture=pictures[0],
        reference=pictures[1],
    )


def _steps(
    latents: Sequence[Latents], reference: Reference, tolerances: Sequence[float]
) -> tuple[Check, ...]:
    return tuple(
        Check(f"step {i}", Difference.between(each, reference.latents(i)), tolerance)
        for i, (each, tolerance) in enumerate(zip(latents, tolerances, strict=True))
    )


def _clipped(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels in [-1, 1]; NaN where they are not finite: clipping would make infinity white."""
    return np.clip(np.where(np.isfinite(pixels), pixels, np.float32(np.nan)), -1, 1)
