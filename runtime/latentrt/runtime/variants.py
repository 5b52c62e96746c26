"""A bundle with changed weights: the base's files, and small ones with the changed tensors.

The base is never changed. A variant's graphs are the base's, whose changed parameters point at
another file. It lies in the user's cache folder, found by the base and by what changes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from latentrt.bundle.bundle import Bundle, NamedFile, file_sha256, float32_graph
from latentrt.bundle.cache_folder import cache_folder
from latentrt.bundle.component import ComponentRecord, FileRecord
from latentrt.bundle.errors import FileError
from latentrt.bundle.files import Field, read_object
from latentrt.bundle.manifest import GOLDEN, LatentRgb, read_latent_rgb
from latentrt.bundle.publish import publishing, write_file
from latentrt.bundle.stored_tensors import table_json
from latentrt.bundle.tensors import TensorFile
from latentrt.graphs.attach import attach, shapes
from latentrt.runtime.conversion.latent_rgb import latent_rgb
from latentrt.runtime.conversion.locks import locked
from latentrt.runtime.conversion.places import VARIANT_RECORD, VARIANTS
from latentrt.weights.component_specs import folder_of
from latentrt.weights.lora.changed import changed_tensors, write_changed
from latentrt.weights.lora.lora import Lora, weights_key
from latentrt.weights.source import TensorSource
from latentrt.weights.vae_tensors import VaeTensors

_SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Variant:
    """A bundle whose `components` have changed weights; `notes` say what the files left open."""

    bundle: Bundle
    components: frozenset[str]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Record:
    """What the cache has of a variant beside its files: `colours` are those of another VAE."""

    source: str
    notes: tuple[str, ...]
    colours: LatentRgb | None = None

    def to_json(self) -> bytes:
        value = {"schema": _SCHEMA, "source": self.source, "notes": self.notes}
        return json.dumps({**value, "latent_rgb": self.colours}).encode()


def variant_of(base: Bundle, loras: Sequence[Lora]) -> Variant:
    """A bundle with LoRAs added to its weights, computed if it is not in the cache.

    Raises what reading the files raises, `WeightsError` among them.
    """

    def changed() -> Mapping[str, TensorSource]:
        names = [name for name in base.manifest.components if not name.startswith("vae")]
        return changed_tensors({folder_of(name): base.tensors(name) for name in names}, loras)

    return _variant(base, weights_key(loras), changed)


def with_vae(base: Bundle, vae: Path | None, made_with: Path | None = None) -> Bundle:
    """A bundle with the VAE of a file in place of its own; with None it is the base.

    The file has the original layout or that of diffusers. `made_with` is the file that the base's
    own VAE was taken from, where it was. Raises `CheckpointError` for a file that is not such a
    VAE.
    """
    if vae is None:
        return base if made_with is None else replace(base, vae=NamedFile.of(made_with))
    tensors = VaeTensors(vae, _vae_of(base))
    named = NamedFile.of(vae)
    key = f"vae {named.sha256}"
    found = _variant(base, key, lambda: {"vae": tensors}, coloured=True).bundle
    return replace(found, vae=named)


def _vae_of(base: Bundle) -> TensorSource:
    name = next(name for name in base.manifest.components if name.startswith("vae"))
    return base.tensors(name)


def _variant(
    base: Bundle,
    key: str,
    changed: Callable[[], Mapping[str, TensorSource]],
    *,
    coloured: bool = False,
) -> Variant:
    """The variant of a key, made if it is not in the cache.

    `coloured`: its previews have colours of their own.
    """
    digest = hashlib.sha256(f"{base.manifest.model_hash} {key}".encode()).hexdigest()
    place = cache_folder() / VARIANTS / digest[:40]
    with locked(place):
        record = _record(place, base)
        if record is None:
            record = _write(place, base, changed())
        else:
            with contextlib.suppress(OSError):
                os.utime(place / VARIANT_RECORD)  # the time of its last use
        found = _opened(base, place, record.notes)
        if not coloured:
            return found
        if record.colours is None:
            record = replace(record, colours=latent_rgb(found.bundle))
            write_file(place / VARIANT_RECORD, record.to_json())
    manifest = replace(found.bundle.manifest, latent_rgb=record.colours)
    return replace(found, bundle=replace(found.bundle, manifest=manifest))


def _record(place: Path, base: Bundle) -> _Record | None:
    """What the cache has of a variant, None where there is none."""
    with contextlib.suppress(FileError, ValueError):
        root = Field("", read_object(place / VARIANT_RECORD))
        if root.at("schema").value == _SCHEMA:
            notes = tuple(item.text() for item in root.at("notes").items())
            colours = read_latent_rgb(root, base.manifest.latent_channels)
            return _Record(base.manifest.source, notes, colours)
    return None


def _write(place: Path, base: Bundle, changed: Mapping[str, TensorSource]) -> _Record:
    components = base.manifest.components
    notes = tuple(dict.fromkeys(note for each in changed.values() for note in each.notes))
    with publishing(place, force=True) as folder:
        for name in components:
            if folder_of(name) in changed:
                _write_component(folder, base, name, changed[folder_of(name)])
        record = _Record(base.manifest.source, notes)
        (folder / VARIANT_RECORD).write_bytes(record.to_json())
    return record


def _write_component(folder: Path, base: Bundle, component: str, changed: TensorSource) -> None:
    weights = folder / f"{component}.safetensors"
    if component.startswith("vae"):  # both halves are in one folder
        read = shapes(base.graph(component).read_bytes())
        write_changed(weights, [name for name in changed if name in read], changed)
    else:
        write_changed(weights, list(changed), changed)
    own = {e.name: (_inside(weights), e) for e in TensorFile(weights).entries.values()}
    locations = {**base.tensors(component).locations, **own}
    (folder / f"{component}.json").write_text(table_json(locations), "utf-8")
    graph = f"{component}.onnx"
    for name, path in (
        (graph, base.graph(component)),
        (float32_graph(graph), base.graph_fp32(component)),
    ):
        if path is not None:
            (folder / name).write_bytes(attach(path.read_bytes(), locations))


def _opened(base: Bundle, place: Path, notes: tuple[str, ...]) -> Variant:
    paths = [path for path in sorted(place.iterdir()) if path.name != VARIANT_RECORD]
    own = {_inside(path): path for path in paths}
    touched = frozenset(path.stem for path in paths if path.suffix == ".safetensors")
    records = {
        name: FileRecord(path.stat().st_size, file_sha256(path)) for name, path in own.items()
    }
    # PyTorch's outputs are those of the base's weights.
    files = {name: f for name, f in base.manifest.files.items() if name != GOLDEN}
    components: Mapping[str, ComponentRecord] = {
        name: _changed(name, record) if name in touched else record
        for name, record in base.manifest.components.items()
    }
    manifest = replace(base.manifest, components=components, files={**files, **records})
    bundle = replace(base, manifest=manifest, elsewhere={**base.elsewhere, **own})
    return Variant(bundle, touched, notes)


def _changed(name: str, record: ComponentRecord) -> ComponentRecord:
    return replace(
        record,
        graph=_inside(Path(f"{name}.onnx")),
        others=(*record.others, _inside(Path(f"{name}.safetensors"))),
        table=_inside(Path(f"{name}.json")),
    )


def _inside(path: Path) -> str:
    """A file's path in the variant's bundle."""
    return f"variant/{path.name}"
