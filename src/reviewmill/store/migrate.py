"""Bring a database's tables to this version, with Alembic, from the revisions in `migrations/versions`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from reviewmill.errors import StoreError

if TYPE_CHECKING:
    from reviewmill.store.engine import Database

VERSION_TABLE: Final = "reviewmill_version"
_LOCK: Final = 0x7265766965776D6C  # "reviewml": the number of PostgreSQL's lock that whoever migrates holds
_in_this_process: Final = threading.Lock()  # Alembic keeps what it works on in a global
_FOLDER: Final = Path(__file__).parent / "migrations"


def migrate(database: Database) -> None:
    """Create or change the tables, in one transaction; does nothing where they are of this version already.

    Raises:
        StoreError: the database belongs to a newer reviewmill, or to another program.
    """
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    newest = ScriptDirectory.from_config(config).get_current_head()
    with database.read() as connection:
        if _version(connection) == newest:
            return
    # Only one process at a time comes past here: SQLite's transaction is alone by itself.
    with _in_this_process, database.write() as connection:
        if database.is_postgres:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        if _version(connection) is None and not database.is_postgres and sa.inspect(connection).get_table_names():
            raise StoreError(f"{database.describe()} is a database of another program.", hint="Name another file.")
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StoreError(
                f"{database.describe()} was made by a newer reviewmill (its version is {_version(connection)}).",
                hint="Upgrade reviewmill, or name another database.",
            ) from error


def _version(connection: sa.Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
