"""What PyTorch computes with where it is the reference: configs, weights and tokens.

Imports PyTorch: `pip install 'latentrt[bench]'`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError
from latentrt.bundle.manifest import FILE_NAME
from latentrt.bundle.tensors import TensorFile
from latentrt.export.check import check
from latentrt.export.components import Component, components
from latentrt.export.family import FAMILIES, Family, tokenizer_of
from latentrt.export.parts import Part
from latentrt.export.reference import Weights
from latentrt.export.source import TensorSource
from latentrt.runtime.text import PromptTokenizer


@dataclass(frozen=True, slots=True, eq=False)
class Original:
    """A bundle's architecture with the weights that are held to be true.

    `name` is what they are called in reports; `own` says that they are the bundle's own, which
    engines read too, so that a fault in them does not show. `parts` and `weights` are by folder;
    the weights are rounded to what the bundle stores. `tokens` gives the tokens [1, n] of a prompt
    by text encoder; `zeros` says that no negative prompt is zeros.
    """

    name: str
    own: bool
    family: Family
    parts: Mapping[str, Part]
    weights: Mapping[str, Weights]
    tokens: Callable[[str], Mapping[str, NDArray[np.int64]]]
    scheduler_config: Mapping[str, Any]
    zeros: bool

    @property
    def components(self) -> tuple[Component, ...]:
        """The graphs there are, in the order in which they were made."""
        return components(self.parts)

    @staticmethod
    def of(bundle: Bundle, checkpoint: str | None = None) -> Original:
        """With the weights of a checkpoint, of another bundle, or without either the bundle's own.

        Raises `InputError` for a checkpoint of another architecture, and what opening it raises.
        """
        if checkpoint is None:
            return _of_bundle(bundle, bundle)
        if (Path(checkpoint) / FILE_NAME).is_file():
            return _of_bundle(bundle, Bundle.open(checkpoint))
        with tempfile.TemporaryDirectory(prefix="latentrt-") as folder:
            checked = check(checkpoint, Path(folder))
        parts, tokenizers = checked.parts, checked.tokenizers
        found = {folder: part.fingerprint for folder, part in parts.items()}
        _check(bundle, checkpoint, checked.family.name, found)
        dtype = np.dtype(bundle.manifest.dtype)
        return Original(
            name=checked.source.name,
            own=False,
            family=checked.family,
            parts=parts,
            weights={folder: _Rounded(part.tensors, dtype) for folder, part in parts.items()},
            tokens=lambda prompt: {name: each(prompt) for name, each in tokenizers.items()},
            scheduler_config=checked.scheduler,
            zeros=checked.zeros,
        )


class _Rounded:
    """Tensors as a bundle of that dtype would store them."""

    def __init__(self, tensors: Weights, dtype: np.dtype[Any]) -> None:
        self._tensors = tensors
        self._dtype = dtype

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._tensors[name].astype(self._dtype, copy=False)


def folder_of(bundle: Bundle, component: str) -> str:
    """The checkpoint's folder that a component's weights come from."""
    return Path(bundle.manifest.components[component].weights).stem


def _of_bundle(bundle: Bundle, other: Bundle) -> Original:
    """A bundle's architecture with the weights of a bundle."""
    records = bundle.manifest.components
    found = {folder_of(other, n): r.fingerprint for n, r in other.manifest.components.items()}
    _check(bundle, str(other.path), other.manifest.family, found)
    files = {folder_of(other, name): TensorFile(other.weights(name)) for name in records}
    parts = {
        # Of tensors that are a bundle's, nobody asks what a checkpoint is asked.
        folder: Part(
            folder, record.config, cast("TensorSource", files[folder]), tuple(files[folder])
        )
        for folder, record in ((folder_of(bundle, n), r) for n, r in records.items())
    }
    family = next(f for f in FAMILIES if f.name == bundle.manifest.family)
    dtype = np.dtype(bundle.manifest.dtype)
    own = other.path == bundle.path
    tokenizers = {n: PromptTokenizer.of(other, tokenizer_of(n)) for n in family.text_encoders}
    return Original(
        name="the bundle's own weights" if own else other.path.name,
        own=own,
        family=family,
        parts=parts,
        weights={folder: _Rounded(file, dtype) for folder, file in files.items()},
        tokens=lambda prompt: {name: each(prompt).ids[None] for name, each in tokenizers.items()},
        scheduler_config=other.scheduler_config(),
        zeros=other.manifest.force_zeros_for_empty_prompt,
    )


def _check(bundle: Bundle, name: str, family: str, fingerprints: Mapping[str, str]) -> None:
    """Raise `InputError` where a checkpoint is not of the bundle's architecture."""
    manifest = bundle.manifest
    if family != manifest.family:
        raise InputError("checkpoint", f"one of family {manifest.family}", f"{name}, {family}")
    for component, record in manifest.components.items():
        folder = folder_of(bundle, component)
        if fingerprints.get(folder) != record.fingerprint:
            expected = f"one whose {folder} has the bundle's architecture"
            raise InputError("checkpoint", expected, name)
