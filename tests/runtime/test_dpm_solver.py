"""DPM-Solver and its relatives: what single options, one at a time, do not reach."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.runtime.test_sampler_matrix import BETAS, SHAPE, Tally, judge, network, ours, relative

from latentrt.bundle.errors import InputError
from latentrt.runtime.noise import Noise, TorchNoise
from latentrt.runtime.samplers import sample
from latentrt.runtime.schedules import Schedule, build_schedule

Array = NDArray[np.float32]
Config = dict[str, Any]

pytestmark = [
    # diffusers converts tensors in ways that NumPy 2 has deprecated,
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    # and has deprecated the solvers that predict noise.
    pytest.mark.filterwarnings("ignore:.*algorithm_type.*:FutureWarning"),
]

STEPS = (2, 3, 4, 6, 14, 15)
"""All remainders by 2 and by 3, and both sides of the 15 from which orders stay up at the end."""

COMBINED: dict[str, dict[str, tuple[Any, ...]]] = {
    "DPMSolverMultistepScheduler": {
        "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", "dpmsolver"),
        "solver_order": (2, 3),
        "solver_type": ("midpoint", "heun"),
        "lower_order_final": (True, False),
        "euler_at_final": (True, False),
        "final_sigmas_type": ("sigma_min",),
    },
    "DPMSolverSinglestepScheduler": {
        "algorithm_type": ("dpmsolver++", "sde-dpmsolver++", "dpmsolver"),
        "solver_order": (2, 3),
        "solver_type": ("midpoint", "heun"),
        "lower_order_final": (True, False),
        "final_sigmas_type": ("zero", "sigma_min"),
        "use_karras_sigmas": (True, False),
    },
    "EDMDPMSolverMultistepScheduler": {
        "solver_order": (2, 3),
        "solver_type": ("midpoint", "heun"),
        "lower_order_final": (True, False),
        "euler_at_final": (True, False),
        "sigma_data": (0.5, 1.0),
        "thresholding": (True,),
    },
    "UniPCMultistepScheduler": {
        "solver_order": (1, 2, 3),
        "solver_type": ("bh1", "bh2"),
        "predict_x0": (True, False),
        "lower_order_final": (True, False),
        "disable_corrector": ([], [0], [1, 2]),
        "final_sigmas_type": ("sigma_min",),
        "thresholding": (True,),
    },
    "DEISMultistepScheduler": {
        "solver_order": (2, 3),
        "lower_order_final": (True, False),
        "thresholding": (True, False),
        "timestep_spacing": ("leading", "trailing"),
    },
    "DPMSolverSDEScheduler": {
        "use_karras_sigmas": (True, False),
        "timestep_spacing": ("leading", "trailing"),
        "prediction_type": ("epsilon", "v_prediction"),
    },
}
"""Options that work on one another. diffusers has no solver of noise that ends on level 0, so they
are tried where others end."""


@pytest.mark.parametrize("name", COMBINED)
def test_options_match_diffusers_together(name: str) -> None:
    betas = {} if name.startswith("EDM") else BETAS
    tally = Tally()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for values in itertools.product(*COMBINED[name].values()):
            config = dict(zip(COMBINED[name], values, strict=True))
            for steps in STEPS:
                judge(name, {**betas, **config}, steps, tally)
    shown = "\n".join(tally.failures[:20])
    assert not tally.failures, f"{len(tally.failures)} differ:\n{shown}"
    assert tally.counts["passed"] > 0.7 * tally.counts.total() > 30


SIGMAS = (11.5, 5.0, 4.0, 1.7, 0.6, 0.2, 0.05)
MULTISTEP, SINGLESTEP = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"
SOLVERS: dict[str, tuple[str, Config]] = {
    "dpmpp_2m": (MULTISTEP, {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_sde": (MULTISTEP, {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_3m": (MULTISTEP, {"algorithm_type": "dpmsolver++", "solver_order": 3}),
    "dpmpp_3m_sde": (MULTISTEP, {"algorithm_type": "sde-dpmsolver++", "solver_order": 3}),
    "dpm_solver_2m_sde": (MULTISTEP, {"algorithm_type": "sde-dpmsolver"}),
    "dpm_solver_3m": (MULTISTEP, {"algorithm_type": "dpmsolver", "solver_order": 3}),
    "dpmpp_2s": (SINGLESTEP, {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2s_sde": (SINGLESTEP, {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_3s": (SINGLESTEP, {"algorithm_type": "dpmsolver++", "solver_order": 3}),
    "dpm_solver_3s": (SINGLESTEP, {"algorithm_type": "dpmsolver", "solver_order": 3}),
    "deis": ("DEISMultistepScheduler", {"solver_order": 3}),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 3}),
}
"""One of each, by the name that its schedule has to have."""


def config_of(solver: str, **more: Any) -> tuple[str, Config]:
    """The class of a solver and its config, ending above level 0."""
    name, config = SOLVERS[solver]
    ends = {} if solver == "deis" else {"final_sigmas_type": "sigma_min"}
    return name, {**BETAS, **ends, **config, **more}


def last_latent(schedule: Schedule, start: Array, noise: Noise) -> Array:
    """What a run ends on, as the model's scale has it, with the matrix's network."""
    run = sample(start * np.float32(schedule.init_scale), schedule, noise=noise)
    try:
        asked = next(run)
        while True:
            out = network(asked.latent / math.hypot(asked.sigma, 1.0), asked.timestep)
            noise_pred: Array = out * asked.sigma
            asked = run.send((asked.latent, asked.latent - noise_pred))
    except StopIteration as stop:
        latent: Array = stop.value
    return latent * np.float32(schedule.final_scale)


@pytest.mark.parametrize("solver", SOLVERS)
def test_levels_given_outright_are_stepped_through_as_in_diffusers(solver: str) -> None:
    name, config = config_of(solver)
    schedule = build_schedule(config, sampler=name, sigmas=SIGMAS)
    assert [e.sigma for e in schedule.evaluations] == pytest.approx(SIGMAS[:-1], rel=1e-7)
    assert schedule.evaluations[-1].sigma_next == SIGMAS[-1]
    # These classes do not take levels, but step through whatever levels they hold.
    theirs: Any = getattr(diffusers, name)(**config)
    theirs.set_timesteps(len(SIGMAS) - 1)
    theirs.sigmas = torch.tensor(SIGMAS)
    theirs.set_begin_index(0)
    generator = torch.Generator().manual_seed(7)
    x = torch.randn((1, *SHAPE), generator=generator)
    noise = TorchNoise(7)
    mine = last_latent(schedule, noise.normal(SHAPE), noise)
    options: Config = {"generator": generator} if solver.endswith("_sde") else {}
    for e in schedule.evaluations:
        out = torch.from_numpy(network(x[0].numpy(), e.timestep))[None]
        x = theirs.step(out, e.timestep, x, **options).prev_sample
    # Both sides round single precision some ten times a step, to 6e-8: 7e-7 when measured.
    assert relative(mine, x[0].numpy()) < 1e-5


@pytest.mark.parametrize("solver", SOLVERS)
def test_schedule_names_algorithm_and_order_where_a_class_was_asked_for(solver: str) -> None:
    name, config = config_of(solver)
    assert build_schedule(config, steps=5, sampler=name).sampler == solver


FALLING = ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "dpm_solver_2m_sde", "dpm_solver_3m", "deis")


@pytest.mark.parametrize("kind", ["midpoint", "heun"])
@pytest.mark.parametrize("solver", FALLING)
def test_last_step_of_length_zero_goes_nowhere(solver: str, kind: str) -> None:
    # Karras levels end where sigma_min does: diffusers mostly divides 0 by 0 there.
    more: Config = {"use_karras_sigmas": True, "lower_order_final": False, "solver_type": kind}
    name, config = config_of(solver, **more)
    last = build_schedule(config, steps=9, sampler=name).evaluations[-1]
    assert last.sigma == last.sigma_next
    # The last input of the model, and the last latent at the model's scale.
    before, after = ours(name, config, 9)[-2:]
    np.testing.assert_allclose(after, before, rtol=1e-6)


@pytest.mark.parametrize("predict_x0", [False, True])
def test_unipc_of_full_order_survives_a_last_step_of_length_zero(predict_x0: bool) -> None:
    more: Config = {"use_karras_sigmas": True, "predict_x0": predict_x0}
    name, config = config_of("unipc", **more)
    full = {**config, "lower_order_final": False}
    lowered, mine = ours(name, config, 9), ours(name, full, 9)
    # All but the last two steps are the same, and those are short and hardly bend.
    np.testing.assert_array_equal(mine[:-2], lowered[:-2])
    assert relative(mine[-1], lowered[-1]) < 0.01


@pytest.mark.parametrize("solver", [one for one in SOLVERS if not one.endswith("_sde")])
def test_step_to_level_zero_ends_on_the_last_estimate(solver: str) -> None:
    # diffusers refuses it to those that go by the noise; their step has the same limit.
    name, config = config_of(solver, lower_order_final=False)
    schedule = build_schedule(config, sampler=name, sigmas=(*SIGMAS, 0.0))
    run = sample(TorchNoise(0).normal(SHAPE), schedule, noise=TorchNoise(0))
    asked, seeds = next(run), itertools.count(1)
    denoised = TorchNoise(0).normal(SHAPE)
    try:
        while True:
            denoised = TorchNoise(next(seeds)).normal(SHAPE)
            asked = run.send((asked.latent, denoised))
    except StopIteration as stop:
        np.testing.assert_array_equal(stop.value, denoised)


class Axes(Noise):
    """Noise whose every draw is along an axis of its own, and that keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, float]] = []

    def normal(self, shape: tuple[int, ...]) -> Array:
        raise AssertionError("an SDE's noise belongs to a step between two levels")

    def increment(self, shape: tuple[int, ...], sigma: float, sigma_next: float) -> Array:
        self.asked.append((sigma, sigma_next))
        drawn = np.zeros(shape, np.float32)
        drawn[0, 0, len(self.asked)] = 1.0
        return drawn


def of_noise_alone(schedule: Schedule) -> tuple[list[Array], Axes]:
    """Every latent of a run whose data is 0: how much of each draw is in it, the first noise's too.

    Independent noises add up in variance, so the norm of such a latent is its standard deviation.
    """
    draws = len(schedule.evaluations) + 1
    zeros = np.zeros((1, 1, draws), np.float32)
    start = zeros.copy()
    start[0, 0, 0] = schedule.evaluations[0].sigma
    noise = Axes()
    run = sample(start, schedule, noise=noise)
    seen: list[Array] = []
    try:
        asked = next(run)
        while True:
            seen.append(asked.latent)
            asked = run.send((asked.latent, zeros))
    except StopIteration as stop:
        return [*seen, stop.value], noise


SDES: dict[str, tuple[str, Config]] = {
    "multistep": SOLVERS["dpmpp_2m_sde"],
    "multistep_third": SOLVERS["dpmpp_3m_sde"],
    "singlestep": SOLVERS["dpmpp_2s_sde"],
    "by_halves": ("DPMSolverSDEScheduler", {}),
}


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("sde", SDES)
def test_latents_have_their_level_whatever_the_share_of_fresh_noise(sde: str, eta: float) -> None:
    name, config = SDES[sde]
    schedule = build_schedule({**BETAS, **config}, sampler=name, sigmas=SIGMAS, eta=eta)
    latents, noise = of_noise_alone(schedule)
    levels = [*(e.sigma for e in schedule.evaluations), SIGMAS[-1]]
    # Two roundings of single precision a step, 6e-8 each.
    assert [np.linalg.norm(latent) for latent in latents] == pytest.approx(levels, rel=2e-6)
    assert bool(noise.asked) == (eta > 0.0)
    if sde != "by_halves":
        # The SDE's drift is 1 + eta times the ODE's.
        left = [11.5 * (level / 11.5) ** (1.0 + eta) for level in levels]
        assert [latent[0, 0, 0] for latent in latents] == pytest.approx(left, rel=2e-6)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_small_steps_by_the_noise_keep_the_level_whatever_the_share(eta: float) -> None:
    sigmas = tuple(np.geomspace(2.0, 1.0, 401).tolist())
    name, config = config_of("dpm_solver_2m_sde", solver_order=1)
    latents, _ = of_noise_alone(build_schedule(config, sampler=name, sigmas=sigmas, eta=eta))
    # It takes the noise for constant over a step: true of none but a step of no length. What that
    # leaves is of first order in the 400 steps.
    assert np.linalg.norm(latents[-1]) == pytest.approx(1.0, rel=3e-3)
    assert latents[-1][0, 0, 0] == pytest.approx(2.0 * 0.5 ** (1.0 + eta), rel=3e-3)


@pytest.mark.parametrize("sde", SDES)
def test_noise_is_that_between_where_a_step_begins_and_where_it_ends(sde: str) -> None:
    name, config = SDES[sde]
    schedule = build_schedule({**BETAS, **config}, sampler=name, sigmas=SIGMAS)
    _, noise = of_noise_alone(schedule)
    ends = [*(e.sigma for e in schedule.evaluations[1:]), SIGMAS[-1]]
    begins = [e.sigma for e in schedule.evaluations]
    if not sde.startswith("multistep"):
        # Of two evaluations, the second goes from where the first went from.
        begins = [begins[i - i % 2] for i in range(len(begins))]
    assert noise.asked == list(zip(begins, ends, strict=True))


def test_unipc_corrects_a_latent_that_a_driver_changed_by_what_it_adds_to_its_own() -> None:
    # Going by x0, the correction is that of the estimates alone, whatever the latent has become.
    name, config = config_of("unipc")
    schedule = build_schedule(config, sampler=name, sigmas=SIGMAS)
    runs = [sample(TorchNoise(1).normal(SHAPE), schedule, noise=TorchNoise(0)) for _ in range(2)]
    asked = [next(run) for run in runs]
    for seed, e in enumerate(schedule.evaluations[:-1]):
        x0, change = TorchNoise(seed).normal(SHAPE), TorchNoise(seed + 50).normal(SHAPE)
        latent = asked[0].latent
        asked = [runs[0].send((latent, x0)), runs[1].send((latent + change, x0))]
        carried = change * (e.sigma_next / e.sigma)
        # Latents are of 1 to 10 and have half a dozen roundings of 6e-8.
        np.testing.assert_allclose(asked[1].latent, asked[0].latent + carried, atol=1e-5)
        # From here on both are at the same latent again.
        asked = [asked[0], asked[0]]


REFUSED: list[tuple[str, Config, str]] = [
    ("UniPCMultistepScheduler", {"solver_p": "DDIMScheduler"}, "solver_p"),
    ("UniPCMultistepScheduler", {"shift_terminal": 0.1}, "shift_terminal"),
    ("UniPCMultistepScheduler", {"disable_corrector": [0.5]}, "disable_corrector"),
    ("UniPCMultistepScheduler", {"solver_type": "rk4"}, "solver_type"),
    ("UniPCMultistepScheduler", {"solver_order": 4}, "solver_order"),
    ("DEISMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "algorithm_type"),
    ("DEISMultistepScheduler", {"solver_type": "rk4"}, "solver_type"),
    (MULTISTEP, {"algorithm_type": "rk4"}, "algorithm_type"),
    (MULTISTEP, {"solver_order": 0}, "solver_order"),
    (SINGLESTEP, {"algorithm_type": "sde-dpmsolver"}, "algorithm_type"),
    ("EDMDPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"}, "algorithm_type"),
    ("EDMDPMSolverMultistepScheduler", {"prediction_type": "sample"}, "prediction_type"),
]


@pytest.mark.parametrize(("name", "config", "key"), REFUSED)
def test_unsupported_keys_are_refused_by_name(name: str, config: Config, key: str) -> None:
    with pytest.raises(InputError, match=rf"^scheduler config '{key}': expected .+, got .+"):
        build_schedule(config, steps=4, sampler=name)


@pytest.mark.parametrize("key", ["use_lu_lambdas", "use_karras_sigmas"])
def test_timesteps_are_refused_beside_levels_as_in_diffusers(key: str) -> None:
    theirs: Any = getattr(diffusers, MULTISTEP)(**{key: True})
    with pytest.raises(ValueError, match=key):
        theirs.set_timesteps(timesteps=[900, 500, 20])
    with pytest.raises(InputError, match=rf"^timesteps: expected none where {key} is true"):
        build_schedule({key: True}, sampler="dpmpp_2m", timesteps=(900, 500, 20))
