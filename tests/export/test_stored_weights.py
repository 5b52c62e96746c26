"""Goldens are PyTorch's with the weights as stored; what storing them cost is another number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.export.conftest import manifest_of
from tests.export.golden_run import arrays, check_run, goldens_of, pipeline_of
from tests.export.pytorch import SAME, components_of, evaluate, models, relative

from latentrt.export.export import export

Bundles = Callable[[str], Path]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
# The constructor says so when it forces a value.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_component = pytest.mark.parametrize("component", components_of("xl"))


def rounded(module: torch.nn.Module, dtype: torch.dtype) -> torch.nn.Module:
    """A model whose weights are rounded, and which computes in fp32 as before."""
    return module.to(dtype).to(torch.float32)


@pytest.fixture(scope="module")
def stored(checkpoint: Bundles) -> Callable[[str], dict[str, Any]]:
    """The libraries' models of the configuration "xl" with rounded weights, loaded once."""
    loaded: dict[str, dict[str, Any]] = {}

    def get(dtype: str) -> dict[str, Any]:
        if dtype not in loaded:
            of = models(checkpoint("xl"))
            loaded[dtype] = {name: rounded(m, DTYPES[dtype]) for name, m in of.items()}
        return loaded[dtype]

    return get


def golden(bundle: Path, component: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a component was given, in the libraries' words, and what it gave."""
    tensors = goldens_of(bundle)
    inputs = arrays(tensors, f"{component}/inputs/")
    if component.startswith("text_encoder"):
        suffix = component.removeprefix("text_encoder")
        names = [f"run/{n}{suffix}" for n in ("negative_input_ids", "input_ids")]
        inputs = {"input_ids": np.concatenate([tensors[name].numpy() for name in names])}
    return inputs, arrays(tensors, f"{component}/outputs/")


@each_dtype
@each_component
def test_a_components_goldens_are_pytorchs_in_fp32_with_the_weights_rounded(
    bundle: Bundles, stored: Callable[[str], dict[str, Any]], dtype: str, component: str
) -> None:
    inputs, outputs = golden(bundle(f"xl-{dtype}"), component)
    expected = evaluate(stored(dtype), component, inputs)
    assert set(outputs) == set(expected)
    for name, array in outputs.items():
        assert array.dtype == np.float32
        assert relative(array, expected[name]) < SAME, name


@each_dtype
def test_the_golden_run_is_diffusers_with_the_weights_rounded(
    bundle: Bundles, checkpoint: Bundles, dtype: str
) -> None:
    pipeline = pipeline_of(checkpoint("xl"), "xl")
    for name in ("text_encoder", "text_encoder_2", "unet", "vae"):
        rounded(getattr(pipeline, name), DTYPES[dtype])
    check_run(goldens_of(bundle(f"xl-{dtype}")), pipeline)


def unrounded(checkpoint: Path, stored: dict[str, Any]) -> dict[str, Any]:
    """The models as they are; a graph begins behind the token table, so that is the rounded one."""
    of = models(checkpoint)
    for name in ("text_encoder", "text_encoder_2"):
        of[name].set_input_embeddings(stored[name].get_input_embeddings())
    return of


@each_dtype
@each_component
def test_the_manifest_says_how_far_rounding_the_weights_moved_a_component(
    bundle: Bundles,
    checkpoint: Bundles,
    stored: Callable[[str], dict[str, Any]],
    dtype: str,
    component: str,
) -> None:
    inputs, _ = golden(bundle(f"xl-{dtype}"), component)
    before = evaluate(unrounded(checkpoint("xl"), stored(dtype)), component, inputs)
    after = evaluate(stored(dtype), component, inputs)
    moved = max(relative(after[name], before[name]) for name in before)
    found = manifest_of(bundle(f"xl-{dtype}"))["storage"][component]
    # Four evaluations, each within SAME of itself.
    assert abs(found - moved) < 4 * SAME
    # Half a unit in the last place is 5e-4 of a weight in float16, 4e-3 in bfloat16.
    assert 1e-4 < found < 2e-2


def test_weights_that_are_stored_as_they_came_cost_nothing(bundle: Bundles) -> None:
    # models/shapes is in float16 itself.
    storage = manifest_of(bundle("shapes-fp16"))["storage"]
    assert storage == dict.fromkeys(("text_encoder", "unet", "vae_decoder", "vae_encoder"), 0.0)


def test_a_float32_bundle_reports_no_storage_error_and_no_islands(bundle: Bundles) -> None:
    manifest = manifest_of(bundle("heads"))
    assert (manifest["storage"], manifest["islands"]) == ({}, {})


def test_without_goldens_nothing_is_measured(
    traced: Callable[[str], None], folder: Path, out: Path
) -> None:
    traced("heads-fp16")
    told: set[str] = set()
    export(
        folder,
        out / "bundle",
        dtype="fp16",
        golden=False,
        progress=lambda stage, done, total: told.add(stage),
    )
    assert manifest_of(out / "bundle")["storage"] == {}
    assert "storage" not in told


def test_measuring_reports_from_nothing_to_all(
    traced: Callable[[str], None], folder: Path, out: Path
) -> None:
    traced("heads-fp16")
    told: dict[str, list[tuple[int, int]]] = {}

    def progress(stage: str, done: int, total: int) -> None:
        told.setdefault(stage, []).append((done, total))

    export(folder, out / "bundle", dtype="fp16", progress=progress)
    stages = ["check", "weights", "graphs", "goldens", "storage", "islands", "manifest", "previews"]
    assert list(told) == stages
    for stage in ("storage", "islands"):
        assert told[stage] == [(done, 4) for done in range(5)]
