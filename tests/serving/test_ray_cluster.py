"""The service on a real Ray cluster of two cores: painters that are killed, and a redeploy."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tests.serving.live import opened
from tests.serving.orders import Pixels, pixels

from latentrt.runtime import Request, Sampling

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

STEPS = 30
COUNT, CANCELLED = 60, 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A cluster without a network, and where its service listens."""
    ray = pytest.importorskip("ray")
    from ray import serve

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "disabled"  # it would write a token to the home folder
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.fixture
def url(cluster: str, bundle: Callable[[str], Path]) -> str:
    deploy(bundle("heads"))
    _until(lambda: httpx.get(f"{cluster}/health/startup").status_code == 200)
    return cluster


def deploy(model: Path, **options: Any) -> None:
    """Two painters over a model; a second time in place of those before."""
    from ray import serve

    from latentrt.serving.ray import Settings, build

    fields = {
        "models": [model],
        "batch_sizes": [4],
        "min_painters": 2,
        "max_painters": 2,
        "pipeline": {"engine": "onnxruntime", "verify": "off"},
        "limits": {"queued": COUNT, "deadline": 300},
    }
    serve.run(build(Settings.model_validate(fields | options)), name="latentrt")


def expected(model: Path, count: int) -> list[Pixels]:
    """The picture of each seed, drawn alone."""
    with opened(model) as pipeline, pipeline.batcher(batch_sizes=(4,)) as batcher:
        sampling = Sampling(steps=STEPS)
        requests = [Request("a fox", seed=seed, sampling=sampling) for seed in range(count)]
        return [np.asarray(batcher.submit(each).result().images[0]) for each in requests]


async def ask(session: httpx.AsyncClient, seed: int, patience: float | None) -> str | Pixels:
    """The picture of a seed, or why there is none; a client without patience goes."""
    body = {"prompt": "a fox", "seed": seed, "num_inference_steps": STEPS}
    try:
        answer = await session.post("/v1/images/generations", json=body, timeout=patience)
    except httpx.TimeoutException:
        return "gone"
    except httpx.HTTPError as error:
        return f"{type(error).__name__}: {error}"
    if answer.status_code != 200:
        return f"{answer.status_code}: {answer.text[:200]}"
    return pixels(base64.b64decode(answer.json()["data"][0]["b64_json"]))


async def storm(
    url: str, patience: Callable[[int], float | None], meanwhile: Callable[[], None]
) -> list[str | Pixels]:
    """All requests at once, and something that happens in their midst."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as session:
        asked = [asyncio.ensure_future(ask(session, i, patience(i))) for i in range(COUNT)]
        while sum(each.done() for each in asked) < COUNT // 6:
            await asyncio.sleep(0.02)
        await asyncio.to_thread(meanwhile)
        return await asyncio.gather(*asked)


def kill_a_painter() -> None:
    """End the process of one painter."""
    import ray
    from ray.util import list_named_actors

    named: list[Any] = list_named_actors(all_namespaces=True)
    names = [each["name"] for each in named]
    victim = next(name for name in names if "#painter#" in name)
    ray.kill(ray.get_actor(victim, namespace="serve"))


def idle(url: str) -> bool:
    """Whether nothing is drawn and nothing waits, in the ingress and in each painter."""
    from ray import serve

    handle = serve.get_deployment_handle("painter", "latentrt")
    loads = handle.broadcast("load").results()
    page = httpx.get(f"{url}/metrics").text
    return (
        len(loads) == 2
        and all(each.pictures == 0 for each in loads)
        and "latentrt_requests_running 0.0" in page
        and "latentrt_queue_depth 0.0" in page
    )


def test_a_killed_painter_loses_no_picture_and_cancelled_ones_leave(
    url: str, bundle: Callable[[str], Path]
) -> None:
    chance = random.Random(0)
    patience = {seed: chance.uniform(0.05, 3) for seed in chance.sample(range(COUNT), CANCELLED)}
    found = asyncio.run(storm(url, patience.get, kill_a_painter))
    alone = expected(bundle("heads"), COUNT)
    for seed, each in enumerate(found):
        if isinstance(each, str):
            assert seed in patience, each
            assert each == "gone"
        else:
            # One batch size: the same sums in the same order, on any painter.
            assert np.array_equal(each, alone[seed])
    _until(lambda: idle(url))


def test_a_redeploy_under_load_loses_nothing(url: str, bundle: Callable[[str], Path]) -> None:
    def again() -> None:
        deploy(bundle("heads"), max_batch=4)

    found = asyncio.run(storm(url, lambda seed: None, again))
    alone = expected(bundle("heads"), COUNT)
    assert [each for each in found if isinstance(each, str)] == []
    assert all(np.array_equal(each, right) for each, right in zip(found, alone, strict=True))
    _until(lambda: idle(url))


def test_cancelled_requests_leave_their_painters(url: str) -> None:
    chance = random.Random(1)
    patience = [chance.uniform(0.01, 2) for _ in range(COUNT)]
    asyncio.run(storm(url, lambda seed: patience[seed], lambda: None))
    # Far less than what the pictures take.
    _until(lambda: idle(url), seconds=20)


def test_a_second_painter_comes_where_one_has_too_much_to_do(
    cluster: str, bundle: Callable[[str], Path]
) -> None:
    from ray import serve

    deploy(bundle("heads"), min_painters=1, target_seconds=0.5)
    _until(lambda: httpx.get(f"{cluster}/health/startup").status_code == 200)
    handle = serve.get_deployment_handle("painter", "latentrt")
    _until(lambda: len(handle.broadcast("load").results()) == 1)
    body = {"prompt": "a fox", "sampling": {"steps": 150}, "num_images": 8}
    until = time.monotonic() + 200
    while len(handle.broadcast("load").results()) < 2:
        assert time.monotonic() < until
        jobs = httpx.get(f"{cluster}/v1/jobs").json()
        if sum(job["status"] in ("queued", "running") for job in jobs) < 10:
            assert httpx.post(f"{cluster}/v1/jobs", json=body).status_code == 202
        time.sleep(0.1)
    for job in httpx.get(f"{cluster}/v1/jobs").json():
        httpx.delete(f"{cluster}{job['poll_url']}")
    _until(lambda: idle(cluster))


def _until(done: Callable[[], bool], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until
        time.sleep(0.1)
