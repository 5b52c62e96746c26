"""The model in PyTorch: whose weights it has, and what it computes for a prompt.

Imports PyTorch: `pip install 'latentrt[bench]'`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from latentrt.benchmarks.numerics.reference import Reference, ReferenceRequest
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError
from latentrt.bundle.manifest import FILE_NAME
from latentrt.export.check import check
from latentrt.export.reference import GoldenInputs, Goldens, Weights
from latentrt.runtime.size import Size
from latentrt.runtime.text import PromptTokenizer
from latentrt.weights.component_specs import ComponentSpec, component_specs, folder_of
from latentrt.weights.families import FAMILIES, Family, tokenizer_of
from latentrt.weights.latent_space import LatentSpace
from latentrt.weights.parts import Part
from latentrt.weights.source import TensorSource

SMALLEST: Final = 16
"""Least pixels along an axis: the window of SSIM needs 11."""


@dataclass(frozen=True, slots=True, eq=False)
class TorchModel:
    """A bundle's architecture in PyTorch, with weights that are taken as right.

    `name` says whose weights; `own` that they are the bundle's, which engines read too, so that a
    fault in them does not show. `parts` and `weights` are by folder; weights are rounded to the
    bundle's dtype. `tokens` gives the tokens [1, n] of a prompt by text encoder; `zeros` says that
    without a negative prompt its states are zeros.
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
    def components(self) -> tuple[ComponentSpec, ...]:
        """The components, in the order in which they are exported."""
        return component_specs(self.parts)

    @staticmethod
    def of(bundle: Bundle, checkpoint: str | None = None) -> TorchModel:
        """With the weights of a checkpoint or of another bundle; without either, the bundle's own.

        Raises `InputError` for a checkpoint of another architecture, and what opening it raises.
        """
        if checkpoint is None:
            return _of_bundle(bundle, bundle)
        if (Path(checkpoint) / FILE_NAME).is_file():
            return _of_bundle(bundle, Bundle.open(checkpoint))
        with tempfile.TemporaryDirectory(prefix="latentrt-") as folder:
            checked = check(checkpoint, Path(folder))
        found = {folder: part.fingerprint for folder, part in checked.parts.items()}
        _check_architecture(bundle, checkpoint, checked.family.name, found)
        return TorchModel(
            name=checked.source.name,
            own=False,
            family=checked.family,
            parts=checked.parts,
            weights=_rounded(bundle, {f: part.tensors for f, part in checked.parts.items()}),
            tokens=lambda prompt: {name: t(prompt) for name, t in checked.tokenizers.items()},
            scheduler_config=checked.scheduler,
            zeros=checked.zeros,
        )

    def evaluate(
        self, bundle: Bundle, request: ReferenceRequest, advance: Callable[[], None]
    ) -> Reference:
        """PyTorch's numbers in fp32 for a request; `advance` is called once a component.

        Raises `InputError` for a size that the model does not have or SSIM cannot judge.
        """
        latents = LatentSpace.of(f"{self.name}/vae", self.family, self.parts["vae"].config)
        height, width = (n * latents.factor for n in bundle.manifest.sample_size)
        size = request.size or Size(width, height)
        pixels = size.height, size.width
        if any(n % latents.factor or n < SMALLEST for n in pixels):
            expected = f"multiples of {latents.factor}, at least {SMALLEST}"
            raise InputError("size", expected, size)
        inputs = GoldenInputs(
            input_ids=self.tokens(request.prompt),
            negative_input_ids=self.tokens(""),
            zeros=self.zeros,
            scheduler_config=self.scheduler_config,
            forced=self.family.forced,
            sample_size=(size.height // latents.factor, size.width // latents.factor),
            size=pixels,
            latent_space=latents,
            steps=request.steps,
            seed=request.seed,
        )
        goldens = Goldens(self.parts, self.weights, inputs, advance)
        return Reference(request.prompt, f"seed {request.seed}", goldens.tensors())


class _Rounded:
    """Tensors in a bundle's dtype."""

    def __init__(self, tensors: Weights, dtype: np.dtype[Any]) -> None:
        self._tensors = tensors
        self._dtype = dtype

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._tensors[name].astype(self._dtype, copy=False)


def _rounded(bundle: Bundle, weights: Mapping[str, Weights]) -> dict[str, Weights]:
    dtype = np.dtype(bundle.manifest.dtype)
    return {folder: _Rounded(tensors, dtype) for folder, tensors in weights.items()}


def _of_bundle(bundle: Bundle, other: Bundle) -> TorchModel:
    """A bundle's architecture with the weights of a bundle."""
    records = {folder_of(n): r for n, r in bundle.manifest.components.items()}
    found = {folder_of(n): r.fingerprint for n, r in other.manifest.components.items()}
    _check_architecture(bundle, str(other.path), other.manifest.family, found)
    files = {folder_of(n): other.tensors(n) for n in bundle.manifest.components}
    family = next(f for f in FAMILIES if f.name == bundle.manifest.family)
    own = other.path == bundle.path
    tokenizers = {n: PromptTokenizer.of(other, tokenizer_of(n)) for n in family.text_encoders}
    return TorchModel(
        name="the bundle's own weights" if own else other.path.name,
        own=own,
        family=family,
        parts={
            # A bundle's tensors were checked when it was exported.
            folder: Part(
                folder, record.config, cast("TensorSource", files[folder]), tuple(files[folder])
            )
            for folder, record in records.items()
        },
        weights=_rounded(bundle, files),
        tokens=lambda prompt: {name: each(prompt).ids[None] for name, each in tokenizers.items()},
        scheduler_config=other.scheduler_config(),
        zeros=other.manifest.force_zeros_for_empty_prompt,
    )


def _check_architecture(
    bundle: Bundle, name: str, family: str, fingerprints: Mapping[str, str]
) -> None:
    """Raise `InputError` where a checkpoint is not of the bundle's architecture."""
    manifest = bundle.manifest
    if family != manifest.family:
        raise InputError("checkpoint", f"one of family {manifest.family}", f"{name}, {family}")
    for component, record in manifest.components.items():
        folder = folder_of(component)
        if fingerprints.get(folder) != record.fingerprint:
            expected = f"one whose {folder} has the bundle's architecture"
            raise InputError("checkpoint", expected, name)
