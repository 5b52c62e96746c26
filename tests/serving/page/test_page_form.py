"""The form of the page, its errors, and the same as code."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import httpx
from PIL import Image
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

ERRORS: list[tuple[str, object, str]] = [
    ("steps", 401, "at most 400"),
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


def test_controlnets_are_added_filled_and_removed(page: Page, url: str) -> None:
    page.locator("summary", has_text="ControlNet").click()
    for name in ("edges", "lines", "edges"):
        page.select_option("#control", name)
        page.click("#control-add")
    contents = [picture(seed=seed) for seed in range(3)]
    zones = "#controls > fieldset:nth-of-type({})"
    for number in (1, 3):
        drop(page, zones.format(number), f"{number}.png", contents[number - 1])
    page.click("#draw")
    error = page.locator('[id="controls.1.image-error"]')
    expect(error).to_have_text("Choose the ControlNet's picture.")
    drop(page, zones.format(2), "2.png", contents[1])
    expect(error).to_have_count(0)
    second, third = (page.locator(zones.format(number)) for number in (2, 3))
    second.get_by_label("Strength").fill("0.5")
    second.get_by_label("Counts more").select_option("prompt")
    second.get_by_label("From,").fill("0.25")
    second.get_by_label("To,").fill("0.75")
    expect(third.get_by_label("Lower threshold")).to_be_hidden()
    third.get_by_label("Find edges").check()
    third.get_by_label("Lower threshold").fill("50")
    page.locator(zones.format(1)).get_by_label("Remove edges").click()
    found = submitted(page)["controls"]
    assert [of_data_url(each.pop("image")) for each in found] == contents[1:]
    assert found == [
        {"name": "lines", "scale": 0.5, "start": 0.25, "end": 0.75, "mode": "prompt"},
        {
            "name": "edges",
            "scale": 1,
            "start": 0,
            "end": 1,
            "mode": "balanced",
            "canny": [50, 200],
        },
    ]
    finished(page)
    assert newest(url)["status"] == "done"


def test_an_error_of_a_controlnet_is_beside_its_field(page: Page) -> None:
    page.locator("summary", has_text="ControlNet").click()
    for number in (1, 2):
        page.click("#control-add")
        drop(page, f"#controls > fieldset:nth-of-type({number})", "a.png", picture())
    zone = page.locator("#controls > fieldset:nth-of-type(2)")
    for label, value, text in (
        ("Strength", 101, "less than or equal to 100"),
        ("To,", 2, "less than or equal to 1"),
    ):
        field = zone.get_by_label(label)
        before = field.input_value()
        field.fill(str(value))
        page.click("#draw")
        expect(zone.locator(".error")).to_contain_text(text)
        expect(field).to_have_attribute("aria-invalid", "true")
        field.fill(before)
        expect(zone.locator(".error")).to_have_count(0)


def test_a_picture_comes_in_the_format_that_is_chosen(page: Page, url: str) -> None:
    page.get_by_text("More", exact=True).click()
    expect(page.locator("#quality-field")).to_be_hidden()
    for name in ("jpeg", "webp"):
        filled(page, format=name, quality=60, seed=3)
        body = submitted(page)
        finished(page)
        assert (body["format"], body["quality"]) == (name, 60)
        page.locator("#gallery button").first.click()
        expect(page.locator("#parameters")).to_contain_text("Seed: 3")
        with page.expect_download() as loaded:
            page.click("#download")
        assert loaded.value.suggested_filename == f"a-red-circle-3.{name}"
        with Image.open(loaded.value.path()) as found:
            assert found.format == name.upper()
        page.click("#close")


def test_a_fast_picture_is_asked_for_and_its_file_says_so(page: Page, tmp_path: Path) -> None:
    page.get_by_text("More", exact=True).click()
    fast = page.get_by_label("Fast: some steps from memory")
    assert "fast" not in submitted(page)
    finished(page)
    fast.check()
    assert submitted(page)["fast"] is True
    finished(page)
    page.locator("#gallery button").first.click()
    expect(page.locator("#parameters")).to_contain_text("Reuse: ")
    with page.expect_download() as loaded:
        page.click("#download")
    loaded.value.save_as(tmp_path / "fast.png")
    page.click("#close")
    fast.uncheck()
    drop(page, "#jobs", "fast.png", (tmp_path / "fast.png").read_bytes())
    expect(fast).to_be_checked()


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
