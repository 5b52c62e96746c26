"""Pictures on the page: those that are dropped, and those in the gallery."""

from __future__ import annotations

import base64
import io
import time
from typing import Any

import httpx
from PIL import Image, PngImagePlugin
from playwright.sync_api import Page, expect
from tests.serving.page.browser import (
    drop,
    filled,
    finished,
    newest,
    of_data_url,
    picture,
    request_of,
    submitted,
)


def test_a_dropped_picture_of_ours_fills_the_form(page: Page, url: str) -> None:
    body: dict[str, Any] = {
        "prompt": "a blue square\nand a ring",
        "negative_prompt": "grey",
        "seed": 2**60 + 1,
        "size": "64x128",
        "sampling": {"sampler": "euler_ancestral", "schedule": "exponential", "steps": 2},
        "guidance": {"scale": 4.5, "rescale": 0.25},
        "clip_skip": 1,
        "task": {"name": "hires_fix", "scale": 1.5, "strength": 0.5, "upscaler": "lanczos"},
    }
    job = httpx.post(f"{url}v1/jobs", json=body).json()
    while newest(url)["status"] != "done":
        time.sleep(0.02)
    drop(page, "#jobs", "it.png", httpx.get(f"{url}v1/jobs/{job['id']}/images/0").content)
    expect(page.locator("#status")).to_have_text("The form is filled from it.png.")
    filled_body = submitted(page)
    finished(page)
    for name in ("prompt", "negative_prompt", "seed", "size", "sampling", "guidance", "clip_skip"):
        assert filled_body[name] == body[name], name
    assert filled_body["task"] == body["task"]


# As AUTOMATIC1111's web UI wrote them before it had "Schedule type".
PARAMETERS = """a fox, (snow:1.2)
second line
Negative prompt: blurry,
low quality
Steps: 3, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 12, Size: 128x64, """


PARAMETERS += 'Model: "a, b", Clip skip: 2'


WEB_UI = {
    "prompt": "a fox, (snow:1.2)\nsecond line",
    "negative_prompt": "blurry,\nlow quality",
    "steps": "3",
    "sampler": "dpmpp_2m",
    "schedule": "karras",
    "scale": "6.5",
    "seed": "12",
    "width": "128",
    "height": "64",
    "clip_skip": "1",
}


def test_a_dropped_picture_of_a_web_ui_fills_the_form(page: Page) -> None:
    for kind in ("tEXt", "zTXt", "iTXt", "compressed iTXt"):
        info = PngImagePlugin.PngInfo()
        if "iTXt" in kind:
            info.add_itxt("parameters", PARAMETERS, zip=kind.startswith("compressed"))
        else:
            info.add_text("parameters", PARAMETERS, zip=kind == "zTXt")
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
        page.evaluate("document.getElementById('form').reset()")
        drop(page, "#jobs", f"{kind}.png", buffer.getvalue())
        expect(page.locator("#status")).to_have_text(f"The form is filled from {kind}.png.")
        assert {name: page.input_value(f"#form [name={name}]") for name in WEB_UI} == WEB_UI, kind


def test_a_jpeg_or_webp_of_a_web_ui_fills_the_form(page: Page) -> None:
    for number, (kind, order) in enumerate(
        (kind, order) for kind in ("JPEG", "WEBP") for order in "<>"
    ):
        exif = Image.Exif()
        exif.endian = order
        exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + PARAMETERS.encode("utf-16-be")
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, kind, exif=exif.tobytes())
        page.evaluate("document.getElementById('form').reset()")
        drop(page, "#jobs", f"{number}.{kind}", buffer.getvalue())
        expect(page.locator("#status")).to_have_text(f"The form is filled from {number}.{kind}.")
        found = {name: page.input_value(f"#form [name={name}]") for name in WEB_UI}
        assert found == WEB_UI, (kind, order)


def test_a_jpeg_or_webp_of_ours_fills_the_form(page: Page, url: str) -> None:
    body: dict[str, Any] = {
        "prompt": "a blue squ\u00e4re \U0001f7e6",
        "seed": 2**60 + 1,
        "size": "64x128",
        "sampling": {"sampler": "dpmpp_2m", "schedule": "karras", "steps": 2},
        "guidance": {"scale": 4.5},
        "controls": [
            {"name": "lines", "scale": 0.5, "start": 0.25, "end": 0.75, "mode": "control"}
        ],
    }
    image = "data:image/png;base64," + base64.b64encode(picture()).decode()
    controls = [{**each, "image": image} for each in body["controls"]]
    for kind in ("jpeg", "webp"):
        job = httpx.post(f"{url}v1/jobs", json={**body, "controls": controls, "format": kind})
        name = job.json()["id"]
        while newest(url)["status"] != "done":
            time.sleep(0.02)
        drop(page, "#jobs", f"it.{kind}", httpx.get(f"{url}v1/jobs/{name}/images/0").content)
        expect(page.locator("#status")).to_have_text(f"The form is filled from it.{kind}.")
        page.click("#draw")
        expect(page.locator(".error:visible")).to_have_text("Choose the ControlNet's picture.")
        drop(page, "#controls fieldset", "lines.png", picture())
        found = submitted(page)
        finished(page)
        assert of_data_url(found["controls"][0].pop("image")) == picture()
        assert {name: found[name] for name in body} == body
        page.evaluate("localStorage.clear()")


def test_a_dropped_picture_without_parameters_is_begun_with(page: Page) -> None:
    content = picture(96, 64)
    drop(page, "#jobs", "photo.png", content)
    expect(page.locator("#image-name")).to_have_text("photo.png, 96 x 64")
    body = submitted(page)
    finished(page)
    assert body["task"]["name"] == "image_to_image"
    assert of_data_url(body["task"]["image"]) == content
    assert body["size"] == "96x64"


def test_the_gallery_downloads_sends_and_deletes(page: Page) -> None:
    filled(page, seed=5)
    page.click("#draw")
    finished(page)
    page.locator("#gallery button").click()
    expect(page.locator("#parameters")).to_contain_text("Seed: 5")
    with page.expect_download() as loaded:
        page.click("#download")
    assert loaded.value.suggested_filename == "a-red-circle-5.png"
    assert request_of(loaded.value.path().read_bytes())["seed"] == 5
    page.click("#use-inpaint")
    expect(page.locator("#mask")).to_be_visible()
    page.locator("#gallery button").click()
    page.click("#use-image")
    expect(page.locator("#image-name")).to_contain_text("picture 5, 64 x 64")
    assert page.is_checked("#task-image")
    page.locator("#gallery button").click()
    page.click("#delete")
    expect(page.locator("#gallery img")).to_have_count(0)
    page.reload()
    expect(page.locator("#presets button")).to_have_count(4)
    expect(page.locator("#gallery img")).to_have_count(0)
