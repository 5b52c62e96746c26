"""OpenVINO and ONNX Runtime, imported without the reports that they send to their makers.

Both do so by themselves: OpenVINO at its import (a name is looked up in a forked process, and a
file written to ~/intel), ONNX Runtime some seconds after the first session (with a device id and
the path of the executable). $LATENTRT_TELEMETRY=1 lets them.
"""

# The packages leave most of their API untyped.
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import importlib
import os
import sys
import threading
from typing import Any, Final

from latentrt.engines.process import keep_in_children

VARIABLE: Final = "LATENTRT_TELEMETRY"
_OPENVINO_REPORTS: Final = "openvino_telemetry"
_ONNXRUNTIME_SWITCH: Final = "ORT_DISABLE_TELEMETRY"
_IMPORTING: Final = threading.Lock()


def onnxruntime() -> Any:
    """The package; raises `ImportError`."""
    allowed = telemetry()
    if not allowed:
        # Read once, when the library is loaded: no identifier is written and no thread started.
        os.environ.setdefault(_ONNXRUNTIME_SWITCH, "1")
    package = importlib.import_module("onnxruntime")
    if not allowed:
        # What stops most events of builds that do not know the variable, or were loaded before.
        getattr(package, "disable_telemetry_events", lambda: None)()
    keep_in_children(package)
    return package


def openvino() -> Any:
    """The package; raises `ImportError`."""
    if telemetry() or "openvino" in sys.modules:
        return importlib.import_module("openvino")
    with _IMPORTING:
        modules: dict[str, Any] = sys.modules
        before = modules.get(_OPENVINO_REPORTS)
        modules[_OPENVINO_REPORTS] = None  # not to be found: OpenVINO takes a stub of its own
        try:
            return importlib.import_module("openvino")
        finally:
            del modules[_OPENVINO_REPORTS]  # others may import it
            if before is not None:
                modules[_OPENVINO_REPORTS] = before


def telemetry() -> bool:
    """Whether the packages may report, which they may not by default."""
    return os.environ.get(VARIABLE, "").strip().lower() in ("1", "true", "yes", "on")
