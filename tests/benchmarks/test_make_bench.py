"""`make bench`: what a broken-off one has measured is kept, and the next goes on from there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ORDER = [
    "tests/check_wheel.py",
    "runtime",
    "calls",
    "batching",
    "engines",
    "compare",
    "bench",
    "contest",
    "contest",
    "tables",
]
# Stands for the environment's programs: notes what it was called for, and whether another was at
# work; fails where it is to be broken off.
PROGRAM = """#!/bin/sh
for one in "$@"; do case $one in
    latentrt.benchmarks.*|tests/check_wheel.py|compare|bench) step=${one##latentrt.benchmarks.};;
    export) exec true;;
esac; done
mkdir at-work || step=$step-beside-another
echo "$step" >> steps
sleep 0.02
rmdir at-work
[ "$step" != "$BROKEN" ] || exit 9
while [ $# -gt 1 ] && [ "$1" != --json ]; do shift; done
[ $# -lt 2 ] || echo "{}" > "$2"
echo "{}"
"""

Make = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Runs `make bench` in a folder with the Makefile and programs that do nothing but note it."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    code = tmp_path / "engines" / "latentrt" / "engines" / "engine.py"
    bundle = tmp_path / "build" / "shapes" / "manifest.json"
    needed = [tmp_path / name for name in ("pyproject.toml", "constraints.txt", "stamp")]
    for path in (code, *needed, bundle):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("python", "latentrt"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(PROGRAM)
        program.chmod(0o755)

    def run(*arguments: str, broken: str = "") -> subprocess.CompletedProcess[str]:
        (tmp_path / "steps").unlink(missing_ok=True)
        command = ["make", "bench", "BIN=bin", "STAMP=stamp", *arguments]
        environment = {**os.environ, "BROKEN": broken}
        environment.pop("MAKEFLAGS", None)
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    return run


def steps(folder: Path) -> list[str]:
    return (folder / "steps").read_text().split()


def test_everything_is_measured_in_order_whatever_is_asked_at_once(
    make: Make, tmp_path: Path
) -> None:
    done = make("-j8")
    assert done.returncode == 0, done.stderr
    assert steps(tmp_path) == ORDER
    results = tmp_path / "benchmarks" / "results"
    names = "batching-shapes bench-shapes calls compare-shapes engines peers-shapes peers-sd15"
    expected = {f"{name}.json" for name in (*names.split(), "runtime")}
    assert {path.name for path in results.iterdir()} == expected


def test_what_was_measured_before_it_was_broken_off_is_not_measured_again(
    make: Make, tmp_path: Path
) -> None:
    assert make(broken="engines").returncode != 0
    assert steps(tmp_path) == ORDER[: ORDER.index("engines") + 1]
    assert make(broken="bench").returncode != 0
    assert steps(tmp_path) == ["engines", "compare", "bench"]
    assert not (tmp_path / "benchmarks" / "results" / "bench-shapes.json").exists()
    assert make().returncode == 0
    assert steps(tmp_path) == ["bench", "contest", "contest", "tables"]


def test_one_that_came_to_its_end_is_followed_by_a_whole_one(make: Make, tmp_path: Path) -> None:
    for _ in range(2):
        assert make().returncode == 0
        assert steps(tmp_path) == ORDER


def test_a_change_of_code_begins_anew(make: Make, tmp_path: Path) -> None:
    assert make(broken="contest").returncode != 0
    code = tmp_path / "engines" / "latentrt" / "engines" / "engine.py"
    later = code.stat().st_mtime + 60
    os.utime(code, (later, later))
    assert make(broken="runtime").returncode != 0
    assert steps(tmp_path) == ORDER[:2]


def test_another_place_of_results_begins_anew(make: Make, tmp_path: Path) -> None:
    assert make(broken="contest").returncode != 0
    assert make("RESULTS=elsewhere").returncode == 0
    assert steps(tmp_path) == ORDER
    assert (tmp_path / "elsewhere" / "bench-shapes.json").read_text() == "{}\n"
