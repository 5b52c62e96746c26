"""One graph of a bundle, as its manifest describes it."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from latentrt.bundle.files import Field
from latentrt.bundle.spec import TensorSpec, dim_symbols

MOST: Final = 65_536
"""The largest count in a manifest: channels, layers, positions along an axis."""
DTYPES: Final = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class _Arrays:
    """The inputs and outputs that a component's graph must have, and those that it may have."""

    symbols: Collection[str]
    inputs: Sequence[str]
    outputs: Sequence[str]
    more: Collection[str] = ()


_TEXT: Final = _Arrays({"batch", "sequence"}, ["inputs_embeds"], ["last_hidden_state"])
_COMPONENTS: Final[Mapping[str, _Arrays]] = {
    "text_encoder": _TEXT,
    "text_encoder_2": _TEXT,
    "unet": _Arrays(
        {"batch", "sequence", "height", "width"},
        ["sample", "timestep", "encoder_hidden_states"],
        ["model_output"],
        {"text_embeds", "time_ids", "timestep_cond"},
    ),
    "vae_decoder": _Arrays({"batch", "height", "width"}, ["latents"], ["images"]),
    "vae_encoder": _Arrays({"batch", "image_height", "image_width"}, ["images"], ["moments"]),
    "hint_encoder": _Arrays(
        {"batch", "image_height", "image_width"}, ["controlnet_cond"], ["hint"]
    ),
    "controlnet": _Arrays(
        {"batch", "sequence", "height", "width"},
        ["sample", "timestep", "encoder_hidden_states", "hint"],
        ["down_block_res_samples.0", "mid_block_res_sample"],
        {"text_embeds", "time_ids"},
    ),
    "image_encoder": _Arrays({"batch"}, ["pixel_values"], ["image_embeds"]),
}
_REQUIRED: Final = ("text_encoder", "unet", "vae_decoder")
_SCORED: Final = 5
"""Sizes that a refiner takes: the last is an aesthetic score."""
_OF_CONTROLNET: Final = ("hint_encoder", "controlnet")
_OF_CLIP: Final = ("text_encoder_2", "image_encoder")
_SHA256: Final = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ComponentRecord:
    """One graph of a bundle and the weights it reads.

    `fingerprint` is of every config field that decides what the graph computes; `config` is the
    checkpoint's config, for the few fields the runtime needs. `others` are further files that hold
    weights. `table` is the file that says where each tensor lies; None where `weights` has them all
    under their canonical names.
    """

    graph: str
    weights: str
    fingerprint: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    config: Mapping[str, Any]
    others: tuple[str, ...] = ()
    table: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Every file of the bundle that belongs to the component alone or with others."""
        table = () if self.table is None else (self.table,)
        return (self.graph, self.weights, *self.others, *table)

    def to_json(self) -> dict[str, Any]:
        """As the JSON object that `read_components` reads."""
        return {
            "graph": self.graph,
            "weights": self.weights,
            "fingerprint": self.fingerprint,
            "inputs": [s.to_json() for s in self.inputs],
            "outputs": [s.to_json() for s in self.outputs],
            "config": dict(self.config),
            **({"others": list(self.others)} if self.others else {}),
            **({} if self.table is None else {"table": self.table}),
        }


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a bundle: bytes, and SHA-256 in hexadecimal."""

    size: int
    sha256: str


def read_components(field: Field) -> dict[str, ComponentRecord]:
    """A manifest's components by name; raises `ValueError` naming the field that is wrong.

    They are the ones that a picture needs. A ControlNet and a CLIP have two of their own.
    """
    found = {name: _component(name, member) for name, member in field.members().items()}
    whose, own = "", _needed(found)
    if any(name in found for name in _OF_CONTROLNET):
        whose, own = "a ControlNet", _OF_CONTROLNET
    elif "image_encoder" in found:
        whose, own = "a CLIP", _OF_CLIP
    for name in found if whose else ():
        if name not in own:
            raise ValueError(f"{field.name}.{name}: {whose} has no such component")
    for name in own:
        if name not in found:
            raise ValueError(f"{field.name}.{name} is missing")
    return found


def _needed(found: Mapping[str, ComponentRecord]) -> tuple[str, ...]:
    """The components that a picture needs; a refiner has the second text encoder alone."""
    inputs = [spec for record in found.values() for spec in record.inputs]
    if all(spec.name != "text_embeds" for spec in inputs):
        return _REQUIRED
    scored = any(spec.name == "time_ids" and spec.dims[-1] == _SCORED for spec in inputs)
    return ("text_encoder_2", *_REQUIRED[scored:])


def read_files(field: Field) -> dict[str, FileRecord]:
    """Every file of a manifest by its path in the bundle; raises `ValueError` naming the field."""
    return {inside(name): _file(member) for name, member in field.members().items()}


def inside(path: str) -> str:
    """A path relative to a bundle; raises `ValueError` for one that is not, or leads outside."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or set(path) & set("\\:\0"):
        raise ValueError(f"path {path!r} leads outside the bundle")
    return Field(f"path {path!r}", str(pure)).text()


def _file(field: Field) -> FileRecord:
    digest = field.at("sha256")
    if _SHA256.fullmatch(digest.text()) is None:
        raise digest.wrong("64 hexadecimal digits")
    return FileRecord(field.at("size").whole(0, sys.maxsize), digest.text())


def _component(name: str, field: Field) -> ComponentRecord:
    if name not in _COMPONENTS:
        raise ValueError(f"{field.name}: expected a component among {', '.join(_COMPONENTS)}")
    known, config = _COMPONENTS[name], field.at("config")
    outputs = list(known.outputs)
    if known is _TEXT:
        config.at("eos_token_id").whole(0, sys.maxsize)
        layers = config.at("num_hidden_layers").whole(1, MOST)
        outputs += [f"hidden_states.{i}" for i in range(layers + 1)]
        if "layer_norm_eps" in config.members():
            config.at("layer_norm_eps").number()
    more = field.members().get("others")
    record = ComponentRecord(
        graph=inside(field.at("graph").text()),
        weights=inside(field.at("weights").text()),
        fingerprint=field.at("fingerprint").text(),
        inputs=_specs(field.at("inputs"), known.symbols, known.inputs),
        outputs=_specs(field.at("outputs"), known.symbols, outputs),
        config={key: member.value for key, member in config.members().items()},
        others=tuple(inside(item.text()) for item in more.items()) if more else (),
        table=inside(field.at("table").text()) if "table" in field.members() else None,
    )
    allowed = {*known.inputs, *known.more}
    for spec in record.inputs:
        if spec.name not in allowed:
            raise ValueError(f"{field.name}.inputs: there is no input {spec.name!r}")
        if spec.name in known.more and not isinstance(spec.dims[-1], int):
            raise ValueError(f"{field.name}.inputs: {spec.name} has no fixed width")
    return record


def _specs(
    field: Field, symbols: Collection[str], needed: Collection[str]
) -> tuple[TensorSpec, ...]:
    specs = tuple(TensorSpec.from_field(item) for item in field.items())
    names = [spec.name for spec in specs]
    for name in needed:
        if name not in names:
            raise ValueError(f"{field.name}: {name} is missing")
    for spec in specs:
        if names.count(spec.name) > 1:
            raise ValueError(f"{field.name}: {spec.name} occurs twice")
        if not spec.dims or spec.dims[0] != "batch":
            raise ValueError(f"{field.name}: {spec.name} has no axis 'batch' first")
        unknown = sorted(dim_symbols(spec.dims) - set(symbols))
        if unknown:
            raise ValueError(f"{field.name}: {spec.name} has an axis {unknown[0]!r}")
    return specs
