"""Which of a run's steps are taken: those below a strength, counted in one of three ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import number, one_of

__all__ = [
    "COUNTINGS",
    "WHOLE",
    "Counting",
    "Part",
    "checked_counting",
    "checked_strength",
    "hand_over",
]

Counting = Literal["diffusers", "webui", "exact"]
COUNTINGS: Final[tuple[Counting, ...]] = ("diffusers", "webui", "exact")
_BELOW_ONE: Final = 0.999
"""The web UI's largest strength."""


@dataclass(frozen=True, slots=True)
class Part:
    """The lower levels of a run: `strength`, above 0 and at most 1, is their share of the steps.

    `counting` says how many those are: "diffusers" takes `int(steps * strength)`. "webui" takes
    one more. "exact" spaces more, so that all those asked for are below the strength. Of these
    steps those at timesteps from `above` on are taken, or those `below` a timestep.

    Source: diffusers' `StableDiffusionImg2ImgPipeline.get_timesteps`; `setup_img2img_steps` of the
    web UI.
    """

    strength: float = 1.0
    counting: Counting = "diffusers"
    above: int | None = None
    below: int | None = None

    def spaced(self, steps: int) -> int:
        """How many steps are spaced over all levels where `steps` are asked for."""
        if self.counting == "exact":
            return int(steps / min(self.strength, _BELOW_ONE))
        return steps

    def begin(self, steps: int) -> int:
        """How many of the spaced steps are left out where `steps` are asked for.

        Raises InputError where none is left.
        """
        if self.counting == "exact":
            return self.spaced(steps) - steps
        if self.counting == "webui":
            return steps - int(min(self.strength, _BELOW_ONE) * steps) - 1
        taken = int(steps * self.strength)
        if taken < 1:
            expected = f"at least {1 / steps:g} with {steps} steps, for one of them to be taken"
            raise InputError("strength", expected, self.strength)
        return steps - taken


WHOLE: Final = Part()


def hand_over(train_timesteps: int, share: float) -> int:
    """The timestep from which the first of two models draws; the second draws below it.

    `share` is how much of the noise the first takes away.

    Source: `denoising_end` of diffusers' `StableDiffusionXLPipeline`.
    """
    return round(train_timesteps - share * train_timesteps)


def checked_strength(value: object) -> float:
    """A share of the steps, above 0 and at most 1; raises `InputError`."""
    expected = "a number above 0 and at most 1"
    share = number("strength", expected, value, 0.0, 1.0)
    if share == 0.0:
        raise InputError("strength", expected, share)
    return share


def checked_counting(value: object) -> Counting:
    """A way to count; raises `InputError`."""
    return one_of("counting", value, COUNTINGS)
