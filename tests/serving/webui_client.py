"""What tests of the web UI's API share: its own client, and long requests in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import webuiapi
from tests.serving.live import Live, opened

from latentrt.runtime import Request

QUICK: dict[str, Any] = {"prompt": "a fox", "seed": 5, "steps": 3, "width": 64, "height": 64}
LONG: dict[str, Any] = QUICK | {"steps": 40}


class FreshClient(webuiapi.WebUIApi):
    """The real client, whose default for `alwayson_scripts` is one object for all requests."""

    def post_and_get_api_result(self, url: str, json: Any, use_async: bool) -> Any:
        scripts = json.get("alwayson_scripts", {})
        sent = {**json, "alwayson_scripts": dict(scripts)}
        scripts.clear()
        return super().post_and_get_api_result(url, sent, use_async)


def client_of(live: Live, password: str | None = None) -> Any:
    user = None if password is None else "someone"
    return FreshClient(
        baseurl=f"{live.url}/sdapi/v1", sampler="Euler a", username=user, password=password
    )


Alone = Callable[[Request], "np.ndarray[Any, Any]"]


@contextmanager
def drawing_alone(live: Live) -> Iterator[Alone]:
    """What draws the first picture of a request that shares its calls with no other."""
    path = live.service.shelf.model("heads")
    with opened(path) as pipeline, pipeline.batcher(batch_sizes=(4,)) as batcher:
        yield lambda request: np.asarray(batcher.submit(request).result().images[0])


class Drawing:
    """A long request in another thread."""

    def __init__(self, client: Any, live: Live, **fields: Any) -> None:
        self.result: Any = None
        self._thread = threading.Thread(target=self._draw, args=(client, LONG | fields))
        self._thread.start()
        until = time.monotonic() + 60
        while not any(j.api == "webui" and j.preview and not j.over for j in live.service.jobs):
            assert time.monotonic() < until
            assert self._thread.is_alive()
            time.sleep(0.002)

    def _draw(self, client: Any, fields: dict[str, Any]) -> None:
        self.result = client.txt2img(**fields)

    def end(self) -> Any:
        self._thread.join()
        return self.result
