"""What a server counts, for Prometheus.

`requests_total`, `request_seconds` by route, `queue_length`, `batch_size`, `fallbacks_total` by reason,
`engine_seconds`, `store_seconds` by operation, `model_info`; all names begin with `sememe_`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
MEDIA_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Numbers of one server; several in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "sememe_requests_total", "Requests by route and status", ["route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "sememe_request_seconds", "Time to answer", ["route"], buckets=SECONDS, registry=registry
        )
        self.queue_length = Gauge("sememe_queue_length", "Requests that wait for a worker", registry=registry)
        self.batch_size = Histogram(
            "sememe_batch_size", "Requests that shared a search", buckets=SIZES, registry=registry
        )
        self.fallbacks = Counter(
            "sememe_fallbacks_total", "Answers that the model did not give", ["source", "reason"], registry=registry
        )
        self.engine_seconds = Histogram(
            "sememe_engine_seconds", "Time of one search", buckets=SECONDS, registry=registry
        )
        self.store_seconds = Histogram(
            "sememe_store_seconds", "Time of one call to the store", ["operation"], buckets=SECONDS, registry=registry
        )
        self.store_failures = Counter(
            "sememe_store_failures_total", "Calls to a store that was down", ["operation"], registry=registry
        )
        # Finding the numbers of a route costs more than counting.
        self._of_route: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._model = Gauge("sememe_model_info", "What answers: 1 for it", ["version", "row"], registry=registry)

    def tell_model(self, *, version: str, row: str) -> None:
        """What answers from now on."""
        self._model.clear()
        self._model.labels(version=version, row=row).set(1)

    def tell_request(self, *, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        found = self._of_route.get((route, status))
        if found is None:
            found = self.requests.labels(route=route, status=str(status)), self.request_seconds.labels(route=route)
            self._of_route[route, status] = found
        found[0].inc()
        found[1].observe(seconds)

    @contextmanager
    def store_call(self, operation: str) -> Iterator[None]:
        """Measure a call to the store."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.store_seconds.labels(operation=operation).observe(time.perf_counter() - started)

    def page(self) -> bytes:
        """All numbers, in Prometheus' text format."""
        return generate_latest(self.registry)
