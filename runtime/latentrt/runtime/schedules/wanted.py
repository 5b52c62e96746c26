"""What a request adds to a scheduler config: how many steps, and at which noise levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from latentrt.bundle.errors import InputError

__all__ = ["LEVELS", "Levels", "Wanted"]

Levels = Literal["align_your_steps", "beta", "exponential", "karras", "polyexponential"]
LEVELS: Final[tuple[Levels, ...]] = (
    "align_your_steps",
    "beta",
    "exponential",
    "karras",
    "polyexponential",
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One run's wishes; every None leaves it to the config.

    `levels` spaces the noise levels for their own sake, `rho` is the exponent of karras (7) and
    polyexponential (1) levels; `timesteps`, falling, or `sigmas`, falling and with the level to end
    on as the last, say outright what is visited: `steps` is then their number. `eta` is the share
    of fresh noise. `xl` takes the align-your-steps levels of SDXL instead of SD 1's. `begin` is how
    many of the steps are left out at the noisy end; `share` is how much of a distillation's
    timesteps, from the lowest up, the steps are spread over.
    """

    steps: int
    eta: float | None = None
    levels: Levels | None = None
    rho: float | None = None
    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    xl: bool = False
    begin: int = 0
    share: float = 1.0

    def refuse(self, class_name: str, *fields: Literal["eta", "sigmas", "timesteps"]) -> None:
        """Raise InputError for a wish that a class has no place for."""
        for field in fields:
            value = getattr(self, field)
            if value is not None:
                raise InputError(field, f"none with {class_name}", value)
