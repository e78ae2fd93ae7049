"""What Prometheus is told. Labels take few values: route templates, tasks, kinds of error; never ids, texts or keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from reviewmill._version import __version__
from reviewmill.schema import Analysis

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# They would add a second series beside each counter, that says when the process began.
disable_created_metrics()  # type: ignore[no-untyped-call]

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """All metrics of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        self.requests = self._counter("requests", "Requests that were answered.", "method", "route", "status")
        self.seconds = Histogram(
            "reviewmill_request_seconds",
            "Time until a request's answer began.",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = self._gauge("requests_in_flight", "Requests that are being answered.")
        self.analyses = self._counter("analyses", "Comments that were analysed.", "task", "status", "route")
        self.errors = self._counter("comment_errors", "Comments that got an error.", "type")
        self.cache = self._counter("cache_lookups", "Where answers were looked for and found.", "found")
        self.tokens = self._counter("tokens", "Tokens that the model read and wrote.", "direction")
        self.waiting = self._gauge("queue_waiting", "Comments that wait for the model.", "priority")
        self.asking = self._gauge("model_in_flight", "Comments that the model works on.", "priority")
        self.model_up = self._gauge("model_up", "1 if the model answered when it was last looked at.")
        self.hot = self._gauge("hot_answers", "Answers that are kept in memory.")
        self.log_lost = self._counter("access_log_lost", "Lines that the access log had no room for.")
        info = self._gauge("info", "The version.", "version")
        info.labels(__version__).set(1)
        self.before_scrape: list[Callable[[], None]] = []
        """Called before each scrape, to set what is only read then."""
        # `labels()` checks and locks; on the way of every request these dicts are faster.
        self._requests: dict[tuple[str, str, int], Counter] = {}
        self._seconds: dict[str, Histogram] = {}
        self._analyses: dict[tuple[str, str, str], Counter] = {}

    def _counter(self, name: str, help_text: str, *labels: str) -> Counter:
        return Counter(f"reviewmill_{name}", help_text, labels, registry=self.registry)

    def _gauge(self, name: str, help_text: str, *labels: str) -> Gauge:
        return Gauge(f"reviewmill_{name}", help_text, labels, registry=self.registry)

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request was answered; `route` is the template of its path."""
        name = (method if method in _METHODS else "other", route, status)
        counter = self._requests.get(name)
        if counter is None:
            counter = self._requests[name] = self.requests.labels(name[0], route, str(status))
        counter.inc()
        histogram = self._seconds.get(route)
        if histogram is None:
            histogram = self._seconds[route] = self.seconds.labels(route)
        histogram.observe(seconds)

    def analysed(self, analysis: Analysis) -> None:
        """One comment was analysed."""
        name = (analysis["provenance"]["task"], analysis["status"], analysis["route"] or "none")
        counter = self._analyses.get(name)
        if counter is None:
            counter = self._analyses[name] = self.analyses.labels(*name)
        counter.inc()
        error = analysis["error"]
        if error is not None:
            self.errors.labels(error["type"]).inc()

    def scrape(self) -> bytes:
        """All metrics as Prometheus reads them."""
        for update in self.before_scrape:
            update()
        return generate_latest(self.registry)
