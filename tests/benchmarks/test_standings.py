"""What a contest's numbers are made into: ratios, who was the best, a table, JSON and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from latentrt.benchmarks import machine
from latentrt.benchmarks.machine import busy
from latentrt.benchmarks.peers.standings import Best, Duel, Row, Standings
from latentrt.benchmarks.ratio import Ratio
from latentrt.benchmarks.tables import TABLES

ROOT = Path(__file__).parents[2]
RAN = Row(
    "a",
    "fp32",
    seconds=(4.0, 4.0, 4.0),
    ratio=Ratio(1.0, 1.0, 1.0),
    stages={"unet": 0.5},
    start=3.0,
    first=2.0,
    rss_peak=10**9,
    settings={"fast": "yes"},
    versions={"a": "1"},
)
SETTINGS = {
    "size": "64x64",
    "steps": 2,
    "prompt": "",
    "negative_prompt": "",
    "guidance_scale": 5.0,
    "sampler": "ddim",
    "seed": 7,
    "threads": None,
    "device": "cpu",
}
MACHINE = {"processor": "", "flags": [], "cores": 2, "system": "", "python": "", "packages": {}}


def standings(
    *rows: Row, groups: tuple[tuple[str, ...], ...] = (("a", "b"),), rounds: int = 3, **more: Any
) -> Standings:
    """Of these rows, the first of them the reference."""
    load = {"before": [0.1, 0.1, 0.1], "after": [9.0, 9.0, 9.0]}
    return Standings(rows[0].name, rows, groups, rounds, 0, SETTINGS, "s", MACHINE, load, **more)


def obeyed(found: Standings) -> Any:
    """The standings as JSON, which is as its schema has it."""
    value = json.loads(json.dumps(found.to_json(), allow_nan=False))
    jsonschema.validate(value, json.loads((ROOT / "docs" / "contest.schema.json").read_text()))
    return value


def readme(value: Any) -> list[list[str]]:
    """The cells of the README's table of such a JSON file."""
    lines = TABLES["peers-shapes"](lambda _: value).splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize(
    ("count", "low", "high"),
    # As tables of the sign test have it, ranks from 1.
    [(1, 1, 1), (5, 1, 5), (6, 1, 6), (8, 1, 8), (9, 2, 8), (10, 2, 9), (12, 3, 10), (15, 4, 12),
     (20, 6, 15), (25, 8, 18), (50, 18, 33)],
)  # fmt: skip
def test_an_interval_is_between_the_ranks_of_the_sign_test(count: int, low: int, high: int) -> None:
    ranks = np.random.default_rng(0).permutation(count) + 1.0
    assert Ratio.of(ranks.tolist()) == Ratio((count + 1) / 2, low, high)


@pytest.mark.parametrize("count", [6, 7, 10, 30])
def test_the_median_of_everything_lies_in_the_interval_in_95_of_100_cases(count: int) -> None:
    rng = np.random.default_rng(1)
    # Ratios lean to one side: the median of these is 1.
    found = [Ratio.of(row.tolist()) for row in np.exp(rng.normal(0.0, 0.3, (2000, count)))]
    held = sum(each.low <= 1.0 <= each.high for each in found)
    # Of 2000 with 95 %, fewer than 1870 in 0.1 % of all cases.
    assert held >= 1870


@pytest.mark.parametrize(("rounds", "called"), [(5, "range"), (6, "95 %")])
def test_the_ends_of_a_ratio_of_few_rounds_are_called_a_range(rounds: int, called: str) -> None:
    found = standings(RAN, rounds=rounds)
    assert str(found).splitlines()[0].split()[3:5] == (
        ["95", "%"] if called == "95 %" else ["range", "as"]
    )
    assert readme(obeyed(found))[0][2] == called


def test_ours_are_held_against_the_fastest_peer_of_their_precision_by_rounds_or_by_ratios() -> None:
    ours = replace(RAN, name="latentrt-x", seconds=(1.0, 2.0, 4.0), ratio=Ratio(3.0, 2.0, 5.0))
    peer = replace(RAN, name="b", seconds=(2.0, 2.0, 4.0), ratio=Ratio(2.0, 1.0, 2.0))
    slower = replace(peer, name="c", ratio=Ratio(1.5, 1.0, 2.0))
    another = replace(peer, name="d", ratio=Ratio(9.0, 9.0, 9.0), psnr=30.0)
    lower = replace(peer, name="e", ratio=Ratio(9.0, 9.0, 9.0), precision="bf16", psnr=50.0)
    failed = replace(another, name="f", psnr=None, problem="alone, it failed")
    rows = (RAN, ours, slower, peer, another, lower, failed)
    together = standings(*rows, groups=(("a", "latentrt-x", "b"), ("a", "c", "d", "e", "f")))
    # In turn twice as fast, as fast and as fast.
    assert together.best(ours) == Best("b", 1.0, 1.0, 2.0)
    assert [together.best(row) for row in rows if row is not ours] == [None] * 6
    apart = standings(*rows, groups=(("a", "latentrt-x"), ("a", "b", "c", "d", "e", "f")))
    assert apart.best(ours) == Best("b", 1.5)
    # By themselves afterwards: 4, 2 and 1 times as fast.
    met = replace(apart, duels=(Duel("latentrt-x", "b", (1.0, 2.0, 3.0), (4.0, 4.0, 3.0)),))
    assert met.best(ours) == Best("b", 2.0, 1.0, 4.0)
    missed = replace(apart, duels=(Duel("latentrt-x", "c", (1.0,), (9.0,)),))
    assert missed.best(ours) == Best("b", 1.5)
    # The reference is a peer too, and in every group.
    alone = standings(RAN, ours, groups=(("a", "latentrt-x"),))
    assert alone.best(ours) == Best("a", 3.0, 2.0, 5.0)
    nobody = replace(ours, precision="bf16")
    assert standings(RAN, nobody).best(nobody) is None

    for found, cell in (
        (together, "1.00 (1.00 to 2.00)"),
        (apart, "1.50"),
        (met, "2.00 (1.00 to 4.00)"),
    ):
        value = obeyed(found)
        assert [row["best"] is None for row in value["rows"]] == [True, False] + [True] * 5
        cells = {row[0]: row for row in readme(value)}
        column = cells[""].index("as the best peer of its precision")
        assert cells["`latentrt-x`"][column] == cell
        assert {row[column] for name, row in cells.items() if name.startswith("`")} == {cell, ""}
    lines = {line.split()[0]: line for line in str(apart).splitlines()}
    # Behind the name, the ratio and its ends.
    assert lines["latentrt-x"].split()[5] == "1.50"


@pytest.mark.parametrize(
    ("precision", "psnr", "strays"),
    [
        ("fp32", 39.9, True),
        ("fp32", 40.1, False),
        # Engines owe PyTorch 35 dB in fp16; two that are each so far off can be 6 dB farther apart.
        ("fp16", 28.9, True),
        ("fp16", 29.1, False),
        # Engines owe PyTorch 25 dB in bf16.
        ("bf16", 24.9, True),
        ("bf16", 25.1, False),
        ("bf16", None, False),
    ],
)
def test_a_picture_farther_off_than_its_precision_explains_is_another(
    precision: str, psnr: float | None, strays: bool
) -> None:
    row = replace(RAN, name="b", precision=precision, psnr=psnr)
    assert row.strays is strays
    assert ("b: draws another picture" in str(standings(RAN, row))) is strays


def test_the_table_names_who_is_missing_and_who_draws_another_picture() -> None:
    ran = replace(RAN, seconds=(1.0, 2.0))
    other = replace(ran, name="b", psnr=39.9, alone=(2.0, 4.0))
    gone = Row("c", "fp32", problem="it is not there", remedy="make peers ARGS=c")
    found = standings(
        replace(ran, alone=(1.0, 1.9)), other, replace(other, name="d", precision="bf16"), gone
    )
    lines = str(found).splitlines()
    assert len({len(line) for line in lines[:4]}) == 1
    assert lines[4:] == [
        "b: draws another picture: 39.9 dB",
        "d: 0.50 times what its script takes alone",
        "c: it is not there; make peers ARGS=c",
    ]
    value = obeyed(found)
    assert [row["strays"] for row in value["rows"]] == [False, True, False, False]
    assert [row["median"] for row in value["rows"]] == [1.5, 1.5, 1.5, None]
    # 1 and 2 s, beside 1 and 1.9 s, or beside 2 and 4 s.
    half = {"median": 0.5, "low": 0.5, "high": 0.5}
    assert [row["beside"] for row in value["rows"][1:]] == [half, half, None]
    assert value["rows"][0]["beside"]["median"] == pytest.approx((1 + 2 / 1.9) / 2)
    heads, _, *cells = readme(value)
    assert [row[heads.index("of its time alone")] for row in cells] == [
        "1.03 (1.00 to 1.05)",
        "0.50 (0.50 to 0.50)",
        "0.50 (0.50 to 0.50)",
    ]


def test_where_memory_is_not_known_both_tables_say_the_rest() -> None:
    ran = replace(RAN, rss_peak=None)
    found = standings(ran, replace(ran, name="b", psnr=50.0))
    assert len({len(line) for line in str(found).splitlines()}) == 1
    heads, _, *rows = readme(obeyed(found))
    assert [row[heads.index("memory")] for row in rows] == ["", ""]


@pytest.mark.parametrize(("share", "disturbed"), [(0.24, False), (0.26, True), (None, False)])
def test_a_contest_beside_others_work_says_so(share: float | None, disturbed: bool) -> None:
    found = standings(RAN, busy=share)
    assert obeyed(found)["disturbed"] is disturbed
    assert ("others were at work (26% of the cores): hold it again" in str(found)) is disturbed


def test_the_busy_share_is_of_the_time_looked_at_and_waiting_for_a_disk_is_no_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 10 50 700 100 5 5 30 20 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        # 10 user, 5 nice, 5 system, 60 idle, 10 waiting, 2 and 3 of interrupts, 5 stolen.
        stat.write_text("cpu  110 15 55 760 110 7 8 35 29 0\n")

    monkeypatch.setattr(machine, "STAT", stat)
    monkeypatch.setattr(machine.time, "sleep", sleep)
    assert busy(1.5) == pytest.approx(0.3)
    assert slept == [1.5]
    monkeypatch.setattr(machine, "STAT", tmp_path / "none")
    assert busy(1.5) is None


def test_standings_are_read_back_as_they_were_and_earlier_ones_too() -> None:
    ours = replace(RAN, name="latentrt-x", psnr=50.0)
    gone = Row("c", "fp32", problem="it is not there", remedy="make peers ARGS=c")
    duel = Duel("latentrt-x", "b", (1.0, 2.0), (4.0, 4.0))
    found = standings(replace(RAN, alone=(4.0, 4.0, 4.0)), ours, gone, busy=0.125, duels=(duel,))
    value = obeyed(found)
    assert Standings.from_json(value) == found
    earlier = {k: content for k, content in value.items() if k not in ("busy", "duels")}
    keys = {"alone", "beside", "apart", "best"}
    earlier["rows"] = [{k: v for k, v in r.items() if k not in keys} for r in value["rows"]]
    read = Standings.from_json(earlier)
    assert read == standings(RAN, ours, gone)
    assert readme(earlier)[2:] == readme(obeyed(read))[2:]
    # Before, a script drew some time after the contest, as many pictures as were asked for.
    unpaired = {**value, "schema": "latentrt-contest-1"}
    unpaired["rows"] = [{**row, "alone": [4.0, 5.0]} for row in value["rows"]]
    assert Standings.from_json(unpaired) == replace(read, busy=0.125, duels=(duel,))
