"""The work of `latentrt inspect`: describe a bundle or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import CheckpointError, InputError
from latentrt.bundle.manifest import FILE_NAME
from latentrt.cli.table import print_table
from latentrt.runtime.schedules import adopt_config, unused_keys
from latentrt.weights.checkpoint import Checkpoint, class_of, listed_class


def describe(path: Path, *, verify: bool, variant: str | None = None) -> dict[str, Any]:
    """Describe the bundle or checkpoint at `path`; raises `BundleError` or `CheckpointError`.

    `variant` names the weights files of a checkpoint to read. A checkpoint that cannot be exported
    has a `problem`.
    """
    if (path / FILE_NAME).is_file():
        if variant is not None:
            raise InputError("variant", "none with a bundle", repr(variant))
        return _bundle(path, verify=verify)
    return _checkpoint(path, variant)


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
                "tensors": len(bundle.tensors(name)),
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


def _checkpoint(path: Path, variant: str | None) -> dict[str, Any]:
    checkpoint = Checkpoint.open(path, variant)
    described: dict[str, Any] = {
        "kind": "checkpoint",
        "class": checkpoint.index.get("_class_name"),
        "variants": list(checkpoint.variants()),
        "scheduler": _adopted(checkpoint),
        "components": {f: _component(checkpoint, f) for f in _folders(checkpoint)},
    }
    return {**described, **_exported(path, variant)}


def _folders(checkpoint: Checkpoint) -> list[str]:
    second = ["text_encoder_2"] if "text_encoder_2" in checkpoint.index else []
    return ["text_encoder", *second, "unet", "vae"]


def _component(checkpoint: Checkpoint, folder: str) -> dict[str, Any]:
    tensors = checkpoint.tensors(folder)
    if not len(tensors):
        raise CheckpointError(checkpoint.path / folder, "holds no tensors")
    files = checkpoint.files(folder)
    entries = [tensors.entry(name) for name in tensors]
    try:
        found, _ = class_of(checkpoint.index, checkpoint.config(folder), folder)
    except ValueError as error:
        raise CheckpointError(checkpoint.path / "model_index.json", str(error)) from error
    return {
        "class": found,
        "files": sorted({p.name for p in (files.chosen, *files.paths)}),
        "not read": list(files.others),
        "tensors": len(tensors),
        "parameters": sum(e.nbytes // e.dtype.itemsize for e in entries),
        "dtypes": sorted({e.dtype.name for e in entries}),
        "renamed": tensors.renamed,
    }


def _adopted(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config("scheduler")
    try:
        adopted = adopt_config(config, listed_class(checkpoint.index, "scheduler"))
    except ValueError as error:  # of an index that names no class of diffusers, too
        return {"class": config.get("_class_name"), "config": dict(config), "problem": str(error)}
    return _scheduler(adopted.config)


def _exported(path: Path, variant: str | None) -> dict[str, Any]:
    """The result of the checks that `export` makes."""
    from latentrt.export.libraries import quiet_libraries

    with quiet_libraries(), TemporaryDirectory(prefix="latentrt-") as scratch:
        try:
            from latentrt.export.check import check
        except ImportError as error:
            missing = f"{error.name} is missing: pip install 'latentrt[export]'"
            return {"exports": f"not checked against its architecture: {missing}"}
        try:
            checked = check(path, Path(scratch), variant)
        except CheckpointError as error:
            return {"exports": "no", "problem": str(error)}
    height, width = (n * checked.latent_space.factor for n in checked.sample_size)
    return {
        "exports": "yes",
        "family": checked.family.name,
        "size": f"{width}x{height}",
        "prediction_type": checked.prediction_type,
        "inferred": list(checked.notes),
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
            between = "\n" if name == "inferred" else ", "
            lines.append((f"{indent}{name}", between.join(str(i) for i in inner) or "-"))  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        else:
            lines.append((f"{indent}{name}", str(inner)))
    return lines
