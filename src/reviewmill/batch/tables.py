"""What every format of a table of comments gives to `read`, and what the formats share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

from reviewmill.errors import InputError
from reviewmill.schema import ErrorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

LINE_COLUMN: Final = "comment"
"""What the only column is called where the file has no names: text lines, a JSON array of strings."""

MAX_COLUMNS: Final = 4096
MAX_FIELD_CHARS: Final = 16 * 1024 * 1024
"""A quoted CSV field (or one item of a JSON array) that is longer is taken as never closed."""

Record = tuple[int, dict[str, Any], ErrorInfo | None]
"""The row number, the fields, and why the row cannot be read."""


class Table(Protocol):
    """What every format gives."""

    columns: list[str]

    def records(self, required: str | None = None) -> Iterator[Record]:
        """Every record from the start; one that lacks the `required` column altogether carries an error."""


def malformed(message: str) -> ErrorInfo:
    """The error of a row that cannot be read."""
    return ErrorInfo(type="row_malformed", message=message)


def short(value: Any, limit: int = 40) -> str:
    """A value as a message quotes it: on one line, at most `limit` characters."""
    text = " ".join(str(value)[: limit * 4].split())
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def check_columns(path: Path, columns: Sequence[str] | dict[str, None]) -> None:
    """Raise InputError if a table has more than `MAX_COLUMNS`."""
    if len(columns) > MAX_COLUMNS:
        raise InputError(
            f"{path} has {'at least ' if isinstance(columns, dict) else ''}{len(columns):,} columns; "
            f"at most {MAX_COLUMNS:,} are read.",
            hint="Is it a table with one comment a row? Keep the columns that matter.",
        )


def unique_names(names: Iterable[str]) -> list[str]:
    """Column names as in the header, but none empty and none twice: `column_3`, `评论_2`."""
    unique: dict[str, None] = {}
    for position, name in enumerate(names, 1):
        wanted = base = name if name.strip() else f"column_{position}"
        count = 1
        while wanted in unique:
            count += 1
            wanted = f"{base}_{count}"
        unique[wanted] = None
    return list(unique)
