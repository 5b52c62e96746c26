"""Engines that could not be held against a reference where they were built, or not for good."""

from __future__ import annotations

import os
from typing import Any

import pytest
from tests.engines.adding import BLUEPRINT, GOOD, Adding, Guarding, choice

from latentrt.bundle.errors import VerificationFailed
from latentrt.engines.cache.cache import Cache
from latentrt.engines.registry import backend

PENDING = {"pending": "no such GPU"}


class Refitted(Adding):
    """A backend that puts weights into what it loads."""


class Timed(Adding):
    """A backend that makes the engine anew at every load."""

    timed = True


class Killed(BaseException):
    """The end of the process."""


@pytest.fixture
def guard() -> Guarding:
    return Guarding()


def test_an_engine_stored_unverified_is_verified_when_it_is_first_loaded(
    cache: Cache, guard: Guarding
) -> None:
    backend = Adding()
    chosen = choice(backend)
    first = cache.store(chosen, BLUEPRINT, pending="no such GPU")
    assert first == (False, "nothing is stored for unet", PENDING)
    assert cache.store(chosen, BLUEPRINT, pending="no such GPU") == (True, "", PENDING)
    (entry,) = cache.entries()
    assert entry.verification == PENDING
    for _ in range(2):
        opened = cache.open(chosen, BLUEPRINT, guard=guard)
        assert (opened.hit, opened.verification) == (True, GOOD)
    assert (backend.built, guard.asked) == (1, 1)
    (entry,) = cache.entries()
    assert (entry.problem, entry.verification) == ("", GOOD)
    assert cache.store(chosen, BLUEPRINT, pending="no such GPU") == (True, "", GOOD)


def test_an_engine_stored_unverified_that_fails_is_never_used(
    cache: Cache, guard: Guarding
) -> None:
    chosen = choice(Adding())
    cache.store(chosen, BLUEPRINT, pending="no such GPU")
    guard.good = False
    for asked in (1, 2):
        with pytest.raises(VerificationFailed, match=r"0\.5"):
            cache.open(chosen, BLUEPRINT, guard=guard)
        assert guard.asked == asked


def test_a_reader_sees_the_old_record_or_the_new_one(
    cache: Cache, guard: Guarding, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = choice(Adding())
    cache.store(chosen, BLUEPRINT, pending="no such GPU")
    seen: list[Any] = []

    def look() -> None:
        (entry,) = Cache(cache.path).entries()
        seen.append((entry.problem, entry.verification))

    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def between(*arguments: Any, real: Any = real) -> None:
            look()
            real(*arguments)
            look()

        monkeypatch.setattr(os, name, between)
    cache.open(chosen, BLUEPRINT, guard=guard)
    assert seen == [("", PENDING)] * 3 + [("", GOOD)]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_process_killed_while_replacing_a_record_leaves_the_old_one(
    cache: Cache, guard: Guarding, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    chosen = choice(Adding())
    cache.store(chosen, BLUEPRINT, pending="no such GPU")

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, name, killed)
        with pytest.raises(Killed):
            cache.open(chosen, BLUEPRINT, guard=guard)
    (entry,) = cache.entries()
    assert (entry.problem, entry.verification) == ("", PENDING)
    assert cache.open(chosen, BLUEPRINT, guard=guard).hit


def test_weights_that_are_put_in_at_every_load_are_verified_at_every_load(
    cache: Cache, guard: Guarding
) -> None:
    chosen = choice(Refitted(), "refitted", stripped=True)
    for loads in (1, 2, 3):
        cache.open(chosen, BLUEPRINT, guard=guard)
        assert guard.asked == loads
    guard.good = False
    with pytest.raises(VerificationFailed):
        cache.open(chosen, BLUEPRINT, guard=guard)
    whole = choice(Refitted(), "refitted")
    guard.good = True
    cache.open(whole, BLUEPRINT, guard=guard)
    cache.open(whole, BLUEPRINT, guard=guard)
    assert guard.asked == 5  # the whole one once


def test_an_engine_whose_kernels_are_timed_is_verified_at_every_load(
    cache: Cache, guard: Guarding
) -> None:
    chosen = choice(Timed(), "timed")
    for loads in (1, 2, 3):
        cache.open(chosen, BLUEPRINT, guard=guard)
        assert guard.asked == loads
    guard.good = False
    with pytest.raises(VerificationFailed):
        cache.open(chosen, BLUEPRINT, guard=guard)


@pytest.mark.parametrize(
    ("name", "timed"),
    [
        ("onnxruntime", False),
        ("onnxruntime-cuda", True),
        ("onnxruntime-tensorrt", True),
        ("onnxruntime-tensorrt-rtx", True),
        ("openvino", False),
        ("tensorrt", False),
    ],
)
def test_the_backends_that_store_no_engine_and_time_kernels_say_so(name: str, timed: bool) -> None:
    assert timed == backend(name).timed
