"""Prometheus metrics of one service. Each has a registry of its own, so that several may live in a process."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric

from igsp_deploy import __version__
from igsp_serve.drift import is_unsure
from igsp_serve.service import Service
from igsp_serve.watchers import Sample

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SCORES = (-1000, -300, -100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100, 300, 1000)
"""Bounds for a selector score minus the task's threshold: below 0 no task took the image."""


class Metrics:
    """Counts what a service and its HTTP server do. A `Watcher`."""

    def __init__(self, service: Service) -> None:
        """Start at zero and watch `service`."""
        self._service = service
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(_State(service))
        self._requests = Counter("igsp_requests", "Requests answered.", ["route", "status"], registry=registry)
        self._latency = Histogram(
            "igsp_request_seconds",
            "Time from a request's headers to its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self._batch = Histogram(
            "igsp_batch_images", "Images in one call of the model.", buckets=_sizes(service), registry=registry
        )
        self._model = Histogram(
            "igsp_batch_seconds", "Time of one call of the model.", buckets=SECONDS, registry=registry
        )
        self._images = Counter(
            "igsp_images", "Images classified, by the task used (none: plain CLIP).", ["task"], registry=registry
        )
        self._chosen = Counter(
            "igsp_chosen", "Images whose task was chosen (none: no task took it).", ["task"], registry=registry
        )
        self._fallback = Counter(
            "igsp_zero_shot_fallback", "Images that no task took and that plain CLIP answered.", registry=registry
        )
        self._unsure = Counter(
            "igsp_low_confidence_images",
            "Images that no task took, or whose best label had a low score.",
            registry=registry,
        )
        self._scores = Histogram(
            "igsp_selector_score",
            "Best selector score of an image, minus the task's threshold. A shift downwards is drift.",
            buckets=SCORES,
            registry=registry,
        )
        self._confidence = Histogram(
            "igsp_top_score",
            "Probability of the best label.",
            buckets=[tenth / 10 for tenth in range(1, 11)],
            registry=registry,
        )
        self._dropped = Counter(
            "igsp_dropped_images",
            "Images not run: rejected (queue full), expired, cancelled (client left), refused (bad image), failed.",
            ["why"],
            registry=registry,
        )
        for why in ("rejected", "expired", "cancelled", "refused", "failed"):
            self._dropped.labels(why)
        service.watchers.add(self)

    def request(self, route: str, status: int | str, seconds: float) -> None:
        """A request was answered: with a status of HTTP, or the name of one of gRPC."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def batch(self, size: int, seconds: float) -> None:
        """A batch was run."""
        self._batch.observe(size)
        self._model.observe(seconds)

    def dropped(self, why: str, images: int) -> None:
        """Images were not run."""
        self._dropped.labels(why).inc(images)

    def sample(self, sample: Sample) -> None:
        """An image was classified."""
        found = sample.prediction
        task = found.task or "none"
        self._images.labels(task).inc()
        if not sample.prompted:
            self._confidence.observe(found.scores[0])
            self._unsure.inc(is_unsure(sample))
        if sample.chosen:
            self._chosen.labels(task).inc()
            if found.zero_shot:
                self._fallback.inc()
            if found.task_scores:
                self._scores.observe(max(found.task_scores.values()))

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)


class _State:
    """What is read from the service when somebody asks."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterable[Metric]:
        service = self._service
        snapshot, engine, batcher = service.snapshot(), service.engine, service.batcher
        info = InfoMetricFamily("igsp_model", "What is served, and on what.")
        info.add_metric(
            (),
            {
                "name": service.settings.name,
                "version": snapshot.version,
                "provider": engine.provider,
                "precision": engine.variant.precision,
                "server": __version__,
            },
        )
        yield info
        for name, text, value in (
            ("igsp_ready", "1 when traffic may come.", float(service.not_ready() is None)),
            ("igsp_queue_images", "Images admitted and not yet in the model.", batcher.pending),
            ("igsp_queue_limit_images", "Images the queue holds at most.", service.settings.queue),
            ("igsp_open_requests", "Requests with images, without an answer.", batcher.open_jobs),
            ("igsp_model_busy_seconds", "For how long the model has been in the call under way.", batcher.busy_s()),
            ("igsp_tasks", "Tasks known.", len(snapshot.names)),
        ):
            yield GaugeMetricFamily(name, text, value=value)


def _sizes(service: Service) -> list[float]:
    most = service.settings.max_batch
    return [float(2**k) for k in range(13) if 2**k < most] + [float(most)]
