"""Engines that fail: the request at fault gets a typed error, the next one is right."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.serving.live import Live, listening
from tests.serving.orders import picture, pixels

from latentrt.engines.cache.cache import Build
from latentrt.engines.engine import Engine
from latentrt.engines.registry import Progress
from latentrt.runtime import Pipeline
from latentrt.serving.opening import service_over
from latentrt.serving.shelf import Shelf

BODY: dict[str, Any] = {
    "prompt": "a fox",
    "seed": 2,
    "task": {"name": "image_to_image", "image": picture(3), "strength": 0.9},
    "sampling": {"sampler": "euler", "steps": 3},
}


class Faulty:
    """An engine whose outputs are what a fault makes of them."""

    def __init__(self, engine: Engine, component: str, faults: dict[str, Any]) -> None:
        self._engine = engine
        self._component = component
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        outputs = self._engine(inputs)
        fault = self._faults.get(self._component)
        if fault is None:
            return outputs
        if isinstance(fault, Exception):
            raise fault
        return {name: np.full_like(array, fault) for name, array in outputs.items()}


class FaultyPipeline(Pipeline):
    """A pipeline whose engines have the faults of `planned`, by component."""

    planned: dict[str, Any]

    def engine(
        self, component: str, sizes: Mapping[str, int], progress: Progress | None = None
    ) -> Engine:
        """As `Pipeline.engine`, with a fault."""
        return Faulty(super().engine(component, sizes, progress), component, self.planned)  # pyright: ignore[reportReturnType]


@pytest.fixture(scope="module")
def faults() -> dict[str, Any]:
    return {}


@pytest.fixture(scope="module")
def faulty(bundle: Callable[[str], Path], faults: dict[str, Any]) -> Iterator[Live]:
    def opened(path: Path, *, build: Build) -> Pipeline:
        pipeline = FaultyPipeline.open(path, build=build, engine="onnxruntime", verify="off")
        pipeline.planned = faults
        return pipeline

    with listening(service_over(Shelf((bundle("heads"),)), opened, batch_sizes=(4,))) as found:
        yield found


def draw(live: Live, prompt: str) -> dict[str, Any]:
    job = httpx.post(f"{live.url}/v1/jobs", json=BODY | {"prompt": prompt}).json()
    httpx.get(live.url + job["events_url"], timeout=60)
    return httpx.get(live.url + job["poll_url"]).json()


@pytest.mark.parametrize("component", ["text_encoder", "unet", "vae_encoder", "vae_decoder"])
@pytest.mark.parametrize(
    ("fault", "status"), [(np.nan, 502), (RuntimeError("the engine is broken"), 500)]
)
def test_a_fault_fails_its_request_and_not_the_next(
    faulty: Live, faults: dict[str, Any], component: str, fault: Any, status: int
) -> None:
    right = draw(faulty, "a fox")
    assert right["status"] == "done"
    # A prompt that was not encoded yet, and a picture that was: each fault is met.
    faults[component] = fault
    try:
        failed = draw(faulty, f"a {component} {status}")
    finally:
        faults.clear()
    assert failed["status"] == "error"
    assert failed["error"]["status"] == status
    again = draw(faulty, "a fox")
    first, second = (
        pixels(httpx.get(faulty.url + each["images"][0]).content) for each in (right, again)
    )
    assert np.array_equal(first, second)
    assert httpx.get(f"{faulty.url}/health/live").status_code == 200


def test_a_job_that_waits_behind_a_failed_one_is_begun(
    faulty: Live, faults: dict[str, Any]
) -> None:
    faults["vae_decoder"] = np.nan  # at its end: the second job comes before
    try:
        body = {"prompt": "a fox", "num_images": 8, "sampling": {"steps": 40}}
        jobs = [httpx.post(f"{faulty.url}/v1/jobs", json=body).json() for _ in range(2)]
        for job in jobs:
            until = time.monotonic() + 30
            while not (polled := httpx.get(faulty.url + job["poll_url"]).json())["error"]:
                assert time.monotonic() < until, polled["status"]
                time.sleep(0.02)
            assert (polled["status"], polled["error"]["status"]) == ("error", 502)
    finally:
        faults.clear()


def test_openais_client_is_told_not_to_draw_a_nan_again(
    faulty: Live, faults: dict[str, Any]
) -> None:
    faults["unet"] = np.nan
    try:
        answer = httpx.post(f"{faulty.url}/v1/images/generations", json={"prompt": "a fox"})
    finally:
        faults.clear()
    assert (answer.status_code, answer.headers["x-should-retry"]) == (502, "false")
    assert answer.json()["error"]["code"] == "not_finite"
