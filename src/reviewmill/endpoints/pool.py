"""Many endpoints behind one face: a queue from which each takes as much as it really gets done.

A question goes to the fastest endpoint that has a place free, so that a slow device helps and holds up nobody; towards
the end of a run, which tells how much is left (`expecting`), a slow one is given nothing that the others would have
answered sooner, and what it still holds is asked of a faster one too (a hedge; Dean & Barroso 2013, The Tail at Scale,
CACM 56(2)). The first answer counts, the other request is cancelled. At any time a text is with at most two endpoints.

An endpoint that fails is looked at; if it is away, or gives nothing of use, it is sent away for a while, longer each
time, and its questions go to others. This is the only layer that retries: the endpoints' own clients try once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from reviewmill.endpoints.capabilities import Capabilities
from reviewmill.endpoints.connection import (
    EMBEDDED,
    About,
    Connection,
    EmbeddedConnection,
    RemoteConnection,
    connect,
)
from reviewmill.endpoints.member import Member
from reviewmill.endpoints.question import Question
from reviewmill.errors import (
    ContextOverflowError,
    EndpointError,
    EndpointLostError,
    EndpointRefusedError,
    EndpointTimeoutError,
    EndpointUnreachableError,
    ReviewmillError,
    SettingsError,
)

if TYPE_CHECKING:
    from reviewmill.endpoints.client import EndpointClient
    from reviewmill.endpoints.gate import Priority
    from reviewmill.schema import Answer
    from reviewmill.settings import EndpointSettings, Settings
    from reviewmill.tasks import Prompt

MIXED: Final = "mixed"
"""The name and fingerprint of a pool whose endpoints have different models: each answer says whose it is."""

_TICK_S: Final = 0.1
_LOOK_TIMEOUT_S: Final = 5.0
_SILENCE_S: Final = 5.0
_SILENCE_LATENCIES: Final = 4
_MOST_WAIT_S: Final = 30.0
_WELL_SOONER: Final = 0.8
_AHEAD: Final = 16
_FOR_OTHERS_S: Final = 3.0


class PoolConnection:
    """A connection over several endpoints. It belongs to one event loop from its first question on.

    Args:
        settings: what the endpoints have in common.
        members: the endpoints, those that are up among them connected.
        about: what answers, for the manifest and the keys.
        capabilities: what all of them can do; of a mixed pool, what the first can.

    Attributes:
        reserve: share of each endpoint's places that no job gets, so that a person finds one free.
    """

    def __init__(self, settings: Settings, members: list[Member], about: About, capabilities: Capabilities) -> None:
        self.about = about
        self.capabilities = capabilities
        self.members = members
        self.mixed = about.fingerprint == MIXED
        files = (member.connection.model_file for member in members if member.connection is not None)
        self.model_file = None if self.mixed else next(filter(None, files), None)
        self.reserve = 0.0
        self._settings = settings
        self._lines: dict[Priority, OrderedDict[Question, None]] = {"interactive": OrderedDict(), "job": OrderedDict()}
        self._asked: dict[Question, None] = {}
        self._expected: int | None = None
        self._runs = 0
        self._listeners: list[Callable[[], None]] = []
        self._keeper: asyncio.Task[None] | None = None
        self._looks: dict[Member, asyncio.Task[None]] = {}
        self._nobody_since: float | None = None
        for member in members:
            member.limiter.listeners.append(self._changed)

    # --- the face of a connection ---

    @property
    def concurrency(self) -> int:
        """Questions that may ever be with all of them at once."""
        return sum(member.limiter.most for member in self.members)

    @property
    def limit(self) -> int:
        """Questions that those that are up take at once now."""
        return max(1, sum(member.limit for member in self.members))

    def on_limit(self, listener: Callable[[], None]) -> None:
        """Call this whenever `limit` has changed."""
        self._listeners.append(listener)

    @property
    def notes(self) -> tuple[str, ...]:
        """What its user should know: which endpoints do not answer, and what a mixed pool means."""
        away = [f"{member.name} does not answer: {member.why}" for member in self.members if member.state != "up"]
        if self.mixed:
            away.append("The endpoints have different models: a label depends on who answered (see `provenance`).")
        return tuple(away)

    async def open(self, prompt: Prompt) -> EndpointClient:
        """Return a client of the fastest endpoint that is up.

        Raises:
            EndpointUnreachableError: none is.
        """
        self._keep()
        up = [member for member in self.members if member.state == "up" and member.connection is not None]
        if not up:
            raise self._nobody()
        best = min(up, key=lambda member: (member.limiter.in_flight >= member.limit, member.latency))
        if best.connection is None:
            raise RuntimeError("an endpoint that is up has a connection")
        return await best.connection.open(prompt)

    def placed(self, prompt: Prompt) -> AbstractAsyncContextManager[Mapping[str, Any]]:
        """Its members' connections know."""
        return nullcontext({})

    async def aclose(self) -> None:
        """Give everything back; the pool can be used again."""
        tasks = [*self._looks.values(), *([self._keeper] if self._keeper else [])]
        self._keeper = None
        self._looks.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for member in self.members:
            if member.connection is not None:
                await member.connection.aclose()

    def report(self) -> list[dict[str, Any]]:
        """What each endpoint did, for the manifest."""
        return [member.report() for member in self.members]

    @contextmanager
    def expecting(self, questions: int) -> Iterator[None]:
        """Tell that a run will ask so many questions, and no more: what is near the end is treated so."""
        self._runs += 1
        self._expected = (self._expected or 0) + questions
        try:
            yield
        finally:
            self._runs -= 1
            if not self._runs:  # else what this one did not ask only puts the end of the others off
                self._expected = None

    def await_member(self, member: Member, connecting: asyncio.Task[Connection]) -> None:
        """Take a member in once it is connected."""
        self._looks[member] = asyncio.create_task(self._look(member, connecting))

    # --- questions ---

    async def ask(self, question: Callable[[Member], Awaitable[Answer]], priority: Priority) -> Answer:
        """Have a question answered by whichever endpoint is best for it.

        Args:
            question: asks one endpoint, in one attempt.
            priority: interactive questions go before those of jobs.

        Raises:
            EndpointError: no usable answer.
            EndpointLostError: no endpoint is there any more; of jobs only.
        """
        self._keep()
        asked = Question(question, priority, asyncio.get_running_loop().create_future())
        if priority == "job" and self._expected is not None:
            self._expected -= 1
        self._asked[asked] = None
        try:
            self._queue(asked)
            return await asked.done
        finally:
            del self._asked[asked]
            self._lines[priority].pop(asked, None)
            asked.cancel()

    def _queue(self, asked: Question, *, first: bool = False) -> None:
        if asked.done.done():
            return
        if not any(member.state in {"up", "suspect"} for member in self.members) and self._gave_up(asked):
            asked.fail(self._lost(asked))
            return
        line = self._lines[asked.priority]
        line[asked] = None
        if first:
            line.move_to_end(asked, last=False)
        self._dispatch()

    def _dispatch(self) -> None:
        """Give what waits to who is free."""
        for priority, line in self._lines.items():
            while line and self._has_place(priority) and self._give_one(line):
                pass

    def _has_place(self, priority: Priority) -> bool:
        return any(member.state == "up" and member.takes(priority, self.reserve) for member in self.members)

    def _give_one(self, line: OrderedDict[Question, None]) -> bool:
        """Give the first question that somebody may have; of those in front, some may wait for another endpoint."""
        now = time.monotonic()
        for number, asked in enumerate(line):
            if number >= _AHEAD:
                return False
            member = self._choose(asked) if asked.not_before <= now else None
            if member is not None:
                del line[asked]
                self._start(asked, member)
                return True
        return False

    def _choose(self, asked: Question) -> Member | None:
        """The fastest endpoint that has a place; one that failed at this question only if there is no other."""
        up = [member for member in self.members if member.state == "up"]
        untried = [member for member in up if member not in asked.failed_at]
        able = untried or up
        free = [member for member in able if member.takes(asked.priority, self.reserve)]
        if asked.priority == "job":  # a faster one that has failed at this question is not to be waited for
            free = [member for member in free if not self._would_delay(member, able)]
        return min(free, key=lambda member: member.latency, default=None)

    def _would_delay(self, member: Member, able: list[Member]) -> bool:
        """Whether the others will have answered all that is left before this one has answered one question."""
        others = [other for other in able if other is not member and other.latency < member.latency]
        if self._expected is None or not others:
            return False
        left = self._expected + len(self._lines["job"])
        seconds = left / sum(other.rate for other in others) + min(other.latency for other in others)
        return member.latency > seconds

    def _start(self, asked: Question, member: Member) -> None:
        member.limiter.enter()
        asked.start(member, self._attempt(asked, member))

    async def _attempt(self, asked: Question, member: Member) -> None:
        """Ask one endpoint, and see to what comes of it. The place was taken already."""
        began = time.monotonic()
        hedging = len(asked.attempts) > 1
        outcome: Any = "failed"
        error: ReviewmillError | None = None
        try:
            answer = await asked.question(member)
            outcome = "answered"
            member.credit()
            member.hedged += hedging and not asked.done.done()
            asked.answer(answer)
        except EndpointError as failure:
            error = failure
            outcome = "overloaded" if failure.is_overload else "failed"
        except ReviewmillError as failure:  # an engine of ours that cannot be started, ...
            error = failure
        except Exception as failure:  # noqa: BLE001 - a fault of ours belongs to whoever asked
            asked.fail(failure)
        finally:
            asked.ended(member)
            self._leave(member, outcome, time.monotonic() - began)
        if error is not None:
            self._failed(asked, member, error)

    def _leave(self, member: Member, outcome: Any, seconds: float) -> None:
        limiter = member.limiter
        rest = member.rest(seconds) if outcome == "answered" else 0.0
        if rest:
            asyncio.get_running_loop().call_later(rest, self._left, limiter, outcome, seconds)
        else:
            self._left(limiter, outcome, seconds)

    def _left(self, limiter: Any, outcome: Any, seconds: float) -> None:
        limiter.leave(outcome, seconds)
        self._dispatch()

    # --- failures ---

    def _failed(self, asked: Question, member: Member, error: ReviewmillError) -> None:
        """One endpoint failed at one question: who is to blame, and who is asked next?"""
        if asked.done.done():
            return
        if not isinstance(error, EndpointError):
            self._send_away(member, error.message)
            member.is_refused(error.message)
            asked.lost(member, error)
            self._queue(asked, first=True)
            return
        if isinstance(error, ContextOverflowError):
            asked.fail(error)
            return
        asked.failed(member, error, member.blame(error))
        if isinstance(error, EndpointUnreachableError | EndpointTimeoutError | EndpointRefusedError):
            member.is_suspect(error.message)
            self._look_if_due(member, time.monotonic())
        elif member.is_intolerable and self._others(member):
            self._send_away(member, f"It failed too often; the last time: {error.message}")
        if asked.attempts:
            return  # the other one that was asked may still answer
        if self._is_hopeless(asked, error):
            asked.absolve()
            asked.fail(error)
            return
        if not self._others(member) or asked.failed_at.issuperset(self._up()):
            asked.wait(self._pause(asked, error))
        self._queue(asked, first=True)

    def _is_hopeless(self, asked: Question, error: EndpointError) -> bool:
        """Whether nobody is left to ask, or it was tried often enough."""
        if isinstance(error, EndpointUnreachableError):
            return asked.tries >= self._settings.attempts + 2 * len(self.members)
        untried = [member for member in self.members if member not in asked.failed_at and member.state == "up"]
        if error.is_overload or type(error) is EndpointError:
            return asked.counted >= max(self._settings.attempts, min(2, len(untried) + 1))
        return not untried  # the same question at temperature 0 gets the same answer

    def _pause(self, asked: Question, error: EndpointError) -> float:
        """Seconds before the same endpoint is asked again."""
        if error.retry_after is not None:
            return min(error.retry_after, _MOST_WAIT_S)
        return min(_MOST_WAIT_S, 0.5 * 2.0 ** (asked.tries - 1)) + random.uniform(0, 0.5)  # noqa: S311 - jitter

    def _up(self) -> list[Member]:
        return [member for member in self.members if member.state == "up"]

    def _others(self, member: Member) -> list[Member]:
        return [other for other in self._up() if other is not member]

    def _send_away(self, member: Member, why: str) -> None:
        """Ask it nothing for a while, and give what it has to others."""
        member.is_out(why)
        for asked in list(self._asked):
            if asked.is_with(member):
                asked.take_from(member)
                if not asked.attempts:
                    self._queue(asked, first=True)
        self._changed()

    def _gave_up(self, asked: Question) -> bool:
        """Whether all endpoints have been away for so long that there is no sense in waiting."""
        if asked.priority == "interactive":
            return True
        patience = min(_MOST_WAIT_S, 0.5 * (2 ** (self._settings.attempts - 1) - 1))
        return self._nobody_since is not None and time.monotonic() - self._nobody_since >= patience

    def _lost(self, asked: Question) -> ReviewmillError:
        if asked.priority == "interactive":
            return self._nobody()
        return EndpointLostError(
            f"{self._nobody().message} Everything answered so far is kept.",
            hint="Bring one of them back and run the same command again: it continues.",
        )

    def _nobody(self) -> EndpointUnreachableError:
        why = "; ".join(f"{member.name}: {member.why}" for member in self.members)
        return EndpointUnreachableError(
            f"None of the {len(self.members)} endpoints answers ({why}).", hint="Is one of these servers running?"
        )

    # --- looking after the endpoints ---

    def _keep(self) -> None:
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._look_after())

    async def _look_after(self) -> None:
        while True:
            now = time.monotonic()
            for member in self.members:
                self._look_if_due(member, now)
            self._see_whether_all_are_away(now)
            self._hedge(now)
            self._dispatch()
            await asyncio.sleep(_TICK_S)

    def _look_if_due(self, member: Member, now: float) -> None:
        if member.state == "up" and member.limiter.in_flight:
            # Silence alone is no fault; that it does not even say which model it serves is one.
            patience = max(_SILENCE_S, _SILENCE_LATENCIES * member.latency)
            if now - max(member.last_sign, member.next_look) < patience:
                return
            member.next_look = now
        elif member.state == "up" or now < member.next_look:
            return
        look = self._looks.get(member)
        if look is None or look.done():
            self._looks[member] = asyncio.create_task(self._look(member))

    async def _look(self, member: Member, connecting: asyncio.Task[Connection] | None = None) -> None:
        """Look whether it is there, and serves what it should."""
        try:
            async with asyncio.timeout(_LOOK_TIMEOUT_S if member.connection is not None else None):
                connection = await (connecting or self._reached(member))
        except TimeoutError:
            self._send_away(member, f"It was silent for {_LOOK_TIMEOUT_S:g} s.")
        except EndpointRefusedError as error:
            self._send_away(member, error.message)
            member.is_refused(error.message)
        except ReviewmillError as error:
            self._send_away(member, error.message)
        else:
            why = self._unfit(member, connection)
            if why is None and member.is_intolerable and member.state == "suspect" and self._others(member):
                self._send_away(member, f"It fails too often: {member.why}")
            elif why is None:
                if member.state != "up":
                    member.is_up(connection)
                    self._changed()
                    self._dispatch()
            else:
                self._send_away(member, why)
                member.is_refused(why)

    async def _reached(self, member: Member) -> Connection:
        known = member.connection
        if isinstance(known, EmbeddedConnection):
            return known
        if isinstance(known, RemoteConnection) and await known.identify() == known.about.fingerprint:
            return known
        fresh = await connect(member_settings(self._settings, member.spec))
        if known is not None:
            if not self.mixed:
                await fresh.aclose()
                raise EndpointRefusedError(f"{known.about.endpoint} serves another model than before.")
            await known.aclose()
        return fresh

    def _unfit(self, member: Member, connection: Connection) -> str | None:
        """Why this endpoint must not answer for the pool, if it must not."""
        if self.mixed:
            return None
        if connection.about.fingerprint != self.about.fingerprint:
            return f"It serves another model ({connection.about.model}) than the others ({self.about.model})."
        if not covers(connection.capabilities, self.capabilities):
            return "It cannot do what the others are asked for (formats, log-probabilities)."
        return None

    def _see_whether_all_are_away(self, now: float) -> None:
        if any(member.state in {"up", "suspect"} for member in self.members):
            self._nobody_since = None
            return
        self._nobody_since = self._nobody_since or now
        for asked in [asked for line in self._lines.values() for asked in line]:
            if self._gave_up(asked):
                asked.fail(self._lost(asked))

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()

    # --- the end of a run ---

    def _hedge(self, now: float) -> None:
        """Ask a faster endpoint too about what a slow one still holds, once nothing else is left to ask."""
        if not self._settings.hedge or self._expected is None or self._expected > 0 or self._lines["job"]:
            return
        late = sorted(
            (asked for asked in self._asked if asked.priority == "job" and asked.can_be_hedged),
            key=lambda asked: -asked.expected(now),
        )
        for asked in late:
            sooner = [
                member
                for member in self._up()
                if member.takes("job", self.reserve)
                and not asked.is_with(member)
                and member not in asked.failed_at
                and member.limiter.latency is not None
                and member.latency < _WELL_SOONER * asked.expected(now)
            ]
            if sooner:
                asked.hedged = True
                self._start(asked, min(sooner, key=lambda member: member.latency))


def covers(able: Capabilities, wanted: Capabilities) -> bool:
    """Whether an endpoint can do all that is wanted."""
    formats = ("grammar", "regex", "choice", "json_schema")
    return able.top_logprobs >= wanted.top_logprobs and all(
        getattr(able, name) or not getattr(wanted, name) for name in formats
    )


def common(all_of: list[Capabilities]) -> Capabilities:
    """What every one of these can do."""
    return Capabilities(
        grammar=all(able.grammar for able in all_of),
        regex=all(able.regex for able in all_of),
        choice=all(able.choice for able in all_of),
        json_schema=all(able.json_schema for able in all_of),
        top_logprobs=min(able.top_logprobs for able in all_of),
    )


def member_settings(settings: Settings, spec: EndpointSettings) -> Settings:
    """The settings with which one endpoint of a pool is connected: it alone, and one attempt."""
    return settings.model_copy(
        update={
            "endpoint": spec.url,
            "endpoints": [],
            "engine": "auto",
            "model": spec.model or settings.model,
            "api_key": spec.api_key or settings.api_key,
            "concurrency": spec.concurrency or settings.concurrency,
            "attempts": 1,
        }
    )


async def connect_pool(settings: Settings) -> PoolConnection:
    """Look at all endpoints of a pool at once; those that do not answer now may come later.

    Raises:
        SettingsError: the endpoints have different models and that was not asked for, or one is named twice.
        EndpointUnreachableError: none of them answers.
        ReviewmillError: the embedded engine is one of them, and cannot be.
    """
    members = [Member(spec) for spec in settings.endpoints]
    names = [spec.url.rstrip("/").removesuffix("/v1") for spec in settings.endpoints]
    if len(set(names)) < len(names):
        raise SettingsError("An endpoint is named twice.", hint="Each endpoint of a pool is another server.")
    connecting = {
        member: asyncio.create_task(connect(member_settings(settings, member.spec)), name=member.spec.url)
        for member in members
    }
    try:
        await _first_ones(list(connecting.values()))
        reached = []
        for member, attempt in connecting.items():
            if (connection := _reached_by(member, attempt)) is not None:
                reached.append(connection)
        pool = PoolConnection(settings, members, *_what_answers(settings, reached, members))
    except BaseException:
        for attempt in connecting.values():
            attempt.cancel()
        for each in await asyncio.gather(*connecting.values(), return_exceptions=True):
            if not isinstance(each, BaseException):
                await each.aclose()
        raise
    for member, attempt in connecting.items():
        if not attempt.done():
            pool.await_member(member, attempt)
    return pool


async def _first_ones(attempts: list[asyncio.Task[Connection]]) -> None:
    """Wait until one endpoint is connected, and a little for the others: a slow one needs long to show what it can."""
    pending = set(attempts)
    while pending and not any(_succeeded(attempt) for attempt in attempts):
        _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    if pending:
        await asyncio.wait(pending, timeout=_FOR_OTHERS_S)


def _succeeded(attempt: asyncio.Task[Connection]) -> bool:
    return attempt.done() and not attempt.cancelled() and attempt.exception() is None


def _reached_by(member: Member, attempt: asyncio.Task[Connection]) -> Connection | None:
    """The connection to a member; None if there is none now, and the member knows why.

    Raises:
        ReviewmillError: it is the embedded engine, and cannot be.
    """
    if not attempt.done():
        member.is_out("It is slow to show what it can do.")
        return None
    error = attempt.exception()
    if error is None:
        member.is_up(attempt.result())
        return attempt.result()
    if isinstance(error, EndpointRefusedError):
        member.is_refused(error.message)
    elif isinstance(error, EndpointError):
        member.is_out(error.message)
    else:
        raise error
    return None


def _what_answers(settings: Settings, reached: list[Connection], members: list[Member]) -> tuple[About, Capabilities]:
    if not reached:
        why = "; ".join(f"{member.name}: {member.why}" for member in members)
        raise EndpointUnreachableError(
            f"None of the {len(members)} endpoints answers ({why}).", hint="Is one of these servers running?"
        )
    where = ", ".join(spec_name(member.spec) for member in members)
    if settings.mixed:
        return About(MIXED, MIXED, where), reached[0].capabilities
    first = reached[0].about
    different = [connection.about for connection in reached if connection.about.fingerprint != first.fingerprint]
    if different:
        other = different[0]
        raise SettingsError(
            f"{first.endpoint} serves {first.model} ({first.fingerprint}), and {other.endpoint} serves {other.model} "
            f"({other.fingerprint}): a comment's label would depend on who answers.",
            hint="Serve the same model file with the same settings on all of them, or say --mixed.",
        )
    capabilities = common([connection.capabilities for connection in reached])
    return About(first.model, first.fingerprint, where, first.digest), capabilities


def spec_name(spec: EndpointSettings) -> str:
    """How results call an endpoint, whether it is there or not."""
    if spec.url == EMBEDDED:
        return spec.url
    from reviewmill.endpoints.client import base_url

    return base_url(spec.url)
