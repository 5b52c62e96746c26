"""How many seconds of work a painter has before it, and how many painters that asks for."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from latentrt.serving.order import Order
from latentrt.serving.painter import Told

QUEUED: Final = "seconds_queued"
"""The metric that painters report: seconds until all of their orders are drawn."""
ORDER: Final = "seconds_an_order"
"""The metric of an order that waits for a painter: the mean of those that were drawn."""


@dataclass(slots=True)
class _Rest:
    """What is left of an order: rows of one step of one picture, and each picture's steps."""

    rows: int
    steps: dict[int, int]

    @property
    def left(self) -> int:
        return self.rows * sum(self.steps.values())


class Backlog:
    """The orders of a painter, in U-Net rows that are left. Thread-safe.

    The seconds of a row are those in which there were orders, by the rows of them that are done.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: dict[str, _Rest] = {}
        self._seconds = 0.0
        self._since = 0.0
        self._rows = 0
        self._ended = 0

    def begin(self, name: str, order: Order) -> None:
        """An order has come; a name is known until it `end`s."""
        request = order.request
        scale = request.guidance.scale
        guided = callable(scale) or scale > 1
        rows = 1 + len(request.composed) + guided
        with self._lock:
            if not self._orders:
                self._since = time.monotonic()
            steps = dict.fromkeys(range(request.num_images), request.sampling.steps)
            self._orders[name] = _Rest(rows, steps)

    def step(self, name: str, told: Told) -> None:
        """A picture has taken a step; nothing where the order has ended."""
        with self._lock:
            rest = self._orders.get(name)
            if rest is None:
                return
            left = told.total - told.index - 1
            # A slow reader sees the newest step alone.
            self._rows += rest.rows * max(rest.steps.get(told.image, left) - left, 0)
            rest.steps[told.image] = left

    def end(self, name: str) -> None:
        """An order is drawn, or given up."""
        with self._lock:
            if self._orders.pop(name, None) is None:
                return
            self._ended += 1
            if not self._orders:
                self._seconds += time.monotonic() - self._since

    @property
    def orders(self) -> int:
        """How many orders there are."""
        with self._lock:
            return len(self._orders)

    def seconds(self) -> dict[str, float]:
        """The metrics `QUEUED` and `ORDER`, in seconds; 0 before the first row is done."""
        with self._lock:
            now = time.monotonic() - self._since if self._orders else 0.0
            busy = self._seconds + now
            left = sum(rest.left for rest in self._orders.values())
            return {
                QUEUED: left * busy / self._rows if self._rows else 0.0,
                ORDER: busy / self._ended if self._ended else 0.0,
            }


class Scaling(Protocol):
    """What Ray Serve tells a policy: its `AutoscalingContext`."""

    @property
    def aggregated_metrics(self) -> Mapping[str, Mapping[Any, float]] | None:
        """Each metric of each painter."""
        ...

    @property
    def total_queued_requests(self) -> float | None:
        """Orders that no painter has taken yet."""
        ...

    @property
    def target_num_replicas(self) -> int:
        """Painters there are to be by now."""
        ...


class Painters:
    """As many painters as draw all that waits in `seconds`: a policy of Ray Serve.

    Ray Serve keeps the number within its bounds, and waits its delays.
    """

    def __init__(self, seconds: float = 30.0) -> None:
        self._target = seconds

    def __call__(self, scaling: Scaling) -> tuple[int, dict[str, Any]]:
        """The number of painters, and nothing to remember."""
        metrics = scaling.aggregated_metrics or {}
        if not metrics.get("seconds_queued"):
            return scaling.target_num_replicas, {}
        means = [each for each in metrics.get("seconds_an_order", {}).values() if each > 0]
        mean = sum(means) / len(means) if means else 0.0
        queued = sum(metrics["seconds_queued"].values())
        seconds = queued + mean * (scaling.total_queued_requests or 0.0)
        return math.ceil(seconds / self._target), {}
