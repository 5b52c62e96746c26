"""Scheduler configs as checkpoints have them, drawn by what diffusers draws from the same files."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.fuzz import fuzz

from latentrt.bundle.errors import InputError
from latentrt.runtime.noise import TorchNoise
from latentrt.runtime.prediction import denoised, model_input
from latentrt.runtime.samplers import sample
from latentrt.runtime.schedules import (
    CATALOGUE,
    Schedule,
    adopt_config,
    build_schedule,
    samplers_of,
)

# diffusers converts tensors in ways that NumPy 2 has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.algorithm_types:FutureWarning"),
]

Config = dict[str, Any]
Array = NDArray[np.float32]

SHAPE = (4, 4, 3)
SEED = 5
TOLERANCE = 1e-4
"""Relative, of the last latent. Both sides round single precision some ten times a step. Near the
data diffusers takes differences of cumulative alphas in it, which loses two digits."""

BETAS: Config = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "trained_betas": None,
}
OLDEST: Config = {"tensor_format": "pt"}
SPACING: Config = {"timestep_spacing": "leading", "steps_offset": 1}
THRESHOLDING: Config = {
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}
LEVELS: Config = {"use_exponential_sigmas": False, "use_beta_sigmas": False}
FLOW: Config = {"use_flow_sigmas": False, "flow_shift": 1.0}
SHIFTING: Config = {"use_dynamic_shifting": False, "time_shift_type": "exponential"}
SOLVER: Config = {
    "solver_order": 2,
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "lower_order_final": True,
}

VERSIONS: dict[str, dict[str, Config]] = {
    "DDIMScheduler": {
        "0.2.4": {
            **OLDEST,
            "timestep_values": None,
            "clip_sample": False,
            "set_alpha_to_one": False,
        },
        "0.4.0": {"tensor_format": None, "steps_offset": 1},
        "0.9.0": {"prediction_type": "epsilon"},
        "0.17.0": {**THRESHOLDING, "clip_sample_range": 1.0},
        "0.18.0": {**SPACING, "rescale_betas_zero_snr": False},
    },
    "DDPMScheduler": {
        "0.2.4": {**OLDEST, "variance_type": "fixed_small", "clip_sample": True},
        "0.4.0": {"predict_epsilon": True},
        "0.6.0": {"predict_epsilon": False},
        "0.9.0": {"prediction_type": "epsilon", "clip_sample": False},
        "0.18.0": {**THRESHOLDING, **SPACING, "clip_sample_range": 1.0},
        "0.27.0": {"rescale_betas_zero_snr": False},
    },
    "PNDMScheduler": {
        "0.2.4": {**OLDEST, "skip_prk_steps": True},
        "0.3.0": {"set_alpha_to_one": False, "steps_offset": 0},
        "0.6.0": {"clip_sample": False, "steps_offset": 1},
        "0.9.0": {"prediction_type": "epsilon"},
        "0.18.0": SPACING,
    },
    "LMSDiscreteScheduler": {
        "0.2.4": {**OLDEST, "timestep_values": None},
        "0.9.0": {"prediction_type": "epsilon"},
        "0.15.0": {"use_karras_sigmas": True},
        "0.18.0": SPACING,
        "0.31.0": LEVELS,
    },
    "EulerDiscreteScheduler": {
        "0.5.0": {},
        "0.9.0": {"prediction_type": "epsilon"},
        "0.12.0": {"interpolation_type": "linear"},
        "0.15.0": {"use_karras_sigmas": False},
        "0.18.0": SPACING,
        "0.25.0": {"timestep_type": "discrete", "sigma_min": None, "sigma_max": None},
        "0.27.0": {"rescale_betas_zero_snr": False},
        "0.31.0": {**LEVELS, "final_sigmas_type": "zero"},
    },
    "EulerAncestralDiscreteScheduler": {
        "0.5.0": {},
        "0.9.0": {"prediction_type": "epsilon"},
        "0.18.0": SPACING,
        "0.27.0": {"rescale_betas_zero_snr": False},
    },
    "HeunDiscreteScheduler": {
        "0.9.0": {"prediction_type": "epsilon"},
        "0.16.0": {"use_karras_sigmas": True, "clip_sample": False, "clip_sample_range": 1.0},
        "0.18.0": SPACING,
        "0.31.0": LEVELS,
    },
    "KDPM2DiscreteScheduler": {
        "0.10.0": {"prediction_type": "epsilon"},
        "0.18.0": SPACING,
        "0.22.0": {"use_karras_sigmas": True},
        "0.31.0": LEVELS,
    },
    "KDPM2AncestralDiscreteScheduler": {
        "0.10.0": {"prediction_type": "epsilon"},
        "0.18.0": SPACING,
        "0.22.0": {"use_karras_sigmas": True},
        "0.31.0": LEVELS,
    },
    "DPMSolverMultistepScheduler": {
        "0.7.0": {**SOLVER, **THRESHOLDING, "predict_epsilon": True},
        "0.9.0": {"prediction_type": "epsilon"},
        "0.15.0": {
            "use_karras_sigmas": True,
            "lambda_min_clipped": -math.inf,
            "variance_type": None,
        },
        "0.18.0": SPACING,
        "0.23.0": {"use_lu_lambdas": False, "euler_at_final": False},
        "0.28.0": {"final_sigmas_type": "zero"},
        "0.31.0": LEVELS,
        "0.33.0": FLOW,
        "0.35.0": {**SHIFTING, "rescale_betas_zero_snr": False},
    },
    "DPMSolverSinglestepScheduler": {
        "0.10.0": {**SOLVER, **THRESHOLDING, "prediction_type": "epsilon"},
        "0.17.0": {"lambda_min_clipped": -math.inf, "variance_type": None},
        "0.19.0": {"use_karras_sigmas": True},
        "0.28.0": {"final_sigmas_type": "zero"},
        "0.31.0": LEVELS,
        "0.33.0": FLOW,
    },
    "DEISMultistepScheduler": {
        "0.13.0": {
            **SOLVER,
            **THRESHOLDING,
            "algorithm_type": "deis",
            "solver_type": "logrho",
            "prediction_type": "epsilon",
        },
        "0.18.0": SPACING,
        "0.22.0": {"use_karras_sigmas": False},
        "0.33.0": {**LEVELS, **FLOW},
    },
    "UniPCMultistepScheduler": {
        "0.14.0": {
            **THRESHOLDING,
            "solver_order": 2,
            "prediction_type": "epsilon",
            "predict_x0": True,
            "solver_type": "bh2",
            "lower_order_final": True,
            "disable_corrector": [],
            "solver_p": None,
        },
        "0.18.0": {**SPACING, "use_karras_sigmas": True},
        "0.27.0": {"final_sigmas_type": "zero", "rescale_betas_zero_snr": False},
        "0.33.0": {**LEVELS, **FLOW},
        "0.36.0": {**SHIFTING, "shift_terminal": None, "sigma_min": None, "sigma_max": None},
    },
    "DPMSolverSDEScheduler": {
        "0.16.0": {"prediction_type": "epsilon", "noise_sampler_seed": None},
        "0.18.0": {**SPACING, "use_karras_sigmas": True},
        "0.31.0": LEVELS,
    },
    "LCMScheduler": {
        "0.22.0": {
            **THRESHOLDING,
            **SPACING,
            "original_inference_steps": 50,
            "clip_sample": False,
            "clip_sample_range": 1.0,
            "set_alpha_to_one": True,
            "prediction_type": "epsilon",
            "rescale_betas_zero_snr": False,
        },
        "0.23.0": {"timestep_scaling": 10.0},
    },
    "TCDScheduler": {
        "0.27.0": {
            **THRESHOLDING,
            **SPACING,
            "original_inference_steps": 50,
            "clip_sample": False,
            "set_alpha_to_one": True,
            "prediction_type": "epsilon",
            "timestep_scaling": 10.0,
            "rescale_betas_zero_snr": False,
        },
    },
}
"""The keys that each version of diffusers added to what a class saves, or saved otherwise."""

EDM: Config = {
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "sigma_data": 0.5,
    "sigma_max": 80.0,
    "sigma_min": 0.002,
}
SDXL: Config = {
    **BETAS,
    **SPACING,
    "clip_sample": False,
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "use_karras_sigmas": False,
}
V: Config = {"prediction_type": "v_prediction"}
TRAILING: Config = {"timestep_spacing": "trailing"}
ZERO_SNR: Config = {**V, **TRAILING, "rescale_betas_zero_snr": True}
DEFAULT_BETAS: Config = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
COSINE: Config = {"beta_schedule": "squaredcos_cap_v2"}
PNDM: Config = {**BETAS, "set_alpha_to_one": False, "skip_prk_steps": True, "clip_sample": False}

PUBLISHED: dict[str, tuple[str, Config]] = {
    "sd 1.4": ("PNDMScheduler", PNDM),
    "sd 1.4 flax": (
        "PNDMScheduler",
        {**PNDM, "_class_name": "FlaxPNDMScheduler", "steps_offset": 1},
    ),
    "sd 1.5": ("PNDMScheduler", {**PNDM, "_class_name": "PNDMScheduler", "steps_offset": 1}),
    "sd 2": ("DDIMScheduler", {**PNDM, **V, "_class_name": "DDIMScheduler", "steps_offset": 1}),
    "sd 2 base": ("PNDMScheduler", {**PNDM, "steps_offset": 1, "prediction_type": "epsilon"}),
    "sdxl": ("EulerDiscreteScheduler", {**SDXL, "_class_name": "EulerDiscreteScheduler"}),
    "sdxl turbo": ("EulerAncestralDiscreteScheduler", {**SDXL, **TRAILING}),
    "sd turbo": ("EulerDiscreteScheduler", {**SDXL, **TRAILING, "trained_betas": None}),
    "sdxl lightning": ("EulerDiscreteScheduler", {**SDXL, **TRAILING, "steps_offset": 0}),
    "hyper sd": ("TCDScheduler", {**SDXL, "_class_name": "DDIMScheduler"}),
    "lcm in a pndm file": ("LCMScheduler", {**PNDM, "_class_name": "PNDMScheduler"}),
    "playground 2.5": (
        "EDMDPMSolverMultistepScheduler",
        {**EDM, **SOLVER, **THRESHOLDING, "euler_at_final": False, "final_sigmas_type": "zero"},
    ),
    "playground 2": ("EulerDiscreteScheduler", {**SDXL, "steps_offset": 0}),
    "cosxl": ("EDMEulerScheduler", {**EDM, **V, "sigma_data": 1.0, "sigma_max": 120.0}),
    "shapes, zero snr": ("EulerDiscreteScheduler", {**DEFAULT_BETAS, **ZERO_SNR}),
    "zero snr, euler a": ("EulerAncestralDiscreteScheduler", {**DEFAULT_BETAS, **ZERO_SNR}),
    "zero snr, dpm++": ("DPMSolverMultistepScheduler", {**DEFAULT_BETAS, **ZERO_SNR}),
    "zero snr, unipc": ("UniPCMultistepScheduler", {**DEFAULT_BETAS, **ZERO_SNR}),
    "zero snr, ddim": ("DDIMScheduler", {**DEFAULT_BETAS, **ZERO_SNR, "clip_sample": False}),
    "zero snr, lcm": ("LCMScheduler", {**DEFAULT_BETAS, **ZERO_SNR}),
    "noobai v": ("EulerDiscreteScheduler", {**SDXL, **ZERO_SNR}),
    "cosine, lu": ("DPMSolverMultistepScheduler", {**COSINE, "use_lu_lambdas": True}),
    "cosine, karras": ("DPMSolverMultistepScheduler", {**COSINE, "use_karras_sigmas": True}),
    "cosine, exponential": ("UniPCMultistepScheduler", {**COSINE, "use_exponential_sigmas": True}),
    "cosine, beta": ("DPMSolverSinglestepScheduler", {**COSINE, "use_beta_sigmas": True}),
    "cosine, clipped": ("DPMSolverMultistepScheduler", {**COSINE, "lambda_min_clipped": -5.1}),
    "euler beside pndm": ("EulerDiscreteScheduler", {**PNDM, "_class_name": "PNDMScheduler"}),
    "euler a beside ddim": (
        "EulerAncestralDiscreteScheduler",
        {**PNDM, "_class_name": "DDIMScheduler", "steps_offset": 1},
    ),
    "ddim beside flax": ("DDIMScheduler", {**PNDM, "_class_name": "FlaxDDIMScheduler"}),
    "ddim beside inverse": ("DDIMScheduler", {**PNDM, "_class_name": "DDIMInverseScheduler"}),
    "ddim beside flow": (
        "DDIMScheduler",
        {**PNDM, "_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
    ),
    "dpm++ beside a custom class": (
        "DPMSolverMultistepScheduler",
        {**BETAS, "_class_name": "MyScheduler", "my_key": {"a": 1}},
    ),
    "flags as numbers": (
        "DDIMScheduler",
        {**BETAS, "clip_sample": 0, "set_alpha_to_one": 1, "thresholding": 0},
    ),
    "null flags": ("DDIMScheduler", {**BETAS, "clip_sample": None, "set_alpha_to_one": None}),
    "null words": ("EulerDiscreteScheduler", {**BETAS, "timestep_type": None}),
    "more betas than timesteps": (
        "DPMSolverMultistepScheduler",
        {"trained_betas": np.linspace(1e-4, 0.02, 1200).tolist(), "use_karras_sigmas": True},
    ),
    "defaults listed": (
        "EulerDiscreteScheduler",
        {**SDXL, "_use_default_values": ["timestep_spacing", "steps_offset"]},
    ),
    "sigma_min at the end": (
        "DPMSolverMultistepScheduler",
        {**BETAS, "final_sigmas_type": "sigma_min", "algorithm_type": "dpmsolver"},
    ),
    "sigmoid betas": (
        "DDPMScheduler",
        {**BETAS, "beta_schedule": "sigmoid", "clip_sample": False},
    ),
    "laplace betas": (
        "DDPMScheduler",
        {**BETAS, "beta_schedule": "laplace", "clip_sample": False},
    ),
    "exponential betas": ("HeunDiscreteScheduler", {**BETAS, **V, "beta_schedule": "exp"}),
    "no keys": ("UniPCMultistepScheduler", {}),
}
"""What `model_index.json` names, and `scheduler_config.json`, of published checkpoints and kin."""


def files() -> Iterator[tuple[str, str, Config]]:
    """A name, the index's class and the file, for every version of every class and the others."""
    for class_name, versions in VERSIONS.items():
        config: Config = {**BETAS, "_class_name": class_name}
        for version, keys in versions.items():
            config = {**config, **keys, "_diffusers_version": version}
            if version != "0.2.4" and config.get("tensor_format") == "pt":
                del config["tensor_format"]
            yield f"{class_name} {version}", class_name, config
    for name, (class_name, config) in PUBLISHED.items():
        yield name, class_name, config


FILES = {name: (class_name, config) for name, class_name, config in files()}


def network(x: Array, t: float) -> Array:
    """Something nonlinear in x and t; the same code for both sides."""
    return (0.9 * np.tanh(x[::-1] * 0.7 + x * 0.3 + math.cos(t / 300.0)) + 0.2 * x).astype("f4")


def theirs(class_name: str, config: Config, steps: int) -> tuple[list[float], Array]:
    """The timesteps and the last latent in diffusers, the class made from the file."""
    kind: Any = getattr(diffusers, class_name)
    with pytest.MonkeyPatch.context() as patch:
        # Some constructors begin with a thousand timesteps, which no run takes.
        set_timesteps = kind.set_timesteps
        patch.setattr(kind, "set_timesteps", lambda made, *_: set_timesteps(made, 10))
        scheduler = kind.from_config(config)
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(SEED)
    x = torch.randn((1, *SHAPE), generator=generator) * scheduler.init_noise_sigma
    if hasattr(scheduler, "set_begin_index"):
        # Else it looks the first timestep up and may take the second of two that round to one.
        scheduler.set_begin_index(0)
    taken = inspect.signature(scheduler.step).parameters
    extra: Config = {"generator": generator} if "generator" in taken else {}
    if class_name == "DPMSolverSDEScheduler":
        scheduler.noise_sampler = lambda *_: torch.randn((1, *SHAPE), generator=generator)
    for t in scheduler.timesteps:
        out = network(scheduler.scale_model_input(x, t)[0].numpy(), float(t))
        x = scheduler.step(torch.from_numpy(out)[None], t, x, **extra).prev_sample
    return scheduler.timesteps.tolist(), x[0].numpy()


def run(schedule: Schedule) -> Array:
    """The last latent here."""
    noise = TorchNoise(SEED)
    start: Array = noise.normal(SHAPE) * np.float32(schedule.init_scale)
    steps = sample(start, schedule, noise=noise)
    try:
        asked = next(steps)
        while True:
            out = network(model_input(asked.latent, asked.sigma), asked.timestep)
            x0 = denoised(asked.latent, out, asked.sigma, schedule.prediction_type)
            asked = steps.send((asked.latent, x0))
    except StopIteration as stop:
        return stop.value * np.float32(schedule.final_scale)


def test_the_corpus_has_a_hundred_files() -> None:
    assert len(FILES) >= 100
    assert {class_name for class_name, _ in FILES.values()} == {
        name.class_name for name in CATALOGUE.values()
    }


@pytest.mark.usefixtures("exact_roots")
@pytest.mark.parametrize("name", FILES)
def test_a_file_draws_what_diffusers_draws_from_it(name: str) -> None:
    class_name, config = FILES[name]
    steps = 12 if name.startswith("cosine") else 5
    told, latent = theirs(class_name, config, steps)
    schedule = build_schedule(adopt_config(config, class_name).config, steps=steps)
    # Karras timesteps follow from logarithms of levels, to a few 1e-7 of their range.
    assert [e.timestep for e in schedule.evaluations] == pytest.approx(told, abs=1e-3, rel=2e-6)
    mine = run(schedule)
    assert float(np.linalg.norm(mine - latent) / np.linalg.norm(latent)) < TOLERANCE
    assert np.isfinite(mine).all()


@pytest.mark.parametrize("written", [None, "FlaxDDIMScheduler", "DDIMInverseScheduler", "X", 3])
def test_the_index_decides_the_class(written: object) -> None:
    config = {**PNDM, "_class_name": written}
    adopted = adopt_config(config, "DDIMScheduler")
    assert adopted.config == {**config, "_class_name": "DDIMScheduler"}
    assert len(adopted.notes) == 1
    assert "model_index.json" in adopted.notes[0]
    assert str(written) in adopted.notes[0] or written is None


def test_nothing_is_noted_where_index_and_file_agree() -> None:
    config = {**SDXL, "_class_name": "EulerDiscreteScheduler", "_diffusers_version": "0.19.0"}
    assert adopt_config(config, "EulerDiscreteScheduler").notes == ()


@pytest.mark.parametrize("name", ["FlaxDDIMScheduler", "DDIMParallelScheduler"])
def test_classes_that_draw_the_same_are_drawn(name: str) -> None:
    parallel: Any = diffusers.DDIMParallelScheduler
    plain: Any = diffusers.DDIMScheduler
    assert inspect.signature(parallel).parameters == inspect.signature(plain).parameters
    adopted = adopt_config(PNDM, name)
    assert adopted.config["_class_name"] == "DDIMScheduler"
    assert f"scheduler class {name} is drawn by DDIMScheduler" in adopted.notes[-1]


def test_the_file_names_the_class_where_the_index_does_not() -> None:
    adopted = adopt_config({**PNDM, "_class_name": "PNDMScheduler"}, None)
    assert adopted.config["_class_name"] == "PNDMScheduler"
    assert adopted.notes == (
        "model_index.json names no scheduler class: scheduler_config.json names PNDMScheduler",
    )


@pytest.mark.parametrize(
    ("written", "named", "place"),
    [
        (None, None, "scheduler_config.json"),
        ("DDIMInverseScheduler", None, "scheduler_config.json"),
        ("DDIMScheduler", "DDIMInverseScheduler", "model_index.json"),
        ("DDIMScheduler", "FlowMatchEulerDiscreteScheduler", "model_index.json"),
        ("DDIMScheduler", "MyScheduler", "model_index.json"),
    ],
)
def test_an_unknown_scheduler_class_is_refused_with_the_known_ones(
    written: str | None, named: str | None, place: str
) -> None:
    with pytest.raises(InputError, match=f"^scheduler class in {place}: expected one of DDIMS"):
        adopt_config({**PNDM, "_class_name": written}, named)


@pytest.mark.parametrize(
    ("class_name", "keys", "field"),
    [
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, "use_flow_sigmas"),
        ("DDPMScheduler", {"variance_type": "learned"}, "variance_type"),
        ("DDIMScheduler", {"beta_schedule": None}, "beta_schedule"),
        ("DDIMScheduler", {"beta_start": "0.001"}, "beta_start"),
        ("DDIMScheduler", {"trained_betas": [0.1] * 10}, "trained_betas"),
        ("EulerDiscreteScheduler", {"timestep_spacing": "uniform"}, "timestep_spacing"),
    ],
)
def test_a_config_that_its_class_cannot_draw_from_is_refused(
    class_name: str, keys: Config, field: str
) -> None:
    with pytest.raises(InputError, match=rf"^scheduler config '{field}': "):
        adopt_config({**BETAS, **keys}, class_name)


def test_keys_that_the_pipeline_forces_are_checked_too() -> None:
    # Clipping makes something of noise alone, and the pipeline turns it off: diffusers draws NaN.
    config = {**BETAS, "rescale_betas_zero_snr": True, "clip_sample": True}
    config["timestep_spacing"] = "trailing"
    assert adopt_config(config, "DDIMScheduler").notes
    with pytest.raises(InputError, match=r"^prediction_type: expected v_prediction or sample"):
        adopt_config(config, "DDIMScheduler", forced=True)


def test_keys_that_no_scheduler_reads_are_named() -> None:
    keys = {"timestep_values": None, "tensor_format": "pt", "predict_epsilon": False}
    adopted = adopt_config({**PNDM, **keys}, "PNDMScheduler")
    assert adopted.notes[-1] == (
        "scheduler_config.json: no diffusers scheduler reads predict_epsilon, tensor_format,"
        " timestep_values: ignored"
    )


def test_samplers_of_a_config_are_those_of_its_kind() -> None:
    discrete = samplers_of(adopt_config(SDXL, "EulerDiscreteScheduler").config)
    edm = samplers_of(adopt_config(EDM, "EDMEulerScheduler").config)
    assert edm == ("edm_dpmpp_2m", "edm_euler")
    assert {*discrete, *edm} == set(CATALOGUE)
    assert "plms" not in samplers_of({**SDXL, "prediction_type": "sample"})


OTHERS: dict[str, st.SearchStrategy[Any]] = {
    # Of old and new versions, of other classes, of none.
    "tensor_format": st.sampled_from(["pt", "np", None]),
    "timestep_values": st.none(),
    "predict_epsilon": st.booleans(),
    "quantization_config": st.none(),
    "use_resolution_dependent_shift": st.booleans(),
    "my_key": st.recursive(st.none() | st.text(), st.lists, max_leaves=3),
    "_my_key": st.integers(),
    "_class_name": st.sampled_from([None, *FILES, "FlaxDDIMScheduler", "PNDMScheduler"]),
    "_diffusers_version": st.sampled_from(["0.2.4", "9.0.0", None]),
    "_use_default_values": st.lists(st.sampled_from(["steps_offset", "timestep_spacing"])),
    "shift": st.floats(0.5, 9.0) | st.none(),
    "flow_shift": st.floats(0.5, 9.0) | st.none(),
    "use_flow_sigmas": st.sampled_from([False, None]),
    "clip_sample": st.sampled_from([False, None, 0]),
    "set_alpha_to_one": st.sampled_from([True, False, None, 0, 1]),
    "skip_prk_steps": st.sampled_from([True, False, None, 0, 1]),
    "thresholding": st.sampled_from([False, None]),
    "variance_type": st.sampled_from(["fixed_small", "fixed_large", None]),
    "solver_p": st.none(),
    "trained_betas": st.none(),
    "noise_sampler_seed": st.none() | st.integers(0, 9),
    "use_karras_sigmas": st.sampled_from([True, False, None, 1]),
    "lower_order_final": st.sampled_from([True, False, None]),
    "timestep_spacing": st.sampled_from(["leading", "linspace", "trailing"]),
    "steps_offset": st.integers(0, 2),
    "num_train_timesteps": st.sampled_from([1000, 500, 1000]),
}
KEYS = st.fixed_dictionaries({}, optional=OTHERS)
KINDS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")


def test_two_kinds_of_levels_at_once_are_refused_as_in_diffusers() -> None:
    class_name, config = FILES["cosine, beta"]
    asked = {**config, "use_karras_sigmas": True}
    with pytest.raises(ValueError, match="Only one of"):
        getattr(diffusers, class_name).from_config(asked)
    with pytest.raises(InputError, match="expected false where"):
        adopt_config(asked, class_name)


@fuzz(40)
@given(
    name=st.sampled_from(sorted(FILES)),
    keys=KEYS,
    missing=st.sets(st.sampled_from(sorted({*BETAS, *SPACING, "prediction_type"}))),
    data=st.data(),
)
def test_every_listed_sampler_draws_with_the_adopted_config(
    name: str, keys: Config, missing: set[str], data: st.DataObject
) -> None:
    class_name, config = FILES[name]
    if config.get("rescale_betas_zero_snr"):
        # Noise says nothing of the picture where there is nothing else: diffusers draws NaN.
        missing = missing - {"prediction_type"}
    config = {key: value for key, value in config.items() if key not in missing}
    asked = {**config, **keys}
    if sum(asked.get(kind) is True for kind in KINDS) > 1:
        # As in diffusers: levels are of one kind.
        with pytest.raises(ValueError, match="Only one of"):
            getattr(diffusers, class_name).from_config(asked)
        with pytest.raises(InputError, match="expected false where"):
            adopt_config(asked, class_name)
        return
    adopted = adopt_config(asked, class_name)
    samplers = samplers_of(adopted.config)
    assert len(samplers) >= (15 if config.get("beta_schedule") == "scaled_linear" else 1)
    sampler = data.draw(st.sampled_from([None, *samplers]))
    steps = 4 if sampler in (None, "pndm") else 1
    latent = run(build_schedule(adopted.config, steps=steps, sampler=sampler))
    assert latent.dtype == np.float32
    assert np.isfinite(latent).all()
