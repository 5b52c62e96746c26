"""What is inferred of a single file, from files of real size whose tensors are holes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers.loaders.single_file_utils import (
    DIFFUSERS_DEFAULT_PIPELINE_PATHS,
    infer_diffusers_model_type,
)
from numpy.typing import NDArray
from tests import original
from tests.original import Shapes, SmallConfigs, small, sparse, under, whole

from latentrt.bundle.errors import CheckpointError, InputError
from latentrt.export.modules import described
from latentrt.runtime.schedules import adopt_config
from latentrt.weights.architectures import ARCHITECTURES
from latentrt.weights.clip_vocabulary import tokenizer_files
from latentrt.weights.families import family_of
from latentrt.weights.inference import Overrides
from latentrt.weights.parts import open_parts
from latentrt.weights.single_file import SingleFile

Open = Callable[..., SingleFile]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Opens a file of these tensors."""

    def get(
        shapes: Shapes,
        overrides: Overrides | None = None,
        values: Mapping[str, NDArray[Any]] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> SingleFile:
        path = sparse(tmp_path / "fox.safetensors", shapes, values, metadata)
        return SingleFile.open(path, overrides)

    return get


def said(single: SingleFile, subject: str) -> str:
    """The one note on a subject."""
    (note,) = [n for n in single.notes if n.startswith(f"{subject}: ")]
    return note


def predicted(single: SingleFile) -> tuple[str | None, Any]:
    return single.prediction_type, single.config("scheduler")["prediction_type"]


@pytest.mark.parametrize("name", [n for n in original.UNETS if n != "sd21"])
def test_an_architecture_is_told_by_its_tensors(name: str, opened: Open) -> None:
    single = opened(whole(name))
    expected = ARCHITECTURES[name]
    for folder in ("text_encoder", "text_encoder_2", "unet", "vae"):
        assert (folder in single.tensors_of) is (folder in expected)
        if folder in expected:
            assert single.config(folder) == expected[folder]
    assert single.index["_class_name"] == expected["model_index"]["_class_name"]
    told = None if name == "sd2-base" else "epsilon"
    assert predicted(single) == (told, told)
    assert said(single, "architecture").startswith(f"architecture: {name}, since")
    assert f"in_channels: {expected['unet']['in_channels']}, so it is for" in said(
        single, "in_channels"
    )
    assert "the file does not say" in said(single, "heads")
    assert said(single, "vae").startswith(
        f"vae: scaling_factor {expected['vae']['scaling_factor']}"
    )


@pytest.mark.parametrize("name", ["sd15", "sd2-base", "ssd-1b"])
def test_every_part_passes_the_checks_of_an_export(name: str, opened: Open) -> None:
    single = opened(whole(name))
    parts = open_parts(single, family_of(single), described)
    assert set(parts) == set(single.tensors_of)
    assert all(part.notes == () for part in parts.values())


def test_the_scheduler_of_stable_diffusion_1_is_the_one_that_diffusers_gives(opened: Open) -> None:
    # That of the repository from which diffusers takes the configs of such a file.
    single = opened(whole("sd15"))
    where = DIFFUSERS_DEFAULT_PIPELINE_PATHS["v1"]["pretrained_model_name_or_path"]
    assert where == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert single.config("scheduler")["_class_name"] == "PNDMScheduler"
    assert single.index["scheduler"] == ["diffusers", "PNDMScheduler"]


@pytest.mark.parametrize("name", ["sd15", "sd2-inpainting", "sdxl", "sdxl-refiner"])
def test_the_scheduler_can_draw(name: str, opened: Open) -> None:
    config = opened(whole(name)).config("scheduler")
    assert adopt_config(config, config["_class_name"]).notes == ()


def test_each_tokenizer_pads_as_its_text_encoder_was_trained(opened: Open) -> None:
    single = opened(whole("sdxl"))
    assert single.tokenizer("tokenizer") == tokenizer_files("<|endoftext|>")
    assert single.tokenizer("tokenizer_2") == tokenizer_files("!")


# Prediction types.

KEY = np.zeros((), np.float32)


def test_stable_diffusion_2_does_not_say_what_it_predicts(opened: Open) -> None:
    # diffusers calls it v-prediction, which is wrong for 2.0 base and 2.1 base.
    shapes = whole("sd2-base")
    assert infer_diffusers_model_type({n: np.empty(s) for n, s in _few(shapes).items()}) == "v2"
    single = opened(shapes)
    assert predicted(single) == (None, None)
    assert "has to be measured or stated" in said(single, "prediction_type")


def _few(shapes: Shapes) -> Shapes:
    key = "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
    return {key: shapes[key]}


@pytest.mark.parametrize(("stated", "name"), [("epsilon", "sd2-base"), ("v_prediction", "sd21")])
def test_what_stable_diffusion_2_predicts_decides_its_size(
    stated: str, name: str, opened: Open
) -> None:
    single = opened(whole("sd2-base"), Overrides(prediction_type=stated))
    assert predicted(single) == (stated, stated)
    assert single.config("unet") == ARCHITECTURES[name]["unet"]
    assert said(single, "prediction_type") == f"prediction_type: {stated}, as stated"


def test_the_step_count_of_stable_diffusion_2_base_tells_epsilon(opened: Open) -> None:
    shapes = whole("sd2-base")
    single = opened(shapes, values={"global_step": np.array(875000)})
    assert predicted(single) == ("epsilon", "epsilon")
    assert "global_step" in said(single, "prediction_type")
    assert predicted(opened(shapes, values={"global_step": np.array(110000)}))[0] is None


@pytest.mark.parametrize("name", ["sd15", "sd2-base", "sdxl"])
@pytest.mark.parametrize("by", ["key", "metadata"])
def test_a_file_can_say_that_it_predicts_v(name: str, by: str, opened: Open) -> None:
    single = opened(
        whole(name),
        values={"v_pred": KEY} if by == "key" else None,
        metadata={"modelspec.prediction_type": "v"} if by == "metadata" else None,
    )
    assert predicted(single) == ("v_prediction", "v_prediction")
    assert {"key": "v_pred", "metadata": "modelspec"}[by] in said(single, "prediction_type")
    assert not any("not read: v_pred" in note for note in single.notes)


def test_an_override_is_stronger_than_the_file(opened: Open) -> None:
    values = {"v_pred": KEY, "ztsnr": KEY}
    single = opened(whole("sdxl"), Overrides(prediction_type="epsilon", zero_snr=False), values)
    assert predicted(single) == ("epsilon", "epsilon")
    assert "rescale_betas_zero_snr" not in single.config("scheduler")


@pytest.mark.parametrize(("name", "drawn"), [("sdxl", "EulerDiscrete"), ("sd15", "DDIM")])
@pytest.mark.parametrize("by", ["key", "override"])
def test_zero_snr_rescales_betas_and_trails(name: str, drawn: str, by: str, opened: Open) -> None:
    values = {"ztsnr": KEY} if by == "key" else {}
    # Noise prediction tells nothing where all is noise.
    overrides = Overrides(
        prediction_type="v_prediction", zero_snr=True if by == "override" else None
    )
    single = opened(whole(name), overrides, values)
    config = single.config("scheduler")
    assert config["rescale_betas_zero_snr"] is True
    assert config["timestep_spacing"] == "trailing"
    assert config["_class_name"] == f"{drawn}Scheduler"  # PNDM cannot rescale
    assert ("ztsnr" if by == "key" else "as stated") in said(single, "zero SNR")
    assert adopt_config(config, config["_class_name"]).notes == ()


def test_an_edm_v_model_has_the_levels_that_its_file_says(opened: Open) -> None:
    values = {
        "edm_vpred.sigma_max": np.array(99.0, np.float32),
        "edm_vpred.sigma_min": np.array(0.5, np.float32),
    }
    single = opened(whole("sdxl"), values=values)
    config = single.config("scheduler")
    assert config["_class_name"] == "EDMEulerScheduler"
    assert (config["sigma_max"], config["sigma_min"], config["sigma_data"]) == (99, 0.5, 1)
    assert predicted(single)[0] == "v_prediction"
    assert adopt_config(config, config["_class_name"]).notes == ()


def test_a_playground_model_has_latents_of_its_own(opened: Open) -> None:
    # As diffusers: create_vae_diffusers_config_from_ldm, _legacy_load_scheduler.
    mean, std = np.arange(4, dtype=np.float32), np.arange(1, 5, dtype=np.float32)
    single = opened(whole("sdxl"), values={"edm_mean": mean, "edm_std": std.reshape(1, 4, 1, 1)})
    vae, config = single.config("vae"), single.config("scheduler")
    assert (vae["latents_mean"], vae["latents_std"]) == ([0, 1, 2, 3], [1, 2, 3, 4])
    assert vae["scaling_factor"] == 0.5
    assert config["_class_name"] == "EDMDPMSolverMultistepScheduler"
    assert adopt_config(config, config["_class_name"]).notes == ()


@pytest.mark.parametrize("field", ["architecture", "prediction_type"])
def test_an_unknown_override_is_refused(field: str) -> None:
    with pytest.raises(InputError, match=f"{field}: expected one of .*, got 'fox'"):
        replace(Overrides(), **{field: "fox"})


def test_a_stated_architecture_is_taken(opened: Open) -> None:
    single = opened(whole("sd2-base"), Overrides(architecture="sd21", prediction_type="epsilon"))
    assert single.config("unet") == ARCHITECTURES["sd21"]["unet"]
    assert predicted(single) == ("epsilon", "epsilon")
    assert said(single, "architecture") == "architecture: sd21, as stated"


# Depths.


def distilled(down: Any, up: Any, middle: int | None) -> Shapes:
    """SDXL with other depths."""
    params = original.UnetParams((320, 640, 1280), 2048, down, up, middle, True, 4, 2816)
    usual = "model.diffusion_model."
    others = {n: s for n, s in whole("sdxl").items() if not n.startswith(usual)}
    return {**others, **under(usual, original.unet(params))}


@pytest.mark.parametrize(
    ("down", "up", "middle"),
    [
        # KOALA-1B's.
        ([[0], [2], [6]], [[0, 0], [2, 2], [6, 6]], 6),
        ([[0, 0], [1, 2], [3, 3]], [[0, 0, 0], [3, 2, 1], [2, 2, 2]], 3),
        ([[0, 0], [2, 2], [0, 0]], [[0, 0, 0], [2, 2, 2], [0, 0, 0]], 5),
    ],
    ids=["one layer a block", "uneven", "none in the last block"],
)
def test_depths_of_no_known_model_are_read_from_the_names(
    down: Any, up: Any, middle: int, opened: Open
) -> None:
    single = opened(distilled(down, up, middle))
    _, shapes = described("unet", single.config("unet"))
    found = single.tensors("unet")
    assert {name: found.entry(name).shape for name in found} == dict(shapes)
    assert "no known model has it" in said(single, "depth")


def test_depths_that_diffusers_cannot_build_are_refused(opened: Open) -> None:
    with pytest.raises(CheckpointError, match="of no UNet2DConditionModel"):
        opened(distilled([[0, 0], [2, 0], [3, 3]], [[0, 0, 0], [2, 2, 2], [3, 3, 3]], 3))
    with pytest.raises(CheckpointError, match="of no UNet2DConditionModel"):
        opened(distilled([[0, 0], [2, 2], [3, 3]], [[0, 0, 0], [2, 2, 2], [3, 3, 3]], 1))


def test_widths_of_no_known_model_are_refused_with_what_was_found(tmp_path: Path) -> None:
    path = sparse(tmp_path / "fox.safetensors", small("sd15"))
    with pytest.raises(CheckpointError) as caught:
        SingleFile.open(path)
    assert "levels of 8, 12, 16, 16 channels, 4 input channels, text of width 8" in str(
        caught.value
    )
    assert "320, 640, 1280, 1280 with 4 and 768" in str(caught.value)
    assert SingleFile.open(path, like=SmallConfigs("sd15")).notes[0] == "configs: those of sd15"


# What is left over.


def test_the_buffers_of_training_are_named_as_such(opened: Open) -> None:
    others = {
        "alphas_cumprod": (1000,),
        "sqrt_one_minus_alphas_cumprod": (1000,),
        "model_ema.decay": (),
        "first_stage_model.loss.logvar": (),
        "cond_stage_model.logit_scale": (),
        "fox.weight": (1,),
    }
    single = opened({**whole("sd15"), **others})
    notes = [note for note in single.notes if note.startswith("not read: ")]
    assert [note.split(": ")[1] for note in notes] == [
        "alphas_cumprod and 1 more",
        "model_ema.decay",
        "first_stage_model.loss.logvar",
        "cond_stage_model.logit_scale",
        "fox.weight",
    ]
    assert notes[-1].endswith("no layer has this name")


POSITIONS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


@pytest.mark.parametrize(
    ("positions", "broken"),
    [
        (np.arange(77)[None], False),
        (np.arange(77, dtype=np.float32)[None], True),
        (np.array([[*range(39), 38, *range(40, 77)]]), True),
    ],
    ids=["whole", "floats", "one is wrong"],
)
def test_broken_positions_are_ignored_and_said(
    positions: NDArray[Any], broken: bool, opened: Open
) -> None:
    single = opened(whole("sd15"), values={POSITIONS: positions})
    assert any(POSITIONS in note for note in single.notes) is broken
    assert any(note.startswith("position_ids: broken") for note in single.notes) is broken
