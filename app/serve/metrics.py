"""The metrics of one server, in Prometheus' text form at /metrics."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

SIZES = (1, 2, 4, 8, 16, 32, 64)  # photos
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """What happened since the start. A registry of its own, so that no other part of the process mixes in."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "vlcap_requests", "Requests, by the status of their answer.", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "vlcap_request_seconds", "Time to the answer.", ["route"], buckets=SECONDS, registry=registry
        )
        self._refused = Counter("vlcap_refused", "Requests that were refused.", ["reason"], registry=registry)
        self._captioned = Counter("vlcap_photos_captioned", "Photos that were captioned.", registry=registry)
        self._batches = Histogram(
            "vlcap_batch_photos", "Photos that were captioned together.", buckets=SIZES, registry=registry
        )
        self._waiting = Gauge("vlcap_queue_length", "Photos that wait for the captioner.", registry=registry)
        self._under_way = Gauge("vlcap_requests_under_way", "Requests that have a place now.", registry=registry)
        ProcessCollector(registry=registry)  # memory and computing time, on Linux
        PlatformCollector(registry=registry)

    def watch(self, waiting: Callable[[], int], under_way: Callable[[], int]) -> None:
        """Names the functions that are asked for the numbers of this moment."""
        self._waiting.set_function(waiting)
        self._under_way.set_function(under_way)

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        self._refused.labels(reason).inc()

    def captioned(self, photos: int) -> None:
        """Records a batch of so many captioned photos."""
        self._captioned.inc(photos)
        self._batches.observe(photos)

    def text(self) -> bytes:
        return generate_latest(self.registry)
