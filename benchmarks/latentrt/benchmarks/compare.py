"""An engine against the goldens: every component, every step of a guided run, and the picture.

Needs no PyTorch: its answers are in the bundle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import BundleError
from latentrt.bundle.golden import RUN_PROMPT, RUN_STEPS, Difference, psnr
from latentrt.bundle.tensors import TensorFile
from latentrt.engines.verify import TOLERANCES, golden_sizes
from latentrt.runtime.conditioning import Conditioner, Conditioning
from latentrt.runtime.conditioning import Row as ConditioningRow
from latentrt.runtime.guidance import Guidance, guide
from latentrt.runtime.noise import TorchNoise
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.prediction import denoised, model_input
from latentrt.runtime.request import Request
from latentrt.runtime.rows import Batch
from latentrt.runtime.rows import Row as Told
from latentrt.runtime.samplers import sample
from latentrt.runtime.schedules import as_stable_diffusion, build_schedule
from latentrt.runtime.size import Size


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: its worst output's differences, and what it was allowed."""

    name: str
    difference: Difference
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the relative error is within the tolerance."""
        return self.difference.relative <= self.tolerance


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far one bundle's engines are from PyTorch's fp32.

    `components` ends with the prompts: what the U-Net is told, from the text on.
    """

    engines: Mapping[str, str]
    precisions: Mapping[str, str]
    components: tuple[Row, ...]
    steps: tuple[Row, ...]
    picture_psnr: float
    least_psnr: float

    @property
    def first_bad_step(self) -> int | None:
        """Index of the first step that leaves its tolerance, or None."""
        return next((i for i, row in enumerate(self.steps) if not row.passed), None)

    @property
    def passed(self) -> bool:
        """Whether everything is within its tolerance."""
        rows = (*self.components, *self.steps)
        return all(row.passed for row in rows) and self.picture_psnr >= self.least_psnr

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; infinite numbers become null."""
        rows = {
            kind: [
                {"name": r.name, **_finite(asdict(r.difference)), "tolerance": r.tolerance}
                for r in group
            ]
            for kind, group in (("components", self.components), ("steps", self.steps))
        }
        return {
            "engines": dict(self.engines),
            "precisions": dict(self.precisions),
            **rows,
            **_finite({"picture_psnr": self.picture_psnr}),
            "least_psnr": self.least_psnr,
            "first_bad_step": self.first_bad_step,
            "passed": self.passed,
        }


def compare(pipeline: Pipeline) -> Comparison:
    """Hold a pipeline's engines against its bundle's goldens.

    Raises `BundleError` if the bundle has none.
    """
    golden = pipeline.bundle.golden()
    precisions = pipeline.precisions
    components = tuple(
        _component(pipeline, golden, name, TOLERANCES[precision].of(name))
        for name, precision in precisions.items()
    )
    # A run is as far off as its loosest component.
    tolerance = max((TOLERANCES[p] for p in precisions.values()), key=lambda t: t.step)
    conditioning = _conditioning(pipeline, golden)
    prompts = _prompts(conditioning, golden, tolerance.text_encoder)
    latents, steps = _run(pipeline, golden, conditioning, tolerance.step)
    return Comparison(
        engines=pipeline.engines,
        precisions=precisions,
        components=(*components, prompts),
        steps=steps,
        picture_psnr=_picture(pipeline, golden, latents),
        least_psnr=tolerance.psnr,
    )


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {k: v if math.isfinite(v) else None for k, v in values.items()}


def _component(pipeline: Pipeline, golden: TensorFile, name: str, tolerance: float) -> Row:
    record = pipeline.bundle.manifest.components[name]
    inputs = {s.name: golden[f"{name}/inputs/{s.name}"] for s in record.inputs}
    engine = pipeline.engine(name, golden_sizes(pipeline.bundle, name) or {})
    outputs = engine({s.name: inputs[s.name].astype(s.dtype) for s in engine.inputs})
    found = [
        Difference.between(outputs[s.name], golden[f"{name}/outputs/{s.name}"])
        for s in record.outputs
    ]
    return Row(name, max(found, key=lambda d: d.relative), tolerance)


def _conditioning(pipeline: Pipeline, golden: TensorFile) -> Conditioning:
    """The golden run's prompts as the runtime encodes them, from the text on."""
    height, width = (
        n * pipeline.bundle.manifest.vae_factor for n in golden["run/latents"].shape[2:]
    )
    request = Request(
        RUN_PROMPT,
        size=Size(width, height),
        guidance=Guidance(float(golden["run/guidance_scale"][0])),
    )
    conditioner = Conditioner(pipeline.bundle)
    sizes = {"batch": 1, "sequence": conditioner.length}
    return conditioner(request, lambda name: pipeline.engine(name, sizes))


def _prompts(conditioning: Conditioning, golden: TensorFile, tolerance: float) -> Row:
    """The text that the U-Net is told against the golden run's, the negative prompt's row first."""
    rows = _rows(conditioning)
    found = [
        Difference.between(np.stack([row[name] for row in rows]), golden[f"run/{name}"])
        for name in ("encoder_hidden_states", "text_embeds")
        if name in rows[0]
    ]
    return Row("prompts", max(found, key=lambda d: d.relative), tolerance)


def _rows(conditioning: Conditioning) -> tuple[ConditioningRow, ...]:
    negative = conditioning.negative
    return conditioning.prompts if negative is None else (negative, *conditioning.prompts)


def _run(
    pipeline: Pipeline, golden: TensorFile, conditioning: Conditioning, tolerance: float
) -> tuple[NDArray[np.float32], tuple[Row, ...]]:
    """The golden run again with our own prompts, sampler and engine; errors accumulate."""
    manifest, config = pipeline.bundle.manifest, pipeline.bundle.scheduler_config()
    if manifest.forces_scheduler:
        config = as_stable_diffusion(config)
    schedule = build_schedule(config, steps=RUN_STEPS, sampler="euler")
    start = golden["run/latents"]
    rows = _rows(conditioning)
    sizes = {"batch": len(rows), "height": start.shape[2], "width": start.shape[3]}
    length = rows[0]["encoder_hidden_states"].shape[0]
    batch = Batch(pipeline.engine("unet", {**sizes, "sequence": length}))
    scale = float(golden["run/guidance_scale"][0])
    sampler = sample(start[0] * np.float32(schedule.init_scale), schedule, noise=TorchNoise(0))
    asked = next(sampler)
    results: list[Row] = []
    while True:
        scaled = model_input(asked.latent, asked.sigma)
        outputs = batch.evaluate([Told(scaled, asked.timestep, row) for row in rows])
        guided = len(rows) > 1
        output = guide(outputs[0], [outputs[1]], (1.0,), scale=scale) if guided else outputs[0]
        estimate = denoised(asked.latent, output, asked.sigma, schedule.prediction_type)
        try:
            following = sampler.send((asked.latent, estimate))
            latent = following.latent
        except StopIteration as finished:
            following, latent = None, finished.value
        reference = golden[f"run/steps/{len(results)}/latents"][0]
        difference = Difference.between(latent, reference)
        results.append(Row(f"step {len(results)}", difference, tolerance))
        if following is None:
            return latent[None] * np.float32(schedule.final_scale), tuple(results)
        asked = following


def _picture(pipeline: Pipeline, golden: TensorFile, latents: NDArray[np.float32]) -> float:
    reference = golden["run/images"]
    if not np.isfinite(reference).all():
        raise BundleError(pipeline.bundle.path, "has goldens that are not finite")
    return psnr(np.clip(pipeline.decode(latents), -1, 1), np.clip(reference, -1, 1), peak=2.0)
