"""OpenVINO and ONNX Runtime report nothing to their makers unless they are allowed to."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from latentrt.engines import libraries

ROOT = Path(__file__).resolve().parents[2]
ROOMS = (
    "bundle",
    "graphs",
    "weights",
    "engines",
    "runtime",
    "export",
    "benchmarks/latentrt",
    "cli",
)
IMPORTED = """
import sys, time
from latentrt.engines import libraries
from latentrt.engines.openvino.backend import CPU
openvino, onnxruntime = libraries.openvino(), libraries.onnxruntime()
openvino.Core()
assert CPU.status().usable
reporting = [name for name in sys.modules if name.startswith("openvino_telemetry")]
import threading
print(reporting, [t.name for t in threading.enumerate()])
import openvino_telemetry  # found again by whoever wants it
"""


def test_importing_openvino_reports_nothing_and_writes_nothing(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != libraries.VARIABLE}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    # OpenVINO's package reports nothing from what looks like a build server.
    for name in ("CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[] ['MainThread']"
    assert not list(tmp_path.rglob("*"))


class Recording(types.ModuleType):
    """A stand-in for ONNX Runtime that keeps what it was told."""

    def __init__(self) -> None:
        super().__init__("onnxruntime")
        self.disabled = 0

    def disable_telemetry_events(self) -> None:
        self.disabled += 1


@pytest.mark.parametrize(
    ("value", "disabled"), [(None, 1), ("0", 1), ("", 1), ("1", 0), ("true", 0)]
)
def test_onnxruntime_reports_nothing_unless_allowed(
    monkeypatch: pytest.MonkeyPatch, value: str | None, disabled: int
) -> None:
    package = Recording()
    monkeypatch.setitem(sys.modules, "onnxruntime", package)
    if value is None:
        monkeypatch.delenv(libraries.VARIABLE, raising=False)
    else:
        monkeypatch.setenv(libraries.VARIABLE, value)
    assert libraries.onnxruntime() is package
    assert package.disabled == disabled


@pytest.mark.parametrize("allowed", [False, True])
def test_openvinos_reports_are_hidden_only_while_it_is_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, allowed: bool
) -> None:
    (tmp_path / "openvino.py").write_text(
        "try:\n    import openvino_telemetry\n    found = True\n"
        "except ImportError:\n    found = False\n"
    )
    (tmp_path / "openvino_telemetry.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [n for n in sys.modules if n.partition(".")[0].startswith("openvino")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv(libraries.VARIABLE, "1" if allowed else "0")
    theirs = types.ModuleType("openvino_telemetry")
    monkeypatch.setitem(sys.modules, "openvino_telemetry", theirs)
    package = libraries.openvino()
    monkeypatch.delitem(sys.modules, "openvino")
    assert package.found is allowed
    assert sys.modules["openvino_telemetry"] is theirs


def test_no_other_file_imports_them() -> None:
    found: list[str] = []
    for path in (p for room in ROOMS for p in sorted((ROOT / room).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            if any(name.partition(".")[0] in ("openvino", "onnxruntime") for name in names):
                found.append(str(path.relative_to(ROOT)))
    assert not found


STRACE = ["strace", "-f", "-qq", "-s", "200", "-e", "trace=%network"]
OPENED = """
import sys, time
from latentrt.bundle.bundle import Bundle
from latentrt.engines.registry import backend
from latentrt.engines.engine import Blueprint

bundle = Bundle.open(sys.argv[1])
sizes = {"batch": 1, "height": 8, "width": 8}
for name in ("openvino", "onnxruntime"):
    backend(name).compile(Blueprint.of(bundle, "vae_decoder", sizes))
time.sleep(10)  # ONNX Runtime looks up its first name 9 s after its import
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_engines_look_no_name_up(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    environment = {k: v for k, v in os.environ.items() if k != libraries.VARIABLE}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [*STRACE, "-o", str(calls), sys.executable, "-c", OPENED, str(bundle("heads"))],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Nothing is asked of a name server, nor of a name service of the machine.
    assert not [line for line in calls.read_text("utf-8", "replace").splitlines() if "AF_" in line]
    assert not list(tmp_path.glob("intel")) + list(tmp_path.rglob("*onnxruntime*"))
