"""Our engines beside the best peer of their precision, where memory kept them apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.benchmarks.test_standings import RAN, standings

from latentrt.benchmarks.peers import turns
from latentrt.benchmarks.peers.duels import duels
from latentrt.benchmarks.peers.peer_process import Contestant
from latentrt.benchmarks.peers.standings import Best, Duel
from latentrt.benchmarks.ratio import Ratio

GROUPS = (("a", "latentrt-x"), ("a", "b"), ("a", "c"))
OURS = replace(RAN, name="latentrt-x", ratio=Ratio(3.0, 2.0, 5.0))
PEER = replace(RAN, name="b", ratio=Ratio(2.0, 1.0, 2.0))
SLOWER = replace(PEER, name="c", ratio=Ratio(1.5, 1.0, 2.0))


@pytest.fixture(autouse=True)
def turns_of_one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_TURN", 0.0)
    monkeypatch.setattr(turns, "_PAUSE", 0.0)
    monkeypatch.setattr(turns, "busy", lambda _: None)


def test_whom_memory_kept_from_the_best_peer_meets_it_for_six_rounds(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    found = replace(standings(RAN, OURS, PEER, SLOWER, groups=GROUPS), rounds=3, warmups=1)
    assert found.best(OURS) == Best("b", 1.5)
    ours = fake("latentrt-x", [9.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0])
    peer = fake("b", [7.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0])
    held = duels(found, [fake("a", []), ours, peer, fake("c", [])], tmp_path, lambda _: None)
    assert held.duels == (Duel("latentrt-x", "b", (1, 2, 1, 2, 1, 2), (3,) * 6),)
    assert held == replace(found, duels=held.duels)
    # 3 and 1.5 times as fast, in turn.
    best = held.best(OURS)
    assert best is not None
    assert (best.peer, best.median) == ("b", 2.25)
    assert {line.split()[0] for line in (tmp_path / "diary").read_text().splitlines()} == {
        "latentrt-x",
        "b",
    }


def test_nobody_meets_again_who_was_together(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    found = standings(RAN, OURS, PEER, groups=(("a", "latentrt-x", "b"),))
    assert duels(found, [fake("latentrt-x", []), fake("b", [])], tmp_path, lambda _: None) == found
    assert not (tmp_path / "diary").exists()


@pytest.mark.parametrize("failing", ["latentrt-x", "b"])
def test_a_duel_of_which_one_fails_is_told_and_left_out(
    fake: Callable[..., Contestant], tmp_path: Path, failing: str
) -> None:
    def made(name: str) -> Contestant:
        more: dict[str, Any] = {"fails": "first"} if name == failing else {}
        return fake(name, [1.0] * 6, **more)

    found = standings(RAN, OURS, PEER, groups=GROUPS)
    told: list[str] = []
    assert duels(found, [made("latentrt-x"), made("b")], tmp_path, told.append) == found
    assert any("no such model" in line for line in told)


def test_of_interrupted_duels_those_are_kept_that_came_to_their_end(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    second = replace(OURS, name="latentrt-y")
    groups = (("a", "latentrt-x"), ("a", "latentrt-y"), ("a", "b"))
    found = standings(RAN, OURS, second, PEER, groups=groups)

    def say(line: str) -> None:
        if line.startswith("latentrt-y beside"):
            raise KeyboardInterrupt

    held = duels(
        found,
        [fake("latentrt-x", [1.0] * 6), fake("latentrt-y", []), fake("b", [1.0] * 6)],
        tmp_path,
        say,
    )
    assert [each.engine for each in held.duels] == ["latentrt-x"]
    assert held.interrupted
    assert "interrupted: hold it again for the rest" in str(held).splitlines()
