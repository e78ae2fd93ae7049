"""How far a run is."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Progress:
    """How far a run is; given to the `on_progress` callback, which must be quick.

    Attributes:
        phase: `plan`, `answer` or `write`.
        rows: rows read (plan) or written (write).
        distinct: distinct texts that need an answer.
        routes: distinct texts answered, by route; `error` counts those that failed.
        began: `time.perf_counter()` when the first question was asked.
        asked: answers that the model gave in this process.
        expected: with a cascade, how many questions to the model are likely in all; None: not known (yet).
        certified: with a cascade, how many texts the student is certified to answer so far.
        stage: with a cascade, what it does just now.
    """

    phase: str = "plan"
    rows: int = 0
    distinct: int = 0
    routes: Counter[str] = field(default_factory=Counter)
    began: float | None = None
    asked: int = 0
    expected: int | None = None
    certified: int = 0
    stage: str = ""

    @property
    def done(self) -> int:
        """Distinct texts that are settled."""
        return self.routes.total()

    @property
    def rate(self) -> float | None:
        """Model answers a second, in this process."""
        seconds = time.perf_counter() - self.began if self.began else 0
        return self.asked / seconds if self.asked and seconds else None

    @property
    def eta(self) -> float | None:
        """Seconds until the last answer, at this rate."""
        return self.left / self.rate if self.rate else None

    @property
    def left(self) -> int:
        """Questions to the model that are still likely to be asked."""
        left = self.distinct - self.done
        return left if self.expected is None else min(left, max(0, self.expected - self.routes["model"]))


OnProgress = Callable[[Progress], None]
