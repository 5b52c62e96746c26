"""Text to image: from noise alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latentrt.runtime.checks import json_object
from latentrt.runtime.plan import Entry, Latent, Leg, PictureNoise
from latentrt.runtime.size import Size
from latentrt.runtime.tasks.task import Task

if TYPE_CHECKING:
    from latentrt.runtime.kit import Kit


@dataclass(frozen=True, slots=True)
class TextToImage(Task):
    """Pictures from a prompt and noise."""

    def size(self, factor: int) -> Size | None:
        """Any size."""
        del factor
        return None

    def legs(self, kit: Kit) -> tuple[Leg, ...]:
        """One run over all levels."""
        schedule = kit.schedule()

        def enter(previous: Latent | None, noise: PictureNoise) -> Entry:
            del previous
            return Entry(noise.begin(kit.latent_shape) * np.float32(schedule.init_scale))

        return (Leg(schedule, kit.denoiser(schedule), enter, kit.latent_shape),)

    def to_json(self) -> dict[str, Any]:
        """It has no fields."""
        return {}

    @classmethod
    def from_json(
        cls, value: Mapping[str, Any], attachments: Sequence[NDArray[Any]]
    ) -> TextToImage:
        """From `to_json`; raises `InputError` for a field."""
        del attachments
        json_object("task", value, ())
        return cls()
