"""Trace the graphs that ship with latentrt, and measure how far each is from PyTorch.

    python export/scripts/make_graphs.py                        every architecture
    python export/scripts/make_graphs.py --out DIR FOLDER...    those of diffusers folders

A graph that was made by the same code and libraries is left as it is. So the command goes on where
it was stopped.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib.metadata
import inspect
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from latentrt.bundle import spec as specs
from latentrt.bundle.golden import Difference
from latentrt.bundle.tensors import Layout, TensorFile, write_tensors
from latentrt.engines import libraries
from latentrt.export import (
    casts,
    control_modules,
    float32,
    islands,
    modules,
    retype,
    trace,
    tracing,
)
from latentrt.export.libraries import quiet_libraries
from latentrt.export.reference import loaded
from latentrt.export.synthetic import SyntheticTensors
from latentrt.export.traced_modules import TRACED
from latentrt.graphs.archive import pack
from latentrt.graphs.attach import attach
from latentrt.graphs.store import INDEX, SHIPPED, GraphSet
from latentrt.weights import component_specs as components
from latentrt.weights import control_specs
from latentrt.weights.architectures import ARCHITECTURES
from latentrt.weights.checkpoint import Checkpoint
from latentrt.weights.component_specs import ComponentSpec, component_specs
from latentrt.weights.configs import graph_fingerprint, with_defaults
from latentrt.weights.control_architectures import CONTROLNETS, controlnet_of
from latentrt.weights.source import Config

ROOT: Final = Path(__file__).resolve().parents[2]
SHAPES: Final = ROOT / "models" / "shapes"
LIBRARIES: Final = ("torch", "diffusers", "transformers", "onnx", "onnx-ir", "onnxscript")
SIZES: Final = {
    "batch": 2,
    "height": 8,
    "width": 8,
    "sequence": 77,
    "image_height": 64,
    "image_width": 64,
}
"""Sizes at which the error is measured."""
SEED: Final = 0
FARTHEST: Final = 1e-4
"""The largest relative error against PyTorch: 1e-6 to 1e-5 come of sums in another order."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """A component to trace."""

    name: str
    spec: ComponentSpec
    config: Config

    @property
    def component(self) -> str:
        """The component's name in the index: both text encoders have graphs of one kind."""
        return "text_encoder" if self.spec.folder.startswith("text_encoder") else self.spec.name

    @property
    def fingerprint(self) -> str:
        """By which the graphs are found."""
        return graph_fingerprint(self.spec.folder, self.config)


def main() -> None:
    parser = argparse.ArgumentParser(description="Trace the graphs that ship with latentrt.")
    parser.add_argument("folders", nargs="*", type=Path, help="diffusers folders")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    chosen = parser.parse_args()
    out: Path = chosen.out
    out.mkdir(parents=True, exist_ok=True)
    wanted = list(architectures(chosen.folders or [SHAPES], known=not chosen.folders))
    made = {e["file"]: e for e in read_index(out) if e["made_with"] == made_with(e["component"])}
    with quiet_libraries():
        for number, each in enumerate(wanted, start=1):
            file = f"{each.component}-{each.fingerprint[:12]}.xz"
            begun = time.perf_counter()
            if file not in made or not (out / file).exists():
                made[file] = make(each, out / file)
                write_index(out, made)
            errors = " ".join(f"{dtype} {e:.1e}" for dtype, e in made[file]["errors"].items())
            took = time.perf_counter() - begun
            print(f"{number}/{len(wanted)} {each.name} {each.component}: {errors}, {took:.0f} s")
            sys.stdout.flush()
    names = {f"{each.component}-{each.fingerprint[:12]}.xz" for each in wanted}
    write_index(out, {file: entry for file, entry in made.items() if file in names})
    for path in out.glob("*.xz"):
        if path.name not in names:
            path.unlink()


def architectures(folders: list[Path], *, known: bool) -> Iterator[Architecture]:
    """Each architecture once, by what decides its graphs."""
    sources: list[tuple[str, Mapping[str, Config]]] = []
    for folder in folders:
        source = Checkpoint.open(folder)
        names = [n for n in components.CLASSES if source.index.get(n, [None])[0] is not None]
        sources.append((folder.name, {name: source.config(name) for name in names}))
    if known:
        sources += [
            (n, {f: c for f, c in configs.items() if f in components.CLASSES})
            for n, configs in ARCHITECTURES.items()
        ]
    found: set[tuple[str, str]] = set()
    for name, configs in sources:
        for spec in component_specs(configs):
            each = Architecture(name, spec, with_defaults(spec.folder, configs[spec.folder]))
            key = (each.component, each.fingerprint)
            if key not in found:
                found.add(key)
                yield each
    controlnets = [
        (name, config)
        for folder, (name, configs) in zip(folders, sources, strict=False)
        for config in controlnets_beside(folder) or [controlnet_of(configs["unet"])]
    ]
    if known:
        controlnets += CONTROLNETS.items()
    for name, config in controlnets:
        for spec in control_specs.control_specs():
            each = Architecture(name, spec, with_defaults(spec.folder, config))
            key = (each.component, each.fingerprint)
            if key not in found:
                found.add(key)
                yield each


def controlnets_beside(folder: Path) -> list[Config]:
    """The configs of the ControlNets that come with a checkpoint."""
    return [json.loads(path.read_text("utf-8")) for path in folder.glob("extras/*/config.json")]


def make(each: Architecture, path: Path) -> dict[str, Any]:
    """Trace and measure one architecture, write its archive; returns its entry of the index."""
    packed: dict[str, bytes] = {}
    errors: dict[str, float] = {}
    for dtype, graphs in tracing.traced_at_all(each.spec, each.config):
        packed[dtype] = graphs.own
        if graphs.in_float32 is not None:
            packed[f"{dtype}.float32"] = graphs.in_float32
        if graphs.upcast is not None:
            packed[f"{dtype}.upcast"] = graphs.upcast
            packed[f"{dtype}.upcast.nodes"] = json.dumps(graphs.upcast_nodes).encode()
        errors[dtype] = float(f"{measured(each, dtype, graphs):.2g}")
        if not errors[dtype] <= FARTHEST:
            sys.exit(f"{each.name} {each.component} {dtype} is {errors[dtype]} from PyTorch")
    path.write_bytes(pack(packed))
    return {
        "component": each.component,
        "architecture": each.name,
        "fingerprint": each.fingerprint,
        "file": path.name,
        "errors": errors,
        "made_with": made_with(each.component),
    }


def measured(each: Architecture, dtype: str, graphs: GraphSet) -> float:
    """The relative error of ONNX Runtime in fp32 against PyTorch, on seeded weights of a dtype."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = seeded_weights(each, dtype, folder / "weights.safetensors")
        inputs = seeded_inputs(each)
        with loaded(TRACED[each.spec.name], each.config, weights) as module:
            with torch.inference_mode():
                outputs: Any = module(**{n: torch.from_numpy(a) for n, a in inputs.items()})
            several = outputs if isinstance(outputs, tuple) else (outputs,)
            expected = [output.numpy().copy() for output in several]
            del module, outputs, several
        gc.collect()
        graph = graphs.own if graphs.in_float32 is None else graphs.in_float32
        locations = {e.name: (weights.path.name, e) for e in weights.entries.values()}
        content = attach(graph, locations, each.spec.inputs(each.config, "float32"))
        found = evaluated(content, folder, inputs)
    return max(Difference.between(b, a).relative for a, b in zip(found, expected, strict=True))


def seeded_weights(each: Architecture, dtype: str, path: Path) -> TensorFile:
    with torch.device("meta"):
        state = TRACED[each.spec.name](each.config).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    tensors = SyntheticTensors(shapes, f"{SEED}/{each.spec.folder}")
    stored = np.dtype(dtype)
    layout = Layout.of({name: (stored, tensors.entry(name).shape) for name in tensors})
    write_tensors(path, layout, lambda name: tensors[name].astype(stored))
    return TensorFile(path)


def seeded_inputs(each: Architecture) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(SEED)
    inputs: dict[str, NDArray[np.float32]] = {}
    for spec in each.spec.inputs(each.config, "float32"):
        shape = spec.shape(SIZES)
        times = spec.name == "timestep"
        array = rng.uniform(1, 999, shape) if times else rng.standard_normal(shape)
        inputs[spec.name] = array.astype(np.float32)
    return inputs


def evaluated(graph: bytes, folder: Path, inputs: Mapping[str, Any]) -> list[NDArray[Any]]:
    """The graph as it is: without folding, no second copy of the weights is made."""
    package = libraries.onnxruntime()
    settings = package.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = package.GraphOptimizationLevel.ORT_DISABLE_ALL
    key = "session.model_external_initializers_file_folder_path"
    settings.add_session_config_entry(key, str(folder))
    session = package.InferenceSession(graph, settings, ["CPUExecutionProvider"])
    return session.run(None, dict(inputs))


def made_with(component: str) -> str:
    """Changes with whatever decides the graph of a component beside its config."""
    # Without what tells one build of a version from another, such as "+cpu".
    versions = [f"{n} {importlib.metadata.version(n).partition('+')[0]}" for n in LIBRARIES]
    code = [trace, retype, casts, islands, float32, tracing, modules, components, specs]
    if component in control_modules.CONTROL_TRACED:
        code += [control_modules, control_specs]
    texts = [*versions, *(inspect.getsource(module) for module in code)]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def read_index(folder: Path) -> list[dict[str, Any]]:
    path = folder / INDEX
    return json.loads(path.read_text("utf-8"))["graphs"] if path.is_file() else []


def write_index(folder: Path, entries: Mapping[str, dict[str, Any]]) -> None:
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    index = {"graphs": [entries[f] for f in sorted(entries)], "versions": versions}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
