"""What each diffusers scheduler class reads in a config, and what it takes for an absent key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

__all__ = ["CLASS_DEFAULTS", "EDM_CLASSES", "class_here"]

_Keys = Mapping[str, object]

_BETAS: Final[_Keys] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
}
"""What describes the noise a model was trained on, in discrete time."""

_STABLE_BETAS: Final[_Keys] = {**_BETAS, "beta_start": 0.00085, "beta_end": 0.012}
"""The same in classes whose defaults are Stable Diffusion's."""

_LINSPACE: Final[_Keys] = {"timestep_spacing": "linspace", "steps_offset": 0}
_LEADING: Final[_Keys] = {"timestep_spacing": "leading", "steps_offset": 0}
_ZERO_SNR: Final[_Keys] = {"rescale_betas_zero_snr": False}

_SIGMAS: Final[_Keys] = {
    # Few classes have these as arguments; all read them where a config has them.
    "sigma_max": None,
    "sigma_min": None,
    "use_beta_sigmas": False,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}
_FLOW: Final[_Keys] = {"use_dynamic_shifting": False, "use_flow_sigmas": False}
"""Flow matching, which is refused."""

_THRESHOLDING: Final[_Keys] = {
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "thresholding": False,
}
_CLIPPING: Final[_Keys] = {"clip_sample": True, "clip_sample_range": 1.0}

_DPM_SOLVER: Final[_Keys] = {
    **_BETAS,
    **_SIGMAS,
    **_FLOW,
    **_THRESHOLDING,
    "algorithm_type": "dpmsolver++",
    "final_sigmas_type": "zero",
    "lambda_min_clipped": -math.inf,
    "solver_order": 2,
    "solver_type": "midpoint",
    "variance_type": None,
}
_DISTILLED: Final[_Keys] = {
    **_STABLE_BETAS,
    **_ZERO_SNR,
    "beta_schedule": "scaled_linear",
    "original_inference_steps": 50,
}
"""What consistency models are read by; the classes have a spacing, too, that they never look at."""

_EDM: Final[_Keys] = {
    "final_sigmas_type": "zero",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "sigma_data": 0.5,
    "sigma_max": 80.0,
    "sigma_min": 0.002,
    "sigma_schedule": "karras",
}

EDM_CLASSES: Final = frozenset({"EDMDPMSolverMultistepScheduler", "EDMEulerScheduler"})
"""Classes for models trained on continuous noise levels (arXiv:2206.00364), not on timesteps."""

CLASS_DEFAULTS: Final[Mapping[str, _Keys]] = {
    "DDIMScheduler": {
        **_BETAS,
        **_LEADING,
        **_ZERO_SNR,
        **_THRESHOLDING,
        **_CLIPPING,
        "set_alpha_to_one": True,
    },
    "DDPMScheduler": {
        **_BETAS,
        **_LEADING,
        **_ZERO_SNR,
        **_THRESHOLDING,
        **_CLIPPING,
        "variance_type": "fixed_small",
    },
    "DEISMultistepScheduler": {
        **_BETAS,
        **_LINSPACE,
        **_SIGMAS,
        **_FLOW,
        **_THRESHOLDING,
        "algorithm_type": "deis",
        "lower_order_final": True,
        "solver_order": 2,
        "solver_type": "logrho",
    },
    "DPMSolverMultistepScheduler": {
        **_DPM_SOLVER,
        **_LINSPACE,
        **_ZERO_SNR,
        "euler_at_final": False,
        "lower_order_final": True,
        "use_lu_lambdas": False,
    },
    "DPMSolverSDEScheduler": {
        **_STABLE_BETAS,
        **_LINSPACE,
        **_SIGMAS,
        "noise_sampler_seed": None,
    },
    "DPMSolverSinglestepScheduler": {**_DPM_SOLVER, "lower_order_final": False},
    "EDMDPMSolverMultistepScheduler": {
        **_EDM,
        **_THRESHOLDING,
        "algorithm_type": "dpmsolver++",
        "euler_at_final": False,
        "lower_order_final": True,
        "solver_order": 2,
        "solver_type": "midpoint",
    },
    "EDMEulerScheduler": _EDM,
    "EulerAncestralDiscreteScheduler": {**_BETAS, **_LINSPACE, **_ZERO_SNR},
    "EulerDiscreteScheduler": {
        **_BETAS,
        **_LINSPACE,
        **_SIGMAS,
        **_ZERO_SNR,
        "final_sigmas_type": "zero",
        "interpolation_type": "linear",
        "timestep_type": "discrete",
    },
    "HeunDiscreteScheduler": {
        **_STABLE_BETAS,
        **_LINSPACE,
        **_SIGMAS,
        **_CLIPPING,
        "clip_sample": False,
    },
    "KDPM2AncestralDiscreteScheduler": {**_STABLE_BETAS, **_LINSPACE, **_SIGMAS},
    "KDPM2DiscreteScheduler": {**_STABLE_BETAS, **_LINSPACE, **_SIGMAS},
    "LCMScheduler": {
        **_DISTILLED,
        **_THRESHOLDING,
        **_CLIPPING,
        "clip_sample": False,
        "timestep_scaling": 10.0,
    },
    "LMSDiscreteScheduler": {**_BETAS, **_LINSPACE, **_SIGMAS},
    "PNDMScheduler": {
        **_BETAS,
        **_LEADING,
        "set_alpha_to_one": False,
        "skip_prk_steps": False,
    },
    "TCDScheduler": _DISTILLED,
    "UniPCMultistepScheduler": {
        **_BETAS,
        **_LINSPACE,
        **_SIGMAS,
        **_FLOW,
        **_ZERO_SNR,
        **_THRESHOLDING,
        "disable_corrector": [],
        "final_sigmas_type": "zero",
        "lower_order_final": True,
        "predict_x0": True,
        "shift_terminal": None,
        "solver_order": 2,
        "solver_p": None,
        "solver_type": "bh2",
    },
}
"""Every key that a class reads, with the value it takes when a config does not have it."""

_SAME: Final = {
    "DDIMParallelScheduler": "DDIMScheduler",
    "DDPMParallelScheduler": "DDPMScheduler",
}
"""Classes that have one picture's keys, defaults and steps in common with another."""


def class_here(name: object) -> str | None:
    """The class here that draws what a diffusers class of this name draws, None if there is none.

    A Flax class is drawn as the class without that prefix.

    Source: diffusers' `DiffusionPipeline.from_pretrained`, which takes off the prefix.
    """
    if not isinstance(name, str):
        return None
    plain = name.removeprefix("Flax")
    plain = _SAME.get(plain, plain)
    return plain if plain in CLASS_DEFAULTS else None
