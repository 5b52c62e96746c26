"""ONNX Runtime on an NVIDIA GPU: what its three providers have in common.

Only the result of verification is stored. A provider compiles whenever an engine is opened. Its own
caches are disabled, because their contents are not verified. Unverified: never run on a GPU.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.errors import Unavailable
from latentrt.engines.cuda.device import Gpu, Missing, gpu
from latentrt.engines.cuda.libraries import library_versions, tf32_override
from latentrt.engines.cuda.memory import CudaMemory
from latentrt.engines.engine import Blueprint
from latentrt.engines.graphs.onnx_graph import OnnxGraph
from latentrt.engines.onnxruntime.io_binding import OnnxRuntimeGpuEngine
from latentrt.engines.onnxruntime.session import (
    Providers,
    package,
    session_on,
    settings,
)
from latentrt.engines.registry import Progress, Status

_DISTRIBUTIONS: Final = ("onnxruntime-gpu", "onnxruntime")


def any_package(remedy: str) -> Mapping[str, str] | Missing:
    """The version of ONNX Runtime, whatever providers it has; does not import it."""
    if importlib.util.find_spec("onnxruntime") is None:
        return Missing("ONNX Runtime is not installed", remedy)
    return {"version": version_of(*_DISTRIBUTIONS)}


def gpu_package(library: str, provider: str, remedy: str) -> Mapping[str, str] | Missing:
    """The version of ONNX Runtime, if a provider's library comes with it; does not import it."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return Missing("ONNX Runtime is not installed", remedy)
    if any((Path(spec.origin).parent / "capi").glob(f"{library}.*")):
        return {"version": version_of(*_DISTRIBUTIONS)}
    # Two packages install one module, and the one that is there keeps the other out.
    problem = f"the onnxruntime that is installed is the CPU package, without a {provider}"
    return Missing(problem, f"pip uninstall onnxruntime; {remedy}")


def version_of(*distributions: str) -> str:
    """The version of the first of these that is installed."""
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return "unknown"


@dataclass(frozen=True, slots=True)
class GpuProvider:
    """A provider of ONNX Runtime as a compiler.

    `provider` is ONNX Runtime's name for it; `installed` gives the versions of what it consists of,
    or what is missing; `attach` adds it to session options, or gives what a session is to be made
    with, by the precision and the options; `remedy` is what installs it; `prepare` rewrites a
    graph for it; `unfit` says why it does not run on a GPU, if so.
    """

    name: str
    provider: str
    installed: Callable[[], Mapping[str, str] | Missing]
    attach: Callable[[Any, Any, str, Any], Providers | None]
    remedy: str
    prepare: Callable[[OnnxGraph], OnnxGraph] = lambda graph: graph
    unfit: Callable[[Gpu], Missing | None] = lambda _: None

    def status(self) -> Status:
        """What is installed, and whether there is a GPU for it; makes no session."""
        found = self.installed()
        if isinstance(found, Missing):
            return Status(None, problem=found.problem, remedy=found.remedy)
        version = " ".join(found.values())
        device = gpu()
        if isinstance(device, Missing):
            return Status(version, (), device.problem, device.remedy)
        problem = self.unfit(device) or Missing("", "")
        return Status(version, (device.name,), problem.problem, problem.remedy)

    def identity(self, options: Any) -> dict[str, str]:
        """Versions of ONNX Runtime, the provider and what is beneath; raises `Unavailable`."""
        found, device = self._usable()
        return {**found, **library_versions(), **tf32_override(), **device.identity}

    def compile(self, blueprint: Blueprint, options: Any) -> OnnxRuntimeGpuEngine:
        """An engine whose nodes all run on the provider; raises `Unavailable` or `BuildFailed`."""
        self._usable()
        api = package(self.name, self.remedy)
        graph = self.prepare(OnnxGraph.of(blueprint))
        chosen = settings(api, graph)
        providers = self.attach(api, chosen, blueprint.precision, options)
        made = session_on(api, graph, chosen, providers, self.provider)
        return OnnxRuntimeGpuEngine(blueprint, api, made, CudaMemory())

    def build(
        self,
        blueprint: Blueprint,
        options: Any,
        folder: Path,
        *,
        progress: Progress | None = None,
    ) -> None:
        """Write nothing (see above)."""

    def load(self, blueprint: Blueprint, options: Any, folder: Path) -> OnnxRuntimeGpuEngine:
        """An engine; nothing is read from `folder`. Raises `Unavailable` or `BuildFailed`."""
        return self.compile(blueprint, options)

    def _usable(self) -> tuple[Mapping[str, str], Gpu]:
        found, device = self.installed(), gpu()
        for missing in (found, device):
            if isinstance(missing, Missing):
                raise Unavailable(f"engine {self.name}: {missing}")
        assert not isinstance(found, Missing)
        assert not isinstance(device, Missing)
        problem = self.unfit(device)
        if problem is not None:
            raise Unavailable(f"engine {self.name}: {problem}")
        return found, device
