"""What a bundle or a checkpoint is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import CheckpointError, InputError
from latentrt.bundle.manifest import FILE_NAME
from latentrt.bundle.tensors import TensorFile
from latentrt.cli.table import print_table
from latentrt.runtime.schedules import unused_keys
from latentrt.weights.checkpoint import Checkpoint


def describe(path: Path, *, verify: bool) -> dict[str, Any]:
    """What is at `path`; raises `BundleError` or `CheckpointError` for anything else."""
    if (path / FILE_NAME).is_file():
        return _bundle(path, verify=verify)
    return _checkpoint(path)


def _scheduler(config: Any) -> dict[str, Any]:
    described = {"class": config.get("_class_name"), "config": dict(config)}
    try:
        described["unused_keys"] = list(unused_keys(config))
    except InputError as error:
        described["problem"] = str(error)
    return described


def _bundle(path: Path, *, verify: bool) -> dict[str, Any]:
    bundle = Bundle.open(path, verify=verify)
    manifest = bundle.manifest
    height, width = (n * manifest.vae_factor for n in manifest.sample_size)
    return {
        "kind": "bundle",
        "family": manifest.family,
        "source": manifest.source,
        "dtype": manifest.dtype,
        "size": f"{width}x{height}",
        "latent_channels": manifest.latent_channels,
        "vae_factor": manifest.vae_factor,
        "vae_scaling": manifest.vae_scaling,
        "prediction_type": manifest.prediction_type,
        "goldens": manifest.has_goldens,
        "storage": dict(manifest.storage),
        "inferred": list(manifest.inferred),
        "scheduler": _scheduler(bundle.scheduler_config()),
        "components": {
            name: {
                "tensors": len(TensorFile(bundle.weights(name))),
                "inputs": {s.name: str(s) for s in record.inputs},
                "outputs": {s.name: str(s) for s in record.outputs},
                "fingerprint": record.fingerprint,
                "islands": len(manifest.islands.get(name, ())),
            }
            for name, record in manifest.components.items()
        },
        "bytes": sum(f.size for f in manifest.files.values()),
        "verified": "every file's hash" if verify else "sizes, and hashes of small files",
        "versions": dict(manifest.versions or {}),
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    checkpoint = Checkpoint.open(path)
    components: dict[str, Any] = {}
    for folder in ("text_encoder", "text_encoder_2", "unet", "vae"):
        if folder == "text_encoder_2" and folder not in checkpoint.index:
            continue
        tensors = checkpoint.tensors(folder)
        config = checkpoint.config(folder)
        if not len(tensors):
            raise CheckpointError(path / folder, "holds no tensors")
        entries = [tensors.entry(name) for name in tensors]
        components[folder] = {
            "class": config.get("_class_name") or (config.get("architectures") or ["?"])[0],
            "tensors": len(tensors),
            "parameters": sum(e.nbytes // e.dtype.itemsize for e in entries),
            "dtypes": sorted({e.dtype.name for e in entries}),
            "renamed": tensors.renamed,
        }
    return {
        "kind": "checkpoint",
        "class": checkpoint.index.get("_class_name"),
        "scheduler": _scheduler(checkpoint.config("scheduler")),
        "components": components,
    }


def print_description(description: dict[str, Any]) -> None:
    """As aligned lines, nested objects indented."""
    print_table(("", ""), _lines(description, ""))


def _lines(value: dict[str, Any], indent: str) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for name, inner in value.items():
        if isinstance(inner, dict):
            lines.append((f"{indent}{name}", ""))
            lines += _lines(inner, f"{indent}  ")  # pyright: ignore[reportUnknownArgumentType]
        elif isinstance(inner, list):
            lines.append((f"{indent}{name}", ", ".join(str(i) for i in inner) or "-"))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        else:
            lines.append((f"{indent}{name}", str(inner)))
    return lines
