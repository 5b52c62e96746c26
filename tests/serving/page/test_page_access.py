"""Who can use the page: by keys, on a phone, with a screen reader, with an API key."""

from __future__ import annotations

import re

import httpx
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from tests.serving.live import listening, service
from tests.serving.page.browser import (
    STEPS,
    draw_long,
    drop,
    filled,
    finished,
    opened_page,
    picture,
)
from tests.serving.page.masks import paint

from latentrt.serving.gates import Gate
from latentrt.serving.limits import Limits
from latentrt.serving.shelf import Shelf


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
        page.click("#control-add")
        drop(page, "#controls fieldset", "edges.png", picture(256, 64))
        page.get_by_label("Find edges").check()
        check_width(page)
        page.get_by_label("Remove broken").click()
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
        page.click("#control-add")
        drop(page, "#source-drop", "photo.png", picture())
        drop(page, "#controls fieldset", "photo.png", picture())
        page.get_by_label("Find edges").check()
        page.click("#draw")
        expect(page.locator("#mask-error")).to_be_visible()
        check_axe(page)
        check_axe(page, dark=True)
        page.get_by_label("Remove broken").click()
        page.get_by_text("Text to image").click()
        page.get_by_label("Remove edges").click()
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
        listening(service(shelf, Limits(steps=400, images=4)), guard) as guarded,
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


def test_the_page_is_one_small_file_that_runs_its_own_script_alone(url: str) -> None:
    answer = httpx.get(url)
    assert len(answer.content) < 75_000
    addresses = set(re.findall(r"https?://[^\s'\"`)]+", answer.text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of SVG, which is not asked for
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self' data: blob:;" in policy
    assert "unsafe" not in policy
