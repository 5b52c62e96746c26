"""Text to image: from noise alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from latentrt.runtime.plan import Entry, Latent, Leg, PictureNoise
from latentrt.runtime.tasks.task import Task

if TYPE_CHECKING:
    from latentrt.runtime.kit import Kit


@dataclass(frozen=True, slots=True, eq=False)
class TextToImage(Task):
    """Pictures from a prompt and noise."""

    def legs(self, kit: Kit) -> tuple[Leg, ...]:
        """One run over all levels."""
        schedule = kit.schedule()

        def enter(previous: Latent | None, noise: PictureNoise) -> Entry:
            del previous
            return Entry(noise.begin(kit.latent_shape) * np.float32(schedule.init_scale))

        return (Leg(schedule, kit.denoiser(schedule), enter, kit.latent_shape),)
