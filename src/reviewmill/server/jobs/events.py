"""A job's progress as server-sent events, from any server: the store is asked, not the process that runs the job."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from reviewmill.store import JobRecord

POLL_S: Final = 0.5
HEARTBEAT_S: Final = 15.0
"""Proxies close a connection on which nothing is said for long; many after 30 or 60 seconds."""

RETRY_MS: Final = 2000
ENDED: Final = frozenset({"done", "failed", "cancelled"})


def event_id(job: JobRecord) -> str:
    """Names what a job said: the same wherever and whenever it is asked."""
    return hashlib.sha256(json.dumps([job.state, job.progress], sort_keys=True).encode()).hexdigest()[:16]


async def job_events(
    read: Callable[[], JobRecord | None],
    *,
    last_id: str | None,
    stopping: Callable[[], bool] = lambda: False,
    poll_s: float = POLL_S,
    heartbeat_s: float = HEARTBEAT_S,
) -> AsyncIterator[bytes]:
    """What a job's progress is, whenever it changes, until it ends or is deleted.

    An event tells all that is known (they are no differences), so one who comes back with the id of the last event
    that he saw is told only what is newer.

    Args:
        read: reads the job; called in a thread. None: it was deleted.
        last_id: what `Last-Event-ID` said.
        stopping: whether the server is to stop; the client comes back then, to whoever is there.
        poll_s: seconds between two looks.
        heartbeat_s: seconds after which a comment line keeps the connection open.
    """
    yield f"retry: {RETRY_MS}\n\n".encode()
    told, state, said = last_id, None, time.monotonic()
    while not stopping():
        job = await asyncio.to_thread(read)
        if job is None:
            yield _event("state", None, {"state": "deleted"})
            return
        current = event_id(job)
        if current != told:
            if job.state != state or job.state in ENDED:
                state = job.state
                yield _event("state", current, {"state": job.state, "error": job.error, "summary": job.summary})
            if job.progress and job.state not in ENDED:
                yield _event("progress", current, {"state": job.state, **public_progress(job.progress)})
            told, said = current, time.monotonic()
        if job.state in ENDED:
            return
        if time.monotonic() - said >= heartbeat_s:
            yield b": still here\n\n"
            said = time.monotonic()
        await asyncio.sleep(poll_s)


def public_progress(progress: Mapping[str, Any]) -> dict[str, Any]:
    """A job's progress without what only workers tell each other."""
    return {name: value for name, value in progress.items() if name != "stuck"}


def _event(name: str, event: str | None, data: Mapping[str, Any]) -> bytes:
    lines = [f"event: {name}", *([f"id: {event}"] if event else []), f"data: {json.dumps(data, ensure_ascii=False)}"]
    return ("\n".join(lines) + "\n\n").encode()
