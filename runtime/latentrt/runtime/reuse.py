"""Steps answered from memory: which evaluations of a run are not made."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from latentrt.bundle.checks import integer
from latentrt.runtime.checks import json_object, number

_MOST_STEPS: Final = 1000
_LARGEST: Final = math.nextafter(math.inf, 0.0)


@dataclass(frozen=True, slots=True)
class Reuse:
    """Answers evaluations from earlier ones where the model's input has changed little. Lossy.

    The change of the scaled latent from one evaluation to the next is the mean magnitude of the
    difference over that of the latent. Changes add up since the last evaluation that was made.
    While the sum is below `threshold`, the model is not asked, at most `max_consecutive` times in a
    row. At threshold 0 it always is. The first `warm_up` steps of a run and the `last` steps are
    always evaluated. Raises `InputError` naming
    the field that cannot be used.

    Source: TeaCache, arXiv:2411.19108, eq. 4 and 5, with the model's input in the place of its
    modulated one.
    """

    threshold: float = 0.25
    warm_up: int = 1
    last: int = 1
    max_consecutive: int = 2

    def __post_init__(self) -> None:
        put = object.__setattr__
        expected = "a finite number of at least 0"
        put(self, "threshold", number("reuse threshold", expected, self.threshold, 0.0, _LARGEST))
        for field, low in (("warm_up", 1), ("last", 0), ("max_consecutive", 1)):
            expected = f"an integer from {low} to {_MOST_STEPS}"
            value = integer(f"reuse {field}", expected, getattr(self, field), low, _MOST_STEPS)
            put(self, field, value)

    def answers(self, step: int, steps: int, changed: float, answered: int) -> bool:
        """Whether an evaluation of a step, which counts from 0, is answered from memory.

        `changed` is the sum of the changes since the last that was made, `answered` how many were
        answered since.
        """
        within = self.warm_up <= step < steps - self.last
        return within and changed < self.threshold and answered < self.max_consecutive

    def __str__(self) -> str:
        """As a picture's parameters say it."""
        return (
            f"Threshold: {self.threshold:g}, Warm up: {self.warm_up}, Last: {self.last}, "
            f"Max consecutive: {self.max_consecutive}"
        )

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @staticmethod
    def from_json(value: object) -> Reuse:
        """From `to_json`; a key that is absent has its default. Raises `InputError`."""
        return Reuse(**json_object("reuse", value, [f.name for f in fields(Reuse)]))


FAST: Final = Reuse()
"""What `latentrt generate --fast` takes."""
