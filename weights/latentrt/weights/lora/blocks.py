"""Scales of single blocks of a U-Net, by diffusers' names or as web UIs list them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, cast

from latentrt.bundle.checks import items, shown
from latentrt.bundle.errors import InputError
from latentrt.weights.lora.unet_blocks import original_names

Scales = tuple[tuple[str, float], ...]
"""Scales by block: names such as "down.1" and "mid", or "IN04"; "BASE" is of text encoders."""

_NAME: Final = re.compile(r"mid|(down|up)(\.\d{1,2}(\.\d{1,2})?)?|BASE|M00|(IN|OUT)\d\d", re.ASCII)
_EXPECTED: Final = 'names such as "down.1", "up.0.2", "mid" or "IN04", with numbers'


def _labels(inner: Collection[int], outer: Collection[int]) -> tuple[str, ...]:
    return (
        "BASE",
        *(f"IN{n:02}" for n in inner),
        "M00",
        *(f"OUT{n:02}" for n in outer),
    )


_LISTS: Final[Mapping[int, tuple[str, ...]]] = MappingProxyType(
    {
        len(labels): labels
        for labels in (
            _labels((4, 5, 7, 8), range(6)),  # SDXL, blocks with attention
            _labels((1, 2, 4, 5, 7, 8), range(3, 12)),  # SD 1 and 2, blocks with attention
            _labels(range(9), range(9)),  # SDXL, every block
            _labels(range(12), range(12)),  # SD 1 and 2, every block
        )
    }
)
"""The blocks that a list means in the web UI's extension for block weights, by its length."""


def parse_blocks(value: object) -> Scales:
    """Scales by block from what a user gives; raises `InputError`.

    A mapping has names of blocks: "down", "down.1", "down.1.0", "mid", "up", "IN04". It may be
    nested as in diffusers' `set_adapters`: {"up": {"block_0": [0.5, 1.0, 1.0]}}. A list of 12, 17,
    20 or 26 numbers is the web UI's.
    """
    if value is None:
        return ()
    if isinstance(value, Mapping):
        found = dict(_flat(cast("Mapping[Any, Any]", value), ""))
        unknown = [name for name in found if _NAME.fullmatch(name) is None]
        if unknown:
            raise InputError("blocks", _EXPECTED, shown(unknown[0]))
        return tuple(sorted(found.items()))
    values = items(value)
    if values is None:
        raise InputError("blocks", f"{_EXPECTED}, or a list of numbers", shown(value))
    if all(isinstance(pair, tuple) for pair in values):  # what this function returns
        return parse_blocks(dict(cast("tuple[tuple[str, float], ...]", values)))
    if len(values) not in _LISTS:
        expected = f"{', '.join(str(n) for n in sorted(_LISTS))} numbers, or names with numbers"
        raise InputError("blocks", expected, shown(value))
    labels = _LISTS[len(values)]
    return tuple((name, number("blocks", v)) for name, v in zip(labels, values, strict=True))


def _flat(scales: Mapping[Any, Any], above: str) -> Iterator[tuple[str, float]]:
    for key, value in scales.items():
        word = str(key)
        name = f"{above}.{word.removeprefix('block_')}" if above else word
        values = None if isinstance(value, Mapping) else items(value)
        if isinstance(value, Mapping):
            yield from _flat(cast("Mapping[Any, Any]", value), name)
        elif values is None:
            yield name, number("blocks", value)
        elif len(values) == 1:
            yield name, number("blocks", values[0])
        else:
            for index, inner in enumerate(values):
                yield f"{name}.{index}", number("blocks", inner)


def number(field: str, value: object) -> float:
    """A finite number as Python's float; raises `InputError` for anything else."""
    try:
        if not isinstance(value, bool | str | bytes):
            found = float(cast("float", value))
            if math.isfinite(found):
                return found
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(field, "a finite number", shown(value))


def block_scales(scales: Scales, layers: Collection[str]) -> dict[str, float]:
    """The scale of every U-Net layer that is in a named block; the longest name decides.

    Raises `InputError` for a block that the U-Net does not have.
    """
    found: dict[str, float] = {}
    named = dict(scales)
    originals = original_names(layers)
    unused = set(named) - {"BASE"}
    for layer in layers:
        for name in (*_names(layer), *_label(originals.get(layer, ""))):
            if name in named:
                unused.discard(name)
                found.setdefault(layer, named[name])
    missing = sorted(name for name in unused if named[name] != 1)
    if missing:
        raise InputError("blocks", "blocks that the U-Net has", missing[0])
    return found


def _names(layer: str) -> Iterator[str]:
    """The names of the blocks around a layer, the innermost first."""
    words = layer.split(".")
    if words[0] == "mid_block":
        yield "mid"
    elif words[0] in ("down_blocks", "up_blocks"):
        side = words[0].removesuffix("_blocks")
        if words[2] in ("resnets", "attentions"):
            yield f"{side}.{words[1]}.{words[3]}"
        yield f"{side}.{words[1]}"
        yield side


def _label(original: str) -> Iterator[str]:
    """The web UI's label of the block that an original name lies in."""
    words = original.split(".")
    if words[0] == "middle_block":
        yield "M00"
    elif words[0] in ("input_blocks", "output_blocks"):
        yield f"{'IN' if words[0] == 'input_blocks' else 'OUT'}{int(words[1]):02}"
