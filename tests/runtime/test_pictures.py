"""Pictures of every family by every sampler, against diffusers' own pipelines."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers import scheduling_dpmsolver_sde
from numpy.typing import NDArray

from latentrt.bundle.golden import psnr
from latentrt.runtime import Pipeline, Request, Sampling, Size
from latentrt.runtime.schedules import CATALOGUE, schedules_of

pytestmark = [
    # The constructor says so when it forces a value.
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # diffusers converts tensors in ways that NumPy 2 has deprecated.
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

PROMPT, NEGATIVE, SEED = "a large red circle on a blue background", "a small star", 11
LEAST_PSNR = 55.0
"""dB at fp32, both pictures rounded to 8 bits."""

FAMILIES = ("heads", "lists", "xl")
# The EDM samplers are for models that none of these families has.
SAMPLERS = tuple(name for name in CATALOGUE if not name.startswith("edm"))
ETA = {"ddim": 0.4, "tcd": 0.3}
"""Given on both sides: diffusers' pipelines put 0 in place of a scheduler's own default."""


class Drawn:
    """In place of torchsde's path: what the pipeline's own generator draws next."""

    generator: torch.Generator

    def __init__(self, x: torch.Tensor, *_: Any, **__: Any) -> None:
        self._shape = x.shape

    def __call__(self, *_: Any) -> torch.Tensor:
        return torch.randn(self._shape, generator=Drawn.generator)


@pytest.fixture(scope="module")
def reference(checkpoint: Callable[[str], Path]) -> Callable[[str], Any]:
    """diffusers' pipeline of a tiny checkpoint, loaded once."""
    loaded: dict[str, Any] = {}

    def get(configuration: str) -> Any:
        if configuration not in loaded:
            folder = checkpoint(configuration)
            name = json.loads((folder / "model_index.json").read_text())["_class_name"]
            options = {} if "XL" in name else {"safety_checker": None}
            pipeline: Any = getattr(diffusers, name).from_pretrained(folder, **options)
            pipeline.to(torch.float32)
            pipeline.set_progress_bar_config(disable=True)
            loaded[configuration] = pipeline
        return loaded[configuration]

    return get


def theirs(
    pipeline: Any,
    checkpoint: Path,
    sampler: str,
    steps: int,
    config: dict[str, Any] | None = None,
    **arguments: Any,
) -> NDArray[np.float64]:
    """The picture that diffusers draws, [H, W, 3] in [0, 1] at 8 bits."""
    entry = CATALOGUE[sampler]
    kind: Any = getattr(diffusers, entry.class_name)
    keys = {**entry.decides, **(config or {})}
    scheduler = kind.from_pretrained(checkpoint, subfolder="scheduler", **keys)
    # Components handed to a constructor, which forces what it forces on the scheduler.
    parts = {**pipeline.components, "scheduler": scheduler}
    options = {} if "XL" in type(pipeline).__name__ else {"requires_safety_checker": False}
    made = type(pipeline)(**parts, **options)
    made.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(SEED)
    Drawn.generator = generator
    if "eta" in inspect.signature(made.__call__).parameters and sampler in ETA:
        arguments["eta"] = ETA[sampler]
    image = made(
        prompt=PROMPT,
        num_inference_steps=steps,
        generator=generator,
        output_type="np",
        **arguments,
    ).images[0]
    return np.round(image * 255.0) / 255.0


def ours(pipeline: Pipeline, sampler: str, steps: int, **values: Any) -> NDArray[np.float64]:
    """The picture drawn here, as `theirs` gives it."""
    sampling = Sampling(sampler, steps=steps, eta=ETA.get(sampler))
    request = Request(PROMPT, seed=SEED, size=Size(64, 64), sampling=sampling, **values)
    return np.asarray(pipeline(request).images[0]) / 255.0


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_sampler_draws_what_diffusers_draws(
    family: str,
    sampler: str,
    reference: Callable[[str], Any],
    checkpoint: Callable[[str], Path],
    pipelines: Callable[[str], Pipeline],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scheduling_dpmsolver_sde, "BrownianTreeNoiseSampler", Drawn)
    expected = theirs(
        reference(family),
        checkpoint(family),
        sampler,
        7,
        negative_prompt=NEGATIVE,
        guidance_scale=5.0,
        width=64,
        height=64,
    )
    found = ours(pipelines(family), sampler, 7, negative_prompt=NEGATIVE, guidance=5.0)
    assert expected.std() > 0.01
    assert psnr(found, expected, peak=1.0) >= LEAST_PSNR


@pytest.mark.parametrize("steps", [1, 4, 8])
@pytest.mark.parametrize("scale", [1.0, 8.5])
def test_lcm_draws_what_diffusers_draws_from_one_row(
    scale: float,
    steps: int,
    reference: Callable[[str], Any],
    checkpoint: Callable[[str], Path],
    pipelines: Callable[[str], Pipeline],
) -> None:
    pipeline = pipelines("lcm")
    expected = theirs(
        reference("lcm"),
        checkpoint("lcm"),
        "lcm",
        steps,
        guidance_scale=scale,
        width=64,
        height=64,
    )
    found = ours(pipeline, "lcm", steps, guidance=scale)
    assert psnr(found, expected, peak=1.0) >= LEAST_PSNR
    # The scale is an input of the U-Net, not a second row.
    assert {batch for name, batch in pipeline.compiled if name == "unet"} == {1}


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_turbo_draws_what_diffusers_draws_without_guidance(
    steps: int,
    reference: Callable[[str], Any],
    checkpoint: Callable[[str], Path],
    pipelines: Callable[[str], Pipeline],
) -> None:
    # SDXL Turbo: SDXL's architecture, ancestral steps over trailing timesteps, no guidance.
    expected = theirs(
        reference("xl"),
        checkpoint("xl"),
        "euler_ancestral",
        steps,
        config={"timestep_spacing": "trailing"},
        guidance_scale=0.0,
        width=64,
        height=64,
    )
    request = Request(
        PROMPT,
        seed=SEED,
        size=Size(64, 64),
        sampling=Sampling("euler_ancestral", schedule="trailing", steps=steps),
        guidance=0.0,
    )
    found = np.asarray(pipelines("xl")(request).images[0]) / 255.0
    assert psnr(found, expected, peak=1.0) >= LEAST_PSNR


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_draws_another_picture_with_each_of_its_schedules(
    sampler: str, checkpoint: Callable[[str], Path], pipelines: Callable[[str], Pipeline]
) -> None:
    pipeline = pipelines("shapes")
    found: dict[str | None, bytes] = {}
    for schedule in (None, *schedules_of(sampler)):
        # Polyexponential levels are exponential ones where their exponent is 1, as it is by itself.
        rho = 2.0 if schedule == "polyexponential" else None
        sampling = Sampling(sampler, schedule=schedule, steps=4, rho=rho)
        request = Request(PROMPT, seed=SEED, sampling=sampling, guidance=2.0)
        pixels = np.asarray(pipeline(request).images[0])
        assert pixels.shape == (128, 128, 3)
        assert pixels.std() > 5.0
        found[schedule] = pixels.tobytes()
    # The checkpoint's own spacing is one of them, for the classes that have a choice of spacing.
    kind: Any = getattr(diffusers, CATALOGUE[sampler].class_name)
    own = kind.from_pretrained(checkpoint("shapes"), subfolder="scheduler").config.timestep_spacing
    if own in found:
        assert found.pop(None) == found[own]
    assert len(set(found.values())) == len(found)
