"""Betas and their products, held bit for bit against diffusers' own."""

from __future__ import annotations

from typing import Any

import diffusers
import numpy as np
import pytest

from latentrt.runtime.schedules.betas import cumulative_alphas
from latentrt.runtime.schedules.config import read_config

Config = dict[str, Any]

SD: Config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

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
    scheduler: Any = diffusers.DDIMScheduler(**config)
    theirs = scheduler.alphas_cumprod.numpy()
    floor = 2.0**-40 if zero_snr else 0.0
    mine = cumulative_alphas(read_config(config, "ddim"), floor=floor)
    np.testing.assert_array_equal(mine[:-1], theirs[:-1])
    assert mine[-1] == (floor if zero_snr else theirs[-1])
    assert theirs[-1] == 0.0 or not zero_snr
