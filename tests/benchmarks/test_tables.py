"""Tables from the committed measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from latentrt.benchmarks.tables import RESULTS, TABLES, filled, main, reading
from latentrt.bundle.errors import FileError

ROOT = Path(__file__).parents[2]


def test_a_table_that_nobody_makes_and_a_file_that_is_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="has a table 'speed', not one of own"):
        filled("<!-- speed -->\n<!-- end -->\n", reading(ROOT / RESULTS))
    with pytest.raises(FileError, match=r"install\.json"):
        filled("<!-- install -->\n<!-- end -->\n", reading(tmp_path))


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), ("", "no JSON: "), ('{"a": 1', "no JSON: ")]
)
def test_the_command_names_a_file_of_results_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None, said: str
) -> None:
    document, file = tmp_path / "README.md", tmp_path / RESULTS / "install.json"
    document.write_text(before := "<!-- install -->\n<!-- end -->\n")
    if content is not None:
        file.parent.mkdir(parents=True)
        file.write_text(content)
    monkeypatch.setattr("sys.argv", ["tables", str(document)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert str(stopped.value).startswith(f"error: {file}: {said}")
    assert document.read_text() == before


@pytest.mark.parametrize("table", ["aims", "peers-shapes"])
def test_a_contest_that_was_interrupted_is_no_table(table: str) -> None:
    real = reading(ROOT / RESULTS)
    with pytest.raises(
        FileError, match=r"peers-shapes\.json: is of a contest that was interrupted"
    ):
        TABLES[table](lambda name: real(name) | {"interrupted": True})


def test_the_table_of_bench_has_errors_what_is_unstable_and_what_failed() -> None:
    real = reading(ROOT / RESULTS)

    def changed(name: str) -> Any:
        value = real(name)
        if name == "bench-shapes.json":
            for row in value["rows"].values():
                row["stable"] = True
            value["rows"]["text"].update(count=17, stable=False)
            value["errors"].update(unet=1.26e-6, steps=2.5e-3)
            value["picture_psnr"] = None  # equal to the last bit
            parts = dict.fromkeys(("imports", "opens", "engines", "picture"), 0.0)
            value["cold"][0] |= {**parts, "problem": "took longer than 3600 s"}
        return value

    lines = TABLES["bench"](changed).splitlines()
    (heads,) = (line for line in lines if "p50" in line)
    assert heads.endswith("| of what the machine can do | error |")
    ends = {"picture": "| equal (golden) |", "step": "| 2.5e-03 |", "unet call": "| 1.3e-06 |"}
    for name, end in ends.items():
        (line,) = (line for line in lines if line.startswith(f"| {name} |"))
        assert line.endswith(end)
    assert [line.split(" | ")[0] for line in lines if "17, unstable" in line] == ["| text"]
    assert sum("unstable" in line for line in lines) == 1
    (failed,) = (line for line in lines if "engines built" in line)
    assert "| failed |" in failed
    assert "0.0 ms" not in failed


def test_distances_are_the_worst_of_each_kind_beside_what_is_allowed() -> None:
    def row(name: str, relative: float, tolerance: float) -> dict[str, Any]:
        return {"name": name, "relative": relative, "tolerance": tolerance}

    good = {
        "engines": {"unet": "openvino", "vae_decoder": "openvino"},
        "precisions": {"unet": "bf16", "vae_decoder": "bf16"},
        "components": [row("unet", 1.23e-3, 2.6e-2), row("prompts", 4e-4, 1.4e-2)],
        "steps_alone": [row("step 0", 2e-3, 1e-2), row("step 1", 1e-3, 1e-2)],
        "steps": [row("step 0", 1e-3, 2e-1), row("step 1", 3e-2, 2e-1)],
        "picture_psnr": 41.26,
        "least_psnr": 25.0,
        "picture_ssim": 0.9987654,
        "adherence": {"colour": 0.875, "all": 0.5},
    }
    lost = row("unet", 0.0, 2.6e-2) | {"relative": None}  # infinite
    bad = good | {
        "engines": {"unet": "onnxruntime"},
        "components": [lost, row("prompts", 4e-4, 1.4e-2)],
        "steps": [row("step 0", 1e-3, 2e-1), lost],
        "picture_psnr": None,
        "picture_ssim": None,
        "adherence": {"colour": 0.0, "all": 0.0},
    }
    failed = {"openvino fp16": "no such operator"}
    found = {"drawn": 8, "comparisons": [good, bad], "failed": failed}
    files = {"compare-shapes.json": found}
    table = filled("<!-- compare -->\n<!-- end -->\n", files.__getitem__)
    *rows, last = table.splitlines()[1:-1]
    assert rows == [
        "| | unet | prompts | a step alone | a step of the run | PSNR | SSIM"
        " | of 8 pictures, right in colour / all |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| `--engine openvino`, bf16 | 1.2e-03 / 2.6e-02 | 4.0e-04 / 1.4e-02 | 2.0e-03 / 1.0e-02"
        " | 3.0e-02 / 2.0e-01 | 41 dB / 25 dB | 0.99877 | 87.5% / 50.0% |",
        "| `--engine onnxruntime`, bf16 | not finite / 2.6e-02 | 4.0e-04 / 1.4e-02"
        " | 2.0e-03 / 1.0e-02 | not finite / 2.6e-02 | not finite / 25 dB | not finite"
        " | 0.0% / 0.0% |",
    ]
    cells = [cell.strip() for cell in last.strip("|").split("|")]
    assert cells == ["`openvino fp16` failed: no such operator", *[""] * 7]


def test_adherence_has_no_column_where_no_picture_was_judged() -> None:
    found = json.loads((ROOT / RESULTS / "compare-shapes.json").read_text())
    for each in found["comparisons"]:
        each["adherence"] = None
    files = {"compare-shapes.json": found | {"drawn": 0}}
    heads, line, *rows = TABLES["compare"](files.__getitem__).splitlines()
    assert heads.endswith("| PSNR | SSIM |")
    assert {row.count("|") for row in (heads, line, *rows)} == {heads.count("|")}


def test_below_the_table_of_bench_stand_both_goodputs_and_their_ratio() -> None:
    real = reading(ROOT / RESULTS)

    def changed(name: str) -> Any:
        value = real(name)
        ends = {"low": 5.0, "high": 6.0, "bound": None}
        value["arrivals"] = [
            {"server": "one at a time", "goodput": 5.5, **ends},
            {"server": "batched", "goodput": 11.0, "low": 9.0, "high": 12.0, "bound": "at least"},
        ]
        value["goodput_gain"] = {"value": 2.0, "low": 1.5, "high": 2.5}
        return value

    line = TABLES["bench"](changed).splitlines()[-1]
    assert line.endswith(
        ": 5.50 (5.00 to 6.00) one at a time; at least 11.00 batched;"
        " 2.00 (1.50 to 2.50) times as many batched."
    )


def test_a_start_is_told_by_what_was_seen_of_its_engines() -> None:
    real = reading(ROOT / RESULTS)

    def changed(name: str) -> Any:
        value = real(name)
        first, second = value["cold"]
        first |= {"cache": "empty", "hit": None, "problem": "ended by SIGKILL"}
        second |= {"cache": "filled", "hit": False}
        return value

    lines = TABLES["bench"](changed).splitlines()
    found = [line.split(" | ")[:2] for line in lines if line.startswith("| first picture")]
    assert found[0] == ["| first picture of a fresh process, empty cache", "failed"]
    assert found[1][0] == "| first picture of a fresh process, engines built"
