"""What holds for every sampler; what each computes is held in test_sampler_matrix.py."""

from __future__ import annotations

import inspect
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
from latentrt.runtime.samplers import SAMPLERS, Denoise, Sampler, sample
from latentrt.runtime.sampling import Sampling
from latentrt.runtime.schedules import (
    CATALOGUE,
    Schedule,
    build_schedule,
    find_sampler,
    schedules_of,
    web_names,
)

Array = NDArray[np.float32]
Config = dict[str, Any]

# diffusers converts tensors in ways that NumPy 2 has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

SHAPE = (4, 6, 5)
SEED = 5
BETAS: Config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CLASSES = sorted({name.class_name for name in CATALOGUE.values()})
WITH_ETA = (
    "ddim",
    "dpm2_ancestral",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "dpmpp_sde",
    "euler_ancestral",
    "tcd",
)

TOLERANCE = 1e-5
"""Relative. Both sides round single precision some ten times a step, each to 6e-8; diffusers takes
differences of cumulative alphas in it, which loses digits where the two are close: 4e-6 when DDPM
goes from timestep 7 to 5, and 1.5e-6 at most elsewhere."""


def network(x: Array, t: float) -> Array:
    """Something nonlinear in x and t, float32 of the shape of x; the same code for both sides."""
    wide = x.astype(np.float64)
    mixed = np.tanh(1.3 * np.roll(wide, 1, axis=-1) - 0.7 * wide[::-1] + math.cos(t / 300.0))
    return (0.9 * mixed + 0.2 * wide).astype(np.float32)


def unchanged(x: Any) -> Any:
    return x


def theirs(
    scheduler: Any,
    *,
    change: Callable[[Any], Any] = unchanged,
    eta: float | None = None,
    **timesteps: Any,
) -> tuple[list[Array], torch.Generator]:
    """Every input of the model and the final latent in diffusers, and the generator after that.

    `change` is what is done to a latent before it is evaluated.
    """
    scheduler.set_timesteps(**timesteps)
    # Else it looks the first timestep up and may take the second of two that round to the same.
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    generator = torch.Generator().manual_seed(SEED)
    if hasattr(scheduler, "noise_sampler"):
        # torchsde's noise is another; here both sides draw from the stream.
        scheduler.noise_sampler = lambda *_: torch.randn((1, *SHAPE), generator=generator)
    x = torch.randn((1, *SHAPE), generator=generator) * scheduler.init_noise_sigma
    given: Config = {"generator": generator, "eta": eta}
    taken = inspect.signature(scheduler.step).parameters
    options = {key: given[key] for key in given if key in taken and given[key] is not None}
    seen: list[Array] = []
    for t in scheduler.timesteps:
        x = change(x)
        scaled = scheduler.scale_model_input(x, t)
        seen.append(scaled[0].numpy())
        out = torch.from_numpy(network(seen[-1], float(t)))[None]
        x = scheduler.step(out, t, x, **options).prev_sample
    return [*seen, x[0].numpy()], generator


def estimate(latent: Array, request: Denoise, schedule: Schedule) -> tuple[Array, Array]:
    """The network's estimate for a latent at what a sampler asks, and the input it was given."""
    x = model_input(latent, request.sigma)
    out = network(x, request.timestep)
    return denoised(latent, out, request.sigma, schedule.prediction_type), x


def answer(run: Sampler, latent: Array, x0: Array) -> tuple[Denoise | None, Array]:
    """What a sampler asks next, or None and its result."""
    try:
        return run.send((latent, x0)), latent
    except StopIteration as stop:
        return None, stop.value


def ours(
    schedule: Schedule, *, change: Callable[[Any], Any] = unchanged
) -> tuple[list[Array], TorchNoise]:
    """The same from a sampler here: the plainest of drivers."""
    noise = TorchNoise(SEED)
    start: Array = noise.normal(SHAPE) * np.float32(schedule.init_scale)
    run = sample(start, schedule, noise=noise)
    request: Denoise | None = next(run)
    latent, seen = start, list[Array]()
    while request is not None:
        changed: Array = change(request.latent)
        x0, x = estimate(changed, request, schedule)
        seen.append(x)
        request, latent = answer(run, changed, x0)
    return [*seen, latent * np.float32(schedule.final_scale)], noise


def relative(mine: Array, exact: Array) -> float:
    wide = exact.astype(np.float64)
    return float(np.linalg.norm(mine.astype(np.float64) - wide) / np.linalg.norm(wide))


def assert_close(mine: list[Array], exact: list[Array]) -> None:
    errors = [relative(a, b) for a, b in zip(mine, exact, strict=True)]
    assert max(errors) <= TOLERANCE, errors


def config_of(sampler: str) -> Config:
    """What a diffusers scheduler takes to be the one that a short name stands for."""
    name = find_sampler(sampler)
    taken = inspect.signature(getattr(diffusers, name.class_name)).parameters
    return {key: value for key, value in {**BETAS, **name.decides}.items() if key in taken}


def reference(sampler: str, **config: Any) -> Any:
    """That scheduler."""
    return getattr(diffusers, find_sampler(sampler).class_name)(**config_of(sampler), **config)


@pytest.mark.parametrize("sampler", CATALOGUE)
def test_latent_that_a_driver_changes_is_stepped_from_as_in_diffusers(sampler: str) -> None:
    # As inpainting does before every evaluation; a factor is the same at every scale.
    factor = np.linspace(0.8, 1.2, math.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    # UniPC's corrector goes back to the last step's beginning in diffusers: the change is lost.
    options: Config = {"disable_corrector": list(range(7))} if sampler == "unipc" else {}
    exact, _ = theirs(
        reference(sampler, **options),
        change=lambda x: x * torch.from_numpy(factor),
        num_inference_steps=7,
    )
    schedule = build_schedule({**BETAS, **options}, steps=7, sampler=sampler)
    mine, _ = ours(schedule, change=lambda x: x * factor)
    assert_close(mine, exact)


@pytest.mark.parametrize("sampler", CATALOGUE)
def test_sampler_depends_on_nothing_but_what_it_is_sent(sampler: str) -> None:
    schedule = build_schedule(BETAS, steps=6, sampler=sampler)
    runs = [sample(TorchNoise(n).normal(SHAPE), schedule, noise=TorchNoise(0)) for n in (1, 2)]
    first, second = [next(run) for run in runs]
    assert relative(first.latent, second.latent) > 1.0
    # Whatever they started from, both are told that they were evaluated here.
    for seed in range(len(schedule.evaluations)):
        latent, x0 = TorchNoise(seed).normal(SHAPE), TorchNoise(seed + 100).normal(SHAPE)
        asked = [answer(run, latent, x0) for run in runs]
        # The next latents, or the last.
        found = [result if request is None else request.latent for request, result in asked]
        np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("sampler", CATALOGUE)
def test_sampler_asks_for_the_evaluations_of_its_schedule_in_order(sampler: str) -> None:
    schedule = build_schedule(BETAS, steps=6, sampler=sampler)
    run = sample(TorchNoise(1).normal(SHAPE), schedule, noise=TorchNoise(0))
    request: Denoise | None = next(run)
    asked: list[tuple[float, float]] = []
    while request is not None:
        asked.append((request.timestep, request.sigma))
        assert type(request.sigma) is float
        assert request.latent.dtype == np.float32
        assert request.latent.shape == SHAPE
        request, result = answer(run, request.latent, 0.1 * request.latent)
    assert asked == [(e.timestep, e.sigma) for e in schedule.evaluations]
    assert result.dtype == np.float32
    assert result.shape == SHAPE


@pytest.mark.parametrize("sampler", CATALOGUE)
def test_samplers_run_side_by_side_as_they_run_alone(sampler: str) -> None:
    schedule = build_schedule(BETAS, steps=5, sampler=sampler)

    def started(seed: int) -> Sampler:
        noise = TorchNoise(seed)
        start = noise.normal(SHAPE) * np.float32(schedule.init_scale)
        return sample(start, schedule, noise=noise)

    def driven(runs: list[Sampler]) -> list[Array]:
        requests: list[Denoise | None] = [next(run) for run in runs]
        results = [np.zeros(SHAPE, np.float32) for _ in runs]
        while any(requests):
            for index, request in enumerate(requests):
                assert request is not None
                x0, _ = estimate(request.latent, request, schedule)
                requests[index], results[index] = answer(runs[index], request.latent, x0)
        return results

    alone = [driven([started(seed)])[0] for seed in (1, 2, 3)]
    together = driven([started(seed) for seed in (1, 2, 3)])
    np.testing.assert_array_equal(together, alone)
    assert relative(alone[0], alone[1]) > 0.1


class Frozen(TorchNoise):
    """A stream whose arrays cannot be written to."""

    def normal(self, shape: tuple[int, ...]) -> Array:
        drawn = super().normal(shape)
        drawn.flags.writeable = False
        return drawn


@pytest.mark.parametrize("sampler", CATALOGUE)
def test_samplers_write_into_no_array_that_is_not_theirs(sampler: str) -> None:
    schedule = build_schedule(BETAS, steps=5, sampler=sampler)
    noise = Frozen(0)
    run = sample(noise.normal(SHAPE), schedule, noise=noise)
    request: Denoise | None = next(run)
    yielded: list[tuple[Array, Array]] = []
    while request is not None:
        yielded.append((request.latent, request.latent.copy()))
        # What is sent is the driver's own, to be read for as long as the sampler likes.
        request, _ = answer(run, noise.normal(SHAPE), noise.normal(SHAPE))
    for array, copy in yielded:
        np.testing.assert_array_equal(array, copy)


STREAMS = [
    *((sampler, steps, None) for sampler in CATALOGUE for steps in (1, 5, 12)),
    *((sampler, 5, eta) for sampler in ("ddim", "tcd") for eta in (0.0, 0.3, 1.0)),
]


@pytest.mark.parametrize(
    ("sampler", "steps", "eta"),
    # Runge and Kutta's warm-up needs four steps.
    [case for case in STREAMS if case[:2] != ("pndm", 1)],
)
def test_noise_stream_stands_where_diffusers_leaves_it(
    sampler: str, steps: int, eta: float | None
) -> None:
    exact, generator = theirs(reference(sampler), eta=eta, num_inference_steps=steps)
    mine, noise = ours(build_schedule(BETAS, steps=steps, sampler=sampler, eta=eta))
    assert_close(mine, exact)
    # PyTorch's kernels for other processors differ from those that TorchNoise follows by 2e-6.
    after = torch.randn(20, generator=generator).numpy()
    np.testing.assert_allclose(noise.normal((20,)), after, atol=2e-6)


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("sampler", sorted(set(CATALOGUE) - set(WITH_ETA)))
def test_eta_that_a_sampler_does_not_have_is_refused(sampler: str, eta: float) -> None:
    with pytest.raises(InputError, match=r"^eta: expected none with "):
        build_schedule(BETAS, steps=5, sampler=sampler, eta=eta)


@pytest.mark.parametrize("sampler", WITH_ETA)
def test_without_fresh_noise_the_stream_changes_nothing(sampler: str) -> None:
    def last(seed: int, eta: float) -> Array:
        schedule = build_schedule(BETAS, steps=5, sampler=sampler, eta=eta)
        run = sample(TorchNoise(0).normal(SHAPE), schedule, noise=TorchNoise(seed))
        request: Denoise | None = next(run)
        result = request.latent
        while request is not None:
            x0, _ = estimate(request.latent, request, schedule)
            request, result = answer(run, request.latent, x0)
        return result

    np.testing.assert_array_equal(last(1, 0.0), last(2, 0.0))
    assert relative(last(1, 0.5), last(2, 0.5)) > 0.01


@pytest.mark.parametrize("eta", [1.5, -0.1, math.nan])
@pytest.mark.parametrize("sampler", WITH_ETA)
def test_eta_that_is_no_share_is_refused(sampler: str, eta: float) -> None:
    with pytest.raises(InputError, match=r"^eta: expected a number from 0 to 1"):
        build_schedule(BETAS, steps=5, sampler=sampler, eta=eta)


@pytest.mark.parametrize("sampler", CATALOGUE)
def test_short_name_is_its_class_with_the_keys_that_the_name_decides(sampler: str) -> None:
    name = CATALOGUE[sampler]
    short = build_schedule(BETAS, steps=6, sampler=sampler)
    assert short == build_schedule({**BETAS, **name.decides}, steps=6, sampler=name.class_name)
    assert short.sampler in SAMPLERS
    # And whatever the config says of those keys, the name decides.
    other = {"algorithm_type": "deis", "skip_prk_steps": None, "solver_order": 17}
    misled = {key: other[key] for key in name.decides}
    assert build_schedule({**BETAS, **misled}, steps=6, sampler=sampler) == short


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("eular", "euler"),
        ("DPM++ 2S a", "dpmpp_2s"),
        ("DPM++ 2S a Karras", "dpmpp_2s"),
        ("FlowMatchEulerDiscreteScheduler", "EulerDiscreteScheduler"),
        ("UniPCMultistep", "UniPCMultistepScheduler"),
    ],
)
def test_unknown_sampler_is_refused_with_the_nearest_name_first(name: str, nearest: str) -> None:
    with pytest.raises(InputError, match=rf"^sampler: expected {nearest}\b") as error:
        build_schedule(BETAS, steps=5, sampler=name)
    assert str(error.value).endswith(f" or another that `latentrt samplers` lists, got {name!r}")
    assert error.value.expected.count(",") <= 2


NAMES = {
    "Euler a": ("euler_ancestral", None),
    "EULER": ("euler", None),
    "k_euler_a": ("euler_ancestral", None),
    "k_euler_ancestral": ("euler_ancestral", None),
    "k_dpm_2_a": ("dpm2_ancestral", None),
    "DPM2 a": ("dpm2_ancestral", None),
    "DPM++ 2M": ("dpmpp_2m", None),
    "DPM++ 2M Karras": ("dpmpp_2m", "karras"),
    "DPM++ 2M SDE": ("dpmpp_2m_sde", None),
    "DPM++ 2M SDE Exponential": ("dpmpp_2m_sde", "exponential"),
    "DPM++ 3M SDE Karras": ("dpmpp_3m_sde", "karras"),
    "DPM++ SDE Karras": ("dpmpp_sde", "karras"),
    "LMS Karras": ("lms", "karras"),
    "Euler SGM Uniform": ("euler", "trailing"),
    "plms": ("plms", None),
    "PLMS": ("plms", None),
    "UniPC": ("unipc", None),
    "uni_pc": ("unipc", None),
    "eulerdiscretescheduler": ("EulerDiscreteScheduler", None),
}
"""What web UIs, their interfaces and diffusers call samplers, and what that is here."""


@pytest.mark.parametrize("name", NAMES)
def test_names_of_web_uis_and_of_diffusers_are_taken_in_any_case(name: str) -> None:
    sampler, schedule = NAMES[name]
    for spelt in (name, name.upper(), name.lower()):
        asked = Sampling(spelt)
        assert (asked.sampler, asked.schedule) == (sampler, schedule)
        made = build_schedule(BETAS, steps=5, sampler=spelt)
        assert made == build_schedule(BETAS, steps=5, sampler=sampler, schedule=schedule)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("Karras", "karras"),
        ("SGM Uniform", "trailing"),
        ("sgm_uniform", "trailing"),
        ("Simple", "trailing"),
        ("Normal", "linspace"),
        ("Uniform", "linspace"),
        ("DDIM Uniform", "leading"),
        ("Align Your Steps", "align_your_steps"),
        ("Automatic", None),
    ],
)
def test_names_of_web_uis_are_taken_for_schedules(name: str, schedule: str | None) -> None:
    assert Sampling("euler", schedule=name).schedule == schedule
    made = build_schedule(BETAS, steps=5, sampler="euler", schedule=name)
    assert made == build_schedule(BETAS, steps=5, sampler="euler", schedule=schedule)


def test_two_schedules_that_differ_are_refused() -> None:
    assert Sampling("DPM++ 2M Karras", schedule="Karras").schedule == "karras"
    with pytest.raises(InputError, match=r"^schedule: expected karras with sampler DPM\+\+ 2M Kar"):
        Sampling("DPM++ 2M Karras", schedule="beta")


@pytest.mark.parametrize("schedule", ["", "KL Optimal"])
def test_unknown_schedule_is_refused(schedule: str) -> None:
    for sampler in ("euler", "Euler Karras"):
        with pytest.raises(InputError, match=r"^schedule: expected "):
            build_schedule(BETAS, steps=5, sampler=sampler, schedule=schedule)


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": True}, ("PLMS", None)),
        ({"_class_name": "PNDMScheduler", "timestep_spacing": "trailing"}, ("pndm", "SGM Uniform")),
        ({"_class_name": "EulerDiscreteScheduler"}, ("Euler", None)),
        (
            {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"},
            ("Euler", "SGM Uniform"),
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True},
            ("DPM++ 2M", "Karras"),
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "use_lu_lambdas": True},
            ("DPM++ 2M", None),
        ),
        ({"_class_name": "UniPCMultistepScheduler", "use_beta_sigmas": True}, ("UniPC", "Beta")),
        ({"_class_name": "LCMScheduler", "timestep_spacing": "trailing"}, ("LCM", None)),
        ({"_class_name": "EDMDPMSolverMultistepScheduler"}, ("DPM++ 2M", "Karras")),
    ],
)
def test_web_names_are_known_where_the_config_decides(
    config: dict[str, Any], names: tuple[str, str | None]
) -> None:
    assert web_names(build_schedule({**BETAS, **config}, steps=5)) == names


def test_web_names_lead_back_to_sampler_and_schedule() -> None:
    for name, entry in CATALOGUE.items():
        if entry.web:
            assert Sampling(entry.web).sampler == name
        for schedule in () if name.startswith("edm") else schedules_of(name):
            made = build_schedule(BETAS, steps=5, sampler=name, schedule=schedule)
            _, kind = web_names(made)
            assert kind is None or Sampling(name, schedule=kind).schedule == schedule


@pytest.mark.parametrize("name", ["", "1234567"])
def test_sampler_like_no_other_is_refused_without_a_guess(name: str) -> None:
    with pytest.raises(InputError) as error:
        build_schedule(BETAS, steps=5, sampler=name)
    assert error.value.expected == "a name that `latentrt samplers` lists"


class Asked(TorchNoise):
    """A stream that counts what a path could give."""

    increments = 0

    def increment(self, shape: tuple[int, ...], sigma: float, sigma_next: float) -> Array:
        self.increments += 1
        return super().increment(shape, sigma, sigma_next)


ALGORITHMS: dict[str, tuple[str, ...]] = {
    "DPMSolverMultistepScheduler": ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"),
    "DPMSolverSinglestepScheduler": ("dpmsolver++", "dpmsolver", "sde-dpmsolver++"),
}
PATHS = [
    *((sampler, BETAS, None) for sampler in CATALOGUE),
    *((sampler, BETAS, eta) for sampler in WITH_ETA for eta in (0.0, 0.5)),
    *(
        (class_name, {**BETAS, "algorithm_type": algorithm, "final_sigmas_type": "sigma_min"}, None)
        for class_name, algorithms in ALGORITHMS.items()
        for algorithm in algorithms
    ),
]


@pytest.mark.parametrize(("sampler", "config", "eta"), PATHS)
def test_a_path_is_taken_by_the_samplers_that_ask_for_its_increments_alone(
    sampler: str, config: Config, eta: float | None
) -> None:
    schedule = build_schedule(config, steps=5, sampler=sampler, eta=eta)
    noise = Asked(SEED)
    run = sample(noise.normal(SHAPE), schedule, noise=noise)
    request: Denoise | None = next(run)
    while request is not None:
        x0, _ = estimate(request.latent, request, schedule)
        request, _ = answer(run, request.latent, x0)
    if noise.increments:
        asked = build_schedule(config, steps=5, sampler=sampler, eta=eta, brownian=True)
        assert asked == schedule
    else:
        with pytest.raises(InputError, match=r"^brownian: expected .*\(dpmpp_2m_sde, .*\), got "):
            build_schedule(config, steps=5, sampler=sampler, eta=eta, brownian=True)


def test_unknown_prediction_type_is_refused() -> None:
    zeros = np.zeros(SHAPE, np.float32)
    call: Callable[..., Any] = denoised
    with pytest.raises(InputError, match=r"^prediction_type: expected one of epsilon"):
        call(zeros, zeros, 1.0, "flow_prediction")


def takes(class_name: str, argument: str) -> bool:
    """Whether a diffusers class lets its timesteps or levels be set outright."""
    return argument in inspect.signature(getattr(diffusers, class_name).set_timesteps).parameters


@pytest.mark.parametrize("class_name", [name for name in CLASSES if takes(name, "timesteps")])
@pytest.mark.parametrize("timesteps", [(999, 90), (801, 640, 333, 211, 90, 3), (500,), (7, 5, 0)])
def test_timesteps_given_outright_match_diffusers(
    class_name: str, timesteps: tuple[int, ...]
) -> None:
    # The steps of a run are counted where they are not given, and TCD's levels between the steps
    # hang on a rounding: 0.7 * 90 is 63.
    exact, _ = theirs(reference(class_name), timesteps=list(timesteps))
    mine, _ = ours(build_schedule(BETAS, sampler=class_name, timesteps=timesteps))
    assert_close(mine, exact)


def test_euler_levels_given_outright_match_diffusers() -> None:
    # The only class here that takes levels, the last of them too, as diffusers has it.
    sigmas = (11.3, 4.0, 1.25, 0.3, 0.02)
    exact, _ = theirs(reference("euler"), sigmas=list(sigmas))
    mine, _ = ours(build_schedule(BETAS, sampler="euler", sigmas=sigmas))
    assert_close(mine, exact)


@pytest.mark.parametrize("steps", [5, 20])
@pytest.mark.parametrize("kind", ["ddim", "ddpm", "lcm"])
def test_zero_snr_noise_prediction_is_refused_where_diffusers_divides_by_zero(
    kind: str, steps: int
) -> None:
    options: Config = {"rescale_betas_zero_snr": True, "clip_sample": False}
    if kind == "lcm":
        # Its timesteps end with the last of training whatever the spacing.
        options["original_inference_steps"] = 50
    else:
        options["timestep_spacing"] = "trailing"
    with np.errstate(invalid="ignore"):
        exact, _ = theirs(reference(kind, **options), num_inference_steps=steps)
    assert not np.isfinite(exact[1]).any()
    with pytest.raises(InputError, match=r"^prediction_type: expected v_prediction or sample"):
        build_schedule({**BETAS, **options}, steps=steps, sampler=kind)


@pytest.mark.parametrize("steps", [2, 20])
def test_ddpm_log_of_the_large_variance_is_the_large_variance(steps: int) -> None:
    # diffusers takes its square root, which is not a number.
    with np.errstate(invalid="ignore"):
        broken, _ = theirs(
            reference("ddpm", variance_type="fixed_large_log"), num_inference_steps=steps
        )
    assert np.isnan(broken[-1]).all()
    exact, _ = theirs(reference("ddpm", variance_type="fixed_large"), num_inference_steps=steps)
    config = {**BETAS, "variance_type": "fixed_large_log"}
    mine, _ = ours(build_schedule(config, steps=steps, sampler="ddpm"))
    assert_close(mine, exact)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_runge_kutta_warm_up_is_refused_where_diffusers_fails(steps: int) -> None:
    with pytest.raises(ValueError, match="broadcast"):
        theirs(reference("pndm"), num_inference_steps=steps)
    with pytest.raises(InputError, match=r"^steps: expected at least 4"):
        build_schedule(BETAS, steps=steps, sampler="pndm")


@pytest.mark.parametrize(("sampler", "evaluations"), [("plms", 21), ("pndm", 29), ("heun", 39)])
def test_evaluations_are_as_many_as_the_method_needs(sampler: str, evaluations: int) -> None:
    # One more than steps; three steps of four; two a step but the last.
    assert len(build_schedule(BETAS, steps=20, sampler=sampler).evaluations) == evaluations


def test_dpmpp_2m_survives_a_last_step_of_length_zero() -> None:
    # Karras levels end where sigma_min does. diffusers divides 0 by 0 there, and returns NaN.
    config: Config = {
        "use_karras_sigmas": True,
        "solver_type": "heun",
        "final_sigmas_type": "sigma_min",
        "lower_order_final": False,
    }
    with np.errstate(invalid="ignore"):
        exact, _ = theirs(reference("dpmpp_2m", **config), num_inference_steps=7)
    assert np.isnan(exact[-1]).all()
    mine, _ = ours(build_schedule({**BETAS, **config}, steps=7, sampler="dpmpp_2m"))
    assert_close(mine[:-1], exact[:-1])
    # The step goes nowhere: what leaves it is what entered.
    np.testing.assert_allclose(mine[-1], mine[-2], rtol=1e-6)
