"""Aims are held against the worst row of a contest, and what it does not say is not made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from latentrt.benchmarks.aims import as_fast_as_alone, faster, little_of_its_own, not_slower
from latentrt.benchmarks.peers.standings import Ratio, Row, Standings
from latentrt.benchmarks.tables import RESULTS, TABLES

ROOT = Path(__file__).parents[2]


def row(name: str, seconds: float, own: float = 0.0, **more: Any) -> Row:
    """Of three pictures that took the same, beside a reference that took 12 s."""
    ratio = Ratio(12.0 / seconds, 12.0 / seconds, 12.0 / seconds)
    precision = name.rpartition("-")[2]
    stages = {"unet": seconds - own, "own": own}
    return Row(name, precision, seconds=(seconds,) * 3, ratio=ratio, stages=stages, **more)


def standings(*rows: Row, together: bool = True) -> Standings:
    names = tuple(each.name for each in rows)
    groups = (names,) if together else tuple((names[0], name) for name in names[1:])
    settings = {"size": "64x64", "steps": 2}
    return Standings(names[0], rows, groups, 3, 0, settings, "tiny", {}, {})


REFERENCE = row("theirs-fp32", 12.0)
PEER = row("peer-fp32", 3.0)


def test_the_engine_that_is_slowest_beside_its_best_peer_decides() -> None:
    quick, slow = row("latentrt-quick-fp32", 2.0), row("latentrt-slow-fp32", 4.0)
    lame = row("lame-fp32", 6.0)
    reached = not_slower(standings(REFERENCE, quick, lame, PEER))
    assert str(reached) == (
        "reached: `latentrt-quick-fp32` 1.50 (1.50 to 1.50) times as fast as `peer-fp32`"
    )
    missed = not_slower(standings(REFERENCE, quick, slow, lame, PEER, together=False))
    # Never in memory together: 3 times the reference over 4 times.
    assert str(missed) == "**missed**: `latentrt-slow-fp32` 0.75 times as fast as `peer-fp32`"
    assert not_slower(standings(REFERENCE, row("latentrt-same-fp32", 3.0), PEER)).reached


def test_an_engine_is_beside_peers_of_its_own_precision_and_needs_one() -> None:
    # In 16 bits 2 s, slower than nobody; in fp32 there is a faster peer.
    both = (row("latentrt-e-bf16", 2.0), row("peer-bf16", 2.5), PEER)
    assert not_slower(standings(REFERENCE, *both)).reached
    alone = not_slower(standings(REFERENCE, row("latentrt-e-fp32", 2.0), both[0], PEER))
    assert alone.reached is None


def test_a_peer_that_did_not_run_or_drew_something_else_is_named() -> None:
    gone = Row("gone-fp32", "fp32", problem="not installed")
    strays = row("strays-fp32", 1.0, psnr=12.0)
    found = not_slower(standings(REFERENCE, row("latentrt-e-fp32", 2.0), PEER, gone, strays))
    assert found.reached
    assert found.worst.endswith("as `peer-fp32`, without `gone-fp32`, `strays-fp32`")


@pytest.mark.parametrize("aim", [not_slower, faster, little_of_its_own])
def test_an_engine_that_did_not_draw_the_picture_misses_every_aim(aim: Any) -> None:
    good = row("latentrt-e-bf16", 2.0)
    for bad in (
        Row("latentrt-bad-bf16", "bf16", problem="out of memory"),
        row("latentrt-bad-bf16", 1.0, psnr=12.0),
    ):
        assert aim(standings(REFERENCE, good, bad, row("peer-bf16", 9.0))).reached is False


@pytest.mark.parametrize(("ratio", "reached"), [(3.5, True), (3.49, False)])
def test_the_engine_in_16_bits_is_to_be_three_and_a_half_times_as_fast(
    ratio: float, reached: bool
) -> None:
    engine = replace(row("latentrt-e-bf16", 3.0), ratio=Ratio(ratio, 3.0, 4.0))
    found = faster(standings(REFERENCE, row("latentrt-e-fp32", 6.0), engine))
    words = f"`latentrt-e-bf16` {ratio:.2f} (3.00 to 4.00) times as fast as `theirs-fp32`"
    assert (found.worst, found.reached) == (words, reached)
    assert faster(standings(REFERENCE, row("latentrt-e-fp32", 6.0))).reached is None


@pytest.mark.parametrize(("own", "reached"), [(0.019, True), (0.02, False)])
def test_the_runtimes_own_time_is_a_share_of_a_picture(own: float, reached: bool) -> None:
    some, none = row("latentrt-some-bf16", 2.0, own), row("latentrt-none-fp32", 2.0)
    found = little_of_its_own(standings(row("theirs-fp32", 12.0, own=11.0), some, none))
    # Of 2 s.
    assert found.worst == f"`latentrt-some-bf16` {50 * own:.2f} % of a picture"
    assert found.reached is reached
    unknown = replace(none, stages={})
    assert little_of_its_own(standings(REFERENCE, some, unknown)).reached is None


@pytest.mark.parametrize(("alone", "reached"), [(2.75, True), (3.3, True), (2.7, False)])
def test_a_peer_is_to_be_as_fast_in_its_turns_as_alone(alone: float, reached: bool) -> None:
    reference = replace(REFERENCE, alone=(12.0,) * 3)
    peer = replace(PEER, alone=(alone,) * 3)
    found = as_fast_as_alone(standings(reference, row("latentrt-e-fp32", 2.0), peer))
    times = f"{3 / alone:.2f}"
    assert found.worst == f"`peer-fp32` {times} ({times} to {times}) of its time alone"
    assert found.reached is reached


def test_a_peer_whose_own_script_was_not_measured_is_named() -> None:
    reference = replace(REFERENCE, alone=(12.0,) * 3)
    found = as_fast_as_alone(standings(reference, PEER))
    assert str(found) == "not measured: own scripts of `peer-fp32`"
    gone = Row("gone-fp32", "fp32", problem="not installed")
    assert as_fast_as_alone(standings(reference, gone)).worst.endswith(", without `gone-fp32`")


def test_aims_stand_beside_each_contest_and_an_older_one_has_gaps() -> None:
    new = json.loads((ROOT / RESULTS / "peers-shapes.json").read_text())
    old = json.loads(json.dumps(new)) | {"schema": "latentrt-contest-1", "source": "old"}
    for each in old["rows"]:
        del each["alone"]
    files = {"peers-shapes.json": new, "peers-sd15.json": old}
    heads, _, *rows = TABLES["aims"](files.__getitem__).splitlines()
    assert heads == "| aim | `shapes`, 20 steps at 128x128 | `old`, 20 steps at 128x128 |"
    assert len(rows) == 4
    *rest, last = [line.strip("|").split(" | ") for line in rows]
    assert all(now.strip() == then.strip() for _, now, then in rest)
    assert last[2].strip() == "not measured: no peer's own script"
    assert "not measured" not in last[1]


def test_a_contest_that_others_disturbed_says_so_above_its_outcomes() -> None:
    value = json.loads((ROOT / RESULTS / "peers-shapes.json").read_text())
    heads, *_ = TABLES["aims"](lambda _: value | {"busy": 0.5}).splitlines()
    assert heads.count("128x128, disturbed") == 2
