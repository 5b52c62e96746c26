"""Goldens, held against the libraries' own models and pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.conftest import read_json
from tests.export.conftest import change_json
from tests.export.golden_run import PROMPT, arrays, check_run, goldens_of, pipeline_of
from tests.export.pytorch import SAME, each_configuration, each_graph, evaluate, relative
from transformers import CLIPTokenizer

from latentrt.export.export import export

Bundles = Callable[[str], Path]
# The constructor says so when it forces a value.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@each_graph
def test_goldens_of_a_component_are_what_the_libraries_compute(
    bundle: Bundles,
    reference: Callable[[str], dict[str, Any]],
    configuration: str,
    component: str,
) -> None:
    golden = goldens_of(bundle(configuration))
    record = read_json(bundle(configuration) / "manifest.json")["components"][component]
    inputs = arrays(golden, f"{component}/inputs/")
    outputs = arrays(golden, f"{component}/outputs/")
    assert set(inputs) == {spec["name"] for spec in record["inputs"]}
    assert set(outputs) == {spec["name"] for spec in record["outputs"]}
    if component.startswith("text_encoder"):
        suffix = component.removeprefix("text_encoder")
        ids = torch.cat([golden[f"run/{n}{suffix}"] for n in ("negative_input_ids", "input_ids")])
        embedding = reference(configuration)[component].get_input_embeddings()
        np.testing.assert_array_equal(inputs["inputs_embeds"], embedding(ids).detach().numpy())
        inputs = {"input_ids": ids.numpy()}
    expected = evaluate(reference(configuration), component, inputs)
    for name, array in outputs.items():
        assert array.dtype == np.float32
        assert relative(array, expected[name]) < SAME, name


@each_configuration
def test_the_golden_run_is_the_run_of_diffusers_pipeline(
    bundle: Bundles, checkpoint: Bundles, configuration: str
) -> None:
    golden = goldens_of(bundle(configuration))
    rows = 1 if configuration == "lcm" else 2
    assert golden["unet/inputs/sample"].shape[0] == rows
    check_run(golden, pipeline_of(checkpoint(configuration), configuration))


def test_the_golden_run_takes_what_the_pipeline_forces_on_the_scheduler(
    traced: object, folder: Path, out: Path
) -> None:
    del traced
    path = folder / "scheduler" / "scheduler_config.json"
    change_json(path, lambda c: c.update(steps_offset=0, timestep_spacing="leading"))
    export(folder, out / "bundle")
    check_run(goldens_of(out / "bundle"), pipeline_of(folder, "heads"))


def test_the_golden_run_of_sdxl_takes_the_schedulers_config_as_it_is(
    traced: Callable[[str], None], folder_xl: Path, out: Path
) -> None:
    traced("xl")
    path = folder_xl / "scheduler" / "scheduler_config.json"
    change_json(path, lambda c: c.update(steps_offset=0))
    export(folder_xl, out / "bundle")
    golden = goldens_of(out / "bundle")
    assert golden["run/timesteps"][-1] == 0
    check_run(golden, pipeline_of(folder_xl, "xl"))


def test_the_golden_run_of_sdxl_encodes_the_empty_prompt_where_it_is_not_zeros(
    traced: Callable[[str], None], folder_xl: Path, out: Path
) -> None:
    traced("xl")
    change_json(
        folder_xl / "model_index.json", lambda c: c.update(force_zeros_for_empty_prompt=False)
    )
    export(folder_xl, out / "bundle")
    golden = goldens_of(out / "bundle")
    assert golden["run/text_embeds"][0].any()
    check_run(golden, pipeline_of(folder_xl, "xl"))


def test_the_golden_picture_of_sdxl_uses_the_vaes_statistics(
    traced: Callable[[str], None], folder_xl: Path, out: Path
) -> None:
    traced("xl")
    statistics = {
        "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
        "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
    }
    change_json(folder_xl / "vae" / "config.json", lambda c: c.update(statistics))
    export(folder_xl, out / "bundle")
    check_run(goldens_of(out / "bundle"), pipeline_of(folder_xl, "xl"))


@each_configuration
def test_golden_tokens_are_the_tokenizers(
    bundle: Bundles, checkpoint: Bundles, configuration: str
) -> None:
    golden = goldens_of(bundle(configuration))
    for suffix in ("", "_2") if configuration == "xl" else ("",):
        folder = checkpoint(configuration) / f"tokenizer{suffix}"
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        texts = [PROMPT, ""]
        ids = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
        assert torch.equal(golden[f"run/input_ids{suffix}"], ids[:1])
        assert torch.equal(golden[f"run/negative_input_ids{suffix}"], ids[1:])


def test_the_starting_noise_has_unit_variance(bundle: Bundles) -> None:
    noise = goldens_of(bundle("heads"))["run/latents"]
    assert noise.shape == (1, 4, 8, 8)
    # 256 draws: the variance of their variance is 2 / 256, its root 0.09; six of them either way.
    assert abs(float(noise.var()) - 1) < 0.53
