"""Pictures with LoRAs: as diffusers draws them, and beside others in one batcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray

from latentrt.bundle.cache_folder import cache_folder
from latentrt.bundle.errors import ShapeNotBuilt, WeightsError
from latentrt.bundle.golden import psnr
from latentrt.runtime import Lora, Pipeline, Request, Sampling, Size
from latentrt.runtime.conversion.places import VARIANTS

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{beginning}")
    for beginning in (
        "__array_",
        "`is_gradient_checkpointing` is deprecated",  # PEFT 0.21 under transformers 5
        "Already found a `peft_config` attribute",  # of a second adapter
        "Adapter .* already exists",
    )
]

PROMPT, STEPS, SEED, RANK = "a large red circle", 4, 5, 4
LEAST_PSNR = 55.0
"""dB at fp32, both pictures rounded to 8 bits."""
TARGETS = (".to_q", ".to_k", ".to_v", ".to_out.0", ".q_proj", ".v_proj", ".fc1")


def write_lora(checkpoint: Path, path: Path, seed: int) -> Path:
    """A random LoRA over the attention layers of a checkpoint, as diffusers names its keys."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for folder in ("unet", "text_encoder", "text_encoder_2"):
        for file in (checkpoint / folder).glob("*.safetensors"):
            for name, weight in safetensors.torch.load_file(file).items():
                layer = name.removesuffix(".weight")
                if not name.endswith(".weight") or not layer.endswith(TARGETS):
                    continue
                place = "" if folder == "unet" or layer.startswith("text_model.") else "text_model."
                key = f"{folder}.{place}{layer}"
                out, into = weight.shape
                size = weight.std() * 0.6
                down = torch.randn(RANK, into, generator=generator) / into**0.5
                up = torch.randn(out, RANK, generator=generator) * size * (into / RANK) ** 0.5
                tensors |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
    safetensors.torch.save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def files(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, int], Path]:
    folder = tmp_path_factory.mktemp("loras")

    def get(configuration: str, seed: int) -> Path:
        path = folder / f"{configuration}-{seed}.safetensors"
        return path if path.exists() else write_lora(checkpoint(configuration), path, seed)

    return get


@pytest.fixture(scope="module")
def pipelines(bundle: Callable[[str], Path]) -> Iterator[Callable[..., Pipeline]]:
    opened: dict[tuple[str, str], Pipeline] = {}

    def get(configuration: str, engine: str = "onnxruntime") -> Pipeline:
        key = configuration, engine
        if key not in opened:
            opened[key] = Pipeline.open(bundle(configuration), engine=engine, precision="fp32")
        return opened[key]

    yield get
    for pipeline in opened.values():
        pipeline.close()


def request_with(*weights: Lora) -> Request:
    sampling = Sampling("euler", steps=STEPS)
    return Request(PROMPT, seed=SEED, size=Size(64, 64), sampling=sampling, weights=weights)


def theirs(checkpoint: Path, loras: dict[Path, float]) -> NDArray[np.float64]:
    """The picture that diffusers draws, [H, W, 3] in [0, 1] at 8 bits."""
    pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(checkpoint)
    pipeline.scheduler = diffusers.EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    names = []
    for path in loras:
        names.append(path.stem.replace("-", "_"))
        pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=names[-1])
    if names:
        pipeline.set_adapters(names, adapter_weights=list(loras.values()))
    image = pipeline(
        PROMPT,
        num_inference_steps=STEPS,
        guidance_scale=7.5,
        generator=torch.Generator().manual_seed(SEED),
        output_type="np",
        width=64,
        height=64,
    ).images[0]
    return np.round(image * 255.0) / 255.0


def ours(pipeline: Pipeline, *weights: Lora) -> NDArray[np.uint8]:
    return np.asarray(pipeline(request_with(*weights)).images[0])


@pytest.mark.parametrize("configuration", ["heads", "xl"])
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_picture_with_loras_is_the_one_that_diffusers_draws(
    checkpoint: Callable[[str], Path],
    files: Callable[[str, int], Path],
    pipelines: Callable[..., Pipeline],
    configuration: str,
    engine: str,
) -> None:
    scales = {files(configuration, 1): 0.8, files(configuration, 2): -0.4}
    expected = theirs(checkpoint(configuration), scales)
    pipeline = pipelines(configuration, engine)
    found = ours(pipeline, *(Lora(path, scale) for path, scale in scales.items()))
    assert psnr(found / 255.0, expected, peak=1) >= LEAST_PSNR
    # The LoRAs are visible at all.
    assert psnr(ours(pipeline) / 255.0, expected, peak=1) < 30


def test_the_base_draws_the_same_bits_after_ten_rounds_of_loras(
    files: Callable[[str, int], Path], pipelines: Callable[..., Pipeline]
) -> None:
    pipeline = pipelines("heads")
    before = ours(pipeline)
    for round_ in range(10):
        changed = ours(pipeline, Lora(files("heads", 1 + round_ % 2), 0.5))
        assert not np.array_equal(changed, before)
    assert np.array_equal(ours(pipeline), before)


def test_requests_with_different_loras_share_a_batcher_and_equal_their_own_pictures(
    files: Callable[[str, int], Path], pipelines: Callable[..., Pipeline]
) -> None:
    pipeline = pipelines("heads")
    requests = [
        request_with(Lora(files("heads", 1), 0.8)),
        request_with(),
        request_with(Lora(files("heads", 2))),
        request_with(Lora(files("heads", 1), 0.8)),
    ]

    def drawn(several: list[Request]) -> list[NDArray[np.uint8]]:
        # One compiled size: sums of another batch size have another order.
        with pipeline.batcher(batch_sizes=(4,)) as batcher:
            handles = [batcher.submit(request) for request in several]
            return [np.asarray(handle.result().images[0]) for handle in handles]

    together = drawn(requests)
    for request, picture in zip(requests, together, strict=True):
        assert np.array_equal(drawn([request])[0], picture)
    assert np.array_equal(together[0], together[3])
    assert not np.array_equal(together[0], together[2])


def test_only_the_touched_tensors_are_stored(
    files: Callable[[str, int], Path], pipelines: Callable[..., Pipeline]
) -> None:
    pipeline = pipelines("heads")
    path = files("heads", 3)
    variant = pipeline.with_weights(Lora(path, 0.7))
    touched = {key.rpartition(".lora_")[0] for key in safetensors.torch.load_file(path)}
    (main,) = (p for p in (cache_folder() / VARIANTS).iterdir() if _is_of(p, variant))
    stored = [safetensors.torch.load_file(p) for p in main.glob("*.safetensors")]
    assert sum(len(each) for each in stored) == len(touched)
    assert variant.engine("vae_decoder", {"batch": 1, "height": 8, "width": 8}) is pipeline.engine(
        "vae_decoder", {"batch": 1, "height": 8, "width": 8}
    )


def _is_of(folder: Path, pipeline: Pipeline) -> bool:
    return pipeline.bundle.graph("unet").parent == folder


def test_a_lora_that_fits_nothing_leaves_the_pipeline_as_it_was(
    pipelines: Callable[..., Pipeline], tmp_path: Path
) -> None:
    pipeline = pipelines("heads")
    before = ours(pipeline)
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"unet.nowhere.lora_A.weight": torch.zeros(2, 4)}, path)
    with pytest.raises(WeightsError, match="nowhere"):
        pipeline(request_with(Lora(path)))
    assert np.array_equal(ours(pipeline), before)


def test_a_pipeline_that_must_not_compile_compiles_no_lora(
    bundle: Callable[[str], Path],
    files: Callable[[str, int], Path],
    pipelines: Callable[..., Pipeline],
) -> None:
    ours(pipelines("heads"))  # the base's engines are stored
    with Pipeline.open(bundle("heads"), engine="onnxruntime", precision="fp32", build="never") as p:
        ours(p)
        with pytest.raises(ShapeNotBuilt, match="not built"):
            ours(p, Lora(files("heads", 1)))


def test_a_request_names_its_loras_by_file_hash_and_scale(
    files: Callable[[str, int], Path],
) -> None:
    lora = Lora(files("heads", 1), 0.8, text_encoder=0.5, blocks={"mid": 0.25})
    request = request_with(lora)
    stated = request.to_json()["weights"][0]
    assert (stated["file"], stated["scale"]) == ("heads-1.safetensors", 0.8)
    assert Request.from_json(request.to_json(), attachments=[Lora(lora.path)]) == request
