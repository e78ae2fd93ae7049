"""The journal of one run: which distinct texts it holds, and which of them are answered. SQLite, and the truth.

Everything is committed before it counts, so a process that is killed at any moment leaves a journal from which the
same command continues. The journal knows texts, not rows: rows are read again from the input when the output is
written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

from filelock import FileLock, Timeout

from reviewmill.errors import OutputError, RunError
from reviewmill.schema import Answer, ErrorInfo, Route

_VERSION: Final = "1"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS texts (
    n INTEGER PRIMARY KEY,      -- order of first appearance
    key BLOB NOT NULL UNIQUE,   -- exact key: text, task, model, prompt, format
    text TEXT NOT NULL,         -- cleaned, as the model reads it
    row INTEGER NOT NULL,       -- the first input row that holds it
    answer TEXT,                -- Answer as JSON, once there is one
    route TEXT,                 -- who answered
    error TEXT                  -- ErrorInfo as JSON, if the last try failed
);
CREATE INDEX IF NOT EXISTS pending ON texts (n) WHERE answer IS NULL;
CREATE TABLE IF NOT EXISTS cascade (  -- what a cascade decided, in order; see batch/cascade.py
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;
"""
_CHUNK: Final = 500


class Pending(NamedTuple):
    """A distinct text that has no answer yet."""

    n: int
    key: bytes
    text: str


class Known(NamedTuple):
    """A distinct text and what is known of it."""

    n: int
    key: bytes
    text: str
    answer: Answer | None
    route: Route | None
    failed: bool


class Outcome(NamedTuple):
    """What became of a distinct text; `row` is the first input row that holds it (0 before it is known)."""

    answer: Answer | None
    route: Route | None
    error: ErrorInfo | None
    row: int = 0


class Journal:
    """One run's journal, held by one process at a time.

    Args:
        path: the file; created, or continued if it belongs to the same run.
        fingerprint: what decides the run's results; a journal with another one is started anew (its answers are
            in the cache, if there is one).
        lock_dir: where the lock lies that keeps a second process away.

    Raises:
        RunError: another process holds it.
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path, fingerprint: Mapping[str, Any], *, lock_dir: Path) -> None:
        self.path = path
        self._lock = _locked(path, lock_dir)
        try:
            self._db = self._open(json.dumps(fingerprint, sort_keys=True, ensure_ascii=False))
        except BaseException:
            self._lock.release()
            raise

    def _open(self, fingerprint: str) -> sqlite3.Connection:
        self.continued = self.path.exists()
        try:
            db = self._connect()
            if db.execute("SELECT value FROM meta WHERE name = 'run'").fetchone() not in {None, (fingerprint,)}:
                db.close()
                self._unlink()
                self.continued = False
                db = self._connect()
        except (sqlite3.OperationalError, OSError) as error:
            raise self._unwritable(error) from error
        except sqlite3.DatabaseError as error:
            raise RunError(
                f"The journal {self.path} is damaged: {error}.",
                hint="Delete it and run again; answers that are in the cache are not asked again.",
            ) from error
        with db:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('version', ?)", (_VERSION,))
            db.execute("INSERT OR IGNORE INTO meta VALUES ('run', ?)", (fingerprint,))
            db.execute("UPDATE texts SET error = NULL WHERE error IS NOT NULL")  # a new run tries again
        return db

    def _connect(self) -> sqlite3.Connection:
        if not self.path.exists():
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))  # it holds customers' words
        db = sqlite3.connect(self.path, timeout=30, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")  # survives any kill; a power cut may cost the last answers
        db.executescript(_SCHEMA)
        return db

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the journal stays."""
        self._db.close()
        self._lock.release()

    def discard(self) -> None:
        """Close and delete: the run is complete."""
        self._db.close()
        self._unlink()
        self._lock.release()

    def add(self, texts: Iterable[tuple[bytes, str, int]]) -> None:
        """Note texts (key, cleaned text, row); those that are known already change nothing.

        Raises:
            OutputError: the disk is full, or the like.
        """
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO texts (key, text, row) VALUES (?, ?, ?)", texts)

    def record(self, outcomes: Mapping[bytes, Outcome]) -> None:
        """Commit outcomes by key, in one transaction.

        Raises:
            OutputError: the disk is full, or the like.
        """
        rows = [
            (
                outcome.answer.model_dump_json(exclude_defaults=True) if outcome.answer else None,
                outcome.route,
                json.dumps(outcome.error, ensure_ascii=False) if outcome.error else None,
                key,
            )
            for key, outcome in outcomes.items()
        ]
        with self._transaction():
            self._db.executemany("UPDATE texts SET answer = ?, route = ?, error = ? WHERE key = ?", rows)

    def unanswered(self, keys: Sequence[bytes]) -> set[bytes]:
        """Of these keys, those that have no answer yet (unknown ones included)."""
        marks = ",".join("?" * len(keys))
        query = f"SELECT key FROM texts WHERE answer IS NOT NULL AND key IN ({marks})"  # noqa: S608 - only marks
        return set(keys) - {key for (key,) in self._db.execute(query, keys)}

    def pending(self) -> Iterator[Pending]:
        """Texts without an answer or an error of this run, in order of first appearance."""
        after = 0
        query = "SELECT n, key, text FROM texts WHERE answer IS NULL AND error IS NULL AND n > ? ORDER BY n LIMIT ?"
        while page := self._db.execute(query, (after, _CHUNK)).fetchall():
            yield from (Pending(*row) for row in page)
            after = page[-1][0]

    def pending_among(self, numbers: Iterable[int]) -> Iterator[Pending]:
        """Of these texts (by `n`) those without an answer or an error of this run."""
        for known in self.known(numbers):
            if known.answer is None and not known.failed:
                yield Pending(known.n, known.key, known.text)

    def known(self, numbers: Iterable[int]) -> Iterator[Known]:
        """What is known of these texts (by `n`), in their order."""
        query = "SELECT n, key, text, answer, route, error IS NOT NULL FROM texts WHERE n = ?"
        for number in numbers:
            for n, key, text, answer, route, failed in self._db.execute(query, (number,)).fetchall():
                yield Known(n, key, text, Answer.model_validate_json(answer) if answer else None, route, bool(failed))

    def without_answer(self) -> list[int]:
        """The numbers of all texts that have no answer, in order."""
        return [n for (n,) in self._db.execute("SELECT n FROM texts WHERE answer IS NULL ORDER BY n")]

    def cached(self, limit: int) -> list[int]:
        """The numbers of texts that were answered from the cache, at most so many."""
        query = "SELECT n FROM texts WHERE answer IS NOT NULL AND route = 'cache' ORDER BY n LIMIT ?"
        return [n for (n,) in self._db.execute(query, (limit,))]

    def decided(self, name: str) -> bytes | None:
        """What a cascade decided under this name."""
        found = self._db.execute("SELECT value FROM cascade WHERE name = ?", (name,)).fetchone()
        return None if found is None else bytes(found[0])

    def decide(self, values: Mapping[str, bytes], answers: Iterable[tuple[int, Answer]] = ()) -> int:
        """Commit decisions of a cascade, and with them, in one transaction, what its student answers.

        Args:
            values: by name; a name that is there already keeps its value.
            answers: texts (by `n`) with the student's answers; who has an answer keeps it.

        Returns:
            How many texts got the student's answer.

        Raises:
            OutputError: the disk is full, or the like.
        """
        update = "UPDATE texts SET answer = ?, route = 'student', error = NULL WHERE n = ? AND answer IS NULL"
        before = self._db.total_changes
        with self._transaction():
            rows = ((answer.model_dump_json(exclude_defaults=True), n) for n, answer in answers)
            self._db.executemany(update, rows)
            changed = self._db.total_changes - before
            self._db.executemany("INSERT OR IGNORE INTO cascade VALUES (?, ?)", values.items())
        return changed

    def outcomes(self, keys: Sequence[bytes]) -> dict[bytes, Outcome]:
        """What became of these texts; keys that are not in the journal are left out."""
        found: dict[bytes, Outcome] = {}
        for at in range(0, len(keys), _CHUNK):
            chunk = keys[at : at + _CHUNK]
            marks = ",".join("?" * len(chunk))
            query = f"SELECT key, answer, route, error, row FROM texts WHERE key IN ({marks})"  # noqa: S608 - only marks
            for key, answer, route, error, row in self._db.execute(query, chunk):
                found[key] = Outcome(
                    Answer.model_validate_json(answer) if answer else None,
                    route,
                    json.loads(error) if error else None,
                    row,
                )
        return found

    def counts(self) -> dict[str, int]:
        """Distinct texts by state: a route, `error`, or `pending`."""
        query = """
            SELECT CASE WHEN answer IS NOT NULL THEN route WHEN error IS NOT NULL THEN 'error' ELSE 'pending' END,
                   COUNT(*)
            FROM texts GROUP BY 1
        """
        return dict(self._db.execute(query).fetchall())

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            with self._db:
                yield
        except sqlite3.OperationalError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> OutputError:
        return OutputError(
            f"The journal {self.path} cannot be written: {error}.",
            hint="It stands beside the output: make room, or choose a folder that you may write to. What it holds "
            "already is kept; the same command continues.",
        )

    def _unlink(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


def _locked(path: Path, lock_dir: Path) -> FileLock:
    """Hold this journal; the operating system lets the lock go when the process dies, however it dies."""
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    lock = FileLock(lock_dir / f"{name}.lock", timeout=0)
    try:
        lock_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise RunError(
            f"Another process is working on this output (its journal is {path}).",
            hint="Wait for it, or write to another file.",
        ) from None
    except OSError as error:
        raise OutputError(
            f"The lock {lock.lock_file} cannot be taken: {error.strerror}.",
            hint="Set REVIEWMILL_STATE_DIR to a folder that you may write to.",
        ) from error
    return lock
