"""What the machine can do at best: operations a second in a product, bytes a second in a copy.

    python -m latentrt.benchmarks.latency.ceilings QUESTION --out FILE

measures in a process of its own what the JSON file QUESTION asks for (see `ceilings_apart`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from latentrt.benchmarks.child import child
from latentrt.benchmarks.machine import Machine
from latentrt.bundle.errors import EngineError, Unavailable
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.cuda.device import Missing, checked, cuda, gpu
from latentrt.engines.engine import Blueprint
from latentrt.engines.registry import Chosen, backend

_MODULE: Final = "latentrt.benchmarks.latency.ceilings"
_LIMIT: Final = 3600.0
"""Seconds that a process may take."""
_REMEDY: Final = "pip install 'latentrt[bench]'"
_SIZES: Final = (1024, 2048, 4096, 8192)
_LONG: Final = 0.1
"""Seconds of a call that is long enough."""
_CHAIN: Final = 32
"""Products of one call where it is not the CPU that computes them."""
_COPIES: Final = 16
_BYTES: Final = 1 << 28
_IR: Final = 10  # that every engine reads
_DTYPES: Final = {"float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}


@dataclass(frozen=True, slots=True)
class Ceilings:
    """`rate`: operations a second in the engine's precision; `bandwidth`: bytes a second.

    On a CPU the rate is that of the engine's own product of two matrices, or of NumPy's in fp32
    where that is faster; elsewhere (unverified) of a chain of such products in one graph, into and
    out of which one number goes. The bandwidth counts what a copy reads and what it writes: of
    host memory for a CPU, within an NVIDIA GPU's for its engines (unverified), and None for other
    devices, where nobody knows how to ask.
    """

    rate: float
    bandwidth: float | None

    def or_greater(self, other: Ceilings) -> Ceilings:
        """The greater of each number of two moments: both were reached."""
        known = [each for each in (self.bandwidth, other.bandwidth) if each is not None]
        return Ceilings(max(self.rate, other.rate), max(known, default=None))


def ceilings(
    chosen: Chosen, dtype: str, *, sizes: Sequence[int] = _SIZES, repeats: int = 5
) -> Ceilings:
    """Measured on the spot, the best of several; of matrices as large as it takes.

    `dtype` is that of the graphs that the engine computes. Raises `Unavailable` without onnx, and
    what the backend's `compile` raises.
    """
    on_cpu = chosen.backend.device == "cpu"
    chain = 1 if on_cpu else _CHAIN
    rates: list[float] = []
    for size in sizes:
        seconds = _engine_products(chosen, dtype, size, chain, repeats)
        if on_cpu and chosen.precision == "fp32":
            seconds = min(seconds, _numpy_product(size, repeats))
        rates.append(2 * size**3 * chain / seconds)
        if seconds > _LONG:
            break
    return Ceilings(rate=max(rates), bandwidth=_bandwidth(chosen, repeats))


def ceilings_apart(
    chosen: Chosen, dtype: str, *, sizes: Sequence[int] = _SIZES, repeats: int = 5
) -> Ceilings:
    """As `ceilings`, in a process of its own: large matrices are no memory of this one.

    Raises `EngineError` with how that process ended.
    """
    asked = {
        "engine": chosen.name,
        "precision": chosen.precision,
        "options": asdict(chosen.options),
        "dtype": dtype,
    }
    with tempfile.TemporaryDirectory(prefix="latentrt-bench-") as folder:
        question = Path(folder) / "question.json"
        question.write_text(
            json.dumps({**asked, "sizes": list(sizes), "repeats": repeats}), encoding="utf-8"
        )
        row = child(_MODULE, [question], Path(folder), _LIMIT)
    if "rate" not in row:
        raise EngineError(row["problem"])
    return Ceilings(**row)


def _bandwidth(chosen: Chosen, repeats: int) -> float | None:
    kind = chosen.backend.device
    if kind == "cpu":
        return bandwidth(repeats=repeats)
    if kind != "cuda" or isinstance(gpu(), Missing):
        return None
    return gpu_bandwidth(cuda(), repeats=repeats)


def bandwidth(*, size: int = _BYTES, repeats: int = 5, threads: int | None = None) -> float:
    """Bytes a second that a copy of `size` bytes, far more than any cache, reads and writes.

    Every core copies a part of it, since one alone does not fill the memory's bus.
    """
    count = threads or Machine.here().cores
    source = np.ones(size // 4, np.float32)
    target = np.empty_like(source)
    parts = list(zip(*(np.array_split(each, count) for each in (target, source)), strict=True))
    with ThreadPoolExecutor(count) as pool:  # NumPy copies without Python's lock

        def copy() -> None:
            for done in [pool.submit(np.copyto, to, part) for to, part in parts]:
                done.result()

        return 2 * source.nbytes / _best(copy, repeats)


def gpu_bandwidth(api: Any, *, size: int = _BYTES, repeats: int = 5) -> float:
    """Bytes a second that copies of `size` bytes within the first GPU's memory read and write.

    `api` is the CUDA runtime. Unverified. Raises `EngineError`, as when there is no room.
    """
    kind = api.cudaMemcpyKind.cudaMemcpyDeviceToDevice
    held: list[int] = []

    def copy() -> None:
        for _ in range(_COPIES):
            checked(api.cudaMemcpyAsync(held[0], held[1], size, kind, 0))
        checked(api.cudaStreamSynchronize(0))

    try:
        for _ in range(2):
            held.append(int(checked(api.cudaMalloc(size))))
        return 2 * size * _COPIES / _best(copy, repeats)
    finally:
        for address in held:
            api.cudaFree(address)


def _numpy_product(size: int, repeats: int) -> float:
    """Seconds of NumPy's."""
    matrix, out = np.ones((size, size), np.float32), np.empty((size, size), np.float32)
    return _best(lambda: np.matmul(matrix, matrix, out), repeats)


def _engine_products(chosen: Chosen, dtype: str, size: int, chain: int, repeats: int) -> float:
    """Seconds of one call of the engine's."""
    with tempfile.TemporaryDirectory(prefix="latentrt-") as folder:
        engine = chosen.compile(products(Path(folder), dtype, size, chain))
        try:
            spec = engine.inputs[0]
            # Ones, but zeros into a chain (see `products`).
            given = {spec.name: np.full(spec.shape({}), float(chain == 1), spec.dtype)}
            return _best(lambda: engine(given), repeats)
        finally:
            engine.close()


def products(folder: Path, dtype: str, size: int, chain: int) -> Blueprint:
    """A graph of products with a matrix that never changes, as weights are.

    One product is of the whole input. Of a chain nothing but its ends leaves the device: a number
    goes in, and one comes out. Every element of the weights is 1 / `size`, and where a zero goes
    in, every element of every product; their sum is `size`: all of them finite in every dtype.
    Raises `Unavailable` without onnx.
    """
    try:
        onnx: Any = importlib.import_module("onnx")
    except ImportError as error:
        raise Unavailable(f"measuring the ceiling: onnx is not installed; {_REMEDY}") from error
    kind, helper = getattr(onnx.TensorProto, _DTYPES[dtype]), onnx.helper
    weights = np.full((size, size), 1 / size, helper.tensor_dtype_to_np_dtype(kind))
    edge = size if chain == 1 else 1
    graph = helper.make_graph(
        [helper.make_node(name, given, [found]) for name, given, found in _nodes(chain)],
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
    products = [("MatMul", [f"h{n}", "w"], f"h{n + 1}") for n in range(chain)]
    return [("Add", ["w", "x"], "h0"), *products, ("ReduceSum", [f"h{chain}"], "y")]


def _best(work: Callable[[], object], repeats: int) -> float:
    seconds: list[float] = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


def main() -> None:
    """Measure what is asked for, and write it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("question", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    asked = json.loads(options.question.read_text(encoding="utf-8"))
    which = backend(asked["engine"])
    chosen = Chosen(which, asked["precision"], which.options(**asked["options"]))
    found = ceilings(chosen, asked["dtype"], sizes=asked["sizes"], repeats=asked["repeats"])
    options.out.write_text(json.dumps(asdict(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
