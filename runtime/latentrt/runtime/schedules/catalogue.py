"""The samplers by name, and the diffusers class whose results each of them gives."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from latentrt.bundle.errors import InputError

__all__ = ["CATALOGUE", "SamplerName", "find_sampler"]


@dataclass(frozen=True, slots=True)
class SamplerName:
    """What a name stands for: a diffusers class, and keys of its config that the name decides."""

    class_name: str
    decides: Mapping[str, object] = field(default_factory=dict[str, object])


def _solver(order: int, algorithm: str, kind: str = "Multistep") -> SamplerName:
    decides = {"algorithm_type": algorithm, "solver_order": order}
    return SamplerName(f"DPMSolver{kind}Scheduler", decides)


CATALOGUE: Final[Mapping[str, SamplerName]] = {
    "ddim": SamplerName("DDIMScheduler"),
    "ddpm": SamplerName("DDPMScheduler"),
    "deis": SamplerName("DEISMultistepScheduler"),
    "dpm2": SamplerName("KDPM2DiscreteScheduler"),
    "dpm2_ancestral": SamplerName("KDPM2AncestralDiscreteScheduler"),
    "dpmpp_2m": _solver(2, "dpmsolver++"),
    "dpmpp_2m_sde": _solver(2, "sde-dpmsolver++"),
    "dpmpp_2s": _solver(2, "dpmsolver++", "Singlestep"),
    "dpmpp_3m": _solver(3, "dpmsolver++"),
    "dpmpp_3m_sde": _solver(3, "sde-dpmsolver++"),
    "dpmpp_3s": _solver(3, "dpmsolver++", "Singlestep"),
    "dpmpp_sde": SamplerName("DPMSolverSDEScheduler"),
    "edm_dpmpp_2m": SamplerName("EDMDPMSolverMultistepScheduler"),
    "edm_euler": SamplerName("EDMEulerScheduler"),
    "euler": SamplerName("EulerDiscreteScheduler"),
    "euler_ancestral": SamplerName("EulerAncestralDiscreteScheduler"),
    "heun": SamplerName("HeunDiscreteScheduler"),
    "lcm": SamplerName("LCMScheduler"),
    "lms": SamplerName("LMSDiscreteScheduler"),
    "plms": SamplerName("PNDMScheduler", {"skip_prk_steps": True}),
    "pndm": SamplerName("PNDMScheduler", {"skip_prk_steps": False}),
    "tcd": SamplerName("TCDScheduler"),
    "unipc": SamplerName("UniPCMultistepScheduler"),
}
"""The short names. A diffusers class name does too: then its config decides everything."""

_CLASSES: Final = frozenset(name.class_name for name in CATALOGUE.values())


def find_sampler(name: str) -> SamplerName:
    """What a short name or a diffusers class name stands for.

    Raises InputError, with the nearest of those there are, for any other name.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    if name in _CLASSES:
        return SamplerName(name)
    spellings = {each.lower(): each for each in (*CATALOGUE, *sorted(_CLASSES))}
    near = [spellings[each] for each in difflib.get_close_matches(name.lower(), spellings)]
    first = f"{', '.join(near)} or another" if near else "a name"
    raise InputError("sampler", f"{first} that `latentrt samplers` lists", repr(name))
