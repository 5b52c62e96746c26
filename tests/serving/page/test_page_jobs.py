"""The page draws: jobs, previews, the queue, lost connections."""

from __future__ import annotations

import json
import re
import time

import httpx
from playwright.sync_api import Browser, Page, Route, expect
from tests.serving.live import Live
from tests.serving.page.browser import (
    STEPS,
    draw_long,
    filled,
    finished,
    newest,
    request_of,
    submitted,
)


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
    expect(page.locator("#jobs .hint")).to_contain_text(re.compile(r"Step \d+ of 400"))
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
    expect(page.locator("#jobs .hint")).to_contain_text(re.compile(r"Step \d+ of 400"))
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
    body = {"prompt": "before", "sampling": {"steps": 400}, "num_images": 4}
    before = [httpx.post(f"{url}v1/jobs", json=body).json()["id"] for _ in range(3)]
    try:
        page.click("#draw")
        expect(page.locator("#jobs .hint")).to_have_text("Place 2 in the queue")
        page.click("#stop")
        expect(page.locator("#jobs .hint")).to_have_text("Stopped.")
    finally:
        for name in before:
            httpx.delete(f"{url}v1/jobs/{name}")


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
