"""Scheduler configs, held against what diffusers reads in them."""

from __future__ import annotations

import inspect
import math
from typing import Any

import diffusers
import pytest

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules import as_stable_diffusion, build_schedule, unused_keys
from latentrt.runtime.schedules.config import read_config
from latentrt.runtime.schedules.keys import CLASS_DEFAULTS, KNOWN_KEYS, SAMPLER_CLASSES, SOURCES

# diffusers converts tensors in ways that NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

Config = dict[str, Any]

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


# These need torchsde and SciPy, which this project does not install.
FOREIGN = {"DPMSolverSDEScheduler", "LMSDiscreteScheduler"}


@pytest.mark.parametrize("sampler", SAMPLER_CLASSES)
@pytest.mark.parametrize("source", sorted(SOURCES - FOREIGN))
def test_config_of_any_class_is_read_as_diffusers_reads_it(source: str, sampler: str) -> None:
    raw = {**SD15, "_class_name": source, "prediction_type": "v_prediction", "thresholding": False}
    theirs: Any = getattr(diffusers, SAMPLER_CLASSES[sampler])
    read = theirs.from_config(getattr(diffusers, source).from_config(raw).config).config
    mine = read_config(raw, sampler).values
    shared = sorted(set(mine) & set(read))
    assert len(shared) > len(CLASS_DEFAULTS[SAMPLER_CLASSES[sampler]]) - 3
    assert {key: mine[key] for key in shared} == {key: read[key] for key in shared}


def test_defaults_are_those_of_the_class_asked_for_not_of_the_class_named() -> None:
    config = {**SD, "_class_name": "DDIMScheduler"}
    timesteps = {
        name: build_schedule(config, steps=4, sampler=name).evaluations[0].timestep
        for name in SAMPLER_CLASSES
    }
    # DDIM's default is leading, from 3 * 1000 / 4; the others' linspace, from the last timestep.
    assert timesteps == {"ddim": 750.0, "euler": 999.0, "dpmpp_2m": 999.0}


def test_keys_that_a_config_lists_as_defaulted_count_as_absent() -> None:
    config = {**SD, "timestep_spacing": "trailing", "_use_default_values": ["timestep_spacing"]}
    theirs: Any = diffusers.EulerDiscreteScheduler.from_config(config)
    assert theirs.config.timestep_spacing == "linspace"
    assert read_config(config, "euler").values["timestep_spacing"] == "linspace"


@pytest.mark.parametrize("sampler", SAMPLER_CLASSES)
def test_defaults_are_those_of_the_installed_diffusers(sampler: str) -> None:
    arguments = inspect.signature(getattr(diffusers, SAMPLER_CLASSES[sampler])).parameters
    for key, value in CLASS_DEFAULTS[SAMPLER_CLASSES[sampler]].items():
        if sampler == "dpmpp_2m" and key in ("sigma_min", "sigma_max"):
            continue  # Read though not taken: see the test of its levels.
        assert arguments[key].default == value, key
    inert = {"flow_shift", "time_shift_type"}  # Without flow matching, which is refused.
    assert set(arguments) - inert <= set(CLASS_DEFAULTS[SAMPLER_CLASSES[sampler]])


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
    with pytest.warns(FutureWarning):
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


@pytest.mark.parametrize("sampler", SAMPLER_CLASSES)
def test_stable_diffusion_forces_what_its_pipeline_forces(sampler: str) -> None:
    config = {**SD, "timestep_spacing": "leading", "steps_offset": 0}
    theirs = pipeline_scheduler(getattr(diffusers, SAMPLER_CLASSES[sampler])(**config))
    theirs.set_timesteps(10)
    mine = build_schedule(as_stable_diffusion(config), steps=10, sampler=sampler)
    assert [e.timestep for e in mine.evaluations] == theirs.timesteps.tolist()
    assert theirs.config.get("clip_sample", False) is False
    assert mine.clipping is None


def test_stable_diffusion_forces_keys_that_were_listed_as_defaulted() -> None:
    config = {**SD, "clip_sample": True, "_use_default_values": ["clip_sample", "steps_offset"]}
    schedule = build_schedule(as_stable_diffusion(config), steps=10, sampler="ddim")
    assert schedule.evaluations[-1].timestep == 1.0
    assert schedule.clipping is None
    assert config["clip_sample"] is True


def test_published_configs_are_read() -> None:
    first = {
        name: build_schedule(config, steps=50, sampler=sampler).evaluations[0].timestep
        for name, config, sampler in (
            ("SD 1.5, DDIM", SD15, "ddim"),
            ("SD 1.5, Euler", SD15, "euler"),
            ("SDXL", SDXL, None),
        )
    }
    assert first == {"SD 1.5, DDIM": 981.0, "SD 1.5, Euler": 999.0, "SDXL": 981.0}


def test_class_without_a_sampler_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"^sampler: expected one of .*PNDMScheduler") as error:
        build_schedule(SD15, steps=20)
    for name in SAMPLER_CLASSES:
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


REFUSED: list[tuple[str, Config, str]] = [
    ("euler", {"frobnicate": 1}, "frobnicate"),
    ("euler", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "_class_name"),
    ("euler", {"_class_name": 3}, "_class_name"),
    ("ddim", {"use_flow_sigmas": True}, "use_flow_sigmas"),
    ("euler", {"use_dynamic_shifting": True}, "use_dynamic_shifting"),
    ("euler", {"variance_type": "learned_range"}, "variance_type"),
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
    ("euler", {"use_beta_sigmas": True}, "use_beta_sigmas"),
    ("euler", {"interpolation_type": "log_linear"}, "interpolation_type"),
    ("euler", {"final_sigmas_type": "none"}, "final_sigmas_type"),
    ("euler", {"timestep_type": "other"}, "timestep_type"),
    ("euler", {"use_karras_sigmas": "yes"}, "use_karras_sigmas"),
    ("euler", {"use_karras_sigmas": True, "sigma_min": -1.0}, "sigma_min"),
    ("euler", {"use_karras_sigmas": True, "sigma_max": 1e300}, "sigma_max"),
    ("dpmpp_2m", {"use_lu_lambdas": True}, "use_lu_lambdas"),
    ("dpmpp_2m", {"use_beta_sigmas": True}, "use_beta_sigmas"),
    ("dpmpp_2m", {"algorithm_type": "sde-dpmsolver++"}, "algorithm_type"),
    ("dpmpp_2m", {"algorithm_type": "dpmsolver"}, "algorithm_type"),
    ("dpmpp_2m", {"solver_order": 3}, "solver_order"),
    ("dpmpp_2m", {"solver_type": "rk4"}, "solver_type"),
    ("dpmpp_2m", {"lambda_min_clipped": 1e300}, "lambda_min_clipped"),
    ("ddim", {"clip_sample_range": None}, "clip_sample_range"),
    ("ddim", {"thresholding": True, "dynamic_thresholding_ratio": 2}, "dynamic_thresholding_ratio"),
]


@pytest.mark.parametrize(("sampler", "config", "key"), REFUSED)
def test_what_is_not_honoured_is_refused_by_name(sampler: str, config: Config, key: str) -> None:
    with pytest.raises(InputError, match=rf"^scheduler config '{key}': expected .+, got .+"):
        build_schedule({**SD, **config}, steps=2, sampler=sampler)


def test_config_that_names_no_class_needs_a_sampler() -> None:
    with pytest.raises(InputError, match=r"^scheduler config '_class_name': expected "):
        build_schedule(SD, steps=10)
