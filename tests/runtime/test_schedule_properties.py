"""Any config whatever: a schedule that can be run, or an error that names what is wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from latentrt.bundle.errors import InputError
from latentrt.runtime.noise import TorchNoise
from latentrt.runtime.samplers import Array, sample
from latentrt.runtime.schedules import SCHEDULES, Schedule, build_schedule
from latentrt.runtime.schedules.classes import CLASS_DEFAULTS

Config = dict[str, Any]

SHAPE = (2, 3, 3)
ARGUMENTS = {"eta", "prediction_type", "rho", "sampler", "schedule", "sigmas", "steps", "timesteps"}
"""What an error may name beside the keys of a config."""

SMALL = st.floats(1e-6, 0.05)
COUNTS = st.integers(1, 60) | st.integers(1, 1200)
CONFIG_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "_class_name": st.sampled_from(sorted(CLASS_DEFAULTS)),
    "algorithm_type": st.sampled_from(
        ["dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver", "deis"]
    ),
    "beta_end": SMALL,
    "beta_schedule": st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
    "beta_start": SMALL,
    "clip_sample": st.booleans(),
    "clip_sample_range": st.floats(0.1, 10.0),
    "disable_corrector": st.lists(st.integers(0, 40), max_size=3),
    "dynamic_thresholding_ratio": st.floats(0.0, 1.0),
    "euler_at_final": st.booleans(),
    "final_sigmas_type": st.sampled_from(["zero", "sigma_min"]),
    "interpolation_type": st.sampled_from(["linear", "log_linear"]),
    "lambda_min_clipped": st.just(-math.inf) | st.floats(-8.0, 3.0),
    "lower_order_final": st.booleans(),
    "num_train_timesteps": st.integers(1, 1200),
    "original_inference_steps": st.integers(1, 1200),
    "predict_x0": st.booleans(),
    "prediction_type": st.sampled_from(["epsilon", "sample", "v_prediction"]),
    "rescale_betas_zero_snr": st.booleans(),
    "rho": st.floats(0.5, 20.0),
    "sample_max_value": st.floats(1.0, 10.0),
    "set_alpha_to_one": st.booleans(),
    "sigma_data": st.floats(0.1, 2.0),
    "sigma_max": st.none() | st.floats(1e-3, 200.0),
    "sigma_min": st.none() | st.floats(1e-3, 20.0),
    "sigma_schedule": st.sampled_from(["karras", "exponential"]),
    "skip_prk_steps": st.booleans(),
    "solver_order": st.integers(1, 3),
    "solver_type": st.sampled_from(["midpoint", "heun", "logrho", "bh1", "bh2"]),
    "steps_offset": st.integers(0, 3),
    "thresholding": st.booleans(),
    "timestep_scaling": st.floats(0.0, 100.0),
    "timestep_spacing": st.sampled_from(["leading", "linspace", "trailing"]),
    "timestep_type": st.sampled_from(["discrete", "continuous"]),
    "variance_type": st.none()
    | st.sampled_from(["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"]),
}
"""What could be written in good faith; together some of it asks for too much."""


def falling(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[float, ...]]:
    """Lists as a user gives them: most fall, some do not."""
    lists = st.lists(numbers, min_size=1, max_size=12)
    return lists.map(lambda each: tuple(sorted(set(each), reverse=True))) | lists.map(tuple)


KINDS = ("use_beta_sigmas", "use_exponential_sigmas", "use_karras_sigmas", "use_lu_lambdas")


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """A few keys of a config, most often with one kind of levels or none."""
    keys = draw(st.sets(st.sampled_from(sorted(CONFIG_VALUES)), max_size=12))
    kinds = draw(st.just([]) | st.lists(st.sampled_from(KINDS), max_size=2))
    return {**{key: draw(CONFIG_VALUES[key]) for key in sorted(keys)}, **dict.fromkeys(kinds, True)}


EXPONENTS = st.floats(0.5, 20.0)
VISITED: st.SearchStrategy[Config] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"schedule": st.sampled_from(SCHEDULES)}, optional={"xl": st.booleans()}),
    st.fixed_dictionaries(
        {"schedule": st.sampled_from(["karras", "polyexponential"]), "rho": EXPONENTS}
    ),
    st.fixed_dictionaries({"sigmas": falling(st.floats(0.0, 200.0))}),
    st.fixed_dictionaries({"timesteps": falling(st.integers(0, 1000).map(float))}),
    st.fixed_dictionaries({"timesteps": falling(st.floats(0.0, 1000.0))}),
    st.fixed_dictionaries({"rho": EXPONENTS, "schedule": st.none()}),
)
ETAS = st.sampled_from([*[None] * 6, 0.0, 0.3, 1.0])
"""Few samplers have one."""
SAMPLERS = [None, *sorted(CLASS_DEFAULTS)]


def made(config: Config, arguments: Config) -> Schedule | None:
    """The schedule, or None where the error names a key or an argument."""
    try:
        return build_schedule(config, **arguments)
    except InputError as error:
        field = error.field
    # Beside its own, defaults that do not go with them.
    keys = (*config, "_class_name", "beta_schedule", "original_inference_steps", "sigma_min")
    assert field in {*ARGUMENTS, *(f"scheduler config '{key}'" for key in keys)}
    return None


# Levels so far from the data that their logarithms round to the same.
TIED: Config = {"beta_start": 0.048828125, "beta_end": 1e-06}
# An end above which training's levels begin, and a level that single precision takes for 0.
RISING: Config = {"sigma_max": 0.001}
LOW: Config = {"sigmas": (1.0, 1e-300, 0.0)}


@pytest.mark.parametrize("sampler", SAMPLERS)
@settings(max_examples=60, deadline=None)
@example(config=TIED, steps=1, eta=None, visited={"schedule": "karras"})
@example(config=RISING, steps=2, eta=None, visited={"schedule": "beta"})
@example(config={}, steps=2, eta=None, visited=LOW)
@given(
    config=configs(),
    steps=COUNTS,
    eta=ETAS,
    visited=VISITED,
)
def test_any_config_gives_finite_falling_levels_or_a_named_error(
    config: Config, sampler: str | None, steps: int, eta: float | None, visited: Config
) -> None:
    schedule = made(config, {"sampler": sampler, "steps": steps, "eta": eta, **visited})
    if schedule is None:
        return
    begun = [e for e in schedule.evaluations if e.stage == 0]
    levels = [e.sigma for e in begun]
    count = len(visited.get("timesteps", visited.get("sigmas", (0,) * (steps + 1))[1:]))
    assert 1 <= len(levels) <= max(count, 1)
    assert levels == sorted(levels, reverse=True)
    assert all(0.0 <= e.sigma_next <= e.sigma for e in begun)
    for e in schedule.evaluations:
        assert math.isfinite(e.timestep)
        assert 0.0 < e.sigma < math.inf
        assert type(e.sigma) is type(e.sigma_next) is type(e.timestep) is float
    assert 0.0 < schedule.init_scale < math.inf
    assert 0.0 < schedule.final_scale < math.inf


@pytest.mark.parametrize("sampler", SAMPLERS)
@settings(max_examples=60, deadline=None)
@given(
    config=configs(),
    steps=st.integers(1, 12) | st.integers(1, 60),
    eta=ETAS,
    visited=VISITED,
)
def test_any_schedule_takes_noise_to_something_finite(
    config: Config, sampler: str | None, steps: int, eta: float | None, visited: Config
) -> None:
    schedule = made(config, {"sampler": sampler, "steps": steps, "eta": eta, **visited})
    if schedule is None:
        return
    noise = TorchNoise(0)
    start = noise.normal(SHAPE) * np.float32(schedule.init_scale)
    run = sample(start, schedule, noise=noise)
    result: Array | None = None
    request = next(run)
    for _ in schedule.evaluations:
        assert np.isfinite(request.latent).all()
        assert result is None
        # The estimate that is right where the data themselves are noise of unit variance.
        estimate = request.latent / (request.sigma**2 + 1.0)
        try:
            request = run.send((request.latent, estimate))
        except StopIteration as stop:
            result = stop.value
    assert result is not None
    assert np.isfinite(result).all()
    assert result.dtype == np.float32
