"""Painting on the page's mask, for tests."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page
from tests.serving.page.browser import of_data_url, submitted


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
