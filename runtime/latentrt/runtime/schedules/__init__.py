"""From a diffusers scheduler config and a number of steps to what a sampler evaluates."""

from __future__ import annotations

from latentrt.runtime.schedules.adopted import Adopted, adopt_config, samplers_of
from latentrt.runtime.schedules.builder import SCHEDULES, build_schedule, euler_name, schedules_of
from latentrt.runtime.schedules.catalogue import (
    CATALOGUE,
    SamplerName,
    find_sampler,
    resolve_sampler,
    resolve_schedule,
    web_names,
)
from latentrt.runtime.schedules.config import as_stable_diffusion, unused_keys
from latentrt.runtime.schedules.part import WHOLE, Counting, Part
from latentrt.runtime.schedules.schedule import Clipping, Evaluation, Option, Schedule

__all__ = [
    "CATALOGUE",
    "SCHEDULES",
    "WHOLE",
    "Adopted",
    "Clipping",
    "Counting",
    "Evaluation",
    "Option",
    "Part",
    "SamplerName",
    "Schedule",
    "adopt_config",
    "as_stable_diffusion",
    "build_schedule",
    "euler_name",
    "find_sampler",
    "resolve_sampler",
    "resolve_schedule",
    "samplers_of",
    "schedules_of",
    "unused_keys",
    "web_names",
]
