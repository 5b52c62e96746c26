"""`latentrt compare --engine all`: a row for every engine, whatever becomes of the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.cli.compared import told
from tests.cli.outcome import Run
from tests.processor import needs_bf16

from latentrt.benchmarks.numerics import layers, survey, tolerances
from latentrt.benchmarks.numerics.layer_table import LayerTable
from latentrt.benchmarks.numerics.reference import Reference
from latentrt.benchmarks.numerics.torch_model import TorchModel
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BuildFailed, LatentrtError, NonFinite, Unavailable
from latentrt.engines import registry
from latentrt.engines.engine import Blueprint, Engine
from latentrt.engines.onnxruntime import cpu as onnxruntime
from latentrt.engines.openvino.backend import OpenVino
from latentrt.engines.options import NoOptions
from latentrt.engines.registry import BACKENDS, Chosen, Status
from latentrt.engines.tensorrt import backend as tensorrt


@needs_bf16
def test_every_engine_and_precision_is_a_row_of_one_table(
    run: Run, bundle: Callable[[str], Path]
) -> None:
    rows = ["openvino fp32", "openvino bf16", "onnxruntime fp32"]
    done = run("compare", bundle("heads"), "--engine", "all")
    assert done.status == 0, done.err
    lines = [line.split() for line in done.out.splitlines()]
    found = [line for line in lines if " ".join(line[:2]) in rows]
    assert [" ".join(line[:2]) for line in found] == rows
    # Four components, prompts, a step alone, the run, PSNR and SSIM, and the verdict.
    assert all(len(line) == 2 + 9 + 1 for line in found)
    assert [line[-1] for line in found] == ["ok"] * 3
    # bf16 has 8 bits, fp32 24.
    assert all(float(b) > 100 * float(a) for a, b in zip(found[0][2:9], found[1][2:9], strict=True))

    only = told(run("compare", bundle("heads"), "--engine", "all", "--precision", "bf16", "--json"))
    assert [each["precisions"]["unet"] for each in only["comparisons"]] == ["bf16"]
    assert (only["schema"], only["failed"], only["passed"]) == (5, {}, True)


def test_a_precision_that_no_engine_here_has_is_an_error(
    run: Run, bundle: Callable[[str], Path]
) -> None:
    done = run("compare", bundle("heads"), "--engine", "all", "--precision", "fp16")
    assert (done.status, "no engine that works here" in done.err) == (1, True)


def test_of_all_engines_one_without_a_given_option_is_skipped_and_named(
    run: Run, bundle: Callable[[str], Path]
) -> None:
    options = ("--engine", "all", "--precision", "fp32", "--option", "streams=2")
    done = run("compare", bundle("heads"), *options)
    assert done.status == 0, done.err
    assert "onnxruntime fp32: skipped: engine onnxruntime has no option 'streams'" in done.out
    lines = [line.split() for line in done.out.splitlines()]
    assert [line[-1] for line in lines if line[:2] == ["openvino", "fp32"]] == ["ok"]


def refusing(precision: str, error: LatentrtError) -> Callable[[OpenVino, Blueprint, Any], Engine]:
    """OpenVINO, but for one precision that raises."""
    actual = OpenVino.compile

    def compile(backend: OpenVino, blueprint: Blueprint, options: Any) -> Engine:
        if blueprint.precision == precision:
            raise error
        return actual(backend, blueprint, options)

    return compile


@pytest.mark.usefixtures("bf16_offered")
def test_of_all_engines_one_that_fails_is_a_row_and_gives_status_3(
    run: Run, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    error = BuildFailed("unet: no such operator")
    monkeypatch.setattr(OpenVino, "compile", refusing("bf16", error))
    path = tmp_path / "page.html"
    done = run("compare", bundle("heads"), "--engine", "all", "--html", path)
    assert done.status == 3
    lines = [line.split() for line in done.out.splitlines()]
    rows = [
        (line[:2], line[-1]) for line in lines if len(line) > 1 and line[-1] in ("ok", "FAILED")
    ]
    assert rows == [
        (["openvino", "fp32"], "ok"),
        (["onnxruntime", "fp32"], "ok"),
        (["openvino", "bf16"], "FAILED"),
    ]
    assert f"openvino bf16: FAILED: {error}" in done.out
    assert done.out.splitlines()[-1] == "FAILED"
    assert f"openvino bf16 failed: {error}" in path.read_text("utf-8")


@pytest.mark.usefixtures("bf16_offered")
def test_of_all_engines_one_that_returns_nan_has_failed_and_the_others_are_compared(
    run: Run, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = NonFinite("unet", 3)
    monkeypatch.setattr(OpenVino, "compile", refusing("bf16", error))
    done = run("compare", bundle("heads"), "--engine", "all", "--json")
    value = told(done)
    assert (done.status, value["failed"]) == (3, {"openvino bf16": str(error)})
    assert (len(value["comparisons"]), value["skipped"], value["passed"]) == (2, {}, False)


def test_one_engine_that_cannot_be_compiled_is_an_error_of_one_line(
    run: Run, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = BuildFailed("unet: no such operator")
    monkeypatch.setattr(OpenVino, "compile", refusing("fp32", error))
    done = run("compare", bundle("heads"), "--engine", "openvino", "--precision", "fp32")
    assert (done.status, "latentrt: unet: no such operator" in done.err) == (1, True)


def test_layers_that_one_engine_cannot_give_are_a_failure_beside_the_others(
    run: Run, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    actual = layers.layer_table

    def lack(
        opened: Bundle, component: str, chosen: Chosen, model: TorchModel, reference: Reference
    ) -> LayerTable:
        if (component, chosen.name) == ("unet", "openvino"):
            raise Unavailable("onnx is not installed")
        return actual(opened, component, chosen, model, reference)

    monkeypatch.setattr(layers, "layer_table", lack)
    options = ("--engine", "all", "--precision", "fp32", "--layers", "--json")
    done = run("compare", bundle("heads"), *options)
    assert done.status == 3
    value = told(done)
    assert value["failed"] == {"openvino fp32, layers of unet": "onnx is not installed"}
    assert [each["passed"] for each in value["comparisons"]] == [True, True]
    assert [each["engine"] for each in value["layers"]].count("openvino") == 3
    assert [each["engine"] for each in value["layers"]].count("onnxruntime") == 4


def test_of_all_engines_unverified_ones_are_skipped_and_named(
    run: Run, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def works() -> Status:
        return Status("11.0", ("a GPU",))

    def compiled(*given: object) -> NoReturn:
        pytest.fail("an engine that nobody asked for was compiled")

    monkeypatch.setattr(tensorrt, "status", works)
    monkeypatch.setattr(tensorrt, "compile", compiled)
    options = ("--engine", "all", "--precision", "fp32")
    done = run("compare", bundle("heads"), *options)
    assert done.status == 0, done.err
    assert "tensorrt fp32: skipped: unverified: it never ran on its hardware" in done.out
    # Where there is nothing else, too.
    nothing = {name: replace(BACKENDS[name], known={}) for name in ("openvino", "onnxruntime")}
    monkeypatch.setattr(survey, "BACKENDS", {**BACKENDS, **nothing})
    alone = run("compare", bundle("heads"), *options)
    assert (alone.status, alone.out) == (1, "")
    assert "nothing was compared: tensorrt fp32: unverified" in alone.err


def test_of_all_engines_one_that_needs_something_not_installed_is_skipped(
    run: Run, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lack(blueprint: Blueprint, options: Any) -> NoReturn:
        raise Unavailable(f"{blueprint.precision} of {blueprint.component}: onnx is not installed")

    monkeypatch.setattr(onnxruntime, "compile", lack)
    done = run("compare", bundle("heads"), "--engine", "all", "--precision", "fp32", "--json")
    assert done.status == 0, done.err
    value = told(done)
    assert [each["engines"]["unet"] for each in value["comparisons"]] == ["openvino"]
    assert list(value["skipped"]) == ["onnxruntime fp32"]
    assert "onnx is not installed" in value["skipped"]["onnxruntime fp32"]
    alone = run("compare", bundle("heads"), "--engine", "onnxruntime")
    assert (alone.status, "onnx is not installed" in alone.err) == (1, True)


def test_without_any_usable_engine_the_reasons_are_given_before_pytorch_computes(
    run: Run, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def asked(*given: object) -> NoReturn:
        pytest.fail("PyTorch computed though no engine is left to compare")

    lean = replace(BACKENDS["openvino"], options=NoOptions)
    monkeypatch.setattr(registry, "BACKENDS", {**BACKENDS, "openvino": lean})
    monkeypatch.setattr(TorchModel, "evaluate", asked)
    path = tmp_path / "page.html"
    done = run("compare", bundle("heads"), "--engine", "all", "--precision", "fp32",
               "--option", "streams=2", "--live", "--html", path)  # fmt: skip
    assert (done.status, done.out, path.exists()) == (1, "", False)
    (line,) = [each for each in done.err.splitlines() if each.startswith("latentrt: ")]
    assert "nothing was compared: openvino fp32: engine openvino has no option 'streams'" in line
    assert "onnxruntime fp32: engine onnxruntime has no option 'streams'" in line


@pytest.mark.usefixtures("bf16_offered")
def test_a_picture_too_far_off_is_marked_in_the_table_of_engines(
    run: Run, bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # bf16 leaves some 40 dB, and no picture of another engine is equal to the last bit.
    strict = {name: replace(each, psnr=math.inf) for name, each in tolerances.TOLERANCES.items()}
    monkeypatch.setattr(tolerances, "TOLERANCES", strict)
    options = ("--engine", "all", "--precision", "bf16")
    done = run("compare", bundle("heads"), *options)
    assert done.status == 3
    lines = [each.split() for each in done.out.splitlines()]
    (line,) = [each for each in lines if each[:2] == ["openvino", "bf16"]]
    assert (line[-3], line[-1]) == ("!", "FAILED")
    assert line.count("!") == 1
