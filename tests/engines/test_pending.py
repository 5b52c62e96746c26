"""Engines that could not be held against a reference where they were built."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.engines.test_cache import BLUEPRINT, Adding

from latentrt.bundle.errors import VerificationFailed
from latentrt.engines.backends import Chosen
from latentrt.engines.cache import Cache
from latentrt.engines.engine import Engine, Options

GOOD: Mapping[str, Any] = {"relative": 1e-7}


class Refitted(Adding):
    """A backend that puts weights into what it loads."""

    OPTIONS: frozenset[str] = frozenset({"stripped"})


class Guarding:
    """A guard that counts how often it was asked, and finds what it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.good = True

    def __call__(self) -> Callable[[Engine], Mapping[str, Any]]:
        def check(engine: Engine) -> Mapping[str, Any]:
            self.asked += 1
            if not self.good:
                raise VerificationFailed("unet: 0.5")
            return GOOD

        return check


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def guard() -> Guarding:
    return Guarding()


def test_an_engine_stored_unverified_is_verified_when_it_is_first_loaded(
    cache: Cache, guard: Guarding
) -> None:
    backend = Adding()
    chosen = Chosen("adding", backend, Options())
    pending = {"pending": "no such GPU"}
    first = cache.store(chosen, BLUEPRINT, pending="no such GPU")
    assert first == (False, "nothing is stored for unet", pending)
    assert cache.store(chosen, BLUEPRINT, pending="no such GPU") == (True, "", pending)
    (artefact,) = cache.artefacts()
    assert artefact.verification == pending
    for _ in range(2):
        opened = cache.open(chosen, BLUEPRINT, guard=guard)
        assert (opened.hit, opened.verification) == (True, GOOD)
    assert (backend.built, guard.asked) == (1, 1)
    (artefact,) = cache.artefacts()
    assert (artefact.problem, artefact.verification) == ("", GOOD)
    assert cache.store(chosen, BLUEPRINT, pending="no such GPU") == (True, "", GOOD)


def test_an_engine_stored_unverified_that_fails_is_never_given_out(
    cache: Cache, guard: Guarding
) -> None:
    chosen = Chosen("adding", Adding(), Options())
    cache.store(chosen, BLUEPRINT, pending="no such GPU")
    guard.good = False
    for asked in (1, 2):
        with pytest.raises(VerificationFailed, match=r"0\.5"):
            cache.open(chosen, BLUEPRINT, guard=guard)
        assert guard.asked == asked


def test_weights_that_are_put_in_at_every_load_are_verified_at_every_load(
    cache: Cache, guard: Guarding
) -> None:
    chosen = Chosen("refitted", Refitted(), Options(stripped=True))
    for loads in (1, 2, 3):
        cache.open(chosen, BLUEPRINT, guard=guard)
        assert guard.asked == loads
    guard.good = False
    with pytest.raises(VerificationFailed):
        cache.open(chosen, BLUEPRINT, guard=guard)
    whole = replace(chosen, options=Options())
    guard.good = True
    cache.open(whole, BLUEPRINT, guard=guard)
    cache.open(whole, BLUEPRINT, guard=guard)
    assert guard.asked == 5  # the whole one once
