"""A ControlNet as a request asks for it: which one, its picture, and how much it counts when."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from latentrt.bundle.bundle import file_sha256
from latentrt.bundle.checks import as_path, items, shown
from latentrt.bundle.errors import FileError, InputError
from latentrt.bundle.manifest import FILE_NAME, read_manifest
from latentrt.runtime.checks import json_object, number, one_of
from latentrt.runtime.pixels import Pixels, as_pixels, pixels_sha256
from latentrt.weights.weight_files import find_weights

if TYPE_CHECKING:
    from PIL import Image

BALANCED: Final = "balanced"
PROMPT: Final = "prompt"
CONTROL: Final = "control"
MODES: Final = (BALANCED, PROMPT, CONTROL)
"""How a ControlNet and the prompt share a picture, by the names of web UIs."""
MAX_CONTROLS: Final = 16
MAX_SCALE: Final = 100.0
"""The largest scale, far beyond what makes pictures."""

_NUMBERS: Final = ("scale", "start", "end", "mode")


@dataclass(frozen=True, slots=True, eq=False, init=False)
class Control:
    """A picture that guides another through a ControlNet (arXiv:2302.05543).

    `model` is a ControlNet's bundle, diffusers folder or `.safetensors` file. `image` is what it
    was trained to read, such as edges or depths: RGB, uint8 [h, w, 3], or a Pillow image. It is
    resized to the request's size. `scale`, from 0 to `MAX_SCALE`, multiplies what it adds. It acts
    from the share `start` to the share `end` of the evaluations, as in diffusers.

    - "balanced": it acts on every row.
    - "prompt": the prompt counts more. What it adds is multiplied by 0.825 for each level up, as in
      the web UI's "My prompt is more important".
    - "control": the ControlNet counts more. It acts on the prompt's rows alone, by factors from 0.1
      to 1, as in diffusers' `guess_mode`.

    Raises `InputError` naming the field that cannot be used.
    """

    model: Path
    image: Pixels
    scale: float
    start: float
    end: float
    mode: str

    def __init__(
        self,
        model: Path | str,
        image: Pixels | Image.Image,
        scale: float = 1.0,
        start: float = 0.0,
        end: float = 1.0,
        mode: str = BALANCED,
    ) -> None:
        share = "a number from 0 to 1"
        values: dict[str, object] = {
            "model": as_path("control", model),
            "image": as_pixels("control image", image),
            "scale": number("control scale", f"0 to {MAX_SCALE:g}", scale, 0.0, MAX_SCALE),
            "start": (first := number("control start", share, start, 0.0, 1.0)),
            "end": (last := number("control end", share, end, 0.0, 1.0)),
            "mode": one_of("control mode", mode, MODES),
        }
        if first >= last:
            raise InputError("control start", f"below its end, {last:g}", first)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> bool:
        """Whether two are of one path, with the same pixels and numbers."""
        if not isinstance(other, Control):
            return NotImplemented
        return self._value == other._value and np.array_equal(self.image, other.image)

    def __hash__(self) -> int:
        return hash((self._value, pixels_sha256(self.image)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Control, (self.model, self.image, self.scale, self.start, self.end, self.mode)

    @property
    def _value(self) -> tuple[object, ...]:
        return (self.model, self.scale, self.start, self.end, self.mode)

    def sha256(self) -> str:
        """What tells the ControlNet from others, wherever it lies; raises what reading it raises.

        Of a file its SHA-256, of a folder that of its files, of a bundle its model hash.
        """
        return _sha256(self.model)

    def active(self, evaluation: int, evaluations: int) -> bool:
        """Whether it acts at an evaluation, counted from 0.

        Source: `controlnet_keep` of diffusers' `StableDiffusionControlNetPipeline`.
        """
        begin, end = evaluation / evaluations, (evaluation + 1) / evaluations
        return not (begin < self.start or end > self.end)


def _sha256(model: Path) -> str:
    if (model / FILE_NAME).is_file():
        return read_manifest(model).model_hash
    if not model.is_dir():
        return _file_sha256(model)
    files = [model / "config.json", *find_weights(model, None).paths]
    return hashlib.sha256("\n".join(map(_file_sha256, files)).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    try:
        found = path.stat()
        return _remembered(path, found.st_size, found.st_mtime_ns)
    except FileNotFoundError:
        raise FileError(path, "no such ControlNet") from None
    except OSError as error:
        raise FileError(path, f"cannot be read: {error.strerror or error}") from error


@lru_cache(maxsize=64)
def _remembered(path: Path, size: int, changed: int) -> str:
    # Requests with one ControlNet come again and again; a changed file has another size or time.
    del size, changed
    return file_sha256(path)


def check_controls(value: object) -> tuple[Control, ...]:
    """The controls of a request; raises `InputError` for anything else."""
    given = items(value)
    found = [each for each in given or () if isinstance(each, Control)]
    if given is None or len(found) != len(given) or len(found) > MAX_CONTROLS:
        raise InputError("controls", f"at most {MAX_CONTROLS} Controls", shown(value))
    return tuple(found)


def controls_json(controls: Sequence[Control]) -> list[dict[str, Any]]:
    """The controls of a request as JSON: name and hash of each, its picture's hash, its numbers."""
    return [
        {
            "name": each.model.name,
            "sha256": each.sha256(),
            "image": pixels_sha256(each.image),
            **{name: getattr(each, name) for name in _NUMBERS},
        }
        for each in controls
    ]


def named_controls(value: object, attachments: Sequence[object]) -> tuple[Control, ...]:
    """The controls that JSON names by hashes, found among the attachments.

    Raises `InputError` naming the ControlNet or picture that is not among them.
    """
    named = items(value)
    if named is None:
        raise InputError("controls", "a list of JSON objects", shown(value))
    keys = ("name", "sha256", "image", *_NUMBERS)
    return tuple(_named(json_object("controls", each, keys), attachments) for each in named)


def _named(fields: dict[str, Any], attachments: Sequence[object]) -> Control:
    controls = [each for each in attachments if isinstance(each, Control)]
    model = next((e.model for e in controls if e.sha256() == fields.get("sha256")), None)
    if model is None:
        expected = f"{shown(fields.get('name'))} with SHA-256 {shown(fields.get('sha256'))}"
        raise InputError("controls", expected, f"{len(controls)} other ControlNets")
    arrays = cast("list[Pixels]", [e for e in attachments if isinstance(e, np.ndarray)])
    pictures = [each.image for each in controls] + [each for each in arrays if each.ndim == 3]
    for picture in pictures:
        if pixels_sha256(picture) == fields.get("image"):
            numbers = {name: fields[name] for name in _NUMBERS if name in fields}
            return Control(model, picture, **numbers)
    expected = f"the picture of {shown(fields.get('name'))} (SHA-256 {shown(fields.get('image'))})"
    raise InputError("control image", expected, "another" if pictures else "none")
