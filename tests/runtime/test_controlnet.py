"""ControlNets against diffusers' own pipelines, on the same checkpoints, noise and scheduler."""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from tests.controlnets import hint_picture, saved_controlnet

from latentrt.bundle.component import ComponentRecord
from latentrt.bundle.errors import InputError
from latentrt.bundle.golden import Difference, psnr
from latentrt.runtime import (
    Control,
    ImageToImage,
    Inpainting,
    Lora,
    Pipeline,
    Request,
    Sampling,
    Size,
)
from latentrt.runtime.controlled_denoiser import EncodedControl
from latentrt.runtime.controlnets import check_fit
from latentrt.runtime.rows import Batch, Model, Row
from latentrt.weights.architectures import ARCHITECTURES
from latentrt.weights.component_specs import component_specs
from latentrt.weights.configs import with_defaults
from latentrt.weights.control_architectures import controlnet_of as config_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

PROMPT, NEGATIVE, SEED, STEPS = "a large red circle on a blue background", "a star", 3, 8
GUIDANCE = 5.0
LATENTS = 1e-3
"""Relative error of latents after a run: rounding grows over its steps."""
LEAST_PSNR = 55.0
"""dB at fp32, both pictures rounded to 8 bits."""
VISIBLE = 0.02
"""A ControlNet of a test moves the latents by at least this share."""

Controlnets = Callable[..., Path]


@pytest.fixture(scope="module")
def controlnet(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Controlnets:
    """A tiny ControlNet's folder, by configuration and seed."""
    made: dict[tuple[str, int], Path] = {}

    def get(configuration: str, seed: int = 0) -> Path:
        key = (configuration, seed)
        if key not in made:
            folder = tmp_path_factory.mktemp("controlnet") / f"{configuration}-{seed}"
            made[key] = saved_controlnet(checkpoint(configuration), folder, seed)
        return made[key]

    return get


def reference(
    checkpoint: Path, models: Sequence[Path], sampler: str = "EulerDiscreteScheduler"
) -> Any:
    """diffusers' ControlNet pipeline of a checkpoint."""
    name = json.loads((checkpoint / "model_index.json").read_text())["_class_name"]
    xl = "XL" in name
    controlnets = [diffusers.ControlNetModel.from_pretrained(path) for path in models]
    kind: Any = getattr(diffusers, name.replace("Pipeline", "ControlNetPipeline"))
    scheduler: Any = getattr(diffusers, sampler)
    made = kind.from_pretrained(
        checkpoint,
        controlnet=controlnets if len(controlnets) > 1 else controlnets[0],
        scheduler=scheduler.from_pretrained(checkpoint, subfolder="scheduler"),
        **({} if xl else {"safety_checker": None}),
    )
    made.set_progress_bar_config(disable=True)
    return made


def theirs(made: Any, controls: Sequence[Control], **options: Any) -> tuple[Any, Any]:
    """The last latents, and the picture as 8-bit numbers."""
    several = len(controls) > 1

    def each(values: list[Any]) -> Any:
        return values if several else values[0]

    arguments: dict[str, Any] = {
        "negative_prompt": NEGATIVE,
        "guidance_scale": GUIDANCE,
        "num_inference_steps": STEPS,
        "width": 64,
        "height": 64,
    }
    latents = made(
        prompt=PROMPT,
        image=each([Image.fromarray(np.array(c.image)) for c in controls]),
        controlnet_conditioning_scale=each([c.scale for c in controls]),
        control_guidance_start=each([c.start for c in controls]),
        control_guidance_end=each([c.end for c in controls]),
        guess_mode=any(c.mode == "control" for c in controls),
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
        **{**arguments, **options},
    ).images
    with torch.no_grad():
        pixels = made.vae.decode(latents / made.vae.config.scaling_factor, return_dict=False)[0]
    rgb = (pixels[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).double().numpy() * 255.0
    return latents[0].numpy(), np.round(rgb)


def ours(controls: Sequence[Control], **fields: Any) -> Request:
    values: dict[str, Any] = {
        "negative_prompt": NEGATIVE,
        "seed": SEED,
        "sampling": Sampling("euler", steps=STEPS),
        "guidance": GUIDANCE,
        "controls": controls,
    }
    return Request(PROMPT, **{**values, **fields})


def check(
    pipeline: Pipeline, made: Any, controls: Sequence[Control], request: Request, **options: Any
) -> None:
    """Draw by both, compare latents and pictures; the ControlNets must have changed something."""
    found = pipeline(request)
    latents, pixels = theirs(made, controls, **options)
    assert Difference.between(found.latents[0], latents).relative <= LATENTS
    assert psnr(np.asarray(found.images[0], np.float64), pixels, peak=255.0) >= LEAST_PSNR
    plain = pipeline(request.with_values(controls=()))
    assert Difference.between(plain.latents[0], latents).relative >= VISIBLE


@pytest.mark.parametrize("configuration", ["heads", "lists", "xl"])
def test_one_controlnet_gives_the_picture_of_diffusers(
    pipelines: Callable[[str], Pipeline],
    checkpoint: Callable[[str], Path],
    controlnet: Controlnets,
    configuration: str,
) -> None:
    control = Control(controlnet(configuration), hint_picture(), 0.8)
    made = reference(checkpoint(configuration), [control.model])
    check(pipelines(configuration), made, [control], ours([control]))


def two(controlnet: Controlnets, **fields: Any) -> list[Control]:
    """Two ControlNets with pictures and scales of their own."""
    first = Control(controlnet("heads"), hint_picture(), 0.9, **fields)
    return [first, Control(controlnet("heads", 1), hint_picture(1), 0.4, **fields)]


def test_two_controlnets_at_their_own_scales_give_the_picture_of_diffusers(
    pipelines: Callable[[str], Pipeline],
    checkpoint: Callable[[str], Path],
    controlnet: Controlnets,
) -> None:
    controls = two(controlnet)
    made = reference(checkpoint("heads"), [c.model for c in controls])
    check(pipelines("heads"), made, controls, ours(controls))


@pytest.mark.parametrize("interval", [(0.0, 0.5), (0.3, 1.0), (0.2, 0.7)], ids=str)
def test_a_controlnet_acts_from_its_start_to_its_end_as_in_diffusers(
    pipelines: Callable[[str], Pipeline],
    checkpoint: Callable[[str], Path],
    controlnet: Controlnets,
    interval: tuple[float, float],
) -> None:
    control = Control(controlnet("heads"), hint_picture(), 1.0, *interval)
    made = reference(checkpoint("heads"), [control.model])
    check(pipelines("heads"), made, [control], ours([control]))


def test_an_interval_counts_evaluations_where_steps_have_two(
    pipelines: Callable[[str], Pipeline],
    checkpoint: Callable[[str], Path],
    controlnet: Controlnets,
) -> None:
    control = Control(controlnet("heads"), hint_picture(), 1.0, 0.2, 0.45)
    made = reference(checkpoint("heads"), [control.model], "HeunDiscreteScheduler")
    request = ours([control], sampling=Sampling("heun", steps=STEPS))
    check(pipelines("heads"), made, [control], request)


@pytest.mark.parametrize("configuration", ["heads", "xl"])
def test_mode_control_is_the_guess_mode_of_diffusers(
    pipelines: Callable[[str], Pipeline],
    checkpoint: Callable[[str], Path],
    controlnet: Controlnets,
    configuration: str,
) -> None:
    control = Control(controlnet(configuration), hint_picture(), mode="control")
    made = reference(checkpoint(configuration), [control.model])
    check(pipelines(configuration), made, [control], ours([control]))


def test_mode_control_without_guidance_acts_on_the_prompts_row(
    pipelines: Callable[[str], Pipeline],
    checkpoint: Callable[[str], Path],
    controlnet: Controlnets,
) -> None:
    control = Control(controlnet("heads"), hint_picture(), mode="control")
    made = reference(checkpoint("heads"), [control.model])
    request = ours([control], guidance=1.0)
    check(pipelines("heads"), made, [control], request, guidance_scale=1.0)


def test_a_picture_of_another_size_is_resized_as_in_diffusers(
    pipelines: Callable[[str], Pipeline],
    checkpoint: Callable[[str], Path],
    controlnet: Controlnets,
) -> None:
    # Latents of 9 x 5 do not halve evenly.
    control = Control(controlnet("heads"), hint_picture(2, 50, 90))
    made = reference(checkpoint("heads"), [control.model])
    request = ours([control], size=Size(40, 72))
    check(pipelines("heads"), made, [control], request, width=40, height=72)


def test_a_controlnet_composes_with_image_to_image_as_in_diffusers(
    pipelines: Callable[[str], Pipeline],
    checkpoint: Callable[[str], Path],
    controlnet: Controlnets,
) -> None:
    control = Control(controlnet("heads"), hint_picture(), 0.8, 0.0, 0.6)
    begun = Image.fromarray(hint_picture(4))
    parts = reference(checkpoint("heads"), [control.model]).components
    made: Any = diffusers.StableDiffusionControlNetImg2ImgPipeline(
        **parts, requires_safety_checker=False
    )
    made.set_progress_bar_config(disable=True)
    request = ours([control], task=ImageToImage(begun, 0.7), sampling=Sampling("euler", steps=12))
    found = pipelines("heads")(request)
    latents = made(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        image=begun,
        control_image=Image.fromarray(np.array(control.image)),
        strength=0.7,
        num_inference_steps=12,
        guidance_scale=GUIDANCE,
        controlnet_conditioning_scale=control.scale,
        control_guidance_end=control.end,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
    ).images
    assert Difference.between(found.latents[0], latents[0].numpy()).relative <= LATENTS


@pytest.mark.parametrize(("configuration", "strength"), [("heads", 0.8), ("heads9", 1.0)])
def test_a_controlnet_composes_with_inpainting_as_in_diffusers(
    pipelines: Callable[[str], Pipeline],
    checkpoint: Callable[[str], Path],
    controlnet: Controlnets,
    configuration: str,
    strength: float,
) -> None:
    control = Control(controlnet("heads"), hint_picture(), 0.8)
    begun = Image.fromarray(hint_picture(4))
    mask = Image.new("L", begun.size)
    mask.paste(255, (16, 8, 48, 40))
    parts = reference(checkpoint(configuration), [control.model]).components
    made: Any = diffusers.StableDiffusionControlNetInpaintPipeline(
        **parts, requires_safety_checker=False
    )
    made.set_progress_bar_config(disable=True)
    latents = made(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        image=begun,
        mask_image=mask,
        control_image=Image.fromarray(np.array(control.image)),
        strength=strength,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        controlnet_conditioning_scale=control.scale,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
    ).images
    request = ours([control], task=Inpainting(begun, mask, strength))
    found = pipelines(configuration)(request)
    assert Difference.between(found.latents[0], latents[0].numpy()).relative <= LATENTS
    plain = pipelines(configuration)(request.with_values(controls=()))
    assert Difference.between(plain.latents[0], latents[0].numpy()).relative >= VISIBLE / 2


def test_a_controlnet_composes_with_a_lora_as_in_diffusers(
    pipelines: Callable[[str], Pipeline],
    checkpoint: Callable[[str], Path],
    controlnet: Controlnets,
    tmp_path: Path,
) -> None:
    unet: Any = diffusers.UNet2DConditionModel.from_pretrained(
        checkpoint("heads"), subfolder="unet"
    )
    torch.manual_seed(5)
    named = {n: p for n, p in unet.named_parameters() if n.endswith("to_k.weight")}
    changes: dict[str, torch.Tensor] = {}
    for name, weight in named.items():
        layer = f"unet.{name.removesuffix('.weight')}"
        changes[f"{layer}.lora_A.weight"] = torch.randn(2, weight.shape[1])
        changes[f"{layer}.lora_B.weight"] = torch.randn(weight.shape[0], 2)
    path = tmp_path / "lora.safetensors"
    safetensors.torch.save_file(changes, path)
    control = Control(controlnet("heads"), hint_picture(), 0.8)
    made = reference(checkpoint("heads"), [control.model])
    made.load_lora_weights(str(path))
    request = ours([control], weights=[Lora(path)])
    check(pipelines("heads"), made, [control], request)
    without = pipelines("heads")(request.with_values(weights=()))
    latents, _ = theirs(made, [control])
    assert Difference.between(without.latents[0], latents).relative >= VISIBLE


def test_a_pooled_controlnet_acts_as_in_diffusers(
    pipelines: Callable[[str], Pipeline],
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    fields = {"global_pool_conditions": True, "controlnet_conditioning_channel_order": "bgr"}
    folder = saved_controlnet(checkpoint("heads"), tmp_path / "shuffle", **fields)
    control = Control(folder, hint_picture(), 1.0)
    check(pipelines("heads"), reference(checkpoint("heads"), [folder]), [control], ours([control]))


def test_mode_prompt_multiplies_residuals_as_the_web_ui_does() -> None:
    outputs = {f"down_block_res_samples.{i}": np.ones((1, 1, 1), np.float32) for i in range(12)}
    outputs["mid_block_res_sample"] = np.ones((1, 1, 1), np.float32)
    model = Model("controlnet", (), lambda sizes: pytest.fail(f"called at {sizes}"))
    control = Control("any", hint_picture(), 2.0, mode="prompt")
    encoded = EncodedControl(control, model, np.zeros((1, 1, 1), np.float32))
    found = [float(array.item()) for array in encoded.residuals(outputs)]
    # "My prompt is more important": weight * 0.825 ** (12 - i) for i in range(13).
    assert found == pytest.approx([2.0 * 0.825 ** (12 - i) for i in range(13)], rel=1e-6)
    assert not encoded.spares_negative


def drawn_alone(pipeline: Pipeline, request: Request) -> Any:
    with pipeline.batcher(batch_sizes=(4,)) as batcher:
        return batcher.submit(request).result().latents


def test_requests_with_and_without_controls_share_a_batcher_and_are_drawn_as_if_alone(
    pipelines: Callable[[str], Pipeline],
    controlnet: Controlnets,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[list[Row]] = []
    call = Batch.__call__

    def recorded(batch: Batch, rows: Sequence[Row]) -> Any:
        called.append(list(rows))
        return call(batch, rows)

    monkeypatch.setattr(Batch, "__call__", recorded)
    first, second = two(controlnet)
    late = Control(first.model, hint_picture(7), 0.7, 0.5, 1.0)
    kinds: list[list[Control]] = [
        [],
        [first],
        [second],
        [first, second],
        [late],
        [Control(first.model, first.image, 0.9, mode="control")],
        [Control(second.model, first.image, 0.9, mode="prompt")],
    ]
    requests = [
        ours(each, seed=i, sampling=Sampling("euler", steps=3)) for i, each in enumerate(kinds)
    ]
    pipeline = pipelines("heads")
    alone = [drawn_alone(pipeline, request) for request in requests]
    with pipeline.batcher(batch_sizes=(4,)) as batcher:
        runs = [batcher.submit(request) for request in requests]
        together = [run.result().latents for run in runs]
    for mine, expected in zip(together, alone, strict=True):
        assert np.array_equal(mine, expected)
    assert all(len({row.model for row in rows}) == 1 for rows in called)


def test_pictures_of_one_request_share_the_calls_of_its_controlnet(
    pipelines: Callable[[str], Pipeline], controlnet: Controlnets
) -> None:
    request = ours([Control(controlnet("heads"), hint_picture())], num_images=3)
    found = pipelines("heads")(request)
    for i in range(3):
        alone = pipelines("heads")(request.with_values(num_images=1, seed=SEED + i))
        assert Difference.between(found.latents[i], alone.latents[0]).relative <= 1e-5


@pytest.mark.parametrize(("mode", "rows"), [("balanced", 2), ("control", 1)])
def test_a_controlnet_is_compiled_for_the_rows_that_it_is_asked_about(
    pipelines: Callable[[str], Pipeline],
    controlnet: Controlnets,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    rows: int,
) -> None:
    sizes: set[tuple[str, int]] = set()
    call = Batch.__call__

    def seen(batch: Batch, rows: Sequence[Row]) -> Any:
        sizes.update((row.model.component, batch.size) for row in rows)
        return call(batch, rows)

    monkeypatch.setattr(Batch, "__call__", seen)
    pipelines("heads")(ours([Control(controlnet("heads"), hint_picture(), mode=mode)]))
    assert {size for name, size in sizes if name == "controlnet"} == {rows}
    assert {size for name, size in sizes if name == "unet_controlled"} == {2}


def test_a_picture_is_encoded_once_a_request(
    pipelines: Callable[[str], Pipeline],
    controlnet: Controlnets,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[str] = []
    call = Batch.__call__

    def counted(batch: Batch, rows: Sequence[Row]) -> Any:
        called.extend(row.model.component for row in rows)
        return call(batch, rows)

    monkeypatch.setattr(Batch, "__call__", counted)
    pipelines("heads")(ours(two(controlnet, end=0.5), num_images=2))
    counts = Counter(called)
    assert counts["hint_encoder"] == 2
    # Two pictures and two rows at each of 8 steps, in half of them under two ControlNets.
    assert counts["unet_controlled"] == 2 * 2 * 8
    assert counts["controlnet"] == 2 * 2 * 4 * 2
    assert counts["unet"] == 0


def test_a_controlnet_of_16_bits_draws_nearly_the_same(
    bundle: Callable[[str], Path],
    checkpoint: Callable[[str], Path],
    pipelines: Callable[[str], Pipeline],
    controlnet: Controlnets,
    tmp_path: Path,
) -> None:
    half = tmp_path / "half"
    diffusers.ControlNetModel.from_pretrained(controlnet("heads")).half().save_pretrained(half)
    control = Control(half, hint_picture())
    found = pipelines("heads")(ours([control]))
    exact = pipelines("heads")(ours([Control(controlnet("heads"), hint_picture())]))
    # Weights in float16 are off by up to 5e-4; the run multiplies that.
    assert Difference.between(found.latents[0], exact.latents[0]).relative <= 5e-3
    with Pipeline.open(bundle("heads-fp16"), engine="onnxruntime") as pipeline:
        both = pipeline(ours([control]))
    assert Difference.between(both.latents[0], exact.latents[0]).relative <= 1e-2


def test_openvino_draws_under_a_controlnet(
    bundle: Callable[[str], Path], pipelines: Callable[[str], Pipeline], controlnet: Controlnets
) -> None:
    request = ours([Control(controlnet("heads"), hint_picture())])
    exact = pipelines("heads")(request)
    with Pipeline.open(bundle("heads"), engine="openvino", precision="fp32") as pipeline:
        found = pipeline(request)
    assert Difference.between(found.latents[0], exact.latents[0]).relative <= LATENTS


def test_a_controlnet_of_another_family_is_refused_with_both_named(
    pipelines: Callable[[str], Pipeline], controlnet: Controlnets
) -> None:
    expected = (
        "control: expected a ControlNet for text of width 72, got heads-0, for text of width 32"
    )
    with pytest.raises(InputError, match=expected):
        pipelines("xl").plan(ours([Control(controlnet("heads"), hint_picture())]))


def test_families_have_the_names_that_people_know() -> None:
    unets = {name: ARCHITECTURES[name]["unet"] for name in ("sd15", "sd21", "sdxl")}
    known = {"sd15": "Stable Diffusion 1.x", "sd21": "Stable Diffusion 2.x", "sdxl": "SDXL"}
    for one, unet in unets.items():
        config = with_defaults("unet", unet)
        inputs = component_specs(("unet",))[0].inputs(config, "float32")
        record = ComponentRecord("", "", "", inputs, (), config)
        for other, its in unets.items():
            own = with_defaults("controlnet", config_of(its))
            if one == other:
                check_fit(Path("net"), own, record)
                continue
            expected = f"a ControlNet for {known[one]}, got net, for {known[other]}"
            with pytest.raises(InputError, match=expected):
                check_fit(Path("net"), own, record)


def test_a_request_with_controls_survives_json_with_its_files_beside_it(
    controlnet: Controlnets,
) -> None:
    request = ours(two(controlnet, start=0.1, end=0.9, mode="prompt"))
    value = json.loads(json.dumps(request.to_json()))
    assert [each["name"] for each in value["controls"]] == ["heads-0", "heads-1"]
    assert Request.from_json(value, request.controls) == request
    assert pickle.loads(pickle.dumps(request)) == request
    assert hash(pickle.loads(pickle.dumps(request))) == hash(request)
    with pytest.raises(InputError, match=r"controls: expected 'heads-1' with SHA-256"):
        Request.from_json(value, request.controls[:1])
    others = [Control(each.model, hint_picture(8)) for each in request.controls]
    with pytest.raises(InputError, match=r"control image: expected the picture of 'heads-0'"):
        Request.from_json(value, others)
    assert Request.from_json({"prompt": "x", "schema": 3}).controls == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": -1.0}, "control scale: expected 0 to 100, got -1.0"),
        ({"start": 0.5, "end": 0.5}, "control start: expected below its end, 0.5, got 0.5"),
        ({"end": 1.5}, "control end: expected a number from 0 to 1, got 1.5"),
        ({"mode": "both"}, "control mode: expected one of balanced, prompt, control, got 'both'"),
        ({"image": "lines.png"}, "control image: expected a Pillow image, or a uint8 array"),
        ({"model": 3}, "control: expected a path"),
    ],
)
def test_a_control_that_cannot_be_used_names_its_field(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Control(**{"model": "net", "image": hint_picture(), **fields})


def test_controls_are_equal_where_path_numbers_and_pixels_are() -> None:
    control = Control("net", hint_picture(), 0.5)
    assert control == Control("net", hint_picture().copy(), 0.5)
    assert control != Control("net", hint_picture(1), 0.5)
    assert control != Control("net", hint_picture(), 0.6)
    assert control != Control("other", hint_picture(), 0.5)


def test_a_request_takes_controls_alone() -> None:
    with pytest.raises(InputError, match="controls: expected at most 16 Controls"):
        Request("x", controls=["net"])  # type: ignore[list-item]


@given(st.integers(1, 60), st.floats(0, 1), st.floats(0, 1), st.integers(0, 59))
def test_when_a_control_acts_is_the_rule_of_diffusers(
    count: int, start: float, end: float, evaluation: int
) -> None:
    assume(start < end)
    assume(evaluation < count)
    control = Control("net", hint_picture(), 1.0, start, end)
    # `controlnet_keep`, as in the pipeline.
    i, timesteps = evaluation, range(count)
    keep = 1.0 - float(i / len(timesteps) < start or (i + 1) / len(timesteps) > end)
    assert control.active(evaluation, count) == bool(keep)


def test_where_the_masked_part_alone_is_drawn_a_control_shows_that_part() -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[20:28, 30:44] = 255
    task = Inpainting(hint_picture(3, 64, 48), mask, only_masked=4)
    shown = hint_picture(5, 128, 96)
    box = diffusers.image_processor.VaeImageProcessor.get_crop_region(
        Image.fromarray(mask), 32, 32, pad=4
    )
    expected = np.asarray(Image.fromarray(shown).resize((64, 48), Image.Resampling.LANCZOS))
    left, top, right, bottom = box
    assert np.array_equal(task.of_control(shown, Size(32, 32)), expected[top:bottom, left:right])
    whole = Inpainting(hint_picture(3, 64, 48), mask)
    assert whole.of_control(shown, Size(32, 32)) is shown
