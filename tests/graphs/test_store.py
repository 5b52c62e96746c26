"""The graphs that ship: what is there, how it is found, and that PyTorch gives the same."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from tests.conftest import ROOT, TRACED, read_json

from latentrt.bundle.errors import FileError
from latentrt.export import trace, tracing
from latentrt.graphs.archive import pack, unpack
from latentrt.graphs.store import SHIPPED, VARIABLE, find
from latentrt.weights.architectures import ARCHITECTURES
from latentrt.weights.canonical_names import canonical_names
from latentrt.weights.component_specs import CLASSES, component_specs
from latentrt.weights.configs import graph_fingerprint, with_defaults
from latentrt.weights.control_architectures import CONTROLNETS
from latentrt.weights.control_specs import control_specs
from latentrt.weights.ready_graphs import ready_graphs, ready_shapes

DTYPES = ("float32", "float16", "bfloat16")
TEXT = ROOT / "models" / "shapes" / "text_encoder"
MOST = 3_000_000
"""Bytes of the graphs in the wheel."""
FARTHEST = 2e-5
"""Float32 sums in another order than PyTorch's; a wrong node is off by hundredths."""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The program behind `make graphs`."""
    path = ROOT / "export" / "scripts" / "make_graphs.py"
    spec = importlib.util.spec_from_file_location("make_graphs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_graphs"] = module
    spec.loader.exec_module(module)
    return module


def index(folder: Path) -> list[dict[str, Any]]:
    return read_json(folder / "index.json")["graphs"]


@pytest.mark.parametrize("folder", [SHIPPED, TRACED], ids=["shipped", "tiny"])
def test_graphs_were_made_by_this_code_and_these_libraries(
    folder: Path, script: ModuleType
) -> None:
    # If this fails, run `make graphs`.
    for entry in index(folder):
        assert entry["made_with"] == script.made_with(entry["component"])


def test_graphs_take_at_most_three_megabytes() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= MOST


@pytest.mark.parametrize("name", sorted(CONTROLNETS))
def test_every_known_controlnet_has_graphs_of_every_dtype(name: str) -> None:
    config = with_defaults("controlnet", CONTROLNETS[name])
    for spec in control_specs():
        found = ready_graphs(spec, config)
        assert found is not None, spec.name
        for dtype in DTYPES:
            assert (found.at(dtype).in_float32 is None) == (dtype == "float32")
        assert max(found.errors.values()) <= FARTHEST


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_known_architecture_has_graphs_of_every_component_and_dtype(
    architecture: str,
) -> None:
    configs = ARCHITECTURES[architecture]
    for spec in component_specs([folder for folder in CLASSES if folder in configs]):
        found = ready_graphs(spec, with_defaults(spec.folder, configs[spec.folder]))
        assert found is not None, spec.name
        for dtype in DTYPES:
            graphs = found.at(dtype)
            assert (graphs.in_float32 is None) == (dtype == "float32")
            assert (graphs.upcast is None) == (dtype != "float16" or spec.folder != "vae")
        assert set(found.errors) == set(DTYPES)
        assert max(found.errors.values()) <= FARTHEST


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_the_shapes_of_a_shipped_architecture_are_those_of_its_pytorch_modules(
    architecture: str,
) -> None:
    from latentrt.export.modules import described

    configs = ARCHITECTURES[architecture]
    for folder in (name for name in CLASSES if name in configs):
        expected = described(folder, configs[folder])
        assert ready_shapes(folder, configs[folder]) == expected
        assert set(canonical_names(folder, configs[folder])) == set(expected)


def canonical(model: Any) -> tuple[list[Any], list[Any]]:
    """A graph whose values have numbers in place of names, and constants their content."""
    numbers: dict[str, int] = {}
    parameters = {i.name for i in model.graph.initializer if i.external_data}
    constants = {
        i.name: (list(i.dims), i.data_type, i.raw_data)
        for i in model.graph.initializer
        if not i.external_data
    }

    def named(value: str) -> object:
        if value in parameters or not value:
            return value
        return constants.get(value) or numbers.setdefault(value, len(numbers))

    initialisers = sorted(
        (i.name, tuple(i.dims), i.data_type)
        for i in model.graph.initializer
        if i.name in parameters
    )
    nodes = [
        (
            node.op_type,
            [named(v) for v in node.input],
            [named(v) for v in node.output],
            sorted((a.name, str(onnx.helper.get_attribute_value(a))) for a in node.attribute),
        )
        for node in model.graph.node
    ]
    return initialisers, nodes


AGAIN = [("text_encoder", "float16"), ("vae_encoder", "bfloat16"), ("vae_decoder", "float32")]
"""PyTorch traces these at the dtype itself; other dtypes are made of a float16 trace."""


@pytest.mark.parametrize(("component", "dtype"), AGAIN)
def test_pytorch_traces_the_graphs_that_ship_again(component: str, dtype: str) -> None:
    configs = {
        f: read_json(ROOT / "models" / "shapes" / f / "config.json")
        for f in ("text_encoder", "vae")
    }
    (spec,) = (s for s in component_specs(configs) if s.name == component)
    config = with_defaults(spec.folder, configs[spec.folder])
    shipped = ready_graphs(spec, config)
    assert shipped is not None
    found = trace.traced_at(spec, config, dtype)
    if dtype == "bfloat16":
        from latentrt.export.casts import border_in_float32

        border_in_float32(found, ir.DataType.BFLOAT16)
    trace._externalise(found)
    expected = canonical(onnx.load_model_from_string(shipped.at(dtype).own))
    assert canonical(ir.to_proto(found)) == expected


def test_one_trace_gives_the_graphs_of_every_dtype() -> None:
    config = with_defaults("text_encoder", read_json(TEXT / "config.json"))
    (spec,) = component_specs(["text_encoder"])
    shipped = ready_graphs(spec, config)
    assert shipped is not None
    found = dict(tracing.traced_at_all(spec, config))
    assert set(found) == set(DTYPES)
    for dtype, graphs in found.items():
        expected = shipped.at(dtype)
        for mine, theirs in ((graphs.own, expected.own), (graphs.in_float32, expected.in_float32)):
            assert (mine is None) == (theirs is None)
            if mine is not None and theirs is not None:
                pair = [canonical(onnx.load_model_from_string(g)) for g in (mine, theirs)]
                assert pair[0] == pair[1], dtype


def test_a_field_that_decides_a_graph_has_no_graph_that_ships() -> None:
    config = with_defaults("unet", ARCHITECTURES["sd15"]["unet"])
    same = graph_fingerprint("unet", config)
    assert find("unet", same) is not None
    for key, value in {"attention_head_dim": 4, "norm_eps": 1e-6, "act_fn": "gelu"}.items():
        assert find("unet", graph_fingerprint("unet", {**config, key: value})) is None


def test_channels_and_attention_in_float32_leave_the_graph() -> None:
    config = with_defaults("unet", ARCHITECTURES["sd15"]["unet"])
    for key, value in {"in_channels": 9, "upcast_attention": True, "dropout": 0.1}.items():
        changed = {**config, key: value}
        assert graph_fingerprint("unet", changed) == graph_fingerprint("unet", config)


def test_an_archive_gives_back_what_was_packed() -> None:
    graphs = {"float32": b"one\nline", "float16": b"", "b": bytes(1000)}
    assert unpack(pack(graphs)) == graphs


@pytest.mark.parametrize("damage", ["cut", "text", "longer"])
def test_a_damaged_archive_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    folder = Path(shutil.copytree(TRACED, tmp_path / "graphs"))
    monkeypatch.setenv(VARIABLE, str(folder))
    entry = index(folder)[0]
    path = folder / entry["file"]
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-100], "text": b"text", "longer": content[:50]}[damage])
    found = find(entry["component"], entry["fingerprint"])
    assert found is not None
    with pytest.raises(FileError, match="is not a file of graphs"):
        found.at("float32")


def test_a_folder_without_an_index_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    with pytest.raises(FileError, match="is not an index of graphs"):
        find("unet", "0")
