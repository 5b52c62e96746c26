"""A bundle whose one component is its base's U-Net with a ControlNet's residuals as inputs.

Its graph is made of the base's own and lies in the user's cache folder. It reads the base's
weights. So it is there for every bundle, with LoRAs as well.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from latentrt.bundle.bundle import Bundle, file_sha256, float32_graph
from latentrt.bundle.cache_folder import cache_folder
from latentrt.bundle.component import FileRecord
from latentrt.bundle.errors import BundleError
from latentrt.bundle.manifest import GOLDEN
from latentrt.bundle.publish import publishing
from latentrt.graphs.residuals import with_residuals
from latentrt.runtime.bundle_engines import CONTROLLED, BundleEngines
from latentrt.runtime.conversion.locks import locked
from latentrt.runtime.conversion.places import VARIANT_RECORD, VARIANTS
from latentrt.runtime.rows import Model
from latentrt.weights.control_specs import DOWN_ADDED, MID_ADDED, residual_specs


class ControlledUnet:
    """A bundle's U-Net that takes residuals, opened when it is first asked for. Thread-safe.

    `engines` gives the engines of a bundle.
    """

    def __init__(self, base: Bundle, engines: Callable[[Bundle], BundleEngines]) -> None:
        self._base = base
        self._made = engines
        self._opened: tuple[Model, BundleEngines] | None = None
        self._lock = threading.Lock()

    def model(self) -> Model:
        """The U-Net; raises what `controlled_bundle` raises."""
        with self._lock:
            if self._opened is None:
                bundle = controlled_bundle(self._base)
                engines = self._made(bundle)
                inputs = bundle.manifest.components[CONTROLLED].inputs
                model = Model(CONTROLLED, inputs, partial(engines.get, CONTROLLED))
                self._opened = (model, engines)
            return self._opened[0]

    def close(self) -> None:
        """Free its engines."""
        with self._lock:
            if self._opened is not None:
                self._opened[1].close()


_VERSION: Final = 1
"""Of how the graph is made; those of another version are made again."""


def controlled_bundle(base: Bundle) -> Bundle:
    """The bundle of a U-Net that takes residuals, in memory; its graph is made once.

    Raises `BundleError` for a U-Net that no ControlNet fits, and `Unwritable`.
    """
    record, files = base.manifest.components["unet"], base.manifest.files
    graphs = {f"{CONTROLLED}.onnx": record.graph}
    if base.graph_fp32("unet") is not None:
        graphs[float32_graph(f"{CONTROLLED}.onnx")] = float32_graph(record.graph)
    key = [str(_VERSION), *(files[name].sha256 for name in graphs.values())]
    digest = hashlib.sha256("\n".join(key).encode()).hexdigest()
    place = cache_folder() / VARIANTS / digest[:40]
    with locked(place):
        if not (place / VARIANT_RECORD).is_file():
            _write(place, base, graphs)
    own = {f"controlled/{name}": place / name for name in graphs}
    records = {
        name: FileRecord(path.stat().st_size, file_sha256(path)) for name, path in own.items()
    }
    kept = {name: file for name, file in files.items() if name != GOLDEN}
    dtype = next(spec.dtype for spec in record.inputs if spec.name == "sample")
    residuals = residual_specs(record.config, dtype, DOWN_ADDED, MID_ADDED)
    component = replace(
        record, graph=f"controlled/{CONTROLLED}.onnx", inputs=(*record.inputs, *residuals)
    )
    manifest = replace(base.manifest, components={CONTROLLED: component}, files={**kept, **records})
    return Bundle(base.path, manifest, {**base.elsewhere, **own})


def _write(place: Path, base: Bundle, graphs: dict[str, str]) -> None:
    record, manifest = base.manifest.components["unet"], base.manifest
    border = next(spec.dtype for spec in record.inputs if spec.name == "sample")
    with publishing(place, force=True) as folder:
        for name, graph in graphs.items():
            wide = graph != record.graph
            outer, inner = ("float32", "float32") if wide else (border, manifest.dtype)
            residuals = residual_specs(record.config, outer, DOWN_ADDED, MID_ADDED)
            islands = () if wide else manifest.islands.get("unet", ())
            try:
                content = base.file(graph).read_bytes()
                made = with_residuals(content, residuals, inner, islands)
            except ValueError as error:
                raise BundleError(base.file(graph), f"takes no ControlNet: {error}") from error
            (folder / name).write_bytes(made)
        text = json.dumps({"schema": 1, "source": f"{manifest.source}, controlled", "notes": []})
        (folder / VARIANT_RECORD).write_text(text, "utf-8")
