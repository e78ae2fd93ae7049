"""One endpoint of a pool: whether it is well, how fast it is, and what it may be given."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Final, Literal

from reviewmill.endpoints.connection import About, Connection
from reviewmill.endpoints.limiter import Limiter
from reviewmill.errors import AnswerError, EndpointError, EndpointTimeoutError, EndpointUnreachableError

if TYPE_CHECKING:
    from reviewmill.endpoints.gate import Priority
    from reviewmill.settings import EndpointSettings

State = Literal["unseen", "up", "suspect", "out", "refused"]

_GUESSES: Final = {"gpu": 0.5, "cpu": 2.0, "npu": 4.0, None: 1.0}
"""Seconds that an answer is taken to take before the first one is in: only their order matters."""

_EJECT_AT: Final = 3.0
"""Faults, less a part of the good answers since, at which an endpoint is sent away."""
_FORGIVEN: Final = 0.1
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
_STEADY_S: Final = 60.0
"""So long without an outage, and the next one counts as the first."""


class Member:
    """One endpoint of a pool.

    Args:
        spec: what the settings say of it.

    Attributes:
        connection: None until it was seen for the first time.
        state: `unseen` and `out`: it is not there; `suspect`: it is being looked at; `refused`: it is there and must
            not answer (another model, another key).
        why: the reason, if it is not up.
        answered, failed: comments.
        hedged: answers to a straggler of another endpoint that came first.
        outages: times it was sent away.
    """

    def __init__(self, spec: EndpointSettings) -> None:
        self.spec = spec
        self.connection: Connection | None = None
        self.limiter = Limiter()
        self.state: State = "unseen"
        self.why = "It was not looked at yet."
        self.answered = self.failed = self.hedged = self.outages = 0
        self.next_look = 0.0
        self.last_sign = 0.0
        self._faults = 0.0
        self._in_a_row = 0
        self._up_since = 0.0

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.connection.about.endpoint if self.connection is not None else self.spec.url

    @property
    def about(self) -> About:
        """What answers there; only once it was seen."""
        if self.connection is None:
            raise RuntimeError(f"{self.spec.url} was not seen yet")
        return self.connection.about

    @property
    def limit(self) -> int:
        """Requests that it is given at once."""
        return self.limiter.limit if self.state == "up" else 0

    def takes(self, priority: Priority, reserve: float) -> bool:
        """Whether it may be given one more.

        Args:
            priority: what it is for.
            reserve: share of its places that no job gets.
        """
        limit = self.limit
        if priority == "job" and limit > 1:
            limit = max(1, math.floor(limit * (1 - reserve)))
        return self.limiter.in_flight < limit

    @property
    def latency(self) -> float:
        """Seconds that an answer takes, as measured at its present load, or guessed."""
        measured = self.limiter.latency
        return _GUESSES[self.spec.kind] if measured is None else measured

    @property
    def rate(self) -> float:
        """Answers a second that it gives when it is full: measured, else by Little's law."""
        if self.limiter.rate is not None:
            return self.limiter.rate
        return self.spec.weight * max(self.limit, 1) / max(self.latency, 1e-3)

    def rest(self, seconds: float) -> float:
        """How long a place of it stays empty after an answer that took so many seconds, for others who use it."""
        return seconds * (1 - self.spec.weight) / self.spec.weight

    # --- well or not ---

    def is_up(self, connection: Connection) -> None:
        """It was looked at, and is well."""
        if isinstance(getattr(connection, "limiter", None), Limiter) and connection is not self.connection:
            listeners = self.limiter.listeners
            self.limiter = connection.limiter  # type: ignore[attr-defined]
            self.limiter.listeners += listeners
        now = time.monotonic()
        if self.state == "out":
            self.limiter.restart()
            self._faults = _EJECT_AT - 1  # on probation
        self.connection = connection
        self.state, self.why = "up", ""
        self._up_since = self.last_sign = now

    def is_out(self, why: str) -> None:
        """It is not there, or gives nothing of use: leave it alone for a while, longer each time."""
        now = time.monotonic()
        if self.state in {"up", "suspect"}:
            self.outages += 1
            if now - self._up_since > _STEADY_S:
                self._in_a_row = 0
        pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**self._in_a_row)
        self._in_a_row = min(self._in_a_row + 1, 10)
        self.state, self.why, self.next_look = "out", why, now + pause

    def is_refused(self, why: str) -> None:
        """It is there, and must not answer."""
        self.state, self.why, self.next_look = "refused", why, time.monotonic() + _LONGEST_PAUSE_S

    def is_suspect(self, why: str) -> None:
        """Look at it before it is given more."""
        if self.state == "up":
            self.state, self.why, self.next_look = "suspect", why, 0.0

    def credit(self) -> None:
        """It gave a usable answer."""
        self.answered += 1
        self.last_sign = time.monotonic()
        self._faults = max(0.0, self._faults - _FORGIVEN)

    def blame(self, error: EndpointError) -> float:
        """It failed; returns how much that counts against it."""
        self.failed += 1
        if error.is_overload and not isinstance(error, EndpointTimeoutError):
            return 0.0  # it is there and says how it is; the limiter sees to it
        weight = 1.0 if isinstance(error, AnswerError | EndpointTimeoutError | EndpointUnreachableError) else 0.5
        self._faults += weight
        return weight

    def absolve(self, weight: float) -> None:
        """The fault was not its own."""
        self._faults = max(0.0, self._faults - weight)

    @property
    def is_intolerable(self) -> bool:
        """Whether it failed so often that others should have its work."""
        return self._faults >= _EJECT_AT

    def report(self) -> dict[str, Any]:
        """What the manifest says of it."""
        seen = self.connection is not None
        return {
            "endpoint": self.name,
            "kind": self.spec.kind,
            "model": self.about.model if seen else None,
            "fingerprint": self.about.fingerprint if seen else None,
            "state": self.state,
            **({"why": self.why} if self.why else {}),
            "answered": self.answered,
            "failed": self.failed,
            "hedges_won": self.hedged,
            "outages": self.outages,
            "concurrency": self.limiter.limit if seen else None,
            "comments_per_second": round(self.rate, 2) if self.answered else None,
            "latency_s": round(self.latency, 3) if self.answered else None,
        }
