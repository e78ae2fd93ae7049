"""The service's own secrets: made once, the same for all processes that share the database, never shown."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from reviewmill.store import tables

if TYPE_CHECKING:
    from reviewmill.store.engine import Database

_T: Final = tables.secrets
_BYTES: Final = 32


class Secrets:
    """The secrets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, name: str) -> bytes:
        """The secret of this name, 256 random bits; it is made when somebody asks for it first."""
        with self._database.write() as connection:
            row = {"name": name, "value": secrets.token_hex(_BYTES), "created_at": self._database.now(connection)}
            insert = self._database.insert(_T).values(row)
            connection.execute(insert.on_conflict_do_nothing(index_elements=["name"]))
            kept: str = connection.execute(sa.select(_T.c.value).where(_T.c.name == name)).scalar_one()
        return bytes.fromhex(kept)
