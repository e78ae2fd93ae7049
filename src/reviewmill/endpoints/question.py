"""One question on its way through a pool: who has it, who failed at it, and who waits for its answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from reviewmill.errors import EndpointError, EndpointUnreachableError, ReviewmillError

if TYPE_CHECKING:
    from reviewmill.endpoints.gate import Priority
    from reviewmill.endpoints.member import Member
    from reviewmill.schema import Answer

_MUCH_LONGER: Final = 2.0


class Question:
    """One question.

    Args:
        question: asks one endpoint, in one attempt.
        priority: whose it is.
        done: what whoever asked waits for.

    Attributes:
        attempts: who is asked now, and the request.
        failed_at: who has failed at it.
        tries: attempts that failed; `counted`: those that were not for a lost connection.
        not_before: `time.monotonic()` before which nobody is asked again.
        hedged: whether it was given to a second endpoint while a first had it.
    """

    __slots__ = (
        "_began",
        "_blamed",
        "attempts",
        "counted",
        "done",
        "failed_at",
        "hedged",
        "not_before",
        "priority",
        "question",
        "tries",
    )

    def __init__(
        self, question: Callable[[Member], Awaitable[Answer]], priority: Priority, done: asyncio.Future[Answer]
    ) -> None:
        self.question = question
        self.priority = priority
        self.done = done
        self.attempts: dict[Member, asyncio.Task[None]] = {}
        self.failed_at: set[Member] = set()
        self.tries = self.counted = 0
        self.not_before = 0.0
        self.hedged = False
        self._began = 0.0
        self._blamed: list[tuple[Member, float]] = []

    def start(self, member: Member, attempt: Coroutine[Any, Any, None]) -> None:
        """Note who is asked now."""
        self._began = time.monotonic()
        self.attempts[member] = asyncio.create_task(attempt)

    def ended(self, member: Member) -> None:
        """Note that this endpoint is no longer asked."""
        self.attempts.pop(member, None)

    def is_with(self, member: Member) -> bool:
        """Whether this endpoint is asked now."""
        return member in self.attempts

    def take_from(self, member: Member) -> None:
        """Cancel the request to this endpoint."""
        self.attempts.pop(member).cancel()

    def cancel(self) -> None:
        """Cancel all requests."""
        for attempt in self.attempts.values():
            attempt.cancel()

    def answer(self, answer: Answer) -> None:
        """Hand the first answer over; a later one is dropped."""
        if not self.done.done():
            self.done.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Give up."""
        if not self.done.done():
            self.done.set_exception(error)

    def failed(self, member: Member, error: EndpointError, blame: float) -> None:
        """Note that this endpoint failed, and how much that was counted against it."""
        self.lost(member, error)
        self._blamed.append((member, blame))

    def lost(self, member: Member, error: ReviewmillError) -> None:
        """Note that this endpoint failed, without any blame."""
        self.failed_at.add(member)
        self.tries += 1
        self.counted += not isinstance(error, EndpointUnreachableError)

    def absolve(self) -> None:
        """Everybody failed at it: the fault is the question's."""
        for member, blame in self._blamed:
            member.absolve(blame)

    def wait(self, seconds: float) -> None:
        """Ask nobody for so many seconds."""
        self.not_before = time.monotonic() + seconds

    @property
    def can_be_hedged(self) -> bool:
        """Whether exactly one endpoint has it, and no second one ever had."""
        return len(self.attempts) == 1 and not self.hedged

    def expected(self, now: float) -> float:
        """Seconds until an answer may be expected from who has it.

        What takes much longer than usual already is expected to take as long again as it took so far.
        """
        (member,) = self.attempts
        so_far = now - self._began
        return so_far if so_far > _MUCH_LONGER * member.latency else max(member.latency - so_far, 0.0)
