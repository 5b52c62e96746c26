"""Guidance: the sum, its rescaling, and where no negative prompt is evaluated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.guiders.classifier_free_guidance import ClassifierFreeGuidance
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.bundle.spec import TensorSpec
from latentrt.engines.engine import Arrays
from latentrt.engines.function import FunctionEngine
from latentrt.runtime import Guidance, Request, Sampling
from latentrt.runtime.denoiser import Condition, GuidedDenoiser
from latentrt.runtime.guidance import MAX_SCALE, guide
from latentrt.runtime.plan import Entry, Latent, Leg, PictureNoise, Plan
from latentrt.runtime.rows import Evaluation, Model
from latentrt.runtime.run import DirectRun
from latentrt.runtime.schedules import build_schedule
from latentrt.runtime.vae import Decoded

SHAPE = (4, 6, 5)
ROUNDING = 1e-6
"""Relative: some five operations of single precision, each to 6e-8."""


def outputs(count: int) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(3)
    return [rng.standard_normal(SHAPE, dtype=np.float32) for _ in range(count)]


@pytest.mark.parametrize("rescale", [0.0, 0.7, 1.0])
def test_one_prompt_is_guided_as_in_diffusers(rescale: float) -> None:
    negative, positive = outputs(2)
    found = guide(negative, [positive], [1.0], scale=7.5, rescale=rescale)
    uncond, cond = (torch.from_numpy(a)[None] for a in (negative, positive))
    expected = rescale_noise_cfg(uncond + 7.5 * (cond - uncond), cond, rescale)[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())
    assert found.dtype == np.float32


@pytest.mark.parametrize("rescale", [0.0, 0.5])
def test_several_prompts_pull_with_their_weights(rescale: float) -> None:
    # arXiv:2206.01714, eq. 11, in double precision.
    negative, *prompts = (a.astype(np.float64) for a in outputs(4))
    weights = (1.0, 0.4, -0.8)
    pull = sum(w * (p - negative) for w, p in zip(weights, prompts, strict=True))
    expected, plain = negative + 5.0 * pull, negative + pull
    expected *= 1 - rescale + rescale * plain.std(ddof=1) / expected.std(ddof=1)
    first, *others = outputs(4)
    found = guide(first, others, weights, scale=5.0, rescale=rescale)
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING * np.abs(expected).max())


@pytest.mark.parametrize(
    ("guidance", "expected"),
    [
        (Guidance(7.5), {0.1: 7.5, 1.0: 7.5, 10.0: 7.5}),
        (Guidance(0.5), {0.1: 1.0, 10.0: 1.0}),
        # arXiv:2404.07724, section 3: above the low end, up to and with the high end.
        (Guidance(5.0, interval=(1.0, 10.0)), {0.1: 1.0, 1.0: 1.0, 1.1: 5.0, 10.0: 5.0, 11: 1.0}),
        (Guidance(lambda sigma: 2.0 * sigma), {0.1: 1.0, 1.0: 2.0, 10.0: 20.0}),
        (Guidance(lambda _: 3.0, interval=(0.0, 1.0)), {0.1: 3.0, 10.0: 1.0}),
    ],
)
def test_the_scale_at_a_noise_level(guidance: Guidance, expected: dict[float, float]) -> None:
    assert {sigma: guidance.scale_at(sigma) for sigma in expected} == expected


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e5])
@pytest.mark.parametrize("rescale", [0.3, 1.0])
def test_a_constant_result_is_not_rescaled(value: float, rescale: float) -> None:
    # Its standard deviation is 0 but for rounding, of which diffusers makes NaN or noise.
    constant = np.full(SHAPE, value, np.float32)
    found = guide(constant, [constant], [1.0], scale=7.5, rescale=rescale)
    np.testing.assert_allclose(found, constant, rtol=1e-5)
    # x + 2 * (x / 2 - x) is 0 everywhere.
    _, positive = outputs(2)
    zero = guide(positive, [0.5 * positive], [1.0], scale=2.0, rescale=rescale)
    assert not zero.any()


def test_a_result_that_hardly_varies_is_rescaled_as_in_diffusers() -> None:
    negative, positive = (1.0 + 1e-3 * each for each in outputs(2))
    found = guide(negative, [positive], [1.0], scale=7.5, rescale=0.5)
    uncond, cond = (torch.from_numpy(a)[None] for a in (negative, positive))
    expected = rescale_noise_cfg(uncond + 7.5 * (cond - uncond), cond, 0.5)[0].numpy()
    # The numbers are a thousand times as large as their differences, which are what is rescaled.
    np.testing.assert_allclose(found, expected, rtol=1e3 * ROUNDING)


@pytest.mark.parametrize("scale", [1e308, 1e39, 10_001.0, -1.0, -1e308, math.nan, math.inf])
def test_a_scale_that_overflows_is_refused_before_anything_is_evaluated(scale: float) -> None:
    for make in (Guidance, lambda s: Request("a", guidance=s)):
        with pytest.raises(InputError, match=r"^guidance( scale)?: expected "):
            make(scale)
    with pytest.raises(InputError, match=r"^guidance rescale: expected a number from 0 to 1"):
        Guidance(7.5, rescale=scale)
    with pytest.raises(InputError, match=r"^composed: expected pairs of a prompt and a finite "):
        Request("a", composed=[("b", scale if abs(scale) > 1.0 else 1e308)])


def test_the_largest_scale_and_weights_overflow_nothing() -> None:
    negative, *positive = (60_000.0 * each for each in outputs(3))
    for rescale in (0.0, 0.7):
        found = guide(negative, positive, [MAX_SCALE, -MAX_SCALE], scale=MAX_SCALE, rescale=rescale)
        assert np.isfinite(found).all()


@pytest.mark.parametrize("scale", [-1.0, 1e308, math.nan, math.inf])
def test_a_function_that_gives_no_scale_is_an_error(scale: float) -> None:
    with pytest.raises(InputError, match="guidance scale"):
        Guidance(lambda _: scale).scale_at(1.0)


@pytest.mark.parametrize("interval", [(1.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (1.0,)])
def test_an_impossible_interval_is_refused(interval: Any) -> None:
    with pytest.raises(InputError, match="guidance interval"):
        Guidance(5.0, interval=interval)


CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def rows_and_latent(request: Request) -> tuple[list[int], NDArray[np.float32]]:
    """How many rows each evaluation of a run had, and what the run ended in."""
    rows: list[int] = []

    def evaluate(inputs: Arrays) -> dict[str, NDArray[Any]]:
        rows.append(len(inputs["sample"]))
        shift = inputs["encoder_hidden_states"][:, :1, :1, None]
        return {"model_output": np.tanh(inputs["sample"] + shift)}

    inputs = (
        TensorSpec("sample", ("batch", *SHAPE)),
        TensorSpec("timestep", ("batch",)),
        TensorSpec("encoder_hidden_states", ("batch", 3, 2)),
    )

    def engine(sizes: Mapping[str, int]) -> FunctionEngine:
        return FunctionEngine("unet", tuple(each.fixed(sizes) for each in inputs), (), evaluate)

    def decode(_: NDArray[np.float32]) -> Evaluation[Decoded]:
        return Decoded(np.zeros((3, 8, 8), np.float32))
        yield []

    conditions = [
        Condition({"encoder_hidden_states": np.full((3, 2), 0.3 * i, np.float32)}, weight)
        for i, weight in enumerate((1.0, 1.0, *(weight for _, weight in request.composed)))
    ]
    schedule = build_schedule(CONFIG, steps=request.sampling.steps, sampler="euler")
    negative = conditions[0] if request.guidance.active else None
    unet = Model("unet", inputs, engine)
    denoiser = GuidedDenoiser(unet, tuple(conditions[1:]), negative, request.guidance)

    def enter(_: Latent | None, noise: PictureNoise) -> Entry:
        return Entry(noise.begin(SHAPE) * np.float32(schedule.init_scale))

    counts = {need.rows for need in denoiser.needs(schedule, SHAPE[1:])}
    plan = Plan(
        request=request,
        legs=(Leg(schedule, denoiser, enter, SHAPE),),
        decode=decode,
        model="",
        batches={"unet": tuple(sorted(counts)), "vae": (1,)},
    )
    latents = DirectRun(plan).result().latents
    assert counts == set(rows)
    return rows, latents


def drawing(guidance: Guidance | float, **values: Any) -> Request:
    return Request("a", seed=1, sampling=Sampling("euler", steps=8), guidance=guidance, **values)


def test_guidance_is_skipped_outside_its_interval() -> None:
    rows, _ = rows_and_latent(drawing(Guidance(5.0, interval=(0.5, 5.0))))
    levels = [e.sigma for e in build_schedule(CONFIG, steps=8, sampler="euler").evaluations]
    assert rows == [2 if 0.5 < sigma <= 5.0 else 1 for sigma in levels]
    assert set(rows) == {1, 2}


@given(st.integers(1, 30), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_guidance_starts_and_stops_at_the_steps_of_diffusers(
    steps: int, start: float, stop: float
) -> None:
    assume(start < stop)
    guider: Any = ClassifierFreeGuidance(5.0, start=start, stop=stop)
    expected: list[bool] = []
    for step in range(steps):
        guider.set_state(step, steps, torch.tensor(0))
        expected.append(guider.num_conditions == 2)
    guidance = Guidance(5.0, start=start, stop=stop)
    assert [guidance.guides(step, steps) for step in range(steps)] == expected


def test_steps_before_the_start_and_from_the_stop_on_have_one_row() -> None:
    rows, _ = rows_and_latent(drawing(Guidance(5.0, start=0.25, stop=0.75)))
    assert rows == [1, 1, 2, 2, 2, 2, 1, 1]


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"start": -0.1}, "start"),
        ({"start": math.nan}, "start"),
        ({"stop": 1.1}, "stop"),
        ({"stop": "1"}, "stop"),
        ({"start": 0.5, "stop": 0.5}, "stop"),
        ({"start": 1.0}, "stop"),
    ],
)
def test_an_impossible_start_or_stop_is_refused(values: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=rf"^guidance {field}: expected a number"):
        Guidance(5.0, **values)


def test_a_scale_of_one_or_less_evaluates_the_prompt_alone() -> None:
    plain, latent = rows_and_latent(drawing(1.0))
    assert plain == [1] * 8
    assert np.array_equal(rows_and_latent(drawing(0.0))[1], latent)
    # A function may ask for it too, or an interval that no level lies in.
    rows, same = rows_and_latent(drawing(Guidance(lambda _: 1.0)))
    assert rows == plain
    assert np.array_equal(same, latent)
    rows, same = rows_and_latent(drawing(Guidance(9.0, interval=(100.0, 200.0))))
    assert rows == plain
    assert np.array_equal(same, latent)


def test_a_constant_function_guides_as_its_number_does() -> None:
    _, number = rows_and_latent(drawing(4.0))
    _, function = rows_and_latent(drawing(Guidance(lambda _: 4.0)))
    assert np.array_equal(number, function)


def test_several_prompts_keep_the_negative_row_at_every_level() -> None:
    request = drawing(Guidance(5.0, interval=(0.5, 5.0)), composed=[("b", 0.5)])
    rows, _ = rows_and_latent(request)
    assert rows == [3] * 8


def test_a_prompt_of_weight_zero_changes_nothing() -> None:
    _, one = rows_and_latent(drawing(5.0))
    _, two = rows_and_latent(drawing(5.0, composed=[("b", 0.0)]))
    np.testing.assert_allclose(two, one, rtol=0, atol=ROUNDING * 10)


def test_composed_prompts_need_guidance() -> None:
    with pytest.raises(InputError, match="guidance scale: expected above 1 with several prompts"):
        Request("a", composed=[("b", 1.0)], guidance=1.0)


def test_a_function_guides_every_level_by_its_own_scale() -> None:
    # Below 1 the prompt is alone, so the number of rows shows which level was asked about.
    rows, latent = rows_and_latent(drawing(Guidance(lambda sigma: 4.0 if sigma > 2.0 else 0.0)))
    levels = [e.sigma for e in build_schedule(CONFIG, steps=8, sampler="euler").evaluations]
    assert rows == [2 if sigma > 2.0 else 1 for sigma in levels]
    split = next(sigma for sigma in levels if sigma <= 2.0)
    interval = Guidance(4.0, interval=(split, 1000.0))
    assert np.array_equal(latent, rows_and_latent(drawing(interval))[1])


def test_numbers_of_numpy_leave_latents_in_single_precision() -> None:
    guidance = Guidance(np.float64(4.0), rescale=np.float64(0.5))
    _, latent = rows_and_latent(drawing(guidance))
    assert latent.dtype == np.float32
    assert np.array_equal(latent, rows_and_latent(drawing(Guidance(4.0, rescale=0.5)))[1])
