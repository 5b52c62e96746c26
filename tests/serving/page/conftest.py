"""What tests of the page share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from tests.controlnets import saved_controlnet
from tests.serving.live import Live, listening, service
from tests.serving.page.browser import STEPS, chromium, filled, opened_page

from latentrt.serving.limits import Limits
from latentrt.serving.shelf import Shelf


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
    """The tiny model "heads", with a LoRA's name and two ControlNets."""
    folder = tmp_path_factory.mktemp("shelf")
    for name in ("loras", "controls"):
        (folder / name).mkdir()
    (folder / "loras" / "broken.safetensors").write_bytes(b"no LoRA")
    for seed, name in enumerate(("edges", "lines")):
        saved_controlnet(checkpoint("heads"), folder / "controls" / name, seed)
    return Shelf((bundle("heads"),), folder / "loras", None, folder / "controls")


@pytest.fixture(scope="module")
def own(shelf: Shelf) -> Iterator[Live]:
    with listening(service(shelf, Limits(steps=400, images=4))) as found:
        yield found


@pytest.fixture
def url(own: Live) -> str:
    return f"{own.url}/"


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened_page(browser, url) as found:
        filled(found, prompt="a red circle", steps=STEPS)
        yield found
