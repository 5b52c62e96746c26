"""The service over the painters of Ray Serve, in its local testing mode: no cluster is started."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from httpx_sse import connect_sse
from PIL import Image
from ray import serve
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError
from ray.serve.schema import ServeDeploySchema
from tests.serving.live import Live, listening, opened

from latentrt.runtime import (
    Cancelled,
    EngineError,
    Guidance,
    Lora,
    QueueFull,
    Request,
    Sampling,
)
from latentrt.serving import backlog, ray
from latentrt.serving.backlog import Backlog, Painters
from latentrt.serving.limits import Limits
from latentrt.serving.order import Order
from latentrt.serving.painter import Drawn, Stop, Told
from latentrt.serving.ray import Ingress, PainterReplica, Settings
from latentrt.serving.remote import RemotePainter, variant

LONG: dict[str, Any] = {"prompt": "a square", "sampling": {"steps": 150}, "num_images": 4}
DRAWN = Drawn((b"picture",), (), (), (), 1.0, {})


def settings(*models: Path, **options: Any) -> Settings:
    fields = {
        "models": models,
        "batch_sizes": [4],
        "pipeline": {"engine": "onnxruntime", "verify": "off"},
    }
    return Settings.model_validate(fields | options)


@pytest.fixture(scope="module")
def handle(bundle: Callable[[str], Path]) -> Any:
    application = ray.painters(settings(bundle("heads")))
    return serve.run(application, name="painters", _local_testing_mode=True)


@pytest.fixture(scope="module")
def live(handle: Any, bundle: Callable[[str], Path]) -> Iterator[Live]:
    with listening(Ingress(settings(bundle("heads")), handle).service) as found:
        yield found


def load(handle: Any) -> Any:
    return handle.load.remote().result()


def test_a_picture_of_a_painter_is_the_one_drawn_alone(
    live: Live, bundle: Callable[[str], Path]
) -> None:
    body = {"prompt": "a red circle", "seed": 3, "sampling": {"sampler": "euler_a", "steps": 4}}
    job = httpx.post(f"{live.url}/v1/jobs", json=body).json()
    with (
        httpx.Client(timeout=60) as client,
        connect_sse(client, "GET", live.url + job["events_url"]) as source,
    ):
        told = [(each.event, json.loads(each.data)) for each in source.iter_sse()]
    kinds = [kind for kind, _ in told]
    assert (kinds[:2], kinds[-2:]) == (["queued", "started"], ["image", "done"])
    assert {"image": 0, "index": 3, "total": 4} in [data for kind, data in told if kind == "step"]
    polled = httpx.get(live.url + job["poll_url"]).json()
    content = httpx.get(live.url + polled["images"][0]).content
    with opened(bundle("heads")) as pipeline, pipeline.batcher(batch_sizes=(4,)) as batcher:
        request = Request("a red circle", seed=3, sampling=Sampling("euler_a", steps=4))
        (alone,) = batcher.submit(request).result().images
    # One batch size: the same sums in the same order.
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(alone))


def test_the_ingress_lists_what_can_be_asked_for(live: Live) -> None:
    found = httpx.get(f"{live.url}/v1/catalogue").json()
    (model,) = found["models"]
    assert (model["name"], model["size"], model["refiners"]) == ("heads", "64x64", [])
    assert "inpainting" in model["tasks"]


def test_a_cancelled_job_is_gone_from_its_painter(live: Live, handle: Any) -> None:
    job = httpx.post(f"{live.url}/v1/jobs", json=LONG).json()
    until = time.monotonic() + 60
    while load(handle).pictures == 0:
        assert time.monotonic() < until
        time.sleep(0.002)
    assert httpx.delete(live.url + job["poll_url"]).json()["status"] == "cancelled"
    calls = load(handle).calls
    while load(handle).pictures > 0:
        assert time.monotonic() < until
    # 150 calls would be left: a few pass while the cancel is on its way.
    assert load(handle).calls - calls < 20


def test_what_a_painter_finds_wrong_is_told_with_its_field(live: Live) -> None:
    body = {"prompt": "a", "size": "4096x4096"}
    answer = httpx.post(f"{live.url}/v1/images/generations", json=body, timeout=60)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "size"


class Handle:
    """A handle whose answers are given, an exception for a call that fails."""

    def __init__(self, *answers: list[object] | Exception) -> None:
        self.answers = list(answers)
        self.options_given: list[dict[str, Any]] = []
        self.cancelled = 0
        self.draw = SimpleNamespace(remote=self._remote)

    def options(self, **options: Any) -> Handle:
        self.options_given.append(options)
        return self

    def _remote(self, name: str, order: Order) -> Handle:
        return self

    def cancel(self) -> None:
        self.cancelled += 1

    def __iter__(self) -> Iterator[object]:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        for each in answer:
            if isinstance(each, Exception):
                raise each
            yield [each]


def draw(handle: Any, begun: Callable[[], None] = lambda: None) -> tuple[Drawn, list[Told]]:
    told: list[Told] = []
    order = Order("heads", Request("a"))
    painter = RemotePainter(handle, "heads")
    return painter.draw(order, begun, told.append, Stop()), told


def test_an_order_whose_painter_is_lost_is_drawn_by_another() -> None:
    handle = Handle(["begun", Told(0, 0, 4), ActorDiedError()], ["begun", Told(0, 3, 4), DRAWN])
    begun: list[bool] = []
    drawn, told = draw(handle, lambda: begun.append(True))
    assert drawn is DRAWN
    assert begun == [True]
    assert [each.index for each in told] == [0, 3]


def test_an_order_whose_painters_are_lost_again_and_again_fails() -> None:
    with pytest.raises(EngineError, match="lost 3 times"):
        draw(Handle(*(ActorDiedError() for _ in range(4))))


def test_a_full_queue_of_the_painters_is_a_full_queue() -> None:
    with pytest.raises(QueueFull):
        draw(Handle(BackPressureError(64, 64)))


def test_an_order_that_was_cancelled_is_not_drawn_again() -> None:
    stop = Stop()
    handle = Handle(["begun", Told(0, 0, 4), ActorDiedError()], [DRAWN])

    def tell(told: Told) -> None:
        stop.stop()

    with pytest.raises(Cancelled):
        RemotePainter(handle, "heads").draw(Order("heads", Request("a")), lambda: None, tell, stop)
    assert handle.cancelled == 1


def test_orders_go_to_painters_that_have_their_variant(tmp_path: Path) -> None:
    handle = Handle([DRAWN])
    draw(handle)
    assert handle.options_given == [{"stream": True, "multiplexed_model_id": ""}]
    lora = Order("heads", Request("a", weights=[Lora(tmp_path / "x.safetensors", 0.5)]))
    weaker = Order("heads", Request("a", weights=[Lora(tmp_path / "x.safetensors", 0.4)]))
    assert len({variant(each, "heads") for each in (lora, weaker)} | {""}) == 3
    assert variant(Order("lists", Request("a")), "heads") == "lists"


def test_the_backlog_is_the_rows_left_by_the_seconds_of_a_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    # The module alone: event loops of other tests read the clock as well.
    monkeypatch.setattr(backlog, "time", SimpleNamespace(monotonic=lambda: now))
    work = Backlog()
    assert work.seconds() == {"seconds_queued": 0.0, "seconds_an_order": 0.0}
    guided = Request("a", num_images=2, sampling=Sampling(steps=10), guidance=Guidance(5.0))
    plain = Request("a", sampling=Sampling(steps=10), guidance=Guidance(1.0))
    work.begin("guided", Order("heads", guided))  # 2 pictures, 10 steps, 2 rows a step
    work.begin("plain", Order("heads", plain))  # 10 rows
    now += 6
    work.step("guided", Told(0, 4, 10))  # 5 steps: 10 rows
    work.step("plain", Told(0, 1, 10))  # 2 rows
    # 12 rows took 6 seconds; 40 + 10 - 12 are left.
    assert work.seconds()["seconds_queued"] == pytest.approx(38 * 0.5)
    work.end("guided")
    work.end("guided")
    # An order that is given up leaves its rows undone.
    assert work.seconds()["seconds_queued"] == pytest.approx(8 * 0.5)
    work.end("plain")
    now += 1000  # idle
    assert work.seconds() == {"seconds_queued": 0.0, "seconds_an_order": 3.0}


@pytest.mark.parametrize(
    ("queued", "waiting", "expected"),
    [({"a": 0.0}, 0, 0), ({"a": 61.0}, 0, 3), ({"a": 20.0, "b": 30.0}, 0, 2), ({"a": 30.0}, 4, 3)],
)
def test_there_are_as_many_painters_as_draw_what_waits_in_time(
    queued: dict[str, float], waiting: int, expected: int
) -> None:
    context: Any = SimpleNamespace(
        aggregated_metrics={
            "seconds_queued": queued,
            "seconds_an_order": {"a": 15.0, "b": 0.0},
        },
        total_queued_requests=waiting,
        target_num_replicas=7,
    )
    assert Painters(30.0)(context) == (expected, {})
    context.aggregated_metrics = {}
    assert Painters(30.0)(context) == (7, {})


def test_a_painter_that_does_not_move_is_not_healthy(
    bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = PainterReplica(settings(bundle("heads"), limits=Limits(stalled=0.01)))
    replica.check_health()
    painter = replica._service.painter  # pyright: ignore[reportPrivateUsage]
    stuck = painter.load.__class__(1, 2, 0, 3, 4, 0, 0)
    with monkeypatch.context() as patch:
        patch.setattr(type(painter), "load", stuck)
        replica.check_health()
        time.sleep(0.02)
        with pytest.raises(EngineError, match="no step for"):
            replica.check_health()
    replica.check_health()


def test_the_configuration_is_one_that_ray_serve_takes() -> None:
    path = Path(__file__).parents[2] / "deploy" / "ray.yaml"
    schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    (application,) = schema.applications
    assert application.import_path == f"{ray.__name__}:build"
    given = Settings.model_validate(application.args)
    built = ray.build(given)
    ingress: Any = built._bound_deployment  # pyright: ignore[reportPrivateUsage]
    assert ingress.name == "ingress"
    taken, bound = ingress.init_args
    painter = bound._bound_deployment
    # What the ingress sends at once: none that it took in is refused.
    sent = Ingress(taken, None).service.limits.drawing
    assert painter.max_queued_requests == sent == 4 * painter.max_ongoing_requests
    assert painter._deployment_config.graceful_shutdown_timeout_s > given.limits.deadline
    assert {each.name for each in application.deployments} <= {"ingress", "painter"}


def test_the_threads_of_a_painter_end_with_it(bundle: Callable[[str], Path]) -> None:
    before = set(threading.enumerate())
    replica = PainterReplica(settings(bundle("heads")))
    replica.__del__()
    left = [each.name for each in set(threading.enumerate()) - before if each.is_alive()]
    assert not [name for name in left if name.startswith(("latentrt-unet", "latentrt-order"))]
