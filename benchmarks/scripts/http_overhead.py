"""What HTTP adds: one picture by the painter itself, then one through the service.

    python benchmarks/scripts/http_overhead.py models/shapes --json benchmarks/results/http.json

Needs latentrt[serve]. Both are in this process and encode the same PNG.
"""

from __future__ import annotations

import argparse
import http.client
import json
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.engines.cache.cache import Build
from latentrt.runtime import Pipeline, Request, Sampling
from latentrt.serving.app import app_of
from latentrt.serving.gates import Gate
from latentrt.serving.opening import service_over
from latentrt.serving.order import Order
from latentrt.serving.painter import Stop
from latentrt.serving.server import Server, switch_threads_often
from latentrt.serving.service import Service
from latentrt.serving.shelf import Shelf

PROMPT = "a large red circle on a blue background"
STEPS = 4
"""Few, so that the noise of drawing does not hide what is measured."""


def measured(service: Service, port: int, pictures: int) -> dict[str, Any]:
    """Milliseconds of both, and of their difference in each turn."""
    name = service.shelf.model_names[0]
    connection = http.client.HTTPConnection("127.0.0.1", port)
    direct: list[float] = []
    served: list[float] = []
    for seed in range(pictures + 3):  # three to warm up
        begun = time.perf_counter()
        request = Request(PROMPT, seed=seed, sampling=Sampling(steps=STEPS))
        service.painter.draw(Order(name, request), lambda: None, lambda told: None, Stop())
        between = time.perf_counter()
        body = json.dumps({"prompt": PROMPT, "seed": seed, "num_inference_steps": STEPS})
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/images/generations", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()  # a connection for each, as most clients have
        assert answer.status == 200, content
        served.append(1e3 * (time.perf_counter() - between))
        direct.append(1e3 * (between - begun))
    added = np.subtract(served[3:], direct[3:])
    return {
        "direct_ms": _percentiles(direct[3:]),
        "http_ms": _percentiles(served[3:]),
        "added_ms": _percentiles(added.tolist()),
    }


def _percentiles(values: list[float]) -> dict[str, float]:
    p10, p50, p90 = np.percentile(values, [10, 50, 90])
    return {"p10": round(p10, 2), "p50": round(p50, 2), "p90": round(p90, 2)}


def main() -> None:
    """Measure, print, and write the JSON."""
    parser = argparse.ArgumentParser(description="What HTTP adds to a picture.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--pictures", type=int, default=50)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()

    def opened(path: Path, *, build: Build) -> Pipeline:
        return Pipeline.open(path, build=build)

    service = service_over(Shelf((asked.model,)), opened, max_batch=2)
    ports: list[int] = []
    server = Server(app_of(service, Gate()), service, "127.0.0.1", 0, ports.append)
    switch_threads_often()
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while service.phase == "starting" and not service.failure:
            time.sleep(0.05)
        found = {
            "latentrt": version("latentrt"),
            "model": asked.model.name,
            "pictures": asked.pictures,
            "steps": STEPS,
            **measured(service, ports[0], asked.pictures),
        }
    finally:
        server.should_exit = True
        thread.join()
    print(json.dumps(found, indent=1))
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
