"""The machine's ceilings: operations a second in a matrix product, bytes a second in a copy.

Each is measured in a process of its own: its large matrices do not count as this one's memory.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from latentrt.benchmarks.machine import Machine
from latentrt.benchmarks.process import answer, answer_of, answers, job
from latentrt.bundle.errors import Unavailable
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.cuda.device import Missing, checked, cuda, gpu
from latentrt.engines.engine import Blueprint
from latentrt.engines.registry import Chosen, backend, choose

_MODULE: Final = "latentrt.benchmarks.latency.ceilings"
_SIZES: Final = (1024, 2048, 4096, 8192)
_LONG: Final = 0.1
"""Seconds of a product that is long enough."""
_CHAIN: Final = 32
"""Products of one call on a device: its inputs and outputs cross a bus."""
_COPIES: Final = 16
_BYTES: Final = 1 << 28
"""Bytes of a copy: more than any cache holds."""
_IR: Final = 10  # the newest that every engine reads
_DTYPES: Final = {"float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}


@dataclass(frozen=True, slots=True)
class Ceilings:
    """`rate` is operations a second in a precision, `bandwidth` bytes a second.

    The rate is that of the engine's own product of two matrices, or of NumPy's where that is
    faster. The bandwidth counts what a copy reads and writes: in host memory for a CPU, in device
    memory for an NVIDIA GPU (unverified). It is None for other devices.
    """

    rate: float
    bandwidth: float | None


def ceilings_apart(
    engine: str, precision: str, dtype: str, *, sizes: Sequence[int] = _SIZES, repeats: int = 5
) -> Ceilings:
    """As `ceilings`, in another process. Raises `EngineError` with how that ended."""
    asked = {"engine": engine, "precision": precision, "dtype": dtype}
    found = answer_of("ceilings", _MODULE, {**asked, "sizes": list(sizes), "repeats": repeats})
    return Ceilings(**found)


def ceilings(
    engine: str, precision: str, dtype: str, *, sizes: Sequence[int] = _SIZES, repeats: int = 5
) -> Ceilings:
    """The best of several products and copies; matrices grow until a product takes 0.1 s.

    `dtype` is that of the bundle's graphs. Raises `Unavailable` without onnx, and what compiling
    raises.
    """
    chosen = choose(engine, dtype, precision)
    on_cpu = backend(engine).device == "cpu"
    chain = 1 if on_cpu else _CHAIN
    rates: list[float] = []
    for size in sizes:
        seconds = _engine_product(chosen, dtype, size, chain, repeats)
        if on_cpu and precision == "fp32":
            seconds = min(seconds, _numpy_product(size, repeats))
        rates.append(2 * size**3 * chain / seconds)
        if seconds > _LONG:
            break
    return Ceilings(max(rates), _bandwidth(engine, repeats))


def _bandwidth(engine: str, repeats: int) -> float | None:
    kind = backend(engine).device
    if kind == "cpu":
        return bandwidth(repeats=repeats)
    if kind != "cuda" or isinstance(gpu(), Missing):
        return None
    return gpu_bandwidth(cuda(), repeats=repeats)


def bandwidth(*, size: int = _BYTES, repeats: int = 5) -> float:
    """Bytes a second of a copy in host memory, a part of it by every core."""
    count = Machine.here().cores
    source = np.ones(size // 4, np.float32)
    target = np.empty_like(source)
    parts = list(zip(*(np.array_split(each, count) for each in (target, source)), strict=True))
    with ThreadPoolExecutor(count) as pool:  # NumPy copies without Python's lock

        def copy() -> None:
            for done in [pool.submit(np.copyto, to, part) for to, part in parts]:
                done.result()

        return 2 * source.nbytes / _best(copy, repeats)


def gpu_bandwidth(api: Any, *, size: int = _BYTES, repeats: int = 5) -> float:
    """Bytes a second of copies in the first GPU's memory; `api` is the CUDA runtime. Unverified.

    Raises `EngineError`, such as where memory is short.
    """
    kind = api.cudaMemcpyKind.cudaMemcpyDeviceToDevice
    buffers: list[int] = []

    def copy() -> None:
        for _ in range(_COPIES):
            checked(api.cudaMemcpyAsync(buffers[0], buffers[1], size, kind, 0))
        checked(api.cudaStreamSynchronize(0))

    try:
        for _ in range(2):
            buffers.append(int(checked(api.cudaMalloc(size))))
        return 2 * size * _COPIES / _best(copy, repeats)
    finally:
        for address in buffers:
            api.cudaFree(address)


def _numpy_product(size: int, repeats: int) -> float:
    matrix, out = np.ones((size, size), np.float32), np.empty((size, size), np.float32)
    return _best(lambda: np.matmul(matrix, matrix, out), repeats)


def _engine_product(chosen: Chosen, dtype: str, size: int, chain: int, repeats: int) -> float:
    if chosen.precision == "fp32":
        dtype = "float32"
    with tempfile.TemporaryDirectory(prefix="latentrt-") as folder:
        engine = chosen.compile(products(Path(folder), dtype, size, chain))
        try:
            spec = engine.inputs[0]
            given = {spec.name: np.full(spec.shape({}), float(chain == 1), spec.dtype)}
            return _best(lambda: engine(given), repeats)
        finally:
            engine.close()


def products(folder: Path, dtype: str, size: int, chain: int) -> Blueprint:
    """A graph of `chain` products with a constant matrix, which is what weights are.

    One product is of the whole input. A chain takes one number, which is zero, and gives one. Every
    element of the constant is 1 / `size`, so that all products are finite in every dtype. Raises
    `Unavailable` without onnx.
    """
    try:
        onnx: Any = importlib.import_module("onnx")
    except ImportError as error:
        remedy = "pip install 'latentrt[bench]'"
        raise Unavailable(f"ceilings: onnx is not installed; {remedy}") from error
    kind, helper = getattr(onnx.TensorProto, _DTYPES[dtype]), onnx.helper
    weights = np.full((size, size), 1 / size, helper.tensor_dtype_to_np_dtype(kind))
    edge = size if chain == 1 else 1
    graph = helper.make_graph(
        [helper.make_node(name, inputs, [output]) for name, inputs, output in _nodes(chain)],
        "products",
        [helper.make_tensor_value_info("x", kind, ["rows", edge])],
        [helper.make_tensor_value_info("y", kind, ["rows", edge])],
        [helper.make_tensor("w", kind, weights.shape, weights.tobytes(), raw=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=_IR)
    path = folder / "products.onnx"
    path.write_bytes(model.SerializeToString())
    x, y = (TensorSpec(name, ("rows", edge), dtype) for name in "xy")
    none = folder / "weights" / "none.safetensors"
    return Blueprint("products", path, none, (x,), (y,), {"rows": edge}, dtype)


def _nodes(chain: int) -> list[tuple[str, list[str], str]]:
    """Operator, inputs and output of every node."""
    if chain == 1:
        return [("MatMul", ["x", "w"], "y")]
    middle = [("MatMul", [f"h{n}", "w"], f"h{n + 1}") for n in range(chain)]
    return [("Add", ["w", "x"], "h0"), *middle, ("ReduceSum", [f"h{chain}"], "y")]


def _best(work: Callable[[], object], repeats: int) -> float:
    """The least seconds of several calls after one that does not count."""
    seconds: list[float] = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


if __name__ == "__main__":
    _stream = answers()
    answer(_stream, asdict(ceilings(**job())))
