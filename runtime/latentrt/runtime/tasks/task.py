"""What a task is: how the legs of a plan are made for a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

from numpy.typing import NDArray

from latentrt.runtime.pixels import Pixels
from latentrt.runtime.plan import Leg
from latentrt.runtime.size import Size

if TYPE_CHECKING:
    from latentrt.runtime.kit import Kit


class Task(Protocol):
    """Frozen data, compared by value, that a request carries."""

    __slots__ = ()

    def size(self, factor: int) -> Size | None:
        """The size of pictures that the task asks for, in multiples of `factor`; None: any."""
        ...

    def legs(self, kit: Kit) -> tuple[Leg, ...]:
        """The sampler runs that make a picture, in their order; at least one."""
        ...

    def finish(self, pixels: Pixels) -> Pixels:
        """What was decoded, uint8 [h, w, 3], to the picture."""
        return pixels

    def to_json(self) -> dict[str, Any]:
        """Its fields as a JSON object, without its name."""
        ...

    @classmethod
    def from_json(cls, value: Mapping[str, Any], attachments: Sequence[NDArray[Any]]) -> Self:
        """From `to_json`; raises `InputError`."""
        ...
