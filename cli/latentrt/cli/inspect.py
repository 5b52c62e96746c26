"""The work of `latentrt inspect`: describe a bundle or a checkpoint."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import CheckpointError, InputError
from latentrt.bundle.manifest import CLIP, CONTROLNET, FILE_NAME
from latentrt.cli.table import print_table
from latentrt.runtime.conversion.make import check as check_without_pytorch
from latentrt.runtime.schedules import adopt_config, unused_keys
from latentrt.weights.checked import Checked
from latentrt.weights.checkpoint import Checkpoint, class_of, listed_class
from latentrt.weights.component_specs import ComponentSpec, component_specs
from latentrt.weights.configs import with_defaults
from latentrt.weights.control_specs import control_specs
from latentrt.weights.controlnet import ControlNetCheckpoint, is_controlnet
from latentrt.weights.opening import open_source
from latentrt.weights.ready_graphs import ready_graphs
from latentrt.weights.source import Config, Source

_NONE: Final = "none ship: PyTorch traces them"


def describe(path: Path, *, verify: bool, variant: str | None = None) -> dict[str, Any]:
    """Describe the bundle or checkpoint at `path`; raises `BundleError` or `CheckpointError`.

    `variant` names the weights files of a checkpoint to read. A checkpoint that cannot be exported
    has a `problem`.
    """
    if (path / FILE_NAME).is_file():
        if variant is not None:
            raise InputError("variant", "none with a bundle", repr(variant))
        return _bundle(path, verify=verify)
    return _controlnet(path, variant) if is_controlnet(path) else _checkpoint(path, variant)


def _controlnet(path: Path, variant: str | None) -> dict[str, Any]:
    checkpoint = ControlNetCheckpoint.open(path, variant)
    config = with_defaults(CONTROLNET, checkpoint.config)
    tensors = checkpoint.tensors
    entries = [tensors.entry(name) for name in tensors]
    return {
        "kind": "ControlNet",
        "for": checkpoint.generation,
        "tensors": len(entries),
        "parameters": sum(e.nbytes // e.dtype.itemsize for e in entries),
        "dtypes": sorted({e.dtype.name for e in entries}),
        "graphs": _shipped(control_specs(), config),
        "inferred": list(checkpoint.notes),
    }


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
    draws = manifest.family not in (CONTROLNET, CLIP)
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
        **({"scheduler": _scheduler(bundle.scheduler_config())} if draws else {}),
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
    source = open_source(path, variant)
    described: dict[str, Any] = {
        "kind": "checkpoint" if isinstance(source, Checkpoint) else "single file",
        "class": source.index.get("_class_name"),
        "variants": list(source.variants()) if isinstance(source, Checkpoint) else [],
        "scheduler": _adopted(source),
        "components": {f: _component(source, f) for f in _folders(source)},
    }
    return {**described, **_exported(path, source, variant)}


def _folders(source: Source) -> list[str]:
    second = ["text_encoder_2"] if "text_encoder_2" in source.index else []
    return ["text_encoder", *second, "unet", "vae"]


def _component(source: Source, folder: str) -> dict[str, Any]:
    tensors = source.tensors(folder)
    if not len(tensors):
        raise CheckpointError(f"{source.name}/{folder}", "holds no tensors")
    entries = [tensors.entry(name) for name in tensors]
    try:
        found, _ = class_of(source.index, source.config(folder), folder)
    except ValueError as error:
        raise CheckpointError(f"{source.name}/model_index.json", str(error)) from error
    return {
        "class": found,
        **_files(source, folder),
        "tensors": len(tensors),
        "parameters": sum(e.nbytes // e.dtype.itemsize for e in entries),
        "dtypes": sorted({e.dtype.name for e in entries}),
        "renamed": tensors.renamed,
        "graphs": _graphs(source, folder),
    }


def _files(source: Source, folder: str) -> dict[str, Any]:
    """The files that hold a part's tensors, and those beside them that are not read."""
    if not isinstance(source, Checkpoint):
        return {"files": [source.name], "not read": []}
    files = source.files(folder)
    names = sorted({p.name for p in (files.chosen, *files.paths)})
    return {"files": names, "not read": list(files.others)}


def _graphs(source: Source, folder: str) -> str | dict[str, str]:
    """The graphs that ship for a part, with their relative errors against PyTorch."""
    try:
        return _shipped(component_specs((folder,)), with_defaults(folder, source.config(folder)))
    except (AttributeError, KeyError, TypeError, ValueError):  # a config of another kind
        return _NONE


def _shipped(specs: Sequence[ComponentSpec], config: Config) -> str | dict[str, str]:
    found: dict[str, str] = {}
    for spec in specs:
        ready = ready_graphs(spec, config)
        if ready is None:
            return _NONE
        errors = ", ".join(f"{dtype} {error:.1e}" for dtype, error in ready.errors.items())
        found[spec.name] = f"{ready.architecture}; error against PyTorch: {errors}"
    return found


def _adopted(source: Source) -> dict[str, Any]:
    config = source.config("scheduler")
    try:
        adopted = adopt_config(config, listed_class(source.index, "scheduler"))
    except ValueError as error:  # of an index that names no class of diffusers, too
        return {"class": config.get("_class_name"), "config": dict(config), "problem": str(error)}
    return _scheduler(adopted.config)


def _exported(path: Path, source: Source, variant: str | None) -> dict[str, Any]:
    """The result of the checks that `export` makes, with PyTorch only where it is needed."""
    try:
        return _described(check_without_pytorch(source))
    except CheckpointError as error:
        if importlib.util.find_spec("torch") is None:
            return {"exports": "no", "problem": str(error)}
    from latentrt.export.libraries import quiet_libraries

    with quiet_libraries(), TemporaryDirectory(prefix="latentrt-") as scratch:
        try:
            from latentrt.export.check import check
        except ImportError as error:
            missing = f"{error.name} is missing: pip install 'latentrt[export]'"
            return {"exports": f"not checked against its architecture: {missing}"}
        try:
            return _described(check(path, Path(scratch), variant))
        except CheckpointError as error:
            return {"exports": "no", "problem": str(error)}


def _described(checked: Checked) -> dict[str, Any]:
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
