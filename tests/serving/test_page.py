"""The page at `/`, in a browser."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image, PngImagePlugin
from playwright.sync_api import Browser, Page, Route, expect
from tests.controlnets import saved_controlnet
from tests.serving.browser import (
    chromium,
    drop,
    filled,
    finished,
    newest,
    of_data_url,
    opened_page,
    picture,
    pixels,
    request_of,
    submitted,
)
from tests.serving.live import Live, listening, service

from latentrt.serving.gates import Gate
from latentrt.serving.limits import Limits
from latentrt.serving.shelf import Shelf

STEPS = 4
LONG = {"prompt": "a long one", "steps": 40, "num_images": 4}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def shelf(
    bundle: Callable[[str], Path],
    checkpoint: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Shelf:
    """The tiny model "heads", with a LoRA's name and a ControlNet."""
    folder = tmp_path_factory.mktemp("shelf")
    for name in ("loras", "controls"):
        (folder / name).mkdir()
    (folder / "loras" / "broken.safetensors").write_bytes(b"no LoRA")
    saved_controlnet(checkpoint("heads"), folder / "controls" / "edges")
    return Shelf((bundle("heads"),), folder / "loras", None, folder / "controls")


@pytest.fixture(scope="module")
def own(shelf: Shelf) -> Iterator[Live]:
    with listening(service(shelf, Limits(steps=40, images=4))) as found:
        yield found


@pytest.fixture
def url(own: Live) -> str:
    return f"{own.url}/"


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened_page(browser, url) as found:
        filled(found, prompt="a red circle", steps=STEPS)
        yield found


def draw_long(page: Page) -> None:
    """Draw for long, until a preview is there."""
    filled(page, **LONG)
    page.click("#draw")
    expect(page.locator("#jobs .tiles img").first).to_have_attribute(
        "src", re.compile("^data:image/jpeg")
    )


def paint(page: Page, kind: str, line: list[tuple[float, float]]) -> None:
    """Draw a line on the mask, in shares of its width and height, by a kind of pointer."""
    page.locator("#mask").evaluate("each => each.scrollIntoView({block: 'center'})")
    box = page.locator("#mask").bounding_box()
    assert box is not None
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in line]
    client = page.context.new_cdp_session(page)
    kinds = ("touchStart", "touchMove", "touchEnd")
    if kind != "touch":
        kinds = ("mousePressed", "mouseMoved", "mouseReleased")
    for i, (x, y) in enumerate([*places, places[-1]]):
        event = kinds[0] if i == 0 else kinds[1] if i < len(places) else kinds[2]
        if kind == "touch":
            points = [] if event == "touchEnd" else [{"x": x, "y": y}]
            client.send("Input.dispatchTouchEvent", {"type": event, "touchPoints": points})
            continue
        pointer: dict[str, Any] = {"type": event, "x": x, "y": y, "button": "left", "buttons": 1}
        pointer |= {"clickCount": 1, "pointerType": kind, "force": 0.5}
        client.send("Input.dispatchMouseEvent", pointer)


def painted(page: Page) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The mask that is submitted, uint8 [h, w]: white where it was painted, grey at edges."""
    content = of_data_url(submitted(page)["task"]["mask"])
    return np.asarray(Image.open(io.BytesIO(content)).convert("L"))


def test_a_prompt_becomes_a_picture_that_a_reload_keeps(page: Page, url: str) -> None:
    filled(page, negative_prompt="blur", seed=2**60, scale=3, sampler="dpmpp_2m", schedule="karras")
    page.press("#prompt", "Control+Enter")
    finished(page)
    job = newest(url)
    content = httpx.get(f"{url.rstrip('/')}{job['images'][0]}").content
    request = request_of(content)
    assert request["prompt"] == "a red circle"
    assert request["negative_prompt"] == "blur"
    assert request["seed"] == 2**60
    assert request["guidance"]["scale"] == 3
    names = ("sampler", "schedule", "steps")
    assert [request["sampling"][name] for name in names] == ["dpmpp_2m", "karras", STEPS]
    page.reload()
    expect(page.locator("#gallery img")).to_have_count(1)
    shown = page.evaluate(
        "async () => [...new Uint8Array(await (await fetch("
        "document.querySelector('#gallery img').src)).arrayBuffer())]"
    )
    assert bytes(shown) == content
    assert page.input_value("#prompt") == "a red circle"


def test_a_job_shows_previews_and_steps_and_esc_stops_it(page: Page, own: Live) -> None:
    draw_long(page)
    expect(page.locator("#jobs .hint")).to_contain_text(re.compile(r"Step \d+ of 40"))
    expect(page.locator("#jobs .hint")).to_contain_text(re.compile(r"\d+ (s|min) left"))
    page.keyboard.press("Escape")
    expect(page.locator("#jobs .hint")).to_have_text("Stopped.")
    assert newest(f"{own.url}/")["status"] == "cancelled"
    assert own.service.painter.load.rows == 0
    expect(page.locator("#stop")).to_be_disabled()


def test_a_reload_finds_the_running_job(page: Page, url: str) -> None:
    draw_long(page)
    page.reload()
    expect(page.locator("#jobs article")).to_contain_text("a long one")
    expect(page.locator("#jobs .hint")).to_contain_text(re.compile(r"Step \d+ of 40"))
    page.click("#stop")
    expect(page.locator("#jobs .hint")).to_have_text("Stopped.")
    assert newest(url)["status"] == "cancelled"


def test_a_picture_drawn_while_the_page_was_away_is_collected(page: Page, url: str) -> None:
    submitted(page)
    page.goto("about:blank")
    until = time.monotonic() + 60
    while newest(url)["status"] != "done":
        assert time.monotonic() < until
        time.sleep(0.02)
    page.goto(url)
    finished(page)
    expect(page.locator("#gallery img")).to_have_count(1)
    page.reload()
    expect(page.locator("#presets button")).to_have_count(4)
    expect(page.locator("#jobs article")).to_have_count(0)
    expect(page.locator("#gallery img")).to_have_count(1)


def test_a_waiting_job_shows_its_place_in_the_queue(page: Page, url: str) -> None:
    body = {"prompt": "before", "sampling": {"steps": 40}, "num_images": 4}
    before = [httpx.post(f"{url}v1/jobs", json=body).json()["id"] for _ in range(3)]
    try:
        page.click("#draw")
        expect(page.locator("#jobs .hint")).to_have_text("Place 2 in the queue")
        page.click("#stop")
        expect(page.locator("#jobs .hint")).to_have_text("Stopped.")
    finally:
        for name in before:
            httpx.delete(f"{url}v1/jobs/{name}")


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


def test_a_dropped_picture_without_parameters_is_begun_with(page: Page) -> None:
    content = picture(96, 64)
    drop(page, "#jobs", "photo.png", content)
    expect(page.locator("#image-name")).to_have_text("photo.png, 96 x 64")
    body = submitted(page)
    finished(page)
    assert body["task"]["name"] == "image_to_image"
    assert of_data_url(body["task"]["image"]) == content
    assert body["size"] == "96x64"


def test_a_mask_is_painted_with_mouse_pen_and_finger(browser: Browser, url: str) -> None:
    with opened_page(browser, url, has_touch=True) as page:
        filled(page, prompt="a ring", steps=STEPS)
        page.get_by_text("Inpaint", exact=True).click()
        drop(page, "#source-drop", "photo.png", picture())
        page.locator("#brush-size").fill("20")
        for pointer, height in (("mouse", 0.2), ("pen", 0.5), ("touch", 0.8)):
            paint(page, pointer, [(0.25, height), (0.5, height), (0.75, height)])
        mask = painted(page) > 127
        finished(page)
    for height in (0.2, 0.5, 0.8):
        # A brush of 0.2 * 64 pixels along half of the width, with round ends. The browser rounds
        # a pointer to its pixels, and what is at most 127 at an edge is not counted.
        rows, columns = np.nonzero(mask & (abs(np.arange(64) - 64 * height) < 9)[:, None])
        assert abs(rows - 64 * height).max() <= 7.5
        assert abs(columns.min() - 9.6) <= 2
        assert abs(columns.max() - 54.4) <= 2
        assert abs(len(rows) - (12.8 * 32 + np.pi * 6.4**2)) <= 60


def test_only_the_painted_part_is_redrawn(page: Page, url: str) -> None:
    page.get_by_text("Inpaint", exact=True).click()
    before = picture()
    drop(page, "#source-drop", "photo.png", before)
    filled(page, mask_blur=0, strength=1)
    paint(page, "mouse", [(0.25, 0.25), (0.75, 0.25)])
    mask = painted(page)
    finished(page)
    content = httpx.get(f"{url.rstrip('/')}{newest(url)['images'][0]}").content
    different = abs(pixels(content) - pixels(before)).max(axis=2) > 0
    assert not different[32:].any()  # the line lies at a quarter of the height
    assert not different[mask == 0].any()
    assert different[mask == 255].mean() > 0.9  # two pictures may share a colour


def test_a_mask_is_undone_erased_inverted_and_painted_by_keys(page: Page) -> None:
    page.get_by_text("Inpaint", exact=True).click()
    drop(page, "#source-drop", "photo.png", picture())
    left, right = [(0.2, 0.2), (0.2, 0.8)], [(0.8, 0.2), (0.8, 0.8)]
    paint(page, "mouse", left)
    paint(page, "mouse", right)
    page.click("#mask-undo")
    one = painted(page)
    assert (one[32, 13], one[32, 51]) == (255, 0)
    page.click("#mask-invert")
    other = painted(page)
    # Alpha has 8 bits.
    assert abs(one.astype(int) + other - 255).max() <= 1
    page.click("#mask-erase")
    paint(page, "mouse", right)
    assert painted(page)[32, 51] == 0
    page.click("#mask-clear")
    page.click("#draw")
    expect(page.locator("#mask-error")).to_have_text("Paint over what is to be redrawn.")
    page.click("#mask-erase")
    page.locator("#mask").focus()
    for each in ("ArrowLeft", " ", "ArrowDown", " "):
        page.keyboard.press(each)
    by_keys = painted(page)
    assert (by_keys[32, 45], by_keys[32, 20]) == (0, 0)
    assert by_keys.max() == 255


def test_everything_is_done_by_keys(page: Page) -> None:
    page.locator("#prompt").focus()
    page.keyboard.type(" and a square")
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id"))
        if seen[-1] == "draw":
            break
    order = ["negative_prompt", "task-text", "width", "swap", "height", "steps", "scale", "sampler"]
    order += ["schedule", "seed", "dice", "num_images", "model", "draw"]
    assert [each for each in seen if each in order] == order
    page.keyboard.press("Enter")
    finished(page)
    page.locator("#gallery button").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator("#gallery button").first).to_be_focused()
    page.locator("#task-text").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#source")).to_be_visible()


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


ERRORS: list[tuple[str, object, str]] = [
    ("steps", 41, "at most 40"),
    ("steps", 0, "greater than or equal to 1"),
    ("num_images", 5, "at most 4"),
    ("seed", "seven", "valid integer"),
    ("width", 0, "got 0"),
    ("width", 60, "60"),
    ("scale", -1, "greater than or equal to 0"),
    ("rescale", 2, "less than or equal to 1"),
]


def test_an_error_is_beside_the_field_that_it_names(page: Page) -> None:
    page.get_by_text("More", exact=True).click()
    for name, value, text in ERRORS:
        field = page.locator(f"#form [name={name}]")
        before = field.input_value()
        field.fill(str(value))
        page.click("#draw")
        error = page.locator(f"#{name}-error")
        expect(error).to_contain_text(text)
        assert field.get_attribute("aria-describedby") == f"{name}-error"
        assert error.locator(f"xpath=..//*[@name='{name}']").count() == 1
        field.fill(before)
        expect(error).to_have_count(0)


def test_a_lora_that_cannot_be_read_is_named(page: Page) -> None:
    page.locator("summary", has_text="LoRA").click()
    page.click("#lora-add")
    page.get_by_label("Strength of broken").fill("0.5")
    body = submitted(page)
    assert body["loras"] == [{"name": "broken", "scale": 0.5}]
    expect(page.locator("#form .error:visible")).to_contain_text("broken.safetensors")
    page.get_by_label("Remove broken").click()
    assert "loras" not in submitted(page)
    finished(page)


def test_a_controlnet_reads_its_picture(page: Page, url: str) -> None:
    page.locator("summary", has_text="ControlNet").click()
    page.select_option("#control", "edges")
    page.click("#draw")
    expect(page.locator("#control_image-error")).to_be_visible()
    content = picture(seed=1)
    drop(page, "#control-drop", "edges.png", content)
    filled(page, control_scale=0.5, control_mode="prompt")
    (control,) = submitted(page)["controls"]
    assert of_data_url(control.pop("image")) == content
    assert control == {"name": "edges", "scale": 0.5, "start": 0, "end": 1, "mode": "prompt"}
    finished(page)
    assert newest(url)["status"] == "done"


def test_the_size_is_swapped_and_the_seed_rolled_and_used_again(page: Page) -> None:
    filled(page, width=64, height=128)
    page.click("#swap")
    assert (page.input_value("#width"), page.input_value("#height")) == ("128", "64")
    page.get_by_text("Square").click()
    assert (page.input_value("#width"), page.input_value("#height")) == ("64", "64")
    page.click("#dice")
    seed = page.input_value("#seed")
    assert seed.isdecimal()
    page.click("#draw")
    finished(page)
    page.fill("#seed", "")
    page.click("#reuse")
    assert page.input_value("#seed") == seed


def test_the_code_of_the_form_runs(page: Page, url: str, tmp_path: Path) -> None:
    prompt = 'it\'s "$HOME" `ls` \\n 50%\nnext'
    filled(page, prompt=prompt, seed=2**60, steps=2)
    page.locator("summary", has_text="curl and Python").click()
    without = code_of(page, "curl")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("text=Copy curl")
    expect(page.get_by_text("Copied", exact=True)).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == without[-1]
    (tmp_path / "image.png").write_bytes(picture())
    drop(page, "#jobs", "image.png", picture())
    expect(page.locator("#curl")).to_contain_text("image.png")
    commands = (without, code_of(page, "curl"), code_of(page, "python"))
    for number, command in enumerate(commands):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        name = newest(url)["id"]
        assert name in done.stdout or number == 2
        while newest(url)["status"] != "done":
            time.sleep(0.02)
        content = httpx.get(f"{url}v1/jobs/{name}/images/0").content
        request = request_of(content)
        assert (request["prompt"], request["seed"]) == (prompt, 2**60)
        kind = "text_to_image" if number == 0 else "image_to_image"
        assert request["task"]["name"] == kind
    assert (tmp_path / "picture-0.png").read_bytes() == content


def code_of(page: Page, language: str) -> list[str]:
    """The command that runs the code on the page."""
    code = page.text_content(f"#{language}") or ""
    return ["bash", "-c", code] if language == "curl" else [sys.executable, "-c", code]


def check_width(page: Page) -> None:
    """Nothing has to be scrolled sideways on a phone, nor on the narrowest that WCAG asks for."""
    for width in (320, 360):
        page.set_viewport_size({"width": width, "height": 640})
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_nothing_is_wider_than_a_phone(browser: Browser, url: str) -> None:
    with opened_page(browser, url) as page:
        filled(page, prompt="a" * 300, steps=STEPS, num_images=4)
        page.get_by_text("Inpaint", exact=True).click()
        drop(page, "#source-drop", f"{'long' * 30}.png", picture(256, 64))
        paint(page, "mouse", [(0.5, 0.5)])
        for each in page.locator("summary:visible").all():
            each.click()
        page.click("#lora-add")
        drop(page, "#control-drop", "edges.png", picture(256, 64))
        check_width(page)
        page.get_by_label("Remove broken").click()
        page.select_option("#control", "")
        page.click("#draw")
        finished(page)
        check_width(page)
        page.locator("#gallery button").first.click()
        check_width(page)
        viewer = page.locator("#viewer")
        assert viewer.evaluate("each => each.scrollWidth <= each.clientWidth")


def check_axe(page: Page, *, dark: bool = False) -> None:
    """Every rule in light colours, or contrast alone in dark ones."""
    page.emulate_media(color_scheme="dark" if dark else "light")
    only = {"runOnly": ["color-contrast"]} if dark else {}
    found = Axe().run(page, options={"resultTypes": ["violations"], **only})
    assert found.violations_count == 0, found.generate_report()


def test_axe_finds_no_violation(browser: Browser, url: str) -> None:
    with opened_page(browser, url) as page:
        page.get_by_text("Inpaint", exact=True).click()
        for each in page.locator("summary:visible").all():
            each.click()
        page.click("#lora-add")
        drop(page, "#source-drop", "photo.png", picture())
        drop(page, "#control-drop", "photo.png", picture())
        page.click("#draw")
        expect(page.locator("#mask-error")).to_be_visible()
        check_axe(page)
        check_axe(page, dark=True)
        page.get_by_label("Remove broken").click()
        page.get_by_text("Text to image").click()
        page.select_option("#control", "")
        draw_long(page)
        check_axe(page)
        page.click("#stop")
        filled(page, steps=2, num_images=1)
        page.click("#draw")
        finished(page)
        page.locator("#gallery button").first.click()
        check_axe(page)
        check_axe(page, dark=True)


def test_a_key_is_asked_for_and_sent_behind_a_prefix(browser: Browser, shelf: Shelf) -> None:
    """The service listens behind a proxy that strips /sd."""
    guard = Gate(("secret",))
    with (
        listening(service(shelf, Limits(steps=40, images=4)), guard) as guarded,
        browser.new_context() as context,
    ):
        page = context.new_page()
        inner = f"{guarded.url}/"
        # Whatever is asked for outside the prefix is not found.
        context.route(
            re.compile("^http"),
            lambda route: (
                route.continue_(url=route.request.url.replace("/sd/", "/", 1))
                if route.request.url.startswith(f"{inner}sd/")
                else route.fulfill(status=404)
            ),
        )
        page.goto(f"{inner}sd/")
        expect(page.locator("#key-dialog")).to_be_visible()
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-error")).to_be_visible()
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        expect(page.locator("#presets button")).to_have_count(4)
        filled(page, prompt="a ring", steps=2)
        page.click("#draw")
        finished(page)
        page.reload()
        expect(page.locator("#presets button")).to_have_count(4)
        expect(page.locator("#gallery img")).to_have_count(1)


def test_a_broken_connection_is_made_again(browser: Browser, url: str) -> None:
    posted: list[str] = []
    followed: list[str] = []

    def post(route: Route) -> None:
        """The first answer is lost on its way."""
        posted.append(json.loads(route.request.post_data or "")["id"])
        if len(posted) == 1:
            route.fetch()
            route.abort()
        else:
            route.continue_()

    def follow(route: Route) -> None:
        """The first answer ends after an event."""
        followed.append(route.request.url)
        if len(followed) == 1:
            route.fulfill(
                body="event: queued\ndata: {}\nid: 1\n\n", content_type="text/event-stream"
            )
        else:
            route.continue_()

    with browser.new_context() as context:
        page = context.new_page()
        page.goto(url)
        expect(page.locator("#presets button")).to_have_count(4)
        context.route(
            "**/v1/jobs",
            lambda route: route.continue_() if route.request.method == "GET" else post(route),
        )
        context.route("**/events?*", follow)
        filled(page, prompt="a ring", steps=2)
        page.click("#draw")
        finished(page)
    assert len(posted) == 2
    assert posted[0] == posted[1]
    assert [each[-7:] for each in followed] == ["after=0", "after=1"]
    assert [job["id"] for job in httpx.get(f"{url}v1/jobs").json()].count(posted[0]) == 1


def test_the_page_waits_for_a_service_that_starts(browser: Browser, url: str) -> None:
    error = {"error": {"message": "the service is starting", "code": "starting"}}
    with browser.new_context() as context:
        page = context.new_page()
        context.route("**/v1/catalogue", lambda route: route.fulfill(status=503, json=error))
        page.goto(url)
        expect(page.locator("#service")).to_have_text("The service is starting.")
        context.unroute("**/v1/catalogue")
        expect(page.locator("#presets button")).to_have_count(4)
        expect(page.locator("#service")).to_have_text("heads")


def test_the_catalogue_has_names_and_limits(url: str) -> None:
    found = httpx.get(f"{url}v1/catalogue").json()
    assert found["models"] == [{"name": "heads", "size": "64x64"}]
    assert (found["loras"], found["embeddings"], found["controls"]) == (["broken"], [], ["edges"])
    limits = {"steps": 40, "images": 4, "pixels": None, "body": 64 << 20}
    assert found["limits"] == limits
    (sampler,) = (each for each in found["samplers"] if each["name"] == "dpmpp_2m")
    assert sampler["title"] == "DPM++ 2M"
    assert "karras" in sampler["schedules"]


def test_the_page_is_one_small_file_that_runs_its_own_script_alone(url: str) -> None:
    answer = httpx.get(url)
    assert len(answer.content) < 70_000
    addresses = set(re.findall(r"https?://[^\s'\"`)]+", answer.text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of SVG, which is not asked for
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self' data: blob:;" in policy
    assert "unsafe" not in policy
