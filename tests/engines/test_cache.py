"""The cache: what is a hit, what a miss says, what it keeps, and where it is."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engines.adding import (
    BLUEPRINT,
    GOOD,
    ROOT,
    Adding,
    Guarding,
    choice,
    read_from,
    sha256,
    stored,
)

from latentrt.bundle.errors import BuildFailed, InputError, ShapeNotBuilt, VerificationFailed
from latentrt.engines.cache import key as key_module
from latentrt.engines.cache.cache import Cache
from latentrt.engines.cache.key import engine_key
from latentrt.engines.engine import Blueprint, Engine


@pytest.fixture
def guard() -> Guarding:
    return Guarding()


def test_the_second_time_is_a_hit_and_gives_the_same_engine(cache: Cache) -> None:
    backend = Adding()
    first = cache.open(choice(backend), BLUEPRINT)
    second = cache.open(choice(backend), BLUEPRINT)
    again = Cache(cache.path).open(choice(Adding()), BLUEPRINT)
    assert [opened.hit for opened in (first, second, again)] == [False, True, True]
    assert backend.built == 1
    for opened in (first, second, again):
        result = opened.engine({"vector": np.zeros(2, np.float32)})
        assert np.array_equal(result["vector"], np.ones(2))


# Field of the key as a miss names it, and what changes it.
CHANGES: dict[str, Any] = {
    "schema 9 -> 10": "schema",
    "graph 111111111111 -> 333333333333": {"digests": ("3" * 64, sha256(ROOT / "LICENSE"))},
    "weights {old} -> {new}": read_from(ROOT / "CHANGELOG.md"),
    "sizes batch=2 -> batch=3": {"sizes": {"batch": 3}},
    "precision fp32 -> bf16": partial(choice, precision="bf16"),
    "threads None -> 1": partial(choice, threads=1),
    "arena True -> False": partial(choice, arena=False),
    "stripped False -> True": partial(choice, stripped=True),
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
    cache.open(choice(Adding()), BLUEPRINT)
    # Farther away, and of another component: neither is the nearest.
    cache.open(choice(Adding(driver="1", device="2")), BLUEPRINT)
    cache.open(choice(Adding()), replace(BLUEPRINT, component="vae_decoder"))
    change = CHANGES[message]
    backend: Any = change if isinstance(change, Adding) else Adding()
    chosen = change(backend) if isinstance(change, partial) else choice(backend)
    blueprint = replace(BLUEPRINT, **change) if isinstance(change, dict) else BLUEPRINT
    old, new = (sha256(b.weights)[:12] for b in (BLUEPRINT, blueprint))
    message = message.format(old=old, new=new)
    if change == "schema":
        monkeypatch.setattr(key_module, "SCHEMA", "10")
    with pytest.raises(ShapeNotBuilt) as raised:
        cache.open(chosen, blueprint, build="never")
    assert str(raised.value) == f"unet: not built: {message}"
    opened = cache.open(chosen, blueprint)
    assert (opened.hit, opened.reason) == (False, message)
    assert cache.open(chosen, blueprint, build="never").hit


def test_another_engine_or_component_is_a_miss(cache: Cache) -> None:
    cache.open(choice(Adding()), BLUEPRINT)
    assert "engine adding -> other" in cache.open(choice(Adding(), "other"), BLUEPRINT).reason
    decoder = replace(BLUEPRINT, component="vae_decoder")
    with pytest.raises(ShapeNotBuilt, match="vae_decoder: not built: nothing is stored"):
        cache.open(choice(Adding()), decoder, build="never")


def test_every_field_of_the_key_is_among_the_changes() -> None:
    key = engine_key(choice(Adding()), BLUEPRINT)
    assert len(key) >= 10
    named = [field for field in key if any(c.startswith(f"{field} ") for c in CHANGES)]
    assert sorted({*key} - {*named}) == ["component", "engine"]  # in the test above


def test_a_blueprint_without_digests_is_refused(cache: Cache) -> None:
    with pytest.raises(InputError, match="digests"):
        cache.open(choice(Adding()), replace(BLUEPRINT, digests=None))


def test_an_engine_that_fails_its_check_is_not_stored(cache: Cache, guard: Guarding) -> None:
    guard.good = False
    with pytest.raises(VerificationFailed, match=r"0\.5"):
        cache.open(choice(Adding()), BLUEPRINT, guard=guard)
    assert cache.entries() == []
    assert list((cache.path / "engines").iterdir()) == []


def test_the_record_of_the_check_is_kept_and_not_made_again(cache: Cache, guard: Guarding) -> None:
    for _ in range(2):
        opened = cache.open(choice(Adding()), BLUEPRINT, guard=guard)
        assert opened.verification == GOOD
    assert guard.asked == 1
    assert stored(cache).verification == GOOD


def test_a_record_that_holds_no_more_is_made_again_and_kept(cache: Cache, guard: Guarding) -> None:
    chosen = choice(Adding())
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
    chosen = choice(backend)
    cache.open(chosen, BLUEPRINT, guard=guard)
    guard.refused = "it is 0.5 off"
    with pytest.raises(ShapeNotBuilt, match=r"the stored engine is refused: it is 0\.5 off"):
        cache.open(chosen, BLUEPRINT, guard=guard, build="never")
    opened = cache.open(chosen, BLUEPRINT, guard=guard)
    assert (opened.hit, opened.reason) == (False, "the stored engine is refused: it is 0.5 off")
    assert (backend.built, guard.asked) == (2, 2)


def test_a_stored_engine_that_does_not_load_says_why(cache: Cache) -> None:
    class Broken(Adding):
        def load(self, blueprint: Blueprint, options: Any, folder: Path) -> Engine:
            raise BuildFailed("unet: no such driver")

    cache.open(choice(Adding()), BLUEPRINT)
    with pytest.raises(BuildFailed, match="no such driver"):
        cache.open(choice(Broken()), BLUEPRINT)


def test_a_cache_elsewhere_needs_nothing_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()  # where no folder can be made
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path / "file"))
    cache = Cache(tmp_path / "elsewhere")
    chosen = choice(Adding())
    assert not cache.open(chosen, BLUEPRINT).hit
    other = replace(BLUEPRINT, sizes={"batch": 3})
    assert cache.store(chosen, other, pending="no such GPU")[0] is False
    assert cache.open(chosen, BLUEPRINT).hit


def test_entries_are_sorted_by_their_last_use(cache: Cache) -> None:
    for batch in (1, 2, 3):
        cache.open(choice(Adding()), replace(BLUEPRINT, sizes={"batch": batch}))
    for n, entry in enumerate(cache.entries()):
        os.utime(entry.path / "record", (1000 + n, 1000 + n))
    first = cache.entries()[0].key["sizes"]
    batch = int(first.removeprefix("batch="))
    cache.open(choice(Adding()), replace(BLUEPRINT, sizes={"batch": batch}))
    before = cache.entries()
    assert before[-1].key["sizes"] == first  # used last now
    for entry in before:
        cache.remove(entry)
    assert cache.entries() == []


def test_the_folder_is_the_argument_or_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path / "variable"))
    assert Cache().path == tmp_path / "variable"
    assert Cache(tmp_path / "argument").path == tmp_path / "argument"
