"""Build the schedule of a run from a scheduler config and a number of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules.betas import check_betas, train_timesteps
from latentrt.runtime.schedules.catalogue import (
    CATALOGUE,
    find_sampler,
    resolve_sampler,
    resolve_schedule,
)
from latentrt.runtime.schedules.classes import CLASS_DEFAULTS, EDM_CLASSES
from latentrt.runtime.schedules.config import SchedulerConfig, read_config
from latentrt.runtime.schedules.ddim import ddim_schedule
from latentrt.runtime.schedules.ddpm import ddpm_schedule
from latentrt.runtime.schedules.deis import deis_schedule
from latentrt.runtime.schedules.dpm2 import dpm2_ancestral_schedule, dpm2_schedule
from latentrt.runtime.schedules.dpm_solver import (
    dpm_solver_multistep_schedule,
    dpm_solver_singlestep_schedule,
    edm_dpm_solver_multistep_schedule,
)
from latentrt.runtime.schedules.dpmpp_sde import dpmpp_sde_schedule
from latentrt.runtime.schedules.edm_euler import edm_euler_schedule
from latentrt.runtime.schedules.euler import euler_schedule
from latentrt.runtime.schedules.euler_ancestral import euler_ancestral_schedule
from latentrt.runtime.schedules.heun import heun_schedule
from latentrt.runtime.schedules.lcm import lcm_schedule
from latentrt.runtime.schedules.lms import lms_schedule
from latentrt.runtime.schedules.part import WHOLE, Part
from latentrt.runtime.schedules.pndm import pndm_schedule
from latentrt.runtime.schedules.schedule import Schedule
from latentrt.runtime.schedules.spacing import levels_asked
from latentrt.runtime.schedules.tcd import tcd_schedule
from latentrt.runtime.schedules.unipc import unipc_schedule
from latentrt.runtime.schedules.wanted import LEVELS, Wanted

__all__ = ["SCHEDULES", "build_schedule", "euler_name", "resolved", "schedules_of"]

_BUILDERS: Final[Mapping[str, Callable[[SchedulerConfig, Wanted], Schedule]]] = {
    "DDIMScheduler": ddim_schedule,
    "DDPMScheduler": ddpm_schedule,
    "DEISMultistepScheduler": deis_schedule,
    "DPMSolverMultistepScheduler": dpm_solver_multistep_schedule,
    "DPMSolverSDEScheduler": dpmpp_sde_schedule,
    "DPMSolverSinglestepScheduler": dpm_solver_singlestep_schedule,
    "EDMDPMSolverMultistepScheduler": edm_dpm_solver_multistep_schedule,
    "EDMEulerScheduler": edm_euler_schedule,
    "EulerAncestralDiscreteScheduler": euler_ancestral_schedule,
    "EulerDiscreteScheduler": euler_schedule,
    "HeunDiscreteScheduler": heun_schedule,
    "KDPM2AncestralDiscreteScheduler": dpm2_ancestral_schedule,
    "KDPM2DiscreteScheduler": dpm2_schedule,
    "LCMScheduler": lcm_schedule,
    "LMSDiscreteScheduler": lms_schedule,
    "PNDMScheduler": pndm_schedule,
    "TCDScheduler": tcd_schedule,
    "UniPCMultistepScheduler": unipc_schedule,
}

_SPACED: Final = ("leading", "linspace", "trailing")
_WITH_LEVELS: Final = frozenset({*EDM_CLASSES, "EulerAncestralDiscreteScheduler"})
"""Classes without a key for it that are none the worse for levels spaced for their own sake."""

_DISTILLED: Final = frozenset({"LCMScheduler", "TCDScheduler"})
"""Classes whose timesteps are those of a distillation."""

_WHOLE_ALONE: Final = frozenset({"pndm", "plms"})
"""Samplers whose first steps differ from their later ones: two models cannot share them."""

_SDE: Final = "_sde"
"""How the names of samplers end that solve the SDE, and so draw the noise from level to level."""

SCHEDULES: Final = (*LEVELS, *_SPACED)
"""The names that `build_schedule` takes for a schedule other than the config's own."""


def build_schedule(
    config: Mapping[str, object],
    *,
    steps: int = 20,
    sampler: str | None = None,
    schedule: str | None = None,
    eta: float | None = None,
    rho: float | None = None,
    timesteps: tuple[float, ...] | None = None,
    sigmas: tuple[float, ...] | None = None,
    brownian: bool = False,
    xl: bool = False,
    part: Part = WHOLE,
    distilled: bool = False,
) -> Schedule:
    """The schedule of a run of `steps` steps under a diffusers scheduler config.

    `sampler` is a short name, a diffusers class name or a web UI's name, in any case; None takes
    the class that the config names. A web UI's name may name the schedule too. The keys that the
    sampler's class has carry over from the config, whatever class it was written for. `schedule`
    overrides the config's spacing: levels spaced for their own sake ("karras", with its exponent
    `rho`, ...), or "leading", "linspace" or "trailing" timesteps. `timesteps`, or
    `sigmas` with the level to end on as the last, say outright what is visited, whatever `steps`.
    `eta`, from 0 to 1, is the share of fresh noise of a sampler that has one. `brownian` says that
    the noise will be a Brownian path's, which only some samplers can follow. `xl` chooses SDXL's
    levels where they differ from SD 1's (align_your_steps). `part` says how many of the steps are
    taken, those at the lower levels. Where `distilled`, all steps are spread over that share of the
    distillation's timesteps.

    Raises InputError, naming the key or argument, for everything that is not honoured here; `steps`
    is an integer from 1 to the config's `num_train_timesteps`.
    """
    sampler, schedule = resolved(sampler, schedule)
    read = read_config(config, sampler)
    wanted = Wanted(steps, eta=eta, rho=rho, timesteps=timesteps, sigmas=sigmas, xl=xl)
    if timesteps is not None or sigmas is not None:
        wanted = replace(wanted, steps=_number_of(timesteps, sigmas, schedule))
    if schedule is not None:
        read, wanted = _respaced(read, wanted, schedule)
    _check(wanted, train_timesteps(read))
    if distilled and read.class_name in _DISTILLED:
        wanted = replace(wanted, share=part.strength)
    elif (part.strength, part.counting) != (1.0, "diffusers"):
        wanted = _begun(wanted, part)
    try:
        made = _BUILDERS[read.class_name](read, wanted)
    except InputError as error:
        if error.field == "schedule" and read.class_name not in EDM_CLASSES:
            check_betas(read)
        raise
    if wanted.begin and read.class_name != "PNDMScheduler":  # which has begun there itself
        made = made.begun(wanted.begin)
    made = replace(_within(made, part), spacing=_spacing(read, wanted))
    if brownian:
        _check_path(made)
    return made


def resolved(sampler: str | None, schedule: str | None) -> tuple[str | None, str | None]:
    """The names here of a sampler and of a schedule, which the sampler's name may name too.

    Raises InputError for a sampler that does not exist, and for two schedules that differ.
    """
    if schedule is not None:
        schedule = resolve_schedule(schedule)
    if sampler is None:
        return None, schedule
    found, named = resolve_sampler(sampler)
    if schedule is not None and named is not None and schedule != named:
        raise InputError("schedule", f"{named} with sampler {sampler}, or none", repr(schedule))
    return found, named if schedule is None else schedule


def _spacing(config: SchedulerConfig, wanted: Wanted) -> str | None:
    """The name of the schedule that a run goes by; None for the class's own timesteps."""
    if wanted.timesteps is not None or wanted.sigmas is not None:
        return None
    if wanted.levels is not None or config.class_name in EDM_CLASSES:
        return wanted.levels or str(config.values["sigma_schedule"])
    asked = levels_asked(config, wanted)
    if config.flag("use_lu_lambdas") and asked != "karras":
        return None
    if asked is not None or config.values.get("interpolation_type") == "log_linear":
        return asked
    key = "timestep_spacing"
    spacing = config.values.get(key)
    return None if spacing == CLASS_DEFAULTS[config.class_name].get(key) else str(spacing)


def _number_of(
    timesteps: tuple[float, ...] | None, sigmas: tuple[float, ...] | None, schedule: str | None
) -> int:
    """How many steps timesteps or sigmas that are given outright make."""
    if schedule is not None:
        raise InputError("schedule", "none where timesteps or sigmas are given", repr(schedule))
    if timesteps is not None and sigmas is not None:
        raise InputError("sigmas", "none where timesteps are given", "some")
    return len(timesteps) if timesteps is not None else max(len(sigmas or ()) - 1, 1)


def _within(made: Schedule, part: Part) -> Schedule:
    """The steps of a schedule on one side of a timestep.

    Raises InputError where there are none, and for a sampler whose steps cannot be parted.
    """
    if part.above is None and part.below is None:
        return made
    if made.sampler in _WHOLE_ALONE:
        raise InputError("sampler", "one that two models can share", made.sampler)
    times = [e.timestep for e in made.evaluations if e.stage == 0]
    first = sum(time >= (part.above or part.below or 0) for time in times)
    if not 0 < first < len(times):
        expected = f"a share of the noise with steps on both sides ({len(times)} steps)"
        raise InputError("refiner at", expected, "all on one side")
    return made.ended(first) if part.above is not None else made.begun(first)


def _begun(wanted: Wanted, part: Part) -> Wanted:
    """The wishes for a part of a run."""
    listed = wanted.timesteps is not None or wanted.sigmas is not None
    if listed and part.counting == "exact":
        expected = "diffusers or webui with timesteps or sigmas of their own"
        raise InputError("counting", expected, part.counting)
    steps = wanted.steps
    return replace(wanted, steps=part.spaced(steps), begin=part.begin(steps))


def _check(wanted: Wanted, most: int) -> None:
    """Raise InputError for numbers that no schedule has."""
    steps, eta, rho = wanted.steps, wanted.eta, wanted.rho
    # bool is an int, and True steps are a mistake.
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= most:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError("steps", f"an integer from 1 to {most}", repr(steps))
    if eta is not None and not 0.0 <= eta <= 1.0:
        raise InputError("eta", "a number from 0 to 1", eta)
    if rho is not None and not 0.1 <= rho <= 100.0:
        raise InputError("rho", "a number from 0.1 to 100", rho)
    if rho is not None and wanted.levels not in ("karras", "polyexponential"):
        raise InputError("rho", "none but with schedule karras or polyexponential", rho)


def _check_path(schedule: Schedule) -> None:
    """Raise InputError for a sampler that asks for no noise between two levels."""
    still = schedule.options.get("eta") == 0.0
    if still or not schedule.sampler.endswith(_SDE):
        names = ", ".join(name for name in CATALOGUE if name.endswith(_SDE))
        got = f"{schedule.sampler}{' with eta 0' if still else ''}"
        raise InputError("brownian", f"a sampler that follows a path ({names}; eta above 0)", got)


def schedules_of(sampler: str) -> tuple[str, ...]:
    """The names that `build_schedule` takes for a schedule with a sampler.

    `sampler` is a short name or a diffusers class name; InputError for any other.
    """
    class_name = find_sampler(sampler).class_name
    keys = CLASS_DEFAULTS[class_name]
    levels = LEVELS if "use_karras_sigmas" in keys or class_name in _WITH_LEVELS else ()
    # Those were optimised for models trained on timesteps.
    edm = class_name in EDM_CLASSES
    levels = tuple(each for each in levels if not (edm and each == "align_your_steps"))
    return (*levels, *(_SPACED if "timestep_spacing" in keys else ()))


def euler_name(config: Mapping[str, object]) -> str:
    """The name of Euler's method for the model of a config: EDM models have one of their own."""
    return "edm_euler" if config.get("_class_name") in EDM_CLASSES else "euler"


def _respaced(
    config: SchedulerConfig, wanted: Wanted, schedule: str
) -> tuple[SchedulerConfig, Wanted]:
    """The config and the wishes with another spacing, if the sampler has it."""
    known = schedules_of(config.class_name)
    if schedule not in known:
        expected = f"one of {', '.join(known)}" if known else "none"
        raise InputError("schedule", f"{expected} with {config.class_name}", repr(schedule))
    kinds = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
    off: dict[str, object] = {key: False for key in kinds if key in config.values}
    for levels in LEVELS:
        if schedule == levels:
            return config.with_values(**off), replace(wanted, levels=levels)
    return config.with_values(**{**off, "timestep_spacing": schedule}), wanted
