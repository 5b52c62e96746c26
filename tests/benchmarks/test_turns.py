"""The contest's turns: who draws when, what becomes of it, and what of those who cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latentrt.benchmarks.peers import turns
from latentrt.benchmarks.peers.alone import seconds_alone
from latentrt.benchmarks.peers.peer_process import Contestant
from latentrt.benchmarks.peers.standings import Row
from latentrt.benchmarks.peers.turns import in_turns
from latentrt.benchmarks.ratio import Ratio
from latentrt.bundle.errors import EngineError


@pytest.fixture(autouse=True)
def turns_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_TURN", 1.0)
    monkeypatch.setattr(turns, "_PAUSE", 0.0)
    monkeypatch.setattr(turns, "busy", lambda _: None)


def hold(
    folder: Path, *contestants: Contestant, rounds: int = 3, warmups: int = 0, **more: Any
) -> tuple[tuple[Row, ...], tuple[tuple[str, ...], ...]]:
    options: dict[str, Any] = {"at_once": 9, "limit": 60.0, **more}
    held = in_turns(
        contestants[0],
        contestants[1:],
        rounds=rounds,
        warmups=warmups,
        scratch=folder,
        say=lambda _: None,
        **options,
    )
    return held.rows, held.groups


def diary(folder: Path) -> list[str]:
    return (folder / "diary").read_text().splitlines()


def test_a_ratio_is_of_pictures_drawn_in_one_round_and_warmups_do_not_count(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    (reference, other), groups = hold(
        tmp_path, fake("a", [100, 4, 8, 6]), fake("b", [1, 2, 2, 3], value=0.52), warmups=1
    )
    assert groups == (("a", "b"),)
    assert (reference.seconds, other.seconds) == ((4, 8, 6), (2, 2, 3))
    assert reference.ratio == Ratio(1.0, 1.0, 1.0)
    assert other.ratio is not None
    assert other.ratio.median == 2.0  # of 2, 4 and 2; the medians' ratio would be 3
    assert (other.ratio.low, other.ratio.high) == (2.0, 4.0)
    # An eighth, a half and a quarter are the parts: an eighth is left over.
    assert other.stages == {"text": 0.25, "unet": 1.0, "decode": 0.5, "own": 0.25}
    assert (other.first, other.rss_peak) == (0.5, 2000)
    assert (other.versions, other.settings) == ({"fake": "1"}, {"fast": "yes"})
    assert other.psnr == pytest.approx(40.0, abs=1e-4)  # 10 log10(2^2 / 0.02^2)
    assert reference.psnr is None


@pytest.mark.parametrize("line", ["group 2 of 3", "  round 2 of 2"])
def test_an_interrupt_keeps_what_groups_that_came_to_their_end_drew(
    fake: Callable[..., Contestant], tmp_path: Path, line: str
) -> None:
    told: list[str] = []

    def say(one: str) -> None:
        told.append(one)
        if one == line and "group 2 of 3" in told:
            raise KeyboardInterrupt

    reference = fake("a", [4.0, 6.0])
    held = in_turns(
        reference,
        [fake(name, [2.0, 2.0]) for name in ("b", "c", "d")],
        rounds=2,
        warmups=0,
        at_once=2,
        scratch=tmp_path,
        say=say,
        alone=lambda one: 3.0 if one is reference else None,
    )
    assert held.interrupted
    first, b, c, d = held.rows
    assert (first.seconds, first.alone, first.problem) == ((4.0, 6.0), (3.0, 3.0), "")
    assert (b.seconds, b.ratio, b.problem) == ((2.0, 2.0), Ratio(2.5, 2.0, 3.0), "")
    for row in (c, d):
        assert (row.seconds, row.ratio, row.problem) == ((), None, "it was interrupted")


def test_an_interrupt_is_not_the_problem_of_who_had_one_before(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    told: list[str] = []

    def say(one: str) -> None:
        told.append(one)
        if one == "  round 2 of 2" and "group 2 of 2" in told:
            raise KeyboardInterrupt

    held = in_turns(
        fake("a", [1.0] * 4),
        [
            fake("b", [1.0] * 2),
            fake("c", [1.0] * 2),
            fake("d", [], fails="first"),
            fake("e", [1.0]),
        ],
        rounds=2,
        warmups=0,
        at_once=3,
        scratch=tmp_path,
        say=say,
    )
    problems = {row.name: row.problem for row in held.rows}
    assert held.interrupted
    assert "no such model" in problems["d"]
    assert (problems["b"], problems["c"]) == ("", "")


def test_a_group_that_came_to_its_end_is_kept_though_its_processes_are_interrupted(
    fake: Callable[..., Contestant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = turns.PeerProcess.__exit__

    def interrupted(self: Any, *given: Any) -> None:
        real(self, *given)
        if self.contestant.name == "a":
            raise KeyboardInterrupt

    monkeypatch.setattr(turns.PeerProcess, "__exit__", interrupted)
    held = in_turns(
        fake("a", [3.0]),
        [fake("b", [1.0])],
        rounds=1,
        warmups=0,
        at_once=2,
        scratch=tmp_path,
        say=lambda _: None,
    )
    assert held.interrupted
    assert [(row.seconds, row.problem) for row in held.rows] == [((3.0,), ""), ((1.0,), "")]


def test_an_interrupt_before_anything_is_there_to_keep_is_one(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    def say(line: str) -> None:
        if line == "  round 1 of 3":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_turns(
            fake("a", [1.0] * 3),
            [fake("b", [1.0] * 3)],
            rounds=3,
            warmups=0,
            at_once=2,
            scratch=tmp_path,
            say=say,
        )


def test_where_memory_is_not_known_there_is_no_peak(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    (reference, other), _ = hold(tmp_path, fake("a", [1, 1, 1]), fake("b", [1, 1, 1], peak=None))
    assert (reference.rss_peak, other.rss_peak) == (2000, None)


def test_of_a_turn_the_median_picture_of_its_second_half_counts(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    (reference, other), _ = hold(
        tmp_path, fake("a", [1.0, 2.0]), fake("b", [0.4, 0.1, 0.2, 0.1, 0.3, 0.75, 0.5]), rounds=2
    )
    assert (reference.seconds, other.seconds) == ((1.0, 2.0), (0.2, 0.5))
    assert diary(tmp_path).count("b go") == 7


def test_who_else_is_at_work_is_seen_before_every_round(
    fake: Callable[..., Contestant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.5, None, 0.0])
    monkeypatch.setattr(turns, "busy", lambda _: next(shares))
    held = in_turns(
        fake("a", [1, 1, 1]),
        [fake("b", [1, 1, 1])],
        rounds=2,
        warmups=1,
        at_once=2,
        scratch=tmp_path,
        say=lambda _: None,
    )
    assert held.busy == (0.5, 0.0)


def test_who_draws_first_changes_with_every_round(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    hold(tmp_path, *(fake(name, [1, 1, 1]) for name in "abc"))
    assert [line[0] for line in diary(tmp_path) if line.endswith("go")] == [*"abccbaabc"]


def test_the_reference_is_in_every_group_and_no_more_are_there_than_memory_bears(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    rows, groups = hold(tmp_path, *(fake(name, [1, 2]) for name in "abcd"), rounds=2, at_once=3)
    assert groups == (("a", "b", "c"), ("a", "d"))
    assert [row.seconds for row in rows] == [(1, 2, 1, 2), (1, 2), (1, 2), (1, 2)]
    there: set[str] = set()
    for name, event in (line.split() for line in diary(tmp_path)):
        there = there | {name} if event == "starts" else there
        assert len(there) <= 3
        there = there - {name} if event == "ends" else there
    assert not there


@pytest.mark.parametrize(
    ("fails", "seconds", "problem"),
    [
        ("first", (1, 1, 1), "bad: exit status 1: no such model"),
        ("abort", (1, None), "bad: ended by SIGABRT: it printed nothing"),
        ("hang", (1, None), "bad: no answer in 5 s"),
        ("babble", (1, 1, 1), "bad: expected versions, settings, first, rss_peak, got '{'"),
    ],
)
def test_a_contestant_that_fails_is_a_row_with_its_problem_and_the_rest_goes_on(
    fake: Callable[..., Contestant],
    tmp_path: Path,
    fails: str,
    seconds: Sequence[float | None],
    problem: str,
) -> None:
    (_, bad, good), _ = hold(
        tmp_path,
        fake("a", [1, 1, 1]),
        fake("bad", seconds, fails=fails),
        fake("c", [1, 1, 1]),
        limit=5.0,
    )
    assert (bad.problem, bad.seconds, bad.ratio) == (problem, (), None)
    assert (good.problem, good.seconds) == ("", (1, 1, 1))


def test_a_picture_that_is_not_finite_is_none(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    (_, bad), _ = hold(tmp_path, fake("a", [1, 1, 1]), fake("b", [1, 1, 1], value=float("nan")))
    assert (bad.problem, bad.ratio) == ("a picture that is not finite", None)


def test_a_command_that_is_not_there_is_a_problem(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    gone = replace(fake("gone", []), command=(str(tmp_path / "nobody"),))
    (_, row), _ = hold(tmp_path, fake("a", [1, 1, 1]), gone)
    assert row.problem.startswith("gone: ")
    assert "nobody" in row.problem


def test_without_the_reference_there_is_no_contest(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="reference of the contest failed: a: exit status 1"):
        hold(tmp_path, fake("a", [], fails="first"), fake("b", [1, 1, 1]))


def test_a_peer_is_held_against_its_own_script_by_itself(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    contestants = [
        fake("a", [9, 4, 3, 5], alone=[3.75, 9.0, 3.75]),
        fake("b", [9, 2, 2, 2], alone=[1.8, 1.8, 1.6]),
        fake("c", [9, 2, 2, 2], alone=[], fails="alone"),
        fake("d", [9, 2, 2, 2], alone=[1.0]),
        fake("e", [9, 2, None, 2], alone=[2.0, 2.0, 2.0], fails="crash"),
        fake("ours", [9, 2, 2, 2]),
    ]

    def alone(one: Contestant) -> float | None:
        return None if one.name == "ours" else seconds_alone(one, 3, tmp_path)

    (a, b, c, d, e, ours), _ = hold(tmp_path, *contestants, warmups=1, alone=alone)
    # The medians of what the scripts print, one for each round that counts: 3, 4 and 5 over 3.75.
    assert (a.seconds, a.alone, a.apart) == ((4, 3, 5), (3.75, 3.75, 3.75), False)
    assert a.beside == Ratio(4 / 3.75, 3 / 3.75, 5 / 3.75)
    assert (b.beside, b.apart) == (Ratio(2 / 1.8, 2 / 1.8, 2 / 1.8), True)
    assert (c.problem, c.alone) == ("c: alone, exit status 1: no such model", ())
    assert (d.problem, d.alone) == ("d: alone, 1 pictures of 3", ())
    assert e.problem.startswith("e: ended by SIGABRT")
    assert (ours.alone, ours.beside, ours.apart) == ((), None, False)
    # Right after its turn, not after everybody's.
    events = [line for line in diary(tmp_path) if line.split()[0] in "ab"]
    turn = events.index("a alone")
    assert events[turn - 1 : turn + 1] == ["a go", "a alone"]
    assert events.count("a alone") == 3


def test_a_reference_whose_own_script_fails_is_no_reference(
    fake: Callable[..., Contestant], tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match="reference of the contest failed: a: alone, 1 pictures"):
        hold(
            tmp_path,
            fake("a", [1, 1, 1], alone=[1.0]),
            alone=lambda one: seconds_alone(one, 2, tmp_path),
        )
