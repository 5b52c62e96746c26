"""A report in words: every table on the terminal and on the page, from a report made by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from matplotlib.axes import Axes

from latentrt.benchmarks.arrivals import Curve, Point
from latentrt.benchmarks.batching import Goodput
from latentrt.benchmarks.ceilings import Ceilings
from latentrt.benchmarks.cold import Cold
from latentrt.benchmarks.limits import Limit
from latentrt.benchmarks.machine import Machine
from latentrt.benchmarks.memory import Memory
from latentrt.benchmarks.nvml import GpuState
from latentrt.benchmarks.plot import write_html
from latentrt.benchmarks.report import Report, error_beside
from latentrt.benchmarks.samples import Samples
from latentrt.benchmarks.verdict import Verdict
from latentrt.cli.bench import print_report

ROOT = Path(__file__).parents[2]
GPU = GpuState("A GPU", "580.1", 1400.0, None, 250.5, 88, 9 * 10**9, None, ("SwPowerCap",), 3)
REPORT = Report(
    subject={
        "bundle": "b",
        "source": "somebody's",
        "dtype": "float32",
        "engine": "tensorrt",
        "options": {},
        "components": {},
        "request": {
            "prompt": "a red circle",
            "sampling": {"steps": 2},
            "guidance": {"scale": 7.5},
        },
        "size": "64x64",
        "sampler": "ddim",
        "rows": 2,
    },
    engines={"unet": "tensorrt"},
    precisions={"unet": "fp16"},
    machine=Machine("A CPU", (), 2, "Linux", "3.11.7", {}),
    load={"before": [0.0]},
    gpu=GPU,
    rows={
        "picture": Samples((2.0, 2.0)),
        "text": Samples((0.1,)),
        "step": Samples((0.9,)),
        "decode": Samples((0.1,)),
        "own": Samples((0.01,)),
        "unet call": Samples((0.8,)),
    },
    memory=Memory(3_140_000_000, 2_710_000_000),
    cold=(Cold(False, problem="ended by SIGKILL"), Cold(True, 0.25, 0.5, 1.0, 2.0, None)),
    ceilings={"tensorrt fp16": Ceilings(1e12, None)},
    limits={"unet": Limit(10**12, 10, 1.25e12, 1.0, 1.25, "arithmetic")},
    served=(Goodput(2, 4.0, 3.0, 5.0, 1.5, 12, 0.75, (1.0,)),),
    arrivals=(Curve("one at a time", (Point(1.5, 0.1, 0.2),), 1.5, True),),
    errors={"unet": 1.23e-4, "steps": 4.56e-3},
    picture_psnr=math.inf,
    notes=("cold start: ended by SIGKILL",),
)
# What each table has to say of it.
SAID = (
    ("unet call", "800 ms", "1.2e-04", "unstable"),
    ("step", "900 ms", "4.6e-03"),
    ("picture", "2 s", "equal"),
    ("at its peak", "3.14 GB"),
    ("without mapped files", "2.71 GB"),
    ("clock, median", "1400 MHz"),
    ("memory's clock, median", "?"),
    ("throttled", "SwPowerCap"),
    ("built", "failed"),
    ("loaded", "3.75 s", "250 ms", "?"),
    ("unet", "1.250", "125%", "arithmetic"),
    ("ceiling, tensorrt fp16", "1.000"),
    ("batch 2", "4.000", "1.50", "12", "75%"),
    ("one at a time", "at least 1.50", "goodput"),
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
    write_html(REPORT, (verdict,), path, standings="peer < us")
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
        ("picture", {"unet": 1e-6}, 60.4, "60 dB"),
        ("picture", {"unet": 1e-6}, None, "equal"),
        ("picture", {}, None, ""),
        ("decode", {"unet": 1e-6, "decode": 1.0}, 60.0, ""),
    ],
)
def test_beside_a_speed_stands_its_error_where_it_is_known(
    row: str, errors: dict[str, float | None], psnr: float | None, words: str
) -> None:
    assert error_beside(row, errors, psnr) == words
