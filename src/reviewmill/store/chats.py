"""What chats are about: files that were attached, and the *sets*: what was analysed in which chat, and for whom.

A set is either a job over an attached file, or comments that were typed, whose analyses lie here. Chats are known by
digests of the owner (a key), the account (a person behind that key) and what the chat program calls the chat.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from reviewmill.store import tables
from reviewmill.store.rows import digest, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from reviewmill.store.engine import Database

_FILES: Final = tables.chat_files
_SETS: Final = tables.chat_sets
_ROWS: Final = tables.chat_rows
_CHUNK: Final = 500
_MOST_SETS: Final = 50


@dataclass(frozen=True, slots=True)
class ChatFile:
    """A file as it was attached; `account` is "" where nobody was named, `file_id` what the chat program calls it."""

    id: str
    owner: str
    account: str
    file_id: str
    filename: str
    format: str
    text_column: str
    id_column: str | None
    customer_column: str | None
    rows: int
    size: int
    sha256: str
    created_at: datetime
    used_at: datetime


@dataclass(frozen=True, slots=True)
class ChatSet:
    """What was analysed in a chat: the job `job_id` over the file `file`, or typed comments where that is None."""

    id: str
    owner: str
    account: str
    task: str
    labels: list[str]
    name: str | None
    file: str | None
    job_id: str | None
    rows: int
    created_at: datetime
    used_at: datetime


@dataclass(frozen=True, slots=True)
class ChatKey:
    """Names a chat: whose key, which account behind it ("" for none), and what the chat program calls it."""

    owner: str
    account: str
    chat: str

    @property
    def sha256(self) -> str:
        """Under which it is kept."""
        return digest("chat", self.owner, self.account, self.chat)


_FILE_COLUMNS: Final = [_FILES.c[field.name] for field in fields(ChatFile)]
_SET_COLUMNS: Final = [_SETS.c[field.name] for field in fields(ChatSet)]


class Chats:
    """Attached files and sets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- files --------------------------------------------------------------------------------------------------

    def keep_file(self, owner: str, account: str, file_id: str, facts: Mapping[str, Any]) -> tuple[ChatFile, list[str]]:
        """Note a file; the same one again changes nothing, another one under the same id takes its place.

        Args:
            owner: the key that it came under.
            account: who attached it.
            file_id: what the chat program calls it.
            facts: the other fields of `ChatFile` but the times; its `id` is that of a new one.

        Returns:
            What is kept, and the ids of those that are not (any more): the new one, or the one before.
        """
        identity = digest("file", owner, account, file_id)
        with self._database.write() as connection:
            now = self._database.now(connection)
            found = connection.execute(
                sa.select(*_FILE_COLUMNS).where(_FILES.c.identity_sha256 == identity).with_for_update()
            )
            before = found.mappings().first()
            if before is not None and before["sha256"] == facts["sha256"] and before["format"] == facts["format"]:
                connection.execute(_FILES.update().where(_FILES.c.id == before["id"]).values(used_at=now))
                return ChatFile(**before), [facts["id"]]
            if before is not None:
                connection.execute(_FILES.delete().where(_FILES.c.id == before["id"]))
            row = {"owner": owner, "account": account, "file_id": file_id, "created_at": now, "used_at": now, **facts}
            more = {"identity_sha256": identity, "file_sha256": digest("file id", file_id)}
            insert = self._database.insert(_FILES).values(row | more)
            connection.execute(insert.on_conflict_do_nothing(index_elements=["identity_sha256"]))
            same = sa.select(*_FILE_COLUMNS).where(_FILES.c.identity_sha256 == identity)
            kept = ChatFile(**connection.execute(same).mappings().one())
        gone = [before["id"]] if before is not None else []
        return kept, gone if kept.id == facts["id"] else [*gone, facts["id"]]  # somebody was quicker

    def file(self, owner: str, account: str, file_id: str) -> ChatFile | None:
        """The file that an owner's account attached under this id.

        A file or a question that names no account belongs to whoever uses the key; named accounts see only their own.
        """
        named = sa.and_(_FILES.c.file_sha256 == digest("file id", file_id), _FILES.c.owner == owner)
        whose = sa.true() if not account else _FILES.c.account.in_([account, ""])
        with self._database.write() as connection:
            query = sa.select(*_FILE_COLUMNS).where(named, whose).order_by(_FILES.c.account.desc(), _FILES.c.id.desc())
            row = connection.execute(query.limit(1)).mappings().first()
            if row is not None:
                now = self._database.now(connection)
                connection.execute(_FILES.update().where(_FILES.c.id == row["id"]).values(used_at=now))
        return None if row is None else ChatFile(**row)

    def files(self, owner: str | None = None) -> list[ChatFile]:
        """All files of an owner, or everybody's."""
        query = sa.select(*_FILE_COLUMNS).order_by(_FILES.c.id)
        with self._database.read() as connection:
            rows = connection.execute(query if owner is None else query.where(_FILES.c.owner == owner)).mappings()
            return [ChatFile(**row) for row in rows]

    def has_file(self, file: str) -> bool:
        """Whether the file with this id of ours is known."""
        with self._database.read() as connection:
            return connection.execute(sa.select(_FILES.c.id).where(_FILES.c.id == file)).first() is not None

    def delete_file(self, file: str) -> bool:
        """Forget a file by our id; its sets stay for as long as their jobs do."""
        with self._database.write() as connection:
            return connection.execute(_FILES.delete().where(_FILES.c.id == file)).rowcount == 1

    def stale_files(self, before: datetime) -> list[str]:
        """Our ids of the files that nobody has used since."""
        with self._database.read() as connection:
            return list(connection.execute(sa.select(_FILES.c.id).where(_FILES.c.used_at < before)).scalars())

    # -- sets ---------------------------------------------------------------------------------------------------

    def keep_job(
        self, chat: ChatKey, *, task: str, labels: Sequence[str], file: ChatFile, job_id: str, instead_of: str | None
    ) -> ChatSet:
        """Note the job over a file; if there is one already for this chat, file and task, that one is the set's.

        Args:
            chat: the chat.
            task: what is found out.
            labels: the task's labels.
            file: the file.
            job_id: the job.
            instead_of: the failed job whose place it takes, if there was one.
        """
        identity = _file_identity(chat, file, task)
        same = _SETS.c.identity_sha256 == identity
        with self._database.write() as connection:
            now = self._database.now(connection)
            facts = {"labels": list(labels), "name": file.filename, "file": file.id, "rows": file.rows}
            row = self._set_row(chat, now, task=task, **facts)
            insert = self._database.insert(_SETS).values(row | {"identity_sha256": identity, "job_id": job_id})
            connection.execute(insert.on_conflict_do_nothing(index_elements=["identity_sha256"]))
            taken = sa.and_(same, _SETS.c.job_id == instead_of)
            connection.execute(_SETS.update().where(taken).values(job_id=job_id))
            kept = connection.execute(sa.select(*_SET_COLUMNS).where(same)).mappings().one()
        return ChatSet(**kept)

    def set_of_file(self, chat: ChatKey, file: ChatFile, task: str) -> ChatSet | None:
        """The set that a file is in a chat, for a task."""
        return self._one(_SETS.c.identity_sha256 == _file_identity(chat, file, task))

    def keep_typed(
        self,
        chat: ChatKey,
        *,
        task: str,
        labels: Sequence[str],
        message: str | None,
        rows: Sequence[tuple[str, Mapping[str, Any]]],
    ) -> ChatSet:
        """Keep comments that were typed; the same message again (it was sent anew) takes the place of the one before.

        Args:
            chat: the chat.
            task: what was found out.
            labels: the task's labels.
            message: what the chat program calls the message, if it has a name.
            rows: each comment's digest and its analysis.
        """
        mark = None if message is None else digest("message", chat.sha256, message)
        identity = digest("typed", mark or new_id(), task)
        with self._database.write() as connection:
            now = self._database.now(connection)
            connection.execute(_SETS.delete().where(_SETS.c.identity_sha256 == identity))
            row = self._set_row(chat, now, task=task, labels=list(labels), name=None, file=None, rows=len(rows))
            more = {"identity_sha256": identity, "message_sha256": mark, "job_id": None}
            connection.execute(_SETS.insert().values(row | more))
            values = [
                {"set_id": row["id"], "number": number, "owner": chat.owner, "text_sha256": text, "analysis": analysis}
                for number, (text, analysis) in enumerate(rows, 1)
            ]
            for start in range(0, len(values), _CHUNK):
                connection.execute(_ROWS.insert(), values[start : start + _CHUNK])
        return ChatSet(**{field.name: (row | more)[field.name] for field in fields(ChatSet)})

    def note_message(self, set_id: str, chat: ChatKey, message: str) -> None:
        """Remember which message a set was first shown in, so that the message names it."""
        mark = digest("message", chat.sha256, message)
        with self._database.write() as connection:
            unnamed = sa.and_(_SETS.c.id == set_id, _SETS.c.message_sha256.is_(None))
            connection.execute(_SETS.update().where(unnamed).values(message_sha256=mark))

    def sets(self, chat: ChatKey, task: str | None = None) -> list[ChatSet]:
        """The sets of a chat, the one that was used last first."""
        query = sa.select(*_SET_COLUMNS).where(_SETS.c.chat_sha256 == chat.sha256)
        if task is not None:
            query = query.where(_SETS.c.task == task)
        query = query.order_by(_SETS.c.used_at.desc(), _SETS.c.id.desc()).limit(_MOST_SETS)
        with self._database.read() as connection:
            return [ChatSet(**row) for row in connection.execute(query).mappings()]

    def set_of_message(self, chat: ChatKey, message: str) -> ChatSet | None:
        """The set that a message of a chat shows."""
        return self._one(_SETS.c.message_sha256 == digest("message", chat.sha256, message))

    def get(self, set_id: str) -> ChatSet | None:
        """The set with this id."""
        return self._one(_SETS.c.id == set_id)

    def use(self, set_id: str) -> None:
        """Make a set the one that a chat is about."""
        with self._database.write() as connection:
            now = self._database.now(connection)
            connection.execute(_SETS.update().where(_SETS.c.id == set_id).values(used_at=now))

    def rows(self, set_id: str, number: int | None = None) -> list[tuple[int, dict[str, Any]]]:
        """The typed comments of a set, or one of them: numbers from 1 and analyses."""
        query = sa.select(_ROWS.c.number, _ROWS.c.analysis).where(_ROWS.c.set_id == set_id).order_by(_ROWS.c.number)
        if number is not None:
            query = query.where(_ROWS.c.number == number)
        with self._database.read() as connection:
            return [(row.number, row.analysis) for row in connection.execute(query)]

    # -- deletion -----------------------------------------------------------------------------------------------

    def forget_texts(
        self, texts: Collection[str], owner: str | None, emptied: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> int:
        """Empty the typed comments with these digests, one owner's or everybody's; returns how many.

        Args:
            texts: SHA-256 digests of the comments.
            owner: whose; None: everybody's.
            emptied: what is left of an analysis.
        """
        count = 0
        wanted = sorted(texts)
        for start in range(0, len(wanted), _CHUNK):
            whose = sa.true() if owner is None else _ROWS.c.owner == owner
            chosen = sa.and_(_ROWS.c.text_sha256.in_(wanted[start : start + _CHUNK]), whose)
            with self._database.write() as connection:
                found = connection.execute(sa.select(_ROWS.c.set_id, _ROWS.c.number, _ROWS.c.analysis).where(chosen))
                for row in found.all():
                    here = sa.and_(_ROWS.c.set_id == row.set_id, _ROWS.c.number == row.number)
                    values = {"analysis": emptied(row.analysis), "text_sha256": ""}
                    connection.execute(_ROWS.update().where(here).values(values))
                    count += 1
        return count

    def forget_job(self, job_id: str) -> list[str]:
        """Delete the sets of a job that is deleted; returns our ids of the files that they were made of."""
        mine = _SETS.c.job_id == job_id
        with self._database.write() as connection:
            files = connection.execute(sa.select(_SETS.c.file).where(mine, _SETS.c.file.is_not(None))).scalars().all()
            connection.execute(_SETS.delete().where(mine))
        return list(dict.fromkeys(files))

    def forget_stale(self, before: datetime) -> int:
        """Delete the sets of typed comments that nobody has used since; returns how many."""
        stale = sa.and_(_SETS.c.job_id.is_(None), _SETS.c.used_at < before)
        with self._database.write() as connection:
            return connection.execute(_SETS.delete().where(stale)).rowcount

    # -----------------------------------------------------------------------------------------------------------

    def _one(self, condition: sa.ColumnElement[bool]) -> ChatSet | None:
        with self._database.read() as connection:
            query = sa.select(*_SET_COLUMNS).where(condition).order_by(_SETS.c.id.desc()).limit(1)
            row = connection.execute(query).mappings().first()
        return None if row is None else ChatSet(**row)

    @staticmethod
    def _set_row(chat: ChatKey, now: datetime, **facts: Any) -> dict[str, Any]:
        times = {"created_at": now, "used_at": now}
        whose = {"owner": chat.owner, "account": chat.account, "chat_sha256": chat.sha256}
        return {"id": new_id(), **whose, **times, **facts}


def _file_identity(chat: ChatKey, file: ChatFile, task: str) -> str:
    return digest("file set", chat.sha256, file.id, task)
