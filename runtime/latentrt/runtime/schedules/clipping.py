"""How a config asks for the estimate of x0 to be kept in range."""

from __future__ import annotations

import math

from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.schedule import Clipping

__all__ = ["clipping"]


def clipping(config: SchedulerConfig, *, clip_sample: bool, scale: float = 1.0) -> Clipping | None:
    """The clipping that a config asks for, dynamic thresholding before plain clipping.

    `clip_sample` says whether the class has plain clipping at all; `scale` is that of the config's
    data, which the schedule's is divided by. Raises InputError for ranges and quantiles that are
    none.
    """
    if config.flag("thresholding"):
        limit = config.number("sample_max_value", 1.0, math.inf)
        return Clipping(limit, config.number("dynamic_thresholding_ratio", 0.0, 1.0), scale)
    if clip_sample and config.flag("clip_sample"):
        return Clipping(config.number("clip_sample_range", 0.0, math.inf), scale=scale)
    return None
