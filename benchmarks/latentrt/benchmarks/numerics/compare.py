"""Engines against PyTorch's answers: every component, every step of a guided run, and the picture.

Needs no PyTorch where the answers are the goldens in the bundle. Answers to other prompts, made
now, are `latentrt.benchmarks.numerics.live`'s.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.numerics.comparison import Comparison, Reference, Row, RunComparison, worst
from latentrt.benchmarks.numerics.similarity import ssim
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BundleError
from latentrt.bundle.golden import RUN_PROMPT, Difference, psnr
from latentrt.engines.verification.tolerances import TOLERANCES
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
from latentrt.runtime.schedules import Schedule, as_stable_diffusion, build_schedule, euler_name
from latentrt.runtime.size import Size

Latents = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Allowed:
    """How far off may be what components make together: as far as the loosest of those that do.

    Relative errors; `psnr` is the least, in dB.
    """

    prompts: float
    alone: float
    steps: float
    psnr: float

    @staticmethod
    def of(precisions: Mapping[str, str]) -> _Allowed:
        each = {name: TOLERANCES[precision] for name, precision in precisions.items()}
        text = [tolerance for name, tolerance in each.items() if name.startswith("text_encoder")]
        run = [*text, each["unet"]]
        return _Allowed(
            prompts=max(tolerance.text_encoder for tolerance in text),
            alone=each["unet"].alone,  # its prompts and latents are the reference's
            steps=max(tolerance.step for tolerance in run),
            psnr=min(tolerance.psnr for tolerance in (*run, each["vae_decoder"])),
        )


def stored(bundle: Bundle) -> Reference:
    """The answers that were stored at export; raises `BundleError` if there are none."""
    return Reference(RUN_PROMPT, "stored", bundle.golden())


def compare(pipeline: Pipeline, references: Sequence[Reference] = ()) -> Comparison:
    """Hold a pipeline's engines against PyTorch's answers, by default the bundle's goldens.

    Raises `BundleError` if there are none, or if they are not finite.
    """
    given = references or (stored(pipeline.bundle),)
    precisions = pipeline.precisions
    allowed = _Allowed.of(precisions)
    components: list[tuple[Row, ...]] = []
    runs: list[RunComparison] = []
    for reference in given:
        golden = reference.tensors
        rows = [
            _component(pipeline, golden, name, TOLERANCES[precision].of(name))
            for name, precision in precisions.items()
        ]
        told = _rows(_conditioning(pipeline, reference))
        components.append((*rows, _prompts(told, golden, allowed.prompts)))
        runs.append(_run_comparison(pipeline, reference, told, allowed))
    return Comparison(
        engines=pipeline.engines,
        precisions=precisions,
        components=worst(components),
        runs=tuple(runs),
        least_psnr=allowed.psnr,
        adherence={},
    )


def _component(
    pipeline: Pipeline, golden: Mapping[str, NDArray[Any]], name: str, tolerance: float
) -> Row:
    record = pipeline.bundle.manifest.components[name]
    inputs = {s.name: golden[f"{name}/inputs/{s.name}"] for s in record.inputs}
    sizes: dict[str, int] = {}
    for spec in record.inputs:
        pairs = zip(spec.dims, inputs[spec.name].shape, strict=True)
        sizes |= {dim: n for dim, n in pairs if isinstance(dim, str)}
    engine = pipeline.engine(name, sizes)
    outputs = engine({s.name: inputs[s.name].astype(s.dtype) for s in engine.inputs})
    found = [
        Difference.between(outputs[s.name], golden[f"{name}/outputs/{s.name}"])
        for s in record.outputs
    ]
    return Row(name, max(found, key=lambda d: d.relative), tolerance)


def _conditioning(pipeline: Pipeline, reference: Reference) -> Conditioning:
    """The run's prompts as the runtime encodes them, from the text on."""
    golden = reference.tensors
    height, width = (
        n * pipeline.bundle.manifest.vae_factor for n in golden["run/latents"].shape[2:]
    )
    request = Request(
        reference.prompt,
        size=Size(width, height),
        guidance=Guidance(float(golden["run/guidance_scale"][0])),
    )
    conditioner = Conditioner(pipeline.bundle)
    sizes = {"batch": 1, "sequence": conditioner.length}
    return conditioner(request, lambda name: pipeline.engine(name, sizes))


def _prompts(
    rows: Sequence[ConditioningRow], golden: Mapping[str, NDArray[Any]], tolerance: float
) -> Row:
    """The text that the U-Net is told against the reference's, the negative prompt's row first."""
    found = [
        Difference.between(np.stack([row[name] for row in rows]), golden[f"run/{name}"])
        for name in ("encoder_hidden_states", "text_embeds")
        if name in rows[0]
    ]
    return Row("prompts", max(found, key=lambda d: d.relative), tolerance)


def _rows(conditioning: Conditioning) -> tuple[ConditioningRow, ...]:
    negative = conditioning.negative
    return conditioning.prompts if negative is None else (negative, *conditioning.prompts)


def _run_comparison(
    pipeline: Pipeline,
    reference: Reference,
    told: Sequence[ConditioningRow],
    allowed: _Allowed,
) -> RunComparison:
    golden = reference.tensors
    expected = golden["run/images"]
    if not np.isfinite(expected).all():
        raise BundleError(pipeline.bundle.path, "PyTorch's own picture is not finite")
    theirs = [{name: golden[f"run/{name}"][i] for name in told[0]} for i in range(len(told))]
    schedule = _schedule(pipeline, golden)
    alone = _latents(pipeline, golden, schedule, theirs, chained=False)
    ours = _latents(pipeline, golden, schedule, told, chained=True)
    pictures = _clipped(pipeline.decode(ours[-1][None])[0]), _clipped(expected[0])
    return RunComparison(
        prompt=reference.prompt,
        noise=reference.noise,
        alone=_steps(alone, golden, _tolerances(golden, schedule, allowed.alone, carried=False)),
        steps=_steps(ours, golden, _tolerances(golden, schedule, allowed.steps, carried=True)),
        psnr=psnr(*pictures, peak=2.0),
        ssim=ssim(*pictures, peak=2.0),
        picture=pictures[0],
        reference=pictures[1],
    )


def _clipped(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Pixels in [-1, 1]; NaN for what is not finite: infinity would be clipped to white."""
    return np.clip(np.where(np.isfinite(pixels), pixels, np.float32(np.nan)), -1, 1)


def _schedule(pipeline: Pipeline, golden: Mapping[str, NDArray[Any]]) -> Schedule:
    config = pipeline.bundle.scheduler_config()
    if pipeline.bundle.manifest.forces_scheduler:
        config = as_stable_diffusion(config)
    sampler = euler_name(config)
    return build_schedule(config, steps=len(golden["run/timesteps"]), sampler=sampler)


def _latents(
    pipeline: Pipeline,
    golden: Mapping[str, NDArray[Any]],
    schedule: Schedule,
    rows: Sequence[ConditioningRow],
    *,
    chained: bool,
) -> list[Latents]:
    """The latents [c, h, w] after each step of the run that a reference made, at its scale.

    Each step goes on from our own latents, or, unless `chained`, from the reference's.
    """
    unit = np.float32(schedule.final_scale)  # of the model's own data
    start = golden["run/latents"]
    sizes = {"batch": len(rows), "height": start.shape[2], "width": start.shape[3]}
    length = rows[0]["encoder_hidden_states"].shape[0]
    batch = Batch(pipeline.engine("unet", {**sizes, "sequence": length}))
    scale = float(golden["run/guidance_scale"][0])
    sampler = sample(start[0] * np.float32(schedule.init_scale), schedule, noise=TorchNoise(0))
    asked = next(sampler)
    found: list[Latents] = []
    while True:
        latent = asked.latent
        if found and not chained:
            latent = golden[f"run/steps/{len(found) - 1}/latents"][0] / unit
        scaled = model_input(latent, asked.sigma)
        outputs = batch.evaluate([Told(scaled, asked.timestep, row) for row in rows])
        guided = len(rows) > 1
        output = guide(outputs[0], [outputs[1]], (1.0,), scale=scale) if guided else outputs[0]
        estimate = denoised(latent, output, asked.sigma, schedule.prediction_type)
        try:
            asked = sampler.send((latent, estimate))
        except StopIteration as finished:
            return [*found, finished.value * unit]
        found.append(asked.latent * unit)


def cancelling_tolerance(allowed: float, before: float, after: float) -> float:
    """The largest relative error of a latent after one step of Euler's method.

    A step from level s to level t is x' = x + (t - s) d, with d = (x - denoised) / s. An error e
    of `denoised` becomes an error (1 - t / s) e of x'. That error, relative to x', is `allowed`.

    A step from level 4096, as at zero terminal SNR, cancels almost all of x. In float32 x lies on a
    grid of q = 2**-23 |x|, which may be coarser than e. Rounding then moves a share e / q of the
    numbers by a whole q: the mean square is e q, not e**2. Three operations round on that grid:
    x - denoised, d and (t - s) d. The sum is sqrt(e**2 + 3 e q), with e and q relative to x'.

    `before` and `after` are the norms of x and x'. Where both are as large, the result is within
    2 % of `allowed` in fp32.
    """
    if not (0.0 < after < math.inf and before < math.inf):
        return allowed
    grid = 2.0**-23 * before / after
    return math.sqrt(allowed**2 + 3 * allowed * grid)


def _tolerances(
    golden: Mapping[str, NDArray[Any]], schedule: Schedule, allowed: float, *, carried: bool
) -> list[float]:
    """The tolerance of every step; where errors are `carried` on, no step has less than earlier."""
    count = len(golden["run/timesteps"])
    start = golden["run/latents"] * np.float32(schedule.init_scale * schedule.final_scale)
    latents = [start, *(golden[f"run/steps/{i}/latents"] for i in range(count))]
    norms = [float(np.linalg.norm(each.astype(np.float64))) for each in latents]
    own = [cancelling_tolerance(allowed, *pair) for pair in itertools.pairwise(norms)]
    return list(itertools.accumulate(own, max)) if carried else own


def _steps(
    latents: Sequence[Latents], golden: Mapping[str, NDArray[Any]], tolerances: Sequence[float]
) -> tuple[Row, ...]:
    return tuple(
        Row(f"step {i}", Difference.between(each, golden[f"run/steps/{i}/latents"][0]), tolerance)
        for i, (each, tolerance) in enumerate(zip(latents, tolerances, strict=True))
    )
