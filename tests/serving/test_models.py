"""Models are opened when asked for, and closed when their weights would take too much."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.serving.live import Live, listening, opened
from tests.serving.orders import pixels

from latentrt.engines.cache.cache import Build
from latentrt.runtime import Pipeline, Size
from latentrt.serving.models import Models
from latentrt.serving.opening import service_over
from latentrt.serving.shelf import Shelf

BODY = {"prompt": "a fox", "seed": 1, "sampling": {"steps": 2}}


class Counted:
    """Opens pipelines, and has the names of those opened and of those closed."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.closed: list[str] = []

    def __call__(self, path: Path) -> Pipeline:
        pipeline, name = opened(path), path.name
        self.opened.append(name)
        close = pipeline.close

        def counted() -> None:
            self.closed.append(name)
            close()

        pipeline.close = counted
        return pipeline


@pytest.fixture
def shelf(bundle: Callable[[str], Path]) -> Shelf:
    return Shelf(tuple(bundle(name) for name in ("heads", "lists", "lcm")))


def test_the_model_that_was_used_longest_ago_is_closed_first(shelf: Shelf) -> None:
    counted = Counted()
    models = Models(shelf, counted, memory=_size(shelf, "heads") + _size(shelf, "lists"))
    for name in ("heads", "lists", "heads", "lcm"):
        with models.using(name) as pipeline:
            assert pipeline.bundle.path.name == name
    assert counted.opened == ["heads", "lists", "lcm"]
    assert counted.closed[0] == "lists"
    assert models.open_names[-1] == "lcm"


def test_a_model_in_use_is_not_closed(shelf: Shelf) -> None:
    counted = Counted()
    models = Models(shelf, counted, memory=1)
    with models.using("heads"), models.using("lists"):
        assert counted.closed == []
        assert models.open_names == ("heads", "lists")
    # One stays: the next request may be for it.
    assert len(models.open_names) == 1


def test_a_model_is_opened_once_by_many_threads(shelf: Shelf) -> None:
    counted = Counted()
    models = Models(shelf, counted)
    found: list[Pipeline] = []

    def use() -> None:
        with models.using("heads") as pipeline:
            found.append(pipeline)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted.opened == ["heads"]
    assert len(set(map(id, found))) == 1
    models.close()
    assert counted.closed == ["heads"]


def test_sizes_given_are_compiled_at_the_start_and_others_refused(
    bundle: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTRT_CACHE", str(tmp_path))  # where nothing is compiled yet
    service = service_over(
        Shelf((bundle("heads"),)),
        opened,
        sizes=[Size(64, 64), Size(64, 96)],
        other_sizes="refuse",
        batch_sizes=(2,),
    )
    with listening(service) as live:
        for size, status in (("64x64", "done"), ("64x96", "done"), ("96x64", "error")):
            job = _draw(live, size)
            assert job["status"] == status, job
        assert (job["error"]["status"], job["error"]["field"]) == (400, "size")


def test_another_model_file_at_the_same_place_changes_no_picture(
    bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "heads"
    shutil.copytree(bundle("heads"), folder)

    def engines(path: Path, *, build: Build) -> Pipeline:
        return Pipeline.open(path, build=build, engine="onnxruntime", verify="off")

    with listening(service_over(Shelf((folder,)), engines, batch_sizes=(2,))) as live:
        before = _draw(live, None)
        shutil.rmtree(folder)
        shutil.copytree(bundle("lists"), folder)
        after = _draw(live, None)
        first, second = (
            pixels(httpx.get(live.url + each["images"][0]).content) for each in (before, after)
        )
        assert np.array_equal(first, second)
        # A size that is not compiled yet needs the file, which is another one.
        other = _draw(live, "96x96")
        assert other["status"] == "error"
        assert other["error"]["status"] == 503
        assert _draw(live, None)["status"] == "done"


def _draw(live: Live, size: str | None) -> dict[str, Any]:
    job = httpx.post(f"{live.url}/v1/jobs", json=BODY | {"size": size}).json()
    httpx.get(live.url + job["events_url"], timeout=120)
    return httpx.get(live.url + job["poll_url"]).json()


def _size(shelf: Shelf, name: str) -> int:
    weights = shelf.model(name) / "weights"
    return sum(each.stat().st_size for each in weights.iterdir())
