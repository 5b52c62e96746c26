"""A report in words: every table on the terminal and on the page, from a report made by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jsonschema
import pytest
from matplotlib.axes import Axes
from tests.benchmarks.reported import REPORT

from latentrt.benchmarks.latency.earlier import Earlier
from latentrt.benchmarks.latency.goodput import Curve, Point
from latentrt.benchmarks.latency.plot import write_html
from latentrt.benchmarks.latency.report import error_beside
from latentrt.benchmarks.latency.verdict import Verdict
from latentrt.cli.bench import print_report, print_verdicts

ROOT = Path(__file__).parents[2]
# What each table has to say of it.
SAID = (
    ("unet call", "800 ms", "1.2e-04", "unstable"),
    ("step", "900 ms", "4.6e-03"),
    ("text", "100 ms", "7.9e-05"),
    ("decode", "100 ms", "3.2e-06"),
    ("picture", "2 s", "equal (golden)"),
    ("at its peak", "3.14 GB"),
    ("without mapped files", "2.71 GB"),
    ("clock, median", "1400 MHz"),
    ("memory's clock, median", "?"),
    ("throttled", "SwPowerCap"),
    ("empty cache, failed",),
    ("filled cache, loaded", "3.75 s", "250 ms", "?"),
    ("unet", "1.250", "125%", "arithmetic"),
    ("ceiling, tensorrt fp16", "1.000"),
    ("batch 2", "4.000", "1.50", "12", "75%", "2.5e-06"),
    ("one at a time", "1.50 (1.50 to 1.50)", "goodput"),
    ("batched, up to 8", "at least 3.50", "goodput"),
)


def test_the_terminal_has_every_table_and_note(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(REPORT)
    lines = capsys.readouterr().out.splitlines()
    for name, *words in SAID:
        found = [line for line in lines if line.startswith(name)]
        assert any(all(word in line for word in words) for line in found), (name, words)
    assert "note: cold start: ended by SIGKILL" in lines


def test_the_page_has_every_table_note_verdict_and_standing(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    verdict = Verdict("picture", 1.5, 1.4, 1.6, 2, False)
    write_html(REPORT, (verdict,), path, differences=("cores: 2, now < 4",), standings="peer < us")
    # The folded JSON behind the tables has everything in any case.
    text = path.read_text().split("<details>")[0]
    rows = [row.split("</tr>")[0] for row in text.split("<tr>")]
    for name, *words in SAID:
        name = name.replace("'", "&#x27;")
        found = [row for row in rows if row.startswith(f"<td>{name}</td>")]
        assert any(all(f"{word}</td>" in row for word in words) for row in found), (name, words)
    assert "note: cold start: ended by SIGKILL" in text
    assert "<pre>peer &lt; us</pre>" in text
    assert "<td>unsure, 2 runs, unstable</td>" in text
    assert "not the same: cores: 2, now &lt; 4<" in text


def test_a_share_above_all_of_the_limit_is_drawn_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[tuple[Any, ...]] = []
    real: Callable[..., Any] = Axes.set_xlim

    def heard(self: Axes, *given: Any, **more: Any) -> Any:
        if len(given) == 2:  # matplotlib itself gives a pair
            ends.append(given)
        return real(self, *given, **more)

    monkeypatch.setattr(Axes, "set_xlim", heard)
    for share in (1.25, 0.5):
        limit = replace(REPORT.limits["unet"], share=share)
        write_html(replace(REPORT, limits={"unet": limit}), (), tmp_path / "a.html")
    assert ends == [(0, 125.0), (0, 100)]


def test_what_is_not_finite_is_null_in_json() -> None:
    schema: Any = json.loads((ROOT / "docs" / "bench.schema.json").read_text())
    broken = replace(REPORT, errors={"unet": math.nan})
    for report in (REPORT, broken):
        told = {"verdicts": [], "differences": [], "against": None}
        text = json.dumps({**report.to_json(), **told}, allow_nan=False)
        jsonschema.validate(json.loads(text), schema)
    assert REPORT.to_json()["picture_psnr"] is None
    assert broken.to_json()["errors"] == {"unet": None}
    # And the bandwidth of a device that nobody could ask.
    assert REPORT.to_json()["ceilings"]["tensorrt fp16"]["bandwidth"] is None


@pytest.mark.parametrize(
    ("row", "errors", "psnr", "words"),
    [
        ("unet call", {"unet": 1.26e-6}, 60.0, "1.3e-06"),
        ("unet call", {"unet": None}, 60.0, "not finite"),
        ("unet call", {}, None, ""),
        ("step", {"steps": 0.5}, 60.0, "5.0e-01"),
        ("text", {"prompts": 2.5e-3}, 60.0, "2.5e-03"),
        ("decode", {"vae_decoder": None}, 60.0, "not finite"),
        ("picture", {"unet": 1e-6}, 60.4, "60 dB (golden)"),
        ("picture", {"unet": 1e-6}, None, "equal (golden)"),
        ("picture", {}, None, ""),
        ("own", {"unet": 1e-6, "own": 1.0}, 60.0, ""),
    ],
)
def test_beside_a_speed_stands_its_error_where_it_is_known(
    row: str, errors: dict[str, float | None], psnr: float | None, words: str
) -> None:
    assert error_beside(row, errors, psnr) == words


def test_the_batchers_gain_has_its_interval_where_neither_goodput_is_a_bound(
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, _ = REPORT.arrivals
    late = ((0.6, 0.6), (0.6, 0.6))
    # It reaches the limit of 0.4 s half way from 2 to 4 a second, twice as late as the other.
    other = Curve("batched, up to 8", 0.4, (Point(2.0, ((0.2, 0.2), (0.2, 0.2))), Point(4.0, late)))
    print_report(replace(REPORT, arrivals=(one, other)))
    (line,) = (
        line for line in capsys.readouterr().out.splitlines() if line.startswith("batched over")
    )
    assert "2.00 (2.00 to 2.00)" in line
    print_report(REPORT)
    assert "batched over" not in capsys.readouterr().out


def objects(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a schema that is about an object, by where it is."""
    if isinstance(schema, dict):
        kinds = schema.get("type")
        if "object" in (kinds if isinstance(kinds, list) else [kinds]):
            yield place, schema
        for name, part in schema.items():
            yield from objects(part, f"{place}/{name}")


def test_the_schema_leaves_nothing_open_but_what_another_schema_has() -> None:
    schema: Any = json.loads((ROOT / "docs" / "bench.schema.json").read_text())
    for place, part in objects(schema):
        if place == "/properties/against":
            continue
        allowed = part.get("additionalProperties")
        assert allowed is False or isinstance(allowed, dict), place
        if allowed is False:
            # Reports made before a request had these keys are valid too.
            later = {"schema", "provenance"} if place == "/$defs/request" else set()
            assert set(part["required"]) == set(part["properties"]) - later, place


def test_a_remark_is_whole_on_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    remark = "its error grew from 60 dB (golden) to 41 dB (golden)"
    verdict = Verdict("text_encoder_2 call", 2.0, 1.9, 2.1, 20, False, error=remark)
    earlier = cast("Earlier", SimpleNamespace(path="old.json", differences=lambda _: ()))
    print_verdicts([verdict], earlier, REPORT)
    # The other cells are in the first line only.
    words = capsys.readouterr().out.split("1.900 to 2.100")[1].split()
    assert " ".join(words) == f"faster, unstable, {remark}"
