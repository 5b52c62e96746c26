"""Pictures with textual inversions, beside diffusers' own `load_textual_inversion`."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file
from tests.conftest import answered, text_models

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError
from latentrt.bundle.golden import Difference, psnr
from latentrt.runtime import Embedding, Pipeline, Request, Sampling, Size
from latentrt.runtime.conditioning import Conditioner
from latentrt.runtime.embeddings import placed

# A few layers of fp32 rounding; 2e-7 to 6e-7 measured.
ROUNDING = 1e-5

WIDTHS = {"heads": (32,), "xl": (32, 40)}
PROMPT = "a red <x> beside Bad-Hands, <x> circle"
NEGATIVE = "no <x>, bad-hands"


def tensor(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((rows, width), generator=generator)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings of several vectors and of one, for one encoder and for two."""
    folder = tmp_path_factory.mktemp("embeddings")
    save_file({"emb_params": tensor(3, 32)}, folder / "heads-X.safetensors")
    save_file({"bad-hands": tensor(1, 32, 1)[0].half()}, folder / "heads-bad.safetensors")
    for name, rows, seed in (("X", 3, 2), ("bad", 1, 3)):
        both = {"clip_l": tensor(rows, 32, seed), "clip_g": tensor(rows, 40, seed + 9)}
        save_file(both, folder / f"xl-{name}.safetensors")
    save_file({"clip_g": tensor(2, 40)}, folder / "one.safetensors")
    return folder


def embeddings(files: Path, configuration: str) -> tuple[Embedding, ...]:
    return (
        Embedding(files / f"{configuration}-X.safetensors", "<x>"),
        Embedding(files / f"{configuration}-bad.safetensors", "Bad-Hands"),
    )


def theirs(checkpoint: Path, files: Path, configuration: str) -> Any:
    """diffusers' pipeline with the same files."""
    kind: Any = {"heads": StableDiffusionPipeline, "xl": StableDiffusionXLPipeline}[configuration]
    pipeline = kind.from_pretrained(checkpoint, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    for embedding in embeddings(files, configuration):
        if configuration == "heads":
            pipeline.load_textual_inversion(str(embedding.path), token=embedding.token)
            continue
        from safetensors.torch import load_file

        both = load_file(embedding.path)
        for key, suffix in (("clip_l", ""), ("clip_g", "_2")):
            pipeline.load_textual_inversion(
                both[key],
                token=embedding.token,
                text_encoder=getattr(pipeline, f"text_encoder{suffix}"),
                tokenizer=getattr(pipeline, f"tokenizer{suffix}"),
            )
    if configuration == "xl":
        # By the old rule, transformers would pool at an added token, which has the largest id.
        # Its source says that such a model "can't work correctly with extra new tokens added".
        pipeline.text_encoder_2.text_model.eos_token_id = pipeline.tokenizer_2.eos_token_id
    return pipeline


@pytest.mark.parametrize("configuration", ["heads", "xl"])
def test_a_picture_with_embeddings_is_the_one_that_diffusers_draws(
    bundle: Callable[[str], Path],
    checkpoint: Callable[[str], Path],
    files: Path,
    configuration: str,
) -> None:
    reference = theirs(checkpoint(configuration), files, configuration)
    request = Request(
        PROMPT,
        negative_prompt=NEGATIVE,
        seed=5,
        size=Size(64, 64),
        sampling=Sampling(steps=4),
        guidance=5.0,
        weights=embeddings(files, configuration),
    )
    opened = Bundle.open(bundle(configuration))
    found = answered(Conditioner(opened, text_models(opened))(request))
    assert found.negative is not None
    with torch.inference_mode():
        expected = reference.encode_prompt(
            PROMPT,
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
            negative_prompt=NEGATIVE,
        )
    for condition, states in ((found.prompts[0], expected[0]), (found.negative, expected[1])):
        actual = condition.constant["encoder_hidden_states"]
        assert Difference.between(actual, states[0].numpy()).relative < ROUNDING
    if configuration == "xl":
        for condition, states in ((found.prompts[0], expected[2]), (found.negative, expected[3])):
            actual = condition.constant["text_embeds"]
            assert Difference.between(actual, states[0].numpy()).relative < ROUNDING
    image = reference(
        PROMPT,
        negative_prompt=NEGATIVE,
        width=64,
        height=64,
        num_inference_steps=4,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(5),
        output_type="np",
    ).images[0]
    with Pipeline.open(bundle(configuration), engine="onnxruntime") as pipeline:
        ours = np.asarray(pipeline(request).images[0]) / 255.0
        plain = np.asarray(pipeline(request.with_values(weights=())).images[0]) / 255.0
    # dB at fp32, ours rounded to 8 bits.
    assert psnr(ours, np.round(image * 255.0) / 255.0, peak=1.0) >= 55.0
    assert psnr(ours, plain, peak=1.0) < 50.0


def conditioned(bundle: Path, request: Request) -> Any:
    opened = Bundle.open(bundle)
    conditioner = Conditioner(opened, text_models(opened))
    conditioner.check(request)
    return answered(conditioner(request))


def test_every_vector_counts_against_the_length_of_a_prompt(
    bundle: Callable[[str], Path], files: Path
) -> None:
    weights = embeddings(files, "heads")
    request = Request("<x> " * 26, weights=weights, size=Size(64, 64), syntax="plain")
    (note,) = conditioned(bundle("heads"), request).notes
    assert note == "prompt: cut after 75 tokens; left out: '<x> '"


@pytest.mark.parametrize("typed", ["<x>", "<X>"])
@pytest.mark.parametrize("token", ["<x>", "<X>"])
def test_a_token_with_capitals_stands_for_all_of_its_vectors(
    bundle: Callable[[str], Path], files: Path, token: str, typed: str
) -> None:
    # diffusers with transformers 5 takes the first vector alone for all but "<x>" of "<x>".
    path = files / "heads-X.safetensors"
    size = Size(64, 64)
    plain = Request("a <y> red", weights=[Embedding(path, "<y>")], size=size)
    request = Request(f"a {typed} red", weights=[Embedding(path, token)], size=size)
    expected, found = (
        conditioned(bundle("heads"), each).prompts[0].constant["encoder_hidden_states"]
        for each in (plain, request)
    )
    assert np.array_equal(found, expected)


def test_an_embedding_for_one_of_two_encoders_goes_to_that_one_and_a_note_says_so(
    bundle: Callable[[str], Path], files: Path
) -> None:
    with_one = Request("a <o>", weights=[Embedding(files / "one.safetensors", "<o>")])
    with_one, without = (r.with_values(size=Size(64, 64)) for r in (with_one, Request("a <o>")))
    found, plain = (conditioned(bundle("xl"), each) for each in (with_one, without))
    ours, words = (each.prompts[0].constant["encoder_hidden_states"] for each in (found, plain))
    assert np.array_equal(ours[:, :32], words[:, :32])
    assert not np.array_equal(ours[:, 32:], words[:, 32:])
    note = "embedding one.safetensors: has no vectors for text_encoder, which reads '<o>' as words"
    assert found.notes == (note,)


@pytest.mark.parametrize(
    ("configuration", "name", "problem"),
    [
        ("heads", "one", r"of width 32 \(text_encoder\), got one.safetensors, clip_g of width 40"),
        ("heads", "xl-X", r"of width 32 \(text_encoder\), got xl-X.safetensors, clip_g of width"),
    ],
)
def test_an_embedding_of_another_model_is_refused_with_both_widths(
    bundle: Callable[[str], Path], files: Path, configuration: str, name: str, problem: str
) -> None:
    request = Request("<o>", weights=[Embedding(files / f"{name}.safetensors", "<o>")])
    with pytest.raises(InputError, match=f"^weights: expected .*{problem}"):
        conditioned(bundle(configuration), request)


@pytest.mark.parametrize(
    ("key", "width", "widths", "taken"),
    [
        ("emb_params", 32, {"text_encoder": 32}, "text_encoder"),
        ("clip_g", 32, {"text_encoder": 32, "text_encoder_2": 32}, "text_encoder_2"),
        ("clip_g", 32, {"text_encoder": 32, "text_encoder_2": 40}, None),
        ("clip_l", 40, {"text_encoder": 32, "text_encoder_2": 40}, None),
        ("clip_l", 32, {"text_encoder": 40}, None),
        ("emb_params", 32, {"text_encoder": 32, "text_encoder_2": 32}, None),
    ],
)
def test_vectors_go_to_the_encoder_of_their_name_and_width(
    tmp_path: Path, key: str, width: int, widths: dict[str, int], taken: str | None
) -> None:
    save_file({key: tensor(2, width)}, tmp_path / "e.safetensors")
    embedding = Embedding(tmp_path / "e.safetensors", "<o>")
    if taken is None:
        with pytest.raises(InputError, match=f"of width {width}"):
            placed([embedding], widths)
        return
    found = placed([embedding], widths)
    assert [name for name, vectors in found.items() if vectors] == [taken]


@pytest.mark.parametrize("token", ["red</w>", "!", "<|endoftext|>"])
def test_a_token_of_the_vocabulary_is_refused(
    bundle: Callable[[str], Path], files: Path, token: str
) -> None:
    request = Request("x", weights=[Embedding(files / "heads-bad.safetensors", token)])
    with pytest.raises(InputError, match="is in the vocabulary already"):
        conditioned(bundle("heads"), request)


def test_tokens_that_another_embedding_takes_for_its_vectors_are_refused(
    bundle: Callable[[str], Path], files: Path
) -> None:
    path = files / "heads-bad.safetensors"
    request = Request("x", weights=[Embedding(path, "<y>_1"), Embedding(path, "<y>")])
    with pytest.raises(InputError, match="'<y>', and '<y>_1' is in the vocabulary already"):
        conditioned(bundle("heads"), request)


def test_a_request_names_its_embeddings_by_file_hash_and_token(files: Path) -> None:
    used = embeddings(files, "heads")
    request = Request("<x>", weights=used)
    value = json.loads(json.dumps(request.to_json()))
    assert [each["file"] for each in value["weights"]] == [e.path.name for e in used]
    assert [each["token"] for each in value["weights"]] == ["<x>", "Bad-Hands"]
    assert Request.from_json(value, [np.zeros(3), *reversed(used)]) == request
    assert pickle.loads(pickle.dumps(request)) == request
    assert request != request.with_values(weights=used[:1])
    with pytest.raises(InputError, match=r"'heads-bad\.safetensors' with SHA-256"):
        Request.from_json(value, used[:1])


def test_a_request_written_before_there_were_weights_has_none() -> None:
    value = Request("a circle").to_json()
    del value["weights"]
    assert Request.from_json({**value, "schema": 2}) == Request("a circle")


@pytest.mark.parametrize("value", [3, "x", ["x.safetensors"]])
def test_weights_that_are_not_embeddings_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match=r"^weights: expected at most 64 Emb"):
        Request("x", weights=value)


def test_two_embeddings_of_one_token_are_refused(files: Path) -> None:
    one = Embedding(files / "heads-bad.safetensors", "<x>")
    other = Embedding(files / "heads-X.safetensors", "<x>")
    with pytest.raises(InputError, match="one embedding a token, got two of token '<x>'"):
        Request("x", weights=[one, other])
