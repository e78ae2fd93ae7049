"""Read files of comments, row by row, in memory that does not grow with the file.

`open_source` looks at the whole file once (encoding, columns, which column holds the text) and refuses what is not a
file of comments, with a message that says what to do. After that nothing stops the reading: a row that cannot be read
carries its own error.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
import statistics
import unicodedata
import zipfile
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import fastexcel
import polars as pl

from reviewmill.batch.formats import UNREADABLE, FileKind, Format, TextFile, file_kind, probe_text
from reviewmill.errors import InputError
from reviewmill.schema import ErrorInfo

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import TextIO

TEXT_NAMES: Final = (
    *("评论", "评论内容", "评论正文", "评价", "评价内容", "评论文本", "评价文本", "内容", "文本", "正文", "留言"),
    *("留言内容", "反馈", "反馈内容", "意见", "評論", "評論內容", "評價", "評價內容", "內容", "文字", "留言內容"),
    *("review_text", "review_body", "review_content", "review", "reviews", "comment_text", "comment_body"),
    *("comment", "comments", "text", "content", "body", "message", "feedback", "original_text", "sentence", "tweet"),
)
"""Names of the text column, the surest first; compared without case, spaces, hyphens and underscores."""

ID_NAMES: Final = ("id", "编号", "評論id", "评论id", "评论编号", "review_id", "comment_id")
"""Names of the id column, likewise."""

LINE_COLUMN: Final = "comment"
"""What the only column is called where the file has no names: text lines, a JSON array of strings."""

MAX_COLUMNS: Final = 4096
MAX_FIELD_CHARS: Final = 16 * 1024 * 1024
"""A quoted CSV field (or one item of a JSON array) that is longer is taken as never closed."""

MAX_UNPACKED_BYTES: Final = 2 * 1024**3
"""An XLSX that unpacks to more is refused."""

_SAMPLE_ROWS: Final = 200
_BATCH_ROWS: Final = 5000
_DELIMITERS: Final = ",;\t|"

_Record = tuple[int, dict[str, Any], ErrorInfo | None]


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


class _Table(Protocol):
    """What every format gives."""

    columns: list[str]

    def records(self, required: str | None = None) -> Iterator[_Record]:
        """Every record from the start; one that lacks the `required` column altogether carries an error."""


class Source:
    """A file of comments that was found readable. Its rows can be read any number of times.

    Attributes:
        path: the file.
        format: its format.
        columns: the names of all input columns, in order.
        text_column: the column that holds the comment.
        id_column: the column that holds the id, or None. Ids may repeat: rows are told apart by their number.
    """

    def __init__(self, path: Path, kind: Format, table: _Table, text_column: str, id_column: str | None) -> None:
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
    text_column = _text_column(path, table.columns, good, text, has_header=has_header)
    return Source(path, kind.format, table, text_column, _id_column(path, table.columns, id))


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


def _open_table(path: Path, kind: FileKind) -> _Table:
    if kind.format == "parquet":
        return _Parquet(path)
    if kind.format == "xlsx":
        return _Xlsx(path)
    file = probe_text(path, gzipped=kind.gzipped, lines=kind.format != "json")
    if kind.format == "txt":
        return _Lines(file)
    if kind.format == "jsonl":
        return _JsonLines(file)
    if kind.format == "json":
        return _Json(file)
    return _Delimited(file, "\t" if kind.format == "tsv" else None)


def _row_of(number: int, fields: dict[str, Any], value: Any, own_id: Any, name: str) -> Row:
    """The row of a record whose text is not simply a string."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Row(number, fields, "", own_id)
    if isinstance(value, int | float | Decimal | date | time) and not isinstance(value, bool):
        return Row(number, fields, str(value), own_id)
    problem = f"the text ({name}) is {type(value).__name__} instead of a string: {_short(value)}"
    return Row(number, fields, None, own_id, ErrorInfo(type="text_missing", message=f"row {number}: {problem}"))


def _malformed(message: str) -> ErrorInfo:
    return ErrorInfo(type="row_malformed", message=message)


def _short(value: Any, limit: int = 40) -> str:
    text = " ".join(str(value)[: limit * 4].split())
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def _check_columns(path: Path, columns: Sequence[str] | dict[str, None]) -> None:
    if len(columns) > MAX_COLUMNS:
        raise InputError(
            f"{path} has {'at least ' if isinstance(columns, dict) else ''}{len(columns):,} columns; "
            f"at most {MAX_COLUMNS:,} are read.",
            hint="Is it a table with one comment a row? Keep the columns that matter.",
        )


def _unique_names(names: Iterable[str]) -> list[str]:
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


# --- text lines, CSV, TSV ---------------------------------------------------------------------------------------------


class _Lines:
    """One comment a line; the row number is the line number. Blank lines at the end are not comments."""

    def __init__(self, file: TextFile) -> None:
        self.columns = [LINE_COLUMN]
        self._file = file

    def records(self, required: str | None = None) -> Iterator[_Record]:
        blank = 0
        with self._file.open() as handle:
            for number, line in enumerate(handle, 1):
                text = line.rstrip("\n")
                if not text.strip():
                    blank += 1
                    continue
                for skipped in range(number - blank, number):
                    yield skipped, {LINE_COLUMN: ""}, None
                blank = 0
                yield number, {LINE_COLUMN: text}, None


class _Delimited:
    """CSV and TSV (RFC 4180, read leniently).

    A row with surplus fields that are all empty is read without them; any other wrong number of fields is an error of
    that row. Blank lines are skipped, except in a file with one column, where they are empty comments.
    """

    def __init__(self, file: TextFile, delimiter: str | None) -> None:
        csv.field_size_limit(MAX_FIELD_CHARS)
        self._file = file
        self._delimiter = delimiter or self._sniff()
        with file.open(newline="") as handle:
            header = next((record for record in _CsvRecords(handle, self._delimiter) if record.values), None)
        if header is None:
            raise InputError(f"{file.path} is empty: it has only blank lines.", hint="Is it the right file?")
        if header.problem:
            raise InputError(f"{file.path}: the header, {header.problem}.", hint="Correct the quotes in that line.")
        names = list(header.values)
        _check_columns(file.path, names)
        self.columns = _unique_names(names)

    def _sniff(self) -> str:
        """The delimiter, by the header line: comma unless exactly one of the others occurs and comma does not."""
        with self._file.open(newline="") as handle:
            first = next((line for line in handle if line.strip()), "")
        bare = re.sub(r'"(?:[^"]|"")*"', "", first)
        found = [delimiter for delimiter in _DELIMITERS if delimiter in bare]
        return found[0] if len(found) == 1 else ","

    def records(self, required: str | None = None) -> Iterator[_Record]:
        columns, width = self.columns, len(self.columns)
        blank = number = 0
        with self._file.open(newline="") as handle:
            records = iter(_CsvRecords(handle, self._delimiter, width))
            next(record for record in records if record.values)
            for line, values, problem in records:
                if not values and not problem:
                    blank += width == 1
                    continue
                while blank:
                    number, blank = number + 1, blank - 1
                    yield number, {columns[0]: ""}, None
                number += 1
                if len(values) == width and problem is None:
                    yield number, dict(zip(columns, values, strict=True)), None
                else:
                    yield self._uneven(number, line, values, problem)

    def _uneven(self, number: int, line: int, values: list[str], problem: str | None) -> _Record:
        width = len(self.columns)
        fields: dict[str, Any] = dict.fromkeys(self.columns)
        fields.update(zip(self.columns, values, strict=False))
        if problem is None and len(values) > width and not any(values[width:]):
            return number, fields, None
        counts = f"line {line}: {len(values)} fields where the header has {width}"
        return number, fields, _malformed(problem or counts)


class _CsvRecord(NamedTuple):
    line: int
    values: list[str]
    problem: str | None


class _CsvRecords:
    """The records of a CSV stream with the physical line that each begins on.

    A quote that is opened and not closed would swallow the rows that follow it, up to the next quote or to the end of
    the file. So a record of several lines is doubted: if it has the wrong number of fields, or text after a closing
    quote, or does not end, then only its first line is given up (as a record with a `problem`), and its other lines
    are read again as records of their own.

    Args:
        handle: text, opened with `newline=""`.
        delimiter: one character.
        width: the number of fields that a record should have; None: not known.
    """

    def __init__(self, handle: TextIO, delimiter: str, width: int | None = None) -> None:
        self._handle = handle
        self._delimiter = delimiter
        self._width = width
        self._again: deque[str] = deque()
        self._record: list[str] = []
        self._line = 1
        self._ended = False

    def _feed(self) -> Iterator[str]:
        while self._again:
            line = self._again.popleft()
            self._record.append(line)
            yield line
        record = self._record
        for line in self._handle:
            record.append(line)
            yield line
        self._ended = True

    def __iter__(self) -> Iterator[_CsvRecord]:
        while True:
            problem = yield from self._read_until_doubt()
            if problem is None:
                return
            self._again.extendleft(reversed(self._record[1:]))
            self._record.clear()
            self._ended = False
            self._line += 1
            yield _CsvRecord(self._line - 1, [], problem)

    def _read_until_doubt(self) -> Generator[_CsvRecord, None, str | None]:
        record = self._record
        try:
            for values in csv.reader(self._feed(), delimiter=self._delimiter):
                if len(record) > 1 or self._ended:
                    problem = self._doubt(values)
                    if problem:
                        return problem
                line = self._line
                self._line += len(record)
                record.clear()
                yield _CsvRecord(line, values, None)
        except csv.Error:
            return f"line {self._line}: a quote opens and is not closed within {MAX_FIELD_CHARS:,} characters"
        return None

    def _doubt(self, values: list[str]) -> str | None:
        """Why a record of several lines is probably not one record; None if it is fine."""
        lines = len(self._record)
        if self._ended:
            return f"line {self._line}: a quote opens and is not closed before the end of the file"
        if self._width is not None and len(values) != self._width:
            return (
                f"line {self._line}: a quote opens and is closed {lines - 1} lines later, which makes {len(values)} "
                f"fields where the header has {self._width}"
            )
        try:
            list(csv.reader(self._record, delimiter=self._delimiter, strict=True))
        except csv.Error:
            return f"line {self._line}: a quote opens, and {lines - 1} lines later text follows the closing quote"
        return None


# --- JSON -------------------------------------------------------------------------------------------------------------


def _load_json(line: str) -> Any:
    """Parse JSON; raises ValueError (RecursionError included) where it is none, and mends lone surrogates."""
    try:
        value = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return _mend(value) if "\\u" in line else value


def _mend(value: Any) -> Any:
    """The value with every lone surrogate as U+FFFD: no UTF-8 file and no database could hold one."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [_mend(item) for item in value]
    if isinstance(value, dict):
        return {_mend(name): _mend(item) for name, item in value.items()}
    return value


def _union_of_keys(path: Path, items: Iterable[Any]) -> list[str]:
    """The keys of all objects, in order of first occurrence."""
    known: dict[str, None] = {}
    for item in items:
        if isinstance(item, dict) and not item.keys() <= known.keys():
            known.update(dict.fromkeys(item))
            _check_columns(path, known)
    return list(known)


def _record_of(value: Any, columns: list[str], number: int, where: str, required: str | None) -> _Record:
    if not isinstance(value, dict):
        message = f"{where}: not an object but {type(value).__name__}: {_short(value)}"
        return number, dict.fromkeys(columns), _malformed(message)
    if len(value) != len(columns):
        problem: ErrorInfo | None = None
        if required is not None and required not in value:
            problem = ErrorInfo(type="text_missing", message=f"{where}: the object has no key {required!r}")
        return number, {name: value.get(name) for name in columns}, problem
    return number, value, None


class _JsonLines:
    """One JSON object a line; blank lines are skipped."""

    def __init__(self, file: TextFile) -> None:
        self._file = file
        self.columns = _union_of_keys(file.path, (value for _, value, _ in self._values()))

    def _values(self) -> Iterator[tuple[int, Any, str | None]]:
        with self._file.open(newline="\n") as handle:
            for number, line in enumerate(handle, 1):
                if line.isspace():
                    continue
                try:
                    yield number, _load_json(line), None
                except ValueError as error:
                    yield number, None, f"line {number} is not JSON: {error}"

    def records(self, required: str | None = None) -> Iterator[_Record]:
        columns = self.columns
        for number, (line, value, problem) in enumerate(self._values(), 1):
            if problem is not None:
                yield number, dict.fromkeys(columns), _malformed(problem)
            else:
                yield _record_of(value, columns, number, f"line {line}", required)


class _Json:
    """An array of objects or of strings, or an object that holds one array; the file is parsed piece by piece."""

    def __init__(self, file: TextFile) -> None:
        self._file = file
        keys = _union_of_keys(file.path, self._items())
        first = next(self._items(), None)
        self._bare = not isinstance(first, dict)
        self.columns = [LINE_COLUMN] if self._bare else keys

    def _items(self) -> Iterator[Any]:
        with self._file.open() as handle:
            yield from _JsonArray(self._file.path, handle)

    def records(self, required: str | None = None) -> Iterator[_Record]:
        for number, item in enumerate(self._items(), 1):
            if self._bare and not isinstance(item, dict | list):
                yield number, {LINE_COLUMN: item}, None
            elif self._bare:
                yield number, {LINE_COLUMN: None}, _malformed(f"item {number}: not a string like the first")
            else:
                yield _record_of(item, self.columns, number, f"item {number}", required)


class _JsonArray:
    """The items of the one array in a JSON text, without holding the text.

    Raises, while iterating:
        InputError: the text is not JSON, or is no array and holds none, or holds several.
    """

    def __init__(self, path: Path, handle: TextIO) -> None:
        self._path = path
        self._handle = handle
        self._text = ""
        self._at = 0
        self._count = 0
        self._escapes = False
        self._ended = False

    def __iter__(self) -> Iterator[Any]:
        opening = self._peek()
        if opening == "[":
            yield from self._array()
        elif opening == "{":
            yield from self._object()
        else:
            raise self._error("is neither an array nor an object")
        if self._peek():
            raise self._error("goes on after its first value", "If it holds one object a line, name it .jsonl.")

    def _array(self) -> Iterator[Any]:
        self._at += 1
        if self._skip("]"):
            return
        while True:
            yield self._value()
            self._count += 1
            if self._skip("]"):
                return
            self._expect(",")

    def _object(self) -> Iterator[Any]:
        lists: list[str] = []
        self._at += 1
        while not self._skip("}"):
            name = self._value()
            self._expect(":")
            if self._peek() == "[":
                lists.append(str(name))
                if len(lists) > 1:
                    raise self._error(
                        f"holds several arrays ({', '.join(lists)}, ...)", "Keep the one with the comments."
                    )
                yield from self._array()
            else:
                self._value()
            if self._peek() != "}":
                self._expect(",")
        if not lists:
            raise self._error(
                "holds no array", "Wrap the objects in [ ], or name a file with one object a line .jsonl."
            )

    def _more(self) -> bool:
        """Read on; as much again as is waiting, so that a long item costs linear time."""
        waiting = self._text[self._at :]
        if len(waiting) > MAX_FIELD_CHARS:
            raise self._error(f"has an item over {MAX_FIELD_CHARS:,} characters")
        piece = self._handle.read(max(1 << 16, len(waiting)))
        self._text, self._at = waiting + piece, 0
        self._escapes = "\\u" in self._text
        self._ended = not piece
        return bool(piece)

    def _peek(self) -> str:
        """The next character that is not white space, or "" at the end."""
        while True:
            while self._at < len(self._text):
                character = self._text[self._at]
                if character not in " \t\r\n":
                    return character
                self._at += 1
            if not self._more():
                return ""

    def _skip(self, character: str) -> bool:
        if self._peek() != character:
            return False
        self._at += 1
        return True

    def _expect(self, character: str) -> None:
        if not self._skip(character):
            raise self._error(f"is not JSON: {character!r} is missing")

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                raise self._error("is nested too deeply") from None
            except json.JSONDecodeError as error:
                # An error far from the end of what was read is one; near the end, the value may only be cut there.
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - 16
                if not (cut and self._more()):
                    raise self._error(f"is not JSON: {error.msg}") from None
                continue
            if end == len(self._text) and not self._ended:  # 12 may be the beginning of 123
                self._more()
                continue
            escaped = self._escapes and "\\u" in self._text[self._at : end]
            self._at = end
            return _mend(value) if escaped else value

    def _error(self, problem: str, hint: str = "Repair the file, or write it again.") -> InputError:
        return InputError(f"{self._path} (after {self._count:,} items) {problem}.", hint=hint)


_DECODER: Final = json.JSONDecoder()


# --- Parquet, XLSX ----------------------------------------------------------------------------------------------------


class _Parquet:
    """A Parquet file, by polars' streaming engine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._understood():
            self.columns = pl.scan_parquet(path, glob=False).collect_schema().names()
        if not self.columns:
            raise InputError(f"{path} has no columns.", hint="Is it the right file?")
        _check_columns(path, self.columns)

    @contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise InputError(
                f"{self._path} is not a Parquet file that can be read: {_short(error, 200)}",
                hint="It may be cut short or damaged; write it again.",
            ) from error

    def records(self, required: str | None = None) -> Iterator[_Record]:
        number = 0
        with self._understood():
            lazy = pl.scan_parquet(self._path, glob=False)
            for frame in lazy.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True):
                for fields in frame.iter_rows(named=True):
                    number += 1
                    yield number, fields, None


class _Xlsx:
    """The first sheet that is not empty. Whole numbers are read as int, because Excel itself knows only floats."""

    def __init__(self, path: Path) -> None:
        _check_zip(path)
        try:
            reader = fastexcel.read_excel(path)
            sheets = (reader.load_sheet(name, schema_sample_rows=None) for name in reader.sheet_names)
            sheet = next((sheet for sheet in sheets if sheet.width), None)
            self._frame: pl.DataFrame = sheet.to_polars() if sheet else pl.DataFrame()
        except (fastexcel.FastExcelError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise InputError(
                f"{path} is not an XLSX workbook that can be read: {_short(error, 200)}",
                hint="Open it in a spreadsheet program and save it again as .xlsx or .csv.",
            ) from error
        if not self._frame.width:
            raise InputError(f"{path} is empty: no sheet has any cells.", hint="Is it the right file?")
        _check_columns(path, self._frame.columns)
        names = ("" if name.startswith("__UNNAMED__") else name for name in self._frame.columns)
        self.columns = _unique_names(names)

    def records(self, required: str | None = None) -> Iterator[_Record]:
        blank = number = 0
        for cells in self._frame.iter_rows():
            if not any(cell is not None for cell in cells):
                blank += 1
                continue
            for _ in range(blank):
                number += 1
                yield number, dict.fromkeys(self.columns), None
            blank = 0
            number += 1
            yield number, dict(zip(self.columns, map(_whole, cells), strict=True)), None


def _whole(cell: Any) -> Any:
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell


def _check_zip(path: Path) -> None:
    """Refuse what is no ZIP file, and a ZIP bomb, before anything is unpacked."""
    with path.open("rb") as handle:
        head = handle.read(8)
    if head == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise InputError(
            f"{path} is protected by a password, or is an old .xls workbook with a new name.",
            hint="Save it as .xlsx without a password, or as .csv.",
        )
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{path} is not an XLSX workbook: {error}.", hint="It may be cut short, or another format by its content."
        ) from None
    if unpacked > MAX_UNPACKED_BYTES:
        raise InputError(
            f"{path} would unpack to {unpacked / 1e9:.1f} GB; at most {MAX_UNPACKED_BYTES / 1e9:.1f} GB are read.",
            hint="Save it as .csv: that is read row by row, however long it is.",
        )


# --- which column -----------------------------------------------------------------------------------------------------

_NUMBER = r"[+-]?[\d.,]*\d%?"
_DATE = r"\d{1,4}[-/.年]\d{1,2}([-/.月]\d{1,4}日?)?([T ].*)?|\d{1,2}:\d\d(:\d\d)?"
_ADDRESS = r"https?://\S+|www\.\S+|\S+@\S+\.\w+"
_NO_TEXT: Final = re.compile(rf"\s*({_NUMBER}|{_DATE}|{_ADDRESS})\s*")
_CODE: Final = re.compile(r"(?=\S*\d)[\x21-\x7e]{4,}")
_SENTENCE: Final = re.compile(r"[。！!，…]|.{41}|[.] ")


def _plain_name(name: str) -> str:
    """A column name as it is compared: no case, no spaces, hyphens or underscores, no full-width forms."""
    return re.sub(r"[\s_\-\u200b\ufeff]", "", unicodedata.normalize("NFKC", name)).casefold()


def find_named(columns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The columns that have one of the names, by the order of the names."""
    by_name = {_plain_name(column): column for column in reversed(columns)}
    wanted = dict.fromkeys(map(_plain_name, names))
    return [by_name[name] for name in wanted if name in by_name]


def _given_column(path: Path, columns: Sequence[str], wanted: str, option: str) -> str:
    if wanted in columns:
        return wanted
    found = find_named(columns, [wanted])
    if not found:
        raise InputError(f"{path} has no column {wanted!r}.", hint=f"{option} takes one of: {_listed(columns)}")
    return found[0]


def _listed(columns: Sequence[str], limit: int = 40) -> str:
    more = f", ... ({len(columns) - limit:,} more)" if len(columns) > limit else ""
    return ", ".join(columns[:limit]) + more


def _id_column(path: Path, columns: Sequence[str], wanted: str | None) -> str | None:
    if wanted is not None:
        return _given_column(path, columns, wanted, "--id")
    return next(iter(find_named(columns, ID_NAMES)), None)


def _text_column(
    path: Path, columns: Sequence[str], sample: Sequence[dict[str, Any]], wanted: str | None, *, has_header: bool
) -> str:
    """The column that holds the comments; InputError if it is not clear which one."""
    if wanted is not None:
        return _given_column(path, columns, wanted, "--text")
    scores = {column: _text_score([fields[column] for fields in sample]) for column in columns}
    named = find_named(columns, TEXT_NAMES)
    if named:
        return next((column for column in named if scores[column] > 0), named[0])
    if has_header and any(_is_data(column) for column in columns):
        raise InputError(
            f"{path}: the first line looks like data, not like column names: {_short(', '.join(columns), 80)}",
            hint="Put a line with column names on top (for example: comment), name the column with --text if it is a "
            "header after all, or read the file as one comment a line (--format txt).",
        )
    best, *others = sorted(scores, key=lambda column: scores[column], reverse=True)
    if scores[best] >= 8 and all(scores[best] >= 2 * scores[other] for other in others[:1]):
        return best
    samples = "\n".join(
        f"  {column}: {_short(next((f[column] for f in sample if f[column] not in (None, '')), ''))}"
        for column in columns[:40]
    )
    raise InputError(
        f"{path}: it is not clear which column holds the comments. Its {len(columns)} columns, each with a "
        f"value:\n{samples}",
        hint="Name the column: --text COLUMN.",
    )


def _is_data(name: str) -> bool:
    """Whether a column name looks like a value. A survey's question is a name, however long it is."""
    if name.rstrip().endswith(("?", "？", ":", "：")):
        return False
    return bool(_NO_TEXT.fullmatch(name) or _SENTENCE.search(name))


def _text_score(values: Sequence[Any]) -> float:
    """How much a column looks like free text: median length in half-widths (at most 200) x share of distinct values.

    0 if more than half of the values are numbers, dates, addresses or codes.
    """
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    wordy = [text for text in texts if not (_NO_TEXT.fullmatch(text[:200]) or _CODE.fullmatch(text.strip()))]
    if not wordy or 2 * len(wordy) <= len(texts):
        return 0.0
    lengths = [sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text[:200] if c.isalpha()) for text in wordy]
    return statistics.median(lengths) * len(set(texts)) / len(texts)
