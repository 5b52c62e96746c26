"""The samplers and schedules by name, with what web UIs and diffusers call each of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from latentrt.bundle.errors import InputError
from latentrt.runtime.schedules.schedule import Schedule

__all__ = [
    "CATALOGUE",
    "WEB_SCHEDULES",
    "SamplerName",
    "find_sampler",
    "resolve_sampler",
    "resolve_schedule",
    "web_names",
]


@dataclass(frozen=True, slots=True)
class SamplerName:
    """What a name stands for: a diffusers class, and keys of its config that the name decides.

    `web` is what web UIs call it, "" where they do not have it; `also` are other names for it.
    """

    class_name: str
    decides: Mapping[str, object] = field(default_factory=dict[str, object])
    web: str = ""
    also: tuple[str, ...] = ()


def _solver(order: int, algorithm: str, kind: str = "Multistep", web: str = "") -> SamplerName:
    decides = {"algorithm_type": algorithm, "solver_order": order}
    return SamplerName(f"DPMSolver{kind}Scheduler", decides, web)


CATALOGUE: Final[Mapping[str, SamplerName]] = {
    "ddim": SamplerName("DDIMScheduler", web="DDIM"),
    "ddpm": SamplerName("DDPMScheduler", web="DDPM"),
    "deis": SamplerName("DEISMultistepScheduler", web="DEIS"),
    "dpm2": SamplerName("KDPM2DiscreteScheduler", web="DPM2", also=("dpm_2", "kdpm_2")),
    "dpm2_ancestral": SamplerName(
        "KDPM2AncestralDiscreteScheduler",
        web="DPM2 a",
        also=("dpm_2_a", "dpm_2_ancestral", "kdpm_2_a"),
    ),
    "dpmpp_2m": _solver(2, "dpmsolver++", web="DPM++ 2M"),
    "dpmpp_2m_sde": _solver(2, "sde-dpmsolver++", web="DPM++ 2M SDE"),
    "dpmpp_2s": _solver(2, "dpmsolver++", "Singlestep", web="DPM++ 2S"),
    "dpmpp_3m": _solver(3, "dpmsolver++", web="DPM++ 3M"),
    "dpmpp_3m_sde": _solver(3, "sde-dpmsolver++", web="DPM++ 3M SDE"),
    "dpmpp_3s": _solver(3, "dpmsolver++", "Singlestep"),
    "dpmpp_sde": SamplerName("DPMSolverSDEScheduler", web="DPM++ SDE"),
    "edm_dpmpp_2m": SamplerName("EDMDPMSolverMultistepScheduler"),
    "edm_euler": SamplerName("EDMEulerScheduler"),
    "euler": SamplerName("EulerDiscreteScheduler", web="Euler"),
    "euler_ancestral": SamplerName("EulerAncestralDiscreteScheduler", web="Euler a"),
    "heun": SamplerName("HeunDiscreteScheduler", web="Heun"),
    "lcm": SamplerName("LCMScheduler", web="LCM"),
    "lms": SamplerName("LMSDiscreteScheduler", web="LMS"),
    "plms": SamplerName("PNDMScheduler", {"skip_prk_steps": True}, web="PLMS"),
    "pndm": SamplerName("PNDMScheduler", {"skip_prk_steps": False}),
    "tcd": SamplerName("TCDScheduler", web="TCD"),
    "unipc": SamplerName("UniPCMultistepScheduler", web="UniPC", also=("uni_pc_bh2",)),
}
"""The short names. A diffusers class name does too: then its config decides everything."""

WEB_SCHEDULES: Final[Mapping[str, tuple[str, ...]]] = {
    "align_your_steps": ("Align Your Steps", "AYS"),
    "beta": ("Beta",),
    "exponential": ("Exponential",),
    "karras": ("Karras",),
    "leading": ("DDIM", "DDIM Uniform"),
    "linspace": ("Uniform", "Normal"),
    "polyexponential": ("Polyexponential",),
    "trailing": ("SGM Uniform", "Simple"),
}
"""What web UIs call the schedules: the first name is the one that is written."""

_AUTOMATIC: Final = "automatic"
"""The web UIs' name for the schedule that comes with a checkpoint or a sampler."""

_CLASSES: Final = frozenset(name.class_name for name in CATALOGUE.values())


def _squeezed(name: str) -> str:
    """A name by its letters and digits: "DPM++ 2M SDE" is dpmpp2msde."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("++", "pp"))


_SAMPLER_OF: Final[Mapping[str, str]] = {
    **{_squeezed(name): name for name in _CLASSES},
    **{
        _squeezed(each): name
        for name, entry in CATALOGUE.items()
        for each in (name, entry.web or name, *entry.also)
    },
}
_SCHEDULE_OF: Final[Mapping[str, str]] = {
    _squeezed(each): name for name, names in WEB_SCHEDULES.items() for each in (name, *names)
}


def find_sampler(name: str) -> SamplerName:
    """What the name of a sampler stands for; a schedule that it names too is not looked at.

    `name` is a short name, a diffusers class name or a web UI's name, in any case. Raises
    InputError, with the nearest of those there are, for any other.
    """
    sampler, _ = resolve_sampler(name)
    return CATALOGUE.get(sampler) or SamplerName(sampler)


def resolve_sampler(name: str) -> tuple[str, str | None]:
    """The short name or diffusers class name of a sampler, and the schedule that its name names.

    Web UIs have names for both in one: "DPM++ 2M Karras" is dpmpp_2m with karras. Raises InputError
    as `find_sampler` does.
    """
    squeezed = _squeezed(name)
    if name.lower().startswith("k_"):
        # k-diffusion's samplers, as the web UIs' interfaces call them.
        squeezed = squeezed.removeprefix("k")
    if squeezed in _SAMPLER_OF:
        return _SAMPLER_OF[squeezed], None
    for ending in sorted(_SCHEDULE_OF, key=len, reverse=True):
        sampler = _SAMPLER_OF.get(squeezed.removesuffix(ending))
        if sampler is not None:
            return sampler, _SCHEDULE_OF[ending]
    spellings = {each.lower(): each for each in (*CATALOGUE, *sorted(_CLASSES))}
    close = difflib.get_close_matches(name.lower(), spellings)
    if not close:
        spellings = {_squeezed(each): each for each in CATALOGUE}
        close = difflib.get_close_matches(squeezed, spellings)
    near = [spellings[each] for each in close]
    first = f"{', '.join(near)} or another" if near else "a name"
    raise InputError("sampler", f"{first} that `latentrt samplers` lists", repr(name))


def resolve_schedule(name: str) -> str | None:
    """The name here of a schedule that web UIs call otherwise, None for automatic.

    Case does not matter. An unknown name is given back as it is.
    """
    squeezed = _squeezed(name)
    return None if squeezed == _AUTOMATIC else _SCHEDULE_OF.get(squeezed, name)


def web_names(schedule: Schedule) -> tuple[str, str | None]:
    """What web UIs call the sampler of a schedule, and its schedule type.

    The first is the name here where they have none. The second is None where no name fits, and for
    the timesteps that the sampler's class has by default.
    """
    entry = CATALOGUE.get(schedule.sampler)
    sampler = entry.web if entry and entry.web else schedule.sampler
    return sampler, WEB_SCHEDULES[schedule.spacing][0] if schedule.spacing else None
