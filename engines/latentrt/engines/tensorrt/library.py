"""The TensorRT that is installed: the data-centre package, or TensorRT for RTX.

Both have the same Python API. TensorRT for RTX comes in two wheels, bindings and
shared libraries. The libraries have to be loaded before the bindings can be imported.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from latentrt.bundle.errors import InputError, Unavailable
from latentrt.engines.cuda.device import Missing

DATA_CENTRE: Final = "tensorrt"
RTX: Final = "tensorrt-rtx"
_LIBRARIES: Final = "onnxruntime_ep_nv_tensorrt_rtx"
_BINDINGS: Final = "tensorrt_rtx_bindings"
_DISTRIBUTION: Final = "tensorrt-rtx-cu13-bindings"
# In this order: each is linked against those before it, by a name that no search path has.
_SHARED: Final = ("libcudart", "libtensorrt_rtx", "libtensorrt_onnxparser_rtx")
_RTX_REMEDY: Final = "pip install 'latentrt[tensorrt-rtx]'"
_REMEDY: Final = f"{_RTX_REMEDY}, or 'latentrt[tensorrt]' for a data-centre GPU"


@dataclass(frozen=True, slots=True)
class TensorRtLibrary:
    """One installed TensorRT; `api` is its Python module."""

    name: str
    version: str
    api: Any

    @property
    def targets(self) -> tuple[str, ...]:
        """The compute capabilities that it builds for without the GPU, such as "sm89"."""
        if self.name != RTX:
            return ()
        names: list[str] = list(self.api.ComputeCapability.__members__)
        return tuple(n.lower() for n in names if re.fullmatch(r"SM\d+", n))

    def capability(self, target: str) -> Any:
        """TensorRT's word for a target; raises `InputError` for one that it has not."""
        if target not in self.targets:
            raise InputError("target", f"one of {', '.join(self.targets)}", repr(target))
        return getattr(self.api.ComputeCapability, target.upper())


def installed() -> TensorRtLibrary | Missing:
    """The TensorRT that builds for this machine's GPU: the data-centre package before RTX."""
    if importlib.util.find_spec(DATA_CENTRE) is not None:
        return _imported(DATA_CENTRE, DATA_CENTRE)
    return installed_rtx()


def installed_rtx() -> TensorRtLibrary | Missing:
    """TensorRT for RTX, which also builds for another GPU than this machine's."""
    libraries = importlib.util.find_spec(_LIBRARIES)
    bindings = importlib.util.find_spec(_BINDINGS)
    if libraries is None and bindings is None:
        return Missing("TensorRT is not installed", _REMEDY)
    if bindings is None:
        return Missing("TensorRT for RTX lacks its Python bindings", _RTX_REMEDY)
    if libraries is None or libraries.origin is None:
        return Missing("TensorRT for RTX lacks its shared libraries", _RTX_REMEDY)
    folder = Path(libraries.origin).parent
    try:
        version = importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        problem = f"TensorRT for RTX's bindings are not those of {_DISTRIBUTION}"
        return Missing(problem, _RTX_REMEDY)
    for name in _SHARED:
        found = sorted(folder.glob(f"{name}.so.*"))
        if not found:
            return Missing(f"TensorRT for RTX lacks {name} in {folder}", _RTX_REMEDY)
        own = found[-1].name.partition(".so.")[2]
        if name != "libcudart" and not f"{version}.".startswith(f"{own}."):
            problem = f"TensorRT for RTX's libraries are {own}, its bindings {version}"
            return Missing(problem, f"{_RTX_REMEDY} --upgrade")
        try:
            ctypes.CDLL(str(found[-1]), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            return Missing(f"TensorRT for RTX cannot load {name} ({error})", _RTX_REMEDY)
    return _imported(RTX, _BINDINGS)


def library_for(target: str | None) -> TensorRtLibrary:
    """The library that builds for a target (None: this machine's GPU); raises `Unavailable`."""
    found = installed() if target is None else installed_rtx()
    if isinstance(found, Missing):
        raise Unavailable(f"engine tensorrt: {found}")
    return found


def _imported(name: str, module: str) -> TensorRtLibrary | Missing:
    try:
        api = importlib.import_module(module)
        return TensorRtLibrary(name, str(api.__version__), api)
    # Whatever folder has the name is a module too, without a version.
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        return Missing(f"{name} cannot be imported ({error})", f"pip install 'latentrt[{name}]'")
