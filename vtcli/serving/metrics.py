"""Counters of a server in Prometheus' text format, at /metrics."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The metrics of one server; those of two in one process are separate."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "vt_requests",
            "Requests by route and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "vt_request_seconds",
            "Seconds from the first byte of a request to the last of its response.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.videos = Counter(
            "vt_videos",
            "Videos by model and outcome: ok, or the reason of the failure.",
            ["model", "outcome"],
            registry=self.registry,
        )
        self.batches = Histogram(
            "vt_batch_videos",
            "Videos per batch of the network.",
            ["model"],
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )

    def gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Add a value that is asked for when the metrics are."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All metrics as Prometheus reads them."""
        return generate_latest(self.registry)
