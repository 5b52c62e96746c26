"""Rounds of images: who draws when, and what becomes of those that fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latentrt.benchmarks.peers import rounds
from latentrt.benchmarks.peers.participants import Participant
from latentrt.benchmarks.peers.results import PeerResult
from latentrt.benchmarks.peers.rounds import draw_in_rounds
from latentrt.bundle.errors import EngineError

Fake = Callable[..., Participant]


@pytest.fixture(autouse=True)
def one_image_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_TURN", 0.0)
    monkeypatch.setattr(rounds, "_PAUSE", 0.0)
    monkeypatch.setattr(rounds, "busy", lambda _: 0.25)


def drawn(
    folder: Path, *all_of_them: Participant, count: int = 2, at_once: int = 9
) -> tuple[dict[str, PeerResult], Any]:
    reference, *others = all_of_them
    rows, *rest = draw_in_rounds(
        reference, others, rounds=count, at_once=at_once, folder=folder, say=lambda _: None
    )
    return {row.name: row for row in rows}, rest


def test_each_has_a_turn_a_round_and_the_first_round_does_not_count(
    fake: Fake, tmp_path: Path
) -> None:
    # The first image of each is that of the warm-up.
    reference, other = fake("r", [9.0, 2.0, 4.0]), fake("o", [9.0, 1.0, 1.0])
    rows, (groups, shares, interrupted) = drawn(tmp_path, reference, other)
    turns = [line.split() for line in (tmp_path / "diary").read_text().splitlines()]
    assert [name for name, event in turns if event == "go"] == ["o", "r", "r", "o", "o", "r"]
    found = rows["o"]
    assert found.samples is not None
    assert found.samples.seconds == (1.0, 1.0)
    assert found.ratio is not None
    assert found.ratio.median == 3.0
    # Half of 1 s in the U-Net, a quarter in the decoder, an eighth each in the text and elsewhere.
    assert found.stages == {"text": 0.125, "unet": 0.5, "decode": 0.25, "own": 0.125}
    assert (found.memory, found.settings, found.versions) == (2000, {"fast": "yes"}, {"fake": "1"})
    assert (found.psnr, found.equal_work) == (None, True)
    assert (groups, shares, interrupted) == ((("r", "o"),), [0.25] * 3, False)


def test_the_reference_is_in_every_group_and_ratios_are_of_ones_own_group(
    fake: Fake, tmp_path: Path
) -> None:
    # Processes of the second group start anew: the reference takes 2 s in both.
    all_of_them = fake("r", [2.0] * 3), fake("a", [1.0] * 3), fake("b", [4.0] * 3)
    rows, (groups, _, _) = drawn(tmp_path, *all_of_them, at_once=2)
    assert groups == (("r", "a"), ("r", "b"))
    assert rows["r"].samples is not None
    assert rows["r"].samples.seconds == (2.0,) * 4
    ratios = {name: row.ratio.median for name, row in rows.items() if row.ratio}
    assert ratios == {"r": 1.0, "a": 2.0, "b": 0.5}
    starts = [line for line in (tmp_path / "diary").read_text().splitlines() if "starts" in line]
    assert starts == ["r starts", "a starts", "r starts", "b starts"]


@pytest.mark.parametrize(
    ("more", "seconds", "message"),
    [
        ({"fails": "first"}, [], "exit status 1: no such model"),
        ({}, [1.0, None], "ended by SIGABRT"),
    ],
)
def test_one_that_fails_is_a_result_with_its_problem_and_the_rest_goes_on(
    fake: Fake, tmp_path: Path, more: dict[str, Any], seconds: list[float | None], message: str
) -> None:
    reference = fake("r", [2.0] * 3)
    rows, _ = drawn(tmp_path, reference, fake("bad", seconds, **more), fake("good", [1.0] * 3))
    assert message in rows["bad"].problem
    assert rows["bad"].samples is None
    assert rows["good"].ratio is not None
    with pytest.raises(EngineError, match="the reference failed: bad"):
        drawn(tmp_path, fake("bad", seconds, **more), reference)


def test_another_image_is_not_equal_work(fake: Fake, tmp_path: Path) -> None:
    reference, near, far = (fake(n, [1.0] * 3, v) for n, v in (("r", 0.5), ("n", 0.504), ("f", 0)))
    rows, _ = drawn(tmp_path, reference, near, far)
    # 20 log10(2 / 0.004) dB and 20 log10(2 / 0.5) dB, of colours from -1 to 1.
    assert rows["n"].psnr == pytest.approx(53.98, abs=0.01)
    assert rows["f"].psnr == pytest.approx(12.04, abs=0.01)
    assert (rows["n"].equal_work, rows["f"].equal_work) == (True, False)


def test_an_interrupt_keeps_the_groups_that_were_finished(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = rounds._group  # pyright: ignore[reportPrivateUsage]
    groups: list[str] = []

    def group(those: Any, *rest: Any) -> Any:
        groups.append(those[-1].name)
        if groups[-1] == "b":
            raise KeyboardInterrupt
        return whole(those, *rest)

    monkeypatch.setattr(rounds, "_group", group)
    all_of_them = fake("r", [2.0] * 3), fake("a", [1.0] * 3), fake("b", [1.0] * 3)
    rows, (_, _, interrupted) = drawn(tmp_path, *all_of_them, at_once=2)
    assert interrupted
    assert rows["a"].ratio is not None
    assert rows["b"].problem == "interrupted"
    with pytest.raises(KeyboardInterrupt):
        drawn(tmp_path, all_of_them[0], all_of_them[2])
