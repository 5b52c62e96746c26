"""What the U-Net is told, against what diffusers' own pipelines tell it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, LatentConsistencyModelPipeline
from numpy.typing import NDArray
from tests.conftest import answered, text_models

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import BundleError, InputError
from latentrt.bundle.golden import Difference
from latentrt.bundle.spec import TensorSpec
from latentrt.runtime.conditioning import Conditioner, Conditioning, embed_scale
from latentrt.runtime.denoiser import Condition
from latentrt.runtime.guidance import Guidance
from latentrt.runtime.request import Request
from latentrt.runtime.rows import Evaluation, Outputs, Row
from latentrt.runtime.size import Size

PROMPT, NEGATIVE = "a large red circle on a blue background", "a small star"
SIZE = Size(72, 64)
# Four or five layers of fp32 rounding; 2e-7 to 4e-7 measured.
ROUNDING = 5e-6

Bundles = Callable[[str], Path]


class Side:
    """Both sides of one configuration: our conditioner with engines, and diffusers' pipeline."""

    def __init__(self, bundle: Path, checkpoint: Path) -> None:
        self.bundle = Bundle.open(bundle)
        self.models = text_models(self.bundle)
        self.conditioner = Conditioner(self.bundle, self.models)
        self.pipeline: Any = DiffusionPipeline.from_pretrained(checkpoint, low_cpu_mem_usage=False)
        # For clip skip diffusers 0.42 reaches through a level that transformers 5 no longer has.
        encoder = self.pipeline.text_encoder
        object.__setattr__(encoder, "text_model", encoder)
        self.pipeline.set_progress_bar_config(disable=True)

    def ours(self, prompt: str = PROMPT, **fields: Any) -> Conditioning:
        """Our rows of a request, after its check."""
        request = Request(prompt, **{"size": SIZE, "guidance": Guidance(5.0), **fields})
        self.conditioner.check(request)
        return answered(self.conditioner(request))

    def theirs(
        self, prompt: str, negative_prompt: str | None, clip_skip: int
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
        """The prompt's and the negative prompt's embeddings, by diffusers' `encode_prompt`."""
        with torch.inference_mode():
            found = self.pipeline.encode_prompt(
                prompt,
                device=torch.device("cpu"),
                num_images_per_prompt=1,
                do_classifier_free_guidance=True,
                negative_prompt=negative_prompt,
                clip_skip=clip_skip or None,
            )
        arrays = [tensor[0].numpy() for tensor in found]
        names = ("encoder_hidden_states", "text_embeds")[: len(arrays) // 2]
        return dict(zip(names, arrays[::2], strict=True)), dict(
            zip(names, arrays[1::2], strict=True)
        )


@pytest.fixture(scope="module")
def side(bundle: Bundles, checkpoint: Bundles) -> Callable[[str], Side]:
    """Both sides by configuration, made once."""
    made: dict[str, Side] = {}

    def get(configuration: str) -> Side:
        if configuration not in made:
            made[configuration] = Side(bundle(configuration), checkpoint(configuration))
        return made[configuration]

    return get


def check_row(found: Condition | None, expected: Mapping[str, NDArray[Any]]) -> None:
    """Check that a row holds the expected arrays, and says nothing else of the text."""
    assert found is not None
    actual = found.constant
    assert set(actual) - {"time_ids", "timestep_cond"} == set(expected)
    for name, array in expected.items():
        assert actual[name].dtype == np.float32
        assert Difference.between(actual[name], array).relative < ROUNDING, name


LEGAL = [(c, k) for c, most in (("heads", 1), ("lists", 2), ("xl", 2)) for k in range(most + 1)]


@pytest.mark.parametrize("negative", [None, "", NEGATIVE])
@pytest.mark.parametrize(("configuration", "clip_skip"), LEGAL)
def test_prompts_are_encoded_as_in_diffusers(
    side: Callable[[str], Side], configuration: str, clip_skip: int, negative: str | None
) -> None:
    both = side(configuration)
    found = both.ours(negative_prompt=negative, clip_skip=clip_skip)
    prompt, negative_row = both.theirs(PROMPT, negative, clip_skip)
    assert len(found.prompts) == 1
    check_row(found.prompts[0], prompt)
    check_row(found.negative, negative_row)
    assert found.notes == ()


def test_no_negative_prompt_is_zeros_for_sdxl_and_the_empty_prompt_is_not(
    side: Callable[[str], Side],
) -> None:
    zeros = side("xl").ours(negative_prompt=None).negative
    empty = side("xl").ours(negative_prompt="").negative
    assert zeros is not None
    assert empty is not None
    for name in ("encoder_hidden_states", "text_embeds"):
        assert not zeros.constant[name].any()
        assert empty.constant[name].any()
    told = [each.constant["time_ids"].tolist() for each in (zeros, empty)]
    assert told[0] == told[1] != [0.0] * 6


def test_no_negative_prompt_is_the_empty_one_where_the_checkpoint_says_so(
    side: Callable[[str], Side], checkpoint: Bundles
) -> None:
    both = side("xl")
    manifest = replace(both.bundle.manifest, force_zeros_for_empty_prompt=False)
    conditioner = Conditioner(replace(both.bundle, manifest=manifest), both.models)
    request = Request(PROMPT, size=SIZE, guidance=Guidance(5.0))
    both.pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    try:
        _, expected = both.theirs(PROMPT, None, 0)
    finally:
        both.pipeline.register_to_config(force_zeros_for_empty_prompt=True)
    check_row(answered(conditioner(request)).negative, expected)


@pytest.mark.parametrize("configuration", ["heads", "lists", "xl"])
def test_tokens_beyond_75_are_cut_as_in_diffusers_and_noted(
    side: Callable[[str], Side], configuration: str
) -> None:
    both = side(configuration)
    prompt, negative = "red " * 80 + "Circle", "star " * 75 + "green " * 100
    found = both.ours(prompt, negative_prompt=negative, syntax="plain")
    expected, expected_negative = both.theirs(prompt, negative, 0)
    check_row(found.prompts[0], expected)
    check_row(found.negative, expected_negative)
    assert found.notes[0] == "prompt: cut after 75 tokens; left out: 'red red red red red Circle'"
    assert found.notes[1].startswith("negative_prompt: cut after 75 tokens; left out: 'green gree")
    assert len(found.notes) == 2
    assert len(found.notes[1]) < 140


# Sizes.


SIZES: dict[str, dict[str, Any]] = {
    "the picture's own": {},
    "an original": {"original_size": Size(640, 480)},
    "a crop": {"crop": (16, 8)},
    "a target": {"target_size": Size(1024, 768)},
    "all": {
        "original_size": Size(4096, 2050),
        "crop": (0, 512),
        "target_size": Size(1024, 1000),
    },
}


@pytest.mark.parametrize("given", SIZES)
def test_sdxl_gets_the_size_inputs_of_diffusers(side: Callable[[str], Side], given: str) -> None:
    both, sizes = side("xl"), SIZES[given]
    told: dict[str, torch.Tensor] = {}

    def listen(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        told.update(kwargs["added_cond_kwargs"])

    named = {"original_size": "original_size", "target_size": "target_size"}
    arguments = {
        name: (sizes[field].height, sizes[field].width)
        for field, name in named.items()
        if field in sizes
    }
    handle = both.pipeline.unet.register_forward_pre_hook(listen, with_kwargs=True)
    both.pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        width=SIZE.width,
        height=SIZE.height,
        num_inference_steps=1,
        crops_coords_top_left=sizes.get("crop", (0, 0)),
        output_type="latent",
        **arguments,
    )
    handle.remove()
    found = both.ours(negative_prompt=NEGATIVE, **sizes)
    negative, positive = told["time_ids"].numpy()
    assert found.negative is not None
    np.testing.assert_array_equal(found.negative.constant["time_ids"], negative, strict=True)
    np.testing.assert_array_equal(found.prompts[0].constant["time_ids"], positive, strict=True)


@pytest.mark.parametrize("field", ["original_size", "crop", "target_size"])
@pytest.mark.parametrize("configuration", ["heads", "lists", "lcm"])
def test_sizes_are_refused_by_models_that_take_none(
    side: Callable[[str], Side], configuration: str, field: str
) -> None:
    value: Any = (8, 0) if field == "crop" else Size(64, 64)
    with pytest.raises(InputError, match=f"{field}: expected none: this model takes no sizes"):
        side(configuration).ours(**{field: value})


# Which rows there are.


def test_rows_are_what_the_unet_takes_beside_latents_and_timesteps(
    side: Callable[[str], Side],
) -> None:
    shapes = {
        "heads": {"encoder_hidden_states": (77, 32)},
        "lists": {"encoder_hidden_states": (77, 32)},
        "xl": {"encoder_hidden_states": (77, 72), "text_embeds": (24,), "time_ids": (6,)},
        "lcm": {"encoder_hidden_states": (77, 32), "timestep_cond": (32,)},
    }
    for configuration, expected in shapes.items():
        found = side(configuration).ours()
        rows = [row.constant for row in (*found.prompts, found.negative) if row is not None]
        assert len(rows) == (1 if configuration == "lcm" else 2)
        for row in rows:
            assert {name: array.shape for name, array in row.items()} == expected
            assert {array.dtype for array in row.values()} == {np.dtype(np.float32)}
        record = side(configuration).bundle.manifest.components["unet"]
        names = {spec.name for spec in record.inputs}
        assert set(expected) == names - {"sample", "timestep"}


def test_each_composed_prompt_is_a_row_of_its_own(side: Callable[[str], Side]) -> None:
    both = side("xl")
    texts = ("a green star", "red " * 80)
    composed = ((texts[0], 0.5), (texts[1], -1.0))
    found = both.ours(composed=composed, clip_skip=1, syntax="plain")
    assert len(found.prompts) == 3
    for row, text in zip(found.prompts, (PROMPT, *texts), strict=True):
        alone, _ = both.theirs(text, None, 1)
        check_row(row, alone)
    assert [note[:12] for note in found.notes] == ["composed[1]:"]


def test_no_negative_row_is_encoded_where_none_is_ever_evaluated(
    side: Callable[[str], Side],
) -> None:
    both = side("heads")
    text = "a star that no other test asks for"
    request = Request(text, negative_prompt=NEGATIVE, size=SIZE, guidance=Guidance(1.0))
    evaluation = both.conditioner(request)
    (row,) = next(evaluation)
    with pytest.raises(StopIteration) as ended:
        evaluation.send([answered(passed_on(row))])
    assert ended.value.value.negative is None


def passed_on(row: Row) -> Evaluation[Outputs]:
    """One row's outputs."""
    (outputs,) = yield [row]
    return outputs


def test_a_scale_that_is_a_function_has_a_negative_row(side: Callable[[str], Side]) -> None:
    found = side("xl").ours(guidance=Guidance(lambda sigma: 1.0 + sigma))
    assert found.negative is not None


@pytest.mark.parametrize(
    ("configuration", "most"), [("heads", 1), ("lists", 3), ("xl", 2), ("lcm", 1)]
)
def test_clip_skip_leaves_a_layer_of_every_text_encoder(
    side: Callable[[str], Side], configuration: str, most: int
) -> None:
    side(configuration).ours(clip_skip=most)
    with pytest.raises(InputError, match=f"clip_skip: expected at most {most}: .*got {most + 1}"):
        side(configuration).ours(clip_skip=most + 1)


def test_a_unet_with_an_unknown_input_is_refused(side: Callable[[str], Side]) -> None:
    opened = side("heads").bundle
    record = opened.manifest.components["unet"]
    inputs = (*record.inputs, TensorSpec("image_embeds", ("batch", 16)))
    components = {**opened.manifest.components, "unet": replace(record, inputs=inputs)}
    changed = replace(opened, manifest=replace(opened.manifest, components=components))
    with pytest.raises(BundleError, match="has a U-Net with an input 'image_embeds'"):
        Conditioner(changed, side("heads").models)


def test_threads_get_what_each_asked_for(side: Callable[[str], Side]) -> None:
    both = side("xl")
    prompts = [f"a {colour} circle" for colour in ("red", "green", "blue", "small")] * 4
    alone = {prompt: both.ours(prompt) for prompt in set(prompts)}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(both.ours, prompts))
    for prompt, conditioning in zip(prompts, found, strict=True):
        for name, array in alone[prompt].prompts[0].constant.items():
            np.testing.assert_array_equal(conditioning.prompts[0].constant[name], array)


# Distilled models.


def embedded(guidance_scale: float, width: int) -> NDArray[np.float32]:
    """diffusers' own embedding; it uses nothing of the pipeline it is a method of."""
    pipeline: Any = None
    weights = torch.tensor([guidance_scale - 1])
    embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    return embed(pipeline, weights, embedding_dim=width)[0].numpy()


@pytest.mark.parametrize("width", [32, 33, 256, 512])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, 4.5, 7.5, 8.0, 15.0])
def test_the_embedded_scale_is_diffusers_to_an_ulp_of_its_frequencies(
    scale: float, width: int
) -> None:
    half = width // 2
    frequencies = 10000.0 ** (-np.arange(half) / (half - 1))
    # PyTorch's exponential is an ulp off at one of 128 frequencies, as is the rounding of the
    # angle to float32; a sine differs by as much as its angle, and by an ulp of its own.
    angle = abs(1000 * (scale - 1)) * frequencies
    bound = np.zeros(width)
    bound[: 2 * half] = np.tile(angle * 2.0**-23 + 2.0**-23, 2)
    actual, expected = embed_scale(scale, width), embedded(scale, width)
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert np.all(np.abs(actual.astype(np.float64) - expected) <= bound)


@pytest.mark.parametrize("scale", [0.5, 1.0, 8.5])
def test_a_distilled_model_takes_its_scale_as_input_and_has_no_negative_row(
    side: Callable[[str], Side], scale: float
) -> None:
    both = side("lcm")
    assert not both.conditioner.guided
    found = both.ours(guidance=Guidance(scale), negative_prompt=NEGATIVE, clip_skip=1)
    assert found.negative is None
    check_row(found.prompts[0], both.theirs(PROMPT, None, 1)[0])
    expected = embedded(scale, 32)
    assert Difference.between(found.prompts[0].constant["timestep_cond"], expected).relative < 1e-6


def test_a_distilled_model_takes_one_scale_and_one_prompt(side: Callable[[str], Side]) -> None:
    both = side("lcm")
    with pytest.raises(InputError, match="guidance scale: expected one number: this model takes"):
        both.ours(guidance=Guidance(lambda sigma: sigma))
    with pytest.raises(InputError, match="composed: expected none: this model is not guided"):
        both.ours(composed=(("a star", 1.0),))


@pytest.mark.parametrize("configuration", ["heads", "lists", "xl"])
def test_other_models_are_guided(side: Callable[[str], Side], configuration: str) -> None:
    assert side(configuration).conditioner.guided
    assert side(configuration).conditioner.length == 77
