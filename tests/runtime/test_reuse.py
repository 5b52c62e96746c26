"""Steps answered from memory: which evaluations are made, and what the others are answered with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.runtime.toy_model import CONFIG, ToyPipeline, equal, request

from latentrt.bundle.errors import InputError
from latentrt.runtime import Batcher, Request, Result, Reuse
from latentrt.runtime.prediction import PREDICTION_TYPES, denoised, model_output
from latentrt.runtime.reusing_denoiser import ReusingDenoiser
from latentrt.runtime.rows import Arrays, Evaluation, Need
from latentrt.runtime.run import DirectRun
from latentrt.runtime.samplers.denoise import Denoise
from latentrt.runtime.schedules import CATALOGUE, build_schedule
from latentrt.runtime.schedules.schedule import Position, Schedule

ALWAYS = Reuse(threshold=1e9, warm_up=2, last=1, max_consecutive=1000)
"""Everything that may be answered is."""
ROUNDING = 1e-5
"""Relative: an estimate goes through a model output and back in float32."""


class Recorded:
    """An inner denoiser: the output is a function of the latent; every evaluation is noted."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(
        self, asked: Denoise, at: Position, channels: NDArray[np.float32] | None = None
    ) -> Evaluation[NDArray[np.float32]]:
        self.made.append(at.evaluation)
        return np.tanh(asked.latent).astype(np.float32)
        yield []

    def of(self, image: int) -> Recorded:
        del image
        return self

    def needs(self, schedule: Schedule, shape: tuple[int, int]) -> frozenset[Need]:
        del schedule, shape
        return frozenset()


def answer(evaluation: Evaluation[NDArray[np.float32]]) -> NDArray[np.float32]:
    with pytest.raises(StopIteration) as finished:
        next(evaluation)
    return finished.value.value


def drawn(asked: Request, pipeline: ToyPipeline | None = None) -> Result:
    return DirectRun((pipeline or ToyPipeline()).plan(asked, batches=(2,))).result()


def expected_evaluations(
    latents: Sequence[NDArray[np.float32]], sigmas: Sequence[float], reuse: Reuse
) -> list[int]:
    """The rule in double precision, as TeaCache writes it."""
    scaled = [x.astype(float) / math.hypot(s, 1) for x, s in zip(latents, sigmas, strict=True)]
    found, total, answered = [0], 0.0, 0
    for i in range(1, len(scaled)):
        total += np.abs(scaled[i] - scaled[i - 1]).sum() / np.abs(scaled[i - 1]).sum()
        due = i < reuse.warm_up or i >= len(scaled) - reuse.last or total >= reuse.threshold
        if due or answered == reuse.max_consecutive:
            found.append(i)
            total, answered = 0.0, 0
        else:
            answered += 1
    return found


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.0, 3.0),
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(1, 4),
    st.sampled_from([0.001, 0.1, 1.0]),
)
def test_evaluations_are_made_where_changes_add_up_to_the_threshold(
    seed: int, threshold: float, warm_up: int, last: int, most: int, change: float
) -> None:
    rng = np.random.default_rng(seed)
    spread = rng.uniform(0.05, 15, 12) if change == 1 else 5 + rng.uniform(0, change, 12)
    sigmas = np.sort(spread)[::-1].tolist()
    first = rng.normal(size=(4, 2, 3))
    latents = [(first + change * rng.normal(size=first.shape)).astype(np.float32) for _ in sigmas]
    reuse, inner = Reuse(threshold, warm_up, last, most), Recorded()
    denoiser = ReusingDenoiser(inner, reuse, "epsilon").of(0)
    for i, (latent, sigma) in enumerate(zip(latents, sigmas, strict=True)):
        answer(denoiser(Denoise(latent, sigma, 0.0), Position(i, 12, i, 12)))
    assert inner.made == expected_evaluations(latents, sigmas, reuse)


@pytest.mark.parametrize("kind", [*PREDICTION_TYPES, "edm"])
def test_an_answer_stands_for_the_last_estimate(kind: Any) -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.normal(size=(4, 3, 2)).astype(np.float32) for _ in range(2))
    denoiser = ReusingDenoiser(Recorded(), Reuse(1e9, 1, 0), kind).of(0)
    output = answer(denoiser(Denoise(first, 2.0, 9.0), Position(0, 3, 0, 3)))
    again = answer(denoiser(Denoise(second, 1.3, 5.0), Position(1, 3, 1, 3)))
    expected = denoised(first, output, 2.0, kind)
    np.testing.assert_allclose(denoised(second, again, 1.3, kind), expected, rtol=0, atol=ROUNDING)


@given(st.sampled_from(PREDICTION_TYPES), st.floats(0.01, 100), st.integers(0, 2**32 - 1))
def test_a_model_output_is_the_inverse_of_what_diffusers_makes_of_it(
    kind: Any, sigma: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    latent, estimate = (rng.normal(size=(2, 3)).astype(np.float32) for _ in range(2))
    scheduler: Any = diffusers.EulerDiscreteScheduler(prediction_type=kind)
    scheduler.set_timesteps(1)
    scheduler.sigmas = torch.tensor([sigma, 0.0])
    scheduler.is_scale_input_called = True
    output = model_output(latent, estimate, sigma, kind)
    if kind == "sample":  # which the scheduler refuses
        assert output is estimate
        return
    stepped = scheduler.step(
        torch.from_numpy(output), scheduler.timesteps[0], torch.from_numpy(latent)
    )
    found = stepped.pred_original_sample.numpy()
    # The latent, times sigma's share, is taken away and comes back.
    np.testing.assert_allclose(found, estimate, rtol=0, atol=3e-6 * (1 + sigma))


def test_an_unknown_prediction_type_is_refused() -> None:
    wrong: Any = "score"
    with pytest.raises(InputError, match=r"^prediction_type"):
        model_output(np.zeros(1, np.float32), np.zeros(1, np.float32), 1.0, wrong)


def test_answered_steps_of_euler_are_one_long_step() -> None:
    """With one estimate, Euler's steps lie on one line: diffusers takes it in one go."""
    result = drawn(request(3, steps=6, reuse=ALWAYS, guidance=1.0))
    schedule = build_schedule(CONFIG, steps=6, sampler="euler")
    levels = [e.sigma for e in schedule.evaluations]
    scheduler: Any = diffusers.EulerDiscreteScheduler(**CONFIG)
    scheduler.set_timesteps(6)
    kept = [0, 1, 5]
    scheduler.sigmas = torch.tensor([*(levels[i] for i in kept), 0.0])
    scheduler.timesteps = torch.tensor([schedule.evaluations[i].timestep for i in kept])
    latent = torch.from_numpy(result.noise) * schedule.init_scale
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latent, timestep)
        rows: Arrays = {
            "sample": scaled.numpy(),
            "timestep": np.array([timestep], np.float32),
            "encoder_hidden_states": np.full((1, 3, 2), 3, np.float32),
        }
        output = torch.from_numpy(ToyPipeline().evaluate(rows)["model_output"])
        latent = scheduler.step(output, timestep, latent).prev_sample
    error = np.linalg.norm(result.latents - latent.numpy()) / np.linalg.norm(latent.numpy())
    assert error < ROUNDING


EVERY = [name for name in CATALOGUE if not name.startswith("edm_")]


@pytest.mark.parametrize("sampler", EVERY)
def test_at_threshold_0_a_picture_is_the_full_runs_bit_for_bit(sampler: str) -> None:
    full = drawn(request(5, steps=7, sampler=sampler))
    assert equal(full, drawn(request(5, steps=7, sampler=sampler, reuse=Reuse(threshold=0))))


@pytest.mark.parametrize("sampler", EVERY)
def test_the_first_and_last_steps_are_always_evaluated(sampler: str) -> None:
    pipeline = ToyPipeline()
    plan = pipeline.plan(request(5, steps=9, sampler=sampler, reuse=ALWAYS), batches=(2,))
    positions = plan.schedule.positions
    DirectRun(plan).result()
    steps = plan.schedule.steps
    due = [p for p in positions if p.step < ALWAYS.warm_up or p.step >= steps - ALWAYS.last]
    assert len(pipeline.calls) == len(due) < len(positions)


@given(st.integers(1, 12), st.integers(0, 12), st.integers(1, 12))
def test_a_run_of_any_length_is_drawn(warm_up: int, last: int, steps: int) -> None:
    pipeline = ToyPipeline()
    asked = request(5, steps=steps, sampler="euler", reuse=Reuse(1e9, warm_up, last, 1000))
    assert np.isfinite(drawn(asked, pipeline).latents).all()
    assert len(pipeline.calls) == min(warm_up + last, steps)


def test_every_step_is_told_also_where_no_model_was_asked() -> None:
    with DirectRun(ToyPipeline().plan(request(5, steps=9, reuse=ALWAYS), batches=(2,))) as run:
        assert [step.index for step in run] == list(range(9))


def test_a_batcher_draws_requests_with_and_without_as_each_alone() -> None:
    reuses = [None, ALWAYS, Reuse(0.2), Reuse(0.5, 1, 0)]
    asked = [
        request(n, steps=8 + n % 3, reuse=reuse, num_images=2)
        for n, reuse in enumerate(itertools.chain(reuses, reuses), 1)
    ]
    alone = [drawn(each) for each in asked]
    with Batcher(ToyPipeline(), batch_sizes=(2,), decode_sizes=(1,)) as batcher:
        runs = [batcher.submit(each) for each in asked]
        together = [run.result() for run in runs]
    assert all(equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"threshold": -0.1}, "reuse threshold"),
        ({"threshold": math.nan}, "reuse threshold"),
        ({"threshold": math.inf}, "reuse threshold"),
        ({"threshold": "0.1"}, "reuse threshold"),
        ({"warm_up": 0}, "reuse warm_up"),
        ({"warm_up": 1.5}, "reuse warm_up"),
        ({"max_consecutive": 0}, "reuse max_consecutive"),
        ({"last": -1}, "reuse last"),
        ({"last": 1001}, "reuse last"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=f"^{field}: expected"):
        Reuse(**values)


@pytest.mark.parametrize("value", [True, 0.2, "fast", {"threshold": 0.2}])
def test_a_request_takes_a_reuse_alone(value: Any) -> None:
    with pytest.raises(InputError, match=r"^reuse: expected a Reuse, such as"):
        Request("a", reuse=value)


@given(st.floats(0, 1e6), st.integers(1, 1000), st.integers(0, 1000), st.integers(1, 1000))
def test_a_request_keeps_its_reuse_as_json(
    threshold: float, warm_up: int, last: int, most: int
) -> None:
    asked = Request("a", reuse=Reuse(threshold, warm_up, last, most))
    assert Request.from_json(asked.to_json()) == asked
    assert asked != Request("a")


def test_an_older_requests_json_has_no_reuse() -> None:
    assert Request.from_json({"prompt": "a", "schema": 4}).reuse is None
    assert Request.from_json({"prompt": "a", "reuse": {}}).reuse == Reuse()
    with pytest.raises(InputError, match=r"^reuse: expected keys among"):
        Request.from_json({"prompt": "a", "reuse": {"limit": 1}})
