"""Samplers, held to their order of convergence on a denoiser whose trajectories are known.

For data that is normal, N(mu, s^2) in each element, the ideal denoiser of a latent x0 + sigma *
noise is D(x, sigma) = (s^2 x + sigma^2 mu) / (s^2 + sigma^2). The probability-flow ODE
dx/dsigma = (x - D) / sigma is then linear, and x - mu grows as sqrt(s^2 + sigma^2).

Source: arXiv:2206.00364, eq. 1 and 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from latentrt.runtime.noise import Noise
from latentrt.runtime.samplers import sample
from latentrt.runtime.schedules import Schedule, build_schedule

Array = NDArray[np.float64]
Config = dict[str, Any]

MEAN = np.array([[[0.3, -0.7]]])
SPREAD = np.array([[[0.5, 0.8]]])
START = np.array([[[2.0, -3.0]]])
"""Where the trajectory is at level 1, less the mean: two elements that bend differently."""

HIGH, LOW = 1.0, 0.1
"""The levels between which it bends. Far above, it is straight, and a first step of low order,
which is what spoils a multistep method, hardly shows; and a step to 0 is of first order."""

STEPS = (96, 192)
"""Multiples of 3: a singlestep method that is cut short ends on a step of lower order."""

TOLERANCE = 0.3
"""Of an order, which is what the project asks. At these steps the worst is 0.14 off."""

BETAS: Config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TRAINED = 1920
"""Training timesteps: a multiple of the steps and of their halves, for Runge and Kutta."""


@dataclass(frozen=True)
class Method:
    """A sampler with the order that theory gives it.

    `exact` is the number of first evaluations at which the latent is put on the trajectory: a
    multistep method of order p that has p of them has an exact history, with 1 it starts itself.
    """

    name: str
    order: int
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    exact: int = 1
    eta: float | None = None
    on_timesteps: bool = False


FULL: Config = {"lower_order_final": False}
THIRD: Config = {**FULL, "solver_order": 3}
PREDICTOR: Config = {**FULL, "disable_corrector": list(range(STEPS[-1]))}

METHODS: dict[str, Method] = {
    "ddim": Method("ddim", 1, on_timesteps=True),
    "euler": Method("euler", 1),
    "euler_ancestral-eta_0": Method("euler_ancestral", 1, eta=0.0),
    "heun": Method("heun", 2),
    "dpm2": Method("dpm2", 2),
    "dpm2_ancestral-eta_0": Method("dpm2_ancestral", 2, eta=0.0),
    "lms-self_starting": Method("lms", 2),
    "lms-exact": Method("lms", 4, exact=4),
    "dpmpp_2m-self_starting": Method("dpmpp_2m", 2, FULL),
    "dpmpp_2m-exact": Method("dpmpp_2m", 2, FULL, exact=2),
    "dpmpp_2m-heun": Method("dpmpp_2m", 2, {**FULL, "solver_type": "heun"}, exact=2),
    "dpmpp_2m_sde-eta_0": Method("dpmpp_2m_sde", 2, FULL, exact=2, eta=0.0),
    # Of second order, whatever its name: as diffusers and the authors' code have it, it takes
    # f[a, b, c] h^2 for f'' h^2, of which that divided difference is half.
    "dpmpp_3m-self_starting": Method("dpmpp_3m", 2, FULL),
    "dpmpp_3m-exact": Method("dpmpp_3m", 2, FULL, exact=3),
    "dpmpp_2s": Method("dpmpp_2s", 2),
    "dpmpp_3s": Method("dpmpp_3s", 3),
    "dpmpp_3s-heun": Method("dpmpp_3s", 3, {"solver_type": "heun"}),
    "deis_1": Method("deis", 1, {**FULL, "solver_order": 1}),
    "deis_2-self_starting": Method("deis", 2, FULL),
    "deis_2-exact": Method("deis", 2, FULL, exact=2),
    "deis_3-self_starting": Method("deis", 2, THIRD),
    "deis_3-exact": Method("deis", 3, THIRD, exact=3),
    # The corrector raises the order by one (arXiv:2302.04867, section 3.1), the first step's too.
    # What it adds is for the latent that was yielded: exact ones have to be left as they are.
    "unipc_1": Method("unipc", 2, {**FULL, "solver_order": 1}),
    "unipc_2-self_starting": Method("unipc", 3, FULL),
    "unipc_2-exact": Method("unipc", 3, {**FULL, "disable_corrector": [0]}, exact=2),
    "unipc_3-self_starting": Method("unipc", 3, THIRD),
    "unipc_3-exact": Method("unipc", 4, {**THIRD, "disable_corrector": [0, 1]}, exact=3),
    "unipc_3-bh1": Method(
        "unipc", 4, {**THIRD, "disable_corrector": [0, 1], "solver_type": "bh1"}, exact=3
    ),
    "unip_2": Method("unipc", 2, PREDICTOR),
    "unip_3-self_starting": Method("unipc", 2, {**PREDICTOR, "solver_order": 3}),
    "unip_3-exact": Method("unipc", 3, {**PREDICTOR, "solver_order": 3}, exact=3),
    # The weights are those of evenly spaced levels, which timesteps alone are: what they leave out,
    # that outputs and levels bend together, is of second order (arXiv:2202.09778 says so too).
    "plms": Method("plms", 2, on_timesteps=True),
    "pndm": Method("pndm", 2, on_timesteps=True),
}


class Silence(Noise):
    """Noise that nobody may draw."""

    def normal(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        raise AssertionError("an ODE's solver draws no noise")


def denoised(latent: Array, sigma: float) -> Array:
    variance = SPREAD**2
    return (variance * latent + sigma**2 * MEAN) / (variance + sigma**2)


def trajectory(sigma: float) -> Array:
    """The solution of the ODE at a level."""
    return MEAN + START * np.sqrt((SPREAD**2 + sigma**2) / (SPREAD**2 + 1.0))


def levels(kind: str, steps: int) -> tuple[float, ...]:
    """Smoothly spaced levels from HIGH to LOW, the last included."""
    ramp = np.linspace(0.0, 1.0, steps + 1)
    if kind == "exponential":
        return tuple((HIGH * (LOW / HIGH) ** ramp).tolist())
    return tuple(((HIGH ** (1 / 7) + ramp * (LOW ** (1 / 7) - HIGH ** (1 / 7))) ** 7).tolist())


def trained_on(kind: str) -> Config:
    """A config whose training timesteps have these levels, for samplers that take no others.

    Stable Diffusion's own rise like the root of t: evenly spaced timesteps are not smooth there.
    """
    sigmas = np.array(levels(kind, TRAINED - 1))[::-1]
    alphas = 1.0 / (1.0 + sigmas**2)
    betas = 1.0 - alphas / np.concatenate([[1.0], alphas[:-1]])
    return {
        "num_train_timesteps": TRAINED,
        "trained_betas": betas.tolist(),
        "timestep_spacing": "leading",
        "set_alpha_to_one": False,
        "clip_sample": False,
    }


def schedule_of(method: Method, kind: str, steps: int) -> Schedule:
    if method.on_timesteps:
        return build_schedule(trained_on(kind), sampler=method.name, steps=steps)
    config = {**BETAS, **method.config}
    sigmas = levels(kind, steps)
    return build_schedule(config, sampler=method.name, sigmas=sigmas, eta=method.eta)


def error(method: Method, kind: str, steps: int) -> float:
    """How far from the trajectory a run ends, relative.

    The sampler is driven in double precision, for which nothing but the annotation of its arrays
    has to give way: the rounding of single precision, 1e-7, would hide errors of 1e-8.
    """
    schedule = schedule_of(method, kind, steps)
    start: Any = trajectory(schedule.evaluations[0].sigma)
    run = sample(start, schedule, noise=Silence())
    evaluations = 0
    try:
        asked = next(run)
        while True:
            exact = evaluations < method.exact
            latent: Any = trajectory(asked.sigma) if exact else asked.latent
            evaluations += 1
            asked = run.send((latent, denoised(latent, asked.sigma)))  # pyright: ignore[reportArgumentType]
    except StopIteration as stop:
        found: Array = stop.value
    assert found.dtype == np.float64
    assert evaluations == len(schedule.evaluations)
    expected = trajectory(schedule.evaluations[-1].sigma_next)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


CASES = [
    pytest.param(method, kind, id=f"{name}-{kind}")
    for name, method in METHODS.items()
    for kind in ("karras", "exponential")
]


@pytest.mark.parametrize(("method", "kind"), CASES)
def test_error_falls_with_the_steps_as_the_order_of_the_method_says(
    method: Method, kind: str
) -> None:
    coarse, fine = (error(method, kind, steps) for steps in STEPS)
    assert math.log2(coarse / fine) == pytest.approx(method.order, abs=TOLERANCE)
