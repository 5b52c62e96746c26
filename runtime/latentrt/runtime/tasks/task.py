"""What a task is: how the legs of a plan are made for a request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.checks import shown
from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import json_object
from latentrt.runtime.pixels import Pixels, pixels_sha256
from latentrt.runtime.plan import Leg
from latentrt.runtime.schedules.part import WHOLE, Part
from latentrt.runtime.size import Size

if TYPE_CHECKING:
    from latentrt.runtime.kit import Kit


class Task(ABC):
    """Frozen data, compared by value, that a request carries. A task is a dataclass.

    `pictures` are its fields that hold arrays, with their numbers of axes.
    """

    __slots__ = ()
    pictures: ClassVar[Mapping[str, int]] = MappingProxyType({})

    @staticmethod
    def channels(latent: int) -> frozenset[int]:
        """How many channels beside those of the `latent` it can give a U-Net."""
        del latent
        return frozenset({0})

    @property
    def part(self) -> Part:
        """The steps that are taken."""
        return WHOLE

    def size(self, factor: int) -> Size | None:
        """The size of pictures that the task asks for, in multiples of `factor`; None: any."""
        del factor
        return None

    def output(self, size: Size, factor: int) -> Size:
        """The size of what is decoded last, for a request's size, in multiples of `factor`."""
        del factor
        return size

    @abstractmethod
    def legs(self, kit: Kit) -> tuple[Leg, ...]:
        """The sampler runs that make a picture, in their order; at least one."""

    def finish(self, pixels: Pixels) -> Pixels:
        """What was decoded, uint8 [h, w, 3], to the picture."""
        return pixels

    def of_control(self, pixels: Pixels, size: Size) -> Pixels:
        """What is drawn at a size, of a control's picture."""
        del size
        return pixels

    def to_json(self) -> dict[str, Any]:
        """Its fields as a JSON object, without its name; of pictures their SHA-256."""
        values = self._values
        return values | {name: pixels_sha256(values[name]) for name in self.pictures}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], attachments: Sequence[NDArray[Any]]) -> Self:
        """From `to_json`; the pictures are the attachments with their hashes. Raises `InputError`.

        A key that is absent has its default.
        """
        own = [each.name for each in fields(cls)]  # pyright: ignore[reportArgumentType]
        found = json_object("task", value, own)
        for name, axes in cls.pictures.items():
            found[name] = _attached(name, axes, found.get(name), attachments)
        return cls(**found)

    def __eq__(self, other: object) -> bool:
        """Whether two are of one kind with equal fields; pictures pixel by pixel."""
        if type(other) is not type(self):
            return NotImplemented
        own, its = self._values, other._values
        return all(
            np.array_equal(own[name], its[name])
            if name in self.pictures
            else own[name] == its[name]
            for name in own
        )

    def __hash__(self) -> int:
        return hash((type(self), tuple(self.to_json().items())))

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), self._values)

    @property
    def _values(self) -> dict[str, Any]:
        own = fields(self)  # pyright: ignore[reportArgumentType]
        return {each.name: getattr(self, each.name) for each in own}


def _made(kind: type[Task], values: Mapping[str, Any]) -> Task:
    return kind(**values)


def _attached(
    field: str, axes: int, sha256: object, attachments: Sequence[NDArray[Any]]
) -> NDArray[Any]:
    """The attached picture with a hash."""
    for each in attachments:
        if each.ndim == axes and pixels_sha256(each) == sha256:
            return each
    expected = f"the {field} that was begun with (SHA-256 {shown(sha256)})"
    raise InputError(field, expected, "another" if attachments else "none")
