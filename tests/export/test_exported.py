"""Exported bundles: weights, manifest, fingerprints; what tracing has no part in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import (
    DiffusionPipeline,
    LatentConsistencyModelPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tests.conftest import read_json
from tests.export.conftest import change_json, change_tensors, manifest_of
from tests.export.pytorch import (
    FILES,
    canonical,
    each_configuration,
    folders_of,
    stored,
)
from transformers import CLIPTokenizer

from latentrt.bundle.bundle import Bundle
from latentrt.export.export import export

Bundles = Callable[[str], Path]


@pytest.mark.usefixtures("traced")
def test_the_graphs_traced_once_give_the_same_bundle(
    bundle: Bundles, checkpoint: Bundles, out: Path
) -> None:
    # So what is tested with them holds for an export that traces.
    export(checkpoint("heads"), out / "bundle")
    one, other = bundle("heads"), out / "bundle"
    names = {str(p.relative_to(one)) for p in one.rglob("*") if p.is_file()}
    assert {str(p.relative_to(other)) for p in other.rglob("*") if p.is_file()} == names
    for name in names - {"golden.safetensors", "manifest.json"}:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.usefixtures("traced")
def test_without_goldens_there_are_none_and_the_manifest_says_so(folder: Path, out: Path) -> None:
    export(folder, out / "bundle", golden=False)
    assert not (out / "bundle" / "golden.safetensors").exists()
    assert "golden.safetensors" not in manifest_of(out / "bundle")["files"]
    assert not Bundle.open(out / "bundle", verify=True).manifest.has_goldens


def test_with_goldens_the_manifest_says_so(bundle: Bundles) -> None:
    assert "golden.safetensors" in manifest_of(bundle("heads"))["files"]
    assert Bundle.open(bundle("heads"), verify=True).manifest.has_goldens


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_stored_in_another_dtype_become_float32(
    folder: Path, out: Path, dtype: torch.dtype
) -> None:
    for component in folders_of("heads"):
        change_tensors(
            folder, component, lambda t: t.update({n: x.to(dtype) for n, x in t.items()})
        )
    export(folder, out / "bundle", golden=False)
    for component in folders_of("heads"):
        path = out / "bundle" / "weights" / f"{component}.safetensors"
        found = safetensors.torch.load_file(path)
        expected = canonical(folder, component)
        assert all(torch.equal(found[name], expected[name].float()) for name in expected)
        assert all(t.dtype == torch.float32 for t in found.values())


@pytest.mark.usefixtures("traced")
def test_shards_and_other_names_give_the_same_weights_and_are_reported(
    bundle: Bundles, folder: Path, out: Path
) -> None:
    model: Any = UNet2DConditionModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False)
    (folder / "unet" / FILES["unet"]).unlink()
    model.save_pretrained(folder / "unet", max_shard_size="200KB")
    change_tensors(
        folder,
        "vae",
        lambda t: t.update({n.replace(".to_q.", ".query."): t.pop(n) for n in list(t)}),
    )
    change_json(folder / "scheduler" / "scheduler_config.json", lambda c: c.pop("prediction_type"))
    export(folder, out / "bundle", golden=False)
    for component in folders_of("heads"):
        name = Path("weights") / f"{component}.safetensors"
        assert (out / "bundle" / name).read_bytes() == (bundle("heads") / name).read_bytes()
    manifest = manifest_of(out / "bundle")
    assert manifest["prediction_type"] == "epsilon"
    assert sorted(manifest["inferred"]) == [
        "prediction_type: epsilon, the default of a scheduler that states none",
        "text_encoder: text encoder without the prefix 'text_model.'",
        "vae: VAE with old attention names",
    ]


FAMILIES = {
    StableDiffusionPipeline: "stable-diffusion",
    StableDiffusionXLPipeline: "stable-diffusion-xl",
    LatentConsistencyModelPipeline: "latent-consistency",
}


@each_configuration
def test_the_manifest_has_the_checkpoints_numbers(
    bundle: Bundles, checkpoint: Bundles, configuration: str
) -> None:
    manifest = manifest_of(bundle(configuration))
    pipeline: Any = DiffusionPipeline.from_pretrained(
        checkpoint(configuration), low_cpu_mem_usage=False
    )
    assert manifest["family"] == FAMILIES[type(pipeline)]
    assert manifest["source"] == configuration
    assert manifest["dtype"] == "float32"
    assert manifest["latent_channels"] == pipeline.vae.config.latent_channels
    assert manifest["vae_factor"] == pipeline.vae_scale_factor
    assert manifest["vae_scaling"] == pipeline.vae.config.scaling_factor
    assert manifest["vae_shift"] == 0
    assert manifest["latents_mean"] is manifest["latents_std"] is None
    assert manifest["sample_size"] == [pipeline.unet.config.sample_size] * 2
    assert manifest["prediction_type"] == pipeline.scheduler.config.prediction_type
    zeros = pipeline.config.get("force_zeros_for_empty_prompt", False)
    assert manifest["force_zeros_for_empty_prompt"] == zeros == (configuration == "xl")


def test_the_vaes_config_is_kept_with_what_no_layer_reads(bundle: Bundles) -> None:
    components = manifest_of(bundle("xl"))["components"]
    assert components["vae_decoder"]["config"]["force_upcast"] is True


@each_configuration
def test_each_text_encoder_has_its_tokenizer(
    bundle: Bundles, checkpoint: Bundles, configuration: str
) -> None:
    folders = [f for f in folders_of(configuration) if f.startswith("text_encoder")]
    for folder in (f.replace("text_encoder", "tokenizer") for f in folders):
        theirs = CLIPTokenizer.from_pretrained(checkpoint(configuration) / folder)
        assert read_json(bundle(configuration) / folder / "special_tokens.json") == {
            "bos_token_id": theirs.bos_token_id,
            "eos_token_id": theirs.eos_token_id,
            "pad_token_id": theirs.pad_token_id,
            "model_max_length": 77,
            "padding_side": theirs.padding_side,
            "truncation_side": theirs.truncation_side,
        }
    pads = {"heads": "<|endoftext|>", "lcm": "<|endoftext|>", "lists": "!", "xl": "!"}
    last = CLIPTokenizer.from_pretrained(checkpoint(configuration) / folder)
    assert last.pad_token == pads[configuration]


STATISTICS = {"latents_mean": [-1.6574, 1.886, -1.383, 2.5155], "latents_std": [8.4, 5.9, 6.5, 5.2]}


def test_a_vaes_statistics_are_kept_for_sdxl(
    traced: Callable[[str], None], folder_xl: Path, out: Path
) -> None:
    traced("xl")
    change_json(folder_xl / "vae" / "config.json", lambda c: c.update(STATISTICS))
    export(folder_xl, out / "bundle", golden=False)
    manifest = manifest_of(out / "bundle")
    assert {name: manifest[name] for name in STATISTICS} == STATISTICS


@pytest.mark.usefixtures("traced")
def test_every_stage_reports_from_nothing_to_all(folder: Path, out: Path) -> None:
    told: dict[str, list[tuple[int, int]]] = {}

    def progress(stage: str, done: int, total: int) -> None:
        told.setdefault(stage, []).append((done, total))

    export(folder, out / "bundle", progress=progress)
    assert list(told) == ["check", "weights", "graphs", "goldens", "manifest", "previews"]
    for reports in told.values():
        done = [d for d, _ in reports]
        assert done == sorted(done)
        assert len({total for _, total in reports}) == 1
        assert (done[0], done[-1]) == (0, reports[0][1])
    tensors = [t for component in folders_of("heads") for t in stored(folder, component).values()]
    assert told["weights"][-1][1] == 4 * sum(t.numel() for t in tensors)


@pytest.mark.usefixtures("traced")
def test_position_ids_are_left_out(folder: Path, out: Path) -> None:
    ids = torch.arange(77)[None]
    change_tensors(folder, "text_encoder", lambda t: t.update({"embeddings.position_ids": ids}))
    export(folder, out / "bundle", golden=False)
    weights = out / "bundle" / "weights" / "text_encoder.safetensors"
    found = safetensors.torch.load_file(weights)
    assert "text_model.embeddings.position_ids" not in found
    assert len(found) == len(stored(folder, "text_encoder")) - 1
