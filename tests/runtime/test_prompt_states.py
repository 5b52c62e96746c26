"""What weighted, long and changing prompts say to the U-Net, beside transformers' text encoders.

The reference has the rules of AUTOMATIC1111's web UI over PyTorch's encoder: chunks of 75 tokens
between BOS and EOS, the states of each times the weights of its tokens, and back to their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tests.conftest import answered, text_models
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError
from latentrt.bundle.golden import Difference
from latentrt.runtime import Embedding
from latentrt.runtime.conditioning import Conditioner, Conditioning
from latentrt.runtime.denoiser import Condition
from latentrt.runtime.prompts.chunks import MOST_CHUNKS
from latentrt.runtime.prompts.reading import MOST_CHARACTERS
from latentrt.runtime.prompts.schedule import Steps
from latentrt.runtime.request import Request
from latentrt.runtime.size import Size

# Four layers of fp32 rounding; 2e-7 to 1e-6 measured.
ROUNDING = 5e-6

Piece = tuple[str, float]
Bundles = Callable[[str], Path]


@dataclass(frozen=True)
class Reference:
    """One of a checkpoint's text encoders in PyTorch."""

    model: Any
    tokenizer: Any

    @staticmethod
    def of(checkpoint: Path, number: str = "") -> Reference:
        kind: Any = CLIPTextModelWithProjection if number else CLIPTextModel
        return Reference(
            kind.from_pretrained(checkpoint / f"text_encoder{number}").eval(),
            CLIPTokenizer.from_pretrained(checkpoint / f"tokenizer{number}"),
        )

    def states(self, pieces: Sequence[Piece], layer: int | None) -> tuple[Any, Any]:
        """States of one chunk [77, width], and the outputs; None is after the final norm."""
        tokenizer = self.tokenizer
        ids, weights = [tokenizer.bos_token_id], [1.0]
        for text, weight in pieces:
            own = tokenizer(text, add_special_tokens=False).input_ids
            ids += own
            weights += [weight] * len(own)
        ids += [tokenizer.eos_token_id] + [tokenizer.pad_token_id] * (76 - len(ids))
        weights += [1.0] * (77 - len(weights))
        assert len(ids) == 77
        with torch.inference_mode():
            outputs = self.model(torch.tensor([ids]), output_hidden_states=True)
        last = outputs.last_hidden_state[0]
        states = last if layer is None else outputs.hidden_states[layer][0]
        weighed = states * torch.tensor(weights)[:, None]
        return weighed * (states.double().mean() / weighed.double().mean()).float(), outputs

    def long(self, chunks: Sequence[Sequence[Piece]], layer: int | None = None) -> Any:
        """States of several chunks, one behind the other, float32 [n * 77, width]."""
        return torch.cat([self.states(each, layer)[0] for each in chunks]).numpy()


@pytest.fixture(scope="module")
def conditioners(bundle: Bundles) -> Callable[[str], Conditioner]:
    """The conditioner of a configuration, made once."""
    made: dict[str, Conditioner] = {}

    def get(configuration: str) -> Conditioner:
        if configuration not in made:
            opened = Bundle.open(bundle(configuration))
            made[configuration] = Conditioner(opened, text_models(opened))
        return made[configuration]

    return get


def conditioned(conditioner: Conditioner, prompt: str, **fields: Any) -> Conditioning:
    request = Request(prompt, size=Size(64, 64), **{"guidance": 5.0, **fields})
    conditioner.check(request)
    return answered(conditioner(request))


def states_of(condition: Condition | None) -> NDArray[Any]:
    assert condition is not None
    return condition.constant["encoder_hidden_states"]


def check(found: Condition | None, expected: NDArray[Any]) -> None:
    actual = states_of(found)
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape
    # The states are divided by their mean, which has the rounding of far larger numbers.
    chunks = expected.reshape(-1, 77 * expected.shape[1]).astype(np.float64)
    shares = np.sqrt(np.square(chunks).mean(axis=1)) / np.abs(chunks.mean(axis=1))
    assert Difference.between(actual, expected).relative < ROUNDING * max(1.0, *shares)


WEIGHTED: Mapping[str, list[list[Piece]]] = {
    "a (red:1.3) circle": [[("a ", 1.0), ("red", 1.3), (" circle", 1.0)]],
    "((large)) [blue] star": [
        [("large", 1.1 * 1.1), (" ", 1.0), ("blue", 1 / 1.1), (" star", 1.0)]
    ],
    "(a small (green:2) star:0.5)": [[("a small ", 0.5), ("green", 1.0), (" star", 0.5)]],
    "(a red circle:-1) on blue": [[("a red circle", -1.0), (" on blue", 1.0)]],
    "a red BREAK (star:1.5)": [[("a red", 1.0)], [("star", 1.5)]],
    "red " * 76 + "(star:1.2)": [[("red " * 75, 1.0)], [("red ", 1.0), ("star", 1.2)]],
    "(" + "red " * 160 + ":1.4)": [[("red " * n, 1.4)] for n in (75, 75, 10)],
    "red " * 60 + "star, " + "blue " * 20: [
        [("red " * 60 + "star,", 1.0)],
        [("blue " * 20, 1.0)],
    ],
    "red " * 50 + "star, " + "blue " * 30: [
        [("red " * 50 + "star, " + "blue " * 23, 1.0)],
        [("blue " * 7, 1.0)],
    ],
}
"""Prompts, and the pieces of each chunk. Up to 20 tokens after a comma move to the next chunk."""


@pytest.mark.parametrize("prompt", WEIGHTED, ids=range(len(WEIGHTED)))
@pytest.mark.parametrize("configuration", ["heads", "lists"])
def test_states_are_weighed_chunk_by_chunk_and_keep_their_mean(
    conditioners: Callable[[str], Conditioner],
    checkpoint: Bundles,
    configuration: str,
    prompt: str,
) -> None:
    reference = Reference.of(checkpoint(configuration))
    chunks = WEIGHTED[prompt]
    found = conditioned(conditioners(configuration), prompt, negative_prompt="a (star:0.8)")
    check(found.prompts[0], reference.long(chunks))
    # The negative prompt is as long, with empty chunks behind it.
    negative: list[list[Piece]] = [[("a ", 1.0), ("star", 0.8)], *[[] for _ in chunks[1:]]]
    check(found.negative, reference.long(negative))
    assert found.length == 77 * len(chunks)
    assert found.notes == ()


@pytest.mark.parametrize("clip_skip", [0, 1])
@pytest.mark.parametrize("prompt", WEIGHTED, ids=range(len(WEIGHTED)))
def test_sdxl_weighs_both_encoders_and_pools_the_first_chunk(
    conditioners: Callable[[str], Conditioner], checkpoint: Bundles, prompt: str, clip_skip: int
) -> None:
    first, second = (Reference.of(checkpoint("xl"), number) for number in ("", "_2"))
    chunks, layer = WEIGHTED[prompt], -2 - clip_skip
    found = conditioned(conditioners("xl"), prompt, clip_skip=clip_skip)
    states = [each.long(chunks, layer) for each in (first, second)]
    check(found.prompts[0], np.concatenate(states, axis=-1))
    pooled = second.states(chunks[0], None)[1].text_embeds[0].numpy()
    actual = found.prompts[0].constant["text_embeds"]
    assert Difference.between(actual, pooled).relative < ROUNDING
    assert found.negative is not None
    assert states_of(found.negative).shape == states_of(found.prompts[0]).shape
    assert not states_of(found.negative).any()


def test_clip_skip_of_a_weighted_prompt_is_before_the_last_layer_with_the_final_norm(
    conditioners: Callable[[str], Conditioner], checkpoint: Bundles
) -> None:
    reference = Reference.of(checkpoint("heads"))
    model = getattr(reference.model, "text_model", reference.model)
    found = conditioned(conditioners("heads"), "a red (star:1.4)", clip_skip=1)
    _, outputs = reference.states([("a red star", 1.0)], None)
    with torch.inference_mode():
        states = model.final_layer_norm(outputs.hidden_states[-2])[0]
    weights = torch.ones(77, 1)
    weights[3] = 1.4
    weighed = states * weights
    check(found.prompts[0], (weighed * (states.mean() / weighed.mean())).numpy())


@pytest.mark.parametrize("configuration", ["heads", "lists", "xl"])
@pytest.mark.parametrize("prompt", ["", "a large red circle, small", "red " * 75, "A 1:2 <x> {y}"])
def test_a_prompt_without_syntax_is_the_plain_one_bit_for_bit(
    conditioners: Callable[[str], Conditioner], configuration: str, prompt: str
) -> None:
    conditioner = conditioners(configuration)
    web, plain = (
        conditioned(conditioner, prompt, negative_prompt="", syntax=syntax)
        for syntax in ("webui", "plain")
    )
    for one, other in ((web.prompts[0], plain.prompts[0]), (web.negative, plain.negative)):
        assert one is not None
        assert other is not None
        for name, array in one.constant.items():
            np.testing.assert_array_equal(array, other.constant[name], strict=True)


def test_several_prompts_have_their_weights_and_the_length_of_the_longest(
    conditioners: Callable[[str], Conditioner], checkpoint: Bundles
) -> None:
    reference = Reference.of(checkpoint("heads"))
    prompt = "a red star :1.5 AND " + "blue " * 80 + ":-0.5 AND a circle"
    found = conditioned(conditioners("heads"), prompt, composed=[("green", 0.25)])
    assert [each.weight for each in found.prompts] == [1.5, -0.5, 1.0, 0.25]
    chunks: list[list[list[Piece]]] = [
        [[("a red star", 1.0)], []],
        [[("blue " * 75, 1.0)], [("blue " * 5, 1.0)]],
        [[("a circle", 1.0)], []],
        [[("green", 1.0)], []],
    ]
    for condition, expected in zip(found.prompts, chunks, strict=True):
        check(condition, reference.long(expected))


# Textual inversions.


def test_a_textual_inversion_is_never_broken_over_two_chunks(
    bundle: Bundles, checkpoint: Bundles, tmp_path: Path
) -> None:
    vectors = torch.randn((8, 32), generator=torch.Generator().manual_seed(0))
    save_file({"emb_params": vectors}, tmp_path / "x.safetensors")
    embedding = Embedding(tmp_path / "x.safetensors", "<x>")
    opened = Bundle.open(bundle("heads"))
    conditioner = Conditioner(opened, text_models(opened))
    found = conditioned(conditioner, "red " * 70 + "(<x>:1.5) star", weights=[embedding])
    reference = Reference.of(checkpoint("heads"))
    tokenizer, model = reference.tokenizer, reference.model
    names = [f"<x{i}>" for i in range(8)]
    tokenizer.add_tokens(names)
    model.resize_token_embeddings(len(tokenizer))
    with torch.inference_mode():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(names)] = vectors
    chunks: list[list[Piece]] = [
        [("red " * 70, 1.0)],
        [(" ".join(names), 1.5), (" star", 1.0)],
    ]
    check(found.prompts[0], reference.long(chunks))


# Schedules.


def test_a_changing_prompt_has_the_states_of_each_of_its_texts_once(
    conditioners: Callable[[str], Conditioner], checkpoint: Bundles
) -> None:
    reference = Reference.of(checkpoint("heads"))
    request = Request(
        "a [red:(blue:1.3):0.5] [circle|star]",
        negative_prompt="[" + "green " * 80 + "::2]",
        size=Size(64, 64),
        guidance=5.0,
    )
    found = answered(conditioners("heads")(request, Steps(4)))
    (prompt,), negative = found.prompts, found.negative
    assert negative is not None
    blue = [("a ", 1.0), ("blue", 1.3)]
    texts = [
        [("a red circle", 1.0)],
        [("a red star", 1.0)],
        [*blue, (" circle", 1.0)],
        [*blue, (" star", 1.0)],
    ]
    for step, pieces in enumerate(texts):
        expected = reference.long([pieces, []])
        check(Condition(prompt.at(step)), expected)
    full = reference.long([[("green " * 75, 1.0)], [("green " * 5, 1.0)]])
    empty = reference.long([[], []])
    for step, expected in enumerate((full, full, empty, empty)):
        check(Condition(negative.at(step)), expected)


def test_inputs_are_one_object_for_as_long_as_they_hold(
    conditioners: Callable[[str], Conditioner],
) -> None:
    request = Request("a [red:blue:4] [circle|star]", size=Size(64, 64), guidance=5.0)
    (prompt,) = answered(conditioners("heads")(request, Steps(8))).prompts
    held = [prompt.at(step) for step in range(8)]
    # Rows copy what is another object: four texts, each once.
    assert len({id(each) for each in held}) == 4
    assert held[0] is held[2]
    assert held[1] is held[3]
    assert held[4] is held[6]
    assert held[0] is not held[4]


def test_a_later_leg_goes_on_with_the_schedule_and_a_second_pass_has_its_own(
    conditioners: Callable[[str], Conditioner],
) -> None:
    conditioner = conditioners("heads")
    request = Request("[red:blue:6] star", size=Size(64, 64), guidance=5.0)
    for steps, changed in (
        (Steps(10), [6]),
        (Steps(10, taken=4), [2]),
        (Steps(10, taken=6), []),
        (Steps(4, earlier=4), [2]),
        (Steps(4, earlier=6), []),
    ):
        (prompt,) = answered(conditioner(request, steps)).prompts
        assert [step for step, _ in prompt.changes] == changed


# What is remembered.


def test_a_prompt_is_encoded_once_and_anew_where_anything_of_it_differs(
    bundle: Bundles, tmp_path: Path
) -> None:
    for seed in (0, 1):
        vectors = torch.randn((2, 32), generator=torch.Generator().manual_seed(seed))
        save_file({"emb_params": vectors}, tmp_path / f"{seed}.safetensors")
    one, other = (Embedding(tmp_path / f"{seed}.safetensors", "<x>") for seed in (0, 1))
    opened = Bundle.open(bundle("heads"))
    conditioner = Conditioner(opened, text_models(opened))

    def rows(prompt: str, **fields: Any) -> int:
        request = Request(prompt, size=Size(64, 64), **{"guidance": 1.0, **fields})
        evaluation, count, outputs = conditioner(request), 0, None
        while True:
            try:
                asked = evaluation.send(outputs)  # type: ignore[arg-type]
            except StopIteration:
                return count
            count += len(asked)
            outputs = [answered(_passed_on(row)) for row in asked]

    def _passed_on(row: Any) -> Any:
        (outputs,) = yield [row]
        return outputs

    assert rows("a <x> star") == 1
    assert rows("a <x> star") == 0
    assert rows("a <x> star", syntax="plain") == 0
    assert rows("a <x> (star:1.1)") == 1
    assert rows("a <x> (star)") == 0
    assert rows("a <x> star", clip_skip=1) == 1
    assert rows("a <x> star", weights=[one]) == 1
    assert rows("a <x> star", weights=[other]) == 1
    assert rows("a <x> star", weights=[one]) == 0
    # Two texts beside each other; the empty chunk and the negative prompt are one more.
    assert rows("a [red|blue] circle", guidance=5.0, negative_prompt="") == 3
    assert rows("a [blue|red] circle BREAK", guidance=5.0) == 0
    conditioner.forget_prompts()
    assert rows("a <x> star") == 1


# What is refused.


def test_a_prompt_of_too_many_chunks_is_refused(
    conditioners: Callable[[str], Conditioner],
) -> None:
    words = "red " * (75 * MOST_CHUNKS)
    assert conditioned(conditioners("heads"), words).length == 77 * MOST_CHUNKS
    expected = (
        f"^negative_prompt: expected at most {MOST_CHUNKS} chunks of 75 tokens; syntax 'plain' "
        f"cuts it, got {MOST_CHUNKS + 1}"
    )
    with pytest.raises(InputError, match=expected):
        conditioned(conditioners("heads"), "a star", negative_prompt=f"{words} red")


def test_a_prompt_of_too_many_characters_is_refused(
    conditioners: Callable[[str], Conditioner],
) -> None:
    with pytest.raises(InputError, match=r"^composed\[0\]: expected at most 20000 characters"):
        conditioned(
            conditioners("heads"), "a", composed=[("[|]" * (MOST_CHARACTERS // 3 + 1), 1.0)]
        )


@pytest.mark.parametrize("weight", ["10001", "-10001", "9" * 400])
def test_a_weight_that_is_too_large_is_refused(
    conditioners: Callable[[str], Conditioner], weight: str
) -> None:
    with pytest.raises(InputError, match=r"^prompt: expected weights of at most 10000 either way"):
        conditioned(conditioners("heads"), f"a (star:{weight})")


def test_a_model_without_guidance_takes_one_prompt(
    conditioners: Callable[[str], Conditioner],
) -> None:
    with pytest.raises(InputError, match=r"^prompt: expected one without AND: this model is not"):
        conditioned(conditioners("lcm"), "a AND b")
