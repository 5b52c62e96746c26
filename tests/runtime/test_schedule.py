"""Schedules, held against the levels and timesteps that diffusers sets."""

from __future__ import annotations

import itertools
import math
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules import (
    SCHEDULES,
    Evaluation,
    Schedule,
    build_schedule,
)
from latentrt.runtime.schedules.betas import cumulative_alphas
from latentrt.runtime.schedules.config import read_config
from latentrt.runtime.schedules.keys import SAMPLER_CLASSES, SOURCES

# diffusers converts tensors in ways that NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

Config = dict[str, Any]

SD: Config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
ROUNDING = 2.0**-23
"""Relative. PyTorch's square root is, on some machines, one rounding of single precision off."""


def diffusers_scheduler(sampler: str, config: Config) -> Any:
    return getattr(diffusers, SAMPLER_CLASSES[sampler])(**config)


@pytest.fixture
def exact_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch with a square root that is rounded once, on every machine."""

    def root(x: torch.Tensor) -> torch.Tensor:
        return x.double().pow(0.5).float()

    monkeypatch.setattr(torch.Tensor, "sqrt", root)


BETAS: dict[str, Config] = {
    "stable_diffusion": SD,
    "default": {},
    "linear": {"beta_schedule": "linear", "beta_start": 0.0003, "beta_end": 0.03},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "few": {**SD, "num_train_timesteps": 37},
    "many": {**SD, "num_train_timesteps": 2000, "beta_end": 0.006},
    "trained": {"trained_betas": np.linspace(0.001, 0.02, 60).tolist(), "num_train_timesteps": 60},
}


@pytest.mark.usefixtures("exact_roots")
@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("name", BETAS)
def test_cumulative_alphas_are_those_of_diffusers_bit_for_bit(name: str, zero_snr: bool) -> None:
    config = {**BETAS[name], "rescale_betas_zero_snr": zero_snr}
    theirs = diffusers_scheduler("ddim", config).alphas_cumprod.numpy()
    floor = 2.0**-40 if zero_snr else 0.0
    mine = cumulative_alphas(read_config(config, "ddim"), floor=floor)
    np.testing.assert_array_equal(mine[:-1], theirs[:-1])
    assert mine[-1] == (floor if zero_snr else theirs[-1])
    assert theirs[-1] == 0.0 or not zero_snr


RESPACED: dict[str, Config] = {
    "uniform": {},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "karras_range": {"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 11.5},
    "sigma_min": {"final_sigmas_type": "sigma_min"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "cosine_karras": {"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": True},
}
SPACINGS = ("leading", "linspace", "trailing")
STEPS = (1, 2, 3, 7, 20, 25, 30, 49, 100)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", RESPACED)
def test_euler_levels_and_timesteps_are_those_of_diffusers(kind: str, spacing: str) -> None:
    config = {**SD, "timestep_spacing": spacing, "steps_offset": 1, **RESPACED[kind]}
    for steps in STEPS:
        theirs = diffusers_scheduler("euler", config)
        theirs.set_timesteps(steps)
        mine = build_schedule(config, steps=steps, sampler="euler")
        assert_same_levels(mine, theirs)
        follows = "karras" in kind or kind == "exponential"
        # Where the levels are spaced, the timesteps follow from their logarithms, to a few 1e-7 of
        # the logarithm's range: 4e-4 of a thousand timesteps.
        told = [e.timestep for e in mine.evaluations]
        np.testing.assert_allclose(told, theirs.timesteps, atol=4e-4 if follows else 0)
        assert mine.init_scale == pytest.approx(float(theirs.init_noise_sigma), rel=2 * ROUNDING)
        assert mine.final_scale == 1.0


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", RESPACED)
def test_dpmpp_2m_levels_and_timesteps_are_those_of_diffusers(kind: str, spacing: str) -> None:
    config = {**SD, "timestep_spacing": spacing, "steps_offset": 1, **RESPACED[kind]}
    hidden = {key: config.pop(key) for key in ("sigma_min", "sigma_max") if key in config}
    for steps in STEPS:
        theirs = diffusers_scheduler("dpmpp_2m", config)
        # The class does not take these, but reads them where another class's config left them.
        theirs.register_to_config(**hidden)
        theirs.set_timesteps(steps)
        mine = build_schedule({**config, **hidden}, steps=steps, sampler="dpmpp_2m")
        assert_same_levels(mine, theirs)
        assert [e.timestep for e in mine.evaluations] == theirs.timesteps.tolist()


def assert_same_levels(mine: Schedule, theirs: Any) -> None:
    levels = [(e.sigma, e.sigma_next) for e in mine.evaluations]
    expected = theirs.sigmas.tolist()
    pairs = list(itertools.pairwise(expected))
    np.testing.assert_allclose(levels, pairs, rtol=2 * ROUNDING, atol=0)


@pytest.mark.parametrize("to_one", [False, True])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_ddim_levels_are_the_cumulative_alphas_that_diffusers_steps_between(
    spacing: str, to_one: bool
) -> None:
    config = {**SD, "timestep_spacing": spacing, "steps_offset": 1, "set_alpha_to_one": to_one}
    for steps in STEPS:
        theirs = diffusers_scheduler("ddim", config)
        theirs.set_timesteps(steps)
        mine = build_schedule(config, steps=steps, sampler="ddim")
        assert [e.timestep for e in mine.evaluations] == theirs.timesteps.tolist()
        for e, t in zip(mine.evaluations, theirs.timesteps.tolist(), strict=True):
            below = t - 1000 // steps
            alpha = theirs.alphas_cumprod[t].item()
            alpha_next = theirs.final_alpha_cumprod if below < 0 else theirs.alphas_cumprod[below]
            # alpha = 1 / (1 + sigma**2); the near-zero difference of the last one is not relative.
            assert 1.0 / (1.0 + e.sigma**2) == pytest.approx(alpha, rel=1e-12)
            assert 1.0 / (1.0 + e.sigma_next**2) == pytest.approx(alpha_next.item(), rel=1e-12)
        last = mine.evaluations[-1].sigma_next
        assert mine.final_scale == pytest.approx(1.0 / math.sqrt(1.0 + last**2), rel=1e-12)
        assert to_one or last > 0.0


@pytest.mark.parametrize("sampler", SAMPLER_CLASSES)
def test_trailing_never_visits_a_timestep_that_no_model_has(sampler: str) -> None:
    config = {**SD, "timestep_spacing": "trailing"}
    theirs = diffusers_scheduler(sampler, config)
    theirs.set_timesteps(61)
    # 1000 / 61 is rounded so that 61 of them fall short of 1000: diffusers goes on to -1.
    assert theirs.timesteps[-1] == -1
    mine = build_schedule(config, steps=61, sampler=sampler)
    assert [e.timestep for e in mine.evaluations] == theirs.timesteps.tolist()[:61]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule_overrides_the_spacing_of_the_config(name: str) -> None:
    config = {**SD, "timestep_spacing": "trailing", "use_karras_sigmas": name != "karras"}
    asked = build_schedule(config, steps=9, sampler="euler", schedule=name)
    if name in SPACINGS:
        wanted = {"timestep_spacing": name, "use_karras_sigmas": False}
    else:
        wanted = {"use_karras_sigmas": False, f"use_{name}_sigmas": True}
    assert asked == build_schedule({**config, **wanted}, steps=9, sampler="euler")
    assert asked != build_schedule(config, steps=9, sampler="euler")


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, True, "20", None])
def test_steps_that_are_no_number_of_steps_are_refused(steps: Any) -> None:
    with pytest.raises(InputError, match=r"^steps: expected an integer from 1 to 1000, got "):
        build_schedule(SD, steps=steps, sampler="euler")


@pytest.mark.parametrize("steps", [999, 1000])
def test_steps_that_leading_cannot_tell_apart_are_refused(steps: int) -> None:
    config = {**SD, "timestep_spacing": "leading"}
    if steps == 999:
        assert len(build_schedule(config, steps=steps, sampler="dpmpp_2m").evaluations) == 999
    else:
        with pytest.raises(InputError, match=r"^steps: expected at most 999 with leading"):
            build_schedule(config, steps=steps, sampler="dpmpp_2m")


def test_timestep_beyond_the_last_is_refused_where_diffusers_fails() -> None:
    config = {**SD, "steps_offset": 1, "timestep_spacing": "leading"}
    theirs = diffusers_scheduler("ddim", config)
    theirs.set_timesteps(1000)
    zeros = torch.zeros(1, 1, 2, 2)
    with pytest.raises(IndexError):
        theirs.step(zeros, theirs.timesteps[0], zeros)
    with pytest.raises(InputError, match=r"^steps: expected timesteps below 1000"):
        build_schedule(config, steps=1000, sampler="ddim")


@pytest.mark.parametrize(
    ("sampler", "schedule"), [("euler", "cosine"), ("ddim", "karras"), ("ddim", "exponential")]
)
def test_schedule_that_a_sampler_does_not_have_is_refused(sampler: str, schedule: str) -> None:
    with pytest.raises(InputError, match=r"^schedule: expected one of .*leading.* with "):
        build_schedule(SD, steps=10, sampler=sampler, schedule=schedule)


@pytest.mark.parametrize(
    "evaluation",
    [
        Evaluation(1.0, 0.0, 0.0),
        Evaluation(1.0, math.inf, 0.0),
        Evaluation(math.nan, 1.0, 0.0),
        Evaluation(1.0, 1.0, 1.5),
        Evaluation(1.0, 1.0, -0.5),
        Evaluation(1.0, 3.0, 0.0),
    ],
)
def test_levels_that_rise_or_are_not_finite_are_no_schedule(evaluation: Evaluation) -> None:
    with pytest.raises(InputError, match=r"^schedule: expected "):
        Schedule("euler", (Evaluation(2.0, 2.0, 1.0), evaluation), 1.0, 1.0, "epsilon")


def configs() -> st.SearchStrategy[Config]:
    """Configs that could be written in good faith, some of them asking for too much."""
    small = st.floats(1e-6, 0.05)
    return st.fixed_dictionaries(
        {},
        optional={
            "_class_name": st.sampled_from(sorted(SOURCES)),
            "num_train_timesteps": st.integers(1, 1200),
            "beta_start": small,
            "beta_end": small,
            "beta_schedule": st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
            "prediction_type": st.sampled_from(["epsilon", "sample", "v_prediction"]),
            "timestep_spacing": st.sampled_from(SPACINGS),
            "steps_offset": st.integers(0, 3),
            "rescale_betas_zero_snr": st.booleans(),
            "use_karras_sigmas": st.booleans(),
            "use_exponential_sigmas": st.booleans(),
            "sigma_min": st.none() | st.floats(1e-3, 20.0),
            "sigma_max": st.none() | st.floats(1e-3, 200.0),
            "final_sigmas_type": st.sampled_from(["zero", "sigma_min"]),
            "set_alpha_to_one": st.booleans(),
            "clip_sample": st.booleans(),
            "thresholding": st.booleans(),
            "lambda_min_clipped": st.just(-math.inf) | st.floats(-8.0, 3.0),
            "solver_order": st.integers(1, 3),
            "timestep_type": st.sampled_from(["discrete", "continuous"]),
        },
    )


# Levels so far from the data that their logarithms round to the same.
TIED: Config = {"beta_start": 0.048828125, "beta_end": 1e-06}


@settings(max_examples=300, deadline=None)
@example(config=TIED, sampler="dpmpp_2m", steps=1, schedule="karras")
@given(
    config=configs(),
    sampler=st.none() | st.sampled_from(sorted(SAMPLER_CLASSES)),
    steps=st.integers(1, 60) | st.integers(1, 1200),
    schedule=st.none() | st.sampled_from(SCHEDULES),
)
def test_any_config_gives_finite_falling_levels_or_a_named_error(
    config: Config, sampler: str | None, steps: int, schedule: str | None
) -> None:
    made, field = None, ""
    try:
        made = build_schedule(config, steps=steps, sampler=sampler, schedule=schedule)
    except InputError as error:
        field = error.field
    if made is None:
        keys = (*config, "_class_name", "beta_schedule")
        arguments = ("steps", "sampler", "schedule", "prediction_type")
        assert field in (*arguments, *(f"scheduler config '{key}'" for key in keys))
        return
    levels = [e.sigma for e in made.evaluations]
    assert 1 <= len(levels) <= steps
    assert all(math.isfinite(e.timestep) and math.isfinite(e.sigma) for e in made.evaluations)
    assert all(0.0 <= e.sigma_next <= e.sigma and e.sigma > 0.0 for e in made.evaluations)
    assert levels == sorted(levels, reverse=True)
    assert all(type(x) is float for e in made.evaluations for x in (e.timestep, e.sigma))
    assert math.isfinite(made.init_scale)
    assert made.init_scale > 0.0
    assert 0.0 < made.final_scale <= 1.0
