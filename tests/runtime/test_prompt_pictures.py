"""Pictures of weighted, long, changing and several prompts, beside diffusers' own pipelines.

diffusers is given the prompt states of PyTorch's encoders, which another file describes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.runtime.test_prompt_states import Piece, Reference

from latentrt.bundle.golden import Difference, psnr
from latentrt.runtime import Batcher, Guidance, Pipeline, Request, Result, Sampling, Size

Bundles = Callable[[str], Path]
Pipelines = Callable[[str], Pipeline]
Chunks = Sequence[Sequence[Piece]]

SIZE, STEPS, SEED, SCALE = Size(64, 64), 8, 7, 5.0
# As in the judging of whole runs: fp32 rounding, times the guidance, over eight steps.
LATENT, PICTURE = 1e-3, 55.0
# The constructor says so when it forces a value.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


class Theirs:
    """diffusers' pipeline of a checkpoint, given prompt states."""

    def __init__(self, checkpoint: Path, scheduler: str = "EulerDiscreteScheduler") -> None:
        kind: Any = getattr(diffusers, scheduler)
        self.pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(
            checkpoint,
            scheduler=kind.from_pretrained(checkpoint, subfolder="scheduler"),
            low_cpu_mem_usage=False,
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self.first = Reference.of(checkpoint)
        self.second = None
        if hasattr(self.pipeline, "text_encoder_2"):
            self.second = Reference.of(checkpoint, "_2")

    def states(self, chunks: Chunks) -> dict[str, torch.Tensor]:
        """A prompt's states, and the pooled ones of SDXL, with a batch axis."""
        if self.second is None:
            return {"prompt_embeds": torch.from_numpy(self.first.long(chunks))[None]}
        both = [torch.from_numpy(each.long(chunks, -2)) for each in (self.first, self.second)]
        pooled = self.second.states(chunks[0], None)[1].text_embeds
        return {"prompt_embeds": torch.cat(both, -1)[None], "pooled_prompt_embeds": pooled}

    def draw(self, prompt: Chunks, negative: Chunks, **options: Any) -> NDArray[np.float32]:
        """The final latent [c, h, w]."""
        return self.draw_states(self.states(prompt), self.states(negative), **options)

    def draw_states(
        self, prompt: dict[str, torch.Tensor], negative: dict[str, torch.Tensor], **options: Any
    ) -> NDArray[np.float32]:
        """The final latent [c, h, w] of what `states` gives."""
        return (
            self.pipeline(
                **prompt,
                **{f"negative_{name}": array for name, array in negative.items()},
                width=SIZE.width,
                height=SIZE.height,
                num_inference_steps=STEPS,
                guidance_scale=SCALE,
                generator=torch.Generator().manual_seed(SEED),
                output_type="latent",
                **options,
            )
            .images[0]
            .numpy()
        )

    def picture(self, latent: NDArray[np.float32]) -> NDArray[np.float32]:
        """A latent decoded: [H, W, 3] in [0, 1], in 256 levels."""
        vae = self.pipeline.vae
        with torch.inference_mode():
            pixels = vae.decode(torch.from_numpy(latent)[None] / vae.config.scaling_factor).sample
        scaled = (pixels[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).numpy()
        return np.round(scaled * 255) / 255


def asked(prompt: str, sampler: str = "euler", **fields: Any) -> Request:
    return Request(
        prompt,
        size=SIZE,
        seed=SEED,
        sampling=Sampling(sampler, steps=STEPS),
        **{"guidance": SCALE, **fields},
    )


def check(result: Result, theirs: Theirs, expected: NDArray[np.float32]) -> None:
    assert Difference.between(result.latents[0], expected).relative < LATENT
    ours = np.asarray(result.images[0]) / 255
    assert psnr(ours, theirs.picture(expected), peak=1.0) >= PICTURE


@pytest.mark.parametrize("configuration", ["heads", "lists", "xl"])
def test_a_long_weighted_prompt_draws_what_diffusers_draws_of_its_states(
    pipelines: Pipelines, checkpoint: Bundles, configuration: str
) -> None:
    prompt = "a (red:1.5) circle, " + "blue " * 80 + "[star]"
    negative = "(green:1.3) " * 40
    theirs = Theirs(checkpoint(configuration))
    chunks: list[Chunks] = [
        [
            [("a ", 1.0), ("red", 1.5), (" circle, " + "blue " * 71, 1.0)],
            [("blue " * 9, 1.0), ("star", 1 / 1.1)],
        ],
        [[("green", 1.3)] * 40, []],
    ]
    result = pipelines(configuration)(asked(prompt, negative_prompt=negative))
    check(result, theirs, theirs.draw(*chunks))
    plain = pipelines(configuration)(asked(prompt, negative_prompt=negative, syntax="plain"))
    assert Difference.between(plain.latents, result.latents).relative > 10 * LATENT
    assert result.notes == ()


def changing(
    texts: Callable[[int], Chunks], theirs: Theirs, negative: Chunks, steps: Sequence[int]
) -> Callable[..., dict[str, Any]]:
    """A callback of diffusers that says what each next evaluation, of a step, is told."""
    names = {"prompt_embeds": "prompt_embeds", "add_text_embeds": "pooled_prompt_embeds"}

    def after(_pipeline: Any, index: int, _time: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        if index + 1 < len(steps):
            both = [theirs.states(each) for each in (negative, texts(steps[index + 1]))]
            for name in inputs:
                inputs[name] = torch.cat([each[names[name]] for each in both])
        return inputs

    return after


@pytest.mark.parametrize(
    ("configuration", "sampler", "scheduler"),
    [
        ("heads", "euler", "EulerDiscreteScheduler"),
        ("heads", "heun", "HeunDiscreteScheduler"),
        ("xl", "dpmpp_2m", "DPMSolverMultistepScheduler"),
    ],
)
def test_a_changing_prompt_draws_what_diffusers_draws_with_states_that_change(
    pipelines: Pipelines, checkpoint: Bundles, configuration: str, sampler: str, scheduler: str
) -> None:
    theirs = Theirs(checkpoint(configuration), scheduler)

    def texts(step: int) -> Chunks:
        colour = ("red", 1.0) if step < 4 else ("blue", 1.3)
        return [[("a ", 1.0), colour, (" circle" if step % 2 == 0 else " star", 1.0)]]

    # A step of Heun has two evaluations, but the last.
    steps = [i // 2 for i in range(2 * STEPS - 1)] if sampler == "heun" else list(range(STEPS))
    negative = [[("green", 1.0)]]
    names = ["prompt_embeds", "add_text_embeds"][: 2 if configuration == "xl" else 1]
    expected = theirs.draw(
        texts(0),
        negative,
        callback_on_step_end=changing(texts, theirs, negative, steps),
        callback_on_step_end_tensor_inputs=names,
    )
    prompt = "a [red:(blue:1.3):0.5] [circle|star]"
    request = asked(prompt, sampler, negative_prompt="green")
    check(pipelines(configuration)(request), theirs, expected)


def test_prompts_joined_by_and_pull_by_their_weights(
    pipelines: Pipelines, checkpoint: Bundles
) -> None:
    theirs = Theirs(checkpoint("heads"))
    texts = [([[("a red circle", 1.0)]], 0.7), ([[("star", 1.4)]], 0.4)]
    states = [theirs.states(chunks)["prompt_embeds"] for chunks, _ in texts]
    states = [theirs.states([[("green", 1.0)]])["prompt_embeds"], *states]
    scheduler, unet = theirs.pipeline.scheduler, theirs.pipeline.unet
    scheduler.set_timesteps(STEPS)
    generator = torch.Generator().manual_seed(SEED)
    latent = torch.randn((1, 4, 8, 8), generator=generator) * scheduler.init_noise_sigma
    with torch.inference_mode():
        for time in scheduler.timesteps:
            scaled = scheduler.scale_model_input(latent, time)
            nothing, *found = (unet(scaled, time, each).sample for each in states)
            pairs = zip(found, texts, strict=True)
            pull = sum((each - nothing) * weight for each, (_, weight) in pairs)
            latent = scheduler.step(nothing + SCALE * pull, time, latent).prev_sample
    prompt = "a red circle :0.7 AND (star:1.4) :0.4"
    result = pipelines("heads")(asked(prompt, negative_prompt="green"))
    check(result, theirs, latent[0].numpy())


def test_composed_prompts_are_those_of_and(pipelines: Pipelines) -> None:
    joined = pipelines("heads")(asked("a red circle AND star:0.5"))
    composed = pipelines("heads")(asked("a red circle", composed=[("star", 0.5)]))
    np.testing.assert_array_equal(joined.latents, composed.latents)


def test_a_batcher_gives_prompts_of_all_kinds_what_each_gives_alone(pipelines: Pipelines) -> None:
    requests = [
        asked("a red circle", negative_prompt=""),
        asked("a (red:1.4) circle"),
        asked("blue " * 100),
        asked("a [red:blue:3] [circle|star]", "heun"),
        asked("a [" + "blue " * 80 + ":red:3] circle"),
        asked("red AND star :0.5"),
        asked("a red circle", guidance=Guidance(1.0)),
        asked("(a) [red]", syntax="plain"),
    ]
    with Batcher(pipelines("heads"), batch_sizes=(4,)) as batcher:
        alone = [batcher.submit(each).result() for each in requests]
        runs = [batcher.submit(each) for each in requests]
        together = [run.result() for run in runs]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.latents, other.latents)
    assert len({result.latents.tobytes() for result in alone}) == len(requests)


def test_a_result_is_drawn_again_from_its_json(pipelines: Pipelines) -> None:
    result = pipelines("heads")(asked("a [red:(blue:1.3):0.5] circle AND star:0.3"))
    again = pipelines("heads")(Request.from_json(result.request.to_json()))
    np.testing.assert_array_equal(result.latents, again.latents)
    older = {**result.request.to_json(), "schema": 3}
    del older["syntax"]
    drawn = pipelines("heads")(Request.from_json(older))
    assert drawn.request.syntax == "plain"
    assert not np.array_equal(result.latents, drawn.latents)
