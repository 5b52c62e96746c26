"""Masks that are painted on the page."""

from __future__ import annotations

import httpx
import numpy as np
from playwright.sync_api import Browser, Page, expect
from tests.serving.page.browser import (
    STEPS,
    drop,
    filled,
    finished,
    newest,
    opened_page,
    picture,
    pixels,
)
from tests.serving.page.masks import paint, painted


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
