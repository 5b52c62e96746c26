"""The noise a model was trained on: betas and their products, rounded as diffusers rounds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules.config import SchedulerConfig

__all__ = [
    "MAX_TRAIN_TIMESTEPS",
    "check_betas",
    "cumulative_alphas",
    "sigma_table",
    "train_timesteps",
]

MAX_TRAIN_TIMESTEPS: Final = 100_000
"""A hundred times what models have: a config from elsewhere must not be able to fill the memory."""

_F32 = NDArray[np.float32]


def train_timesteps(config: SchedulerConfig) -> int:
    """The number of noise levels that the model was trained on."""
    return config.integer("num_train_timesteps", 1, MAX_TRAIN_TIMESTEPS)


def cumulative_alphas(config: SchedulerConfig, *, floor: float) -> _F32:
    """The share of signal variance left at each training timestep, float32 [num_train_timesteps].

    A longer list of trained betas gives more; runs begin within `num_train_timesteps` of them.

    The last one is exactly `floor` where the config asks for zero terminal SNR, which may be more
    than the one before it has. Raises InputError for betas that cannot be.

    Source: arXiv:2006.11239, section 2; arXiv:2305.08891, Alg. 1 (zero terminal SNR).
    """
    betas = _betas(config)
    alphas = _cumulative(np.float32(1.0) - betas)
    if "rescale_betas_zero_snr" in config.values and config.flag("rescale_betas_zero_snr"):
        if not alphas[-1] < alphas[0]:
            key = "scheduler config 'rescale_betas_zero_snr'"
            raise InputError(key, "false where the signal never falls", True)
        alphas = _cumulative(np.float32(1.0) - _zero_terminal_snr(alphas))
        alphas[-1] = floor
    if not np.isfinite(alphas).all():
        check_betas(config)
    return alphas


def check_betas(config: SchedulerConfig) -> None:
    """Raise InputError for betas under which the noise does not rise from timestep to timestep.

    A run may do without that: it visits a few of the levels.
    """
    betas = _betas(config)
    alphas = _cumulative(np.float32(1.0) - betas)
    # Written so that a NaN fails.
    if not (alphas[0] < 1.0 and alphas[-1] >= np.finfo(np.float32).tiny and _falls(alphas)):
        expected = "betas that leave less signal at every timestep, and some at the last"
        raise InputError(_key(config), expected, f"{betas.min():g} to {betas.max():g}")


def sigma_table(alphas: _F32) -> _F32:
    """The noise level of every training timestep at data scale 1, float32.

    It is infinite where no signal is left.
    """
    with np.errstate(divide="ignore", over="ignore"):
        return np.sqrt((np.float32(1.0) - alphas) / alphas)


def _betas(config: SchedulerConfig) -> _F32:
    """The betas of a config before any rescaling, float32 [num_train_timesteps or more]."""
    count = train_timesteps(config)
    trained = config.numbers("trained_betas")
    if trained is not None:
        if len(trained) < count:
            expected = f"at least {count} betas (num_train_timesteps)"
            raise InputError(_key(config), expected, len(trained))
        if not all(0.0 < beta < 1.0 for beta in trained):
            raise InputError(_key(config), "betas above 0 and below 1", "others")
        return np.array(trained, np.float32)
    own = _OF_ONE_CLASS.get(config.class_name, ())
    kind = config.choice("beta_schedule", (*_OF_ALL, *own))
    signal = _SIGNALS.get(kind)
    if signal is not None:
        return _betas_of(signal, count)
    start, end = config.number("beta_start", 0.0, 1.0), config.number("beta_end", 0.0, 1.0)
    if kind == "linear":
        return _linspace(start, end, count)
    if kind == "sigmoid":
        share = np.float32(1.0) / (np.float32(1.0) + np.exp(-_linspace(-6.0, 6.0, count)))
        return share * np.float32(end - start) + np.float32(start)
    return np.square(_linspace(math.sqrt(start), math.sqrt(end), count))


def _linspace(start: float, end: float, count: int) -> _F32:
    """`torch.linspace` in single precision: from both ends to the middle, one rounding each."""
    first, last = np.float32(start), np.float32(end)
    if count == 1:
        return np.array([first])
    step = np.float64((last - first) / np.float32(count - 1))
    index = np.arange(count)
    rising = np.float64(first) + step * index
    falling = np.float64(last) - step * (count - 1 - index)
    return np.where(index < count // 2, rising, falling).astype(np.float32)


def _betas_of(signal: Callable[[float], float], count: int) -> _F32:
    """Betas of a share of signal that falls from time 0 to 1, none above 0.999."""
    ratios = (signal((i + 1) / count) / signal(i / count) for i in range(count))
    return np.array([min(1.0 - ratio, 0.999) for ratio in ratios], np.float32)


def _squared_cosine(t: float) -> float:
    """Source: arXiv:2102.09672, eq. 17."""
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2


def _exponential(t: float) -> float:
    """Source: diffusers' HeunDiscreteScheduler (for Shap-E)."""
    return math.exp(-12.0 * t)


def _laplace(t: float) -> float:
    """Source: arXiv:2407.03297, Table 1, as diffusers' DDPMScheduler has it."""
    share = math.log(1.0 - 2.0 * abs(0.5 - t) + 1e-6)
    snr = math.exp(-0.5 * math.copysign(1.0, 0.5 - t) * share)
    return math.sqrt(snr / (1.0 + snr))


_SIGNALS: Final[Mapping[str, Callable[[float], float]]] = {
    "exp": _exponential,
    "laplace": _laplace,
    "squaredcos_cap_v2": _squared_cosine,
}
_OF_ALL: Final = ("linear", "scaled_linear", "squaredcos_cap_v2")
_OF_ONE_CLASS: Final[Mapping[str, tuple[str, ...]]] = {
    "DDPMScheduler": ("laplace", "sigmoid"),
    "HeunDiscreteScheduler": ("exp",),
}
"""Beta schedules that a class has beside those of all classes."""


def _cumulative(alphas: _F32) -> _F32:
    """`torch.cumprod`: the running product is a double, each element rounded from it."""
    return np.cumprod(alphas, dtype=np.float64).astype(np.float32)


def _zero_terminal_snr(alphas: _F32) -> _F32:
    """Betas under which the last cumulative alpha is 0 and the first is what it was."""
    root = np.sqrt(alphas)
    first, last = root[0], root[-1]
    root = (root - last) * (first / (first - last))
    squared = np.square(root)
    # No signal of no signal is not a number, which is refused later.
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = squared[1:] / squared[:-1]
    return np.float32(1.0) - np.concatenate([squared[:1], ratios])


def _key(config: SchedulerConfig) -> str:
    """The name of the key that the betas come from."""
    key = "beta_schedule" if config.values["trained_betas"] is None else "trained_betas"
    return f"scheduler config '{key}'"


def _falls(alphas: _F32) -> bool:
    return bool((np.diff(alphas) < 0.0).all())
