"""`verify="full"`: what engines are compared with, and that planted faults are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from tests.processor import PRECISIONS

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import VerificationFailed
from latentrt.bundle.manifest import GOLDEN
from latentrt.bundle.tensors import TensorFile
from latentrt.engines.cache.cache import Cache
from latentrt.engines.engine import Blueprint, Engine
from latentrt.engines.function import FunctionEngine
from latentrt.engines.onnxruntime import cpu as onnxruntime
from latentrt.engines.registry import Chosen, Compiler, Progress, Status, backend
from latentrt.engines.verification import verify
from latentrt.engines.verification.judging import golden_sizes
from latentrt.engines.verification.tolerances import TOLERANCES

open_verified = partial(verify.open_verified, verify="full")

UNET = {"batch": 2, "height": 16, "width": 16, "sequence": 77}
OTHER = {**UNET, "height": 8}


class Faulty:
    """A backend that compiles from other weights than the bundle's."""

    def __init__(self, name: str, weights: Path) -> None:
        self._real: Compiler = backend(name).compiler
        self._weights = weights

    def status(self) -> Status:
        return self._real.status()

    def identity(self, options: Any) -> dict[str, str]:
        return self._real.identity(options)

    def compile(self, blueprint: Blueprint, options: Any) -> Engine:
        return self._real.compile(self._spoiled(blueprint), options)

    def build(
        self,
        blueprint: Blueprint,
        options: Any,
        folder: Path,
        *,
        progress: Progress | None = None,
    ) -> None:
        self._real.build(self._spoiled(blueprint), options, folder)

    def load(self, blueprint: Blueprint, options: Any, folder: Path) -> Engine:
        return self._real.load(self._spoiled(blueprint), options, folder)

    def chosen(self, name: str, precision: str = "fp32") -> Chosen:
        """The backend of that name over it."""
        return Chosen(replace(backend(name), find=lambda: self), precision)

    def _spoiled(self, blueprint: Blueprint) -> Blueprint:
        return replace(blueprint, weights=self._weights)


def _zero(array: np.ndarray) -> None:
    array[:] = 0


def _swap(array: np.ndarray) -> None:
    array[[0, 1]] = array[[1, 0]]


_BLOCK = "mid_block.attentions.0.transformer_blocks.0"
# In the middle of the U-Net, where skip connections hide most: these move the output by
# 4e-5, 1e-5 and 8e-4 (relative). Of 30 faults of each kind, drawn at random, one is below fp32's
# tolerance: two rows of attn2.to_q here, 2e-6.
FAULTS: dict[str, tuple[str, Callable[[np.ndarray], None]]] = {
    "dropped bias": (f"{_BLOCK}.attn2.to_out.0.bias", _zero),
    "swapped rows": (f"{_BLOCK}.ff.net.0.proj.weight", _swap),
    "zeroed norm": (f"{_BLOCK}.norm2.weight", _zero),
}


def spoil(bundle: Bundle, folder: Path, fault: str) -> Path:
    """A copy of the U-Net's weights with a fault."""
    name, change = FAULTS[fault]
    source = bundle.weights("unet")
    tensors = TensorFile(source)
    entry = tensors.entries[name]
    array = np.array(tensors[name])
    change(array)
    content = bytearray(source.read_bytes())
    assert content[entry.begin : entry.end] != array.tobytes()
    content[entry.begin : entry.end] = array.tobytes()
    (folder / "weights").mkdir()
    path = folder / "weights" / source.name
    path.write_bytes(content)
    return path


@pytest.fixture
def shapes(bundle: Callable[[str], Path]) -> Bundle:
    return Bundle.open(bundle("shapes"))


@pytest.mark.parametrize("sizes", [UNET, OTHER], ids=["goldens", "oracle"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_planted_fault_is_refused_with_its_numbers_and_nothing_is_stored(
    shapes: Bundle,
    cache: Cache,
    tmp_path: Path,
    fault: str,
    precision: str,
    sizes: Mapping[str, int],
) -> None:
    faulty = Faulty("openvino", spoil(shapes, tmp_path, fault))
    chosen = faulty.chosen("openvino", precision)
    with pytest.raises(VerificationFailed, match=r"unet: model_output is .* from .* is allowed"):
        open_verified(cache, shapes, "unet", sizes, chosen)
    assert [a.key["engine"] for a in cache.entries() if a.key["engine"] == "openvino"] == []


class Halves(Faulty):
    """In fp16 onnx's own evaluator, which computes each node in the dtype that the graph gives it.

    It stands for a GPU; in fp32 it is the real backend.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__("onnxruntime", weights)

    def chosen(self, name: str, precision: str) -> Chosen:
        known = {"float16": ("fp16", "fp32")}
        real = backend("onnxruntime")
        return Chosen(replace(real, name=name, known=known, find=lambda: self), precision)

    def identity(self, options: Any) -> dict[str, str]:
        return {**super().identity(options), "evaluator": onnx.__version__}

    def build(
        self,
        blueprint: Blueprint,
        options: Any,
        folder: Path,
        *,
        progress: Progress | None = None,
    ) -> None:
        if blueprint.precision == "fp32":
            super().build(blueprint, options, folder)
        else:
            (folder / "evaluator").write_text("there is nothing to build")

    def load(self, blueprint: Blueprint, options: Any, folder: Path) -> Engine:
        if blueprint.precision == "fp32":
            return super().load(blueprint, options, folder)
        spoiled = self._spoiled(blueprint)
        model = onnx.load_model(spoiled.graph, load_external_data=False)
        onnx.load_external_data_for_model(model, str(spoiled.weights.parents[1]))
        evaluator = ReferenceEvaluator(model)
        names = [s.name for s in blueprint.outputs]

        def evaluate(arrays: Mapping[str, Any]) -> dict[str, Any]:
            with np.errstate(all="ignore"):
                return dict(zip(names, evaluator.run(names, dict(arrays)), strict=True))

        specs = blueprint.fixed_inputs, blueprint.fixed_outputs
        return FunctionEngine(blueprint.component, *specs, evaluate)


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_planted_fault_is_refused_in_fp16_too(
    bundle: Callable[[str], Path], cache: Cache, tmp_path: Path, fault: str
) -> None:
    heads = Bundle.open(bundle("heads-fp16"))
    sizes = golden_sizes(heads, "unet") or {}
    chosen = Halves(spoil(heads, tmp_path, fault)).chosen("halves", "fp16")
    with pytest.raises(VerificationFailed, match=r"unet: model_output is .* from the goldens"):
        open_verified(cache, heads, "unet", sizes, chosen)
    assert cache.entries() == []


def test_an_fp16_engine_without_a_fault_is_accepted_by_what_fp16_costs(
    bundle: Callable[[str], Path], cache: Cache
) -> None:
    heads = Bundle.open(bundle("heads-fp16"))
    sizes = golden_sizes(heads, "unet") or {}
    chosen = Halves(heads.weights("unet")).chosen("halves", "fp16")
    record = open_verified(cache, heads, "unet", sizes, chosen).verification
    error = record["errors"]["model_output"]["relative"]
    assert 10 * TOLERANCES["fp32"].unet < error < TOLERANCES["fp16"].unet
    assert sorted(a.key["precision"] for a in cache.entries()) == ["fp16", "fp32"]


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_planted_fault_in_the_oracle_itself_is_refused(
    shapes: Bundle, cache: Cache, tmp_path: Path, fault: str
) -> None:
    faulty = Faulty("onnxruntime", spoil(shapes, tmp_path, fault))
    for sizes in (UNET, OTHER, {**UNET, "batch": 3}):
        with pytest.raises(VerificationFailed, match=r"from the goldens"):
            open_verified(cache, shapes, "unet", sizes, faulty.chosen("onnxruntime"))
    assert cache.entries() == []


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("sizes", "reference"),
    [
        (UNET, "the goldens"),
        ({**UNET, "batch": 1}, "the goldens"),
        ({**UNET, "batch": 3}, "ONNX Runtime fp32"),
        (OTHER, "ONNX Runtime fp32"),
    ],
)
def test_the_record_has_the_error_and_the_reference(
    shapes: Bundle, cache: Cache, precision: str, sizes: Mapping[str, int], reference: str
) -> None:
    chosen = Chosen(backend("openvino"), precision)
    record = open_verified(cache, shapes, "unet", sizes, chosen).verification
    assert record["reference"] == reference
    assert "weaker" not in record
    error = record["errors"]["model_output"]["relative"]
    assert record["tolerance"] == TOLERANCES[precision].unet
    # A tolerance that nothing comes near would hold nothing; a real-size model sets it, whose
    # sums are longer.
    assert record["tolerance"] / 20 < error < record["tolerance"]
    again = open_verified(cache, shapes, "unet", sizes, chosen)
    assert (again.hit, again.verification) == (True, record)


@pytest.mark.parametrize(
    ("sizes", "reference", "weaker"),
    [
        (UNET, "the goldens", False),
        ({**UNET, "batch": 3}, "the goldens, their rows repeated", False),
        (OTHER, "the goldens at batch=2 height=16 sequence=77 width=16", True),
    ],
)
def test_onnx_runtime_is_compared_with_the_goldens(
    shapes: Bundle, cache: Cache, sizes: Mapping[str, int], reference: str, weaker: bool
) -> None:
    chosen = Chosen(backend("onnxruntime"))
    record = open_verified(cache, shapes, "unet", sizes, chosen).verification
    assert record["reference"] == reference
    assert ("weaker" in record) == weaker


def test_without_an_fp32_engine_to_check_first_the_record_says_weaker(
    shapes: Bundle, cache: Cache
) -> None:
    low = Faulty("openvino", shapes.weights("unet"))  # with the right weights
    chosen = low.chosen("openvino", "bf16")
    chosen = replace(chosen, backend=replace(chosen.backend, known={"float32": ("bf16",)}))
    record = open_verified(cache, shapes, "unet", UNET, chosen).verification
    assert record["reference"] == "the goldens"
    assert "no fp32 engine" in record["weaker"]
    assert [a.key["precision"] for a in cache.entries()] == ["bf16"]


def without_goldens(bundle: Bundle, folder: Path) -> Bundle:
    files = {name: f for name, f in bundle.manifest.files.items() if name != GOLDEN}
    copied = Path(shutil.copytree(bundle.path, folder))
    return Bundle(copied, replace(bundle.manifest, files=files))


def test_without_goldens_onnx_runtime_is_the_reference_and_the_record_says_weaker(
    shapes: Bundle, cache: Cache, tmp_path: Path
) -> None:
    bare = without_goldens(shapes, tmp_path / "bare")
    assert golden_sizes(bare, "unet") is None
    openvino = Chosen(backend("openvino"))
    record = open_verified(cache, bare, "unet", UNET, openvino).verification
    assert record["reference"] == "ONNX Runtime fp32"
    assert "no goldens" in record["weaker"]
    assert record["errors"]["model_output"]["relative"] < TOLERANCES["fp32"].unet
    faulty = Faulty("openvino", spoil(bare, tmp_path, "dropped bias"))
    with pytest.raises(VerificationFailed):
        open_verified(cache, bare, "unet", OTHER, faulty.chosen("openvino"))


def test_without_onnx_runtime_other_sizes_rest_on_the_goldens_and_the_record_says_weaker(
    shapes: Bundle, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = Status(None, problem="not installed")
    monkeypatch.setattr(onnxruntime, "status", lambda: missing)
    record = open_verified(cache, shapes, "unet", OTHER, Chosen(backend("openvino")))
    assert record.verification["reference"].startswith("the goldens at batch=2")
    assert "weaker" in record.verification
    faulty = Faulty("openvino", spoil(shapes, tmp_path, "zeroed norm"))
    larger = Cache(tmp_path / "other")
    with pytest.raises(VerificationFailed, match="from the goldens"):
        open_verified(larger, shapes, "unet", OTHER, faulty.chosen("openvino"))
