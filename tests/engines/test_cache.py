"""The cache: what is a hit, what a miss says; nothing torn, changed or foreign is loaded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentrt.bundle.errors import (
    BuildFailed,
    FileError,
    InputError,
    ShapeNotBuilt,
    VerificationFailed,
)
from latentrt.bundle.spec import TensorSpec
from latentrt.engines import cache as cache_module
from latentrt.engines.artefact import Artefact
from latentrt.engines.backends import Chosen, Progress, Status
from latentrt.engines.cache import Cache, engine_key
from latentrt.engines.engine import Arrays, Blueprint, Engine, Options
from latentrt.engines.function import FunctionEngine

IDENTITY = {"version": "1.0.0", "device": "a CPU", "instruction sets": "avx", "driver": "7"}
VECTOR = TensorSpec("vector", ("batch",))
ROOT = Path(__file__).parents[2]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_from(path: Path) -> dict[str, Any]:
    """A file in place of a blueprint's weights, and the digests with its own."""
    return {"weights": path, "digests": ("1" * 64, sha256(path))}


BLUEPRINT = Blueprint(
    component="unet",
    graph=Path("unet.onnx"),
    inputs=(VECTOR,),
    outputs=(VECTOR,),
    sizes={"batch": 2},
    **read_from(ROOT / "LICENSE"),
)
GOOD: Mapping[str, Any] = {"relative": 1e-7}


class Adding:
    """A backend whose artefacts are text files; it adds what they say."""

    PRECISIONS: Mapping[str, tuple[str, ...]] = {"float32": ("fp32", "bf16")}
    OPTIONS: frozenset[str] = frozenset({"threads", "arena"})
    TIMED: bool = False

    def __init__(self, **identity: str) -> None:
        self.built = 0
        self._identity = {**IDENTITY, **identity}

    def status(self) -> Status:
        return Status("adding", "1")

    def identity(self, options: Options) -> dict[str, str]:
        return self._identity

    def compile(self, blueprint: Blueprint, options: Options) -> Engine:
        raise NotImplementedError

    def build(
        self,
        blueprint: Blueprint,
        options: Options,
        folder: Path,
        *,
        progress: Progress | None = None,
    ) -> None:
        self.built += 1
        (folder / "deep").mkdir()
        (folder / "deep" / "addend").write_text("1")
        (folder / "padding").write_text("0" * 1000)

    def load(self, blueprint: Blueprint, options: Options, folder: Path) -> Engine:
        addend = float((folder / "deep" / "addend").read_text())

        def add(inputs: Arrays) -> dict[str, Any]:
            return {"vector": inputs["vector"] + np.float32(addend)}

        inputs, outputs = blueprint.fixed_inputs, blueprint.fixed_outputs
        return FunctionEngine(blueprint.component, inputs, outputs, add)


class Guarding:
    """A guard that counts its checks; these find what is `today`, or nothing that is good."""

    def __init__(self) -> None:
        self.asked = 0
        self.today = GOOD
        self.good = True
        self.refused = ""

    def refusal(self, verification: Mapping[str, Any]) -> str:
        return self.refused

    def holds(self, verification: Mapping[str, Any]) -> bool:
        return verification == self.today

    def prepare(self) -> Callable[[Engine], Mapping[str, Any]]:
        def check(engine: Engine) -> Mapping[str, Any]:
            self.asked += 1
            if not self.good:
                raise VerificationFailed("unet: 0.5")
            return self.today

        return check


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def guard() -> Guarding:
    return Guarding()


def stored(cache: Cache) -> Artefact:
    (artefact,) = cache.artefacts()
    return artefact


def test_the_second_time_is_a_hit_and_gives_the_same_engine(cache: Cache) -> None:
    backend = Adding()
    first = cache.open(Chosen("adding", backend, Options()), BLUEPRINT)
    second = cache.open(Chosen("adding", backend, Options()), BLUEPRINT)
    again = Cache(cache.path).open(Chosen("adding", Adding(), Options()), BLUEPRINT)
    assert [opened.hit for opened in (first, second, again)] == [False, True, True]
    assert backend.built == 1
    for opened in (first, second, again):
        result = opened.engine({"vector": np.zeros(2, np.float32)})
        assert np.array_equal(result["vector"], np.ones(2))


# Field of the key as a miss names it, and what changes it.
CHANGES: dict[str, Any] = {
    "schema 8 -> 9": "schema",
    "graph 111111111111 -> 333333333333": {"digests": ("3" * 64, sha256(ROOT / "LICENSE"))},
    "weights {old} -> {new}": read_from(ROOT / "CHANGELOG.md"),
    "sizes batch=2 -> batch=3": {"sizes": {"batch": 3}},
    "precision fp32 -> bf16": Options(precision="bf16"),
    "threads None -> 1": Options(threads=1),
    "arena True -> False": Options(arena=False),
    "adding version 1.0.0 -> 1.0.1": Adding(version="1.0.1"),
    "adding device a CPU -> another CPU": Adding(device="another CPU"),
    "adding instruction sets avx -> avx2": Adding(**{"instruction sets": "avx2"}),
    "adding driver 7 -> 8": Adding(driver="8"),
    "adding capability (none) -> 8.9": Adding(capability="8.9"),
}


@pytest.mark.parametrize("message", sorted(CHANGES))
def test_a_change_of_any_field_is_a_miss_that_names_it(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    cache.open(Chosen("adding", Adding(), Options()), BLUEPRINT)
    # Farther away, and of another component: neither is the nearest.
    cache.open(Chosen("adding", Adding(driver="1", device="2"), Options()), BLUEPRINT)
    cache.open(Chosen("adding", Adding(), Options()), replace(BLUEPRINT, component="vae_decoder"))
    change = CHANGES[message]
    backend: Any = change if isinstance(change, Adding) else Adding()
    options = change if isinstance(change, Options) else Options()
    blueprint = replace(BLUEPRINT, **change) if isinstance(change, dict) else BLUEPRINT
    old, new = (sha256(b.weights)[:12] for b in (BLUEPRINT, blueprint))
    message = message.format(old=old, new=new)
    if change == "schema":
        monkeypatch.setattr(cache_module, "SCHEMA", "9")
    with pytest.raises(ShapeNotBuilt) as raised:
        cache.open(Chosen("adding", backend, options), blueprint, build="never")
    assert str(raised.value) == f"unet: not built: {message}"
    opened = cache.open(Chosen("adding", backend, options), blueprint)
    assert (opened.hit, opened.reason) == (False, message)
    assert cache.open(Chosen("adding", backend, options), blueprint, build="never").hit


def test_another_engine_or_component_is_a_miss(cache: Cache) -> None:
    cache.open(Chosen("adding", Adding(), Options()), BLUEPRINT)
    assert (
        "engine adding -> other"
        in cache.open(Chosen("other", Adding(), Options()), BLUEPRINT).reason
    )
    decoder = replace(BLUEPRINT, component="vae_decoder")
    with pytest.raises(ShapeNotBuilt, match="vae_decoder: not built: nothing is stored"):
        cache.open(Chosen("adding", Adding(), Options()), decoder, build="never")


def test_every_field_of_the_key_is_among_the_changes() -> None:
    key = engine_key(Chosen("adding", Adding(), Options()), BLUEPRINT)
    assert len(key) >= 10
    named = [field for field in key if any(c.startswith(f"{field} ") for c in CHANGES)]
    assert sorted({*key} - {*named}) == ["component", "engine"]  # in the test above


def test_a_blueprint_without_digests_is_refused(cache: Cache) -> None:
    with pytest.raises(InputError, match="digests"):
        cache.open(Chosen("adding", Adding(), Options()), replace(BLUEPRINT, digests=None))


@pytest.mark.parametrize("name", ["files/deep/addend", "files/padding", "record"])
def test_a_flipped_byte_is_refused_and_built_again(cache: Cache, name: str) -> None:
    cache.open(Chosen("adding", Adding(), Options()), BLUEPRINT)
    path = stored(cache).path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ShapeNotBuilt, match=r"stored engine is refused: .*(has changed|HMAC)"):
        cache.open(Chosen("adding", Adding(), Options()), BLUEPRINT, build="never")
    opened = cache.open(Chosen("adding", Adding(), Options()), BLUEPRINT)
    assert not opened.hit
    assert "the stored engine is refused" in opened.reason
    assert cache.open(Chosen("adding", Adding(), Options()), BLUEPRINT).hit


def _add_file(path: Path) -> None:
    (path / "files" / "more").write_text("code")


def _remove_file(path: Path) -> None:
    (path / "files" / "padding").unlink()


def _take_the_proof(path: Path) -> None:
    record = path / "record"
    record.write_bytes(record.read_bytes().partition(b"\n")[2])


def _cut_the_record(path: Path) -> None:
    record = path / "record"
    record.write_bytes(record.read_bytes()[:200])


@pytest.mark.parametrize("spoil", [_add_file, _remove_file, _take_the_proof, _cut_the_record])
def test_an_engine_with_more_or_less_than_was_written_is_refused(cache: Cache, spoil: Any) -> None:
    cache.open(Chosen("adding", Adding(), Options()), BLUEPRINT)
    spoil(stored(cache).path)
    with pytest.raises(ShapeNotBuilt, match="the stored engine is refused"):
        cache.open(Chosen("adding", Adding(), Options()), BLUEPRINT, build="never")
    assert not cache.open(Chosen("adding", Adding(), Options()), BLUEPRINT).hit


def test_an_engine_built_in_another_cache_is_refused(cache: Cache, tmp_path: Path) -> None:
    other = Cache(tmp_path / "other")
    other.open(Chosen("adding", Adding(), Options()), BLUEPRINT)
    cache.open(Chosen("adding", Adding(), Options()), replace(BLUEPRINT, component="vae_decoder"))
    source = stored(other).path
    shutil.copytree(source, cache.path / "engines" / source.name)
    with pytest.raises(ShapeNotBuilt, match="was not written here"):
        cache.open(Chosen("adding", Adding(), Options()), BLUEPRINT, build="never")


def test_an_engine_under_the_name_of_another_is_refused(cache: Cache) -> None:
    cache.open(Chosen("adding", Adding(), Options()), BLUEPRINT)
    first = stored(cache).path
    larger = replace(BLUEPRINT, sizes={"batch": 3})
    cache.open(Chosen("adding", Adding(), Options()), larger)
    second = next(a.path for a in cache.artefacts() if a.path != first)
    shutil.rmtree(second)
    shutil.copytree(first, second)
    with pytest.raises(ShapeNotBuilt, match="is another engine's"):
        cache.open(Chosen("adding", Adding(), Options()), larger, build="never")


@pytest.mark.skipif(os.name == "nt", reason="permissions are others there")
@pytest.mark.parametrize(("name", "mode"), [("engines", 0o770), ("secret", 0o640)])
def test_a_cache_that_others_may_write_or_whose_secret_they_may_read_is_refused(
    cache: Cache, name: str, mode: int
) -> None:
    cache.open(Chosen("adding", Adding(), Options()), BLUEPRINT)
    path = cache.path / name
    kept = stat.S_IMODE(path.stat().st_mode)
    assert kept == (0o700 if name == "engines" else 0o600)
    path.chmod(mode)
    with pytest.raises(FileError, match="is open to other users"):
        cache.open(Chosen("adding", Adding(), Options()), BLUEPRINT)
    path.chmod(kept)
    assert cache.open(Chosen("adding", Adding(), Options()), BLUEPRINT).hit


def test_an_engine_that_fails_its_check_is_not_stored(cache: Cache, guard: Guarding) -> None:
    guard.good = False
    with pytest.raises(VerificationFailed, match=r"0\.5"):
        cache.open(Chosen("adding", Adding(), Options()), BLUEPRINT, guard=guard)
    assert cache.artefacts() == []
    assert list((cache.path / "engines").iterdir()) == []


def test_the_record_of_the_check_is_kept_and_not_made_again(cache: Cache, guard: Guarding) -> None:
    for _ in range(2):
        opened = cache.open(Chosen("adding", Adding(), Options()), BLUEPRINT, guard=guard)
        assert opened.verification == GOOD
    assert guard.asked == 1
    assert stored(cache).verification == GOOD


def test_a_record_that_holds_no_more_is_made_again_and_kept(cache: Cache, guard: Guarding) -> None:
    chosen = Chosen("adding", Adding(), Options())
    cache.open(chosen, BLUEPRINT, guard=guard)
    guard.today = {"relative": 2e-7}
    for _ in range(2):
        opened = cache.open(chosen, BLUEPRINT, guard=guard)
        assert (opened.hit, opened.verification) == (True, guard.today)
        assert guard.asked == 2
    assert stored(cache).verification == guard.today
    guard.today, guard.good = GOOD, False
    with pytest.raises(VerificationFailed, match=r"0\.5"):
        cache.open(chosen, BLUEPRINT, guard=guard)


def test_an_engine_whose_record_is_not_good_enough_today_is_refused_and_built_again(
    cache: Cache, guard: Guarding
) -> None:
    backend = Adding()
    chosen = Chosen("adding", backend, Options())
    cache.open(chosen, BLUEPRINT, guard=guard)
    guard.refused = "it is 0.5 off"
    with pytest.raises(ShapeNotBuilt, match=r"the stored engine is refused: it is 0\.5 off"):
        cache.open(chosen, BLUEPRINT, guard=guard, build="never")
    opened = cache.open(chosen, BLUEPRINT, guard=guard)
    assert (opened.hit, opened.reason) == (False, "the stored engine is refused: it is 0.5 off")
    assert (backend.built, guard.asked) == (2, 2)


# Others at the same cache.


class Removing(Adding):
    """Whose artefact is removed just before it is loaded, as `latentrt cache --remove` does."""

    def __init__(self, cache: Cache, error: Exception | None = None) -> None:
        super().__init__()
        self.cache = cache
        self.error = error

    def load(self, blueprint: Blueprint, options: Options, folder: Path) -> Engine:
        for artefact in self.cache.artefacts():
            self.cache.remove(artefact)
            if self.error is not None:
                raise self.error
        return super().load(blueprint, options, folder)


@pytest.mark.parametrize("error", [None, BuildFailed("no such file")], ids=["file", "backend"])
def test_an_engine_that_is_removed_while_it_is_loaded_is_built_again(
    cache: Cache, error: Exception | None
) -> None:
    backend = Removing(cache, error)
    chosen = Chosen("adding", backend, Options())
    cache.open(chosen, BLUEPRINT)
    opened = cache.open(chosen, BLUEPRINT)
    assert (opened.hit, backend.built) == (False, 2)
    with pytest.raises(ShapeNotBuilt, match="nothing is stored for unet"):
        cache.open(chosen, BLUEPRINT, build="never")


def test_an_engine_that_is_there_and_does_not_load_says_why(cache: Cache) -> None:
    class Broken(Adding):
        def load(self, blueprint: Blueprint, options: Options, folder: Path) -> Engine:
            raise BuildFailed("unet: no such driver")

    cache.open(Chosen("adding", Adding(), Options()), BLUEPRINT)
    with pytest.raises(BuildFailed, match="no such driver"):
        cache.open(Chosen("adding", Broken(), Options()), BLUEPRINT)


def test_a_cache_elsewhere_needs_nothing_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()  # where no folder can be made
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path / "file"))
    cache = Cache(tmp_path / "elsewhere")
    chosen = Chosen("adding", Adding(), Options())
    assert not cache.open(chosen, BLUEPRINT).hit
    other = replace(BLUEPRINT, sizes={"batch": 3})
    assert cache.store(chosen, other, pending="no such GPU")[0] is False
    assert cache.open(chosen, BLUEPRINT).hit


def test_the_limit_removes_what_was_not_used_longest(cache: Cache) -> None:
    for batch in (1, 2, 3):
        cache.open(
            Chosen("adding", Adding(), Options()), replace(BLUEPRINT, sizes={"batch": batch})
        )
    for n, artefact in enumerate(cache.artefacts()):
        os.utime(artefact.path / "record", (1000 + n, 1000 + n))
    first = cache.artefacts()[0].key["sizes"]
    batch = int(first.removeprefix("batch="))
    cache.open(Chosen("adding", Adding(), Options()), replace(BLUEPRINT, sizes={"batch": batch}))
    before = cache.artefacts()
    assert before[-1].key["sizes"] == first  # used last now
    assert cache.limit(sum(a.size for a in before)) == []
    removed = cache.limit(before[-1].size)
    assert [a.path for a in removed] == [a.path for a in before[:2]]
    assert [a.key["sizes"] for a in cache.artefacts()] == [first]
    cache.remove(cache.artefacts()[0])
    assert cache.artefacts() == []


def test_the_folder_is_the_argument_or_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path / "variable"))
    assert Cache().path == tmp_path / "variable"
    assert Cache(tmp_path / "argument").path == tmp_path / "argument"
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="LATENTRT_CACHE"):
        Cache(tmp_path / "file").open(Chosen("adding", Adding(), Options()), BLUEPRINT)


PROCESS = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.engines.test_cache import BLUEPRINT, Adding
from latentrt.engines.backends import Chosen
from latentrt.engines.cache import Cache
from latentrt.engines.engine import Options

class Slow(Adding):
    def build(self, blueprint, options, folder, *, progress=None):
        time.sleep(0.5)
        super().build(blueprint, options, folder)

cache = Cache(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
backend = Slow()
opened = cache.open(Chosen("adding", backend, Options()), BLUEPRINT)
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
from tests.engines.test_cache import BLUEPRINT, Adding
from latentrt.engines.backends import Chosen
from latentrt.engines.cache import Cache
from latentrt.engines.engine import Options
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
            Cache(place).open(Chosen("adding", Writing(), Options()), BLUEPRINT)
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
    return [a.problem for a in Cache(place).artefacts()]

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
        Cache(place).open(Chosen("adding", Writing(), Options()), BLUEPRINT, build="never")
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
        def load(self, blueprint: Blueprint, options: Options, folder: Path) -> Engine:
            cache.sweep()
            seen.append(folder.is_dir())
            return super().load(blueprint, options, folder)

    cache.open(Chosen("adding", Sweeping(), Options()), BLUEPRINT)
    assert seen == [True]
    left = stored(cache).path
    left.rename(left.with_name(f".{left.name}.partial-1"))
    cache.sweep()
    assert list((cache.path / "engines").iterdir()) == []
