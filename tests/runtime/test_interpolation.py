"""Pictures between two prompts and two seeds, beside diffusers' own pipelines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tests.cli.outcome import Run
from tests.controlnets import hint_picture, saved_controlnet
from tests.runtime.test_prompt_pictures import SEED, Theirs, asked, check
from tests.runtime.test_variations import arc, normal

from latentrt.bundle.errors import InputError
from latentrt.bundle.golden import Difference
from latentrt.runtime import (
    Control,
    InstructPix2Pix,
    Interpolation,
    Pipeline,
    Request,
    Result,
    Sampling,
)
from latentrt.runtime.denoiser import Condition
from latentrt.runtime.image import recorded_request

Bundles = Callable[[str], Path]
Pipelines = Callable[[str], Pipeline]

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
ROUNDING = 1e-5
"""Relative: engines add up in another order where more rows share a call."""


def frame(result: Result, image: int) -> Result:
    """One of the pictures as a result of its own."""
    one = slice(image, image + 1)
    return Result(
        result.images[one], result.latents[one], result.noise[one], result.request_of(image),
        result.schedule, result.model, result.seconds,
    )  # fmt: skip


@pytest.mark.parametrize("configuration", ["heads", "lists", "xl"])
def test_frames_are_what_diffusers_draws_of_states_on_a_line_and_noise_on_an_arc(
    pipelines: Pipelines, checkpoint: Bundles, configuration: str
) -> None:
    theirs = Theirs(checkpoint(configuration))
    ends = [
        theirs.states([[("a ", 1.0), ("red", 1.5), (" circle", 1.0)], []]),
        theirs.states([[("blue " * 75, 1.0)], [("star", 1.0)]]),
    ]
    negative = theirs.states([[("green", 1.0)], []])
    request = asked(
        "a (red:1.5) circle",
        negative_prompt="green",
        num_images=3,
        interpolation=Interpolation("blue " * 75 + "star", seed=11),
    )
    result = pipelines(configuration)(request)
    for image, share in enumerate((0.0, 0.5, 1.0)):
        mixed = {name: torch.lerp(ends[0][name], ends[1][name], share) for name in ends[0]}
        noise = arc(normal(SEED), normal(11), share).float()[None]
        expected = theirs.draw_states(mixed, negative, latents=noise)
        check(frame(result, image), theirs, expected)
        mine = pipelines(configuration)(result.request_of(image))
        assert Difference.between(mine.latents[0], result.latents[image]).relative < ROUNDING


def test_frames_begin_and_end_with_the_pictures_of_both_requests(pipelines: Pipelines) -> None:
    between = Interpolation("a blue star", seed=11)
    requests = [
        asked("a red circle", num_images=2, interpolation=between),
        asked("a red circle"),
        asked("a blue star").with_values(seed=11),
    ]
    with pipelines("heads").batcher(batch_sizes=(4,)) as batcher:
        runs = [batcher.submit(request) for request in requests]
        frames, first, last = (run.result().latents for run in runs)
    np.testing.assert_array_equal(frames[0], first[0])
    # The arc ends on the other noise, but for one rounding.
    assert Difference.between(frames[1], last[0]).relative < ROUNDING


def test_frames_without_another_seed_have_the_noise_of_the_first(pipelines: Pipelines) -> None:
    request = asked("a", num_images=3, interpolation=Interpolation("b"))
    noise = pipelines("heads")(request).noise
    np.testing.assert_array_equal(noise[1:], noise[:2])
    varied = request.with_values(subseed=5, subseed_strength=0.3)
    found = pipelines("heads")(varied)
    np.testing.assert_array_equal(found.noise[1:], found.noise[:2])
    np.testing.assert_allclose(found.noise[0], arc(normal(SEED), normal(5), 0.3), 1e-5, 1e-6)
    alone = pipelines("heads")(found.request_of(2))
    np.testing.assert_array_equal(alone.noise[0], found.noise[2])


def test_frames_under_a_controlnet_are_each_what_is_drawn_alone(
    pipelines: Pipelines, checkpoint: Bundles, tmp_path: Path
) -> None:
    control = Control(saved_controlnet(checkpoint("heads"), tmp_path / "net"), hint_picture())
    check_alone(pipelines("heads"), controls=[control])


def test_frames_of_instruct_pix2pix_are_each_what_is_drawn_alone(pipelines: Pipelines) -> None:
    check_alone(pipelines("heads8"), task=InstructPix2Pix(hint_picture()))


def check_alone(pipeline: Pipeline, **fields: Any) -> None:
    request = asked(
        "a red circle", num_images=3, interpolation=Interpolation("a blue star"), **fields
    )
    frames = pipeline(request)
    assert Difference.between(frames.latents[2], frames.latents[0]).relative > 100 * ROUNDING
    for image, prompt in ((0, "a red circle"), (2, "a blue star")):
        plain = request.with_values(prompt=prompt, num_images=1, interpolation=None)
        alone = pipeline(plain).latents[0]
        assert Difference.between(frames.latents[image], alone).relative < ROUNDING


Changes = st.dictionaries(st.integers(1, 9), st.floats(-2, 2, width=32), max_size=4)


@given(first=Changes, second=Changes, share=st.floats(0, 1))
def test_prompts_that_change_are_mixed_at_every_step(
    first: dict[int, float], second: dict[int, float], share: float
) -> None:
    same = np.float32(3.0)

    def condition(values: dict[int, float]) -> Condition:
        inputs = [(step, {"x": np.float32(v), "same": same}) for step, v in sorted(values.items())]
        return Condition({"x": np.float32(0.25), "same": same}, 1.0, tuple(inputs))  # pyright: ignore[reportArgumentType]

    ends = condition(first), condition(second)
    mixed = ends[0].towards(ends[1], share)
    for step in range(10):
        low, high = (torch.tensor(float(each.at(step)["x"])) for each in ends)
        expected = torch.lerp(low, high, share)
        np.testing.assert_allclose(mixed.at(step)["x"], expected, rtol=0, atol=1e-6)
        assert mixed.at(step)["same"] is same
    assert mixed.at(9) is mixed.at(10)


@given(
    st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=9)),
    st.integers(0, 2**63 - 1),
    st.floats(0, 1),
    st.integers(1, 9),
)
def test_every_frame_is_a_request_that_json_brings_back(
    prompt: str | None, seed: int, end: float, count: int
) -> None:
    between = Interpolation(prompt, seed, 0.25, end)
    request = Request("a", seed=5, syntax="plain", num_images=count, interpolation=between)
    for image in range(count):
        alone = request.of_image(image)
        assert Request.from_json(alone.to_json()) == alone
        assert alone.seed_of(0) == 5
        assert alone.variation_of(0) == request.variation_of(image)
        assert alone.interpolation is not None
        assert alone.interpolation.share_of(0, 1) == between.share_of(image, count)
    assert between.share_of(0, count) == 0.25
    assert count == 1 or between.share_of(count - 1, count) == end
    assert Request.from_json(request.to_json()) == request


@pytest.mark.parametrize(
    ("interpolation", "fields", "message"),
    [
        (lambda: "a star", {}, "interpolation: expected an Interpolation, such as"),
        (lambda: Interpolation(), {}, "interpolation: expected a prompt, a seed or both"),
        (lambda: Interpolation(3), {}, "interpolation prompt: expected a string"),  # pyright: ignore[reportArgumentType]
        (lambda: Interpolation(seed=-1), {}, "interpolation seed: expected an integer from 0"),
        (lambda: Interpolation("a", start=1.5), {}, "interpolation start: expected a number"),
        (lambda: Interpolation("a", end=-0.5), {}, "interpolation end: expected a number"),
        (lambda: Interpolation("a AND b"), {}, "interpolation: expected one prompt without AND"),
        (lambda: Interpolation("a"), {"composed": [("c", 1.0)]}, "interpolation: expected one"),
        (lambda: Interpolation(seed=3), {"subseed_strength": 0.1}, "interpolation: expected no"),
        (lambda: Interpolation("a" * (1 << 20)), {}, "request: expected at most"),
    ],
)  # fmt: skip
def test_an_interpolation_that_cannot_be_used_is_named(
    interpolation: Callable[[], Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        Request("b", interpolation=interpolation(), **fields)


def test_prompts_of_a_plain_request_may_have_the_word_and(pipelines: Pipelines) -> None:
    request = Request(
        "a", syntax="plain", interpolation=Interpolation("a AND b", start=0.5), seed=1,
        sampling=Sampling("euler", steps=1),
    )  # fmt: skip
    assert len(pipelines("heads")(request).images) == 1


def test_a_cut_end_prompt_is_noted(pipelines: Pipelines) -> None:
    request = asked("a", syntax="plain", interpolation=Interpolation("blue " * 80))
    (note,) = pipelines("heads")(request).notes
    assert note.startswith("interpolation: cut after 75 tokens")


def test_the_command_draws_frames_and_each_of_them_again(
    run: Run, bundle: Bundles, tmp_path: Path
) -> None:
    options = ["--steps", 2, "--seed", 3, "--engine", "onnxruntime"]
    command = ["generate", bundle("heads"), "a circle", *options, "-o", tmp_path / "a.png"]
    done = run(*command, "--to-prompt", "a star", "--to-seed", 9, "--num-images", 3)
    assert done.status == 0, done.err
    pixels = [(tmp_path / f"a-{i}.png").read_bytes() for i in range(3)]
    recorded = recorded_request(tmp_path / "a-1.png")
    assert recorded["interpolation"] == {"prompt": "a star", "seed": 9, "start": 0.5, "end": 0.5}
    again = ["generate", bundle("heads"), "--engine", "onnxruntime", "-o", tmp_path / "b.png"]
    assert run(*again, "--from", tmp_path / "a-1.png").status == 0
    assert Difference.between(read(tmp_path / "b.png"), read(tmp_path / "a-1.png")).max_abs <= 1
    done = run(*again, "--from", tmp_path / "a-1.png", "--to-seed", 5)
    assert done.status == 0, done.err
    assert len(list(tmp_path.glob("b-?.png"))) == 8
    stated = recorded_request(tmp_path / "b-7.png")["interpolation"]
    assert stated == {"prompt": None, "seed": 5, "start": 1.0, "end": 1.0}
    assert len(set(pixels)) == 3


def read(path: Path) -> NDArray[np.float64]:
    with Image.open(path) as picture:
        return np.asarray(picture, np.float64)
