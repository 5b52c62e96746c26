"""What the web UI's API lists, reads from pictures, and refuses."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image
from tests.runtime.test_variants import write_lora
from tests.serving.live import Live, listening, service
from tests.serving.webui_client import QUICK, Alone, client_of, drawing_alone

from latentrt.bundle.tensors import save_tensors
from latentrt.runtime import HiresFix, Lora, Refiner, Request, Sampling
from latentrt.serving.limits import Limits
from latentrt.serving.shelf import Shelf
from latentrt.serving.webui.bodies import Txt2ImgBody
from latentrt.serving.webui.checkpoints import skips_layers
from latentrt.serving.webui.infotext import parsed_infotext, written_infotext
from latentrt.serving.webui.job_body import job_body
from latentrt.serving.webui.options import WebOptions


@pytest.fixture(scope="module")
def stocked(
    bundle: Callable[[str], Path],
    checkpoint: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Live]:
    """A service with a LoRA, and an empty folder of embeddings."""
    loras, embeddings = (tmp_path_factory.mktemp(name) for name in ("loras", "embeddings"))
    write_lora(checkpoint("heads"), loras / "clay.safetensors", seed=1)
    shelf = Shelf((bundle("heads"), bundle("lists")), loras, embeddings)
    with listening(service(shelf, Limits(steps=40, images=4))) as found:
        yield found


@pytest.fixture(scope="module")
def alone(stocked: Live) -> Iterator[Alone]:
    with drawing_alone(stocked) as found:
        yield found


@pytest.fixture
def client(stocked: Live) -> Any:
    return client_of(stocked)


def request_of(**fields: Any) -> Request:
    sampling = Sampling("euler_ancestral", "linspace", steps=3, eta=1.0)
    return Request("a fox", **{"seed": 5, "sampling": sampling, "guidance": 7.0, **fields})


def test_everything_that_a_client_lists_is_there(client: Any) -> None:
    assert [each["model_name"] for each in client.get_sd_models()] == ["heads", "lists"]
    names = client.util_get_sampler_names()
    assert {"Euler", "Euler a", "DPM++ 2M", "DPM++ 2M SDE", "DDIM", "UniPC"} <= set(names)
    aliases = {alias for each in client.get_samplers() for alias in each["aliases"]}
    assert {"k_euler_a", "k_dpmpp_2m", "k_dpm_2_a"} <= aliases
    labels = [each["label"] for each in client.get_schedulers()]
    assert labels[0] == "Automatic"
    assert {"Karras", "Exponential", "SGM Uniform"} <= set(labels)
    assert [each["name"] for each in client.get_loras()] == ["clay"]
    assert client.get_embeddings() == {"loaded": {}, "skipped": {}}
    assert "Lanczos" in [each["name"] for each in client.get_upscalers()]
    assert "Latent" in [each["name"] for each in client.get_latent_upscale_modes()]
    for empty in ("sd_vae", "hypernetworks", "face_restorers", "prompt_styles"):
        assert getattr(client, f"get_{empty}")() == []
    assert client.get_scripts()["txt2img"] == ["controlnet"]
    assert client.get_cmd_flags()["api"] is True
    assert client.get_memory()["ram"]["used"] > 1 << 20
    assert client.refresh_checkpoints() is None
    client.util_wait_for_ready()


@pytest.mark.parametrize("name", ["euler_a", "dpmpp_2m_sde", "lms", "unipc"])
def test_a_sampler_is_found_by_its_alias(client: Any, name: str) -> None:
    assert client.txt2img(**QUICK, sampler_name=f"k_{name}").info["sampler_name"] == f"k_{name}"


def test_every_listed_sampler_draws_with_the_client_s_defaults(client: Any) -> None:
    for name in client.util_get_sampler_names():
        assert len(client.txt2img(**QUICK, sampler_name=name).images) == 1, name


def test_a_prompt_names_a_lora(client: Any, stocked: Live, alone: Alone) -> None:
    answer = client.txt2img(**QUICK | {"prompt": "a fox <lora:clay:0.8>"})
    lora = Lora(stocked.service.shelf.lora("clay"), 0.8)
    assert np.array_equal(np.asarray(answer.image), alone(request_of(weights=[lora])))
    assert answer.info["prompt"] == "a fox <lora:clay:0.8>"


def test_a_hires_fix_draws_over_at_the_larger_size(client: Any, alone: Alone) -> None:
    answer = client.txt2img(
        **QUICK,
        enable_hr=True,
        hr_scale=1.5,
        hr_upscaler="Latent (bicubic)",
        hr_second_pass_steps=2,
    )
    task = HiresFix(1.5, 0.7, "webui", steps=2, upscaler="latent_bicubic")
    assert np.array_equal(np.asarray(answer.image), alone(request_of(task=task)))
    assert answer.image.size == (96, 96)


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ({"hr_scale": 1.45}, (88, 88)),  # the web UI rounds 92 down to a multiple of 8
        ({"hr_resize_x": 96, "hr_resize_y": 96}, (96, 96)),
        ({"hr_resize_x": 96}, (96, 96)),
        ({"hr_resize_y": 96}, (96, 96)),
    ],
)
def test_the_larger_size_is_the_web_ui_s(
    client: Any, asked: dict[str, Any], size: tuple[int, int]
) -> None:
    answer = client.txt2img(**QUICK | {"steps": 1}, enable_hr=True, **asked)
    assert answer.image.size == size


def test_a_refiner_draws_the_last_steps(client: Any, stocked: Live, alone: Alone) -> None:
    fields = {"refiner_checkpoint": "heads", "refiner_switch_at": 0.5}
    sent = {**QUICK, "sampler_name": "Euler", "steps": 4, **fields}
    answer = client.custom_post("txt2img", sent, baseurl=True)
    request = request_of(
        sampling=Sampling("euler", "linspace", steps=4),
        refiner=Refiner(stocked.service.shelf.model("heads"), 0.5),
    )
    assert np.array_equal(np.asarray(answer.image), alone(request))


def test_clip_skip_2_leaves_out_one_layer(client: Any, alone: Alone) -> None:
    answer = client.txt2img(**QUICK, override_settings={"CLIP_stop_at_last_layers": 2})
    assert np.array_equal(np.asarray(answer.image), alone(request_of(clip_skip=1)))
    assert "Clip skip: 2" in answer.info["infotexts"][0]


def test_clip_skip_changes_nothing_with_sdxl(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    file, folder = tmp_path / "one.safetensors", tmp_path / "other"
    save_tensors(file, {"conditioner.embedders.1.model.ln_final.bias": np.zeros(1, np.float32)})
    (folder / "text_encoder_2").mkdir(parents=True)
    shelf = Shelf((bundle("xl"), bundle("heads"), file, folder))
    found = {name: skips_layers(shelf, name) for name in shelf.model_names}
    assert found == {"xl": False, "heads": True, "one": False, "other": False}
    options = WebOptions(CLIP_stop_at_last_layers=2)
    assert job_body(Txt2ImgBody(), options, shelf).clip_skip == 0
    options = options.changed({"sd_model_checkpoint": "heads"})
    assert job_body(Txt2ImgBody(), options, shelf).clip_skip == 1


def test_a_size_is_rounded_down_to_what_latents_have(client: Any) -> None:
    answer = client.txt2img(**QUICK | {"width": 71, "height": 64})
    assert answer.image.size == (64, 64)


def test_a_client_that_goes_cancels_its_request(stocked: Live) -> None:
    sent = {**QUICK, "steps": 40, "batch_size": 4, "force_task_id": "task(left)"}
    jobs = stocked.service.jobs
    address = urlsplit(stocked.url)
    connection = HTTPConnection(str(address.hostname), address.port)
    headers = {"content-type": "application/json"}
    connection.request("POST", "/sdapi/v1/txt2img", json.dumps(sent), headers)
    _wait(lambda: any(job.id == "task-left-" and job.state == "running" for job in jobs))
    connection.close()
    job = jobs.get("task-left-")
    _wait(lambda: job.over)
    assert job.state == "cancelled"
    assert stocked.service.painter.load.rows == 0


def _wait(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not done():
        assert time.monotonic() < until
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("sent", "status", "text"),
    [
        ({"restore_faces": True}, 400, "restore_faces: expected false"),
        ({"tiling": True}, 400, "tiling: expected false"),
        ({"script_name": "x/y/z plot"}, 400, "script_name: expected none"),
        ({"s_churn": 0.5}, 400, "s_churn: expected 0"),
        ({"seed_resize_from_w": 512}, 400, "seed_resize_from_w: expected 0"),
        ({"alwayson_scripts": {"ADetailer": {"args": [True, {}]}}}, 400, "alwayson_scripts"),
        ({"override_settings": {"sd_vae": "mse.pt"}}, 400, "sd_vae: expected Automatic"),
        ({"override_settings": {"sd_model_checkpoint": "other"}}, 404, "model: expected one of"),
        ({"override_settings": {"CLIP_stop_at_last_layers": 0}}, 400, "CLIP_stop_at_last_layers"),
        ({"sampler_name": "Restart"}, 400, "sampler: expected"),
        ({"batch_size": 3, "n_iter": 2}, 400, "batch_size * n_iter: expected at most 4, got 6"),
        ({"steps": 0}, 422, "steps: "),
        ({"steps": 41}, 400, "steps: expected at most 40"),
        ({"subseed_strength": 2}, 422, "subseed_strength: "),
        ({"enable_hr": True, "hr_upscaler": "R-ESRGAN 4x+"}, 400, "hr_upscaler: expected one of"),
        ({"enable_hr": True, "hr_prompt": "a cat"}, 400, "hr_prompt: expected none"),
        ({"enable_hr": True, "hr_resize_x": 96, "hr_resize_y": 128}, 400, "hr_resize_x: expected"),
        ({"refiner_checkpoint": "other"}, 404, "model: expected one of"),
    ],
)
def test_what_would_change_the_picture_and_is_not_done_is_refused_by_name(
    stocked: Live, sent: dict[str, Any], status: int, text: str
) -> None:
    answer = httpx.post(f"{stocked.url}/sdapi/v1/txt2img", json={**QUICK, **sent})
    assert (answer.status_code, answer.json()["detail"][: len(text)]) == (status, text)


@pytest.mark.parametrize(
    "sent",
    [
        {"styles": ["any"], "save_images": True, "do_not_save_grid": True, "unknown": 1},
        {"restore_faces": None, "alwayson_scripts": None, "sampler_index": None, "seed": 5},
        {"alwayson_scripts": {"ADetailer": {"args": [False]}, "Refiner": {"args": []}, "x": {}}},
        {"override_settings": {"unknown": 3, "sd_vae": "None"}},
        {"s_tmin": 0, "s_noise": 1, "hr_upscaler": "R-ESRGAN 4x+", "denoising_strength": 0.3},
    ],
)
def test_what_changes_nothing_is_ignored(stocked: Live, alone: Alone, sent: dict[str, Any]) -> None:
    fields = {**QUICK, "sampler_name": "Euler a", "cfg_scale": 7, "eta": 1.0, **sent}
    answer = httpx.post(f"{stocked.url}/sdapi/v1/txt2img", json=fields)
    assert answer.status_code == 200, answer.text
    picture = Image.open(io.BytesIO(base64.b64decode(answer.json()["images"][0])))
    assert np.array_equal(np.asarray(picture), alone(request_of()))


def test_pictures_are_not_sent_where_they_are_not_wanted(client: Any) -> None:
    answer = client.txt2img(**QUICK, send_images=False)
    assert answer.images == []
    assert answer.info["seed"] == 5


def test_a_picture_is_a_jpeg_where_options_say_so(client: Any) -> None:
    answer = client.txt2img(**QUICK, override_settings={"samples_format": "jpg"})
    assert answer.image.format == "JPEG"
    # The client's own copy would be a PNG without its text.
    sent = {"image": answer.json["images"][0]}
    told = client.custom_post("png-info", sent, baseurl=True).json
    assert told["info"] == answer.info["infotexts"][0]


def test_what_is_not_done_to_finished_pictures_is_said(client: Any) -> None:
    with pytest.raises(RuntimeError) as caught:
        client.extra_single_image(Image.new("RGB", (8, 8)))
    assert caught.value.args[0] == 404


def test_a_picture_without_parameters_has_none(client: Any) -> None:
    image = Image.new("RGB", (8, 8))
    image.info["title"] = "mine"
    told = client.png_info(image).json
    assert told == {"info": "", "items": {"title": "mine"}, "parameters": {}}


WEB_UI = """a fox, (red:1.2)
in snow
Negative prompt: a dog,
blurry
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 42, Size: 512x768, \
Model hash: 6ce0161689, Model: v1-5, Lora hashes: "clay: 1234, wool: 5678", Hires upscale: 1.5, \
Version: v1.10.1"""


def test_a_web_ui_s_text_is_taken_apart() -> None:
    found = parsed_infotext(WEB_UI)
    assert found["Prompt"] == "a fox, (red:1.2)\nin snow"
    assert found["Negative prompt"] == "a dog,\nblurry"
    assert found["Schedule type"] == "Karras"
    assert (found["Size-1"], found["Size-2"]) == ("512", "768")
    assert found["Lora hashes"] == "clay: 1234, wool: 5678"
    assert found["Version"] == "v1.10.1"


def test_a_text_without_a_line_of_fields_is_a_prompt() -> None:
    assert parsed_infotext("a fox: red, small")["Prompt"] == "a fox: red, small"


def test_a_text_that_is_written_is_read_again() -> None:
    fields = {"Steps": 3, "Sampler": "Euler a", "Model": 'a, "b": c', "Seed": 7, "None": None}
    found = parsed_infotext(written_infotext("a fox", "a dog", fields))
    assert found["Model"] == 'a, "b": c'
    assert (found["Prompt"], found["Negative prompt"], found["Seed"]) == ("a fox", "a dog", "7")
