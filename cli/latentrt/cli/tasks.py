"""The options of `generate` that choose a task, and what they make."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.errors import InputError
from latentrt.runtime.masks import read_mask
from latentrt.runtime.pixels import read_image, read_pixels
from latentrt.runtime.tasks import (
    DepthToImage,
    HiresFix,
    ImageToImage,
    Inpainting,
    InstructPix2Pix,
    Task,
    TextToImage,
)

HIRES: Final[Mapping[str, str]] = {
    "hires": "scale",
    "hires_strength": "strength",
    "hires_steps": "steps",
    "hires_upscaler": "upscaler",
}
"""Options of hires fix, and the fields of the task that they are."""
_OF_IMAGE: Final = ("mask", "depth", "image_guidance")
_OF_MASK: Final = (
    "mask_invert",
    "mask_blur",
    "mask_soft",
    "mask_fill",
    "only_masked",
    "overlay",
)


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """The options as they were given; None for one that was not. Names are those of the tasks."""

    image: Path | None = None
    strength: float | None = None
    counting: str | None = None
    mask: Path | None = None
    mask_invert: bool | None = None
    mask_blur: float | None = None
    mask_soft: bool | None = None
    mask_fill: str | None = None
    only_masked: int | None = None
    overlay: bool | None = None
    depth: Path | None = None
    image_guidance: float | None = None
    hires: float | None = None
    hires_strength: float | None = None
    hires_steps: int | None = None
    hires_upscaler: str | None = None

    @property
    def given(self) -> Set[str]:
        """The names of those that were given."""
        return {each.name for each in fields(self) if getattr(self, each.name) is not None}

    def task(self) -> Task:
        """The task that they ask for; raises `InputError`, or `FileError` for a file."""
        if self.hires is not None:
            self._refuse({"image", "strength", *_OF_IMAGE}, "hires", without=False)
            return HiresFix(
                **{HIRES[name]: getattr(self, name) for name in HIRES if name in self.given},
                **self._values("counting"),
            )
        self._refuse(HIRES.keys(), "hires")
        if self.image is None:
            self._refuse(self.given, "image")
            return TextToImage()
        image = read_pixels(self.image)
        if self.mask is not None:
            self._refuse({"depth", "image_guidance"}, "mask", without=False)
            return Inpainting(
                image, read_mask(self.mask), **self._values("strength", "counting", *_OF_MASK)
            )
        self._refuse(set(_OF_MASK), "mask")
        if self.depth is not None:
            self._refuse({"image_guidance"}, "depth", without=False)
            return DepthToImage(
                image, read_image(self.depth), **self._values("strength", "counting")
            )
        if self.image_guidance is not None:
            self._refuse({"strength", "counting"}, "image_guidance", without=False)
            return InstructPix2Pix(image, self.image_guidance)
        return ImageToImage(image, **self._values("strength", "counting"))

    def _values(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names if name in self.given}

    def _refuse(self, names: Set[str], other: str, *, without: bool = True) -> None:
        """Raise `InputError` for an option that needs another one, or does not go with it."""
        for each in fields(self):
            if each.name in names and each.name in self.given:
                expected = f"none {'without' if without else 'with'} --{_option(other)}"
                raise InputError(_option(each.name), expected, getattr(self, each.name))


def _option(name: str) -> str:
    return name.replace("_", "-")
