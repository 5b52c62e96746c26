"""`make gpu`, tried on the CPU: what it writes, and what it does where something fails."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray

from latentrt.benchmarks import campaign, gpu, torch_noise
from latentrt.benchmarks.campaign import Campaign, Subject, measure
from latentrt.benchmarks.child import child, run
from latentrt.benchmarks.torch_noise import settle
from latentrt.benchmarks.trial import Trial, attempt
from latentrt.engines.cuda.device import Gpu, Missing
from latentrt.engines.registry import BACKENDS
from latentrt.engines.tensorrt import backend as tensorrt
from latentrt.engines.verification.tolerances import TOLERANCES, Tolerance
from latentrt.runtime.noise.philox import PhiloxNoise

Bundles = Callable[[str], Path]

NO_DRIVER = Missing("no NVIDIA driver was found", "install it")
ROOT = Path(__file__).parents[2]
SPREAD = {"median", "least", "greatest"}
DIFFERENCE = {"relative", "max_abs", "cosine"}
PARTS = ("gpu", "compare", "contest")
COMPONENTS = ["text_encoder", "unet", "vae_decoder", "vae_encoder"]


def checked(found: Mapping[str, Any]) -> dict[str, Any]:
    """What was found as its file has it, which is of the schema."""
    schemas = {name: json.loads((ROOT / f"docs/{name}.schema.json").read_text()) for name in PARTS}
    value = json.loads(json.dumps(found))
    compare = {**schemas["compare"]["$defs"]["comparison"], "$defs": schemas["compare"]["$defs"]}
    rows = [row["compare"] for bundle in value["bundles"] for row in bundle["engines"]]
    contests = [bundle["contest"] for bundle in value["bundles"]]
    pairs = [(schemas["gpu"], value)]
    pairs += [(compare, row) for row in rows if row is not None]
    pairs += [
        (schemas["contest"], one["standings"]) for one in contests if one and one["standings"]
    ]
    for schema, part in pairs:
        errors = jsonschema.Draft202012Validator(schema).iter_errors(part)
        assert [f"{each.json_path}: {each.message[:200]}" for each in errors] == []
    return value


def tried(bundle: Path, cache: Path, engine: str = "onnxruntime") -> dict[str, Any]:
    return attempt(Trial(bundle, engine, "fp32", {}, cache / "cache", repeats=1, steps=1))


def test_a_bundle_is_built_verified_timed_and_compared_beside_pytorch(
    bundle: Bundles, checkpoint: Bundles
) -> None:
    subject = Subject("heads", str(checkpoint("heads")), path=bundle("heads"))
    asked = Campaign((subject,), True, ("onnxruntime",), repeats=1, steps=1)
    found = checked(measure(asked, NO_DRIVER))
    assert found["mode"] == "cpu"
    assert found["machine"]["packages"]["numpy"] == np.__version__
    assert found["gpu"] == {
        "found": False,
        "problem": "no NVIDIA driver was found",
        "remedy": "install it",
    }
    assert [p["name"] for p in found["providers"]] == list(BACKENDS)
    assert [p["name"] for p in found["providers"] if p["runs"]] == ["onnxruntime"]
    (of_bundle,) = found["bundles"]
    assert (of_bundle["dtype"], of_bundle["problem"]) == ("float32", "")
    (row,) = of_bundle["engines"]
    assert (row["environment"], found["environments"]) == ("", [])
    assert (row["engine"], row["precision"], row["problem"]) == ("onnxruntime", "fp32", "")
    assert row["compare"]["passed"]
    assert set(row["picture"]["seconds"]) == SPREAD
    (reference,) = of_bundle["reference"]
    assert (reference["engine"], reference["problem"]) == ("pytorch", "")
    assert set(reference["components"]["unet"]["device_seconds"]) == SPREAD
    for rows in (row["components"], reference["components"]):
        assert list(rows) == COMPONENTS
        for component in rows.values():
            assert set(component["seconds"]) == SPREAD
            assert set(component["error"]) == DIFFERENCE
            # Rounding: the most that was measured of any fp32 engine is 3.4e-6.
            assert component["error"]["relative"] < 7e-6
    for component in row["components"].values():
        assert component["verification"]["reference"] == "the goldens"
        assert component["again"]["relative"] <= component["tolerance"]
        assert component["at_once"]["relative"] <= component["tolerance"]
    assert found["noise"]["found"] or found["noise"]["remedy"]
    assert found["passed"]
    assert found["finished"]


@pytest.mark.parametrize(("on_cpu", "held"), [(True, True), (False, False)])
def test_a_contest_is_held_over_a_bundle_in_the_dtype_of_the_devices_peers(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch, on_cpu: bool, held: bool
) -> None:
    commands: list[Sequence[str]] = []
    standings = json.loads((ROOT / "benchmarks" / "results" / "peers-shapes.json").read_text())

    def run(command: Sequence[str], *_: Any) -> str:
        commands.append(command)
        Path(command[command.index("--json") + 1]).write_text(json.dumps(standings))
        return ""

    monkeypatch.setattr(campaign, "child", lambda *_: {"found": False, "problem": ""})
    monkeypatch.setattr(campaign, "run", run)
    subject = Subject("heads", "a checkpoint", path=bundle("heads"))
    asked = Campaign((subject,), on_cpu, (), steps=3, rounds=2, peers=("diffusers-fp32",))
    (row,) = measure(asked, NO_DRIVER)["bundles"]
    assert (row["contest"] is not None, len(commands)) == (held, int(held))
    if held:
        assert row["contest"] == {"problem": "", "standings": standings}
        given = " ".join(commands[0])
        assert " latentrt.benchmarks.peers.contest " in given
        assert " --checkpoint a checkpoint --device cpu --size 64x64 --steps 3 --rounds 2 " in given
        assert given.endswith(" --against diffusers-fp32")


def test_a_contest_that_fails_is_told_with_its_problem(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign, "child", lambda *_: {"found": False, "problem": ""})
    monkeypatch.setattr(campaign, "run", lambda *_: "exit status 1: error: no diffusers")
    subject = Subject("heads", "a checkpoint", path=bundle("heads"))
    (row,) = measure(Campaign((subject,), True, (), rounds=1), NO_DRIVER)["bundles"]
    problem = "exit status 1: error: no diffusers"
    assert row["contest"] == {"problem": problem, "standings": None}
    assert row["problem"] == ""


def test_what_was_found_is_kept_before_the_next_is_tried(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[int, bool]] = []

    def keep(found: Mapping[str, Any]) -> None:
        rows = sum(len(b["engines"]) for b in found["bundles"])
        kept.append((rows, found["finished"] or found["passed"]))

    monkeypatch.setattr(
        campaign, "child", lambda *_: {"found": False, "passed": True, "problem": ""}
    )
    subjects = tuple(Subject(name, "", path=bundle("heads")) for name in ("one", "two"))
    measure(Campaign(subjects, True, ("onnxruntime",)), NO_DRIVER, keep)
    assert kept == [(0, False), (1, False), (2, False)]


def test_with_a_gpu_the_engines_of_the_cpu_are_left_out_and_nothing_tried_is_no_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(campaign, "child", lambda *_: {"found": False})
    found = checked(measure(Campaign((), False), Gpu("NVIDIA L4", "sm89", "13.0")))
    runs = {p["name"]: p["runs"] for p in found["providers"]}
    assert not runs["onnxruntime"]
    assert not runs["openvino"]
    assert (found["gpu"]["found"], found["gpu"]["name"]) == (True, "NVIDIA L4")
    assert not found["passed"]


def test_processes_that_end_badly_are_rows_with_their_problems(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_: object, arguments: Sequence[object], scratch: Path, limit: float) -> dict[str, Any]:
        return child("latentrt.benchmarks.nowhere", arguments, scratch, limit)

    monkeypatch.setattr(campaign, "child", lambda *given: lost(*given[:4]))
    subject = Subject("heads", "a checkpoint", path=bundle("heads"))
    found = checked(measure(Campaign((subject,), True, ("onnxruntime",)), NO_DRIVER))
    (of_bundle,) = found["bundles"]
    (row,), (reference,) = of_bundle["engines"], of_bundle["reference"]
    for each in (found["noise"], row, reference):
        assert each["problem"].startswith("exit status 1: ")
        assert "No module named latentrt.benchmarks.nowhere" in each["problem"]
    assert (row["passed"], row["components"], reference["components"]) == (False, {}, {})
    assert not found["noise"]["agrees"]
    assert not found["passed"]


def test_an_error_that_is_not_finite_is_null_in_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [{"relative": float("nan")}, {"relative": float("inf")}, {"relative": 0.5}]
    monkeypatch.setattr(gpu, "measure", lambda *_: {"passed": False, "components": {"unet": rows}})
    path = tmp_path / "found.json"
    monkeypatch.setattr(sys, "argv", ["gpu", "--cpu", "--json", str(path)])
    with pytest.raises(SystemExit):
        gpu.main()
    (found,) = json.loads(path.read_text())["components"].values()
    assert [row["relative"] for row in found] == [None, None, 0.5]


def test_an_engine_that_is_not_there_is_a_row_with_its_problem(
    bundle: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "gpu", lambda: NO_DRIVER)
    row = tried(bundle("heads"), tmp_path, "tensorrt")
    assert row["problem"].startswith("engine tensorrt: no NVIDIA driver was found")
    assert not row["passed"]


def test_an_engine_out_of_tolerance_is_measured_all_the_same_and_fails(
    bundle: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = Tolerance(text_encoder=1e-2, unet=1e-9, vae=1e-2, alone=1.0, step=1.0, psnr=0.0)
    monkeypatch.setitem(cast("dict[str, Tolerance]", TOLERANCES), "fp32", strict)
    row = tried(bundle("heads"), tmp_path)
    assert row["problem"].startswith("onnxruntime fp32, unet: model_output is")
    assert "vae_decoder" not in row["problem"]
    assert not row["passed"]
    unet = row["components"]["unet"]
    assert set(unet["seconds"]) == SPREAD
    assert 1e-9 < unet["error"]["relative"] < 1e-5
    assert row["picture"]["seconds"]


def test_a_process_that_ends_badly_is_a_problem_in_words(tmp_path: Path) -> None:
    def python(code: str, limit: float = 60) -> str:
        return run([sys.executable, "-c", code], limit, tmp_path)

    assert python("pass") == ""
    assert python("import os; os.abort()") == "ended by SIGABRT: it printed nothing"
    assert python("import sys; sys.exit('one\\ntwo')") == "exit status 1: two"
    assert python("import time; time.sleep(60)", 0.2) == "took longer than 0.2 s"


def test_a_bundle_that_cannot_be_had_fails_and_the_next_is_tried(
    bundle: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def child(module: str, *_: object) -> dict[str, Any]:
        return {"passed": True} if module.endswith("trial") else {"found": False}

    monkeypatch.setattr(campaign, "child", lambda *a: {**child(*a), "problem": ""})
    monkeypatch.setattr(campaign, "run", lambda *_: "exit status 1: /nowhere: no such folder")
    subjects = (
        Subject("none", "", path=tmp_path),
        Subject("gone", "/nowhere", "fp32"),
        Subject("heads", "", path=bundle("heads")),
    )
    found = checked(measure(Campaign(subjects, True, ("onnxruntime",)), NO_DRIVER))
    first, second, third = found["bundles"]
    assert "manifest.json" in first["problem"]
    assert second["problem"] == "exit status 1: /nowhere: no such folder"
    assert [row["passed"] for row in third["engines"]] == [True]
    assert not found["passed"]


@pytest.mark.parametrize(
    ("noise", "passed"),
    [({"found": False}, True), ({"found": True, "agrees": True}, True),
     ({"found": True, "agrees": False}, False)],
)  # fmt: skip
def test_numbers_of_a_device_that_do_not_agree_are_a_failure(
    bundle: Bundles, monkeypatch: pytest.MonkeyPatch, noise: dict[str, bool], passed: bool
) -> None:
    def child(module: str, *_: object) -> dict[str, Any]:
        return noise if module.endswith("torch_noise") else {"passed": True, "problem": ""}

    monkeypatch.setattr(campaign, "child", child)
    asked = Campaign((Subject("heads", "", path=bundle("heads")),), True, ("onnxruntime",))
    assert measure(asked, NO_DRIVER)["passed"] is passed


def ours(seed: int, shapes: Sequence[tuple[int, ...]], threads: int) -> list[NDArray[np.float32]]:
    stream = PhiloxNoise(seed, threads=threads)
    return [stream.normal(shape) for shape in shapes]


def test_a_device_of_the_same_stream_agrees_and_its_numbers_are_kept() -> None:
    threads = 132 * 2048
    verdict = settle(lambda seed, shapes: [n + 1e-6 for n in ours(seed, shapes, threads)], threads)
    assert verdict["agrees"]
    # Numbers below 8, where float32 has steps of 4.8e-7.
    assert verdict["max_abs"] == pytest.approx(1e-6, abs=5e-7)
    (call,) = verdict["cases"][0]["calls"]
    assert call["first"] == (ours(0, [(1, 4, 64, 64)], threads)[0] + 1e-6).ravel()[:8].tolist()
    assert len(call["sha256"]) == 64
    assert not call["same_bits"]


def test_a_device_of_another_stream_does_not_agree() -> None:
    threads = 132 * 2048
    verdict = settle(lambda seed, shapes: ours(seed ^ 1, shapes, threads), threads)
    assert not verdict["agrees"]
    assert all(call["max_abs"] > 1 for case in verdict["cases"] for call in case["calls"])


def test_numbers_that_other_threads_shared_out_do_not_agree() -> None:
    verdict = settle(lambda seed, shapes: ours(seed, shapes, 132 * 2048), 28 * 1536)
    assert not verdict["agrees"]
    # A call for no more numbers than either has threads is the same on both.
    assert verdict["cases"][0]["calls"][0]["same_bits"]
    assert not verdict["cases"][-1]["calls"][0]["same_bits"]


def test_without_pytorch_the_verdict_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    verdict = torch_noise.on_device()
    assert not verdict["found"]
    assert verdict["remedy"] == "pip install torch"


def test_the_command_says_that_there_is_no_gpu_and_its_status_is_whether_all_passed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu, "gpu", lambda: NO_DRIVER)
    for passed, status in ((True, 0), (False, 1)):
        monkeypatch.setattr(gpu, "measure", lambda *_, passed=passed: {"passed": passed})
        path = tmp_path / "found.json"
        monkeypatch.setattr(sys, "argv", ["gpu", "--json", str(path)])
        with pytest.raises(SystemExit) as stopped:
            gpu.main()
        assert stopped.value.code == status
        assert json.loads(path.read_text()) == {"passed": passed}
        assert "no GPU: no NVIDIA driver was found; install it" in capsys.readouterr().err


def test_results_are_named_by_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu, "gpu", lambda: Gpu("NVIDIA RTX 4000 Ada", "sm89", "13.0"))
    monkeypatch.setattr(gpu, "measure", lambda *_: {"passed": True})
    for arguments in ([], ["--cpu"]):
        monkeypatch.setattr(sys, "argv", ["gpu", *arguments])
        with pytest.raises(SystemExit):
            gpu.main()
    assert (tmp_path / "benchmarks/results/gpu-nvidia-rtx-4000-ada.json").is_file()
    assert (tmp_path / "build/gpu-none.json").is_file()
