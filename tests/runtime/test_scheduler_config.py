"""Scheduler configs, held against what diffusers reads in them."""

from __future__ import annotations

import inspect
import math
import warnings
from typing import Any

import diffusers
import pytest
import torch

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules import (
    as_stable_diffusion,
    build_schedule,
    unused_keys,
)
from latentrt.runtime.schedules.classes import CLASS_DEFAULTS, EDM_CLASSES
from latentrt.runtime.schedules.config import read_config
from latentrt.runtime.schedules.keys import KNOWN_KEYS

# diffusers converts tensors in ways that NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

Config = dict[str, Any]

CLASSES = sorted(CLASS_DEFAULTS)
DISCRETE = [name for name in CLASSES if name not in EDM_CLASSES]
SD: Config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

# As the checkpoints have them, keys of other classes included.
SD15: Config = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    **SD,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
SD21_BASE: Config = {
    **SD15,
    "_diffusers_version": "0.10.0.dev0",
    "prediction_type": "epsilon",
}
SD21: Config = {
    **SD15,
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.8.0",
    "prediction_type": "v_prediction",
}
SDXL: Config = {
    "_class_name": "EulerDiscreteScheduler",
    "_diffusers_version": "0.19.0.dev0",
    **SD,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
SDXL_TURBO: Config = {
    **SDXL,
    "_class_name": "EulerAncestralDiscreteScheduler",
    "_diffusers_version": "0.24.0.dev0",
    "timestep_spacing": "trailing",
}
# SDXL's, as LCMScheduler has it.
LCM_SDXL: Config = {
    "_class_name": "LCMScheduler",
    "_diffusers_version": "0.23.0",
    **SD,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "dynamic_thresholding_ratio": 0.995,
    "num_train_timesteps": 1000,
    "original_inference_steps": 50,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "sample_max_value": 1.0,
    "set_alpha_to_one": True,
    "steps_offset": 1,
    "thresholding": False,
    "timestep_scaling": 10.0,
    "timestep_spacing": "leading",
    "trained_betas": None,
}
PLAYGROUND: Config = {
    "_class_name": "EDMDPMSolverMultistepScheduler",
    "_diffusers_version": "0.27.0.dev0",
    "algorithm_type": "dpmsolver++",
    "dynamic_thresholding_ratio": 0.995,
    "euler_at_final": False,
    "final_sigmas_type": "zero",
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "sample_max_value": 1.0,
    "sigma_data": 0.5,
    "sigma_max": 80.0,
    "sigma_min": 0.002,
    "solver_order": 2,
    "solver_type": "midpoint",
    "thresholding": False,
}
PUBLISHED: dict[str, tuple[Config, int]] = {
    "sd15": (SD15, 50),
    "sd21_base": (SD21_BASE, 50),
    "sd21": (SD21, 50),
    "sd21_plms": ({**SD21, "_class_name": "PNDMScheduler"}, 50),
    "sdxl": (SDXL, 50),
    "sdxl_turbo": (SDXL_TURBO, 4),
    "lcm_sdxl": (LCM_SDXL, 4),
    "playground": (PLAYGROUND, 50),
}
"""Configs with the steps that their model cards name."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_config_is_run_at_the_timesteps_that_its_class_sets(name: str) -> None:
    config, steps = PUBLISHED[name]
    theirs: Any = getattr(diffusers, config["_class_name"]).from_config(config)
    theirs.set_timesteps(steps)
    mine = build_schedule(config, steps=steps)
    told = [e.timestep for e in mine.evaluations]
    # EDM's are logarithms, in single precision.
    assert told == pytest.approx(theirs.timesteps.tolist(), rel=2e-6, abs=2e-6)
    kind = config.get("prediction_type", "epsilon")
    assert mine.prediction_type == ("edm" if name == "playground" else kind)


@pytest.mark.parametrize("class_name", DISCRETE)
@pytest.mark.parametrize("name", [name for name in PUBLISHED if name != "playground"])
def test_published_config_is_run_by_every_sampler_of_its_kind(name: str, class_name: str) -> None:
    config, _ = PUBLISHED[name]
    if class_name == "PNDMScheduler":
        config = {**config, "skip_prk_steps": True}
    schedule = build_schedule(config, steps=4, sampler=class_name)
    assert len([e for e in schedule.evaluations if e.stage == 0]) == 4


@pytest.mark.parametrize("target", CLASSES)
@pytest.mark.parametrize("source", CLASSES)
def test_config_of_any_class_is_read_as_diffusers_reads_it(source: str, target: str) -> None:
    raw = {**SD15, "_class_name": source, "prediction_type": "v_prediction", "rho": 5.0}
    if (source in EDM_CLASSES) != (target in EDM_CLASSES):
        with pytest.raises(InputError, match=r"^sampler: expected (an|no) EDM sampler for a "):
            read_config(raw, target)
        return
    theirs: Any = getattr(diffusers, target)
    read = theirs.from_config(getattr(diffusers, source).from_config(raw).config).config
    mine = read_config(raw, target).values
    arguments = inspect.signature(theirs).parameters
    shared = sorted(set(mine) & set(arguments))
    assert len(shared) >= 7
    assert {key: mine[key] for key in shared} == {key: read[key] for key in shared}


def test_defaults_are_those_of_the_class_asked_for_not_of_the_class_named() -> None:
    config = {**SD, "_class_name": "DDIMScheduler"}
    timesteps = {
        name: build_schedule(config, steps=4, sampler=name).evaluations[0].timestep
        for name in ("ddim", "ddpm", "euler", "dpmpp_2m", "lcm")
    }
    # DDIM's and DDPM's default is leading, from 3 * 1000 / 4; the others' linspace, from the last
    # timestep, where LCM's own begin too.
    expected = {"ddim": 750.0, "ddpm": 750.0, "euler": 999.0, "dpmpp_2m": 999.0, "lcm": 999.0}
    assert timesteps == expected


def test_keys_that_a_config_lists_as_defaulted_count_as_absent() -> None:
    config = {**SD, "timestep_spacing": "trailing", "_use_default_values": ["timestep_spacing"]}
    theirs: Any = diffusers.EulerDiscreteScheduler.from_config(config)
    assert theirs.config.timestep_spacing == "linspace"
    assert read_config(config, "euler").values["timestep_spacing"] == "linspace"


READ_ONLY = {"sigma_max", "sigma_min"}
"""Not taken by every class that reads them where another class's config has them."""

CONSISTENCY = {"set_alpha_to_one", "steps_offset", "timestep_spacing"}
UNREAD: dict[str, set[str]] = {
    "LCMScheduler": CONSISTENCY,
    "TCDScheduler": CONSISTENCY
    | {
        "clip_sample",
        "clip_sample_range",
        "dynamic_thresholding_ratio",
        "sample_max_value",
        "thresholding",
        "timestep_scaling",
    },
}
"""Taken by a class, and then never looked at."""

FLOW = {"flow_shift", "time_shift_type", "shift_terminal"}
"""Of no effect without flow matching, which is refused."""


@pytest.mark.parametrize("class_name", CLASSES)
def test_defaults_are_those_of_the_installed_diffusers(class_name: str) -> None:
    arguments = inspect.signature(getattr(diffusers, class_name)).parameters
    mine = CLASS_DEFAULTS[class_name]
    for key, value in mine.items():
        if key in arguments:
            assert arguments[key].default == value or key == "disable_corrector", key
        else:
            assert key in READ_ONLY, key
            assert not value
    unread = UNREAD.get(class_name, set[str]())
    assert set(arguments) - set(mine) - FLOW == unread


def four_steps(class_name: str, **config: Any) -> list[Any]:
    """The timesteps and the last latent of a run in diffusers."""
    scheduler: Any = getattr(diffusers, class_name)(**SD, **config)
    scheduler.set_timesteps(4)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((1, 4, 3, 3), generator=generator)
    for t in scheduler.timesteps:
        out = 2.0 * torch.randn((1, 4, 3, 3), generator=generator)
        x = scheduler.step(out, t, x, generator=generator).prev_sample
    return [scheduler.timesteps.tolist(), x.tolist()]


@pytest.mark.parametrize("class_name", UNREAD)
def test_keys_that_a_class_never_looks_at_change_nothing_in_diffusers(class_name: str) -> None:
    values: Config = {
        "clip_sample": True,
        "clip_sample_range": 0.1,
        "dynamic_thresholding_ratio": 0.5,
        "sample_max_value": 3.0,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "thresholding": True,
        "timestep_scaling": 0.001,
        "timestep_spacing": "trailing",
    }
    plain = four_steps(class_name)
    assert four_steps(class_name, **{key: values[key] for key in UNREAD[class_name]}) == plain
    # While the others do.
    if class_name == "LCMScheduler":
        assert four_steps(class_name, clip_sample=True) != plain
        assert four_steps(class_name, timestep_scaling=0.001) != plain


def test_every_argument_of_an_installed_diffusers_scheduler_is_known() -> None:
    mixin = diffusers.schedulers.scheduling_utils.SchedulerMixin
    arguments: set[str] = set()
    for name in dir(diffusers.schedulers):
        found: object = getattr(diffusers.schedulers, name)
        if isinstance(found, type) and issubclass(found, mixin):
            arguments |= set(inspect.signature(found).parameters) - {"args", "kwargs"}
    assert len(arguments) > 90
    assert arguments <= KNOWN_KEYS


def pipeline_scheduler(scheduler: Any) -> Any:
    """A scheduler as diffusers' Stable Diffusion pipeline changes it; the rest is not needed."""
    nothing: Any = None
    with warnings.catch_warnings():
        # It says what it changes.
        warnings.simplefilter("ignore", FutureWarning)
        return diffusers.StableDiffusionPipeline(
            vae=nothing,
            text_encoder=nothing,
            tokenizer=nothing,
            unet=nothing,
            scheduler=scheduler,
            safety_checker=nothing,
            feature_extractor=nothing,
            requires_safety_checker=False,
        ).scheduler


@pytest.mark.parametrize("class_name", DISCRETE)
def test_stable_diffusion_forces_what_its_pipeline_forces(class_name: str) -> None:
    kind: Any = getattr(diffusers, class_name)
    wanted = {**SD, "timestep_spacing": "leading", "steps_offset": 0, "clip_sample": True}
    taken = inspect.signature(kind).parameters
    config = {key: value for key, value in wanted.items() if key in taken}
    theirs = pipeline_scheduler(kind(**config))
    theirs.set_timesteps(10)
    mine = build_schedule(as_stable_diffusion(config), steps=10, sampler=class_name)
    told = [e.timestep for e in mine.evaluations]
    # Some follow from the logarithms of levels, to a few 1e-7 of their range.
    assert told == pytest.approx(theirs.timesteps.tolist(), abs=4e-4)
    assert theirs.config.get("clip_sample", False) is False
    assert mine.clipping is None


def test_stable_diffusion_forces_keys_that_were_listed_as_defaulted() -> None:
    config = {**SD, "clip_sample": True, "_use_default_values": ["clip_sample", "steps_offset"]}
    schedule = build_schedule(as_stable_diffusion(config), steps=10, sampler="ddim")
    assert schedule.evaluations[-1].timestep == 1.0
    assert schedule.clipping is None
    assert config["clip_sample"] is True


def test_class_of_another_kind_is_refused_with_the_known_ones() -> None:
    config = {**SD15, "_class_name": "FlowMatchEulerDiscreteScheduler"}
    with pytest.raises(InputError, match=r"^scheduler config '_class_name': expected ") as error:
        build_schedule(config, steps=20, sampler="euler")
    for name in CLASSES:
        assert name in str(error.value)


def test_unused_keys_are_those_that_the_class_does_not_read() -> None:
    assert unused_keys(SDXL) == (
        "_diffusers_version",
        "clip_sample",
        "sample_max_value",
        "set_alpha_to_one",
        "skip_prk_steps",
    )
    assert unused_keys(SDXL, "ddim") == (
        "_diffusers_version",
        "interpolation_type",
        "skip_prk_steps",
        "use_karras_sigmas",
    )


def test_keys_that_a_short_name_decides_are_unused() -> None:
    assert unused_keys(SD15) == ("_diffusers_version", "clip_sample")
    for name in ("pndm", "plms"):
        assert unused_keys(SD15, name) == ("_diffusers_version", "clip_sample", "skip_prk_steps")


REFUSED: list[tuple[str, Config, str]] = [
    ("euler", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "_class_name"),
    ("euler", {"_class_name": 3}, "_class_name"),
    ("ddim", {"use_flow_sigmas": True}, "use_flow_sigmas"),
    ("euler", {"use_dynamic_shifting": True}, "use_dynamic_shifting"),
    ("dpmpp_2m", {"variance_type": "learned_range"}, "variance_type"),
    ("euler", {"beta_schedule": "sigmoid"}, "beta_schedule"),
    ("euler", {"beta_start": "small"}, "beta_start"),
    ("euler", {"beta_start": 0.0}, "beta_schedule"),
    ("euler", {"beta_end": math.nan}, "beta_end"),
    ("euler", {"beta_end": 10**400}, "beta_end"),
    ("euler", {"beta_end": 0.99}, "beta_schedule"),
    ("euler", {"trained_betas": [0.1, 0.2]}, "trained_betas"),
    ("euler", {"trained_betas": [0.1, "x"], "num_train_timesteps": 2}, "trained_betas"),
    ("euler", {"trained_betas": [0.1, 1e300], "num_train_timesteps": 2}, "trained_betas"),
    ("euler", {"trained_betas": [0.5, 1 - 1e-12], "num_train_timesteps": 2}, "trained_betas"),
    ("euler", {"num_train_timesteps": 100_001}, "num_train_timesteps"),
    ("euler", {"num_train_timesteps": True}, "num_train_timesteps"),
    ("euler", {"prediction_type": "flow_prediction"}, "prediction_type"),
    ("euler", {"timestep_spacing": "middle"}, "timestep_spacing"),
    ("euler", {"timestep_spacing": "leading", "steps_offset": -1}, "steps_offset"),
    ("euler", {"final_sigmas_type": "none"}, "final_sigmas_type"),
    ("euler", {"timestep_type": "other"}, "timestep_type"),
    ("euler", {"use_karras_sigmas": "yes"}, "use_karras_sigmas"),
    ("euler", {"use_karras_sigmas": True, "sigma_min": -1.0}, "sigma_min"),
    ("euler", {"use_karras_sigmas": True, "sigma_max": 1e300}, "sigma_max"),
    ("euler", {"use_beta_sigmas": 2}, "use_beta_sigmas"),
    ("euler", {"interpolation_type": "cubic"}, "interpolation_type"),
    ("euler", {"use_karras_sigmas": True, "use_beta_sigmas": True}, "use_beta_sigmas"),
    ("euler", {"use_karras_sigmas": True, "sigma_min": 3.0, "sigma_max": 2.0}, "sigma_max"),
    ("euler", {"use_karras_sigmas": True, "sigma_min": 30.0}, "sigma_min"),
    ("ddpm", {"variance_type": "learned"}, "variance_type"),
    ("ddpm", {"variance_type": "fixed"}, "variance_type"),
    ("ddpm", {"sample_max_value": 0.5, "thresholding": True}, "sample_max_value"),
    ("lcm", {"original_inference_steps": 0}, "original_inference_steps"),
    ("lcm", {"original_inference_steps": 1001}, "original_inference_steps"),
    ("lcm", {"timestep_scaling": -1.0}, "timestep_scaling"),
    ("plms", {"prediction_type": "sample"}, "prediction_type"),
    ("PNDMScheduler", {"skip_prk_steps": "no"}, "skip_prk_steps"),
    ("tcd", {"original_inference_steps": 2.5}, "original_inference_steps"),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "euler"}, "algorithm_type"),
    ("DPMSolverMultistepScheduler", {"solver_order": 4}, "solver_order"),
    ("DPMSolverMultistepScheduler", {"use_lu_lambdas": "no"}, "use_lu_lambdas"),
    ("UniPCMultistepScheduler", {"disable_corrector": [-1]}, "disable_corrector"),
    ("UniPCMultistepScheduler", {"solver_p": "euler"}, "solver_p"),
    ("edm_euler", {"sigma_data": 0.0}, "sigma_data"),
    ("edm_euler", {"sigma_schedule": "linear"}, "sigma_schedule"),
    ("edm_euler", {"prediction_type": "sample"}, "prediction_type"),
    ("dpmpp_2m", {"solver_type": "rk4"}, "solver_type"),
    ("dpmpp_2m", {"lambda_min_clipped": 1e300}, "lambda_min_clipped"),
    ("ddim", {"clip_sample_range": None}, "clip_sample_range"),
    ("ddim", {"thresholding": True, "dynamic_thresholding_ratio": 2}, "dynamic_thresholding_ratio"),
]


@pytest.mark.parametrize(("sampler", "config", "key"), REFUSED)
def test_unsupported_keys_are_refused_by_name(sampler: str, config: Config, key: str) -> None:
    with pytest.raises(InputError, match=rf"^scheduler config '{key}': expected .+, got .+"):
        build_schedule({**SD, **config}, steps=2, sampler=sampler)


def test_config_that_names_no_class_needs_a_sampler() -> None:
    with pytest.raises(InputError, match=r"^scheduler config '_class_name': expected "):
        build_schedule(SD, steps=10)
