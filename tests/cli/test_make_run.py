"""`make run`: a second one takes seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Stands for `latentrt`: notes its command, and exports an empty manifest.
PROGRAM = """#!/bin/sh
echo "$1" >> commands
[ "$1" != export ] || { mkdir -p "$3" && touch "$3/manifest.json"; }
"""
DECIDING = (
    "models/shapes/model_index.json",
    "models/shapes/unet/diffusion_pytorch_model.safetensors",
    "export/latentrt/export/export.py",
    "bundle/latentrt/bundle/manifest.py",
)


@pytest.mark.parametrize("name", DECIDING)
def test_make_run_exports_once_and_again_when_something_changed(tmp_path: Path, name: str) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for path in (*DECIDING, "pyproject.toml", "constraints.txt", "stamp", "bin/latentrt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
        os.utime(tmp_path / path, (1e9, 1e9))
    (tmp_path / "bin" / "latentrt").write_text(PROGRAM)
    (tmp_path / "bin" / "latentrt").chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "MAKEFLAGS"}

    def run() -> list[str]:
        (tmp_path / "commands").unlink(missing_ok=True)
        command = ["make", "run", "BIN=bin", "STAMP=stamp"]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
        return (tmp_path / "commands").read_text().split()

    assert run() == ["export", "generate"]
    assert run() == ["generate"]
    later = (tmp_path / "build" / "shapes" / "manifest.json").stat().st_mtime + 60
    os.utime(tmp_path / name, (later, later))
    assert run() == ["export", "generate"]
