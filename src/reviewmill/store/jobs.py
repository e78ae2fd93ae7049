"""Jobs: a queue that any number of workers take from, and in which no job is taken twice or lost.

A worker *claims* a job for some seconds (its lease) and must send heartbeats to keep it. When the lease has run out,
because the worker died or hangs, the job can be claimed again. Each claim has a `token`, one higher than the claim
before it, and every later write must carry it; so a worker that comes back to life finds that its token counts no
more (a fencing token), whatever the clocks say.

Leases are measured with PostgreSQL's clock, or for SQLite, whose workers all live on one machine, with that machine's
monotonic clock, which nobody can set. It starts anew when the machine does; then no worker of before is alive, and
leases of another boot count as run out.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import sqlalchemy as sa

from reviewmill.errors import IdempotencyConflictError
from reviewmill.store import tables
from reviewmill.store.rows import digest, new_id, page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from reviewmill.store.engine import Database

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
HeartbeatAnswer = Literal["running", "cancelled", "lost"]

_T = tables.jobs
_ENDED: Final = ("done", "failed", "cancelled")
_NO_LEASE: Final[dict[str, Any]] = {"lease_until": None, "lease_clock": None, "lease_end": None}
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job, as it was when it was read.

    `owner` is a key's id or "local"; `size` is in bytes, `sha256` that of the uploaded file; `attempts` counts claims
    that were not given back; `progress`, `summary` and `error` are what the worker said last.
    """

    id: str
    owner: str
    state: JobState
    task: str
    filename: str
    format: str
    text_column: str | None
    id_column: str | None
    size: int
    sha256: str
    options: dict[str, Any]
    progress: dict[str, Any]
    summary: dict[str, Any] | None
    error: dict[str, Any] | None
    attempts: int
    token: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    lease_until: datetime | None
    worker: str | None


_COLUMNS: Final = [_T.c[field.name] for field in fields(JobRecord)]
_SAME: Final = ("task", "format", "text_column", "id_column", "size", "sha256", "options")


class _Moment(NamedTuple):
    """Now: by the calendar, and on a clock that leases are measured with."""

    calendar: datetime
    clock: str
    seconds: float


class Jobs:
    """The jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        owner: str,
        *,
        job_id: str | None = None,
        task: str,
        filename: str,
        format: str,  # noqa: A002 -- what it is called everywhere
        text_column: str | None,
        id_column: str | None,
        size: int,
        sha256: str,
        idempotency_key: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[JobRecord, bool]:
        """Queue a job, or find the one that the same owner queued with the same idempotency key.

        What is not explained in `JobRecord`: `job_id` is a new job's id (`new_id`), where its files lie under it
        already (None makes one), and `idempotency_key` the caller's name for this request.

        Returns:
            The job, and whether it is new.

        Raises:
            IdempotencyConflictError: the key was used for another file, task or other options.
        """
        given = {
            "task": task,
            "filename": filename,
            "format": format,
            "text_column": text_column,
            "id_column": id_column,
            "size": size,
            "sha256": sha256,
            "options": json.loads(json.dumps(dict(options or {}))),
        }
        mark = None if idempotency_key is None else digest(idempotency_key)
        blank = {"state": "queued", "progress": {}, "attempts": 0, "token": 0}
        with self._database.write() as connection:
            row = {"id": job_id or new_id(), "owner": owner, "idempotency_sha256": mark, **blank, **given}
            row["created_at"] = self._database.now(connection)
            insert = self._database.insert(_T).values(row)
            connection.execute(insert.on_conflict_do_nothing(index_elements=["owner", "idempotency_sha256"]))
            marked = sa.and_(_T.c.owner == owner, _T.c.idempotency_sha256 == mark)
            kept = sa.select(*_COLUMNS).where(_T.c.id == row["id"] if mark is None else marked)
            job = _record(connection.execute(kept).mappings().one())
        differing = [name for name in _SAME if getattr(job, name) != given[name]]
        if differing:
            raise IdempotencyConflictError(
                f"This idempotency key was used for job {job.id}, which differs in: {', '.join(differing)}.",
                hint="Use a new key for a new job, or send exactly the same request again.",
            )
        return job, job.id == row["id"]

    def get(self, job_id: str) -> JobRecord | None:
        """The job with this id."""
        with self._database.read() as connection:
            return _get(connection, job_id)

    def list(
        self, owner: str | None = None, *, cursor: str | None = None, limit: int = 100
    ) -> tuple[list[JobRecord], str | None]:
        """One page of an owner's jobs (None: everybody's), newest first, and the next page's cursor (None: the last).

        Raises:
            CursorError: the cursor is none that was given out.
        """
        query = sa.select(*_COLUMNS)
        if owner is not None:
            query = query.where(_T.c.owner == owner)
        rows, following = page(self._database, query, _T.c.id, cursor, limit)
        return [_record(row) for row in rows], following

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state; states without any are absent."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(_T.c.state, sa.func.count()).group_by(_T.c.state))
            return {state: count for state, count in rows}  # noqa: C416 -- a Row is no tuple for mypy

    def before(self, job_id: str) -> int:
        """How many jobs that have not ended are older than this one."""
        older = sa.and_(_T.c.state.in_(["queued", "running"]), _T.c.id < job_id)
        with self._database.read() as connection:
            return connection.execute(sa.select(sa.func.count()).where(older)).scalar() or 0

    def claim(self, worker: str, lease_s: float) -> JobRecord | None:
        """Take the oldest job that is queued, or whose worker let its lease run out; None if there is none.

        Args:
            worker: who takes it, for people to read.
            lease_s: how long it stays taken without a heartbeat, in seconds.
        """
        with self._database.write() as connection:
            now = self._now(connection)
            overdue = sa.or_(_T.c.lease_clock != now.clock, _T.c.lease_end <= now.seconds)
            free = sa.or_(_T.c.state == "queued", sa.and_(_T.c.state == "running", overdue))
            # SQLite knows no FOR UPDATE (SQLAlchemy leaves it out there), and its transaction is alone anyway.
            first = sa.select(_T.c.id).where(free).order_by(_T.c.id).limit(1).with_for_update(skip_locked=True)
            job_id = connection.execute(first).scalar()
            if job_id is None:
                return None
            values = {
                "state": "running",
                "worker": worker,
                "attempts": _T.c.attempts + 1,
                "token": _T.c.token + 1,
                "started_at": sa.func.coalesce(_T.c.started_at, sa.bindparam("now", now.calendar, tables.Time)),
                **_lease(now, lease_s),
            }
            connection.execute(_T.update().where(_T.c.id == job_id).values(values))
            return _get(connection, job_id)

    def heartbeat(self, job_id: str, token: int, lease_s: float, progress: Mapping[str, Any]) -> HeartbeatAnswer:
        """Keep a job for another `lease_s` seconds, and say how far it is.

        Returns:
            "running": it is still yours. "cancelled": stop, somebody cancelled it. "lost": stop, another worker has it,
            or it was deleted.
        """
        with self._database.write() as connection:
            now = self._now(connection)
            if _update(connection, job_id, token, {"progress": dict(progress), **_lease(now, lease_s)}):
                return "running"
            job = _get(connection, job_id)
        return "cancelled" if job and job.token == token and job.state == "cancelled" else "lost"

    def finish(
        self,
        job_id: str,
        token: int,
        state: Literal["done", "failed"],
        *,
        summary: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        progress: Mapping[str, Any] | None = None,
    ) -> bool:
        """End a job; False if it is no longer yours (lost, cancelled or deleted), and nothing was changed."""
        with self._database.write() as connection:
            values: dict[str, Any] = {
                "state": state,
                "summary": None if summary is None else dict(summary),
                "error": None if error is None else dict(error),
                "finished_at": self._database.now(connection),
                **_NO_LEASE,
            }
            if progress is not None:
                values["progress"] = dict(progress)
            return _update(connection, job_id, token, values)

    def amend(self, job_id: str, summary: Mapping[str, Any]) -> bool:
        """Replace the summary of a finished job; False if there is none that is done."""
        with self._database.write() as connection:
            done = sa.and_(_T.c.id == job_id, _T.c.state == "done")
            return connection.execute(_T.update().where(done).values(summary=dict(summary))).rowcount == 1

    def release(self, job_id: str, token: int) -> bool:
        """Give a job back to the queue, as if it had not been tried; False if it is no longer yours."""
        values = {"state": "queued", "worker": None, "attempts": _T.c.attempts - 1, **_NO_LEASE}
        with self._database.write() as connection:
            return _update(connection, job_id, token, values)

    def cancel(self, job_id: str) -> JobRecord | None:
        """Cancel a job that has not ended; its worker learns it by the next heartbeat. None: no such job."""
        with self._database.write() as connection:
            values = {"state": "cancelled", "finished_at": self._database.now(connection), **_NO_LEASE}
            connection.execute(_T.update().where(_T.c.id == job_id, _T.c.state.not_in(_ENDED)).values(values))
            return _get(connection, job_id)

    def delete(self, job_id: str) -> bool:
        """Delete a job in whatever state it is; its worker, if any, has lost it. False: no such job."""
        with self._database.write() as connection:
            return connection.execute(_T.delete().where(_T.c.id == job_id)).rowcount == 1

    def expired(self, before: datetime) -> Sequence[str]:
        """The ids of the jobs that ended before a time, the oldest first."""
        query = sa.select(_T.c.id).where(_T.c.state.in_(_ENDED), _T.c.finished_at < before).order_by(_T.c.id)
        with self._database.read() as connection:
            return connection.execute(query).scalars().all()

    def _now(self, connection: sa.Connection) -> _Moment:
        calendar = self._database.now(connection)
        if self._database.is_postgres:
            return _Moment(calendar, "postgresql", calendar.timestamp())
        try:
            return _Moment(calendar, _BOOT_ID.read_text(encoding="ascii").strip(), time.monotonic())
        except OSError:  # not Linux: nothing tells one boot from another
            return _Moment(calendar, "calendar", calendar.timestamp())


def _lease(now: _Moment, lease_s: float) -> dict[str, Any]:
    return {
        "lease_until": now.calendar + timedelta(seconds=lease_s),
        "lease_clock": now.clock,
        "lease_end": now.seconds + lease_s,
    }


def _update(connection: sa.Connection, job_id: str, token: int, values: dict[str, Any]) -> bool:
    """Change a running job if the token is that of its last claim."""
    held = sa.and_(_T.c.id == job_id, _T.c.state == "running", _T.c.token == token)
    return connection.execute(_T.update().where(held).values(values)).rowcount == 1


def _get(connection: sa.Connection, job_id: str) -> JobRecord | None:
    row = connection.execute(sa.select(*_COLUMNS).where(_T.c.id == job_id)).mappings().first()
    return _record(row) if row else None


def _record(row: sa.RowMapping) -> JobRecord:
    return JobRecord(**row)
