"""Weights are what they were when they were exported, though gigabytes are not hashed each time."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from tests.engines.adding import BLUEPRINT, Adding, choice, read_from

from latentrt.bundle.errors import BundleError
from latentrt.engines.cache import hashed_files as hashed_files
from latentrt.engines.cache.cache import Cache


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of its own for weights."""
    path = tmp_path / "weights"
    path.write_bytes(b"as exported")
    return path


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were hashed, one after the other."""
    paths: list[Path] = []
    real = hashed_files.file_sha256

    def watched(path: Path) -> str:
        paths.append(path)
        return real(path)

    monkeypatch.setattr(hashed_files, "file_sha256", watched)
    return paths


def rewrite(path: Path, content: bytes, seconds: int) -> None:
    """Other content, written at another time: a test is faster than some clocks."""
    path.write_bytes(content)
    os.utime(path, (seconds, seconds))


@pytest.mark.parametrize("stores", [False, True])
def test_weights_that_were_changed_in_place_are_refused_with_both_hashes(
    cache: Cache, weights: Path, stores: bool
) -> None:
    blueprint = replace(BLUEPRINT, **read_from(weights))
    chosen = choice(Adding())
    cache.open(chosen, blueprint)
    rewrite(weights, b"as_exported", 1000)
    # sha256sum of either.
    message = r"weights: has changed since export: its SHA-256 is 866953b93389, not b13a8ad69a38"
    have = partial(cache.store, pending="no such GPU") if stores else cache.open
    with pytest.raises(BundleError, match=message):
        have(chosen, blueprint)
    rewrite(weights, b"as exported", 2000)
    assert cache.open(chosen, blueprint).hit


def test_no_engine_is_built_from_weights_that_were_changed(cache: Cache, weights: Path) -> None:
    blueprint = replace(BLUEPRINT, **read_from(weights))
    backend = Adding()
    weights.write_bytes(b"as_exported")
    with pytest.raises(BundleError, match="has changed since export"):
        cache.open(choice(backend), blueprint)
    assert backend.built == 0


def test_weights_are_hashed_again_only_where_their_size_or_time_or_place_is_new(
    cache: Cache, weights: Path, hashed: list[Path]
) -> None:
    blueprint = replace(BLUEPRINT, **read_from(weights))
    chosen = choice(Adding())
    for batch in (2, 2, 3):
        cache.open(chosen, replace(blueprint, sizes={"batch": batch}))
    assert hashed == [weights]
    os.utime(weights, (1000, 1000))
    cache.open(chosen, blueprint)
    cache.open(chosen, blueprint)
    assert hashed == [weights] * 2
    copy = weights.with_name("copy")
    shutil.copy2(weights, copy)
    cache.open(chosen, replace(blueprint, weights=copy))
    cache.open(chosen, blueprint)
    assert hashed == [weights, weights, copy]


def test_a_hash_record_of_another_user_is_ignored(
    cache: Cache, weights: Path, hashed: list[Path]
) -> None:
    blueprint = replace(BLUEPRINT, **read_from(weights))
    cache.open(choice(Adding()), blueprint)
    (note,) = (cache.path / "known").iterdir()
    note.write_bytes(note.read_bytes().replace(b'"', b" ", 1))
    cache.open(choice(Adding()), blueprint)
    assert hashed == [weights] * 2


def test_weights_that_cannot_be_read_are_named(cache: Cache, weights: Path) -> None:
    blueprint = replace(BLUEPRINT, **read_from(weights))
    weights.unlink()
    with pytest.raises(BundleError, match=r"weights: cannot be read: No such file"):
        cache.open(choice(Adding()), blueprint)
