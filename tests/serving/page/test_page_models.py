"""The page offers what the chosen model can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect
from tests.serving.live import Live, listening, service
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

from latentrt.serving.shelf import Shelf

# What diffusers' pipelines give a U-Net of 4, 5 and 8 channels.
TASKS = {
    "heads": ["text_to_image", "image_to_image", "inpainting"],
    "lists5": ["depth_to_image"],
    "heads8": ["instruct_pix2pix"],
}


@pytest.fixture(scope="module")
def own(bundle: Callable[[str], Path], checkpoint: Callable[[str], Path]) -> Iterator[Live]:
    """Bundles of several kinds, and "lists", a checkpoint that is not open."""
    names = ("heads", "heads@1", "lists5", "heads8")
    shelf = Shelf((*(bundle(name) for name in names), checkpoint("lists")))
    with listening(service(shelf)) as found:
        yield found


def tasks(page: Page) -> list[str]:
    """The values of the tasks that can be seen."""
    return page.locator("#form .tabs label:visible").evaluate_all(
        "all => all.map(each => each.control.value)"
    )


def drawn(page: Page, url: str) -> dict[str, Any]:
    """The request in the picture that was drawn last."""
    finished(page)
    return request_of(httpx.get(f"{url.rstrip('/')}{newest(url)['images'][0]}").content)


def test_a_model_offers_the_tasks_of_its_unet(page: Page) -> None:
    for name, expected in TASKS.items():
        filled(page, model=name)
        assert tasks(page) == expected
        assert page.locator("#form [name=task]:checked").input_value() == expected[0]
        hires = page.locator("#hires-panel")
        expect(hires).to_be_visible(visible=name == "heads")


def test_a_checkpoint_offers_every_task_until_it_is_open(page: Page) -> None:
    filled(page, model="lists")
    assert len(tasks(page)) == 5
    page.click("#draw")
    finished(page)
    expect(page.locator("label[for=task-depth]")).to_be_hidden()
    assert tasks(page) == TASKS["heads"]


def test_a_depth_map_is_drawn_with(page: Page, url: str) -> None:
    filled(page, model="lists5")
    drop(page, "#source-drop", "photo.png", picture())
    page.click("#draw")
    expect(page.locator("#depth-error")).to_have_text("Choose the depth map.")
    content = picture(seed=1)
    drop(page, "#depth-drop", "depth.png", content)
    expect(page.locator("#depth-drop .hint")).to_have_text("depth.png, 64 x 64")
    filled(page, strength=0.5)
    task = submitted(page)["task"]
    assert of_data_url(task["depth"]) == content
    assert (task["name"], task["strength"]) == ("depth_to_image", 0.5)
    assert drawn(page, url)["task"]["name"] == "depth_to_image"


def test_a_picture_is_changed_by_an_instruction(page: Page, url: str) -> None:
    filled(page, model="heads8")
    content = picture()
    drop(page, "#source-drop", "photo.png", content)
    expect(page.locator("#strength")).to_be_hidden()
    filled(page, image_guidance=0.5)
    page.click("#draw")
    expect(page.locator("#image_guidance-error")).to_contain_text("greater than or equal to 1")
    filled(page, image_guidance=2.5)
    task = submitted(page)["task"]
    assert of_data_url(task.pop("image")) == content
    assert task == {"name": "instruct_pix2pix", "image_guidance": 2.5}
    assert drawn(page, url)["task"]["image_guidance"] == 2.5


def test_a_refiner_takes_over(page: Page, url: str) -> None:
    filled(page, model="heads")
    page.locator("summary", has_text="Refiner").click()
    # A U-Net of other channels refines nothing. What "lists" is, is known once it is open.
    names = page.locator("#refiner option").evaluate_all("all => all.map(each => each.value)")
    assert names == ["", "heads@1", "lists"]
    filled(page, refiner="heads@1", refiner_at=1)
    page.click("#draw")
    expect(page.locator("#refiner_at-error")).to_contain_text("less than 1")
    filled(page, refiner_at=0.5)
    assert submitted(page)["refiner"] == {"name": "heads@1", "at": 0.5}
    assert drawn(page, url)["refiner"] == {"name": "heads@1", "at": 0.5}
    for other in ("task-inpaint", "task-text"):
        page.locator(f"label[for={other}]").click()
        expect(page.locator("#refiner-panel")).to_be_visible(visible=other == "task-text")
    page.locator("summary", has_text="Hires fix").click()
    page.get_by_label("Draw, make larger, draw over").check()
    expect(page.locator("#refiner-panel")).to_be_hidden()
    assert "refiner" not in submitted(page)
    page.click("#stop")


def test_the_catalogue_has_what_models_can_do(own: Live) -> None:
    found = {each["name"]: each for each in httpx.get(f"{own.url}/v1/catalogue").json()["models"]}
    for name, expected in TASKS.items():
        # Hires fix is text to image.
        assert [each for each in found[name]["tasks"] if each != "hires_fix"] == expected
        assert found[name]["size"] == "64x64"
    assert {name: found[name]["refiners"] for name in ("heads", "heads@1")} == {
        "heads": ["heads@1", "lists"],
        "heads@1": ["heads", "lists"],
    }
