"""An opened bundle: a folder whose files are the ones its manifest lists."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from latentrt.bundle.checks import as_path
from latentrt.bundle.errors import BundleError
from latentrt.bundle.files import open_file, read_object
from latentrt.bundle.manifest import GOLDEN, FileRecord, Manifest, read_manifest
from latentrt.bundle.stored_tensors import StoredTensors
from latentrt.bundle.tensors import TensorFile

SMALL: Final = 64 << 20
"""Files up to this many bytes are hashed at every opening, larger ones when asked."""


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A file that drew a picture, wherever it lies: its name and its SHA-256 in hexadecimal."""

    name: str
    sha256: str

    @staticmethod
    def of(path: Path) -> NamedFile:
        """Hash a file; bytes of its name that are no UTF-8 are replaced. Raises `OSError`."""
        return NamedFile(os.fsencode(path.name).decode("utf-8", "replace"), file_sha256(path))


@dataclass(frozen=True, slots=True)
class Bundle:
    """A folder and its manifest; made by `Bundle.open`.

    `elsewhere` has the files that lie outside the folder, by the paths that the manifest lists.
    `vae` is the file that its VAE is of, None for the checkpoint's own.
    """

    path: Path
    manifest: Manifest
    elsewhere: Mapping[str, Path] = field(default_factory=dict[str, Path])
    vae: NamedFile | None = None

    @staticmethod
    def open(path: Path | str, *, verify: bool = False) -> Bundle:
        """Open a bundle, checking the size of every file and the hash of every small one.

        Its files may be links to anywhere, as in the cache of a model hub. With `verify`, the hash
        of every file is checked. Raises `BundleError` naming the file that is missing, changed or
        unreadable, and `InputError` if `path` is not a path.
        """
        folder = as_path("bundle", path)
        manifest = read_manifest(folder)
        bundle = Bundle(folder.resolve(), manifest)
        for name, record in manifest.files.items():
            bundle._check(name, record, hashed=verify or record.size <= SMALL)
        for component in manifest.components.values():
            for name in component.files:
                if name not in manifest.files:
                    raise BundleError(folder, f"uses {name}, which its manifest does not list")
        return bundle

    def _check(self, name: str, record: FileRecord, *, hashed: bool) -> None:
        path = self.path / name
        try:
            resolved = path.resolve(strict=True)
            size = resolved.stat().st_size
        except (FileNotFoundError, NotADirectoryError) as error:
            raise BundleError(path, "is listed in the manifest but missing") from error
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, up to 3.12
            problem = getattr(error, "strerror", None) or "its links lead in a circle"
            raise BundleError(path, f"is listed in the manifest but missing: {problem}") from error
        if not resolved.is_file():
            raise BundleError(path, "is not a file")
        if size != record.size:
            raise BundleError(path, f"has {size} bytes, the manifest says {record.size}")
        try:
            changed = hashed and file_sha256(path) != record.sha256
        except OSError as error:
            raise BundleError(path, f"cannot be read: {error.strerror or error}") from error
        if changed:
            raise BundleError(path, "has changed since export: its SHA-256 differs")

    def file(self, name: str) -> Path:
        """Where a file lies that the manifest lists."""
        return self.elsewhere.get(name) or self.path / name

    def graph(self, component: str) -> Path:
        """The ONNX file of a component."""
        return self.file(self.manifest.components[component].graph)

    def graph_fp32(self, component: str) -> Path | None:
        """Its graph in fp32 over the same 16-bit weights; None where the bundle has none."""
        name = float32_graph(self.manifest.components[component].graph)
        return self.file(name) if name in self.manifest.files else None

    def weights(self, component: str) -> Path:
        """The safetensors file that a component's graph reads."""
        return self.path / self.manifest.components[component].weights

    def other_weights(self, component: str) -> dict[str, Path]:
        """Further files that its graph reads, by the paths that the graph names."""
        return {name: self.file(name) for name in self.manifest.components[component].others}

    def tensors(self, component: str) -> StoredTensors:
        """A component's tensors under canonical names; raises `WeightsError`, `BundleError`."""
        record = self.manifest.components[component]
        if record.table is not None:
            return StoredTensors.read(self.file(record.table), self.file)
        return StoredTensors.of(record.weights, TensorFile(self.path / record.weights))

    def golden(self) -> TensorFile:
        """The reference tensors; raises `BundleError` if exported with `--no-golden`."""
        if not self.manifest.has_goldens:
            raise BundleError(self.path, "has no goldens: it was exported with --no-golden")
        return TensorFile(self.path / GOLDEN)

    def listed(self, name: str) -> Path:
        """A file of the bundle by its relative path; raises `BundleError` if it is not listed."""
        if name not in self.manifest.files:
            raise BundleError(self.path, f"has no {name}")
        return self.path / name

    def object(self, name: str) -> dict[str, Any]:
        """The JSON object of a listed file; raises `BundleError` naming the file."""
        return read_object(self.listed(name))

    def scheduler_config(self) -> Mapping[str, Any]:
        """`scheduler_config.json` as the checkpoint had it; raises `BundleError`."""
        return self.object("scheduler/scheduler_config.json")


def file_sha256(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file in hexadecimal; `advance` is called with each number of bytes read."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while block := file.read(1 << 22):
            digest.update(block)
            if advance is not None:
                advance(len(block))
    return digest.hexdigest()


def float32_graph(name: str) -> str:
    """The name of the fp32 graph that is written beside a 16-bit one."""
    return str(PurePosixPath(name).with_suffix(".fp32.onnx"))


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Size and hash of every file below a folder, by relative path with forward slashes."""
    return {
        path.relative_to(folder).as_posix(): FileRecord(os.path.getsize(path), file_sha256(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
