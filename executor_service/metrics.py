"""Prometheus metrics of one service, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from executor_service.events import Completed, Event, Json

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_OPERATION_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)

Gauges = Callable[[], Mapping[str, float]]


class Journal(Protocol):
    """The events of an operation."""

    @property
    def events(self) -> tuple[Event, ...]: ...


class Ended(Protocol):
    """An operation that has ended."""

    @property
    def kind(self) -> str: ...

    @property
    def journal(self) -> Journal: ...


class Metrics:
    """Counts HTTP requests by route template and operations by outcome; reads gauges when asked."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "codecell_http_requests",
            "HTTP requests",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            "codecell_http_request_seconds",
            "Time from a request to the end of its answer",
            ("method", "route"),
            buckets=_REQUEST_BUCKETS,
            registry=self._registry,
        )
        self._operations = Counter(
            "codecell_operations",
            "Runs, executions and commands that ended",
            ("kind", "outcome"),
            registry=self._registry,
        )
        self._operation_seconds = Histogram(
            "codecell_operation_seconds",
            "How long runs, executions and commands took",
            ("kind",),
            buckets=_OPERATION_BUCKETS,
            registry=self._registry,
        )

    def request_ended(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request. `route` is a template such as /v1/runs/{run_id}, never a caller's path."""
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def operation_ended(self, operation: Ended) -> None:
        """Count one operation; one that ended by a fault of the service has outcome `failed`."""
        events = operation.journal.events
        last = events[-1] if events else None
        fields: Mapping[str, Json] = last.fields if isinstance(last, Completed) else {}
        self._operations.labels(operation.kind, str(fields.get("outcome", "failed"))).inc()
        duration = fields.get("duration")
        if isinstance(duration, int | float):
            self._operation_seconds.labels(operation.kind).observe(duration)

    def watch(self, name: str, help_text: str, label: str, read: Gauges) -> None:
        """Add a gauge that is read when metrics are asked for: values of `label` with numbers."""
        self._registry.register(_Reader(name, help_text, label, read))

    def render(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Reader:
    def __init__(self, name: str, help_text: str, label: str, read: Gauges) -> None:
        self._name, self._help, self._label, self._read = name, help_text, label, read

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(self._name, self._help, labels=[self._label])
        for value, number in self._read().items():
            family.add_metric([value], number)
        yield family

    def describe(self) -> Iterator[Metric]:
        return iter(())
