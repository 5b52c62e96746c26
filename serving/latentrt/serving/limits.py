"""What a service takes on, at most."""

from __future__ import annotations

from dataclasses import dataclass, fields

from latentrt.bundle.checks import integer
from latentrt.runtime.checks import number


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a service; a request beyond one is refused.

    Of one request: characters of its prompts and their number, pixels of a picture (None: what
    the model and the memory allow), steps, images, bytes of its body, and seconds from its arrival
    to its deadline.

    Of all: `queued` requests that wait, `drawing` pictures in progress at once, bytes of finished
    pictures that are `kept`, and the seconds that they are, `kept_for`. `stalled` seconds without
    a step, while rows wait, make a service unhealthy. `drain` seconds are given to what runs when
    it ends. Raises `InputError`.
    """

    prompt: int = 10_000
    prompts: int = 16
    pixels: int | None = None
    steps: int = 150
    images: int = 8
    body: int = 64 << 20
    deadline: float = 3600.0
    queued: int = 64
    drawing: int = 8
    kept: int = 256 << 20
    kept_for: float = 600.0
    stalled: float = 300.0
    drain: float = 60.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in ("deadline", "kept_for", "stalled", "drain"):
                number(each.name, "a number of seconds above 0", value, 1e-3)
            elif value is not None:
                integer(each.name, "an integer of at least 1", value, 1)
