"""The work of `latentrt doctor`: what works on this machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from dataclasses import asdict
from typing import Any, Final

from latentrt.cli.table import print_table
from latentrt.engines.cuda.device import Missing, gpu
from latentrt.engines.options import described
from latentrt.engines.registry import BACKENDS, PRECISIONS, Backend, Status

_EXPORT: Final = ("torch", "diffusers", "transformers", "onnx", "onnxscript")
_GENERATOR: Final = "generator torch-cuda: compared with published values only, never run on a GPU"


def diagnose() -> dict[str, Any]:
    """Versions, each backend's status, the GPU, and whether checkpoints can be exported."""
    missing = [name for name in _EXPORT if importlib.util.find_spec(name) is None]
    statuses = [(each, each.status()) for each in BACKENDS.values()]
    device = gpu()
    return {
        "latentrt": importlib.metadata.version("latentrt"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "nvidia_gpu": {"found": not isinstance(device, Missing), **asdict(device)},
        "engines": [_engine(each, status) for each, status in statuses],
        "export": {
            "usable": not missing,
            "missing": missing,
            "remedy": "pip install 'latentrt[export]'" if missing else "",
        },
        "unverified": [
            *(f"engine {each.name}: {each.unverified}" for each, _ in statuses if each.unverified),
            _GENERATOR,
        ],
    }


def _engine(backend: Backend, status: Status) -> dict[str, Any]:
    """A backend's status, what it computes in if it works here, and its options."""
    known = backend.precisions.values() if status.usable else ()
    return {
        "name": backend.name,
        **asdict(status),
        "unverified": bool(backend.unverified),
        "precisions": [p for p in PRECISIONS if any(p in computed for computed in known)],
        "options": described(backend.options),
    }


def print_diagnosis(diagnosis: dict[str, Any]) -> None:
    """As an aligned table."""
    head = f"latentrt {diagnosis['latentrt']}, Python {diagnosis['python']}"
    print(f"{head}, {diagnosis['machine']}")
    device = diagnosis["nvidia_gpu"]
    if device["found"]:
        driver = f", driver {device['driver']}" if device["driver"] else ""
        named = f"{device['name']} ({device['target']})"
        print(f"NVIDIA GPU: {named}, CUDA {device['cuda']}{driver}")
    else:
        print(f"NVIDIA GPU: {device['problem']}; {device['remedy']}")
    rows: list[tuple[str, ...]] = []
    for engine in diagnosis["engines"]:
        state = engine["problem"] or ("unverified" if engine["unverified"] else "works")
        devices = ", ".join(engine["devices"])
        version = engine["version"] or "-"
        computed = ", ".join(engine["precisions"])
        rows.append((engine["name"], version, devices, computed, state, engine["remedy"]))
    export = diagnosis["export"]
    state = "works" if export["usable"] else f"missing: {', '.join(export['missing'])}"
    rows.append(("(export)", "", "", "", state, export["remedy"]))
    print_table(("engine", "version", "devices", "computes in", "", "what to do"), rows)
    print("options, as --option NAME=VALUE:")
    for engine in diagnosis["engines"]:
        for name, description in engine["options"].items():
            print(f"  {engine['name']} {name}: {description}")
    for what in diagnosis["unverified"]:
        print(f"unverified: {what}")
