"""What works on this machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from dataclasses import asdict
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from latentrt.engines.backends import BACKENDS, backend

_EXPORT: Final = ("torch", "diffusers", "transformers", "onnx", "onnxscript")
_UNVERIFIED: Final = (
    "generator torch-cuda: held against published values only, on no GPU",
    "engine tensorrt: builds with TensorRT for RTX; has loaded and run nothing, on no GPU",
)
_PLANNED: Final = ("onnxruntime-cuda",)


def diagnose() -> dict[str, Any]:
    """Versions, each backend's status, and whether checkpoints can be exported."""
    missing = [name for name in _EXPORT if importlib.util.find_spec(name) is None]
    return {
        "latentrt": importlib.metadata.version("latentrt"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "engines": [asdict(backend(name).status()) for name in BACKENDS],
        "export": {
            "usable": not missing,
            "missing": missing,
            "remedy": "pip install 'latentrt[export]'" if missing else "",
        },
        "unverified": list(_UNVERIFIED),
        "not_built_yet": list(_PLANNED),
    }


def print_diagnosis(diagnosis: dict[str, Any]) -> None:
    """As an aligned table."""
    head = f"latentrt {diagnosis['latentrt']}, Python {diagnosis['python']}"
    print(f"{head}, {diagnosis['machine']}")
    table = Table(box=None)
    for heading in ("engine", "version", "devices", "", "what to do"):
        table.add_column(heading)
    for engine in diagnosis["engines"]:
        state = engine["problem"] or ("unverified" if engine["unverified"] else "works")
        devices = ", ".join(engine["devices"])
        version = engine["version"] or "-"
        table.add_row(engine["name"], version, devices, state, engine["remedy"])
    export = diagnosis["export"]
    state = "works" if export["usable"] else f"missing: {', '.join(export['missing'])}"
    table.add_row("(export)", "", "", state, export["remedy"])
    Console(width=None if Console().is_terminal else 160).print(table, markup=False)
    for what in diagnosis["unverified"]:
        print(f"unverified: {what}")
    print(f"not built yet: {', '.join(diagnosis['not_built_yet'])}")
