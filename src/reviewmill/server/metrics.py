"""What Prometheus is told. Labels take few values: route templates, tasks, kinds of error; never ids, texts or keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from reviewmill._version import __version__
from reviewmill.schema import Analysis

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """All metrics of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry: Final = CollectorRegistry()
        made = {"registry": self.registry}
        self.requests = Counter(
            "reviewmill_requests", "Requests that were answered.", ["method", "route", "status"], **made
        )
        self.seconds = Histogram(
            "reviewmill_request_seconds", "Time until a request was answered.", ["route"], buckets=_SECONDS, **made
        )
        self.in_flight = Gauge("reviewmill_requests_in_flight", "Requests that are being answered.", **made)
        self.analyses = Counter(
            "reviewmill_analyses", "Comments that were analysed.", ["task", "status", "route"], **made
        )
        self.errors = Counter("reviewmill_comment_errors", "Comments that got an error.", ["type"], **made)
        self.cache = Counter("reviewmill_cache_lookups", "Where answers were looked for and found.", ["found"], **made)
        self.tokens = Counter("reviewmill_tokens", "Tokens that the model read and wrote.", ["direction"], **made)
        self.waiting = Gauge("reviewmill_queue_waiting", "Comments that wait for the model.", ["priority"], **made)
        self.asking = Gauge("reviewmill_model_in_flight", "Comments that the model works on.", ["priority"], **made)
        self.model_up = Gauge("reviewmill_model_up", "1 if the model answered when it was last looked at.", **made)
        self.hot = Gauge("reviewmill_hot_answers", "Answers that are kept in memory.", **made)
        self.log_lost = Counter("reviewmill_access_log_lost", "Lines that the access log had no room for.", **made)
        info = Gauge("reviewmill_info", "The version.", ["version"], **made)
        info.labels(__version__).set(1)
        self.before_scrape: list[Callable[[], None]] = []
        """Called before each scrape, to set what is only read then."""
        # `labels()` checks and locks; on the way of every request these dicts are faster.
        self._requests: dict[tuple[str, str, int], Counter] = {}
        self._seconds: dict[str, Histogram] = {}
        self._analyses: dict[tuple[str, str, str], Counter] = {}

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
