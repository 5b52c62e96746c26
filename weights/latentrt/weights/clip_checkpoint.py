"""A CLIP as transformers' `CLIPModel` saves it: two encoders, a tokenizer, how pictures come in."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from numpy.typing import NDArray

from latentrt.bundle.errors import CheckpointError, WeightsError
from latentrt.bundle.tensors import Entry, Place, TensorFile
from latentrt.weights.checkpoint import Checkpoint, Tensors
from latentrt.weights.clip_specs import CLIP_CLASS, IMAGE_ENCODER, TEXT_ENCODER
from latentrt.weights.clip_tokenizer import ClipTokenizer, open_clip_tokenizer
from latentrt.weights.configs import IMAGE_DEFAULTS, with_defaults
from latentrt.weights.contents import WEIGHTS, check_contents, read_json
from latentrt.weights.parts import Describe, Part, check_tensors
from latentrt.weights.source import Config
from latentrt.weights.tokenizer_files import check_end
from latentrt.weights.weight_files import TRANSFORMERS, find_weights

_CONFIG: Final = "config.json"
_PREPROCESSOR: Final = "preprocessor_config.json"
_SCALE: Final = "logit_scale"
_WIDTH: Final = 512
"""Of a config that states no `projection_dim`."""
_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_STD: Final = (0.26862954, 0.26130258, 0.27577711)
_BICUBIC: Final = 3
"""Pillow's number of it."""
_HALVES: Final[Mapping[str, tuple[str, ...]]] = {
    TEXT_ENCODER: ("text_model.", "text_projection."),
    IMAGE_ENCODER: ("vision_model.", "visual_projection."),
}
_UNREAD: Final = ".embeddings.position_ids"
"""The end of the names of buffers that older versions of transformers stored."""


@dataclass(frozen=True, slots=True)
class ClipCheckpoint:
    """A CLIP's config and tensors, none of which is read yet."""

    path: Path
    config: Config
    tensors: Tensors

    @staticmethod
    def open(path: Path, variant: str | None = None) -> ClipCheckpoint:
        """Open a folder; raises `CheckpointError` for one that is no CLIP."""
        if not is_clip(path):
            raise CheckpointError(path, f"is not a {CLIP_CLASS} of transformers")
        files = find_weights(path, variant, library=TRANSFORMERS)
        try:
            for each in files.paths:
                check_contents(each, WEIGHTS)
            opened = tuple(TensorFile(each) for each in files.paths)
        except WeightsError as error:
            raise CheckpointError(error.path, error.problem) from error
        tensors = Tensors(opened, IMAGE_ENCODER, files.notes(variant))
        return ClipCheckpoint(path, read_json(path / _CONFIG), tensors)

    @property
    def name(self) -> str:
        """Its name in messages and manifests."""
        return self.path.resolve().name

    def parts(self, describe: Describe) -> tuple[Part, Part]:
        """Text encoder and image encoder, each tensor's name and shape checked.

        `describe` may raise anything for a config that it cannot describe. Raises
        `CheckpointError`.
        """
        stated = self.config.get("projection_dim", _WIDTH)
        text = {**with_defaults(TEXT_ENCODER, self._half("text")), "projection_dim": stated}
        image = {**IMAGE_DEFAULTS, **self._half("vision"), "projection_dim": stated}
        image |= {_SCALE: self._logit_scale(), "preprocessor": self._preprocessor(image)}
        return self._part(TEXT_ENCODER, text, describe), self._part(IMAGE_ENCODER, image, describe)

    def tokenizer(self, encoder: Part) -> ClipTokenizer:
        """The tokenizer beside the weights; raises `CheckpointError` for another kind of it."""
        check_end(f"{self.name}/{_CONFIG}", encoder)
        files = Checkpoint(self.path, {}).tokenizer(".")
        return open_clip_tokenizer(self.name, files, encoder)

    def _half(self, name: str) -> Config:
        found: object = self.config.get(f"{name}_config")
        if found is not None and not isinstance(found, Mapping):
            raise CheckpointError(self.path / _CONFIG, f"{name}_config is no object")
        return cast("Config", found or {})

    def _part(self, folder: str, config: Config, describe: Describe) -> Part:
        where = f"{self.name}/{folder}"
        try:
            expected = describe(folder, config)
        except Exception as error:  # whatever a library says of a config that it cannot build
            problem = f"is not a config of {CLIP_CLASS}: {type(error).__name__}: {error}"
            raise CheckpointError(self.path / _CONFIG, problem) from error
        half = Half(self.tensors, _HALVES[folder])
        return Part(
            folder,
            config,
            half,
            tuple(sorted(expected)),
            tuple(check_tensors(where, expected, half)),
        )

    def _logit_scale(self) -> float:
        """The logarithm of what similarities are multiplied by."""
        if _SCALE not in self.tensors or self.tensors.entry(_SCALE).shape not in ((), (1,)):
            raise CheckpointError(self.path, f"has no tensor {_SCALE!r} of one number")
        return float(self.tensors[_SCALE].reshape(-1)[0])

    def _preprocessor(self, image: Config) -> Mapping[str, Any]:
        """Mean and deviation of colours; raises `CheckpointError` for other steps than CLIP's."""
        path = self.path / _PREPROCESSOR
        stated = read_json(path) if os.path.lexists(path) else {}
        side = image["image_size"]
        edges = _sides(stated.get("size", side)), _sides(stated.get("crop_size", side))
        steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
        off = [step for step in steps if stated.get(step, True) is not True]
        if off or edges != ({side}, {side}) or stated.get("resample", _BICUBIC) != _BICUBIC:
            expected = f"bicubic to {side} pixels, the centre, and a mean and a deviation"
            raise CheckpointError(path, f"has other steps than CLIP's: {expected}")
        return {
            "mean": _three(path, "image_mean", stated.get("image_mean", _MEAN)),
            "std": _three(path, "image_std", stated.get("image_std", _STD)),
        }


class Half(Mapping[str, NDArray[Any]]):
    """The tensors of a file whose names begin in certain ways."""

    def __init__(self, tensors: Tensors, beginnings: tuple[str, ...]) -> None:
        self._tensors = tensors
        self._names = [n for n in tensors if n.startswith(beginnings) and not n.endswith(_UNREAD)]
        self.renamed = ""
        self.notes = tensors.notes

    def entry(self, name: str) -> Entry:
        """Dtype and shape of a tensor, without reading it."""
        return self._tensors.entry(name)

    def place(self, name: str) -> Place:
        """Where a tensor lies in its file."""
        return self._tensors.place(name)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def is_clip(path: Path) -> bool:
    """Whether a folder is a whole CLIP of transformers; raises `CheckpointError` if unreadable."""
    config = path / _CONFIG
    if not path.is_dir() or not config.is_file():
        return False
    return read_json(config).get("architectures") == [CLIP_CLASS]


def _sides(stated: object) -> set[object]:
    """Edges of a size, however a preprocessor states it."""
    if isinstance(stated, Mapping):
        return set(cast("Mapping[str, object]", stated).values())
    return {stated}


def _three(path: Path, field: str, stated: object) -> list[float]:
    """A number for each colour; raises `CheckpointError` for anything else."""
    numbers = list(cast("list[Any]", stated)) if isinstance(stated, list | tuple) else []
    if len(numbers) != 3 or not all(isinstance(n, int | float) for n in numbers):
        raise CheckpointError(path, f"{field} is {stated!r}, expected 3 numbers")
    return [float(n) for n in numbers]
