"""Jobs over HTTP: submit, follow, poll, cancel."""

from __future__ import annotations

import io
import json
import time
from typing import Any

import httpx
import numpy as np
from httpx_sse import connect_sse
from PIL import Image
from tests.serving.live import Live, opened
from tests.serving.orders import pixels

from latentrt.runtime import Request, Sampling

BODY: dict[str, Any] = {
    "prompt": "a red circle",
    "seed": 3,
    "sampling": {"sampler": "euler_a", "steps": 4},
}
LONG: dict[str, Any] = {"prompt": "a square", "sampling": {"steps": 40}, "num_images": 4}


def submit(live: Live, body: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(f"{live.url}/v1/jobs", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()


def events(live: Live, job: dict[str, Any], after: int = 0) -> list[tuple[str, dict[str, Any]]]:
    with (
        httpx.Client(timeout=60) as client,
        connect_sse(
            client, "GET", live.url + job["events_url"], headers={"Last-Event-ID": str(after)}
        ) as source,
    ):
        assert source.response.headers["cache-control"] == "no-cache"
        return [(each.event, json.loads(each.data)) for each in source.iter_sse()]


def test_a_job_tells_its_steps_and_gives_the_picture_that_is_drawn_alone(live: Live) -> None:
    job = submit(live, BODY)
    told = events(live, job)
    kinds = [kind for kind, _ in told]
    assert kinds[:2] == ["queued", "started"]
    assert kinds[-2:] == ["image", "done"]
    steps = [data for kind, data in told if kind == "step"]
    assert steps[-1] == {"image": 0, "index": 3, "total": 4}
    polled = httpx.get(live.url + job["poll_url"]).json()
    assert (polled["status"], polled["progress"], polled["seeds"]) == ("done", 1.0, [3])
    content = httpx.get(live.url + polled["images"][0]).content
    path = live.service.shelf.model("heads")
    with opened(path) as pipeline, pipeline.batcher(batch_sizes=(4,)) as batcher:
        request = Request("a red circle", seed=3, sampling=Sampling("euler_a", steps=4))
        (alone,) = batcher.submit(request).result().images
    # One batch size: the same sums in the same order.
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(alone))


def test_every_picture_of_a_job_tells_its_last_step(live: Live) -> None:
    job = submit(live, BODY | {"num_images": 3})
    steps = [data for kind, data in events(live, job) if kind == "step"]
    last = {each["image"]: each["index"] for each in steps}
    assert last == {0: 3, 1: 3, 2: 3}


def test_the_pictures_of_a_job_are_in_the_order_of_its_seeds(live: Live) -> None:
    job = submit(live, BODY | {"num_images": 3})
    events(live, job)
    polled = httpx.get(live.url + job["poll_url"]).json()
    assert polled["seeds"] == [3, 4, 5]
    found = [pixels(httpx.get(live.url + each).content) for each in polled["images"]]
    path = live.service.shelf.model("heads")
    with opened(path) as pipeline, pipeline.batcher(batch_sizes=(4,)) as batcher:
        for seed, drawn in zip(polled["seeds"], found, strict=True):
            request = Request("a red circle", seed=seed, sampling=Sampling("euler_a", steps=4))
            (alone,) = batcher.submit(request).result().images
            # One batch size: the same sums in the same order.
            assert np.array_equal(drawn, np.asarray(alone))


def test_a_reader_that_comes_back_gets_what_it_has_not_seen(live: Live) -> None:
    job = submit(live, BODY)
    told = events(live, job)
    assert events(live, job, after=2) == told[2:]
    assert events(live, job, after=len(told)) == []


def test_a_second_job_of_one_id_is_the_first(live: Live) -> None:
    first = submit(live, BODY | {"id": "mine"})
    again = submit(live, BODY | {"id": "mine", "seed": 4})
    assert again["id"] == first["id"] == "mine"
    assert len([job for job in httpx.get(f"{live.url}/v1/jobs").json() if job["id"] == "mine"]) == 1
    assert events(live, again)[-1][0] == "done"
    assert httpx.get(live.url + again["poll_url"]).json()["seeds"] == [3]


def test_a_cancelled_job_is_gone_from_the_next_call(live: Live) -> None:
    job = submit(live, LONG)
    deadline = time.monotonic() + 60
    while live.service.painter.load.pictures == 0:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    answer = httpx.delete(live.url + job["poll_url"])
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    # A call that was being made may end; no other has its rows.
    assert live.service.painter.load.rows == 0
    assert live.service.painter.load.pictures == 0
    assert httpx.delete(live.url + job["poll_url"]).json()["status"] == "cancelled"
    assert events(live, job)[-1][0] == "cancelled"


def test_an_unknown_job_is_not_found(live: Live) -> None:
    answer = httpx.delete(f"{live.url}/v1/jobs/none-such")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_job"


def test_a_deadline_ends_a_job(live: Live) -> None:
    job = submit(live, LONG | {"deadline": 0.02})
    kind, data = events(live, job)[-1]
    assert (kind, data["status"]) == ("error", 504)


def test_a_model_is_chosen_by_name(live: Live) -> None:
    told = events(live, submit(live, BODY | {"model": "lists"}))
    assert told[-1][0] == "done"
    answer = httpx.post(f"{live.url}/v1/jobs", json=BODY | {"model": "other"})
    assert answer.status_code == 404
    assert "one of heads, lists" in answer.json()["error"]["message"]
