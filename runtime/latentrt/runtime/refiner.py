"""A second model that draws the last steps, such as SDXL's refiner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.checks import as_path, shown
from latentrt.bundle.errors import InputError
from latentrt.runtime.checks import json_object, number

AT: Final = 0.8
"""How much of the noise the first model takes away by default, as in SDXL's report."""
_SHARE: Final = "a number above 0 and below 1"


@dataclass(frozen=True, slots=True)
class Refiner:
    """Takes over a picture from the request's model at a level of noise.

    `model` is a bundle or a checkpoint whose U-Net reads the same latents. `at`, above 0 and below
    1, is the share of the noise that the first model takes away. LoRAs, textual inversions and
    ControlNets of the request are for the first model alone. Raises `InputError`.

    Source: arXiv:2307.01952, section 2.5; diffusers' `denoising_end` and `denoising_start`.
    """

    model: Path
    at: float

    def __init__(self, model: Path | str, at: float = AT) -> None:
        share = number("refiner at", _SHARE, at, 0.0, 1.0)
        if share in (0.0, 1.0):
            raise InputError("refiner at", _SHARE, share)
        object.__setattr__(self, "model", as_path("refiner", model))
        object.__setattr__(self, "at", share)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object: the name of the model, and the share."""
        return {"name": self.model.name, "at": self.at}


def named_refiner(value: object, attachments: Sequence[object]) -> Refiner | None:
    """The refiner that JSON names, found among the attachments; raises `InputError`."""
    if value is None:
        return None
    fields = json_object("refiner", value, ("name", "at"))
    found = [each for each in attachments if isinstance(each, Refiner)]
    for each in found:
        if each.model.name == fields.get("name"):
            return Refiner(each.model, fields.get("at", AT))
    got = ", ".join(each.model.name for each in found) or "none"
    raise InputError("refiner", f"the picture's, {shown(fields.get('name'))}", got)
