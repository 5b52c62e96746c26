"""Schedules, held against the levels and timesteps that diffusers sets."""

from __future__ import annotations

import inspect
import math
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules import (
    CATALOGUE,
    SCHEDULES,
    Evaluation,
    Schedule,
    build_schedule,
    schedules_of,
)

# diffusers converts tensors in ways that NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

Config = dict[str, Any]

SD: Config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SPACINGS = ("leading", "linspace", "trailing")
STEPS = (1, 2, 7, 20, 49)

CLASSES = sorted({name.class_name for name in CATALOGUE.values()})
EDM = ("EDMDPMSolverMultistepScheduler", "EDMEulerScheduler")


def reference(class_name: str, config: Config) -> Any:
    """A diffusers scheduler, with the keys that its class takes."""
    kind: Any = getattr(diffusers, class_name)
    taken = inspect.signature(kind).parameters
    return kind(**{key: value for key, value in config.items() if key in taken})


def levels_of(class_name: str, schedule: Schedule) -> list[float]:
    """The levels that a schedule's steps begin at, at the scale of the model's own data."""
    scale = 0.5 if class_name in EDM else 1.0
    return [scale * e.sigma for e in schedule.evaluations if e.stage == 0]


VARIANTS: dict[str, Config] = {
    "uniform": {},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "karras_range": {"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 11.5},
    "sigma_min": {"final_sigmas_type": "sigma_min"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "cosine_karras": {"beta_schedule": "squaredcos_cap_v2", "use_karras_sigmas": True},
    "zero_snr": {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"},
}


ROUNDING = 2.0**-22
"""Relative: two roundings of single precision, as the levels' own root is not exact everywhere."""

COARSE = {
    # A fractional timestep has another rounding, and a cosine's levels are steep: 5.5e-7.
    "DPMSolverSDEScheduler": 1e-6,
    # Seventh powers of differences in single precision: 1.3e-6.
    "EDMDPMSolverMultistepScheduler": 4e-6,
}
"""Classes that lose more digits, here or in diffusers."""


def set_steps(class_name: str, config: Config, steps: int) -> Any:
    """A diffusers scheduler with so many steps set, or None where it fails."""
    scheduler = reference(class_name, config)
    # Many classes do not take these, but read them where another class's config left them.
    if class_name not in EDM:
        hidden = {key: config[key] for key in ("sigma_min", "sigma_max") if key in config}
        scheduler.register_to_config(**hidden)
    try:
        scheduler.set_timesteps(steps)
    except (ValueError, IndexError):
        return None
    return scheduler


@pytest.mark.usefixtures("exact_roots")
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("class_name", CLASSES)
def test_timesteps_and_levels_are_those_of_diffusers(
    class_name: str, variant: str, spacing: str
) -> None:
    config = {**SD, "timestep_spacing": spacing, "steps_offset": 1, **VARIANTS[variant]}
    compared = 0
    for steps in STEPS:
        theirs = set_steps(class_name, config, steps)
        if theirs is None:
            with pytest.raises(InputError):
                build_schedule(config, steps=steps, sampler=class_name)
            continue
        mine = build_schedule(config, steps=steps, sampler=class_name)
        told = np.array([e.timestep for e in mine.evaluations])
        exact = theirs.timesteps.double().numpy()
        assert told.shape == exact.shape
        if class_name == "KDPM2AncestralDiscreteScheduler":
            # The second levels of its steps are differences of squares, in single precision there.
            first = [e.stage == 0 for e in mine.evaluations]
            told, exact = told[first], exact[first]
        # Fractional ones follow from the logarithms of the levels, to a few 1e-7 of their range:
        # 4e-4 of a thousand timesteps. Those that are rounded are the same.
        whole = np.array_equal(exact, np.round(exact))
        np.testing.assert_allclose(told, exact, rtol=0, atol=0.0 if whole else 4e-4)
        if hasattr(theirs, "sigmas"):
            # Where a step has two evaluations its level is there twice, and so is 0.
            begun = [level for level in dict.fromkeys(theirs.sigmas[:-1].tolist()) if level > 0.0]
            rounding = COARSE.get(class_name, ROUNDING)
            np.testing.assert_allclose(levels_of(class_name, mine), begun, rtol=rounding)
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("to_one", [False, True])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_ddim_levels_are_the_cumulative_alphas_that_diffusers_steps_between(
    spacing: str, to_one: bool
) -> None:
    config = {**SD, "timestep_spacing": spacing, "steps_offset": 1, "set_alpha_to_one": to_one}
    for steps in STEPS:
        theirs = reference("DDIMScheduler", config)
        theirs.set_timesteps(steps)
        mine = build_schedule(config, steps=steps, sampler="ddim")
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


@pytest.mark.parametrize("steps", [1, 5, 6, 12])
@pytest.mark.parametrize("sampler", CATALOGUE)
def test_stages_of_a_step_follow_each_other_and_end_at_one_level(sampler: str, steps: int) -> None:
    if (sampler, steps) == ("pndm", 1):
        steps = 4
    schedule = build_schedule(SD, steps=steps, sampler=sampler)
    by_step: list[list[Evaluation]] = []
    for e in schedule.evaluations:
        if e.stage == 0:
            by_step.append([])
        by_step[-1].append(e)
    assert len(by_step) == steps
    for stages in by_step:
        assert [e.stage for e in stages] == list(range(len(stages)))
        assert len({e.sigma_next for e in stages}) == 1
        assert stages[0].sigma_next <= stages[0].sigma
        assert all(e.sigma <= stages[0].sigma for e in stages)


@pytest.mark.parametrize("class_name", [c for c in CLASSES if "trailing" in schedules_of(c)])
def test_trailing_never_visits_a_timestep_that_no_model_has(class_name: str) -> None:
    config = {**SD, "timestep_spacing": "trailing", "skip_prk_steps": True}
    theirs = reference(class_name, config)
    theirs.set_timesteps(61)
    # 1000 / 61 is rounded so that 61 of them fall short of 1000: diffusers goes on to -1.
    assert theirs.timesteps[-1] == -1
    mine = build_schedule(config, steps=61, sampler=class_name)
    told = [e.timestep for e in mine.evaluations if e.stage == 0]
    assert len(told) == 61
    assert told[0] == theirs.timesteps[0] == 999
    assert told[-1] >= 0


def spaced_by(class_name: str, schedule: str) -> Config | None:
    """The keys that ask for a schedule in a config of a class, if it has them."""
    taken = inspect.signature(getattr(diffusers, class_name)).parameters
    kinds = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
    keys: Config = {kind: kind == f"use_{schedule}_sigmas" for kind in kinds if kind in taken}
    if schedule in SPACINGS:
        return {**keys, "timestep_spacing": schedule}
    return keys if any(keys.values()) else None


@pytest.mark.parametrize(
    ("class_name", "schedule"),
    [(name, each) for name in CLASSES for each in schedules_of(name)],
)
def test_schedule_overrides_the_spacing_of_the_config(class_name: str, schedule: str) -> None:
    config: Config = {**SD, "timestep_spacing": "trailing" if schedule != "trailing" else "leading"}
    if schedule != "karras":
        config["use_karras_sigmas"] = True
    asked = build_schedule(config, steps=9, sampler=class_name, schedule=schedule)
    keys = spaced_by(class_name, schedule)
    if keys is not None:
        assert asked == build_schedule({**config, **keys}, steps=9, sampler=class_name)
    # EDM's own levels are karras'.
    if class_name not in EDM or schedule != "karras":
        assert asked != build_schedule(config, steps=9, sampler=class_name)


LEVELS = ("align_your_steps", "beta", "exponential", "karras", "polyexponential")
SCHEDULES_OF: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(CLASSES, (*LEVELS, *SPACINGS)),
    # The timesteps of training, evenly.
    **dict.fromkeys(("DDIMScheduler", "DDPMScheduler", "PNDMScheduler"), SPACINGS),
    # Those of distillation.
    **dict.fromkeys(("LCMScheduler", "TCDScheduler"), ()),
    # In diffusers this one's timesteps are always linspace.
    "DPMSolverSinglestepScheduler": LEVELS,
    # There are no timesteps, and no levels were aligned for such models.
    **dict.fromkeys(EDM, LEVELS[1:]),
}


def test_schedules_of_a_sampler_are_those_that_its_algorithm_has() -> None:
    assert {name: schedules_of(name) for name in CLASSES} == SCHEDULES_OF
    assert (*LEVELS, *SPACINGS) == SCHEDULES
    assert schedules_of("lcm") == ()
    assert schedules_of("dpmpp_2m") == SCHEDULES


@pytest.mark.parametrize("schedule", ["cosine", "", "Karrass", *SCHEDULES])
@pytest.mark.parametrize("class_name", CLASSES)
def test_schedule_that_a_sampler_does_not_have_is_refused(class_name: str, schedule: str) -> None:
    if schedule in SCHEDULES_OF[class_name]:
        return
    with pytest.raises(InputError, match=rf"^schedule: expected .* with {class_name}, got '"):
        build_schedule(SD, steps=10, sampler=class_name, schedule=schedule)


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


@pytest.mark.parametrize("sampler", ["lcm", "tcd"])
def test_more_steps_than_a_model_was_distilled_with_are_refused(sampler: str) -> None:
    theirs = reference(CATALOGUE[sampler].class_name, SD)
    with pytest.raises(ValueError, match="original_steps"):
        theirs.set_timesteps(51)
    with pytest.raises(InputError, match=r"^steps: expected at most 50 \(original_inference_steps"):
        build_schedule(SD, steps=51, sampler=sampler)


def test_timestep_beyond_the_last_is_refused_where_diffusers_fails() -> None:
    config = {**SD, "steps_offset": 1, "timestep_spacing": "leading"}
    theirs = reference("DDIMScheduler", config)
    theirs.set_timesteps(1000)
    zeros = torch.zeros(1, 1, 2, 2)
    with pytest.raises(IndexError):
        theirs.step(zeros, theirs.timesteps[0], zeros)
    for sampler in ("ddim", "ddpm", "plms"):
        with pytest.raises(InputError, match=r"^steps: expected timesteps below 1000"):
            build_schedule(config, steps=1000, sampler=sampler)


@pytest.mark.parametrize(
    "evaluation",
    [
        Evaluation(1.0, 0.0, 0.0),
        Evaluation(1.0, math.inf, 0.0),
        Evaluation(math.nan, 1.0, 0.0),
        Evaluation(1.0, 1.0, 1.5),
        Evaluation(1.0, 1.0, -0.5),
        Evaluation(1.0, 3.0, 0.0),
        Evaluation(1.0, -1.0, 0.0, stage=1),
    ],
)
def test_levels_that_rise_or_are_not_finite_are_no_schedule(evaluation: Evaluation) -> None:
    with pytest.raises(InputError, match=r"^schedule: expected "):
        Schedule("euler", (Evaluation(2.0, 2.0, 1.0), evaluation), 1.0, 1.0, "epsilon")
