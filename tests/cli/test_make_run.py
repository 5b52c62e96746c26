"""`make run` draws from the checkpoint that ships, and prints where the picture is."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Stands for `latentrt`: prints its command.
PROGRAM = """#!/bin/sh
echo "$1 $2"
"""


def test_make_run_draws_from_the_checkpoint_without_an_export(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for path in ("pyproject.toml", "constraints.txt", "stamp", "bin/latentrt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
        os.utime(tmp_path / path, (1e9, 1e9))
    (tmp_path / "bin" / "latentrt").write_text(PROGRAM)
    (tmp_path / "bin" / "latentrt").chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key != "MAKEFLAGS"}
    command = ["make", "--silent", "run", "BIN=bin", "STAMP=stamp"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == ["generate models/shapes"]
