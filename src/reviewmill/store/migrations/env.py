"""What Alembic runs: the revisions, on the connection and in the transaction that `migrate` gives it."""

from __future__ import annotations

from alembic import context

from reviewmill.store.migrate import VERSION_TABLE
from reviewmill.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # SQLite's is, when the driver does not begin and commit on its own
)
with context.begin_transaction():
    context.run_migrations()
