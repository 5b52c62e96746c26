"""A VAE in one file, which takes the place of a model's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.errors import CheckpointError, WeightsError
from latentrt.bundle.tensors import FLOAT8, Entry, TensorFile
from latentrt.weights.finite import is_finite
from latentrt.weights.ldm_names import Spelling
from latentrt.weights.single_file import find_vae
from latentrt.weights.source import TensorSource
from latentrt.weights.spelled_tensors import find_spelled, open_tensors

_FLOATS: Final = ("float64", "float32", "float16", "bfloat16", *FLOAT8)
_LATENT: Final = "decoder.conv_in.weight"


class VaeTensors(Mapping[str, NDArray[Any]]):
    """The tensors of a VAE's file under canonical names, in the dtype of the model's own VAE.

    The file has the original layout or that of diffusers, with or without a prefix; a whole
    checkpoint may be given too. Every tensor of `base`, the model's VAE, must be there in its
    shape. The factor of latents stays the model's: it belongs to the U-Net. Two families' VAEs
    have the same shapes, so a VAE of another family cannot be told from its file.

    Raises `CheckpointError` for a file that is damaged or holds no VAE, and for a tensor that is
    missing or has another shape.
    """

    renamed = ""
    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, base: TensorSource) -> None:
        self._base = base
        self._file = open_tensors(path)
        spelling = find_vae(self._file)
        if spelling is None:
            raise CheckpointError(path, "holds no VAE in the original layout or diffusers'")
        names = sorted(base, key=lambda name: name != _LATENT)  # it tells the most if it is wrong
        self._names = {name: _stored_name(self._file, spelling, name, base) for name in names}

    def entry(self, name: str) -> Entry:
        """Dtype and shape of a tensor, without reading it."""
        own = self._base.entry(name)
        return Entry(name, own.dtype, own.shape, 0, own.nbytes)

    def place(self, name: str) -> None:
        """None: the stored tensor may have another dtype."""

    def __getitem__(self, name: str) -> NDArray[Any]:
        stored, own = self._file[self._names[name]], self._base.entry(name)
        with np.errstate(over="ignore", invalid="ignore"):
            # float8 is converted by way of float32, which is exact.
            wide = stored.astype(np.float32) if stored.dtype.name in FLOAT8 else stored
            converted = wide.astype(own.dtype, copy=False)
        if not is_finite(converted):
            problem = f"tensor {name!r} holds a value that is not finite in {own.dtype}"
            raise WeightsError(self._file.path, problem)
        return converted.reshape(own.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _stored_name(file: TensorFile, spelling: Spelling, name: str, base: TensorSource) -> str:
    spelled = find_spelled(file, spelling, name)
    if spelled is None:
        problem = f"tensor {spelling(name)[0].name!r} is missing: it is not a whole VAE"
        raise CheckpointError(file.path, problem)
    found, expected = file.entries[spelled.name], base.entry(name).shape
    if _without_ones(found.shape) != _without_ones(expected):
        problem = f"tensor {spelled.name!r} is {found.shape}, expected {expected}"
        if name == _LATENT and len(found.shape) == 4:
            problem += f": a VAE of {found.shape[1]} latent channels is another family's"
        raise CheckpointError(file.path, problem)
    if found.dtype.name not in _FLOATS:
        problem = f"tensor {spelled.name!r} is {found.dtype}, expected a float"
        raise CheckpointError(file.path, problem)
    return spelled.name


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    # Attention's layers are 1x1 convolutions in the original layout, and matrices in diffusers.
    return tuple(size for size in shape if size != 1)
