"""Image to image against diffusers' own pipelines, and what a request keeps of a picture."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.outcome import Run
from tests.runtime.task_reference import ETA, PROMPT, SEED, check_against, picture

from latentrt.bundle.errors import InputError
from latentrt.runtime import ImageToImage, Pipeline, Request, Sampling
from latentrt.runtime.image import read_request
from latentrt.runtime.schedules import CATALOGUE

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
]

SAMPLERS = ("ddim", "euler", "euler_ancestral", "dpmpp_2m", "unipc", "plms", "heun", "lcm")
STRENGTHS = (0.2, 0.5, 0.8, 1.0)


@pytest.fixture(scope="module")
def reference(checkpoint: Callable[[str], Path]) -> Callable[[str, str], Any]:
    """diffusers' image-to-image pipeline of a tiny checkpoint, with a sampler."""
    loaded: dict[str, Any] = {}

    def get(configuration: str, sampler: str) -> Any:
        folder = checkpoint(configuration)
        if configuration not in loaded:
            name = json.loads((folder / "model_index.json").read_text())["_class_name"]
            kind: Any = getattr(diffusers, name.replace("Pipeline", "Img2ImgPipeline"))
            options = {} if "XL" in name else {"safety_checker": None}
            loaded[configuration] = kind.from_pretrained(folder, **options)
        entry = CATALOGUE[sampler]
        scheduler: Any = getattr(diffusers, entry.class_name)
        parts = {
            **loaded[configuration].components,
            "scheduler": scheduler.from_pretrained(folder, subfolder="scheduler", **entry.decides),
        }
        kind = type(loaded[configuration])
        options = {} if "XL" in kind.__name__ else {"requires_safety_checker": False}
        # Components handed to a constructor, which forces what it forces on the scheduler.
        made = kind(**parts, **options)
        made.set_progress_bar_config(disable=True)
        return made

    return get


def check(
    pipeline: Pipeline,
    reference: Any,
    sampler: str,
    strength: float,
    steps: int = 6,
    image: Image.Image | None = None,
) -> None:
    """Draw by both, and compare latents and pictures."""
    image = image or picture()
    sampling = Sampling(sampler, steps=steps, eta=ETA.get(sampler))
    task = ImageToImage(image, strength)
    request = Request(PROMPT, seed=SEED, task=task, sampling=sampling)
    found = pipeline(request)
    eta = {"eta": ETA[sampler]} if sampler in ETA else {}
    latents = reference(
        prompt=PROMPT,
        image=image,
        strength=strength,
        num_inference_steps=steps,
        guidance_scale=request.guidance.scale,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
        **eta,
    ).images
    check_against(reference, found, latents)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_picture_becomes_what_diffusers_makes_of_it(
    pipelines: Callable[[str], Pipeline],
    reference: Callable[[str, str], Any],
    sampler: str,
    strength: float,
) -> None:
    check(pipelines("heads"), reference("heads", sampler), sampler, strength, steps=10)


@pytest.mark.parametrize(
    ("configuration", "sampler", "strength"),
    [
        ("lists", "euler", 0.5),
        ("xl", "euler", 0.6),
        ("xl", "dpmpp_2m_sde", 0.6),
        ("lcm", "lcm", 0.5),
        # In the middle of what several evaluations or orders belong to.
        ("heads", "heun", 0.5),
        ("heads", "dpm2_ancestral", 0.5),
        ("heads", "dpmpp_2s", 0.67),
        ("heads", "dpmpp_3s", 0.84),
        ("heads", "dpmpp_3s", 0.67),
        ("heads", "dpmpp_3m", 0.67),
        ("heads", "unipc", 0.67),
        ("heads", "deis", 0.67),
        ("heads", "ddpm", 0.5),
        ("heads", "lcm", 0.5),
        ("heads", "tcd", 0.5),
        ("heads", "plms", 0.17),
    ],
)
def test_every_family_and_kind_of_sampler_begins_in_the_middle_as_in_diffusers(
    pipelines: Callable[[str], Pipeline],
    reference: Callable[[str, str], Any],
    configuration: str,
    sampler: str,
    strength: float,
) -> None:
    steps = 4 if configuration == "lcm" else 6
    theirs = reference(configuration, sampler)
    check(pipelines(configuration), theirs, sampler, strength, steps)


@pytest.mark.parametrize("size", [(61, 77), (128, 96), (64, 64)])
def test_a_picture_of_another_size_is_resized_as_in_diffusers(
    pipelines: Callable[[str], Pipeline],
    reference: Callable[[str, str], Any],
    size: tuple[int, int],
) -> None:
    check(pipelines("heads"), reference("heads", "euler"), "euler", 0.4, image=picture(*size))


def test_images_of_one_request_are_those_made_alone(pipelines: Callable[[str], Pipeline]) -> None:
    asked = Request(PROMPT, seed=SEED, task=ImageToImage(picture(), 0.5), sampling="euler")
    found = pipelines("heads")(asked.with_values(num_images=3))
    for i in range(3):
        alone = pipelines("heads")(found.request_of(i))
        # At another batch size an engine may add up in another order.
        np.testing.assert_allclose(found.latents[i], alone.latents[0], rtol=0, atol=1e-4)
    assert not np.allclose(found.latents[0], found.latents[1])


def test_a_strength_that_takes_no_step_is_refused(pipelines: Callable[[str], Pipeline]) -> None:
    task = ImageToImage(picture(), 0.1)
    with pytest.raises(InputError, match=r"strength: expected at least 0\.2 with 5 steps"):
        pipelines("heads").run(Request("a", task=task, sampling=Sampling(steps=5)))


def test_the_rungekutta_steps_of_pndm_cannot_begin_in_the_middle(
    pipelines: Callable[[str], Pipeline],
) -> None:
    task = ImageToImage(picture(), 0.5)
    with pytest.raises(InputError, match="sampler: expected a sampler without Runge-Kutta"):
        pipelines("heads").run(Request("a", task=task, sampling=Sampling("pndm", steps=8)))


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, float("nan"), "x", None])
def test_a_strength_outside_its_range_is_refused(strength: Any) -> None:
    with pytest.raises(InputError, match="strength: expected a number above 0 and at most 1"):
        ImageToImage(picture(), strength)


@pytest.mark.parametrize(
    "image", [None, "a.png", np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), b"", 3]
)
def test_a_file_that_is_not_a_picture_is_refused(image: Any) -> None:
    with pytest.raises(InputError, match=r"image: expected a Pillow image, or a uint8 array"):
        ImageToImage(image)


def test_a_request_keeps_its_picture_when_the_callers_array_changes() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    task = ImageToImage(pixels)
    pixels[:] = 9
    assert not task.image.any()
    assert task == pickle.loads(pickle.dumps(task))
    assert task != ImageToImage(pixels)
    assert hash(task) == hash(ImageToImage(np.zeros((8, 8, 3), np.uint8)))


def test_json_names_the_picture_by_its_hash_and_wants_it_back() -> None:
    task = ImageToImage(picture(), 0.4)
    stored = json.loads(json.dumps(Request("a", task=task).to_json()))
    assert Request.from_json(stored, [task.image]) == Request("a", task=task)
    for others in ([], [np.zeros((8, 8, 3), np.uint8)]):
        with pytest.raises(InputError, match=r"image: expected the image that was begun with"):
            Request.from_json(stored, others)


@pytest.mark.parametrize("task", ["x", {"name": "x"}, {}, {"name": "text_to_image", "image": "a"}])
def test_a_task_that_does_not_exist_is_refused(task: Any) -> None:
    with pytest.raises(InputError, match="task"):
        Request.from_json({"prompt": "a", "schema": 2, "task": task})


def test_the_command_begins_with_a_file_and_draws_it_again(
    run: Run, bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    begun, out, again = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    picture().save(begun)
    options = ["--sampler", "euler", "--steps", 4, "--seed", 1, "--engine", "onnxruntime"]
    ordered = ["generate", bundle("heads"), "a", "-o", out, "--image", begun, "--strength", 0.5]
    assert run(*ordered, *options).status == 0
    with Image.open(out) as drawn:
        assert drawn.size == (64, 64)
    assert read_request(out, [np.asarray(picture())]).task == ImageToImage(picture(), 0.5)
    repeated = ["generate", bundle("heads"), "--from", out, "-o", again, "--engine", "onnxruntime"]
    assert "image: expected the image that was begun with" in run(*repeated).err
    assert run(*repeated, "--image", begun).status == 0
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(again)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--strength", 0.5), "strength: expected none without --image, got 0.5"),
        (("--image", "/nowhere.png"), "/nowhere.png: no such file"),
        (("--image", __file__), "is not a readable picture"),
        (("--image", "PICTURE", "--strength", 2), "strength: expected a number above 0"),
    ],
)
def test_the_command_says_which_option_is_wrong(
    run: Run,
    bundle: Callable[[str], Path],
    tmp_path: Path,
    options: tuple[Any, ...],
    message: str,
) -> None:
    picture().save(tmp_path / "a.png")
    given = [tmp_path / "a.png" if each == "PICTURE" else each for each in options]
    done = run("generate", bundle("heads"), "a", "-o", tmp_path / "b.png", *given)
    assert done.status == 2
    assert message in done.err
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    ("counting", "strength", "steps"),
    [("webui", 0.75, 16), ("webui", 1.0, 20), ("exact", 0.75, 20), ("diffusers", 0.75, 15)],
)
def test_steps_are_counted_as_asked(
    pipelines: Callable[[str], Pipeline], counting: Any, strength: float, steps: int
) -> None:
    # The web UI takes int(min(strength, 0.999) * 20) + 1 steps, or exactly those asked for.
    task = ImageToImage(picture(), strength, counting)
    plan = pipelines("heads").plan(Request("a", task=task, sampling=Sampling("euler", steps=20)))
    assert len(plan.schedule.evaluations) == steps
