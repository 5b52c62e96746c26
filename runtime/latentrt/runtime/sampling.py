"""How a picture is sampled."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from latentrt.bundle.checks import flag, integer
from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import finite_numbers, json_object, number, text
from latentrt.runtime.schedules.builder import resolved


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which sampler, over which noise levels, in how many steps.

    `sampler` is a short name ("euler") or a diffusers class name, None the checkpoint's own;
    `schedule` overrides the spacing of its noise levels ("karras", "trailing", ...). A web UI's
    names ("DPM++ 2M Karras", "SGM Uniform") become the names here. `rho` is the
    exponent of karras and polyexponential levels. `timesteps`, or `sigmas` with the level to end on
    as the last, say outright what is visited: `steps` is then not read. `eta`, from 0 to 1, is the
    share of fresh noise, None the sampler's own; `brownian` draws the noise of an SDE sampler from
    one Brownian path, so that it converges to one picture as steps are added.
    """

    sampler: str | None = None
    schedule: str | None = None
    steps: int = 20
    eta: float | None = None
    rho: float | None = None
    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    brownian: bool = False

    def __post_init__(self) -> None:
        put = object.__setattr__
        for field in ("sampler", "schedule"):
            value: object = getattr(self, field)
            if value is not None and text(field, value) == "":
                raise InputError(field, "a name, or None for the checkpoint's own", "''")
        sampler, schedule = resolved(self.sampler, self.schedule)
        put(self, "sampler", sampler)
        put(self, "schedule", schedule)
        put(self, "steps", integer("steps", "an integer of at least 1", self.steps, 1))
        for field, high in (("eta", 1.0), ("rho", math.inf)):
            value = getattr(self, field)
            if value is not None:
                expected = "a number from 0 to 1" if field == "eta" else "a number above 0"
                put(self, field, number(field, expected, value, 0.0, high))
        for field in ("timesteps", "sigmas"):
            # A list will do; what is kept is a tuple of floats.
            value = getattr(self, field)
            if value is not None:
                put(self, field, finite_numbers(field, value))
        put(self, "brownian", flag("brownian", self.brownian))

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(value: object) -> Sampling:
        """From `to_json`; a key that is absent has its default. Raises `InputError`."""
        return Sampling(**json_object("sampling", value, [f.name for f in fields(Sampling)]))
