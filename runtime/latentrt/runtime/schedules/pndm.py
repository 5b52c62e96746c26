"""The schedule of pseudo numerical methods, with and without a Runge-Kutta warm-up."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules.betas import train_timesteps
from latentrt.runtime.schedules.config import SchedulerConfig
from latentrt.runtime.schedules.schedule import Evaluation, Schedule
from latentrt.runtime.schedules.trained import (
    last_level,
    trained_levels,
    trained_schedule,
    whole_timesteps,
)
from latentrt.runtime.schedules.wanted import Wanted

__all__ = ["pndm_schedule"]


@dataclass(frozen=True, slots=True)
class _Leg:
    """One evaluation, by training timesteps; below 0 lies the last level.

    The model's output at `told` takes the step's first latent from `start` to `end`. This is the
    evaluation `stage` of its step, which ends at `goal`.
    """

    told: int
    start: int
    end: int
    goal: int
    stage: int = 0


def pndm_schedule(config: SchedulerConfig, wanted: Wanted) -> Schedule:
    """The evaluations of diffusers' PNDMScheduler.

    A step of the multistep method goes down by `num_train_timesteps // steps`, wherever the next
    listed timestep lies. Three steps of Runge-Kutta come first, of four evaluations each; or, where
    they are skipped, one step of two. Raises InputError for timesteps the model does not have, and
    for what the class does not have.

    Source: arXiv:2202.09778, Alg. 2.
    """
    wanted.refuse(config.class_name, "eta", "sigmas", "timesteps")
    levels = trained_levels(config)
    last = last_level(config, levels)
    timesteps = whole_timesteps(config, wanted)
    stride = train_timesteps(config) // wanted.steps
    skipped = config.flag("skip_prk_steps")
    if skipped:
        # As diffusers: the second timestep is listed twice, and `begin` counts in that list.
        listed = [*timesteps[:1], *timesteps[1:2], *timesteps[1:]][wanted.begin :]
        first = _improved_euler(listed[:2], stride)
        rest = listed[2:] if first else listed
    elif wanted.begin:
        expected = "a sampler without Runge-Kutta's steps, such as plms, to begin from a picture"
        raise InputError("sampler", expected, "pndm")
    elif wanted.steps >= 4:
        first, rest = _runge_kutta(timesteps[:4], stride // 2), timesteps[3:]
    else:
        raise InputError("steps", "at least 4, three of them Runge-Kutta's", wanted.steps)
    legs = [*first, *(_Leg(t, t, t - stride, t - stride) for t in rest)]
    # Where -1 finds it.
    levels = [*levels, last]
    evaluations = tuple(
        Evaluation(float(leg.told), levels[leg.told], levels[max(leg.goal, -1)], leg.stage)
        for leg in legs
    )
    return trained_schedule(
        config,
        "plms" if skipped else "pndm",
        evaluations,
        clipping=None,
        options={
            "starts": tuple(levels[leg.start] for leg in legs),
            "ends": tuple(levels[max(leg.end, -1)] for leg in legs),
        },
        predictions=("epsilon", "v_prediction"),
    )


def _improved_euler(timesteps: Sequence[int], stride: int) -> list[_Leg]:
    """A first step of second order between two timesteps; none where there is but one.

    It ends at the second timestep and begins a stride above it, wherever the first one lies.
    """
    return [
        leg
        for t, s in itertools.pairwise(timesteps)
        for leg in (_Leg(t, t, t - stride, s), _Leg(s, s + stride, s, s, 1))
    ]


def _runge_kutta(timesteps: Sequence[int], half: int) -> list[_Leg]:
    """A step of fourth order from each timestep to the next, halfway by a fixed half stride."""
    return [
        leg
        for t, s in itertools.pairwise(timesteps)
        for leg in (
            _Leg(t, t, t - half, s),
            _Leg(s + half, t, s + half, s, 1),
            _Leg(s + half, t, s, s, 2),
            _Leg(s, t, s, s, 3),
        )
    ]
