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
# work, writes what it is to write, and fails where it is to be broken off.
PROGRAM = """#!/bin/sh
for one in "$@"; do case $one in
    latentrt.benchmarks.*|tests/check_wheel.py|compare|bench) step=${one##latentrt.benchmarks.};;
    export) exec true;;
esac; done
mkdir at-work || step=$step-beside-another
echo "$step" >> steps
sleep 0.02
[ "$step" != "$EDITED" ] || touch engines/latentrt/engines/engine.py
sleep 0.02
rmdir at-work
[ "$step" != "$BROKEN" ] || exit 9
while [ $# -gt 1 ]; do case $1 in
    --json|--plot|tests/check_wheel.py) echo "{}" > "$2";;
esac; shift; done
echo "{}"
"""
DECIDING = (
    "engines/latentrt/engines/engine.py",
    "benchmarks/peers/drawing.py",
    "tests/check_wheel.py",
    "pyproject.toml",
    "constraints.txt",
)
FILES = {
    *("batching-shapes", "bench-shapes", "calls", "compare-shapes", "engines", "install"),
    *("peers-shapes", "peers-sd15", "runtime"),
}

Make = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Runs `make bench` in a folder with the Makefile and programs that do nothing but note it."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (*DECIDING, "stamp", "build/shapes/manifest.json", "docs/bench.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("python", "latentrt"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(PROGRAM)
        program.chmod(0o755)

    def run(
        *arguments: str, broken: str = "", edited: str = ""
    ) -> subprocess.CompletedProcess[str]:
        (tmp_path / "steps").unlink(missing_ok=True)
        command = ["make", "bench", "BIN=bin", "STAMP=stamp", *arguments]
        environment = {**os.environ, "BROKEN": broken, "EDITED": edited}
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
    assert {path.name for path in results.iterdir()} == {f"{name}.json" for name in FILES}
    assert (tmp_path / "docs" / "bench.png").read_text() == "{}\n"


def test_what_was_measured_before_it_was_broken_off_is_not_measured_again(
    make: Make, tmp_path: Path
) -> None:
    assert make(broken="engines").returncode != 0
    assert steps(tmp_path) == ORDER[: ORDER.index("engines") + 1]
    assert make(broken="bench").returncode != 0
    assert steps(tmp_path) == ["engines", "compare", "bench"]
    # Nothing is there before everything is.
    assert not (tmp_path / "benchmarks" / "results").exists()
    assert make().returncode == 0
    assert steps(tmp_path) == ["bench", "contest", "contest", "tables"]
    results = tmp_path / "benchmarks" / "results"
    assert {path.name for path in results.iterdir()} == {f"{name}.json" for name in FILES}


def test_one_that_came_to_its_end_is_followed_by_a_whole_one(make: Make, tmp_path: Path) -> None:
    for _ in range(2):
        assert make().returncode == 0
        assert steps(tmp_path) == ORDER


@pytest.mark.parametrize("name", DECIDING)
def test_a_change_of_what_decides_it_begins_anew(make: Make, tmp_path: Path, name: str) -> None:
    assert make(broken="contest").returncode != 0
    later = (tmp_path / name).stat().st_mtime + 60
    os.utime(tmp_path / name, (later, later))
    # What the environment is made of makes it anew first, which this one need not be.
    os.utime(tmp_path / "stamp", (later, later))
    os.utime(tmp_path / "build" / "shapes" / "manifest.json", (later, later))
    assert make(broken="runtime").returncode != 0
    assert steps(tmp_path) == ORDER[:2]


def test_what_was_edited_while_something_was_measured_is_not_in_it(
    make: Make, tmp_path: Path
) -> None:
    assert make(broken="batching", edited="calls").returncode != 0
    assert make(broken="batching").returncode != 0
    assert steps(tmp_path) == ORDER[: ORDER.index("batching") + 1]


@pytest.mark.parametrize("place", ["../docs", "../../docs", "../shapes", "../../docs/"])
def test_nothing_is_removed_that_was_there_before(make: Make, tmp_path: Path, place: str) -> None:
    before = set(tmp_path.rglob("*"))
    done = make(f"RESULTS={place}")
    assert done.returncode == 0, done.stderr
    assert before <= set(tmp_path.rglob("*"))


def test_what_another_place_is_to_have_is_kept(make: Make, tmp_path: Path) -> None:
    inner = "RESULTS=benchmarks/results/avx2"
    assert make(inner, broken="engines").returncode != 0
    assert make().returncode == 0
    assert make(inner, broken="compare").returncode != 0
    assert steps(tmp_path) == ["engines", "compare"]


def test_another_place_of_results_begins_anew(make: Make, tmp_path: Path) -> None:
    assert make(broken="contest").returncode != 0
    assert make("RESULTS=elsewhere").returncode == 0
    assert steps(tmp_path) == ORDER
    assert (tmp_path / "elsewhere" / "bench-shapes.json").read_text() == "{}\n"
