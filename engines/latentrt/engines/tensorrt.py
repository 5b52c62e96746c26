"""TensorRT on an NVIDIA GPU: the data-centre package, or TensorRT for RTX.

Building is tested with the real compiler of TensorRT for RTX, which needs no GPU when the target
is named. Loading and running are unverified: nobody has run them on a GPU.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.errors import BuildFailed, InputError, Unavailable
from latentrt.engines.cuda_device import Gpu, Missing, gpu
from latentrt.engines.cuda_memory import CudaMemory
from latentrt.engines.engine import Blueprint, Options, Status
from latentrt.engines.tensorrt_engine import TensorRtEngine
from latentrt.engines.tensorrt_library import (
    RTX,
    Library,
    installed,
    library_for,
)
from latentrt.engines.tensorrt_listeners import Progress, log, monitor
from latentrt.engines.tensorrt_network import parse

NAME: Final = "tensorrt"
PRECISIONS: Final = ("fp32", "fp16")
PLAN: Final = "plan.trt"
_DTYPES: Final = {"fp32": "float32", "fp16": "float16"}


def status() -> Status:
    """What is installed, and whether there is a GPU; a library alone still builds for targets."""
    library, device = installed(), gpu()
    if isinstance(library, Missing):
        return Status(NAME, None, problem=library.problem, remedy=library.remedy, unverified=True)
    version = f"{library.version} ({library.name})"
    if isinstance(device, Missing):
        builds = f"; it builds for {', '.join(library.targets)}" if library.targets else ""
        problem = f"{device.problem}{builds}"
        return Status(NAME, version, problem=problem, remedy=device.remedy, unverified=True)
    problem = remedy = ""
    if library.name == RTX and device.target not in library.targets:
        problem = f"TensorRT for RTX has no kernels for {device.name} ({device.target})"
        remedy = "pip install 'latentrt[tensorrt]'"
    return Status(NAME, version, (device.name,), problem, remedy, unverified=True)


def identity(options: Options, *, target: str | None = None, level: int = 3) -> dict[str, str]:
    """What a plan depends on besides its graph, weights and sizes; raises `Unavailable`."""
    del options
    library = library_for(target)
    facts = {"library": library.name, "version": library.version, "level": str(level)}
    if target is not None:
        library.capability(target)
        return facts | {"target": target}
    device = _device()
    return facts | {"target": device.target, "device": device.name, "driver": device.driver}


def build(
    blueprint: Blueprint,
    options: Options,
    folder: Path,
    *,
    target: str | None = None,
    level: int = 3,
    timings: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Build the plan for the blueprint's sizes into `folder`.

    `target` is a compute capability such as "sm89" (None: this machine's GPU); `level`, 0 to 5, is
    how hard the builder looks for faster kernels; `timings` is a file that keeps what the
    data-centre library measures from one build to the next (TensorRT for RTX measures nothing).
    Raises `InputError` for another precision than the graph's or a target that the library does not
    know, `Unavailable` without a library or GPU, `BuildFailed` when the graph is refused, and
    whatever `progress` raises, which stops the build.
    """
    _check_precision(blueprint, options)
    library = library_for(target)
    capability = _capability(library, target)
    heard = log(library.api)
    builder: Any = library.api.Builder(heard)
    network = parse(library.api, builder, heard, blueprint)
    config = _config(library, builder, capability, level)
    watch = None if progress is None else monitor(library.api, progress)
    if watch is not None:
        config.progress_monitor = watch
    timed = timings if library.name != RTX else None
    if timed is not None:
        _recall(config, timed)
    plan: Any = builder.build_serialized_network(network.definition, config)
    if watch is not None and watch.error is not None:
        raise watch.error
    if plan is None:
        raise BuildFailed(f"{blueprint.component}: TensorRT says: {'; '.join(heard.errors)}")
    (folder / PLAN).write_bytes(plan)
    if timed is not None:
        _replace(timed, config.get_timing_cache().serialize())


def load(blueprint: Blueprint, options: Options, folder: Path) -> TensorRtEngine:
    """The engine of a plan that `build` wrote for this GPU; raises `Unavailable`, `BuildFailed`."""
    _check_precision(blueprint, options)
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
    return TensorRtEngine(blueprint, engine, CudaMemory(), keep=(runtime, heard))


def compile(blueprint: Blueprint, options: Options) -> TensorRtEngine:
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


def _capability(library: Library, target: str | None) -> Any:
    """What to build for; None where the library takes the GPU that it finds."""
    if target is not None:
        return library.capability(target)
    device = _device()
    if library.name != RTX:
        return None
    if device.target not in library.targets:
        raise Unavailable(
            f"engine {NAME}: TensorRT for RTX has no kernels for {device.name} "
            f"({device.target}); pip install 'latentrt[tensorrt]'"
        )
    return library.capability(device.target)


def _config(library: Library, builder: Any, capability: Any, level: int) -> Any:
    if level not in range(6):
        raise InputError("level", "0 to 5", level)
    api = library.api
    config: Any = builder.create_builder_config()
    config.builder_optimization_level = level
    config.profiling_verbosity = api.ProfilingVerbosity.DETAILED
    # TF32 keeps 10 of the 23 bits of a float32's fraction; who asks for fp32 wants all of them.
    config.clear_flag(api.BuilderFlag.TF32)
    if capability is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)
    return config


def _check_precision(blueprint: Blueprint, options: Options) -> None:
    # Options say what is computed in, and TensorRT computes in the graph's own dtypes.
    own = next((p for p in PRECISIONS if _DTYPES[p] == blueprint.outputs[0].dtype), None)
    if options.precision != own:
        expected = f"{own}, which {blueprint.component}'s graph is in"
        raise InputError("precision", expected, repr(options.precision))


def _recall(config: Any, timings: Path) -> None:
    known = timings.read_bytes() if timings.exists() else b""
    # Timings of another GPU or version are not taken over.
    config.set_timing_cache(config.create_timing_cache(known), False)


def _replace(path: Path, content: Any) -> None:
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.write_bytes(content)
    scratch.replace(path)
