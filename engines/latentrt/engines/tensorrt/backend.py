"""TensorRT on an NVIDIA GPU: the data-centre package, or TensorRT for RTX.

A strongly typed network computes in the graph's own dtypes; fp32 on stored halves is a graph of
its own. Building is tested with the real compiler of TensorRT for RTX, which needs no GPU
when the target is named. Loading and running are unverified: they have never run on a GPU.
"""

from __future__ import annotations

import mmap
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

from latentrt.bundle.cache_folder import cache_folder
from latentrt.bundle.errors import BuildFailed, Unavailable
from latentrt.engines.cuda.device import Gpu, Missing, gpu
from latentrt.engines.cuda.libraries import tf32_override
from latentrt.engines.cuda.memory import CudaMemory
from latentrt.engines.engine import Blueprint
from latentrt.engines.graphs.onnx_graph import OnnxGraph
from latentrt.engines.registry import Progress, Status
from latentrt.engines.tensorrt.callbacks import log, monitor
from latentrt.engines.tensorrt.engine import TensorRtEngine
from latentrt.engines.tensorrt.kernels import Kernels
from latentrt.engines.tensorrt.library import (
    RTX,
    TensorRtLibrary,
    installed,
    library_for,
)
from latentrt.engines.tensorrt.network import parse
from latentrt.engines.tensorrt.options import TensorRtOptions
from latentrt.engines.tensorrt.refit import refit
from latentrt.engines.tensorrt.timing_cache import keep, recall, timings_folder

NAME: Final = "tensorrt"
PLAN: Final = "plan.trt"
KERNELS: Final = "kernels.cache"


def status() -> Status:
    """What is installed, and whether there is a GPU; a library alone still builds for targets."""
    library, device = installed(), gpu()
    if isinstance(library, Missing):
        return Status(None, problem=library.problem, remedy=library.remedy)
    version = f"{library.version} ({library.name})"
    if isinstance(device, Missing):
        builds = f"; it builds for {', '.join(library.targets)}" if library.targets else ""
        problem = f"{device.problem}{builds}"
        return Status(version, problem=problem, remedy=device.remedy)
    problem = remedy = ""
    if library.name == RTX and device.target not in library.targets:
        problem = f"TensorRT for RTX has no kernels for {device.name} ({device.target})"
        remedy = "pip install 'latentrt[tensorrt]'"
    return Status(version, (device.name,), problem, remedy)


def identity(options: TensorRtOptions) -> dict[str, str]:
    """What a plan depends on besides its graph, weights, sizes and options.

    A plan of TensorRT for RTX fits every GPU of its compute capability, with any driver. One of the
    data-centre library fits only the GPU and driver it was built on. Raises `Unavailable`,
    `InputError` for a target that the library has not.
    """
    library = library_for(options.target)
    facts = {"library": library.name, "version": library.version, **tf32_override()}
    if options.target is not None:
        library.capability(options.target)
        return facts | {"target": options.target}
    device = _device()
    if library.name == RTX:
        return facts | {"target": device.target}
    return facts | device.identity


def build(
    blueprint: Blueprint,
    options: TensorRtOptions,
    folder: Path,
    *,
    timings: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Build the plan for the blueprint's sizes into `folder`.

    `timings` is the folder that keeps what the data-centre library measures from one build to the
    next; by default one in this user's cache. TensorRT for RTX measures nothing; its plan for this
    machine's GPU is run once, and the kernels that this compiled are stored beside it. Raises
    `InputError` for a target that the library does not know, `Unavailable` without a library or
    GPU, and `BuildFailed` when the graph is refused. An error of `progress` stops the build.
    """
    library = library_for(options.target)
    capability = _capability(library, options)
    timed = None if library.name == RTX else _timings(library, timings)
    source = OnnxGraph.of(blueprint)
    watch = monitor(library.api, progress or _unheard)

    def write() -> None:
        heard = log(library.api)
        builder: Any = library.api.Builder(heard)
        network = parse(library.api, builder, heard, source)
        config = _config(library, builder, capability, options)
        config.progress_monitor = watch
        if timed is not None:
            config.set_timing_cache(config.create_timing_cache(recall(timed)), False)
        plan: Any = builder.build_serialized_network(network.definition, config)
        if watch.error is not None:
            raise watch.error
        if plan is None:
            said = "; ".join(heard.errors)
            raise BuildFailed(f"{blueprint.component}: TensorRT says: {said}")
        (folder / PLAN).write_bytes(plan)
        if timed is not None:
            keep(timed, bytes(memoryview(config.get_timing_cache().serialize())))

    # An interrupt comes to the main thread alone, and TensorRT swallows it where it calls back.
    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(write).result()
        except BaseException as error:
            watch.error = watch.error or error
            raise
    if library.name == RTX and options.target is None:
        _keep_kernels(blueprint, options, folder)


def _unheard(phase: str, done: int, total: int) -> None:
    del phase, done, total


def load(blueprint: Blueprint, options: TensorRtOptions, folder: Path) -> TensorRtEngine:
    """The engine of a plan that `build` wrote for this GPU; raises `Unavailable`, `BuildFailed`."""
    library = library_for(None)
    _device()
    heard = log(library.api)
    runtime: Any = library.api.Runtime(heard)
    with (
        (folder / PLAN).open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan,
    ):
        engine: Any = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BuildFailed(f"{blueprint.component}: TensorRT says: {'; '.join(heard.errors)}")
    if options.stripped:
        refit(library.api, engine, heard, OnnxGraph.of(blueprint))
    hint = folder / KERNELS
    kernels = Kernels.of(engine, hint.read_bytes() if hint.exists() else b"")
    return TensorRtEngine(blueprint, engine, CudaMemory(), keep=(heard, runtime), kernels=kernels)


def compile(blueprint: Blueprint, options: TensorRtOptions) -> TensorRtEngine:
    """Build for this machine's GPU and load; raises `Unavailable` or `BuildFailed`."""
    with tempfile.TemporaryDirectory(prefix="latentrt-") as scratch:
        folder = Path(scratch) / "plan"
        folder.mkdir()
        build(blueprint, options, folder)
        return load(blueprint, options, folder)


def _device() -> Gpu:
    device = gpu()
    if isinstance(device, Missing):
        raise Unavailable(f"engine {NAME}: {device}")
    return device


def _capability(library: TensorRtLibrary, options: TensorRtOptions) -> Any:
    """What to build for; None where the library takes the GPU that it finds."""
    if options.stripped and isinstance(device := gpu(), Missing):
        # Without weights a kernel is finished on a GPU, whatever GPU it is for.
        raise Unavailable(f"engine {NAME}: a plan without weights is built on a GPU only; {device}")
    if options.target is not None:
        return library.capability(options.target)
    device = _device()
    if library.name != RTX:
        return None
    if device.target not in library.targets:
        raise Unavailable(
            f"engine {NAME}: TensorRT for RTX has no kernels for {device.name} "
            f"({device.target}); pip install 'latentrt[tensorrt]'"
        )
    return library.capability(device.target)


def _config(
    library: TensorRtLibrary, builder: Any, capability: Any, options: TensorRtOptions
) -> Any:
    api = library.api
    config: Any = builder.create_builder_config()
    config.builder_optimization_level = options.level
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
    # TF32 keeps 10 of the 23 bits of a float32's fraction; who asks for fp32 wants all of them.
    config.clear_flag(api.BuilderFlag.TF32)
    if options.stripped:
        # The weights that come back are the same, bit for bit: the cache's key has their digest.
        # With REFIT, which takes others too, the bias of a matrix multiplication can be lost; with
        # REFIT_IDENTICAL it is not (TensorRT 11.3, "Refitting an Engine").
        config.set_flag(api.BuilderFlag.STRIP_PLAN)
        config.set_flag(api.BuilderFlag.REFIT_IDENTICAL)
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)
    return config


def _timings(library: TensorRtLibrary, folder: Path | None) -> Path:
    """The file of this library on this GPU: the timings of others say nothing here."""
    place = timings_folder(cache_folder()) if folder is None else folder
    return place / f"{library.name}-{library.version}-{_device().target}.cache"


def _keep_kernels(blueprint: Blueprint, options: TensorRtOptions, folder: Path) -> None:
    """Run a new plan once, and store what that compiled for this GPU beside it."""
    engine = load(blueprint, options, folder)
    try:
        engine({s.name: np.zeros(s.shape({}), s.dtype) for s in engine.inputs})
        (folder / KERNELS).write_bytes(engine.compiled())
    finally:
        engine.close()
