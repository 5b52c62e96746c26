"""What PyTorch computes with where it is the reference: configs, weights and tokens.

Imports PyTorch: `pip install 'latentrt[bench]'`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError
from latentrt.bundle.manifest import FILE_NAME
from latentrt.bundle.tensors import TensorFile
from latentrt.export.components import Component, components
from latentrt.export.export import open_source
from latentrt.export.family import FAMILIES, Family, family_of
from latentrt.export.parts import Part, open_parts
from latentrt.export.reference import Weights
from latentrt.export.source import TensorSource


@dataclass(frozen=True, slots=True, eq=False)
class Original:
    """A bundle's architecture with the weights that are held to be true.

    `name` is what they are called in reports; `own` says that they are the bundle's own, which
    engines read too, so that a fault in them does not show. `parts` and `weights` are by folder;
    the weights are rounded to what the bundle stores.
    """

    name: str
    own: bool
    family: Family
    parts: Mapping[str, Part]
    weights: Mapping[str, Weights]

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
        source = open_source(checkpoint)
        family = family_of(source)
        parts = open_parts(source, family)
        found = {folder: part.fingerprint for folder, part in parts.items()}
        _check(bundle, checkpoint, family.name, found)
        dtype = np.dtype(bundle.manifest.dtype)
        weights = {folder: _Rounded(part.tensors, dtype) for folder, part in parts.items()}
        return Original(source.name, False, family, parts, weights)


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
    weights = {folder: _Rounded(file, dtype) for folder, file in files.items()}
    own = other.path == bundle.path
    return Original(
        "the bundle's own weights" if own else str(other.path), own, family, parts, weights
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
