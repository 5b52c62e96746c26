"""The page in a headless Chromium, for tests."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

STEPS = 4
LONG = {"prompt": "a long one", "steps": 400, "num_images": 4}
DROP = """
([target, name, kind, text]) => {
  const bytes = Uint8Array.from(atob(text), each => each.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, {type: kind}));
  for (const event of ["dragover", "drop"]) {
    const dropped = new DragEvent(event, {dataTransfer: data, bubbles: true, cancelable: true});
    document.querySelector(target).dispatchEvent(dropped);
  }
}
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser; without one installed the test is skipped."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("install chromium: apt-get install chromium")
    expect.set_options(timeout=30_000)  # milliseconds: other tests run beside these
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@contextmanager
def opened_page(browser: Browser, url: str, *, has_touch: bool = False) -> Iterator[Page]:
    """The page, ready to draw. It must log no error, and ask this service alone."""
    size: ViewportSize = {"width": 1280, "height": 900}
    with browser.new_context(viewport=size, has_touch=has_touch) as opened:
        opened.set_default_timeout(30_000)
        page = opened.new_page()
        wrong: list[str] = []

        def watch(watched: Page) -> None:
            watched.on("pageerror", lambda error: wrong.append(str(error)))
            watched.on(
                "console",
                lambda message: (
                    wrong.append(message.text) if message.type in ("error", "warning") else None
                ),
            )

        opened.on("page", watch)
        watch(page)
        asked: list[str] = []
        opened.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        expect(page.locator("#presets button")).to_have_count(4)
        yield page
        others = [each for each in asked if not each.startswith((url, "data:", "blob:" + url))]
        assert others == []
        # Chromium logs each answer of 4xx, which is how the service names a wrong field.
        assert [
            each for each in wrong if "the server responded with a status of 4" not in each
        ] == []


def drop(page: Page, target: str, name: str, content: bytes, kind: str = "image/png") -> None:
    """Drop a file on an element."""
    page.evaluate(DROP, [target, name, kind, base64.b64encode(content).decode()])


def filled(page: Page, **values: object) -> None:
    """Fill fields of the form by their names, and choose in lists."""
    for name, value in values.items():
        field = page.locator(f"#form [name={name}]")
        if field.evaluate("each => each.tagName") == "SELECT":
            field.select_option(str(value))
        else:
            field.fill(str(value))


def finished(page: Page) -> None:
    """Wait until the newest job has its pictures."""
    expect(page.locator("#jobs .tiles button img").first).to_be_visible()


def submitted(page: Page) -> dict[str, Any]:
    """Draw, and the body that was posted."""
    with page.expect_request(
        lambda each: each.url.endswith("/v1/jobs") and each.method == "POST"
    ) as asked:
        page.click("#draw")
    return json.loads(asked.value.post_data or "")


def request_of(content: bytes) -> dict[str, Any]:
    """The request in a PNG of ours."""
    text: dict[str, str] = getattr(Image.open(io.BytesIO(content)), "text", {})
    return json.loads(text["latentrt"])


def newest(url: str) -> dict[str, Any]:
    """The job that came last."""
    return httpx.get(f"{url}v1/jobs").json()[0]


def picture(width: int = 64, height: int = 64, seed: int = 0) -> bytes:
    """A PNG of large random areas, without parameters."""
    areas = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(areas).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(content: bytes) -> np.ndarray[Any, np.dtype[np.int16]]:
    """A file's pixels, RGB."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(np.int16)


def of_data_url(text: str) -> bytes:
    """A data URL's content."""
    return base64.b64decode(text.partition(",")[2])


def draw_long(page: Page) -> None:
    """Draw for long, until a preview is there."""
    filled(page, **LONG)
    page.click("#draw")
    expect(page.locator("#jobs .tiles img").first).to_have_attribute(
        "src", re.compile("^data:image/jpeg")
    )
