"""The timesteps that a consistency model was distilled at."""

from __future__ import annotations

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules.betas import train_timesteps
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.trained import whole_timesteps
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["distilled_timesteps"]


def distilled_timesteps(config: SchedulerConfig, wanted: Wanted) -> list[int]:
    """As many of the timesteps of distillation as there are steps, evenly, the noisiest first.

    Timesteps that are wanted outright are taken as they are, if the model was trained on them.
    Raises InputError for more steps than the distillation had, and for other timesteps.

    Source: arXiv:2310.04378, section 4.3 (the skipping step).
    """
    if wanted.timesteps is not None:
        return whole_timesteps(config, wanted)
    train = train_timesteps(config)
    count = config.integer("original_inference_steps", 1, train)
    skip = train // count
    used = int(count * wanted.share)
    if wanted.steps > used:
        of = "original_inference_steps" + (" times strength" if used < count else "")
        raise InputError("steps", f"at most {used} ({of})", wanted.steps)
    return [(used - used * i // wanted.steps) * skip - 1 for i in range(wanted.steps)]
