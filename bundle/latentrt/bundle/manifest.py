"""A bundle's manifest: its components, the numbers the runtime needs, and every file's hash."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.component import (
    DTYPES,
    MOST,
    ComponentRecord,
    FileRecord,
    read_components,
    read_files,
)
from latentrt.bundle.errors import BundleError
from latentrt.bundle.files import Field, read_object

SCHEMA: Final = 3
FILE_NAME: Final = "manifest.json"
GOLDEN: Final = "golden.safetensors"

STABLE_DIFFUSION: Final = "stable-diffusion"
STABLE_DIFFUSION_XL: Final = "stable-diffusion-xl"
STABLE_DIFFUSION_XL_REFINER: Final = "stable-diffusion-xl-refiner"
LATENT_CONSISTENCY: Final = "latent-consistency"
CONTROLNET: Final = "controlnet"
CLIP: Final = "clip"
"""Families, by the diffusers pipeline that is the reference. The graphs list a model's inputs."""
XL: Final = (STABLE_DIFFUSION_XL, STABLE_DIFFUSION_XL_REFINER)
"""Families whose prompts come with sizes."""
_FAMILIES: Final = (STABLE_DIFFUSION, *XL, LATENT_CONSISTENCY, CONTROLNET, CLIP)

LatentRgb = tuple[tuple[float, float, float], ...]
"""From latents as the U-Net has them to colours in [-1, 1]: a row for each channel, then a bias."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """`manifest.json`, read and checked.

    `family` is one of the names above. `vae_factor` is pixels per latent along an axis.
    `vae_scaling` and `vae_shift` turn a VAE latent z into the model's, (z - shift) * scaling. If
    the VAE has a mean and a deviation for each channel, it is (z - latents_mean) / latents_std *
    scaling. `sample_size` is the default (height, width) of a latent.
    `force_zeros_for_empty_prompt`: without a negative prompt, zeros replace the empty prompt.

    `dtype` is how weights are stored. `storage` is the error of that, by component: the largest
    relative change of its outputs on the golden inputs. It is empty in float32 or without goldens.
    `islands` names, by component, the nodes of a float16 graph that compute in float32. A component
    without such nodes is left out. `inferred` lists what the checkpoint did not state, and the
    reason for each choice. `latent_rgb` is for fast previews; older versions wrote none.

    The manifests of ControlNets and CLIPs have neutral numbers for what they lack.
    """

    family: str
    dtype: str
    latent_channels: int
    vae_factor: int
    vae_scaling: float
    vae_shift: float
    sample_size: tuple[int, int]
    prediction_type: str
    force_zeros_for_empty_prompt: bool
    latents_mean: tuple[float, ...] | None
    latents_std: tuple[float, ...] | None
    components: Mapping[str, ComponentRecord]
    storage: Mapping[str, float]
    islands: Mapping[str, tuple[str, ...]]
    files: Mapping[str, FileRecord]
    inferred: tuple[str, ...] = ()
    versions: Mapping[str, str] | None = None
    source: str = ""
    latent_rgb: LatentRgb | None = None

    @property
    def has_goldens(self) -> bool:
        """Whether reference tensors were stored at export."""
        return GOLDEN in self.files

    @property
    def forces_scheduler(self) -> bool:
        """Whether the reference sets `steps_offset` and `clip_sample` whatever the config says."""
        return self.family == STABLE_DIFFUSION

    @property
    def model_hash(self) -> str:
        """SHA-256 of all that decides a picture: graphs, weights, tokenizers, scheduler, numbers.

        Names, goldens, versions and what previews are made with are left out.
        """
        value = self.to_json()
        for key in ("schema", "source", "inferred", "versions", "storage", "latent_rgb"):
            del value[key]
        value["components"] = {name: c.fingerprint for name, c in self.components.items()}
        value["files"] = {k: f.sha256 for k, f in self.files.items() if k != GOLDEN}
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """As the JSON object that `from_json` reads."""
        return {
            "schema": SCHEMA,
            "family": self.family,
            "source": self.source,
            "dtype": self.dtype,
            "latent_channels": self.latent_channels,
            "vae_factor": self.vae_factor,
            "vae_scaling": self.vae_scaling,
            "vae_shift": self.vae_shift,
            "sample_size": list(self.sample_size),
            "prediction_type": self.prediction_type,
            "force_zeros_for_empty_prompt": self.force_zeros_for_empty_prompt,
            "latents_mean": _listed(self.latents_mean),
            "latents_std": _listed(self.latents_std),
            "latent_rgb": None if self.latent_rgb is None else [list(r) for r in self.latent_rgb],
            "inferred": list(self.inferred),
            "versions": dict(self.versions or {}),
            "components": {name: c.to_json() for name, c in self.components.items()},
            "storage": dict(self.storage),
            "islands": {name: list(nodes) for name, nodes in self.islands.items()},
            "files": {
                path: {"size": f.size, "sha256": f.sha256} for path, f in sorted(self.files.items())
            },
        }

    @staticmethod
    def from_json(value: object) -> Manifest:
        """From `to_json`; raises `ValueError` naming the field that is wrong."""
        root = Field("", value)
        _check_schema(root.at("schema"))
        channels = root.at("latent_channels").whole(1, MOST)
        factor = root.at("vae_factor").whole(1, MOST)
        components = read_components(root.at("components"))
        if "vae_decoder" in components:
            _check_decoder(components["vae_decoder"], channels, factor)
        height, width = _pair(root.at("sample_size"))
        return Manifest(
            family=root.at("family").one_of(_FAMILIES),
            source=root.at("source").text(),
            dtype=root.at("dtype").one_of(DTYPES),
            latent_channels=channels,
            vae_factor=factor,
            vae_scaling=root.at("vae_scaling").divisor(),
            vae_shift=root.at("vae_shift").number(),
            sample_size=(height.whole(1, MOST), width.whole(1, MOST)),
            prediction_type=root.at("prediction_type").text(),
            force_zeros_for_empty_prompt=root.at("force_zeros_for_empty_prompt").flag(),
            latents_mean=_by_channel(root.at("latents_mean"), channels, Field.number),
            latents_std=_by_channel(root.at("latents_std"), channels, Field.divisor),
            latent_rgb=read_latent_rgb(root, channels),
            inferred=_texts(root.at("inferred")),
            versions={n: f.text() for n, f in root.at("versions").members().items()},
            components=components,
            storage={n: f.number() for n, f in _known(root.at("storage"), components).items()},
            islands={n: _texts(f) for n, f in _known(root.at("islands"), components).items()},
            files=read_files(root.at("files")),
        )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle; raises `BundleError` saying what is wrong with it."""
    path = folder / FILE_NAME
    _check_kind(folder)
    if not os.path.lexists(path):
        raise BundleError(folder, f"is not a bundle: it has no {FILE_NAME}")
    value = read_object(path)
    try:
        return Manifest.from_json(value)
    except ValueError as error:
        raise BundleError(path, f"is malformed: {error}") from error


def _check_schema(field: Field) -> None:
    schema = field.whole(0, sys.maxsize)
    if schema != SCHEMA:
        remedy = "export the checkpoint again" if schema < SCHEMA else "upgrade latentrt"
        raise ValueError(f"schema {schema}; this version reads schema {SCHEMA}: {remedy}")


def _check_decoder(decoder: ComponentRecord, channels: int, factor: int) -> None:
    """Check the VAE decoder's inputs and outputs against the manifest's fields on latents."""
    arrays = {spec.name: spec.dims for spec in (*decoder.inputs, *decoder.outputs)}
    expected = {
        "latents": ("batch", channels, "height", "width"),
        "images": ("batch", 3, f"height*{factor}", f"width*{factor}"),
    }
    for name, dims in expected.items():
        if arrays[name] != dims:
            got = f"({', '.join(str(d) for d in arrays[name])})"
            of = f"latent_channels {channels} and vae_factor {factor}"
            raise ValueError(f"components.vae_decoder: {name} is {got}, which is not of {of}")


def _check_kind(folder: Path) -> None:
    """Raise `BundleError` if the path is not a folder, or is a checkpoint."""
    # `Path.is_dir` would raise for a name that is too long.
    if folder.suffix in (".safetensors", ".ckpt") and os.path.isfile(folder):
        problem = (
            "is a checkpoint in one file, not a bundle; `latentrt export` takes a diffusers folder"
        )
        raise BundleError(folder, problem)
    if not os.path.isdir(folder):
        raise BundleError(folder, "no such bundle folder")
    if not (folder / FILE_NAME).exists() and (folder / "model_index.json").exists():
        command = f"latentrt export {shlex.quote(str(folder))} BUNDLE"
        raise BundleError(folder, f"is a checkpoint, not a bundle; make one: {command}")


def _listed(numbers: tuple[float, ...] | None) -> list[float] | None:
    return None if numbers is None else list(numbers)


def _pair(field: Field) -> tuple[Field, Field]:
    items = field.items()
    if len(items) != 2:
        raise field.wrong("a height and a width")
    return items[0], items[1]


def _by_channel(
    field: Field, channels: int, read: Callable[[Field], float]
) -> tuple[float, ...] | None:
    if field.value is None:
        return None
    items = field.items()
    if len(items) != channels:
        raise field.wrong(f"{channels} numbers, one a latent channel")
    return tuple(read(item) for item in items)


def read_latent_rgb(root: Field, channels: int) -> LatentRgb | None:
    """The matrix of fast previews; None where it is absent, as in bundles of older versions.

    Raises `ValueError` for anything else.
    """
    field = root.members().get("latent_rgb")
    if field is None or field.value is None:
        return None
    rows = [row.items() for row in field.items()]
    if len(rows) != channels + 1 or any(len(row) != 3 for row in rows):
        raise field.wrong(f"{channels + 1} rows of 3 numbers")
    return tuple((r.number(), g.number(), b.number()) for r, g, b in rows)


def _known(field: Field, components: Mapping[str, ComponentRecord]) -> dict[str, Field]:
    members = field.members()
    for name in members:
        if name not in components:
            raise field.wrong(f"names among {', '.join(components)}")
    return members


def _texts(field: Field) -> tuple[str, ...]:
    return tuple(item.text() for item in field.items())
