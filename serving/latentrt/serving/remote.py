"""A painter on other machines: orders go through the handle of a Ray Serve deployment."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Final

from ray.exceptions import RayError, RayTaskError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, ReplicaUnavailableError

from latentrt.bundle.errors import Cancelled, EngineError, InternalError, QueueFull
from latentrt.bundle.manifest import Manifest
from latentrt.runtime.batcher import Load
from latentrt.runtime.weights_fields import loras_of
from latentrt.serving.order import Order
from latentrt.serving.painter import NOTHING, Drawn, Stop, Told

BEGUN: Final = "begun"
"""What a painter's answer begins with, once the order's pictures are in line."""
TRIES: Final = 3
"""Painters that an order is given to, one after the other, where they are lost."""


class RemotePainter:
    """Draws with the painters behind a handle. Thread-safe; not for the thread of an event loop.

    An order whose painter is lost is drawn again, by another.
    """

    def __init__(self, handle: Any, default: str) -> None:
        self._handle = handle
        self._default = default

    @property
    def load(self) -> Load:
        """None of this process."""
        return NOTHING

    def manifest_of(self, model: str) -> Manifest | None:
        """Give None: this process has no model open."""
        return None

    def close(self) -> None:
        """Nothing: the painters belong to Ray Serve."""

    def warm(self) -> None:
        """Wait until a painter is ready; raises what its start failed with."""
        self._handle.load.remote().result()

    def draw(
        self,
        order: Order,
        begun: Callable[[], None],
        tell: Callable[[Told], None],
        stop: Stop,
    ) -> Drawn:
        """As `Painter.draw`; raises `QueueFull`, and `EngineError` where painters are lost."""
        began = False

        def begun_once() -> None:
            nonlocal began
            if not began:
                began = True
                begun()

        for _ in range(TRIES):
            try:
                return self._drawn(order, begun_once, tell, stop)
            except BackPressureError as error:
                raise QueueFull(f"queue full: {error}") from error
            except RayTaskError as error:
                raise InternalError(f"unexpected {error}") from error
            except (RayError, ReplicaUnavailableError, TaskCancelledError) as error:
                if stop.stopped:
                    raise Cancelled("the run was cancelled") from error
        raise EngineError(f"the painter was lost {TRIES} times")

    def _drawn(
        self,
        order: Order,
        begun: Callable[[], None],
        tell: Callable[[Told], None],
        stop: Stop,
    ) -> Drawn:
        if stop.stopped:
            raise Cancelled("the run was cancelled")
        handle = self._handle.options(
            stream=True, multiplexed_model_id=variant(order, self._default)
        )
        response = handle.draw.remote(uuid.uuid4().hex, order)
        stop.attach(response.cancel)
        messages: Iterator[list[Any]] = iter(response)
        for item in chain.from_iterable(messages):
            if isinstance(item, Drawn):
                return item
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Told):
                tell(item)
            elif item == BEGUN:
                begun()
        raise Cancelled("the run was cancelled")


def variant(order: Order, default: str) -> str:
    """The weights of an order as a name: its model and LoRAs; empty for the `default` model alone.

    Ray Serve prefers a painter that has drawn with them.
    """
    loras = loras_of(order.request.weights)
    if not loras:
        return "" if order.model == default else order.model
    scales = [(str(each.path), each.scale, each.unet, each.text_encoder) for each in loras]
    return f"{order.model} {scales}"
