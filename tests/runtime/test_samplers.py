"""Samplers, held step by step against the diffusers classes on a fixed nonlinear network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from latentrt.bundle.errors import InputError
from latentrt.runtime.noise import TorchNoise
from latentrt.runtime.prediction import denoised, model_input
from latentrt.runtime.samplers import SAMPLERS, Denoise, Sampler, find_sampler, sample
from latentrt.runtime.schedules import Schedule, build_schedule

Array = NDArray[np.float32]
Config = dict[str, Any]

# diffusers converts tensors in ways that NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

SHAPE = (4, 6, 5)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
MIXING = np.random.default_rng(0).normal(size=(4, 4)) * 0.6

TOLERANCE = 1e-5
"""Relative. Both sides round single precision some ten times a step, each to 6e-8, and PyTorch's
square root is a rounding off on some machines; the network hardly amplifies that. The worst final
latent is 4e-6 off, apart from those that come down from a very high level: see `assert_matches`."""


def network(x: Array, t: float) -> Array:
    """Something nonlinear in x and t, float32 [4, h, w]; the same code for both sides."""
    wide = x.astype(np.float64)
    mixed = np.einsum("oc,chw->ohw", MIXING, wide) + 0.3 * np.roll(wide, 1, axis=-1)
    return (0.9 * np.tanh(mixed + math.cos(t / 300.0)) + 0.2 * wide).astype(np.float32)


def relative(ours: Array, theirs: Array) -> float:
    wide = theirs.astype(np.float64)
    return float(np.linalg.norm(ours.astype(np.float64) - wide) / np.linalg.norm(wide))


def reference(scheduler: Any, noise: Array, steps: int, **step: Any) -> list[Array]:
    """Every input of the model and the final latent, in diffusers, each [rows, c, h, w]."""
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        # Else it looks the first timestep up, takes the second of two that round to the same one,
        # and runs off the end of its list.
        scheduler.set_begin_index(0)
    x = torch.from_numpy(noise) * scheduler.init_noise_sigma
    seen: list[Array] = []
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t).numpy()
        seen.append(scaled)
        out = torch.from_numpy(np.stack([network(row, float(t)) for row in scaled]))
        x = scheduler.step(out, t, x, **step).prev_sample
    return [*seen, x.numpy()]


def evaluate(request: Denoise, schedule: Schedule) -> tuple[Array, Array]:
    """The network's estimate for what a sampler asks, and the input it was given."""
    x = model_input(request.latent, request.sigma)
    out = network(x, request.timestep)
    x0 = denoised(request.latent, out, request.sigma, schedule.prediction_type)
    assert x.dtype == x0.dtype == request.latent.dtype == np.float32
    return x0, x


def answer(run: Sampler, latent: Array, x0: Array) -> tuple[Denoise | None, Array]:
    """What a sampler asks next, or None and its result."""
    try:
        return run.send((latent, x0)), latent
    except StopIteration as stop:
        return None, stop.value


def ours(schedule: Schedule, start: Array, **options: Any) -> list[Array]:
    """The same from a sampler, each [c, h, w]: the plainest of drivers."""
    first: Array = start * schedule.init_scale
    run = sample(first, schedule, **{"noise": TorchNoise(0), **options})
    request: Denoise | None = next(run)
    latent, seen = start, list[Array]()
    while request is not None:
        x0, x = evaluate(request, schedule)
        seen.append(x)
        request, latent = answer(run, request.latent, x0)
    assert latent.dtype == np.float32
    return [*seen, latent * schedule.final_scale]


def assert_matches(sampler: str, config: Config, steps: int) -> None:
    """Hold a sampler against its diffusers class: every input of the model, and the last latent."""
    kind = {"ddim": "DDIM", "euler": "EulerDiscrete", "dpmpp_2m": "DPMSolverMultistep"}[sampler]
    noise = np.random.default_rng(steps).normal(size=SHAPE).astype(np.float32)
    theirs = reference(getattr(diffusers, f"{kind}Scheduler")(**config), noise[None], steps)
    schedule = build_schedule(config, steps=steps, sampler=sampler)
    mine = ours(schedule, noise)
    levels = [(e.sigma, e.sigma_next) for e in schedule.evaluations]
    # Single precision holds x0 + sigma * noise to 2**-23 of sigma. Euler's step from a very high
    # level (4096 at zero SNR) to a low one uncovers that: 1e-4 from 4096 to 5, 3e-5 when measured.
    uncovered = [0.0, *(2.0**-23 * high / math.hypot(1.0, low) for high, low in levels)]
    allowed = np.maximum.accumulate([TOLERANCE, *uncovered])[1:]
    errors = [relative(one, exact[0]) for one, exact in zip(mine, theirs, strict=True)]
    assert np.all(errors <= allowed), errors


SPACINGS = ("leading", "linspace", "trailing")
PREDICTIONS = ("epsilon", "sample", "v_prediction")
SIGMAS: dict[str, Config] = {
    "uniform": {},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
}
SNRS: dict[str, Config] = {"snr": {}, "zero_snr": {"rescale_betas_zero_snr": True}}
STEPS = (1, 5, 11, 20, 50)


def cases(*, respaced: bool) -> list[Any]:
    """Every spacing, prediction type, kind of noise level, terminal SNR and number of steps."""
    kinds = SIGMAS if respaced else {"uniform": SIGMAS["uniform"]}
    found: list[Any] = []
    for spacing, prediction, (kind, sigmas), (snr, zero), steps in itertools.product(
        SPACINGS, PREDICTIONS, kinds.items(), SNRS.items(), STEPS
    ):
        config = {"timestep_spacing": spacing, "prediction_type": prediction, **sigmas, **zero}
        name = f"{spacing}-{prediction}-{kind}-{snr}-{steps}"
        found.append(pytest.param({**BETAS, **config}, steps, id=name))
    return found


@pytest.mark.parametrize(("config", "steps"), cases(respaced=True))
def test_euler_matches_diffusers(config: Config, steps: int) -> None:
    assert_matches("euler", config, steps)


@pytest.mark.parametrize(("config", "steps"), cases(respaced=True))
def test_dpmpp_2m_matches_diffusers(config: Config, steps: int) -> None:
    assert_matches("dpmpp_2m", config, steps)


def has_signal(config: Config, steps: int) -> bool:
    """Whether x0 is to be had from the predicted noise at all: not where there is nothing else."""
    spacing = config["timestep_spacing"]
    starts_at_the_end = spacing == "trailing" or (spacing == "linspace" and steps > 1)
    zero = starts_at_the_end and "rescale_betas_zero_snr" in config
    return not zero or config["prediction_type"] != "epsilon"


@pytest.mark.parametrize(
    ("config", "steps"), [case for case in cases(respaced=False) if has_signal(*case.values)]
)
def test_ddim_matches_diffusers(config: Config, steps: int) -> None:
    assert_matches("ddim", {**config, "clip_sample": False}, steps)


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_ddim_refuses_noise_prediction_where_diffusers_divides_by_zero(spacing: str) -> None:
    config = {**BETAS, **SNRS["zero_snr"], "timestep_spacing": spacing, "clip_sample": False}
    scheduler: Any = diffusers.DDIMScheduler(**config)
    scheduler.set_timesteps(5)
    ones = torch.ones((1, *SHAPE))
    stepped = scheduler.step(0.5 * ones, scheduler.timesteps[0], ones).prev_sample
    assert not stepped.isfinite().any()
    with pytest.raises(InputError, match=r"^prediction_type: expected v_prediction or sample"):
        build_schedule(config, steps=5, sampler="ddim")


CLIPPINGS: dict[str, Config] = {
    "clip": {"clip_sample": True},
    "clip_range": {"clip_sample": True, "clip_sample_range": 0.4},
    "threshold": {"thresholding": True},
    "threshold_wide": {
        "thresholding": True,
        "sample_max_value": 2.5,
        "dynamic_thresholding_ratio": 0.9,
    },
}


@pytest.mark.parametrize("clipping", ["clip", "clip_range"])
def test_ddim_at_zero_snr_predicts_noise_where_clipping_keeps_it_finite(clipping: str) -> None:
    config = {**BETAS, **SNRS["zero_snr"], "timestep_spacing": "trailing", **CLIPPINGS[clipping]}
    assert_matches("ddim", config, 5)


ENDS: dict[str, Config] = {
    "own_level": {"set_alpha_to_one": False},
    "offset": {"set_alpha_to_one": False, "steps_offset": 1},
}


@pytest.mark.parametrize("steps", [1, 7, 20])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("option", [*CLIPPINGS, *ENDS])
def test_ddim_options_match_diffusers(
    option: str, spacing: str, prediction: str, steps: int
) -> None:
    options = {"clip_sample": False, **{**CLIPPINGS, **ENDS}[option]}
    config = {**BETAS, "timestep_spacing": spacing, "prediction_type": prediction, **options}
    assert_matches("ddim", config, steps)


SOLVERS: dict[str, Config] = {
    "heun": {"solver_type": "heun"},
    "first_order": {"solver_order": 1},
    "euler_at_final": {"euler_at_final": True, "final_sigmas_type": "sigma_min"},
    "sigma_min": {"final_sigmas_type": "sigma_min"},
    "sigma_min_high_order": {"final_sigmas_type": "sigma_min", "lower_order_final": False},
    "offset": {"steps_offset": 1},
    "lambda_min": {"lambda_min_clipped": -2.0},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    "deis": {
        "algorithm_type": "deis",
        "solver_type": "logrho",
        "final_sigmas_type": "sigma_min",
    },
    "threshold": {"thresholding": True, "sample_max_value": 1.5},
}


@pytest.mark.parametrize("steps", [1, 2, 14, 15, 20])
@pytest.mark.parametrize("kind", ["uniform", "karras"])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("option", SOLVERS)
def test_dpmpp_2m_options_match_diffusers(option: str, spacing: str, kind: str, steps: int) -> None:
    config = {**BETAS, "timestep_spacing": spacing, **SIGMAS[kind], **SOLVERS[option]}
    assert_matches("dpmpp_2m", config, steps)


def test_dpmpp_2m_survives_a_last_step_of_length_zero() -> None:
    # Karras levels end where sigma_min does. diffusers divides 0 by 0 there, and returns NaN.
    config = {
        **BETAS,
        **SIGMAS["karras"],
        "solver_type": "heun",
        "final_sigmas_type": "sigma_min",
        "lower_order_final": False,
    }
    noise = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    theirs = reference(diffusers.DPMSolverMultistepScheduler(**config), noise[None], 7)
    assert np.isnan(theirs[-1]).all()
    mine = ours(build_schedule(config, steps=7, sampler="dpmpp_2m"), noise)
    assert relative(mine[-2], theirs[-2][0]) < TOLERANCE
    # The step goes nowhere: what leaves it is what entered.
    np.testing.assert_allclose(mine[-1], mine[-2], rtol=1e-6)


EULERS: dict[str, Config] = {
    "sigma_min": {"final_sigmas_type": "sigma_min"},
    "offset": {"steps_offset": 1},
    "range": {"sigma_min": 0.1, "sigma_max": 9.0},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "continuous": {"timestep_type": "continuous", "prediction_type": "v_prediction"},
}


@pytest.mark.parametrize("steps", [1, 2, 20])
@pytest.mark.parametrize("kind", SIGMAS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("option", EULERS)
def test_euler_options_match_diffusers(option: str, spacing: str, kind: str, steps: int) -> None:
    config = {**BETAS, "timestep_spacing": spacing, **SIGMAS[kind], **EULERS[option]}
    assert_matches("euler", config, steps)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 7, 20])
def test_ddim_draws_the_noise_that_diffusers_draws(eta: float, spacing: str, steps: int) -> None:
    config = {**BETAS, "timestep_spacing": spacing, "clip_sample": False}
    generator = torch.Generator().manual_seed(5)
    start = torch.randn((1, *SHAPE), generator=generator).numpy()
    theirs = reference(
        diffusers.DDIMScheduler(**config), start, steps, eta=eta, generator=generator
    )
    after = torch.randn(20, generator=generator).numpy()

    noise = TorchNoise(5)
    schedule = build_schedule(config, steps=steps, sampler="ddim")
    mine = ours(schedule, noise.normal(SHAPE), noise=noise, eta=eta)
    # diffusers takes 1 - alpha / alpha' in single precision, which loses digits where the two are
    # close: over 20 steps at eta 1 that is the larger part of 2e-6.
    for one, (exact,) in zip(mine, theirs, strict=True):
        assert relative(one, exact) <= TOLERANCE
    # And the stream stands where diffusers leaves it, whoever draws next.
    np.testing.assert_allclose(noise.normal((20,)), after, atol=2e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampler_steps_from_the_latent_that_is_sent_back(sampler: str) -> None:
    schedule = build_schedule(BETAS, steps=6, sampler=sampler)
    runs = [sample(TorchNoise(n).normal(SHAPE), schedule, noise=TorchNoise(0)) for n in (1, 2)]
    first = [next(run).latent for run in runs]
    assert relative(*first) > 1.0
    # Whatever they started from, both are told that they were evaluated here.
    latent, x0 = TorchNoise(3).normal(SHAPE), TorchNoise(4).normal(SHAPE)
    second = [answer(run, latent, x0)[0] for run in runs]
    assert second[0] is not None
    assert second[1] is not None
    np.testing.assert_array_equal(second[0].latent, second[1].latent)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_run_side_by_side_as_they_run_alone(sampler: str) -> None:
    schedule = build_schedule(BETAS, steps=5, sampler=sampler)
    noises = [TorchNoise(seed).normal(SHAPE) for seed in (1, 2)]
    alone = [ours(schedule, noise)[-1] for noise in noises]
    runs = [sample(n * schedule.init_scale, schedule, noise=TorchNoise(0)) for n in noises]
    requests: list[Denoise | None] = [next(run) for run in runs]
    results = list(noises)
    while any(requests):
        for index, request in enumerate(requests):
            assert request is not None
            x0, _ = evaluate(request, schedule)
            requests[index], results[index] = answer(runs[index], request.latent, x0)
    for index, expected in enumerate(alone):
        np.testing.assert_array_equal(results[index] * schedule.final_scale, expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_write_into_no_array_that_is_not_theirs(sampler: str) -> None:
    schedule = build_schedule(BETAS, steps=4, sampler=sampler)
    start, latent, x0 = (TorchNoise(seed).normal(SHAPE) for seed in range(3))
    for array in (start, latent, x0):
        array.flags.writeable = False
    run = sample(start, schedule, noise=TorchNoise(0))
    request: Denoise | None = next(run)
    while request is not None:
        request, _ = answer(run, latent, x0)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("euler", "euler"),
        ("EulerDiscreteScheduler", "euler"),
        ("ddim", "ddim"),
        ("DDIMScheduler", "ddim"),
        ("dpmpp_2m", "dpmpp_2m"),
        ("DPMSolverMultistepScheduler", "dpmpp_2m"),
    ],
)
def test_short_names_and_class_names_find_the_same_sampler(name: str, short: str) -> None:
    assert find_sampler(name) == short
    assert short in SAMPLERS
    assert build_schedule(BETAS, steps=2, sampler=name).sampler == short


@pytest.mark.parametrize("name", ["", "Euler", "plms", "UniPCMultistepScheduler"])
def test_unknown_sampler_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match=r"^sampler: expected one of ") as error:
        find_sampler(name)
    for short in SAMPLERS:
        assert short in str(error.value)


@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 1.5), ("ddim", -0.1), ("euler", 0.5)])
def test_eta_that_a_sampler_does_not_have_is_refused(sampler: str, eta: float) -> None:
    schedule = build_schedule(BETAS, steps=2, sampler=sampler)
    with pytest.raises(InputError, match=r"^eta: expected "):
        sample(np.zeros(SHAPE, np.float32), schedule, noise=TorchNoise(0), eta=eta)


def test_unknown_prediction_type_is_refused() -> None:
    zeros = np.zeros(SHAPE, np.float32)
    call: Callable[..., Any] = denoised
    with pytest.raises(InputError, match=r"^prediction_type: expected one of epsilon"):
        call(zeros, zeros, 1.0, "flow_prediction")
