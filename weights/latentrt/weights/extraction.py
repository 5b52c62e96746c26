"""A LoRA of given rank from the difference of two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError, WeightsError
from latentrt.bundle.tensors import Layout, write_tensors
from latentrt.weights.finite import is_finite
from latentrt.weights.lora.layer import LARGEST_RANK, Array
from latentrt.weights.lora.unet_blocks import original_names
from latentrt.weights.source import TensorSource

_FOLDERS: Final = ("unet", "text_encoder", "text_encoder_2")


@dataclass(frozen=True, slots=True)
class ExtractedLayer:
    """One layer of an extracted LoRA.

    `distance` is the norm of the change, `missed` that of what the stored factors miss.
    """

    folder: str
    layer: str
    rank: int
    distance: float
    missed: float


@dataclass(frozen=True, slots=True)
class Extraction:
    """An extracted LoRA.

    `left_out` are changed tensors that no low-rank product holds, such as norms and biases, with
    the norm of their change.
    """

    path: Path
    layers: tuple[ExtractedLayer, ...]
    left_out: Mapping[str, float]

    @property
    def error(self) -> float:
        """What the file misses of the whole change, ||missed|| / ||change||."""
        squares = sum(layer.missed**2 for layer in self.layers)
        squares += sum(distance**2 for distance in self.left_out.values())
        whole = sum(layer.distance**2 for layer in self.layers)
        whole += sum(distance**2 for distance in self.left_out.values())
        return math.sqrt(squares / whole) if whole else 0.0


def extract(
    tuned: Mapping[str, TensorSource],
    base: Mapping[str, TensorSource],
    rank: int,
    path: Path,
    *,
    dtype: str = "float16",
    progress: Callable[[int, int], None] | None = None,
) -> Extraction:
    """Write the LoRA of a rank that is nearest to tuned - base, and measure what it misses.

    Both have their tensors under canonical names, by folder. The file has kohya's names: those of
    diffusers' blocks, and for SDXL the original ones, as web UIs read them. `dtype` is that of the
    factors, which the error includes. Every matrix and convolution is extracted that differs; one
    layer is in memory at a time. `progress` is called with layers done and all layers.

    Raises `InputError` for a rank out of range and for checkpoints without a difference, and
    `WeightsError` for checkpoints of two architectures. Source: Eckart and Young (1936), by
    eigenvectors of the smaller Gram matrix in float64.
    """
    if not 1 <= rank <= LARGEST_RANK:
        raise InputError("rank", f"a whole number from 1 to {LARGEST_RANK}", rank)
    stored = np.dtype(dtype)
    folders = [folder for folder in _FOLDERS if folder in tuned and folder in base]
    targets, left_out = _targets(tuned, base, folders)
    if not targets:
        raise InputError("tuned", "a checkpoint whose layers differ from the base's", "equal ones")
    spelled = _spelled(targets, tuned)
    tensors: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
    for name, (folder, layer) in spelled.items():
        out, inner, *kernel = tuned[folder].entry(f"{layer}.weight").shape
        own = min(rank, out, inner * math.prod(kernel))
        ones = (1,) * len(kernel)
        tensors[f"{name}.lora_down.weight"] = (stored, (own, inner, *kernel))
        tensors[f"{name}.lora_up.weight"] = (stored, (out, own, *ones))
        tensors[f"{name}.alpha"] = (np.dtype(np.float32), ())
    layout = Layout.of(tensors, {"format": "pt"})
    layers: list[ExtractedLayer] = []
    factors: dict[str, NDArray[Any]] = {}

    def load(key: str) -> NDArray[Any]:
        # The file has a layer's three tensors one after another.
        if key not in factors:
            factors.clear()
            name = key.partition(".")[0]
            folder, layer = spelled[name]
            change = _change(tuned[folder], base[folder], f"{layer}.weight")
            own = tensors[f"{name}.lora_down.weight"][1][0]
            up, down = (_stored(f, stored, path, layer) for f in _factors(change, own))
            missed = change.reshape(len(up), -1).copy()
            missed -= up.astype(np.float32) @ down.astype(np.float32)
            layers.append(ExtractedLayer(folder, layer, own, _norm(change), _norm(missed)))
            factors[f"{name}.alpha"] = np.asarray(own, np.float32)
            for side, factor in (("up", up), ("down", down)):
                of = f"{name}.lora_{side}.weight"
                factors[of] = factor.reshape(tensors[of][1])
            if progress is not None:
                progress(len(layers), len(spelled))
        return factors.pop(key)

    write_tensors(path, layout, load)
    return Extraction(path, tuple(layers), left_out)


def _targets(
    tuned: Mapping[str, TensorSource], base: Mapping[str, TensorSource], folders: list[str]
) -> tuple[list[tuple[str, str]], dict[str, float]]:
    """The layers to extract, and the other tensors that differ with the norm of that."""
    targets: list[tuple[str, str]] = []
    left_out: dict[str, float] = {}
    for folder, name in _names(tuned, base, folders):
        distance = _norm(_change(tuned[folder], base[folder], name))
        if not distance:
            continue
        matrix = len(base[folder].entry(name).shape) > 1 and not name.endswith("_embedding.weight")
        if matrix and name.endswith(".weight"):
            targets.append((folder, name.removesuffix(".weight")))
        else:
            left_out[f"{folder}: {name}"] = distance
    return targets, left_out


def _names(
    tuned: Mapping[str, TensorSource], base: Mapping[str, TensorSource], folders: list[str]
) -> Iterator[tuple[str, str]]:
    for folder in folders:
        for name in sorted(base[folder]):
            entry = base[folder].entry(name)
            if not name.endswith((".weight", ".bias")):
                continue
            if name not in tuned[folder] or tuned[folder].entry(name).shape != entry.shape:
                problem = f"tensor {name!r} is missing or has another shape in the tuned checkpoint"
                raise WeightsError(folder, problem)
            yield folder, name


def _spelled(
    targets: list[tuple[str, str]], tuned: Mapping[str, TensorSource]
) -> dict[str, tuple[str, str]]:
    """The layers by kohya's names."""
    xl = "text_encoder_2" in tuned
    prefixes = {
        "unet": "lora_unet",
        "text_encoder": "lora_te1" if xl else "lora_te",
        "text_encoder_2": "lora_te2",
    }
    unet = [name.rpartition(".")[0] for name in tuned.get("unet", ())] if xl else []
    originals = original_names(unet)
    found: dict[str, tuple[str, str]] = {}
    for folder, layer in targets:
        name = originals.get(layer, layer) if folder == "unet" else layer
        found[f"{prefixes[folder]}_{name.replace('.', '_')}"] = (folder, layer)
    return found


def _change(tuned: TensorSource, base: TensorSource, name: str) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        change = tuned[name].astype(np.float32) - base[name].astype(np.float32)
    if not is_finite(change):
        raise WeightsError("extract", f"tensor {name!r} holds a value that is not finite")
    return change


def _factors(change: Array, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The nearest product of a rank, [out, rank] and [rank, rest], equally large."""
    matrix = change.reshape(len(change), -1).astype(np.float64)
    wide = matrix.shape[0] <= matrix.shape[1]
    if not wide:
        matrix = matrix.T
    squares, vectors = np.linalg.eigh(matrix @ matrix.T)
    values = np.sqrt(np.maximum(squares[::-1][:rank], 0))
    left = vectors[:, ::-1][:, :rank]
    right = left.T @ matrix
    roots = np.sqrt(np.where(values > 0, values, 1))
    left, right = left * roots, right / roots[:, None]
    return (left, right) if wide else (right.T, left.T)


def _stored(
    factor: NDArray[np.float64], dtype: np.dtype[Any], path: Path, layer: str
) -> NDArray[Any]:
    with np.errstate(over="ignore", under="ignore"):
        rounded = np.ascontiguousarray(factor).astype(dtype)
    if not is_finite(rounded):
        raise WeightsError(path, f"factors of {layer!r} do not fit into {dtype}: take float32")
    return rounded


def _norm(array: Array) -> float:
    return math.sqrt(float(np.square(array, dtype=np.float64).sum()))
