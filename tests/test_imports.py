"""The rooms: what importing the runtime loads, and that configuration and folders agree."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from latentrt import runtime

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("torch", "onnx", "transformers", "diffusers", "openvino", "tensorrt", "onnxruntime")
LOADED = {
    "runtime": "from latentrt.runtime import *",
    **{
        room: "\n".join(
            f"import latentrt.{room}.{path.stem}"
            for path in sorted((ROOT / room / "latentrt" / room).glob("[a-z]*.py"))
        )
        for room in ("bundle", "graphs", "weights")
    },
}
PRINT = """
import sys
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
LAYERS = next(c for c in PYPROJECT["importlinter"]["contracts"] if c["type"] == "layers")["layers"]
ROOMS = sorted(
    room.strip().removeprefix("latentrt.") for layer in LAYERS for room in layer.split("|")
)


def test_a_name_that_the_runtime_has_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'pipeline_of'"):
        _ = runtime.pipeline_of  # pyright: ignore[reportAttributeAccessIssue]
    assert dir(runtime) == sorted(runtime.__all__)


@pytest.mark.parametrize("room", LOADED)
def test_a_rooms_names_load_no_inference_or_export_library(room: str) -> None:
    # In a process of its own: other tests have loaded these libraries into this one.
    done = subprocess.run(
        [sys.executable, "-c", LOADED[room] + PRINT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "latentrt" in loaded
    assert loaded.isdisjoint(HEAVY), sorted(loaded.intersection(HEAVY))


@pytest.mark.parametrize("room", ROOMS)
def test_room_is_an_import_root_of_the_one_namespace(room: str) -> None:
    assert (ROOT / room / "latentrt" / room).is_dir()
    assert not (ROOT / room / "latentrt" / "__init__.py").exists()


def test_every_tool_is_configured_for_the_same_rooms() -> None:
    hatch = PYPROJECT["hatch"]["build"]
    assert sorted(hatch["dev-mode-dirs"]) == ROOMS
    assert sorted(hatch["targets"]["wheel"]["packages"]) == [f"{room}/latentrt" for room in ROOMS]
    assert sorted(PYPROJECT["importlinter"]["root_packages"]) == [f"latentrt.{r}" for r in ROOMS]
    # Beside them, scripts.
    beside = {"tests", "models/shapes", "benchmarks/scripts"}
    assert sorted(set(PYPROJECT["ruff"]["src"]) - beside) == ROOMS
    assert sorted(set(PYPROJECT["pyright"]["include"]) - beside) == ROOMS
