"""DPM-Solver and DPM-Solver++: exponential integrators of the diffusion ODE, and of its SDE."""

from __future__ import annotations

from collections.abc import Sequence

from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers.clipping import clip
from latentrt.runtime.samplers.denoise import Array, Denoise, Sampler
from latentrt.runtime.samplers.exponential import ExponentialStep, Point
from latentrt.runtime.schedules.schedule import Schedule

__all__ = ["dpm_solver_multistep", "dpm_solver_singlestep"]


def dpm_solver_multistep(
    latent: Array,
    schedule: Schedule,
    *,
    noise: Noise,
    orders: Sequence[int],
    predict_x0: bool = True,
    solver_type: str = "midpoint",
    eta: float = 0.0,
) -> Sampler:
    """A step with the polynomial through the predictions of this evaluation and those before.

    `latent` is float32 [channels, h, w] at the first level; so is what is returned, at the last.
    `orders`, from 1 to 3, says through how many predictions each step goes; the first steps go
    through those there are. With `predict_x0` this is DPM-Solver++, else DPM-Solver. `eta` is the
    share of fresh noise, 1 for the SDE. Above 0, one array is drawn from `noise` after each
    evaluation, the last included. `solver_type` says how exactly the polynomial's mean is taken:
    that of lines and parabolas (logrho, which is DEIS), of lines (heun), or of neither (midpoint).

    Source: arXiv:2211.01095, Alg. 2 and appendix B (heun); k-diffusion's `sample_dpmpp_2m_sde` (the
    SDE and eta); diffusers' `DPMSolverMultistepScheduler` for the third order.
    """
    past: list[Point] = []
    for e, order in zip(schedule.evaluations, orders, strict=True):
        latent, denoised = yield Denoise(latent, e.sigma, e.timestep)
        denoised = clip(denoised, schedule.clipping)
        step = ExponentialStep(e.sigma, e.sigma_next, predict_x0, eta)
        prediction = step.prediction(latent, denoised)
        # After a step of length 0 there are two predictions at one level: the later counts.
        past = [(e.sigma, prediction), *(point for point in past if point[0] > e.sigma)][:3]
        points = step.usable(past[:order])
        moments = _moments(step, len(points), solver_type)
        if len(points) == 3 and solver_type != "logrho":
            # The authors' code, and all that follow it, take half of the parabola's bend. They use
            # the divided difference, which is half of the second derivative, in its place.
            moments[2] *= 0.5
        latent = step.advance(latent, step.estimate(denoised, points, moments))
        if eta > 0.0:
            latent = noise.increment(latent.shape, e.sigma, e.sigma_next) * step.fresh + latent
    return latent


def dpm_solver_singlestep(
    latent: Array,
    schedule: Schedule,
    *,
    noise: Noise,
    orders: Sequence[int],
    predict_x0: bool = True,
    solver_type: str = "midpoint",
    eta: float = 0.0,
) -> Sampler:
    """Steps of one to three evaluations, each of which takes the step again, and further down.

    `latent` is float32 [channels, h, w] at the first level; so is what is returned, at the last.
    An evaluation whose order in `orders` is 1 begins a step. The next ones go from its start to
    their own ends. With "heun" they take the exact mean of the polynomial through all of the step's
    predictions. With "midpoint" they use the first and the last, and the exact mean in the third
    only. With `predict_x0` this is DPM-Solver++, else DPM-Solver. `eta` is the share of fresh
    noise, 1 for the SDE. Above 0, one array is drawn from `noise` after each evaluation, the last
    included.

    Source: arXiv:2206.00927, Alg. 1 and 2; arXiv:2211.01095, Alg. 1.
    """
    start = begun = latent
    past: list[Point] = []
    for e, order in zip(schedule.evaluations, orders, strict=True):
        latent, denoised = yield Denoise(latent, e.sigma, e.timestep)
        denoised = clip(denoised, schedule.clipping)
        prediction = ExponentialStep(e.sigma, e.sigma_next, predict_x0).prediction(latent, denoised)
        if order == 1 or not past:
            start, begun, past = latent, denoised, [(e.sigma, prediction)]
        elif e.sigma < past[-1][0]:
            past = [*past, (e.sigma, prediction)]
        step = ExponentialStep(past[0][0], e.sigma_next, predict_x0, eta)
        points = step.usable(past)
        if len(points) == 3 and solver_type == "midpoint":
            points = [points[0], points[2]]
            moments = step.moments(2)
        else:
            moments = _moments(step, len(points), solver_type)
        latent = step.advance(start, step.estimate(begun, points, moments))
        if eta > 0.0:
            latent = noise.increment(latent.shape, step.sigma, e.sigma_next) * step.fresh + latent
    return latent


def _moments(step: ExponentialStep, count: int, solver_type: str) -> list[float]:
    """The step's moments as these solvers take them."""
    moments = step.moments(count)
    if count == 2 and solver_type == "midpoint":
        moments[1] = 0.5
    if count == 3 and step.predict_x0 and step.eta > 0.0:
        # With H = (1 + eta) h the integral is (1 - H - exp(-H)) / H**2 + 1/2: diffusers, for whose
        # numbers this is, has that with - 1/2 (k-diffusion has the plus).
        moments[2] -= 2.0 / step.gain
    return moments
