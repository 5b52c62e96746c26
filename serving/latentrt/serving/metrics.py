"""Prometheus metrics of a service."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from latentrt.serving.job import Job
from latentrt.serving.painter import LocalPainter
from latentrt.serving.problem import CLIENT_GONE

_LONG: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 300, 600)
_SHORT: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of requests and jobs, in a registry of their own. Names begin with `latentrt_`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "latentrt_requests", "Answered requests", ("route", "status"), registry=registry
        )
        self._duration = Histogram(
            "latentrt_request_duration_seconds",
            "From a request's first byte to the answer's last",
            ("route",),
            buckets=_LONG,
            registry=registry,
        )
        self._queue = Histogram(
            "latentrt_queue_seconds", "Time that jobs waited", buckets=_LONG, registry=registry
        )
        self._stages = Histogram(
            "latentrt_stage_duration_seconds",
            "Time of a job's stages",
            ("stage",),
            buckets=_LONG,
            registry=registry,
        )
        self._steps = Histogram(
            "latentrt_step_duration_seconds",
            "Time from the first step to the last, by step",
            buckets=_SHORT,
            registry=registry,
        )
        self._images = Counter("latentrt_images", "Pictures drawn", registry=registry)
        self._cancelled = Counter("latentrt_cancelled", "Jobs cancelled", registry=registry)
        self._nonfinite = Counter(
            "latentrt_nonfinite", "Jobs that gave NaN or infinity", registry=registry
        )
        self._models = Info("latentrt_model", "Models by name", registry=registry)
        self._running = Gauge("latentrt_requests_running", "Jobs that are drawn", registry=registry)
        self._depth = Gauge("latentrt_queue_depth", "Jobs that wait", registry=registry)
        self._lag = Gauge(
            "latentrt_event_loop_lag_seconds",
            "The longest time that the event loop was blocked since the last scrape",
            registry=registry,
        )
        self._longest = 0.0

    def watch(self, painter: LocalPainter | None, names: Iterable[str]) -> None:
        """Report the names of models, and a painter's rows where it is one of this process."""
        if painter is not None:
            self.registry.register(_Rows(painter))
        self._models.info({"names": ",".join(names)})

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(route, str(status)).inc()
        self._duration.labels(route).observe(seconds)

    def lagged(self, seconds: float) -> None:
        """The event loop was blocked for so long."""
        self._longest = max(self._longest, seconds)

    def ended(self, job: Job) -> None:
        """Count a job that is over."""
        if job.begun:
            self._queue.observe(max(job.begun - job.created, 0))
        if job.drawn is not None:
            self._images.inc(len(job.drawn.files))
            for stage, seconds in job.drawn.stages.items():
                self._stages.labels(stage).observe(seconds)
            if job.newest is not None:
                self._steps.observe(job.drawn.stages["unet"] / job.newest.total)
        elif job.problem is not None and job.problem.status == CLIENT_GONE:
            self._cancelled.inc()
        elif job.problem is not None and job.problem.code == "not_finite":
            self._nonfinite.inc()

    def page(self, running: int, queued: int) -> bytes:
        """Everything in Prometheus' text format."""
        self._running.set(running)
        self._depth.set(queued)
        self._lag.set(self._longest)
        self._longest = 0.0
        return generate_latest(self.registry)


class _Rows(Collector):
    """The rows of a batcher's U-Net calls, as it counts them."""

    def __init__(self, painter: LocalPainter) -> None:
        self._painter = painter

    def collect(self) -> Iterable[Metric]:
        load = self._painter.load
        used, capacity = load.evaluated, load.evaluated + load.padded
        for name, help_text, value in (
            ("latentrt_batch_rows_used", "Rows of U-Net calls that were a picture's", used),
            ("latentrt_batch_rows_capacity", "Rows of U-Net calls", capacity),
        ):
            yield CounterMetricFamily(name, help_text, value=value)
