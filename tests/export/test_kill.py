"""An export that is killed at any moment leaves a whole bundle or none, and the next one works."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import make_checkpoint

from latentrt.bundle.bundle import Bundle

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

KILLS = 20

# Exports in forked children, so that libraries are imported once and graphs need no tracing.
# Kills each at a moment drawn from the time that a whole export took, and prints what it left. The
# second half of the children replace a bundle that was made from the other of two checkpoints.
SERVER = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path

import torch

from latentrt.bundle.bundle import Bundle
from latentrt.export.export import export

place, kills = Path(sys.argv[1]), int(sys.argv[2])
checkpoints = [Path(path) for path in sys.argv[3:]]
destination = place / "bundle"
torch.set_num_threads(1)  # threads do not survive a fork


def start(checkpoint, force):
    child = os.fork()
    if child == 0:
        try:
            export(checkpoint, destination, force=force)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return child


def whole(checkpoint):
    assert os.waitpid(start(checkpoint, True), 0)[1] == 0


def state():
    # Raises unless the bundle is whole.
    return Bundle.open(destination, verify=True).manifest.source if destination.exists() else None


durations = []
for _ in range(4):
    began = time.monotonic()
    whole(checkpoints[0])
    durations.append(time.monotonic() - began)
duration = min(durations)
rng = random.Random(20)
for kill in range(2 * kills):
    force = kill >= kills
    if force and not destination.exists():
        whole(checkpoints[0])
    elif not force:
        shutil.rmtree(destination, ignore_errors=True)
    before = state()
    new = next(path for path in checkpoints if path.name != before)
    child = start(new, force)
    time.sleep(rng.uniform(0, duration))
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = {
        "force": force,
        "status": status,
        "before": before,
        "new": new.name,
        "after": state(),
        "hidden": sorted(path.name for path in place.iterdir() if path != destination),
    }
    if kill % 10 == 9:
        whole(new)
        left["next"] = [state(), sorted(path.name for path in place.iterdir())]
    print(json.dumps(left), flush=True)
"""


@pytest.fixture(scope="module")
def checkpoints(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Two checkpoints of one configuration."""
    other = tmp_path_factory.mktemp("other") / "other"
    return checkpoint("heads"), make_checkpoint(other, "heads", seed=1)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where killed exports have their temporary files."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def killed(
    bundle: Callable[[str], Path],
    checkpoints: tuple[Path, Path],
    scratch: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, Any]]:
    """What each killed export left: `KILLS` new ones, then `KILLS` that replace."""
    place = tmp_path_factory.mktemp("place")
    done = subprocess.run(
        [sys.executable, "-c", SERVER, place, str(KILLS), *checkpoints],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    left = [json.loads(line) for line in done.stdout.splitlines()]
    assert [kill["force"] for kill in left] == [False] * KILLS + [True] * KILLS
    # Status 0: the export was done before it was to be killed.
    assert {kill["status"] for kill in left} <= {-signal.SIGKILL, 0}, done.stderr
    return left


def test_a_killed_export_leaves_a_whole_bundle_or_none(killed: list[dict[str, Any]]) -> None:
    for kill in killed[:KILLS]:
        assert kill["before"] is None
        assert kill["after"] in (None, kill["new"])
        assert kill["after"] == kill["new"] or kill["status"] != 0


def test_a_killed_replacement_leaves_the_old_bundle_or_the_new_or_none(
    killed: list[dict[str, Any]],
) -> None:
    for kill in killed[KILLS:]:
        assert {kill["before"], kill["new"]} == {"heads", "other"}
        assert kill["after"] in (None, kill["before"], kill["new"])
        assert kill["after"] == kill["new"] or kill["status"] != 0
    # None only between two renames, far below a thousandth of an export.
    assert sum(kill["after"] is None for kill in killed[KILLS:]) <= 1


def test_the_next_export_works_and_removes_what_killed_ones_left(
    killed: list[dict[str, Any]], scratch: Path
) -> None:
    nexts = [(kill["new"], kill["next"]) for kill in killed if "next" in kill]
    assert nexts == [(new, [new, ["bundle"]]) for new, _ in nexts]
    assert len(nexts) == 2 * KILLS // 10
    assert list(scratch.iterdir()) == []


def test_many_kills_hit_an_export_under_way(killed: list[dict[str, Any]]) -> None:
    # Else the other tests of this file would say nothing.
    for half in (killed[:KILLS], killed[KILLS:]):
        assert sum(kill["status"] != 0 for kill in half) > KILLS // 3
        assert sum(kill["hidden"] != [] for kill in half) > KILLS // 6


COMMAND = "from latentrt.cli.main import main; main()"


@pytest.mark.slow
@pytest.mark.parametrize("force", [False, True])
def test_a_killed_command_leaves_a_whole_bundle_or_none(
    checkpoints: tuple[Path, Path], tmp_path: Path, force: bool
) -> None:
    place = tmp_path / "place"
    destination = place / "bundle"

    def start(checkpoint: Path, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", COMMAND, "export", checkpoint, destination, *options]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    began = time.monotonic()
    assert start(checkpoints[0]).wait() == 0
    duration = time.monotonic() - began
    rng = random.Random(21)
    statuses: list[int] = []
    for _ in range(10):
        if not force:
            shutil.rmtree(destination, ignore_errors=True)
        with start(checkpoints[1], *(["--force"] if force else [])) as process:
            time.sleep(rng.uniform(0, duration))
            process.kill()
        statuses.append(process.returncode)
        if destination.exists():
            source = Bundle.open(destination, verify=True).manifest.source
            assert source in (("heads", "other") if force else ("other",))
        else:
            assert process.returncode != 0
    assert set(statuses) <= {0, -signal.SIGKILL}
    assert -signal.SIGKILL in statuses
    assert start(checkpoints[0], "--force").wait() == 0
    assert Bundle.open(destination, verify=True).manifest.source == "heads"
    assert [path.name for path in place.iterdir()] == ["bundle"]
