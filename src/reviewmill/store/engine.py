"""The database under the store: connections, transactions, its clock, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import psycopg
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.dialects import postgresql, sqlite

from reviewmill.errors import StoreError, StoreUnavailableError
from reviewmill.store.tables import to_json

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

BUSY_TIMEOUT_S: Final = 30.0
CONNECT_TIMEOUT_S: Final = 5
ANSWER_TIMEOUT_S = 30.0
_POOL: Final[dict[str, Any]] = {"pool_size": 8, "max_overflow": 24, "pool_timeout": 15}
_DIALECTS: Final = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_HOW: Final = "Write sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/NAME."

# Closing any descriptor of a file drops the whole process's POSIX locks on it, those of another SQLite connection
# included (sqlite.org/howtocorrupt.html, 2.2). So a file is only touched here while no other thread can have it open.
_creating: Final = threading.Lock()


class ServiceDatabase(Protocol):
    """The two settings of the service that say where its database is."""

    @property
    def database(self) -> SecretStr | str:
        """`sqlite`, or a URL, which may hold a password."""

    @property
    def data_dir(self) -> Path:
        """The folder of the service's files."""


def database_url(settings: ServiceDatabase) -> str:
    """The URL that `Store.open` takes: `sqlite` means a file in the data folder. It may hold a password."""
    given = settings.database
    url = given.get_secret_value() if isinstance(given, SecretStr) else given
    return sqlite_url(settings.data_dir / "reviewmill.sqlite") if url == "sqlite" else url


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite file."""
    return sa.URL.create("sqlite", database=str(path.absolute())).render_as_string(hide_password=False)


class Database:
    """One database and its pool of connections. Opening it connects to nothing yet.

    Args:
        url: `sqlite:///PATH`, `postgresql://…` or `postgres://…`.

    Raises:
        StoreError: the URL is of neither kind, or the file cannot be created.
    """

    def __init__(self, url: str) -> None:
        self.url: Final = _parsed(url)
        self.is_postgres: Final = self.url.drivername != "sqlite"
        self._engine = _postgres_engine(self.url) if self.is_postgres else _sqlite_engine(self.url)
        self._writing = self._engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")

    def write(self) -> AbstractContextManager[sa.Connection]:
        """A transaction that may write; it is committed when the block ends, and undone when the block raises.

        On SQLite it holds the only right to write from its first moment, so that what it reads stays true.
        """
        return self._transaction(self._writing)

    def read(self) -> AbstractContextManager[sa.Connection]:
        """A transaction that only reads; on SQLite it never waits for a writer."""
        return self._transaction(self._engine)

    def now(self, connection: sa.Connection) -> datetime:
        """The time by the clock that all who share the database share: PostgreSQL's, or for SQLite this host's."""
        if not self.is_postgres:
            return datetime.now(UTC)
        moment: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return moment.astimezone(UTC)

    def insert(self, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
        """An INSERT that can be told what to do on a conflict."""
        return postgresql.insert(table) if self.is_postgres else sqlite.insert(table)

    def ping(self) -> None:
        """Ask for a sign of life; raises `StoreError` when there is none."""
        with self.read() as connection:
            connection.execute(sa.select(1))

    def describe(self) -> str:
        """The URL, without password and options."""
        if not self.is_postgres:
            return self.url.render_as_string(hide_password=True)
        host = {"host": self.url.query["host"]} if "host" in self.url.query else {}
        plain = sa.URL.create(
            "postgresql", self.url.username, None, self.url.host, self.url.port, self.url.database, host
        )
        return plain.render_as_string(hide_password=True)

    def close(self) -> None:
        """Close the connections that nobody uses at the moment."""
        self._engine.dispose()

    @contextmanager
    def _transaction(self, engine: sa.Engine) -> Generator[sa.Connection]:
        with self._errors(), engine.begin() as connection:
            yield connection

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Our errors for the driver's. Values never get into a message: they may be customers' words."""
        try:
            yield
        except sa.exc.TimeoutError as error:
            raise StoreUnavailableError(
                f"All connections to {self.describe()} have been in use for {_POOL['pool_timeout']} s.",
                hint="Try again; if it stays so, the database is too slow for what is asked of it.",
            ) from error
        except sa.exc.DBAPIError as error:
            explain = _explain_postgres if self.is_postgres else _explain_sqlite
            raise explain(error, self.describe()) from error
        except (sa.exc.StatementError, OverflowError) as error:
            cause = getattr(error, "orig", None) or error
            raise StoreError(f"{self.describe()} cannot hold a value: {type(cause).__name__}.") from error
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"{self.describe()} failed: {type(error).__name__}.") from error


def _parsed(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        # Neither chained nor quoted: the text may hold a password.
        raise StoreError("The database's URL cannot be read.", hint=_HOW) from None
    if url.drivername not in _DIALECTS:
        raise StoreError(f"{url.drivername!r} is not a kind of database that the store can use.", hint=_HOW)
    if url.drivername == "sqlite" and (url.database in {None, "", ":memory:"} or url.query):
        raise StoreError("An SQLite database needs a file, and takes no options.", hint=_HOW)
    return url.set(drivername=_DIALECTS[url.drivername])


# --- PostgreSQL ---


class _Connection(psycopg.Connection[Any]):
    """A connection that does not wait for ever for a server that is alive and silent."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        limit = ANSWER_TIMEOUT_S if timeout is None else timeout
        began = time.monotonic()
        try:
            return super().wait(gen, interval, limit)
        except psycopg.OperationalError:
            if time.monotonic() - began >= limit:
                # An answer that comes later would be taken for that to another question.
                self.pgconn.finish()
            raise


def _postgres_engine(url: sa.URL) -> sa.Engine:
    own = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "reviewmill",
        "tcp_user_timeout": 30_000,  # ms: a host that vanished is noticed
        "prepare_threshold": None,  # prepared statements do not survive a PgBouncer in between
    }
    arguments = {name: value for name, value in own.items() if name not in url.query}
    engine = sa.create_engine(
        url, hide_parameters=True, pool_pre_ping=True, json_serializer=to_json, connect_args=arguments, **_POOL
    )

    @sa.event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, positional: list[Any], named: dict[str, Any]) -> Any:
        return _Connection.connect(*positional, **named)

    return engine


def _explain_postgres(error: sa.exc.DBAPIError, where: str) -> StoreError:
    cause = error.orig
    if not isinstance(cause, psycopg.Error):
        return StoreError(f"{where} failed: {type(cause).__name__}.")
    # The detail line of PostgreSQL's messages quotes values, the primary one names tables and limits.
    said = (cause.diag.message_primary or "").strip() or (str(cause).splitlines() or [""])[0].strip()
    state = cause.sqlstate or ""
    if state.startswith("28"):
        return StoreError(f"{where} does not let us in: {said}.", hint="Check the user's name and password in its URL.")
    if state == "3D000":
        return StoreError(f"{where}: {said}.", hint="Create it: createdb NAME.")
    if state.startswith("54"):
        return StoreError(f"{where} cannot hold a value that was given: {said}.")
    if isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError) or error.connection_invalidated:
        return StoreUnavailableError(
            f"{where} cannot be reached, or cannot work now: {said}.",
            hint="Check that PostgreSQL runs there and has disk space; a service that is running reconnects by itself.",
        )
    return StoreError(f"{where} failed: {said} ({state or type(cause).__name__}).")


# --- SQLite ---


def _sqlite_engine(url: sa.URL) -> sa.Engine:
    path = Path(url.database or "").absolute()
    try:
        _create_private(path)
    except OSError as error:
        why = error.strerror or error
        raise StoreError(f"The database {path} cannot be created: {why}.", hint=_WRITABLE) from error
    engine = sa.create_engine(
        url.set(database=str(path)),
        hide_parameters=True,
        json_serializer=to_json,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        **_POOL,
    )

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # we begin transactions ourselves, below
        _enter_wal(connection)
        # FULL: a job that was accepted and a key that was revoked are so after a power cut too.
        # secure_delete: what was deleted does not stay readable in the file.
        for pragma in ("foreign_keys = ON", "synchronous = FULL", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("sqlite_begin", "BEGIN"))

    return engine


def _create_private(path: Path) -> None:
    """Create an empty file that only its owner can read; one that exists is left as it is."""
    with _creating:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            return


def _enter_wal(connection: sqlite3.Connection) -> None:
    # SQLite does not wait for locks when it changes the journal mode, so two processes that create the same
    # database at once meet here.
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if _primary_code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


_WRITABLE: Final = "Make the file and its folder writable for this user, or name another one."
_DISK: Final = "Free some disk space; a service that is running goes on by itself."
_RESTORE: Final = "Restore the file from a copy, together with those beside it that end in -wal and -shm."

_LATER: Final[dict[int, tuple[str, str]]] = {
    sqlite3.SQLITE_BUSY: (
        f"has been locked by another program for {BUSY_TIMEOUT_S:.0f} s",
        "End that program, or try again.",
    ),
    sqlite3.SQLITE_FULL: ("cannot be written", _DISK),
    sqlite3.SQLITE_IOERR: ("cannot be read or written", _DISK),
}
_NEVER: Final[dict[int, tuple[str, str]]] = {
    sqlite3.SQLITE_NOTADB: ("is not a SQLite database", "Name another file."),
    sqlite3.SQLITE_CORRUPT: ("is damaged", _RESTORE),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", _WRITABLE),
    sqlite3.SQLITE_PERM: ("cannot be written", _WRITABLE),
    sqlite3.SQLITE_READONLY: ("cannot be written", _WRITABLE),
}


def _explain_sqlite(error: sa.exc.DBAPIError, where: str) -> StoreError:
    code = _primary_code(error.orig)
    if code in _LATER:
        problem, hint = _LATER[code]
        return StoreUnavailableError(f"{where} {problem}: {error.orig}.", hint=hint)
    problem, hint = _NEVER.get(code, ("failed", "Restart the service; if it fails again, report it."))
    return StoreError(f"{where} {problem}: {error.orig}.", hint=hint)


def _primary_code(error: BaseException | None) -> int:
    """SQLite's result code without its extension (sqlite.org/rescode.html); 0 if the error has none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
