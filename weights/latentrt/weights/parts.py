"""A checkpoint's parts, checked: each folder's config with defaults, and its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from latentrt.bundle.errors import CheckpointError
from latentrt.bundle.tensors import FLOAT8
from latentrt.weights.checkpoint import HARMLESS, class_of
from latentrt.weights.component_specs import CLASSES
from latentrt.weights.configs import fingerprint, with_defaults
from latentrt.weights.families import Family, check_fit, check_text, check_unet
from latentrt.weights.source import Config, Source, TensorSource

Shapes = Mapping[str, tuple[int, ...]]
Describe = Callable[[str, Config], Shapes]
"""From a folder and its config to the shapes of its tensors."""

_FLOATS: Final = ("float64", "float32", "float16", "bfloat16")
QUANTIZED: Final = re.compile(
    r"(.*[._])?(scale_weight|weight_scale(_inv)?|scale_input|input_scale|scaled_fp8|absmax"
    r"|quant_map|quant_state\..*|SCB|qweight|qzeros)"
)
"""Names of tensors that hold the scales of quantized weights."""


@dataclass(frozen=True, slots=True)
class Part:
    """One folder of a checkpoint, its config with defaults, its tensors checked.

    `notes` tell what was inferred, ignored or left out.
    """

    folder: str
    config: Config
    tensors: TensorSource
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of every config field that decides what the graph computes."""
        return fingerprint(self.folder, self.config)


def open_parts(source: Source, family: Family, describe: Describe) -> dict[str, Part]:
    """Check a checkpoint's architecture and every tensor's name and shape.

    `describe` may raise anything for a config that it cannot describe.
    Raises `CheckpointError` naming the config field or the tensor that does not fit.
    """
    parts = {f: _open_part(source, family, f, describe) for f in family.folders}
    check_fit(source, family, {folder: part.config for folder, part in parts.items()})
    return parts


def _open_part(source: Source, family: Family, folder: str, describe: Describe) -> Part:
    own = CLASSES[folder]
    where = f"{source.name}/{folder}"
    stated = source.config(folder)
    found, note = _class_of(source, folder, stated)
    if found not in (None, own):
        names = "model_index.json" if folder in source.index else f"{folder}/config.json"
        problem = f"architecture {found!r} is not supported; {own} is"
        raise CheckpointError(f"{source.name}/{names}", f"{folder}: {problem}")
    if stated.get("quantization_config"):
        problem = "quantization_config: quantized weights are not supported; export the originals"
        raise CheckpointError(f"{where}/config.json", problem)
    try:
        expected = describe(folder, stated)
    except Exception as error:  # whatever a library says of a config that it cannot build
        problem = f"is not a config of {own}: {type(error).__name__}: {error}"
        raise CheckpointError(f"{where}/config.json", problem) from error
    config = with_defaults(folder, stated)
    if folder == "unet":
        check_unet(where, family, config)
    elif folder in family.text_encoders:
        check_text(f"{where}/config.json", family, config)
    tensors = source.tensors(folder)
    notes = [note, *tensors.notes, tensors.renamed and f"{folder}: {tensors.renamed}"]
    notes += check_tensors(where, expected, tensors)
    return Part(folder, config, tensors, tuple(sorted(expected)), tuple(n for n in notes if n))


def _class_of(source: Source, folder: str, config: Config) -> tuple[str | None, str]:
    try:
        return class_of(source.index, config, folder)
    except ValueError as error:
        raise CheckpointError(f"{source.name}/model_index.json", str(error)) from error


def check_tensors(where: str, expected: Shapes, tensors: TensorSource) -> list[str]:
    """Check a part's tensors; returns notes on those that were left out or converted.

    `where` is the part's name in errors. Raises `CheckpointError`.
    """
    folder = where.rpartition("/")[2]
    stored = set(tensors)
    missing = sorted(set(expected) - stored)
    if missing:
        raise CheckpointError(where, f"tensor {missing[0]!r} is missing{_more(missing)}")
    unknown = sorted(stored - set(expected) - HARMLESS)
    scales = [name for name in unknown if QUANTIZED.fullmatch(name)]
    if scales:
        problem = f"tensor {scales[0]!r}{_more(scales)} belongs to quantized weights"
        raise CheckpointError(where, f"{problem}, which are not supported; export the originals")
    for name, shape in expected.items():
        entry = tensors.entry(name)
        if entry.shape != shape:
            raise CheckpointError(where, f"tensor {name!r} is {entry.shape}, expected {shape}")
        if entry.dtype.name not in (*_FLOATS, *FLOAT8):
            raise CheckpointError(where, f"tensor {name!r} is {entry.dtype}, expected a float")
    notes = [f"{folder}: left out tensor {unknown[0]!r}{_more(unknown)}"] if unknown else []
    narrow = [name for name in expected if tensors.entry(name).dtype.name in FLOAT8]
    if narrow:
        dtype = tensors.entry(narrow[0]).dtype
        notes.append(f"{folder}: {len(narrow)} of {len(expected)} tensors are stored in {dtype}")
    return notes


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
