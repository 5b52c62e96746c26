"""UniPC, a predictor and a corrector that cost one evaluation together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers.clipping import clip
from latentrt.runtime.samplers.denoise import Array, Denoise, Sampler
from latentrt.runtime.samplers.exponential import ExponentialStep, Point
from latentrt.runtime.schedules.schedule import Schedule

__all__ = ["unipc"]


def unipc(
    latent: Array,
    schedule: Schedule,
    *,
    noise: Noise,
    orders: Sequence[int],
    predict_x0: bool = True,
    solver_type: str = "bh2",
    disable_corrector: Sequence[int] = (),
) -> Sampler:
    """A step with a polynomial through past predictions, redone once there is one at its end.

    `latent` is float32 [channels, h, w] at the first level; so is what is returned, at the last.
    `orders`, from 1 to 3, says through how many predictions each step's polynomial goes; the
    corrector's goes through one more. `disable_corrector` are the steps, from 0, that are not
    redone. `solver_type`, bh1 or bh2, is the paper's B(h). It cancels but where the polynomial is a
    line, whose mean is not taken exactly. Draws no noise.

    Source: arXiv:2302.04867, section 3.
    """
    past: list[Point] = []
    correctable: tuple[ExponentialStep, Array, Sequence[Point], Array] | None = None
    for i, (e, order) in enumerate(zip(schedule.evaluations, orders, strict=True)):
        latent, denoised = yield Denoise(latent, e.sigma, e.timestep)
        denoised = clip(denoised, schedule.clipping)
        step = ExponentialStep(e.sigma, e.sigma_next, predict_x0)
        prediction = step.prediction(latent, denoised)
        if correctable is not None:
            # The last step again, with what is known of its end: only its estimate is another.
            last, begun, points, estimate = correctable
            points = last.usable([*points, (e.sigma, prediction)])
            better = last.estimate(begun, points, _moments(last, len(points), solver_type))
            change: Array = (better - estimate) * last.gain
            latent = latent + change
            if not predict_x0:
                # The estimate of the noise stays what it is, so that of x0 goes with the latent.
                denoised = denoised + change
        past = [(e.sigma, prediction), *(point for point in past if point[0] > e.sigma)][:3]
        points = step.usable(past[:order])
        estimate = step.estimate(denoised, points, _moments(step, len(points), solver_type))
        correctable = None if i in disable_corrector else (step, denoised, points, estimate)
        latent = step.advance(latent, estimate)
    return latent


def _moments(step: ExponentialStep, count: int, solver_type: str) -> list[float]:
    """The step's moments; of a line, what B(h) makes of its first."""
    moments = step.moments(count)
    if count == 2:
        moments[1] = 0.5
        if solver_type == "bh1":
            z = -step.length if step.predict_x0 else step.length
            moments[1] *= z / math.expm1(z)
    return moments
