"""What the cache loads is what it wrote: nothing changed, foreign or open to others."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.engines.adding import BLUEPRINT, Adding, choice, stored

from latentrt.bundle.errors import FileError, ShapeNotBuilt
from latentrt.engines.cache.cache import Cache


@pytest.mark.parametrize("name", ["files/deep/addend", "files/padding", "record"])
def test_a_flipped_byte_is_refused_and_built_again(cache: Cache, name: str) -> None:
    cache.open(choice(Adding()), BLUEPRINT)
    path = stored(cache).path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ShapeNotBuilt, match=r"stored engine is refused: .*(has changed|HMAC)"):
        cache.open(choice(Adding()), BLUEPRINT, build="never")
    opened = cache.open(choice(Adding()), BLUEPRINT)
    assert not opened.hit
    assert "the stored engine is refused" in opened.reason
    assert cache.open(choice(Adding()), BLUEPRINT).hit


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
    cache.open(choice(Adding()), BLUEPRINT)
    spoil(stored(cache).path)
    with pytest.raises(ShapeNotBuilt, match="the stored engine is refused"):
        cache.open(choice(Adding()), BLUEPRINT, build="never")
    assert not cache.open(choice(Adding()), BLUEPRINT).hit


def test_an_engine_built_in_another_cache_is_refused(cache: Cache, tmp_path: Path) -> None:
    other = Cache(tmp_path / "other")
    other.open(choice(Adding()), BLUEPRINT)
    cache.open(choice(Adding()), replace(BLUEPRINT, component="vae_decoder"))
    source = stored(other).path
    shutil.copytree(source, cache.path / "engines" / source.name)
    with pytest.raises(ShapeNotBuilt, match="was not written here"):
        cache.open(choice(Adding()), BLUEPRINT, build="never")


def test_an_engine_under_the_name_of_another_is_refused(cache: Cache) -> None:
    cache.open(choice(Adding()), BLUEPRINT)
    first = stored(cache).path
    larger = replace(BLUEPRINT, sizes={"batch": 3})
    cache.open(choice(Adding()), larger)
    second = next(a.path for a in cache.entries() if a.path != first)
    shutil.rmtree(second)
    shutil.copytree(first, second)
    with pytest.raises(ShapeNotBuilt, match="is another engine's"):
        cache.open(choice(Adding()), larger, build="never")


@pytest.mark.skipif(os.name == "nt", reason="permissions are others there")
@pytest.mark.parametrize(("name", "mode"), [("engines", 0o770), ("secret", 0o640)])
def test_a_cache_that_others_may_write_or_whose_secret_they_may_read_is_refused(
    cache: Cache, name: str, mode: int
) -> None:
    cache.open(choice(Adding()), BLUEPRINT)
    path = cache.path / name
    kept = stat.S_IMODE(path.stat().st_mode)
    assert kept == (0o700 if name == "engines" else 0o600)
    path.chmod(mode)
    with pytest.raises(FileError, match="is open to other users"):
        cache.open(choice(Adding()), BLUEPRINT)
    path.chmod(kept)
    assert cache.open(choice(Adding()), BLUEPRINT).hit


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 31, b"x" * 33, b"x" * 10_000])
def test_a_secret_that_is_not_whole_is_made_anew_and_never_used(
    cache: Cache, content: bytes
) -> None:
    chosen = choice(Adding())
    cache.open(chosen, BLUEPRINT)
    secret = cache.path / "secret"
    secret.write_bytes(content)
    with pytest.raises(ShapeNotBuilt, match="was not written here"):
        cache.open(chosen, BLUEPRINT, build="never")
    assert not cache.open(chosen, BLUEPRINT).hit
    assert len(secret.read_bytes()) == 32
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert cache.open(chosen, BLUEPRINT).hit


def test_a_secret_that_is_a_link_to_nothing_is_made_anew(cache: Cache) -> None:
    chosen = choice(Adding())
    cache.path.mkdir()
    (cache.path / "secret").symlink_to("nothing")
    assert not cache.open(chosen, BLUEPRINT).hit
    assert cache.open(chosen, BLUEPRINT).hit
    assert len((cache.path / "secret").read_bytes()) == 32


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_a_secret_that_is_no_file_is_refused_and_not_waited_for(cache: Cache, make: Any) -> None:
    chosen = choice(Adding())
    cache.open(chosen, BLUEPRINT)
    (cache.path / "secret").unlink()
    make(cache.path / "secret", 0o600)
    with pytest.raises(FileError, match=r"secret: cannot be read: is not a file; remove it"):
        cache.open(chosen, BLUEPRINT)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_in_the_cache_are_not_waited_for(cache: Cache) -> None:
    chosen = choice(Adding())
    cache.open(chosen, BLUEPRINT)
    (note,) = (cache.path / "known").iterdir()
    for path in (note, stored(cache).path / "record"):
        path.unlink()
        os.mkfifo(path)
    again = Cache(cache.path)
    with pytest.raises(ShapeNotBuilt, match="the stored engine is refused: is not whole"):
        again.open(chosen, BLUEPRINT, build="never")
    assert not again.open(chosen, BLUEPRINT).hit
    assert again.open(chosen, BLUEPRINT).hit
