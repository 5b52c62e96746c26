"""Schedules and samplers of the k-diffusion family, where no config alone decides."""

from __future__ import annotations

import itertools
import math
from typing import Any

import diffusers
import numpy as np
import pytest
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.noise import Noise, TorchNoise
from latentrt.runtime.samplers import sample
from latentrt.runtime.schedules import Evaluation, Schedule, build_schedule
from latentrt.runtime.schedules.ancestral import ancestral_levels

Array = NDArray[np.float32]
Config = dict[str, Any]

# diffusers converts tensors in ways that NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

SD: Config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (4, 3, 2)
ROUNDING = 2.0**-22
"""Relative: two roundings of single precision, in which diffusers keeps levels."""
TIMESTEP = 1e-3
"""Timesteps follow from differences of logarithms in single precision: some 4e-4 of a thousand."""


def theirs(name: str, config: Config, *, steps: int | None = None, **asked: Any) -> Any:
    scheduler = getattr(diffusers, name)(**config)
    scheduler.set_timesteps(steps, **asked)
    return scheduler


def firsts(schedule: Schedule) -> list[float]:
    """The levels that steps begin at, and the one that the last ends on."""
    steps = [e for e in schedule.evaluations if e.stage == 0]
    return [*(e.sigma for e in steps), steps[-1].sigma_next]


def told(schedule: Schedule) -> list[float]:
    return [e.timestep for e in schedule.evaluations]


def drive(schedule: Schedule, noise: Noise) -> Array:
    """The end of a run whose estimate of x0 is something nonlinear."""
    run = sample(TorchNoise(1).normal(SHAPE) * schedule.init_scale, schedule, noise=noise)
    try:
        asked = next(run)
        while True:
            scaled = asked.latent / math.sqrt(asked.sigma**2 + 1.0)
            asked = run.send((asked.latent, np.tanh(scaled + math.cos(asked.timestep / 300.0))))
    except StopIteration as stop:
        return stop.value


class Counted(Noise):
    """Noise that counts its draws."""

    def __init__(self) -> None:
        self.draws = 0

    def normal(self, shape: tuple[int, ...]) -> Array:
        self.draws += 1
        return TorchNoise(self.draws).normal(shape)


TIMESTEPS = (999, 850, 402, 401, 20)


def test_euler_visits_the_timesteps_that_are_given_as_diffusers_does() -> None:
    reference = theirs("EulerDiscreteScheduler", SD, timesteps=list(TIMESTEPS))
    mine = build_schedule(SD, sampler="euler", timesteps=TIMESTEPS)
    np.testing.assert_allclose(firsts(mine), reference.sigmas, rtol=ROUNDING)
    assert told(mine) == reference.timesteps.tolist() == list(TIMESTEPS)


def test_heun_visits_the_timesteps_that_are_given_as_diffusers_does() -> None:
    reference = theirs("HeunDiscreteScheduler", SD, timesteps=list(TIMESTEPS))
    mine = build_schedule(SD, sampler="heun", timesteps=TIMESTEPS)
    levels = [e.sigma for e in mine.evaluations]
    np.testing.assert_allclose(levels, reference.sigmas[:-1], rtol=ROUNDING)
    assert told(mine) == reference.timesteps.tolist()


@pytest.mark.parametrize("last", [0.0, 0.05])
def test_euler_visits_the_levels_that_are_given_as_diffusers_does(last: float) -> None:
    sigmas = (12.5, 7.0, 3.1, 0.8, 0.2, last)
    reference = theirs("EulerDiscreteScheduler", SD, sigmas=list(sigmas))
    mine = build_schedule(SD, sampler="euler", sigmas=sigmas)
    np.testing.assert_allclose(firsts(mine), reference.sigmas, rtol=ROUNDING)
    np.testing.assert_allclose(told(mine), reference.timesteps, atol=TIMESTEP)
    assert mine.init_scale == pytest.approx(float(reference.init_noise_sigma), rel=ROUNDING)


def test_heun_that_ends_above_no_noise_has_its_second_evaluation_there() -> None:
    mine = build_schedule(SD, sampler="heun", sigmas=(9.0, 2.0, 0.5))
    levels = [(e.sigma, e.sigma_next, e.stage) for e in mine.evaluations]
    assert levels == [(9.0, 2.0, 0), (2.0, 2.0, 1), (2.0, 0.5, 0), (0.5, 0.5, 1)]
    reference = theirs("EulerDiscreteScheduler", SD, sigmas=[9.0, 2.0, 0.5, 0.0])
    expected = [*reference.timesteps[:2].tolist(), *reference.timesteps[1:].tolist()]
    np.testing.assert_allclose(told(mine), expected, atol=TIMESTEP)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_dpm2_looks_halfway_in_the_logarithm_to_where_it_steps(eta: float) -> None:
    sigmas = (9.0, 2.0, 0.5, 0.0)
    # Exact levels: 2 and 0.5 of 9 and 2 leave downs of sqrt(n^2 (1 - eta^2 (1 - (n / s)^2))).
    downs = [
        n * math.sqrt(1.0 - eta**2 * (1.0 - (n / s) ** 2)) for s, n in itertools.pairwise(sigmas)
    ]
    for sampler, ends in (("dpm2", sigmas[1:]), ("dpm2_ancestral", downs)):
        asked = eta if sampler == "dpm2_ancestral" else None
        mine = build_schedule(SD, sampler=sampler, sigmas=sigmas, eta=asked)
        middles = [e.sigma for e in mine.evaluations if e.stage == 1]
        pairs = zip(sigmas, ends, strict=False)
        expected = [math.sqrt(s * end) for s, end in pairs if end > 0.0]
        np.testing.assert_allclose(middles, expected, rtol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("sigmas", [(14.6, 9.0), (9.0, 0.03), (2.0, 2.0), (0.1, 0.0)])
def test_ancestral_levels_are_those_of_k_diffusion(sigmas: tuple[float, float], eta: float) -> None:
    start, end = sigmas
    # k-diffusion's get_ancestral_step, in double precision.
    up = min(end, eta * (end**2 * (start**2 - end**2) / start**2) ** 0.5)
    down = (end**2 - up**2) ** 0.5
    # The reference subtracts squares that are close: 9 to 0.03 costs it five digits of sixteen.
    assert ancestral_levels(start, end, eta) == pytest.approx((down, up), rel=1e-10)


@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("sampler", ["euler", "dpm2"])
def test_ancestral_sampler_without_fresh_noise_is_the_plain_one(sampler: str, steps: int) -> None:
    noise = Counted()
    ancestral = build_schedule(SD, sampler=f"{sampler}_ancestral", steps=steps, eta=0.0)
    plain = build_schedule(SD, sampler=sampler, steps=steps)
    np.testing.assert_array_equal(drive(ancestral, noise), drive(plain, noise))
    assert noise.draws == 0


@pytest.mark.parametrize(("sampler", "draws"), [("euler_ancestral", 6), ("dpm2_ancestral", 5)])
def test_ancestral_sampler_draws_as_often_as_diffusers_whatever_its_share(
    sampler: str, draws: int
) -> None:
    for eta in (None, 0.5):
        noise = Counted()
        drive(build_schedule(SD, sampler=sampler, steps=6, eta=eta), noise)
        assert noise.draws == draws


@pytest.mark.parametrize("kind", ["karras", "exponential", "beta"])
def test_euler_ancestral_takes_levels_that_only_its_sibling_has_a_key_for(kind: str) -> None:
    reference = theirs("EulerDiscreteScheduler", {**SD, f"use_{kind}_sigmas": True}, steps=9)
    mine = build_schedule(SD, sampler="euler_ancestral", steps=9, schedule=kind)
    np.testing.assert_allclose(firsts(mine), reference.sigmas, rtol=ROUNDING)
    np.testing.assert_allclose(told(mine), reference.timesteps, atol=TIMESTEP)


@pytest.mark.parametrize("kind", ["karras", "exponential", "beta"])
@pytest.mark.parametrize("sampler", ["heun", "dpm2", "dpm2_ancestral", "lms"])
def test_range_of_levels_left_by_another_class_is_read_as_diffusers_reads_it(
    sampler: str, kind: str
) -> None:
    names = {
        "heun": "HeunDiscreteScheduler",
        "dpm2": "KDPM2DiscreteScheduler",
        "dpm2_ancestral": "KDPM2AncestralDiscreteScheduler",
        "lms": "LMSDiscreteScheduler",
    }
    config, left = {**SD, f"use_{kind}_sigmas": True}, {"sigma_min": 0.1, "sigma_max": 9.0}
    reference = getattr(diffusers, names[sampler])(**config)
    # None of these classes takes the two keys; each reads them, and LMS not for karras.
    reference.register_to_config(**left)
    reference.set_timesteps(8)
    # Those of second order list every level but the first twice.
    levels = sorted({*reference.sigmas.tolist()}, reverse=True)
    mine = build_schedule({**config, **left}, sampler=sampler, steps=8)
    np.testing.assert_allclose(firsts(mine), levels, rtol=ROUNDING)


def test_log_linear_levels_of_a_continuous_model_are_those_of_diffusers() -> None:
    config = {
        **SD,
        "interpolation_type": "log_linear",
        "timestep_type": "continuous",
        "prediction_type": "v_prediction",
    }
    reference = theirs("EulerDiscreteScheduler", config, steps=7)
    mine = build_schedule(config, sampler="euler", steps=7)
    # There is a level more than asked for, and the model is told of every level.
    assert len(mine.evaluations) == len(reference.timesteps) == 8
    # diffusers spaces their logarithms, up to 3, in single precision: 2e-7 each, and a few of them.
    np.testing.assert_allclose(firsts(mine), reference.sigmas, rtol=1e-6)
    np.testing.assert_allclose(told(mine), reference.timesteps, atol=1e-6)


EDM: Config = {"_class_name": "EDMEulerScheduler", "sigma_data": 0.25}


@pytest.mark.parametrize("kind", ["karras", "exponential"])
def test_edm_levels_asked_of_a_run_are_those_of_the_config(kind: str) -> None:
    config = {"sigma_data": 0.25, "sigma_schedule": kind}
    reference = theirs("EDMEulerScheduler", config, steps=9)
    mine = build_schedule(EDM, steps=9, schedule=kind)
    scaled = [sigma * 0.25 for sigma in firsts(mine)]
    np.testing.assert_allclose(scaled, reference.sigmas, rtol=2 * ROUNDING)
    np.testing.assert_allclose(told(mine), reference.timesteps, rtol=1e-5)


def test_edm_rho_asked_of_a_run_goes_before_that_of_the_config() -> None:
    config = {**EDM, "rho": 5.0}
    for asked, rho in ((None, 5.0), (3.0, 3.0)):
        reference = theirs("EDMEulerScheduler", {"sigma_data": 0.25, "rho": rho}, steps=6)
        mine = build_schedule(config, steps=6, schedule="karras", rho=asked)
        scaled = [sigma * 0.25 for sigma in firsts(mine)]
        np.testing.assert_allclose(scaled, reference.sigmas, rtol=2 * ROUNDING)


def test_edm_levels_that_are_given_are_at_the_scale_of_the_data() -> None:
    mine = build_schedule(EDM, sigmas=(40.0, 5.0, 0.5, 0.0))
    assert firsts(mine) == [160.0, 20.0, 2.0, 0.0]
    assert told(mine) == pytest.approx([0.25 * math.log(s) for s in (40.0, 5.0, 0.5)], rel=1e-12)
    assert (mine.init_scale, mine.final_scale) == (4.0 * math.sqrt(1601.0), 0.25)


def test_lms_takes_a_step_of_length_zero() -> None:
    def schedule(*levels: float) -> Schedule:
        steps = tuple(Evaluation(10.0 * s, s, n) for s, n in itertools.pairwise(levels))
        return Schedule("lms", steps, levels[0], 1.0, "epsilon")

    # No polynomial has two values at one level: what was known there before is known again.
    still = drive(schedule(9.0, 4.0, 4.0, 2.0, 1.0, 0.0), TorchNoise(0))
    np.testing.assert_allclose(
        still, drive(schedule(9.0, 4.0, 2.0, 1.0, 0.0), TorchNoise(0)), rtol=1e-6
    )


REFUSED = [
    *itertools.product(("euler", "heun", "dpm2", "lms"), ("eta",)),
    *itertools.product(("euler_ancestral", "dpm2", "dpm2_ancestral", "lms"), ("timesteps",)),
]


@pytest.mark.parametrize(("sampler", "field"), REFUSED)
def test_an_option_without_a_key_in_the_class_is_refused(sampler: str, field: str) -> None:
    wish: Config = {"eta": 0.5} if field == "eta" else {"timesteps": TIMESTEPS}
    with pytest.raises(InputError, match=rf"^{field}: expected none with "):
        build_schedule(SD, sampler=sampler, **wish)


@pytest.mark.parametrize(
    ("config", "asked", "field"),
    [
        ({"sigma_schedule": "linear"}, {}, "scheduler config 'sigma_schedule'"),
        ({"sigma_min": 90.0}, {}, "scheduler config 'sigma_min'"),
        ({"rho": 0.0}, {}, "scheduler config 'rho'"),
        ({"sigma_data": 0.0}, {}, "scheduler config 'sigma_data'"),
        ({"prediction_type": "sample"}, {}, "scheduler config 'prediction_type'"),
        ({}, {"schedule": "align_your_steps"}, "schedule"),
        ({}, {"eta": 0.5}, "eta"),
        ({}, {"timesteps": TIMESTEPS}, "timesteps"),
    ],
)
def test_edm_config_that_means_nothing_is_refused_by_its_key(
    config: Config, asked: Config, field: str
) -> None:
    with pytest.raises(InputError) as error:
        build_schedule({**EDM, **config}, steps=5, **asked)
    assert error.value.field == field
