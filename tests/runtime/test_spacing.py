"""Levels and timesteps that a run asks for, held against diffusers, k-diffusion and NVIDIA."""

from __future__ import annotations

import inspect
import math
from typing import Any

import diffusers
import numpy as np
import pytest
from diffusers.schedulers.scheduling_utils import AysSchedules
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules import (
    CATALOGUE,
    Schedule,
    build_schedule,
    schedules_of,
)

# diffusers converts tensors in ways that NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

Config = dict[str, Any]

SD: Config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

CLASSES = sorted({name.class_name for name in CATALOGUE.values()})
EDM = ("EDMDPMSolverMultistepScheduler", "EDMEulerScheduler")
WITH_LEVELS = [name for name in CLASSES if "karras" in schedules_of(name)]
"""Classes that work on noise levels, rather than on the timesteps of training alone."""
DISCRETE = [name for name in WITH_LEVELS if name not in EDM]

ROUNDING = 2.0**-23
"""Relative. PyTorch's square root is, on some machines, one rounding of single precision off."""


def reference(class_name: str, config: Config) -> Any:
    """A diffusers scheduler, with the keys that its class takes."""
    kind: Any = getattr(diffusers, class_name)
    taken = inspect.signature(kind).parameters
    return kind(**{key: value for key, value in config.items() if key in taken})


def takes(class_name: str, argument: str) -> bool:
    """Whether a diffusers class lets its timesteps or levels be set outright."""
    return argument in inspect.signature(getattr(diffusers, class_name).set_timesteps).parameters


def training_levels() -> NDArray[np.float64]:
    """The levels of SD's training timesteps, from diffusers' cumulative alphas, rising."""
    alphas = reference("DDIMScheduler", SD).alphas_cumprod.double().numpy()
    return np.sqrt((1.0 - alphas) / alphas)


def levels_of(class_name: str, schedule: Schedule) -> list[float]:
    """The levels that a schedule's steps begin at, at the scale of the model's own data."""
    scale = 0.5 if class_name in EDM else 1.0
    return [scale * e.sigma for e in schedule.evaluations if e.stage == 0]


def expected_levels(schedule: str, steps: int, low: float, high: float, rho: float) -> Any:
    """Levels from `high` to `low` as diffusers has them, or as k-diffusion does."""
    ends = np.array([high, low])
    euler = reference("EulerDiscreteScheduler", SD)
    if schedule == "exponential":
        return euler._convert_to_exponential(ends, steps)
    if schedule == "beta":
        return euler._convert_to_beta(ends, steps)
    if schedule == "karras" and rho == 7.0:
        return euler._convert_to_karras(ends, steps)
    ramp = np.linspace(0.0, 1.0, steps)
    if schedule == "karras":
        # arXiv:2206.00364, eq. 5; diffusers has no other exponent.
        return (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    # k-diffusion's get_sigmas_polyexponential.
    return np.exp((1.0 - ramp) ** rho * (math.log(high) - math.log(low)) + math.log(low))


SPACED_LEVELS = [
    ("beta", None),
    ("exponential", None),
    ("karras", None),
    ("karras", 7.0),
    ("karras", 3.5),
    ("polyexponential", None),
    ("polyexponential", 1.0),
    ("polyexponential", 0.6),
    ("polyexponential", 2.0),
]


@pytest.mark.parametrize(("schedule", "rho"), SPACED_LEVELS)
@pytest.mark.parametrize("class_name", WITH_LEVELS)
def test_levels_spaced_for_their_own_sake_span_those_of_training(
    class_name: str, schedule: str, rho: float | None
) -> None:
    table = training_levels()
    low, high = (0.002, 80.0) if class_name in EDM else (table[0], table[-1])
    exponent = rho or (7.0 if schedule == "karras" else 1.0)
    # EDM's single exponential level is the lowest, which the matrix holds.
    for steps in (2, 3, 10, 25):
        made = build_schedule(SD, steps=steps, sampler=class_name, schedule=schedule, rho=rho)
        expected = expected_levels(schedule, steps, low, high, exponent)
        # The ends are rounded to single precision, and so are the levels.
        np.testing.assert_allclose(levels_of(class_name, made), expected, rtol=3 * ROUNDING)


@pytest.mark.parametrize("schedule", ["beta", "exponential", "karras", "polyexponential"])
@pytest.mark.parametrize(
    "class_name", [name for name in WITH_LEVELS if name != "EulerAncestralDiscreteScheduler"]
)
def test_levels_span_the_range_that_a_config_asks_for(class_name: str, schedule: str) -> None:
    if class_name in ("DPMSolverSDEScheduler", "LMSDiscreteScheduler") and schedule == "karras":
        # Their karras levels alone span those that the timesteps visit, in diffusers and here.
        schedule = "exponential"
    config = {**SD, "sigma_min": 0.1, "sigma_max": 9.0}
    made = build_schedule(config, steps=12, sampler=class_name, schedule=schedule)
    exponent = 7.0 if schedule == "karras" else 1.0
    expected = expected_levels(schedule, 12, 0.1, 9.0, exponent)
    np.testing.assert_allclose(levels_of(class_name, made), expected, rtol=3 * ROUNDING)


@pytest.mark.parametrize("xl", [False, True])
@pytest.mark.parametrize("class_name", DISCRETE)
def test_aligned_steps_are_those_that_diffusers_ships(class_name: str, xl: bool) -> None:
    published = AysSchedules[f"StableDiffusion{'XL' if xl else ''}Sigmas"]
    made = build_schedule(SD, steps=10, sampler=class_name, schedule="align_your_steps", xl=xl)
    np.testing.assert_allclose(levels_of(class_name, made), published[:-1], rtol=2 * ROUNDING)
    # DEIS cannot step to 0: it ends on the lowest level of training, as without them.
    last = training_levels()[0] if class_name == "DEISMultistepScheduler" else published[-1]
    assert made.evaluations[-1].sigma_next == pytest.approx(last, rel=1e-6)


@pytest.mark.parametrize("steps", [1, 4, 7, 20, 33])
@pytest.mark.parametrize("xl", [False, True])
def test_aligned_steps_of_other_numbers_are_interpolated_in_their_logarithm(
    xl: bool, steps: int
) -> None:
    # As NVIDIA's quick start does; there the lowest of eleven is 0.029, and the run ends on 0.
    published = AysSchedules[f"StableDiffusion{'XL' if xl else ''}Sigmas"]
    table = [*published[:-1], 0.029]
    at = np.linspace(0.0, 1.0, steps + 1)
    logs = np.interp(at, np.linspace(0.0, 1.0, len(table)), np.log(table[::-1]))
    expected = np.exp(logs)[::-1][:-1]
    made = build_schedule(SD, steps=steps, sampler="euler", schedule="align_your_steps", xl=xl)
    np.testing.assert_allclose(levels_of("", made), expected, rtol=2 * ROUNDING)


SIGMAS = (11.3, 4.0, 1.25, 0.3, 0.02)


@pytest.mark.parametrize("class_name", WITH_LEVELS)
def test_levels_given_outright_are_visited(class_name: str) -> None:
    made = build_schedule(SD, sampler=class_name, sigmas=SIGMAS)
    np.testing.assert_allclose(levels_of(class_name, made), SIGMAS[:-1], rtol=ROUNDING)
    scale = 0.5 if class_name in EDM else 1.0
    assert scale * made.evaluations[-1].sigma_next == pytest.approx(SIGMAS[-1], rel=ROUNDING)
    told = [e.timestep for e in made.evaluations if e.stage == 0]
    if class_name in EDM:
        # arXiv:2206.00364, Table 1 (c_noise).
        np.testing.assert_allclose(told, 0.25 * np.log(SIGMAS[:-1]), rtol=1e-6)
        return
    theirs = reference("EulerDiscreteScheduler", SD)
    theirs.set_timesteps(sigmas=list(SIGMAS))
    # Some classes round the timesteps, some leave out what is behind the point.
    np.testing.assert_allclose(told, theirs.timesteps, rtol=0, atol=1.0)
    assert all(t == round(t) for t in told) or np.allclose(told, theirs.timesteps, atol=4e-4)


@pytest.mark.parametrize("class_name", [name for name in CLASSES if takes(name, "timesteps")])
def test_timesteps_given_outright_are_visited(class_name: str) -> None:
    timesteps = (999, 801, 400, 77, 3)
    made = build_schedule(SD, sampler=class_name, timesteps=timesteps)
    first = [e for e in made.evaluations if e.stage == 0]
    assert tuple(e.timestep for e in first) == timesteps
    expected = training_levels()[list(timesteps)]
    np.testing.assert_allclose([e.sigma for e in first], expected, rtol=2 * ROUNDING)


@pytest.mark.parametrize("class_name", [name for name in CLASSES if not takes(name, "timesteps")])
def test_timesteps_are_refused_where_the_diffusers_class_takes_none(class_name: str) -> None:
    with pytest.raises(InputError, match=rf"^timesteps: expected none with {class_name}"):
        build_schedule(SD, sampler=class_name, timesteps=(900, 500))


@pytest.mark.parametrize("class_name", sorted(set(CLASSES) - set(WITH_LEVELS)))
def test_levels_are_refused_where_only_timesteps_count(class_name: str) -> None:
    with pytest.raises(InputError, match=rf"^sigmas: expected none with {class_name}"):
        build_schedule(SD, sampler=class_name, sigmas=(9.0, 1.0, 0.0))


@pytest.mark.parametrize(
    "timesteps", [(), (5, 5), (5, 9), (1000,), (9, -1), (math.nan,), (9, math.nan)]
)
@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m", "euler", "lcm"])
def test_timesteps_that_no_run_has_are_refused(sampler: str, timesteps: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match=r"^(timesteps|steps): expected "):
        build_schedule(SD, sampler=sampler, timesteps=timesteps)


def test_fractional_timesteps_are_refused_where_levels_are_those_of_training() -> None:
    with pytest.raises(InputError, match=r"^timesteps: expected whole numbers"):
        build_schedule(SD, sampler="ddpm", timesteps=(900.0, 500.5))


@pytest.mark.parametrize(
    "sigmas",
    [(), (5.0,), (5.0, 5.0), (1.0, 2.0), (1.0, -1.0), (math.inf, 1.0), (2.0, math.nan), (2e6, 0.0)],
)
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "edm_euler", "euler", "unipc"])
def test_levels_that_no_run_has_are_refused(sampler: str, sigmas: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match=r"^sigmas: expected at least two falling numbers"):
        build_schedule(SD, sampler=sampler, sigmas=sigmas)


def test_given_timesteps_and_levels_exclude_each_other() -> None:
    with pytest.raises(InputError, match=r"^sigmas: expected none where timesteps are given"):
        build_schedule(SD, sampler="euler", sigmas=(2.0, 0.0), timesteps=(500,))
    with pytest.raises(InputError, match=r"^schedule: expected none where timesteps or sigmas"):
        build_schedule(SD, sampler="euler", sigmas=(2.0, 0.0), schedule="karras")
    karras = {**SD, "use_karras_sigmas": True}
    with pytest.raises(InputError, match=r"^timesteps: expected none where use_karras_sigmas"):
        build_schedule(karras, sampler="euler", timesteps=(500,))


@pytest.mark.parametrize(
    ("schedule", "rho"),
    [("karras", 0.0), ("karras", 1e3), ("karras", math.nan), ("beta", 7.0), (None, 7.0)],
)
def test_exponent_that_levels_do_not_have_is_refused(schedule: str | None, rho: float) -> None:
    with pytest.raises(InputError, match=r"^rho: expected "):
        build_schedule(SD, sampler="euler", schedule=schedule, rho=rho)
