"""A cache that cannot be written: engines are made all the same, and not kept."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.adding import BLUEPRINT, GOOD, Adding, Guarding, choice, stored

from latentrt.bundle.errors import BundleError, InputError, ShapeNotBuilt, Unwritable
from latentrt.engines.cache import cache as module
from latentrt.engines.cache.cache import Cache, Opened
from latentrt.engines.engine import Blueprint
from latentrt.engines.registry import Progress

LARGER = replace(BLUEPRINT, sizes={"batch": 3})
NAMED = r"cache: expected a folder that can be written \(\$LATENTRT_CACHE\), got .*"


class Writing(Adding):
    """A backend whose entries are of 256 KB."""

    def build(
        self,
        blueprint: Blueprint,
        options: Any,
        folder: Path,
        *,
        progress: Progress | None = None,
    ) -> None:
        super().build(blueprint, options, folder)
        (folder / "large").write_bytes(bytes(1 << 18))


def adds_one(opened: Opened, rows: int = 2) -> bool:
    """Whether the engine does what it should."""
    return bool(opened.engine({"vector": np.zeros(rows, np.float32)})["vector"].min() == 1)


@pytest.fixture
def warnings() -> Generator[list[str]]:
    """What the library's logger warns of."""
    heard: list[str] = []

    class Hearing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    hearing = Hearing(logging.WARNING)
    logging.getLogger("latentrt").addHandler(hearing)
    yield heard
    logging.getLogger("latentrt").removeHandler(hearing)


Mount = Callable[[str], object]


@pytest.fixture
def mounted(tmp_path: Path) -> Generator[Mount]:
    """Mounts a filesystem of memory at `tmp_path`/cache, or changes it, with options."""
    folder = tmp_path / "cache"
    folder.mkdir()

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "none", folder]
        with contextlib.suppress(FileNotFoundError):
            if subprocess.run(command, capture_output=True).returncode == 0:
                return
        pytest.skip("may not mount")

    yield mount
    subprocess.run(["umount", folder], capture_output=True)


@contextlib.contextmanager
def no_byte_written() -> Generator[None]:
    """As on a full disk: files can be made, and nothing be written to them."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_without_a_usable_cache_engines_are_compiled_with_one_warning(
    tmp_path: Path, warnings: list[str]
) -> None:
    (tmp_path / "file").touch()
    cache, backend, guard = Cache(tmp_path / "file" / "cache"), Adding(), Guarding()
    for blueprint, rows in ((BLUEPRINT, 2), (LARGER, 3), (BLUEPRINT, 2)):
        opened = cache.open(choice(backend), blueprint, guard=guard)
        assert adds_one(opened, rows)
        assert (opened.hit, opened.verification) == (False, GOOD)
        assert opened.unkept is not None
        assert opened.unkept.field == "cache"
    assert (backend.compiled, backend.built, guard.asked) == (3, 0, 3)
    (warning,) = warnings
    assert "$LATENTRT_CACHE" in warning
    assert str(tmp_path / "file" / "cache") in warning


def test_a_kept_engine_logs_nothing(cache: Cache, warnings: list[str]) -> None:
    for _ in range(2):
        assert cache.open(choice(Adding()), BLUEPRINT).unkept is None
    assert warnings == []


def test_without_a_usable_cache_build_never_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = Cache(tmp_path / "file" / "cache")
    with pytest.raises(ShapeNotBuilt, match=f"unet: not built: {NAMED}"):
        cache.open(choice(Adding()), BLUEPRINT, build="never")
    assert cache.entries() == []


def test_weights_that_have_changed_are_refused_without_a_cache_too(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "weights").write_text("changed")
    blueprint = replace(BLUEPRINT, weights=tmp_path / "weights")
    with pytest.raises(BundleError, match="has changed since export"):
        Cache(tmp_path / "file").open(choice(Adding()), blueprint)


def test_a_read_only_cache_loads_its_engines_and_compiles_others(
    tmp_path: Path, mounted: Mount, warnings: list[str]
) -> None:
    mounted("size=1m")
    cache = Cache(tmp_path / "cache")
    chosen = choice(Adding())
    cache.open(chosen, BLUEPRINT, guard=Guarding())
    mounted("remount,ro")
    cache = Cache(tmp_path / "cache")
    backend = Adding()
    chosen = choice(backend)
    assert cache.open(chosen, BLUEPRINT, guard=Guarding(), build="never").hit
    assert warnings == []
    opened = cache.open(chosen, LARGER, guard=Guarding())
    assert adds_one(opened, 3)
    assert opened.unkept is not None
    assert (backend.built, backend.compiled) == (0, 1)
    (warning,) = warnings
    assert "Read-only file system" in warning
    with pytest.raises(Unwritable, match=f"{NAMED}Read-only file system"):
        cache.remove(stored(cache))
    with pytest.raises(Unwritable, match=f"{NAMED}Read-only file system"):
        cache.store(chosen, LARGER, pending="no such GPU")
    assert len(cache.entries()) == 1


def test_an_empty_cache_that_is_only_read_is_none(tmp_path: Path, mounted: Mount) -> None:
    mounted("ro")
    cache = Cache(tmp_path / "cache")
    opened = cache.open(choice(Adding()), BLUEPRINT)
    assert adds_one(opened)
    assert opened.unkept is not None
    assert cache.entries() == []


def test_a_cache_on_a_full_disk_keeps_nothing_and_leaves_nothing(
    tmp_path: Path, mounted: Mount, warnings: list[str]
) -> None:
    mounted("size=128k")
    cache, backend, guard = Cache(tmp_path / "cache"), Writing(), Guarding()
    opened = cache.open(choice(backend), BLUEPRINT, guard=guard)
    assert adds_one(opened)
    assert opened.unkept is not None
    assert (backend.built, backend.compiled, guard.asked) == (1, 1, 1)
    assert list((tmp_path / "cache" / "engines").iterdir()) == []
    (warning,) = warnings
    assert "No space left on device" in warning
    assert "$LATENTRT_CACHE" in warning
    with pytest.raises(Unwritable, match=f"{NAMED}No space left on device"):
        cache.store(choice(backend), LARGER, pending="no such GPU")


def test_an_engine_is_made_where_not_one_byte_can_be_written(
    tmp_path: Path, warnings: list[str]
) -> None:
    cache = Cache(tmp_path / "cache")
    with no_byte_written():
        opened = cache.open(choice(Adding()), BLUEPRINT, guard=Guarding())
    assert adds_one(opened)
    assert opened.unkept is not None
    assert "File too large" in warnings[0]


def test_an_engine_is_not_made_twice_if_only_its_record_cannot_be_written(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise Unwritable("destination", "a place that can be written", "record (full)")

    monkeypatch.setattr(module, "write_record", full)
    backend, guard = Adding(), Guarding()
    opened = cache.open(choice(backend), BLUEPRINT, guard=guard)
    assert adds_one(opened)
    assert (backend.built, backend.compiled, guard.asked) == (1, 0, 1)
    assert cache.entries() == []


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="needs root")
def test_without_write_access_nothing_is_cached(tmp_path: Path) -> None:
    """As in a container that runs as any user: a home that is "/"."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            os.setuid(12345)
            opened = Cache("/.cache").open(choice(Adding()), BLUEPRINT)
            status = int(not (adds_one(opened) and opened.unkept is not None))
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_path_that_no_system_has_is_refused() -> None:
    with pytest.raises(InputError, match="cache: expected a path of this system, got '/tmp/nul"):
        Cache("/tmp/nul\0")
