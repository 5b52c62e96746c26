"""How a picture is sampled."""

from __future__ import annotations

from dataclasses import dataclass

from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import finite_numbers, is_integer, number
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
        for name in ("sampler", "schedule"):
            value = getattr(self, name)
            if not isinstance(value, str | None):
                raise InputError(name, "a name", repr(value))
        sampler, schedule = resolved(self.sampler, self.schedule)
        object.__setattr__(self, "sampler", sampler)
        object.__setattr__(self, "schedule", schedule)
        if not is_integer(self.steps) or self.steps < 1:
            raise InputError("steps", "an integer of at least 1", repr(self.steps))
        for name, expected in (("eta", "a number from 0 to 1"), ("rho", "a number")):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, number(name, expected, value))
        if self.eta is not None and not 0 <= self.eta <= 1:
            raise InputError("eta", "a number from 0 to 1", self.eta)
        for name in ("timesteps", "sigmas"):
            # A list will do; what is kept is a tuple of floats.
            values = getattr(self, name)
            if values is not None:
                object.__setattr__(self, name, finite_numbers(name, values))
        if not isinstance(self.brownian, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError("brownian", "True or False", repr(self.brownian))
