"""What the machine can do at best: operations a second in a product, bytes a second in a copy."""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from latentrt.bundle.errors import Unavailable
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.backends import Chosen
from latentrt.engines.engine import Blueprint

_REMEDY: Final = "pip install 'latentrt[bench]'"
_SIZES: Final = (1024, 2048, 4096, 8192)
_LONG: Final = 0.1
"""Seconds of a product that is large enough."""
_BYTES: Final = 1 << 28
_IR: Final = 10  # that every engine reads
_DTYPES: Final = {"float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}


@dataclass(frozen=True, slots=True)
class Ceilings:
    """`rate`: operations a second in the engine's precision; `bandwidth`: bytes a second.

    The rate is that of the engine's own product of two matrices, or of NumPy's in fp32 where that
    is faster; the bandwidth counts what a copy reads and what it writes.
    """

    rate: float
    bandwidth: float


def ceilings(
    chosen: Chosen, dtype: str, *, sizes: Sequence[int] = _SIZES, repeats: int = 5
) -> Ceilings:
    """Measured on the spot, the best of several; of matrices as large as it takes.

    `dtype` is that of the graphs that the engine computes. Raises `Unavailable` without onnx.
    """
    rates: list[float] = []
    for size in sizes:
        products: list[Callable[[int, int], float]] = [partial(_product, chosen, dtype)]
        if chosen.options.precision == "fp32":
            products.append(_numpy_product)
        seconds = min(product(size, repeats) for product in products)
        rates.append(2 * size**3 / seconds)
        if seconds > _LONG:
            break
    return Ceilings(rate=max(rates), bandwidth=bandwidth(repeats=repeats))


def bandwidth(*, size: int = _BYTES, repeats: int = 5) -> float:
    """Bytes a second that a copy of `size` bytes, far more than any cache, reads and writes."""
    source = np.ones(size // 4, np.float32)
    target = np.empty_like(source)
    return 2 * source.nbytes / _best(lambda: np.copyto(target, source), repeats)


def _numpy_product(size: int, repeats: int) -> float:
    """Seconds of NumPy's."""
    matrix, out = np.ones((size, size), np.float32), np.empty((size, size), np.float32)
    return _best(lambda: np.matmul(matrix, matrix, out), repeats)


def _product(chosen: Chosen, dtype: str, size: int, repeats: int) -> float:
    """Seconds of the engine's."""
    with tempfile.TemporaryDirectory(prefix="latentrt-") as folder:
        blueprint = _blueprint(Path(folder), dtype, size)
        engine = chosen.backend.compile(blueprint, chosen.options)
        try:
            spec = engine.inputs[0]
            given = {spec.name: np.ones(spec.shape({}), spec.dtype)}
            return _best(lambda: engine(given), repeats)
        finally:
            engine.close()


def _blueprint(folder: Path, dtype: str, size: int) -> Blueprint:
    """A graph of one product, of a matrix of ones by one that never changes, as weights are."""
    try:
        onnx: Any = importlib.import_module("onnx")
    except ImportError as error:
        raise Unavailable(f"measuring the ceiling: onnx is not installed; {_REMEDY}") from error
    kind, helper = getattr(onnx.TensorProto, _DTYPES[dtype]), onnx.helper
    ones = np.ones((size, size), helper.tensor_dtype_to_np_dtype(kind))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", kind, ["rows", size])],
        [helper.make_tensor_value_info("y", kind, ["rows", size])],
        [helper.make_tensor("w", kind, ones.shape, ones.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=_IR)
    path = folder / "product.onnx"
    path.write_bytes(model.SerializeToString())
    x, y = (TensorSpec(name, ("rows", size), dtype) for name in "xy")
    weights = folder / "weights" / "none.safetensors"
    return Blueprint("product", path, weights, (x,), (y,), {"rows": size}, dtype)


def _best(work: Callable[[], object], repeats: int) -> float:
    seconds: list[float] = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])
