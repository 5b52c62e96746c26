"""What a bundle is: its components, the numbers the runtime needs, and the hash of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, cast

from latentrt.bundle.errors import BundleError
from latentrt.bundle.spec import TensorSpec

SCHEMA: Final = 3
FILE_NAME: Final = "manifest.json"
GOLDEN: Final = "golden.safetensors"

STABLE_DIFFUSION: Final = "stable-diffusion"
STABLE_DIFFUSION_XL: Final = "stable-diffusion-xl"
LATENT_CONSISTENCY: Final = "latent-consistency"
"""Families: whose pipeline in diffusers is the reference. What a model takes, its graphs say."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a bundle: bytes, and SHA-256 in hexadecimal."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ComponentRecord:
    """One graph of a bundle and the weights it reads.

    `fingerprint` is of every config field that decides what the graph computes; `config` is the
    checkpoint's config, for the few fields the runtime needs.
    """

    graph: str
    weights: str
    fingerprint: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Manifest:
    """`manifest.json`, read and checked.

    `family` is one of the names above; `vae_factor` is pixels per latent along an axis;
    `vae_scaling` and `vae_shift` turn a VAE latent z into the model's, (z - shift) * scaling, or,
    where the VAE states a mean and a standard deviation for each channel, (z - latents_mean) /
    latents_std * scaling; `sample_size` is the default (height, width) of a latent.
    `force_zeros_for_empty_prompt` says that no negative prompt is zeros, not the empty prompt.
    `dtype` is how weights are stored, `storage` what that cost, by component: the relative change
    of its outputs on the golden inputs, the largest of them; empty in float32 or without goldens.
    `islands` names, by component, the nodes that compute in float32 though the graph's dtype is
    float16; a component without any is not in it.
    `inferred` says what the checkpoint did not state, and why it was taken so.
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
        """SHA-256 of what decides the pictures: graphs, weights, tokenizers, scheduler and numbers.

        Names, goldens and versions are left out.
        """
        value = self.to_json()
        for key in ("schema", "source", "inferred", "versions", "storage"):
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
            "inferred": list(self.inferred),
            "versions": dict(self.versions or {}),
            "components": {
                name: {
                    "graph": c.graph,
                    "weights": c.weights,
                    "fingerprint": c.fingerprint,
                    "inputs": [s.to_json() for s in c.inputs],
                    "outputs": [s.to_json() for s in c.outputs],
                    "config": dict(c.config),
                }
                for name, c in self.components.items()
            },
            "storage": dict(self.storage),
            "islands": {name: list(nodes) for name, nodes in self.islands.items()},
            "files": {
                path: {"size": f.size, "sha256": f.sha256} for path, f in sorted(self.files.items())
            },
        }

    @staticmethod
    def from_json(value: Any) -> Manifest:
        """Raises what indexing and converting raise (see `read_manifest`) if malformed."""
        if value["schema"] != SCHEMA:
            problem = f"schema {value['schema']}; this version reads schema {SCHEMA}"
            raise ValueError(f"{problem}: export the checkpoint again")
        height, width = value["sample_size"]
        channels = int(value["latent_channels"])
        components = {str(k): _component(v) for k, v in value["components"].items()}
        return Manifest(
            family=str(value["family"]),
            source=str(value["source"]),
            dtype=str(value["dtype"]),
            latent_channels=channels,
            vae_factor=int(value["vae_factor"]),
            vae_scaling=float(value["vae_scaling"]),
            vae_shift=float(value["vae_shift"]),
            sample_size=(int(height), int(width)),
            prediction_type=str(value["prediction_type"]),
            force_zeros_for_empty_prompt=_flag(value["force_zeros_for_empty_prompt"]),
            latents_mean=_by_channel(value["latents_mean"], channels),
            latents_std=_by_channel(value["latents_std"], channels),
            inferred=tuple(str(s) for s in value["inferred"]),
            versions={str(k): str(v) for k, v in value["versions"].items()},
            components=components,
            storage={_known(k, components): float(v) for k, v in value["storage"].items()},
            islands={_known(k, components): _names(v) for k, v in value["islands"].items()},
            files={
                _inside(str(k)): FileRecord(int(v["size"]), str(v["sha256"]))
                for k, v in value["files"].items()
            },
        )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle; raises `BundleError` saying what is wrong with it."""
    path = folder / FILE_NAME
    if not folder.is_dir():
        raise BundleError(folder, "no such bundle folder")
    try:
        return Manifest.from_json(json.loads(path.read_text("utf-8")))
    except FileNotFoundError as error:
        raise BundleError(folder, f"is not a bundle: it has no {FILE_NAME}") from error
    except (OSError, RecursionError) as error:
        raise BundleError(path, f"cannot be read: {error}") from error
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise BundleError(path, f"is malformed: {error}") from error


def _listed(numbers: tuple[float, ...] | None) -> list[float] | None:
    return None if numbers is None else list(numbers)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _by_channel(value: Any, channels: int) -> tuple[float, ...] | None:
    if value is None:
        return None
    numbers = tuple(float(number) for number in value)
    if len(numbers) != channels:
        raise ValueError(f"{len(numbers)} numbers for {channels} latent channels")
    return numbers


def _known(name: Any, components: Mapping[str, ComponentRecord]) -> str:
    if name not in components:
        raise ValueError(f"{name!r} is no component")
    return name


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list of names")
    return tuple(str(name) for name in cast("list[object]", value))


def _component(value: Any) -> ComponentRecord:
    config: object = value["config"]
    if not isinstance(config, dict):
        raise TypeError("a component's config is not an object")
    return ComponentRecord(
        graph=_inside(str(value["graph"])),
        weights=_inside(str(value["weights"])),
        fingerprint=str(value["fingerprint"]),
        inputs=tuple(TensorSpec.from_json(s) for s in value["inputs"]),
        outputs=tuple(TensorSpec.from_json(s) for s in value["outputs"]),
        config=cast("Mapping[str, Any]", config),
    )


def _inside(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts or set(path) & set("\\:\0"):
        raise ValueError(f"path {path!r} leads outside the bundle")
    return str(pure)
