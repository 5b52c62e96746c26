"""A LoRA file: the changes of a model's tensors, found by every known spelling."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import WeightsError
from latentrt.bundle.tensors import FLOAT8, TensorFile
from latentrt.weights.contents import WEIGHTS, check_contents
from latentrt.weights.finite import is_finite
from latentrt.weights.lora.configuration import Configuration
from latentrt.weights.lora.difference import Difference
from latentrt.weights.lora.dora import MAGNITUDES, Dora
from latentrt.weights.lora.hadamard import Hadamard
from latentrt.weights.lora.kronecker import Kronecker
from latentrt.weights.lora.layer import Change, Layer
from latentrt.weights.lora.low_rank import LowRank
from latentrt.weights.lora.origin import Shapes, family_of_base, family_of_lora
from latentrt.weights.lora.spellings import ALPHA, ENDINGS, UNSUPPORTED, Target, spellings

COMPONENTS: Final = ("unet", "text_encoder", "text_encoder_2")
"""The folders whose tensors a LoRA changes."""

_FLOATS: Final = ("float64", "float32", "float16", "bfloat16", *FLOAT8)
_SHOWN: Final = 3
"""Keys and names that a message lists."""


@dataclass(frozen=True, slots=True, eq=False)
class LoraFile:
    """The changes that a file holds, by folder and canonical tensor name.

    `unmatched` are the keys that match no layer of the model. `notes` are sentences on choices that
    the file leaves open.
    """

    path: Path
    changes: Mapping[str, Mapping[str, Change]]
    unmatched: tuple[str, ...]
    notes: tuple[str, ...]

    @staticmethod
    def open(path: Path, base: Mapping[str, Shapes], *, partial: bool = False) -> LoraFile:
        """Read a file for a model whose tensors have these shapes, by folder.

        Raises `WeightsError` or `CheckpointError` for a damaged file, for factors that do not fit
        their layer, and for keys that match no layer; `partial` allows some of these last.
        """
        check_contents(path, WEIGHTS)
        file = TensorFile(path)
        try:
            return _read(file, {f: base[f] for f in COMPONENTS if f in base}, partial)
        except WeightsError as error:
            made, own = family_of_lora(file), family_of_base(base)
            if made is None or own is None or made == own:
                raise
            problem = f"is a LoRA for {made}; this model is {own}"
            raise WeightsError(path, f"{problem} ({error.problem})") from error


def _read(file: TensorFile, base: Mapping[str, Shapes], partial: bool) -> LoraFile:
    layers = {folder: _layers(shapes) for folder, shapes in base.items()}
    known = spellings(layers)
    found: dict[tuple[Target, ...], dict[str, str]] = {}
    unmatched: list[str] = []
    for key in file:
        place = _look_up(key, known)
        if place is None:
            unmatched.append(key)
            continue
        targets, role = place
        before = found.setdefault(targets, {}).setdefault(role, key)
        if before != key:
            raise WeightsError(file.path, f"{key!r} and {before!r} are the same tensor")
    if unmatched and (not partial or not found):
        raise _unmatched(file, unmatched, known)
    configuration = Configuration.of(file)
    changes: dict[str, dict[str, Change]] = {}
    notes: list[str] = []
    for targets, keys in found.items():
        stored = {role: _stored(file, key) for role, key in keys.items() if role != ALPHA}
        alpha = _alpha(file, keys[ALPHA]) if ALPHA in keys else None
        target, of_layer = _choose(file, targets, stored, alpha, base, configuration)
        for key in keys.values():
            if not is_finite(file[key]):
                raise WeightsError(file.path, f"tensor {key!r} holds a value that is not finite")
        changes.setdefault(target.folder, {}).update(of_layer)
        for change in of_layer.values():
            if isinstance(change, Dora) and change.guessed:
                notes.append(f"{target.layer}: its magnitudes were taken by output row")
    return LoraFile(file.path, changes, tuple(unmatched), tuple(notes))


def _layers(shapes: Shapes) -> Collection[str]:
    """The layers that have a weight, by canonical name."""
    return {name.removesuffix(".weight"): None for name in shapes if name.endswith(".weight")}


def _look_up(
    key: str, known: Mapping[str, tuple[Target, ...]]
) -> tuple[tuple[Target, ...], str] | None:
    for ending, role in ENDINGS.items():
        if key.endswith(ending):
            targets = known.get(key[: -len(ending)])
            if targets is not None:
                return targets, role
    return None


def _unmatched(
    file: TensorFile, keys: list[str], known: Mapping[str, tuple[Target, ...]]
) -> WeightsError:
    for ending, kind in UNSUPPORTED.items():
        of_kind = next((key for key in keys if key.endswith(ending)), None)
        if of_kind is not None:
            return WeightsError(file.path, f"{of_kind!r} is {kind}, which is not supported")
    listed = ", ".join(repr(key[:200]) for key in keys[:_SHOWN])
    rest = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    nearest = _nearest(keys[0], known)
    hint = f"; the nearest names are {', '.join(nearest)}" if nearest else ""
    matched = len(file) - len(keys)
    problem = f"{len(keys)} of {len(file)} keys match no layer: {listed}{rest}{hint}"
    advice = "partial=True applies the other" if matched else "none is left to apply"
    return WeightsError(file.path, f"{problem}; {advice} {matched}" if matched else problem)


def _nearest(key: str, known: Mapping[str, tuple[Target, ...]]) -> list[str]:
    """The spellings most like a key, with the key's own ending where that is known."""
    ending = next((e for e in ENDINGS if key.endswith(e)), "")
    stem = key[: len(key) - len(ending)][:200]
    alike = [name for name in known if name[:6] == stem[:6]] or list(known)
    return [f"{name}{ending}" for name in difflib.get_close_matches(stem, alike, _SHOWN, 0.5)]


def _stored(file: TensorFile, key: str) -> NDArray[Any]:
    """A tensor whose values are not read yet."""
    dtype = file.entries[key].dtype
    if dtype.name not in _FLOATS:
        raise WeightsError(file.path, f"tensor {key!r} is {dtype}, expected a float")
    return file[key]


def _alpha(file: TensorFile, key: str) -> float:
    array = file[key]
    if array.size != 1 or array.ndim > 1:
        raise WeightsError(file.path, f"{key!r} is {list(array.shape)}, expected one number")
    if array.dtype == np.bool_:
        raise WeightsError(file.path, f"{key!r} is {array.dtype}, expected a number")
    value = float(array.reshape(()))
    if not math.isfinite(value):
        raise WeightsError(file.path, f"{key!r} is {value}, expected a finite number")
    return value


def _choose(
    file: TensorFile,
    targets: tuple[Target, ...],
    stored: Mapping[str, NDArray[Any]],
    alpha: float | None,
    base: Mapping[str, Shapes],
    configuration: Configuration,
) -> tuple[Target, dict[str, Change]]:
    """The one target that tensors fit, where a spelling may mean several."""
    fitting: list[tuple[Target, dict[str, Change]]] = []
    problem: WeightsError | None = None
    for target in targets:
        shapes = base[target.folder]
        weight = shapes[f"{target.layer}.weight"]
        configured = configuration.layer(target.folder, target.layer)
        layer = Layer(file.path, target.layer, weight, stored, alpha, configured)
        try:
            fitting.append((target, dict(_changes(layer, shapes))))
        except WeightsError as error:
            problem = problem or error
    if not fitting:
        assert problem is not None
        raise problem
    if len(fitting) > 1:
        folders = " and ".join(target.folder for target, _ in fitting)
        text = f"layer {targets[0].layer!r} fits {folders}: put the component before its name"
        raise WeightsError(file.path, text)
    return fitting[0]


def _changes(layer: Layer, shapes: Shapes) -> Iterator[tuple[str, Change]]:
    """The changes of a layer's weight and bias."""
    weight, bias = f"{layer.name}.weight", f"{layer.name}.bias"
    kinds = [kind for kind, roles in _KINDS.items() if layer.has(*roles)]
    if len(kinds) > 1:
        raise layer.wrong(f"holds {' and '.join(kinds)}; one kind is expected")
    biases = [role for role in ("diff_b", "b_norm") if layer.has(role)]
    if not kinds and not biases:
        found = sorted(layer.tensors) or ["alpha"]
        raise layer.wrong(f"holds {', '.join(found)} alone; its factors are missing")
    if kinds:
        yield weight, _weight_change(layer, kinds[0])
    for role in biases:
        if bias not in shapes:
            raise layer.wrong(f"{role} is there, but the layer has no bias")
        yield bias, Difference.of(layer, role, shapes[bias])


_KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "LoRA": ("lora_up", "lora_down", "lora_mid"),
    "LoHa": tuple(f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
    "LoKr": tuple(f"lokr_{n}" for n in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
    "a full difference": ("diff",),
    "a norm": ("w_norm",),
}


def _weight_change(layer: Layer, kind: str) -> Change:
    decomposed = layer.has(*MAGNITUDES)
    if kind in ("a full difference", "a norm"):
        if decomposed:
            raise layer.wrong(f"holds {kind} and a magnitude; one kind is expected")
        return Difference.of(layer, _KINDS[kind][0], layer.shape)
    if len(layer.shape) < 2:
        raise layer.wrong(f"holds {kind}, but its weight is a vector")
    of = {"LoRA": LowRank.of, "LoHa": Hadamard.of, "LoKr": Kronecker.of}[kind]
    change = of(layer)
    return Dora.of(layer, change) if decomposed else change
