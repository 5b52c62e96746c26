"""A ControlNet: a diffusers folder, or one file in the original or diffusers' layout."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.errors import CheckpointError, WeightsError
from latentrt.bundle.tensors import TensorFile
from latentrt.weights.checkpoint import Tensors
from latentrt.weights.configs import with_defaults
from latentrt.weights.contents import WEIGHTS, check_contents, read_json
from latentrt.weights.control_architectures import CONTROLNETS
from latentrt.weights.control_specs import CONTROLNET, CONTROLNET_CLASS
from latentrt.weights.inference import GENERATIONS, Find, file_name
from latentrt.weights.ldm_names import Spelling, as_canonical, controlnet_spelling, prefixed
from latentrt.weights.parts import Describe, Part, check_tensors
from latentrt.weights.source import Config, TensorSource
from latentrt.weights.spelled_tensors import (
    SpelledTensors,
    find_shape,
    find_spelled,
    open_tensors,
    spelled_tensors,
)
from latentrt.weights.weight_files import find_weights

_CONFIG: Final = "config.json"
_PREFIX: Final = "control_model."
_MOST_LAYERS: Final = 4
_CHANGES: Final = 6
"""Convolutions between the first and the last of those that encode the picture, in every file."""
_FIRST: Final = "controlnet_cond_embedding.conv_in.weight"


@dataclass(frozen=True, slots=True)
class ControlNetCheckpoint:
    """A ControlNet's config and tensors; `notes` tell what was inferred and what is not read."""

    path: Path
    config: Config
    tensors: TensorSource
    notes: tuple[str, ...] = ()

    @staticmethod
    def open(path: Path, variant: str | None = None) -> ControlNetCheckpoint:
        """Open a folder or file; no tensor is read.

        `variant` names the weights files of a folder to prefer. Raises `CheckpointError` for what
        is no ControlNet, saying what it is, and for one of an unknown architecture.
        """
        if path.is_dir():
            return _of_folder(path, variant)
        if not os.path.lexists(path):
            raise CheckpointError(path, "no such ControlNet")
        return _of_file(path)

    @property
    def name(self) -> str:
        """Its name in messages and manifests."""
        path = self.path.resolve()
        return path.name if path.is_dir() else file_name(self.path)

    @property
    def generation(self) -> str:
        """The checkpoints that it goes with, by the width of the text that it reads."""
        return generation_of(self.config)

    def part(self, describe: Describe) -> Part:
        """The ControlNet, each tensor's name and shape checked against its architecture.

        `describe` may raise anything for a config that it cannot describe. Raises
        `CheckpointError`.
        """
        where = f"{self.name}/{CONTROLNET}"
        try:
            expected = describe(CONTROLNET, self.config)
        except CheckpointError:
            raise
        except Exception as error:  # whatever a library says of a config that it cannot build
            problem = f"is not a config of {CONTROLNET_CLASS}: {type(error).__name__}: {error}"
            raise CheckpointError(self.path, problem) from error
        notes = (*self.notes, *self.tensors.notes, *check_tensors(where, expected, self.tensors))
        config = with_defaults(CONTROLNET, self.config)
        return Part(CONTROLNET, config, self.tensors, tuple(sorted(expected)), notes)


def generation_of(config: Config) -> str:
    """The checkpoints that a U-Net or ControlNet of this config belongs to, in words."""
    width: Any = config.get("cross_attention_dim")
    known = GENERATIONS.get(width) if isinstance(width, int) else None
    return known or f"text of width {width}"


def is_controlnet(path: Path) -> bool:
    """Whether a folder or file is a ControlNet alone; raises `CheckpointError` if unreadable."""
    if path.is_dir():
        config = path / _CONFIG
        return config.is_file() and read_json(config).get("_class_name") == CONTROLNET_CLASS
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    file = open_tensors(path)
    return _spelling(file) is not None and not any(n.startswith("model.diff") for n in file)


def _of_folder(path: Path, variant: str | None) -> ControlNetCheckpoint:
    if (path / "model_index.json").is_file() and not (path / _CONFIG).is_file():
        raise CheckpointError(path, "is a checkpoint, not a ControlNet")
    config = read_json(path / _CONFIG)
    named = config.get("_class_name")
    if named != CONTROLNET_CLASS:
        problem = f"architecture {named!r} is not supported; {CONTROLNET_CLASS} is"
        raise CheckpointError(path / _CONFIG, problem)
    files = find_weights(path, variant)
    try:
        for each in files.paths:
            check_contents(each, WEIGHTS)
        opened = tuple(TensorFile(each) for each in files.paths)
    except WeightsError as error:
        raise CheckpointError(error.path, error.problem) from error
    return ControlNetCheckpoint(path, config, Tensors(opened, CONTROLNET, files.notes(variant)))


def _of_file(path: Path) -> ControlNetCheckpoint:
    file = open_tensors(path)
    spelling = _spelling(file)
    if spelling is None:
        some = ", ".join(sorted(file)[:3]) or "none"
        raise CheckpointError(path, f"is not a ControlNet: its tensors are {some}")
    key, config = _known(path, partial(find_shape, file, spelling))
    tensors = spelled_tensors(file, spelling, CONTROLNET, config)
    unread = list(_unread(file, tensors))
    if unread:
        problem = f"tensor {unread[0]!r} is of another kind of ControlNet, which is not supported"
        raise CheckpointError(path, problem)
    note = f"controlnet: {key}, since it reads text of width {config['cross_attention_dim']}"
    return ControlNetCheckpoint(path, config, tensors, (note,))


def _spelling(file: TensorFile) -> Spelling | None:
    """How a file spells its ControlNet, None if it has none."""
    for layers in range(1, _MOST_LAYERS + 1):
        original = controlnet_spelling(layers, _CHANGES)
        for prefix, spelling in itertools.product((_PREFIX, ""), (original, as_canonical)):
            way = prefixed(prefix, spelling)
            first = (_FIRST, "down_blocks.0.downsamplers.0.conv.weight")
            beyond = f"down_blocks.0.resnets.{layers}.conv1.weight"
            if None in [find_spelled(file, way, name) for name in first]:
                continue
            if find_spelled(file, way, beyond) is None:
                return way
    return None


def _known(path: Path, find: Find) -> tuple[str, Config]:
    """The known ControlNet of a file's widths; raises `CheckpointError` if there is none."""
    widths: list[int] = []
    while (shape := find(f"down_blocks.{len(widths)}.resnets.0.conv1.weight")) is not None:
        widths.append(shape[0])
    key = find("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight")
    text = key[1] if key is not None and len(key) == 2 else None
    for name, config in CONTROLNETS.items():
        if config["block_out_channels"] == widths and config["cross_attention_dim"] == text:
            return name, config
    known = "; ".join(f"{name}: {c['block_out_channels']}" for name, c in CONTROLNETS.items())
    problem = f"has levels of {widths} channels and text of width {text}, as no known ControlNet"
    raise CheckpointError(path, f"{problem} ({known}): give a diffusers folder of it")


def _unread(file: TensorFile, tensors: SpelledTensors) -> Iterator[str]:
    read = set(tensors.stored())
    # A file may hold a whole checkpoint beside it.
    prefixes: Sequence[str] = (_PREFIX,) if any(n.startswith(_PREFIX) for n in read) else ("",)
    return (name for name in file if name not in read and name.startswith(tuple(prefixes)))
