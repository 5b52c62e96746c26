"""Previews that ask no model: one matrix from latents to colours, fitted to the VAE."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from PIL import Image

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BundleError, Closed, InputError
from latentrt.runtime import Pipeline, Request, Sampling, Step
from latentrt.runtime.conversion.latent_rgb import pictures
from latentrt.runtime.conversion.make import make_bundle
from latentrt.runtime.latent_to_rgb import LatentToRgb
from latentrt.weights.architectures import ARCHITECTURES
from latentrt.weights.checkpoint import Checkpoint
from latentrt.weights.configs import with_defaults
from latentrt.weights.known_vaes import known_latent_rgb

Folders = Callable[[str], Path]

REQUEST = Request("a red circle on a blue background", seed=3, sampling=Sampling("euler", steps=8))
FITTED = ("shapes", "heads", "xl")
"""What ships, and the structures of Stable Diffusion 1 and XL with random weights."""


def edit(folder: Path, latent_rgb: object) -> None:
    """Change the matrix in a bundle's manifest; "absent" leaves it out."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text("utf-8"))
    manifest["latent_rgb"] = latent_rgb
    if latent_rgb == "absent":
        del manifest["latent_rgb"]
    path.write_text(json.dumps(manifest), "utf-8")


def matrix(bundle: Bundle | Path) -> NDArray[np.float64]:
    """The matrix that a bundle stores, [c + 1, 3]."""
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    assert opened.manifest.latent_rgb is not None
    return np.array(opened.manifest.latent_rgb)


def steps_of(pipeline: Pipeline, request: Request = REQUEST) -> list[Step]:
    with pipeline.run(request) as run:
        return list(run)


def decoded(step: Step, factor: int = 8) -> NDArray[np.float64]:
    """The step's own picture from the VAE, its mean colour at each place of the latent."""
    pixels = np.asarray(step.preview(), np.float64)
    height, width, _ = pixels.shape
    return pixels.reshape(height // factor, factor, width // factor, factor, 3).mean((1, 3))


def sampled(folder: Path, seed: int) -> tuple[torch.Tensor, Any]:
    """What diffusers encodes the pictures to, with the noise of a seed; and the VAE."""
    vae: Any = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    with torch.inference_mode():
        posterior = vae.encode(torch.from_numpy(pictures(8))).latent_dist
        noise = np.random.default_rng(seed).standard_normal(posterior.mean.shape, np.float32)
        return posterior.mean + posterior.std * torch.from_numpy(noise), vae


def by_torch(folder: Path) -> NDArray[np.float64]:
    """Least squares by PyTorch over what diffusers encodes and decodes, [c + 1, 3]."""
    latents, vae = sampled(folder, seed=19)
    with torch.inference_mode():
        images = vae.decode(latents).sample.clamp(-1, 1)
    colours = torch.nn.functional.avg_pool2d(images, 8).movedim(1, -1).reshape(-1, 3).double()
    latents = latents * vae.config.scaling_factor
    flat = latents.movedim(1, -1).reshape(len(colours), -1).double()
    known = torch.cat([flat, torch.ones(len(colours), 1, dtype=torch.float64)], dim=1)
    return torch.linalg.lstsq(known, colours, driver="gelsd").solution.numpy()


@pytest.mark.parametrize("configuration", FITTED)
def test_the_stored_matrix_is_the_least_squares_fit_of_torch(
    checkpoint: Folders, bundle: Folders, configuration: str
) -> None:
    expected = by_torch(checkpoint(configuration))
    # Four digits are stored; the rest is float32 convolutions in another order.
    assert np.allclose(matrix(bundle(configuration)), expected, atol=2e-4)


@pytest.mark.parametrize("configuration", FITTED)
def test_a_bundle_made_without_pytorch_has_the_same_matrix(
    checkpoint: Folders, bundle: Folders, tmp_path: Path, configuration: str
) -> None:
    source = Checkpoint.open(checkpoint(configuration))
    make_bundle(source, tmp_path / "made", dtype="fp32", progress=lambda *_: None)
    assert np.allclose(matrix(tmp_path / "made"), matrix(bundle(configuration)), atol=2e-4)


def test_a_fast_preview_resembles_the_picture(bundle: Folders) -> None:
    prompts = (
        "a red circle on a blue background",
        "a small green square on a yellow background",
        "a large yellow triangle on a red background",
    )
    with Pipeline.open(bundle("shapes"), engine="onnxruntime") as pipeline:
        last = [steps_of(pipeline, REQUEST.with_values(prompt=p))[-1] for p in prompts]
        expected = np.stack([decoded(step) for step in last])
    found = np.stack([np.asarray(step.preview(fast=True), np.float64) for step in last])
    # The best matrix for the pictures of this VAE themselves has 0.79 and 13.6 dB.
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.65
    assert 10 * np.log10(255**2 / ((found - expected) ** 2).mean()) > 11


# The variance that it explains: 0.48, 0.013 and 0.018. Decoders with random weights are far from
# linear, yet no one colour is as near to what they draw.
@pytest.mark.parametrize(
    ("configuration", "least"), [("shapes", 0.4), ("heads", 0.005), ("xl", 0.005)]
)
def test_the_matrix_is_nearer_to_what_the_decoder_draws_than_any_one_colour(
    checkpoint: Folders, bundle: Folders, configuration: str, least: float
) -> None:
    tensors, vae = sampled(checkpoint(configuration), seed=7)  # not those of the fit
    latents = (tensors * vae.config.scaling_factor).numpy()
    with Pipeline.open(bundle(configuration), engine="onnxruntime") as pipeline:
        images = np.clip(pipeline.decode(latents), -1, 1)
        colours = LatentToRgb.of(pipeline.bundle.manifest)
    assert colours is not None
    found = [np.asarray(colours(each)) / 127.5 - 1 for each in latents]
    expected = images.reshape(-1, 3, 8, 8, 8, 8).mean((3, 5)).transpose(0, 2, 3, 1)
    error = ((np.stack(found) - expected) ** 2).mean()
    assert 1 - error / ((expected - expected.mean((0, 1, 2))) ** 2).mean() > least


@pytest.mark.parametrize("batched", [False, True])
def test_a_fast_preview_is_the_matrix_times_the_estimate(bundle: Folders, batched: bool) -> None:
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as pipeline:
        if batched:
            with pipeline.batcher(batch_sizes=(2,)) as batcher:
                run = batcher.submit(REQUEST)
                step = next(iter(run))
                run.result()
        else:
            step = steps_of(pipeline)[2]
    *factors, bias = matrix(pipeline.bundle)
    colours = np.einsum("chw,ck->hwk", step.denoised.astype(np.float64), factors) + bias
    expected = np.clip(colours * 127.5 + 127.5, 0, 255)
    picture = step.preview(fast=True)
    assert (picture.mode, picture.size) == ("RGB", (step.denoised.shape[2], step.denoised.shape[1]))
    assert np.abs(np.asarray(picture) - expected).max() <= 0.51  # rounded to whole numbers


def test_the_estimate_is_not_changed_by_a_preview(bundle: Folders) -> None:
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as pipeline:
        step = steps_of(pipeline)[0]
    before = step.denoised.copy()
    step.preview(fast=True)
    assert np.array_equal(step.denoised, before)


def test_a_fast_preview_needs_no_engine(bundle: Folders) -> None:
    pipeline = Pipeline.open(bundle("heads"), engine="onnxruntime")
    step = steps_of(pipeline)[-1]
    pipeline.close()
    with pytest.raises(Closed):
        step.preview()
    assert step.preview(fast=True).getbbox() is not None


def test_threads_get_the_same_fast_preview(bundle: Folders) -> None:
    with Pipeline.open(bundle("heads"), engine="onnxruntime") as pipeline:
        step = steps_of(pipeline)[-1]
    expected = np.asarray(step.preview(fast=True))
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda _: np.asarray(step.preview(fast=True)), range(200))
        assert all(np.array_equal(each, expected) for each in found)


def test_a_fast_preview_of_64_by_64_takes_less_than_a_millisecond(bundle: Folders) -> None:
    colours = LatentToRgb.of(Bundle.open(bundle("heads")).manifest)
    assert colours is not None
    latent = np.random.default_rng(0).standard_normal((4, 64, 64), np.float32)
    seconds: list[float] = []
    for _ in range(50):
        begun = time.perf_counter()
        colours(latent)
        seconds.append(time.perf_counter() - begun)
    assert min(seconds) < 1e-3  # the least: other work on the machine is not counted


@pytest.mark.parametrize("stored", [None, "absent"])
def test_a_bundle_of_an_older_version_opens_and_says_what_to_do(
    bundle: Folders, tmp_path: Path, stored: str | None
) -> None:
    shutil.copytree(bundle("heads"), tmp_path / "old")
    edit(tmp_path / "old", stored)
    with Pipeline.open(tmp_path / "old", engine="onnxruntime") as pipeline:
        step = steps_of(pipeline)[-1]
        assert isinstance(step.preview(), Image.Image)
    with pytest.raises(InputError, match=r"^fast: expected False: .*make it again, got True$"):
        step.preview(fast=True)


@pytest.mark.parametrize(
    "stored", [[], [[0, 0, 0]] * 4, [[0, 0]] * 5, [["red", 0, 0]] * 5, {"red": 1}, 5]
)
def test_a_manifest_with_another_matrix_is_refused(
    bundle: Folders, tmp_path: Path, stored: object
) -> None:
    shutil.copytree(bundle("heads"), tmp_path / "bundle")
    edit(tmp_path / "bundle", stored)
    with pytest.raises(BundleError, match=r"is malformed: latent_rgb"):
        Bundle.open(tmp_path / "bundle")


def test_the_matrix_is_no_part_of_a_models_hash(bundle: Folders, tmp_path: Path) -> None:
    shutil.copytree(bundle("heads"), tmp_path / "old")
    edit(tmp_path / "old", "absent")
    expected = Bundle.open(bundle("heads")).manifest.model_hash
    assert Bundle.open(tmp_path / "old").manifest.model_hash == expected


def test_another_vae_has_a_matrix_of_its_own(
    checkpoint: Folders, bundle: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path))
    vae = checkpoint("heads@1") / "vae" / "diffusion_pytorch_model.safetensors"
    expected, own = matrix(bundle("heads@1")), matrix(bundle("heads"))
    for _ in range(2):  # made, then read from the cache
        with Pipeline.open(bundle("heads"), engine="onnxruntime", vae=vae) as pipeline:
            found = matrix(pipeline.bundle)
        assert np.allclose(found, expected, atol=2e-4)
        assert np.abs(found - own).max() > 0.01


@pytest.mark.parametrize("name", ["sd15", "sd21", "sd2-base", "sdxl"])
def test_the_published_matrix_is_that_of_stable_diffusions_vae(name: str) -> None:
    config = with_defaults("vae", ARCHITECTURES[name]["vae"])
    found = known_latent_rgb(config, config["scaling_factor"], None)
    assert found is not None
    # Published figures, of latents whose first channel is mostly lightness.
    assert found[0] == ((0.3651, 0.4232, 0.4341) if name == "sdxl" else (0.3512, 0.2297, 0.3227))
    assert len(found) == 5


@pytest.mark.parametrize(
    ("changes", "scaling", "mean"),
    [
        ({}, 0.2, None),
        ({}, 0.18215, (0.0,) * 4),
        ({"latent_channels": 16}, 0.18215, None),
        ({"block_out_channels": [8, 16, 16, 16]}, 0.18215, None),
    ],
)
def test_no_matrix_was_published_of_other_vaes(
    changes: dict[str, object], scaling: float, mean: tuple[float, ...] | None
) -> None:
    config = {**with_defaults("vae", ARCHITECTURES["sd15"]["vae"]), **changes}
    assert known_latent_rgb(config, scaling, mean) is None


def test_a_known_vae_of_an_older_bundle_has_the_published_matrix(
    bundle: Folders, tmp_path: Path
) -> None:
    shutil.copytree(bundle("heads"), tmp_path / "old")
    edit(tmp_path / "old", None)
    path = tmp_path / "old" / "manifest.json"
    stored = json.loads(path.read_text("utf-8"))
    stored["components"]["vae_decoder"]["config"] |= ARCHITECTURES["sd15"]["vae"]
    stored["vae_scaling"] = 0.18215
    path.write_text(json.dumps(stored), "utf-8")
    older = Bundle.open(tmp_path / "old").manifest
    colours = LatentToRgb.of(older)
    assert older.latent_rgb is None
    assert colours is not None
    red = np.zeros((4, 1, 1), np.float32)
    red[0] = 1
    pixel = np.asarray(colours(red))[0, 0]
    assert pixel.tolist() == [round(127.5 * (1 + f)) for f in (0.3512, 0.2297, 0.3227)]


@pytest.mark.parametrize("configuration", FITTED)
def test_a_matrix_has_a_row_for_each_channel_and_a_bias(
    bundle: Folders, configuration: str
) -> None:
    channels = Bundle.open(bundle(configuration)).manifest.latent_channels
    assert matrix(bundle(configuration)).shape == (channels + 1, 3)


def test_the_last_estimate_of_an_edm_model_is_its_picture(
    checkpoint: Folders, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint("heads"), tmp_path / "edm")
    name = "EDMEulerScheduler"
    config = {"_class_name": name, "sigma_data": 0.5, "prediction_type": "epsilon"}
    (tmp_path / "edm" / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    index = tmp_path / "edm" / "model_index.json"
    listed = {**json.loads(index.read_text("utf-8")), "scheduler": ["diffusers", name]}
    index.write_text(json.dumps(listed), "utf-8")
    make_bundle(Checkpoint.open(tmp_path / "edm"), tmp_path / "bundle", progress=lambda *_: None)
    request = Request("a", seed=1, sampling=Sampling(steps=4))
    with (
        Pipeline.open(tmp_path / "bundle", engine="onnxruntime") as pipeline,
        pipeline.run(request) as run,
    ):
        last = list(run)[-1]
        latent = run.result().latents[0]
    # Euler ends on its last estimate, at the scale that the VAE takes.
    assert np.abs(last.denoised - latent).max() <= 1e-5 * np.abs(latent).max()
    assert not last.denoised.flags.writeable
