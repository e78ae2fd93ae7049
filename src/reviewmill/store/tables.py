"""The tables, and how values that not every database can hold are kept.

A change here needs a revision in `migrations/versions`; a test compares the two.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa

_ESCAPE: Final = "\x1a"
_BARRED: Final = re.compile("[\x00\x1a\ud800-\udfff]")
_ESCAPED: Final = re.compile("\x1a([0-9a-f]{4})")


class Time(sa.TypeDecorator[datetime]):
    """An aware time in UTC; SQLite, which has no such type, keeps it without its zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """To UTC; a time without a zone is refused."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Aware, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


class Words(sa.TypeDecorator[str]):
    """Any string that people can send. PostgreSQL takes no NUL, and neither database a lone surrogate.

    Those are kept as U+001A and four hexadecimal digits, and so is U+001A itself; equal strings stay equal.
    """

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Escape what the database refuses."""
        return None if value is None else _BARRED.sub(lambda found: f"{_ESCAPE}{ord(found[0]):04x}", value)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """The string as it was given."""
        return None if value is None else _ESCAPED.sub(lambda found: chr(int(found[1], 16)), value)


class Facts(sa.TypeDecorator[Any]):
    """JSON; None is NULL."""

    impl = sa.JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        """Refuse what is no JSON here, where it is refused in the same way for both databases."""
        to_json(value)
        return value


def to_json(value: object) -> str:
    """Strict JSON in ASCII: PostgreSQL's type json keeps an escaped NUL or lone surrogate, and refuses a bare one."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False)


metadata: Final = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _table(name: str, *parts: sa.Column[Any] | sa.Constraint | sa.Index) -> sa.Table:
    return sa.Table(name, metadata, *parts)


# No index covers a string of any length: PostgreSQL refuses entries of more than 2,704 bytes. What has to be unique or
# found fast is a digest.

api_keys: Final = _table(
    "api_keys",
    sa.Column("id", Words, primary_key=True),
    sa.Column("name", Words, nullable=False),
    sa.Column("prefix", Words, nullable=False),
    sa.Column("sha256", Words, nullable=False),
    sa.Column("scopes", Facts, nullable=False),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("expires_at", Time),
    sa.Column("last_used_at", Time),
    sa.Column("revoked_at", Time),
    sa.Column("rate_per_minute", sa.BigInteger),
    sa.Column("daily_quota", sa.BigInteger),
    sa.UniqueConstraint("prefix"),
)

key_usage: Final = _table(
    "key_usage",
    sa.Column("key_id", Words, sa.ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),
    sa.Column("used", sa.BigInteger, nullable=False),
)

jobs: Final = _table(
    "jobs",
    sa.Column("id", Words, primary_key=True),
    sa.Column("owner", Words, nullable=False),
    sa.Column("state", Words, nullable=False),
    sa.Column("task", Words, nullable=False),
    sa.Column("filename", Words, nullable=False),
    sa.Column("format", Words, nullable=False),
    sa.Column("text_column", Words),
    sa.Column("id_column", Words),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", Words, nullable=False),
    sa.Column("options", Facts, nullable=False),
    sa.Column("idempotency_sha256", Words),
    sa.Column("progress", Facts, nullable=False),
    sa.Column("summary", Facts),
    sa.Column("error", Facts),
    sa.Column("attempts", sa.BigInteger, nullable=False),
    sa.Column("token", sa.BigInteger, nullable=False),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("started_at", Time),
    sa.Column("finished_at", Time),
    sa.Column("worker", Words),
    sa.Column("lease_until", Time),
    # What decides, see jobs.py: which clock the lease was measured with, and its end on that clock in seconds.
    sa.Column("lease_clock", Words),
    sa.Column("lease_end", sa.Double),
    sa.UniqueConstraint("owner", "idempotency_sha256"),
    sa.Index(None, "state", "id"),
    sa.Index(None, "owner", "id"),
)

corrections: Final = _table(
    "corrections",
    sa.Column("id", Words, primary_key=True),
    sa.Column("owner", Words, nullable=False),
    sa.Column("identity_sha256", Words, nullable=False),
    sa.Column("text", Words, nullable=False),
    sa.Column("text_sha256", Words, nullable=False),
    sa.Column("task", Words, nullable=False),
    sa.Column("label", Words, nullable=False),
    sa.Column("model_label", Words),
    sa.Column("confidence", sa.Double),
    sa.Column("note", Words),
    sa.Column("author", Words),
    sa.Column("external_id", Words),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("updated_at", Time, nullable=False),
    sa.UniqueConstraint("owner", "identity_sha256"),
    sa.Index(None, "owner", "id"),
    sa.Index(None, "text_sha256"),
)

comments: Final = _table(
    "comments",
    sa.Column("owner", Words, nullable=False),
    sa.Column("identity_sha256", Words, primary_key=True),
    sa.Column("text_sha256", Words, nullable=False),
    sa.Column("cleaned_sha256", Words, nullable=False),
    sa.Column("customer_id", Words),
    sa.Column("customer_sha256", Words),
    sa.Column("job_id", Words),
    sa.Column("created_at", Time, nullable=False),
    sa.Index(None, "text_sha256"),
    sa.Index(None, "customer_sha256"),
)

tombstones: Final = _table(
    "tombstones",
    sa.Column("id", Words, primary_key=True),
    sa.Column("owner", Words),
    sa.Column("text_sha256", Words),
    sa.Column("customer_id", Words),
    sa.Column("created_at", Time, nullable=False),
    sa.Index(None, "created_at"),
)

audit: Final = _table(
    "audit",
    sa.Column("id", Words, primary_key=True),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("actor", Words, nullable=False),
    sa.Column("action", Words, nullable=False),
    sa.Column("subject", Words, nullable=False),
    sa.Column("detail", Facts, nullable=False),
)

# What chats are about: files as they were attached, what was analysed in which chat, and the comments that were typed.

chat_files: Final = _table(
    "chat_files",
    sa.Column("id", Words, primary_key=True),
    sa.Column("identity_sha256", Words, nullable=False),
    sa.Column("file_sha256", Words, nullable=False),
    sa.Column("owner", Words, nullable=False),
    sa.Column("account", Words, nullable=False),
    sa.Column("file_id", Words, nullable=False),
    sa.Column("filename", Words, nullable=False),
    sa.Column("format", Words, nullable=False),
    sa.Column("text_column", Words, nullable=False),
    sa.Column("id_column", Words),
    sa.Column("customer_column", Words),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("sha256", Words, nullable=False),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("used_at", Time, nullable=False),
    sa.UniqueConstraint("identity_sha256"),
    sa.Index(None, "file_sha256"),
    sa.Index(None, "used_at"),
)

chat_sets: Final = _table(
    "chat_sets",
    sa.Column("id", Words, primary_key=True),
    sa.Column("identity_sha256", Words, nullable=False),
    sa.Column("chat_sha256", Words, nullable=False),
    sa.Column("message_sha256", Words),
    sa.Column("owner", Words, nullable=False),
    sa.Column("account", Words, nullable=False),
    sa.Column("task", Words, nullable=False),
    sa.Column("labels", Facts, nullable=False),
    sa.Column("name", Words),
    sa.Column("file", Words),
    sa.Column("job_id", Words),
    sa.Column("rows", sa.BigInteger, nullable=False),
    sa.Column("created_at", Time, nullable=False),
    sa.Column("used_at", Time, nullable=False),
    sa.UniqueConstraint("identity_sha256"),
    sa.Index(None, "chat_sha256"),
    sa.Index(None, "job_id"),
    sa.Index(None, "used_at"),
)

chat_rows: Final = _table(
    "chat_rows",
    sa.Column("set_id", Words, sa.ForeignKey("chat_sets.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("owner", Words, nullable=False),
    sa.Column("text_sha256", Words, nullable=False),
    sa.Column("analysis", Facts, nullable=False),
    sa.Index(None, "text_sha256"),
)

secrets: Final = _table(
    "secrets",
    sa.Column("name", Words, primary_key=True),
    sa.Column("value", Words, nullable=False),
    sa.Column("created_at", Time, nullable=False),
)
