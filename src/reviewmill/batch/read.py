"""Read files of comments, row by row, in memory that does not grow with the file.

`open_source` looks at the whole file once (encoding, columns, which column holds the text) and refuses what is not a
file of comments, with a message that says what to do. After that nothing stops the reading: a row that cannot be read
carries its own error.
"""

from __future__ import annotations

import hashlib
import math
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from reviewmill.batch.delimited import Delimited, Lines
from reviewmill.batch.formats import UNREADABLE, FileKind, Format, file_kind, probe_text
from reviewmill.batch.json_tables import Json, JsonLines
from reviewmill.batch.tables import Table, short
from reviewmill.batch.text_column import id_column_of, text_column_of
from reviewmill.errors import InputError
from reviewmill.schema import ErrorInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SAMPLE_ROWS: Final = 200


@dataclass(slots=True)
class Row:
    """One record of a file.

    Attributes:
        number: which data row it is, from 1; the header and lines skipped as blank are not counted.
        fields: all input columns in order, with values as read (strings of a CSV exactly as they stood; None where
            the record lacks the column). Lone surrogates, which JSON can spell, are read as U+FFFD.
        text: the comment; "" where the cell is empty or null; None if `error` is set.
        id: the value of the id column, as read; None without one.
        error: why there is no text (`row_malformed`, `text_missing`).
    """

    number: int
    fields: dict[str, Any]
    text: str | None
    id: Any = None
    error: ErrorInfo | None = None


class Source:
    """A file of comments that was found readable. Its rows can be read any number of times.

    Attributes:
        path: the file.
        format: its format.
        columns: the names of all input columns, in order.
        text_column: the column that holds the comment.
        id_column: the column that holds the id, or None. Ids may repeat: rows are told apart by their number.
    """

    def __init__(self, path: Path, kind: Format, table: Table, text_column: str, id_column: str | None) -> None:
        self.path = path
        self.format = kind
        self.columns = table.columns
        self.text_column = text_column
        self.id_column = id_column
        self._table = table

    def rows(self) -> Iterator[Row]:
        """Read the file from its start; memory stays constant, except that an XLSX sheet is held whole.

        Raises:
            InputError: the file cannot be read (any more).
        """
        name, key = self.text_column, self.id_column
        with _readable(self.path):
            for number, fields, error in self._table.records(name):
                own_id = fields[key] if key is not None else None
                text = fields[name]
                if error is not None:
                    yield Row(number, fields, None, own_id, error)
                elif isinstance(text, str):
                    yield Row(number, fields, text, own_id)
                else:
                    yield _row_of(number, fields, text, own_id, name)

    def digest(self) -> str:
        """The SHA-256 of the file's bytes, in hexadecimal.

        Raises:
            InputError: the file cannot be read.
        """
        with _readable(self.path), self.path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()


def open_source(
    path: Path | None,
    *,
    text: str | None = None,
    id: str | None = None,  # noqa: A002
    format: str | None = None,  # noqa: A002
) -> Source:
    """Look at a file of comments and make it ready for reading.

    Formats, by extension: CSV and TSV (a CSV's delimiter may also be `;`, tab or `|` where the header leaves no
    doubt), JSONL, JSON (an array of objects or strings, or an object that holds one such array), Parquet, XLSX (the
    first sheet that is not empty, held in memory whole; formulas as their last value), text lines (`.txt`, `.log` or
    no extension). Text formats may be packed (`.gz`) and may be UTF-8, UTF-16 with a byte order mark, or GB18030.

    Args:
        path: a regular file: it is read more than once, so standard input has to be spooled to a file first.
        text: the column that holds the comments; None: found by name, else by looking.
        id: the column that holds the ids; None: found by name, else there is none.
        format: a format's name or extension, where the file's own extension does not tell.

    Raises:
        InputError: the file is not there, or is not a file of comments, or has no such column.
    """
    if path is None:
        raise InputError("No input file was given.", hint="Name a file, or - for standard input.")
    kind = file_kind(path, format, error=InputError)
    with _readable(path):
        _check_file(path)
        table = _open_table(path, kind)
        sample = list(islice(table.records(), _SAMPLE_ROWS))
    if not sample:
        raise InputError(f"{path} holds no comments, only a header.", hint="Is it the right file?")
    good = [fields for _, fields, error in sample if error is None]
    if not good:
        first = sample[0][2]
        raise InputError(
            f"{path}: none of the first {len(sample)} rows can be read. The first: {first and first['message']}",
            hint=f"Is it really {kind.format}? Name its format (--format) if the extension is wrong.",
        )
    has_header = kind.format in {"csv", "tsv", "xlsx"}
    text_column = text_column_of(path, table.columns, good, text, has_header=has_header)
    return Source(path, kind.format, table, text_column, id_column_of(path, table.columns, id))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the system says about a file that cannot be read into an InputError."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} does not exist.", hint="Check the name and the folder.") from None
    except PermissionError:
        raise InputError(f"{path} may not be read by this user.", hint="Check the file's permissions.") from None
    except UNREADABLE as error:
        raise InputError(
            f"{path} cannot be read: {error}", hint="It may be cut short, damaged, or changed while it was read."
        ) from error


def _check_file(path: Path) -> None:
    size = path.stat().st_size
    if path.is_dir():
        raise InputError(f"{path} is a folder.", hint="Name one file in it.")
    if not path.is_file():
        raise InputError(f"{path} is not a regular file.", hint="Pipe it in: reviewmill analyze - < FILE.")
    if size == 0:
        raise InputError(f"{path} is empty (0 bytes).", hint="Is it the right file?")


def _open_table(path: Path, kind: FileKind) -> Table:
    if kind.format in {"parquet", "xlsx"}:
        from reviewmill.batch.binary_tables import Parquet, Xlsx  # only here: polars takes a quarter second to import

        return Parquet(path) if kind.format == "parquet" else Xlsx(path)
    file = probe_text(path, gzipped=kind.gzipped, lines=kind.format != "json")
    if kind.format == "txt":
        return Lines(file)
    if kind.format == "jsonl":
        return JsonLines(file)
    if kind.format == "json":
        return Json(file)
    return Delimited(file, "\t" if kind.format == "tsv" else None)


def _row_of(number: int, fields: dict[str, Any], value: Any, own_id: Any, name: str) -> Row:
    """The row of a record whose text is not simply a string."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Row(number, fields, "", own_id)
    if isinstance(value, int | float | Decimal | date | time) and not isinstance(value, bool):
        return Row(number, fields, str(value), own_id)
    problem = f"the text ({name}) is {type(value).__name__} instead of a string: {short(value)}"
    return Row(number, fields, None, own_id, ErrorInfo(type="text_missing", message=f"row {number}: {problem}"))
