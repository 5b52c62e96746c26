"""`latentrt build --target`: plans for a GPU that is not here, with TensorRT for RTX's compiler."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.outcome import Run

from latentrt.bundle.errors import ShapeNotBuilt
from latentrt.engines.cuda.device import Gpu, Missing
from latentrt.engines.engine import Blueprint, Engine
from latentrt.engines.onnxruntime import cpu as onnxruntime
from latentrt.engines.onnxruntime.options import OnnxRuntimeOptions
from latentrt.engines.tensorrt import backend as tensorrt
from latentrt.runtime import Pipeline, Request, Sampling

TENSORRT = ("--engine", "tensorrt", "--batch", "2")


@pytest.fixture(autouse=True)
def without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without a GPU, over a cache of this test."""
    missing = Missing("no NVIDIA driver was found", "install it")
    monkeypatch.setattr(tensorrt, "gpu", lambda: missing)
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path / "cache"))


def test_plans_for_another_gpu_are_stored_and_listed_as_not_verified(
    run: Run, bundle: Callable[[str], Path]
) -> None:
    status, out, err = run("build", bundle("heads"), *TENSORRT, "--target", "sm89", "--json")
    assert status == 0, err
    rows = json.loads(out)
    components = ["text_encoder", "unet", "vae_decoder", "vae_encoder"]
    assert [row["component"] for row in rows] == components
    pending = "built for sm89, verified when it is first loaded there"
    for row in rows:
        assert (row["engine"], row["precision"], row["target"]) == ("tensorrt", "fp32", "sm89")
        assert row["verification"] == {"pending": pending}
        assert not row["hit"]
    _, out, _ = run("cache", "--json")
    stored = json.loads(out)["engines"]
    assert sorted(e["component"] for e in stored) == components
    for engine in stored:
        assert engine["verification"] == {"pending": pending}
        assert engine["key"]["tensorrt target"] == "sm89"
        assert engine["bytes"] > 10_000
    _, out, _ = run("cache")
    assert out.count(pending) == 4


def test_a_plan_is_there_the_next_time_and_missed_for_another_target(
    run: Run, bundle: Callable[[str], Path]
) -> None:
    for again in (False, True):
        _, out, _ = run("build", bundle("heads"), *TENSORRT, "--target", "sm89", "--json")
        assert [row["hit"] for row in json.loads(out)] == [again] * 4
    _, out, _ = run("build", bundle("heads"), *TENSORRT, "--target", "sm120")
    for line in out.splitlines():
        assert "(tensorrt target sm89 -> sm120); unverified: built for sm120" in line


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ((), 1, "engine tensorrt: no NVIDIA driver was found; it builds for sm75, "),
        (("--target", "sm90"), 2, "target: expected one of sm75, sm80, "),
        (
            ("--target", "sm89", "--option", "stripped=true"),
            1,
            "a plan without weights is built on a GPU only",
        ),
        (("--target", "sm89", "--precision", "fp16"), 2, "precision: expected one of fp32 for"),
    ],
)
def test_a_build_that_is_impossible_here_is_one_line_that_says_why(
    run: Run, bundle: Callable[[str], Path], options: tuple[str, ...], status: int, message: str
) -> None:
    found, _, err = run("build", bundle("heads"), *TENSORRT, *options)
    assert found == status
    last = err.splitlines()[-1]
    assert last.startswith("latentrt: ")
    assert message in last


def test_a_target_for_an_engine_that_has_none_is_an_unknown_option(
    run: Run, bundle: Callable[[str], Path]
) -> None:
    status, _, err = run("build", bundle("heads"), "--target", "sm89")
    assert status == 2
    assert err.splitlines()[-1].startswith("latentrt: engine openvino has no option 'target'; ")


def test_plans_move_to_the_machine_with_the_gpu_with_all_of_the_cache_and_not_without_its_secret(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = ("build", bundle("heads"), *TENSORRT, "--target", "sm89", "--json")
    run(*build)
    here, there, elsewhere = (tmp_path / name for name in ("cache", "there", "elsewhere"))
    shutil.copytree(here, there)
    shutil.copytree(here, elsewhere, ignore=shutil.ignore_patterns("secret"))

    def load(blueprint: Blueprint, options: Any, folder: Path) -> Engine:
        assert (folder / tensorrt.PLAN).stat().st_size > 10_000
        return onnxruntime.compile(blueprint, OnnxRuntimeOptions())

    monkeypatch.setattr(tensorrt, "gpu", lambda: Gpu("NVIDIA L4", "sm89", "13.0"))
    monkeypatch.setattr(tensorrt, "load", load)
    request = Request("a red circle", seed=1, sampling=Sampling(steps=1))

    def draw(cache: Path) -> None:
        opened = Pipeline.open(bundle("heads"), engine="tensorrt", cache=cache, build="never")
        with opened as pipeline:
            assert pipeline(request).images

    with pytest.raises(ShapeNotBuilt, match="was not written here"):
        draw(elsewhere)
    draw(there)
    monkeypatch.setenv("LATENTRT_CACHE", str(there))
    _, out, _ = run(*build)
    rows = {row["component"]: row for row in json.loads(out)}
    assert all(row["hit"] for row in rows.values())
    # What was drawn with has been verified; the encoder waits.
    assert rows["unet"]["verification"]["reference"] == "the goldens"
    assert "pending" in rows["vae_encoder"]["verification"]
