"""What chats are about (files, sets, typed comments), and the service's own secrets."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "chat_files",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("identity_sha256", sa.Text, nullable=False),
        sa.Column("file_sha256", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("file_id", sa.Text, nullable=False),
        sa.Column("filename", sa.Text, nullable=False),
        sa.Column("format", sa.Text, nullable=False),
        sa.Column("text_column", sa.Text, nullable=False),
        sa.Column("id_column", sa.Text),
        sa.Column("customer_column", sa.Text),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("identity_sha256", name="uq_chat_files_identity_sha256"),
        sa.PrimaryKeyConstraint("id", name="pk_chat_files"),
    )
    op.create_index("ix_chat_files_file_sha256", "chat_files", ["file_sha256"])
    op.create_index("ix_chat_files_used_at", "chat_files", ["used_at"])
    op.create_table(
        "chat_sets",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("identity_sha256", sa.Text, nullable=False),
        sa.Column("chat_sha256", sa.Text, nullable=False),
        sa.Column("message_sha256", sa.Text),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("file", sa.Text),
        sa.Column("job_id", sa.Text),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("identity_sha256", name="uq_chat_sets_identity_sha256"),
        sa.PrimaryKeyConstraint("id", name="pk_chat_sets"),
    )
    op.create_index("ix_chat_sets_chat_sha256", "chat_sets", ["chat_sha256"])
    op.create_index("ix_chat_sets_job_id", "chat_sets", ["job_id"])
    op.create_index("ix_chat_sets_used_at", "chat_sets", ["used_at"])
    op.create_table(
        "chat_rows",
        sa.Column("set_id", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("text_sha256", sa.Text, nullable=False),
        sa.Column("analysis", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("set_id", "number", name="pk_chat_rows"),
        sa.ForeignKeyConstraint(["set_id"], ["chat_sets.id"], name="fk_chat_rows_set_id", ondelete="CASCADE"),
    )
    op.create_index("ix_chat_rows_text_sha256", "chat_rows", ["text_sha256"])
    op.create_table(
        "secrets",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_secrets"),
    )


def downgrade() -> None:
    """Remove them."""
    for name in ("secrets", "chat_rows", "chat_sets", "chat_files"):
        op.drop_table(name)
