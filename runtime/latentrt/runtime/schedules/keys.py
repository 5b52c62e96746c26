"""The keys of diffusers' scheduler configs: who knows them, and what they are when absent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

__all__ = ["CLASS_DEFAULTS", "KNOWN_KEYS", "SAMPLER_CLASSES", "SOURCES"]

SAMPLER_CLASSES: Final[Mapping[str, str]] = {
    "ddim": "DDIMScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
}
"""The diffusers class whose results and whose reading of a config each sampler reproduces."""

SOURCES: Final = frozenset(
    {
        "DDIMScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSDEScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LCMScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "TCDScheduler",
        "UniPCMultistepScheduler",
    }
)
"""Classes whose configs describe the betas of a variance preserving diffusion in discrete time."""

_BETAS: Final[Mapping[str, object]] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "steps_offset": 0,
    "rescale_betas_zero_snr": False,
}
"""What the classes below have in common, defaults too."""

CLASS_DEFAULTS: Final[Mapping[str, Mapping[str, object]]] = {
    "DDIMScheduler": {
        **_BETAS,
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "dynamic_thresholding_ratio": 0.995,
        "sample_max_value": 1.0,
        "set_alpha_to_one": True,
        "thresholding": False,
        "timestep_spacing": "leading",
    },
    "DPMSolverMultistepScheduler": {
        **_BETAS,
        "algorithm_type": "dpmsolver++",
        "dynamic_thresholding_ratio": 0.995,
        "euler_at_final": False,
        "final_sigmas_type": "zero",
        "lambda_min_clipped": -math.inf,
        "lower_order_final": True,
        "sample_max_value": 1.0,
        # Not arguments of the class, but it reads them where a config has them for another class.
        "sigma_max": None,
        "sigma_min": None,
        "solver_order": 2,
        "solver_type": "midpoint",
        "thresholding": False,
        "timestep_spacing": "linspace",
        "use_beta_sigmas": False,
        "use_dynamic_shifting": False,
        "use_exponential_sigmas": False,
        "use_flow_sigmas": False,
        "use_karras_sigmas": False,
        "use_lu_lambdas": False,
        "variance_type": None,
    },
    "EulerDiscreteScheduler": {
        **_BETAS,
        "final_sigmas_type": "zero",
        "interpolation_type": "linear",
        "sigma_max": None,
        "sigma_min": None,
        "timestep_spacing": "linspace",
        "timestep_type": "discrete",
        "use_beta_sigmas": False,
        "use_exponential_sigmas": False,
        "use_karras_sigmas": False,
    },
}
"""Every key that a class reads, with the value it takes when a config does not have it."""

_ARGUMENTS: Final = """
    algorithm_type alpha_cum_end alpha_cum_start base_image_seq_len base_shift beta_end beta_max
    beta_min beta_schedule beta_start block_length clip_denoised clip_sample clip_sample_range
    correct_steps corrector_k corrector_order corrector_selection corrector_selection_tau
    corrector_steps disable_corrector dynamic_thresholding_ratio editing_threshold entropy_bound
    eps eta euler_at_final final_sigmas_type final_step_size_scale flow_shift gamma gamma_cum_end
    gamma_cum_start interpolation_type invert_sigmas lambda_min_clipped lower_order_final
    mask_token_id masking_schedule max_image_seq_len max_shift minimal_topk n_grid noise_mode
    num_inference_steps num_policy_substeps num_train_timesteps num_vec_classes
    original_inference_steps predict_x0 prediction_type predictor_order rescale_betas_zero_snr rho
    s s_churn s_max s_min s_noise sample_max_value sampling_eps scale_factors scaler schedule_mode
    scheduler_type set_alpha_to_one shift shift_terminal sigma_data sigma_max sigma_min
    sigma_schedule skip_prk_steps snr snr_shift_scale solver_order solver_p solver_type
    stage_range stages steps_offset stochastic_sampling t_lim_ode t_lim_ode_below t_max t_min
    tail_step_multiplier tail_steps tau_func threshold thresholding time_shift_type
    timestep_scaling timestep_spacing timestep_type trained_betas tsr_k tsr_sigma upscale_mode
    use_beta_sigmas use_dynamic_shifting use_exponential_sigmas use_flow_sigmas use_karras_sigmas
    use_lu_lambdas variance_type
"""

KNOWN_KEYS: Final = frozenset(_ARGUMENTS.split())
"""The arguments of every scheduler in diffusers 0.42: real configs carry those of other classes."""
