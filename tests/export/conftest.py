"""Exports that do not trace, checkpoints to change, and the libraries' models."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import safetensors.torch
import torch
from tests.export.pytorch import FILES, graph_of, models, stored

from latentrt.export import trace
from latentrt.weights.component_specs import ComponentSpec
from latentrt.weights.source import Config

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def reference(checkpoint: Callable[[str], Path]) -> Callable[[str], dict[str, Any]]:
    """The libraries' models by configuration, loaded once."""
    loaded: dict[str, dict[str, Any]] = {}

    def get(configuration: str) -> dict[str, Any]:
        if configuration not in loaded:
            loaded[configuration] = models(checkpoint(configuration))
        return loaded[configuration]

    return get


@pytest.fixture
def traced(bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Tracing gives the graphs of a configuration that were traced once: "heads", or as told."""

    def use(configuration: str) -> None:
        folder = bundle(configuration)

        def load(component: ComponentSpec, config: Config, dtype: str) -> ir.Model:
            del config, dtype
            return ir.from_proto(graph_of(folder, component.name))

        monkeypatch.setattr(trace, "trace", load)

    use("heads")
    return use


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing fails the test: what is wrong is to be found before it, which takes minutes."""

    def refuse(*_: object) -> None:
        pytest.fail("began to trace")

    monkeypatch.setattr(trace, "trace", refuse)


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint of one's own, to change."""
    return Path(shutil.copytree(checkpoint("heads"), tmp_path / "it"))


@pytest.fixture
def folder_xl(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """One of SDXL."""
    return Path(shutil.copytree(checkpoint("xl"), tmp_path / "it"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder in which nothing but the bundle should be."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def change_tensors(folder: Path, component: str, change: Callable[[Tensors], object]) -> None:
    """Rewrite a component's tensors by the safetensors library."""
    path = folder / component / FILES[component]
    tensors = stored(folder, component)
    change(tensors)
    safetensors.torch.save_file(tensors, path)


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite a JSON file."""
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def manifest_of(bundle: Path) -> dict[str, Any]:
    """A bundle's manifest as it lies there."""
    return json.loads((bundle / "manifest.json").read_text())
