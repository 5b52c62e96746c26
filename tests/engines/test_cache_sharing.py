"""Others at the same cache: who builds, who removes, who is killed, and who waits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.engines.adding import BLUEPRINT, ROOT, Adding, choice, stored

from latentrt.bundle.errors import BuildFailed, ShapeNotBuilt
from latentrt.engines.cache.cache import Cache
from latentrt.engines.engine import Blueprint, Engine


class Removing(Adding):
    """Whose entry is removed just before it is loaded, as `latentrt cache --remove` does."""

    def __init__(self, cache: Cache, error: Exception | None = None) -> None:
        super().__init__()
        self.cache = cache
        self.error = error

    def load(self, blueprint: Blueprint, options: Any, folder: Path) -> Engine:
        for entry in self.cache.entries():
            self.cache.remove(entry)
            if self.error is not None:
                raise self.error
        return super().load(blueprint, options, folder)


@pytest.mark.parametrize("error", [None, BuildFailed("no such file")], ids=["file", "backend"])
def test_an_engine_that_is_removed_while_it_is_loaded_is_built_again(
    cache: Cache, error: Exception | None
) -> None:
    backend = Removing(cache, error)
    chosen = choice(backend)
    cache.open(chosen, BLUEPRINT)
    opened = cache.open(chosen, BLUEPRINT)
    assert (opened.hit, backend.built) == (False, 2)
    with pytest.raises(ShapeNotBuilt, match="nothing is stored for unet"):
        cache.open(chosen, BLUEPRINT, build="never")


PROCESS = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.engines.adding import BLUEPRINT, Adding, choice
from latentrt.engines.cache.cache import Cache

class Slow(Adding):
    def build(self, blueprint, options, folder, *, progress=None):
        time.sleep(0.5)
        super().build(blueprint, options, folder)

cache = Cache(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
backend = Slow()
opened = cache.open(choice(backend), BLUEPRINT)
print(backend.built, opened.hit)
"""


def test_eight_processes_at_once_build_once(cache: Cache) -> None:
    command = [sys.executable, "-c", PROCESS, str(ROOT), str(cache.path)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = sorted(process.communicate()[0].strip() for process in started)
    assert said == ["0 True"] * 7 + ["1 False"]


KILLED = """
import json, os, random, shutil, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.engines.adding import BLUEPRINT, Adding, choice
from latentrt.engines.cache.cache import Cache
import filelock

place, kills = Path(sys.argv[2]), int(sys.argv[3])

class Writing(Adding):
    def build(self, blueprint, options, folder, *, progress=None):
        super().build(blueprint, options, folder)
        with open(folder / "large", "wb") as file:
            for _ in range(64):
                file.write(os.urandom(1 << 14))

def start():
    child = os.fork()
    if child == 0:
        try:
            Cache(place).open(choice(Writing()), BLUEPRINT)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return child

def wipe():
    for path in (place / "engines").glob("*"):
        if not path.name.startswith("."):
            shutil.rmtree(path)

def state():
    return [a.problem for a in Cache(place).entries()]

durations = []
for _ in range(4):
    wipe()
    began = time.monotonic()
    assert os.waitpid(start(), 0)[1] == 0
    durations.append(time.monotonic() - began)
rng = random.Random(4)
for kill in range(kills):
    wipe()
    child = start()
    time.sleep(rng.uniform(0, min(durations)))
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    hidden = len(list((place / "engines").glob(".*")))
    problems = state()
    if problems:  # whole: it loads, each file's hash checked
        Cache(place).open(choice(Writing()), BLUEPRINT, build="never")
    print(json.dumps([status, hidden, problems]), flush=True)
wipe()
assert os.waitpid(start(), 0)[1] == 0
print(json.dumps([0, len(list((place / "engines").glob(".*"))), state()]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")
def test_100_kills_leave_no_torn_engine_and_the_next_build_works(cache: Cache) -> None:
    command = [sys.executable, "-c", KILLED, str(ROOT), str(cache.path), "100"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *killed, last = (json.loads(line) for line in done.stdout.splitlines())
    assert len(killed) == 100
    for status, _, problems in killed:
        assert status in (0, -signal.SIGKILL), done.stderr
        assert problems == [""] if status == 0 else problems in ([], [""])
    # Else this would say nothing.
    assert sum(status != 0 for status, _, _ in killed) > 33
    assert sum(hidden for _, hidden, _ in killed) > 16
    assert last == [0, 0, [""]]


def test_sweeping_leaves_builds_under_way_alone(cache: Cache) -> None:
    seen: list[bool] = []

    class Sweeping(Adding):
        def load(self, blueprint: Blueprint, options: Any, folder: Path) -> Engine:
            cache.sweep()
            seen.append(folder.is_dir())
            return super().load(blueprint, options, folder)

    cache.open(choice(Sweeping()), BLUEPRINT)
    assert seen == [True]
    left = stored(cache).path
    left.rename(left.with_name(f".{left.name}.partial-1"))
    cache.sweep()
    assert list((cache.path / "engines").iterdir()) == []
