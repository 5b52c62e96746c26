"""From a request's prompt and seed to others, over its pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from latentrt.bundle.checks import integer
from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import json_object, number, text

_SHARE: Final = "a number from 0 to 1"
_KEYS: Final = ("prompt", "seed", "start", "end")


@dataclass(frozen=True, slots=True)
class Interpolation:
    """The pictures of a request go from its prompt and seed to these.

    Image i of n is `start + (end - start) * i / (n - 1)` of the way, and a single one `start`. All
    of them have the request's seed. A text's states go along a straight line, noise along an arc,
    as to a subseed. None keeps the prompt, or the noise. Raises `InputError` naming the field that
    cannot be used.

    Source: diffusers' community pipelines `interpolate_stable_diffusion` and
    `latent_consistency_interpolate`.
    """

    prompt: str | None = None
    seed: int | None = None
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if self.prompt is None and self.seed is None:
            raise InputError("interpolation", "a prompt, a seed or both to go to", "neither")
        if self.prompt is not None:
            text("interpolation prompt", self.prompt)
        if self.seed is not None:
            integer("interpolation seed", "an integer from 0 to 2**63 - 1", self.seed, 0, 2**63 - 1)
        for name in ("start", "end"):
            share = number(f"interpolation {name}", _SHARE, getattr(self, name), 0.0, 1.0)
            object.__setattr__(self, name, share)

    def share_of(self, image: int, count: int) -> float:
        """How much of the way one of `count` pictures is, 0 to 1."""
        if count == 1:
            return self.start
        passed = image / (count - 1)
        return self.start * (1.0 - passed) + self.end * passed

    def at(self, share: float) -> Interpolation:
        """The same for pictures that are all at one share."""
        return replace(self, start=share, end=share)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(value: object) -> Interpolation:
        """From `to_json`; raises `InputError`."""
        return Interpolation(**json_object("interpolation", value, _KEYS))
