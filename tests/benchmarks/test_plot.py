"""A report as text, as a plot and as a page: every part of it is shown, as it was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.benchmarks.reported import REPORT

from latentrt.benchmarks.latency.plot import write_html, write_png
from latentrt.benchmarks.latency.report import Errors
from latentrt.benchmarks.latency.tables import comparison, seconds, tables, title
from latentrt.benchmarks.samples import Ratio, Samples


def rows(start: str) -> dict[str, tuple[str, ...]]:
    (found,) = (table for table in tables(REPORT) if table.title.startswith(start))
    return {row[0]: row[1:] for row in found.rows}


def test_every_part_of_a_report_has_a_table_of_its_numbers() -> None:
    assert rows("a warm image")["image"] == ("2 s", "2 s", "2.32 s", "3", "60 dB")
    assert rows("a warm image")["unet call"][-1] == "1.2e-04"
    assert rows("a warm image")["text"][-1] == "7.9e-05"
    assert rows("memory")["peak"] == ("3.14 GB",)
    assert rows("the GPU")["device"] == ("A GPU, driver 580.1",)
    assert rows("the GPU")["memory clock, median"] == ("?",)
    assert rows("the GPU")["throttled"] == ("SwPowerCap",)
    cold = rows("cold start")
    assert (cold["empty cache: failed"], cold["filled cache"][0]) == ((), "3.75 s")
    calls = rows("engine calls")
    assert calls["unet"] == ("800 ms", "1000.00", "1.250", "1 s", "125%", "arithmetic")
    assert calls["ceiling, tensorrt fp16"][2] == "1.000"
    batch = rows("throughput")["batch 2"]
    assert batch == ("4.000", "1.60", "500 ms", "500 ms", "2", "2.5e-06")
    # Half way between 0.4 and 0.8 s, and 95 % of the way.
    assert rows("Poisson")["one at a time"] == ("1.25", "600 ms", "780 ms", "2")
    assert title(REPORT).startswith("somebody's: tensorrt fp16; 64x64, 2 steps of ddim")


@pytest.mark.parametrize(
    ("value", "text"), [(12.345, "12.3 s"), (0.0123, "12.3 ms"), (2.5e-5, "25 us")]
)
def test_seconds_have_three_digits_in_the_unit_that_suits(value: float, text: str) -> None:
    assert seconds(value) == text


def test_an_error_is_equal_unknown_or_a_number() -> None:
    equal = Errors({"unet": 0.0}, float("inf"))
    assert (equal.beside("image"), equal.beside("unet call")) == ("equal", "0.0e+00")
    assert (equal.beside("runtime"), Errors().beside("image")) == ("", "")
    assert Errors.from_json(equal.to_json()) == equal
    # 60 dB below the range of colours is a thousandth of it.
    assert REPORT.errors.of("image") == pytest.approx(1e-3)


def test_a_page_and_a_plot_have_every_part_and_need_no_other_file(tmp_path: Path) -> None:
    page, plot = tmp_path / "a.html", tmp_path / "a.png"
    ratio = Ratio.of(Samples.of([2.0]), Samples.of([1.0]))
    report = replace(REPORT, notes=("a < b",))
    more = [comparison([("image", ratio, "a remark")], "old.json"), "one <line>"]
    write_html(report, page, more=more)
    text = page.read_text()
    for part in ("note: a &lt; b", "2.00 (2.00 to 2.00)", "one &lt;line&gt;", "SwPowerCap"):
        assert part in text
    assert "http" not in text.replace("http://www.w3.org", "")
    write_png(report, plot)
    assert plot.read_bytes()[:4] == b"\x89PNG"
