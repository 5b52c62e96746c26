"""Comparisons of bundles whose schedulers are unlike Stable Diffusion's own."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from tests.benchmarks.planted import planted
from tests.conftest import read_json
from tests.export.golden_run import check_run, goldens_of

from latentrt.benchmarks.numerics.compare import compare
from latentrt.benchmarks.numerics.reference import ReferenceRequest
from latentrt.benchmarks.numerics.tolerances import cancelling_tolerance
from latentrt.benchmarks.numerics.torch_model import TorchModel
from latentrt.benchmarks.peers.measure import check
from latentrt.bundle.bundle import Bundle
from latentrt.bundle.errors import InputError
from latentrt.export.export import export
from latentrt.runtime import Pipeline

# The constructor says so when it forces a value.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_ZERO_SNR = {**_BETAS, "prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    # Playground 2.5 and CosXL.
    "edm": ("EDMDPMSolverMultistepScheduler", {"sigma_max": 80.0, "sigma_data": 0.5}),
    "edm-v": (
        "EDMEulerScheduler",
        {"prediction_type": "v_prediction", "sigma_max": 120.0, "sigma_data": 1.0},
    ),
    "zero-snr": ("DDIMScheduler", {**_ZERO_SNR, "timestep_spacing": "trailing"}),
    "zero-snr-linspace": ("EulerDiscreteScheduler", {**_ZERO_SNR, "timestep_spacing": "linspace"}),
}

Made = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def made(
    checkpoint: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Made:
    """The tiny SD 1 checkpoint with another scheduler, and its bundle, made once."""
    found: dict[str, tuple[Path, Path]] = {}

    def get(name: str) -> tuple[Path, Path]:
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            source = Path(shutil.copytree(checkpoint("heads"), folder / "checkpoint"))
            kind, config = CONFIGS[name]
            index = read_json(source / "model_index.json")
            index["scheduler"] = ["diffusers", kind]
            (source / "model_index.json").write_text(json.dumps(index))
            stated = {"_class_name": kind, **config}
            (source / "scheduler" / "scheduler_config.json").write_text(json.dumps(stated))
            export(source, folder / "bundle")
            found[name] = source, folder / "bundle"
        return found[name]

    return get


@pytest.mark.parametrize("name", ["edm", "edm-v"])
def test_the_golden_run_of_an_edm_model_is_that_of_diffusers(made: Made, name: str) -> None:
    source, bundle = made(name)
    pipeline: Any = diffusers.StableDiffusionPipeline.from_pretrained(
        source, low_cpu_mem_usage=False
    )
    scheduler: Any = diffusers.EDMEulerScheduler
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    check_run(goldens_of(bundle), pipeline)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_right_engine_passes(made: Made, name: str) -> None:
    with Pipeline.open(made(name)[1], engine="onnxruntime") as pipeline:
        comparison = compare(pipeline)
    assert comparison.passed, comparison
    # Rounding leaves some 100 dB; 55 is the promise.
    assert comparison.picture_psnr > 80


@pytest.mark.parametrize("name", ["edm", "zero-snr"])
def test_a_fault_of_the_unet_shows_in_every_step_alone(
    made: Made, tmp_path: Path, name: str
) -> None:
    spoiled = planted(made(name)[1], tmp_path / "spoiled", "unet", "conv_out.weight")
    with Pipeline(spoiled, "onnxruntime", guarded=False) as pipeline:
        comparison = compare(pipeline)
    assert not any(step.passed for step in comparison.alone)


def test_live_answers_for_an_edm_model_are_those_stored(made: Made) -> None:
    opened = Bundle.open(made("edm")[1])
    request = ReferenceRequest(seed=20_260_101)
    found = TorchModel.of(opened).evaluate(opened, request, lambda: None).tensors
    stored = opened.golden()
    for i in range(4):
        name = f"run/steps/{i}/latents"
        np.testing.assert_allclose(found[name], stored[name], rtol=0, atol=1e-5 * 80)


def test_peers_that_sample_by_ddim_are_refused_for_an_edm_model(made: Made) -> None:
    with pytest.raises(InputError, match=r"^bundle: expected one that DDIM samples"):
        check(made("edm")[1], Path(), ["diffusers-fp32"])


# The tolerance of a step that cancels.


def step(x: np.ndarray[Any, Any], denoised: np.ndarray[Any, Any], s: float, t: float) -> Any:
    """diffusers' own step, in float32 as it computes it."""
    scheduler: Any = diffusers.EulerDiscreteScheduler()
    scheduler.set_timesteps(2)
    scheduler.sigmas = torch.tensor([s, t, 0.0], dtype=torch.float32)
    scheduler.register_to_config(prediction_type="sample")
    output, sample = (torch.from_numpy(a) for a in (denoised, x))
    scheduler.is_scale_input_called = True
    return scheduler.step(output, scheduler.timesteps[0], sample).prev_sample.double().numpy()


@pytest.mark.parametrize("error", [1e-7, 1e-6, 1e-5, 1e-4, 1e-3])
@pytest.mark.parametrize("after", [0.0, 2.2, 2048.0])
def test_an_error_of_the_model_stays_within_the_tolerance_of_its_step(
    after: float, error: float
) -> None:
    rng = np.random.default_rng(1)
    s, n = 4096.0, 100_000
    x = (rng.standard_normal(n) * s).astype(np.float32)
    denoised = rng.standard_normal(n).astype(np.float32)
    noise = rng.standard_normal(n)
    off = (denoised + error * noise).astype(np.float32)
    exact, found = step(x, denoised, s, after), step(x, off, s, after)
    norm = float(np.linalg.norm(exact))
    # What the error is without rounding.
    allowed = float(np.linalg.norm(error * noise)) * (1 - after / s) / norm
    tolerance = cancelling_tolerance(allowed, float(np.linalg.norm(x)), norm)
    relative = float(np.linalg.norm(found - exact)) / norm
    # Simulated over levels from 2.5 to 4096, the error is 0.25 to 1.00 of the bound.
    assert 0.2 * tolerance < relative <= 1.02 * tolerance


def test_a_step_that_cancels_nothing_keeps_its_tolerance() -> None:
    assert 1.4e-5 <= cancelling_tolerance(1.4e-5, 1.0, 1.0) < 1.02 * 1.4e-5


@pytest.mark.parametrize("norms", [(1.0, 0.0), (math.inf, 1.0), (math.nan, 1.0), (1.0, math.nan)])
def test_norms_of_zero_or_nan_leave_the_tolerance_unchanged(norms: tuple[float, float]) -> None:
    assert cancelling_tolerance(1e-5, *norms) == 1e-5
