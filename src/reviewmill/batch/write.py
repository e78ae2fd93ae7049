"""Write result files: whole or not at all, in memory that does not grow with the number of rows.

A file is written in a working folder beside its final place, flushed to the disk and then renamed, so that what stands
under the final name is always complete. CSV and TSV cannot run formulas (see `safe_cell`); XLSX holds strings as
strings.

How values are spelled: JSONL, JSON and Parquet keep lists and objects; in CSV, TSV and XLSX a list of strings is joined
with `|` and everything else that is nested becomes compact JSON. NaN and infinities are null in JSON; in the flat
formats NaN is an empty cell. A lone surrogate is written as U+FFFD everywhere.
"""

from __future__ import annotations

import codecs
import csv
import errno
import fcntl
import gzip
import hashlib
import io
import json
import math
import os
import pickle
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, suppress
from datetime import date, datetime, time
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, Protocol, cast

import polars as pl
import xlsxwriter
from polars.io.plugins import register_io_source
from xlsxwriter.exceptions import XlsxWriterException

from reviewmill.batch.formats import EXTENSIONS, TEXT_FORMATS, FileKind, Format, file_kind
from reviewmill.errors import OutputError

LIST_SEPARATOR: Final = "|"

XLSX_MAX_ROWS: Final = 1_048_575
"""Rows of an XLSX sheet (specifications and limits of Excel), less the header."""

XLSX_MAX_CELL: Final = 32_767
"""Characters of an XLSX cell, in UTF-16 code units (likewise)."""

CUT_MARK: Final = "…[cut]"
"""Stands at the end of an XLSX cell whose text was longer than `XLSX_MAX_CELL`."""

_BATCH_ROWS: Final = 5000
_MAX_STRUCT_FIELDS: Final = 256
_EXACT_IN_EXCEL: Final = 10**15

Rows = Iterable[Mapping[str, Any]]


def write_rows(path: Path, columns: Sequence[str], rows: Rows, *, format: str | None = None) -> int:  # noqa: A002
    r"""Write a file, whole or not at all, replacing one that is there.

    Formats, by extension: CSV (UTF-8 with a byte order mark, without which Excel shows no Chinese; lines end in \r\n,
    RFC 4180), TSV (UTF-8, the same without the mark), JSONL, JSON (an array), Parquet, XLSX; text formats also packed
    (`.gz`). A path that is no regular file (`/dev/stdout`, a pipe) is written to directly.

    Args:
        path: where; its folder must exist.
        columns: the columns to write, in order.
        rows: what to write; a column that a row lacks is null. Errors that it raises pass through unchanged.
        format: a format's name or extension, where the file's own extension does not tell.

    Returns:
        The number of rows written.

    Raises:
        OutputError: it cannot be written; whatever stood at `path` is untouched and no temporary file is left.
    """
    kind = check_target(path, format=format, rows=len(rows) if isinstance(rows, Sized) else None)
    with _explained(path):
        if path.exists() and not path.is_file():
            with path.open("wb") as device:
                return _write_text(device, columns, _upstream(rows), kind.format)
        with _replacing(path) as unfinished:
            if kind.format == "parquet":
                return _write_parquet(unfinished, columns, _upstream(rows))
            if kind.format == "xlsx":
                return _write_xlsx(unfinished, columns, _upstream(rows), path)
            return _write_text_file(unfinished, columns, _upstream(rows), kind)


def write_stream(stream: IO[Any], columns: Sequence[str], rows: Rows, format: str) -> int:  # noqa: A002
    """Write rows to an open stream, one by one as they come (each is flushed), and leave the stream open.

    Args:
        stream: text or binary; UTF-8 is written, without a byte order mark, whatever encoding a text stream over
            bytes (such as `sys.stdout`) has.
        columns: the columns to write, in order.
        rows: what to write; errors that it raises pass through unchanged.
        format: `csv`, `tsv`, `jsonl` or `json`.

    Returns:
        The number of rows written.

    Raises:
        OutputError: the stream cannot be written, or takes no such format.
        BrokenPipeError: whoever read the stream has stopped; this is no fault.
    """
    name = Path(str(getattr(stream, "name", "the stream")))
    kind = _writable(name, file_kind(name, format, error=OutputError))
    if kind.format not in TEXT_FORMATS or kind.gzipped:
        raise OutputError(f"{format} cannot be written to a stream.", hint="Take jsonl, json, csv or tsv, or a file.")
    with _explained(name):
        if isinstance(stream, io.StringIO):
            return _emit(_Mending(stream), columns, _upstream(rows), kind.format)
        if isinstance(stream, io.TextIOBase):
            stream.flush()
        return _write_text(getattr(stream, "buffer", stream), columns, _upstream(rows), kind.format, live=True)


def check_target(path: Path, *, format: str | None = None, rows: int | None = None) -> FileKind:  # noqa: A002
    """Refuse, before any work, an output that could not be written in the end.

    Args:
        path: where the output is to be written.
        format: as for `write_rows`.
        rows: how many rows there will be, if that is known.

    Raises:
        OutputError: the format is unknown or cannot hold so many rows, or the folder is not there, or `path` is one.
    """
    kind = _writable(path, file_kind(path, format, error=OutputError))
    if kind.format == "xlsx" and rows is not None and rows > XLSX_MAX_ROWS:
        raise _too_many_rows(path, f"{rows:,}")
    if path.is_dir():
        raise OutputError(f"{path} is a folder.", hint="Name a file in it.")
    if not path.parent.is_dir():
        what = "is not a folder" if path.parent.exists() else "does not exist"
        raise OutputError(
            f"{path} cannot be written: {path.parent} {what}.", hint="Create the folder, or name another."
        )
    if path.exists() and not path.is_file() and (kind.format not in TEXT_FORMATS or kind.gzipped):
        raise OutputError(f"{path} is no regular file.", hint="Only csv, tsv, jsonl and json can be written to it.")
    return kind


def _writable(path: Path, kind: FileKind) -> FileKind:
    if kind.format == "txt":
        known = ", ".join(extension for extension, of in EXTENSIONS.items() if of != "txt")
        raise OutputError(
            f"{path}: text lines cannot hold the columns of a result.", hint=f"Name a file with one of: {known}."
        )
    return kind


def _too_many_rows(path: Path, count: str) -> OutputError:
    return OutputError(
        f"{path}: {count} rows are more than an XLSX sheet holds ({XLSX_MAX_ROWS:,} and the header).",
        hint="Write .csv or .parquet instead.",
    )


# --- whole or not at all ----------------------------------------------------------------------------------------------


class _UpstreamError(Exception):
    """What the rows raised: never to be taken for an error of the file that is written."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _upstream(rows: Rows) -> Iterator[Mapping[str, Any]]:
    try:
        yield from rows
    except Exception as error:
        raise _UpstreamError(error) from error


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say in an OutputError why the file could not be written and what to do."""
    try:
        yield
    except _UpstreamError as upstream:
        raise upstream.error from upstream.error.__cause__
    except BrokenPipeError:
        raise
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException, XlsxWriterException) as error:
        raise OutputError(f"{path} cannot be written: {error}", hint=_hint(error)) from error


def _hint(error: BaseException) -> str:
    # polars and xlsxwriter wrap the system's error and keep only its words.
    number = error.errno if isinstance(error, OSError) else None
    if number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} or os.strerror(errno.ENOSPC) in str(error):
        return "The disk (or your share of it) is full: free some space, or write somewhere else."
    if number in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return "The folder is read-only for this user: write somewhere else, or change its permissions."
    return "Write somewhere else; whatever stood under this name is untouched."


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A place for the unfinished file; on success it takes the name `path`, otherwise it vanishes.

    The unfinished file and all spools live in a folder beside `path` (so that renaming is atomic), which is locked as
    long as its process lives. What a killed process left behind is recognised by its lock being free, and removed.
    """
    target = Path(os.path.realpath(path))
    stem = f".reviewmill-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]}"
    _remove_abandoned(target.parent, stem)
    work = target.with_name(f"{stem}-{secrets.token_hex(4)}.tmp")
    work.mkdir(mode=0o700)
    lock = os.open(work, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks; then nothing is ever taken for abandoned
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unfinished = work / "unfinished"
        unfinished.touch()
        yield unfinished
        with suppress(FileNotFoundError):
            unfinished.chmod(stat.S_IMODE(target.stat().st_mode))
        _sync(unfinished)
        unfinished.replace(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)


def _remove_abandoned(folder: Path, stem: str) -> None:
    for work in folder.glob(f"{stem}-*.tmp"):
        with suppress(OSError):
            lock = os.open(work, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(work, ignore_errors=True)
            finally:
                os.close(lock)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- cells ------------------------------------------------------------------------------------------------------------

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_NOT_IN_XML: Final = re.compile("[\ud800-\udfff\ufffe\uffff]")
_FORMULA: Final = re.compile(r"[\t\r\n]|[\s\x00-\x20\u200b-\u200f\u2060\ufeff]*[=+\-@＝＋－＠]")
_PLAIN_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def _mended(text: str) -> str:
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _replace_surrogates(error: UnicodeError) -> tuple[bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "\ufffd".encode() * (error.end - error.start), error.end


_ERRORS: Final = "reviewmill.surrogates"
codecs.register_error(_ERRORS, _replace_surrogates)


def safe_cell(text: str) -> str:
    """The text as a CSV cell that no spreadsheet program runs as a formula.

    Text that begins with `=`, `+`, `-` or `@` (also full-width, also after white space), with a tab or with a line
    break gets an apostrophe in front, unless it is a plain number such as `-5` or `+3.2e5`.

    Source: OWASP, "CSV Injection", https://owasp.org/www-community/attacks/CSV_Injection
    """
    if _FORMULA.match(text) and not _PLAIN_NUMBER.fullmatch(text):
        return "'" + text
    return text


def read_back(text: str) -> str:
    """What `safe_cell` made this cell of."""
    return text[1:] if text.startswith("'") and safe_cell(text[1:]) == text else text


def _flat(value: Any) -> str:
    """The value as the text of one cell."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return LIST_SEPARATOR.join(value)
    if isinstance(value, Mapping | list | tuple):
        return _json(value, separators=(",", ":"))
    return _plain(value)


def _plain(value: Any) -> str:
    """The text of a value that is neither nested nor known to JSON (dates, decimals, bytes, ...)."""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def _json(value: Any, separators: tuple[str, str] = (", ", ": ")) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain, separators=separators)
    except (ValueError, TypeError):
        return json.dumps(_jsonable(value), ensure_ascii=False, default=_plain, separators=separators)


def _jsonable(value: Any) -> Any:
    """The value with null for NaN and infinities, and names that are strings."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value


# --- CSV, TSV, JSONL, JSON --------------------------------------------------------------------------------------------


class _Writable(Protocol):
    def write(self, text: str, /) -> object: ...


class _Mending:
    """A text stream in memory that takes lone surrogates as U+FFFD, as the encoder does on the way to bytes."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    def write(self, text: str, /) -> object:
        return self._stream.write(_mended(text))


def _write_text_file(path: Path, columns: Sequence[str], rows: Rows, kind: FileKind) -> int:
    encoding = "utf-8-sig" if kind.format == "csv" else "utf-8"
    with path.open("wb") as handle:
        if not kind.gzipped:
            return _write_text(handle, columns, rows, kind.format, encoding=encoding)
        with gzip.GzipFile("", "wb", fileobj=handle, mtime=0) as packed:
            return _write_text(cast("IO[bytes]", packed), columns, rows, kind.format, encoding=encoding)


def _write_text(
    handle: IO[bytes], columns: Sequence[str], rows: Rows, kind: Format, *, encoding: str = "utf-8", live: bool = False
) -> int:
    """Write text to a binary handle, which stays open."""
    text = io.TextIOWrapper(handle, encoding=encoding, errors=_ERRORS, newline="", line_buffering=live)
    try:
        count = _emit(text, columns, rows, kind)
        text.flush()
        return count
    finally:
        with suppress(OSError):  # detaching flushes once more, which fails again where writing failed
            text.detach()


def _emit(out: _Writable, columns: Sequence[str], rows: Rows, kind: Format) -> int:
    if kind == "jsonl":
        return _emit_jsonl(out, columns, rows)
    if kind == "json":
        return _emit_json(out, columns, rows)
    return _emit_delimited(out, columns, rows, "\t" if kind == "tsv" else ",")


def _emit_delimited(out: _Writable, columns: Sequence[str], rows: Rows, delimiter: str) -> int:
    count = 0
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow([safe_cell(name) for name in columns])
    for count, row in enumerate(rows, 1):  # noqa: B007
        writer.writerow([safe_cell(_flat(row.get(name))) for name in columns])
    return count


def _emit_jsonl(out: _Writable, columns: Sequence[str], rows: Rows) -> int:
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007
        out.write(_json({name: row.get(name) for name in columns}) + "\n")
    return count


def _emit_json(out: _Writable, columns: Sequence[str], rows: Rows) -> int:
    count = 0
    out.write("[")
    for count, row in enumerate(rows, 1):
        out.write((",\n" if count > 1 else "\n") + _json({name: row.get(name) for name in columns}))
    out.write("\n]\n" if count else "]\n")
    return count


# --- XLSX -------------------------------------------------------------------------------------------------------------


def _write_xlsx(path: Path, columns: Sequence[str], rows: Rows, target: Path) -> int:
    options = {"constant_memory": True, "tmpdir": str(path.parent)}
    count = 0
    with path.open("wb") as handle:
        book = xlsxwriter.Workbook(handle, options)
        sheet = book.add_worksheet("reviewmill")
        sheet.freeze_panes(1, 0)
        bold = book.add_format({"bold": True})
        dated = {True: book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})}
        dated[False] = book.add_format({"num_format": "yyyy-mm-dd"})
        for place, name in enumerate(columns):
            sheet.write_string(0, place, _xlsx_text(name), bold)
        for count, row in enumerate(rows, 1):
            if count > XLSX_MAX_ROWS:
                raise _too_many_rows(target, f"more than {XLSX_MAX_ROWS:,}")
            for place, name in enumerate(columns):
                _write_cell(sheet, count, place, row.get(name), dated)
        book.close()  # only now: as a context manager it would also assemble a workbook that is to be thrown away
    return count


def _write_cell(sheet: Any, row: int, place: int, value: Any, dated: Mapping[bool, Any]) -> None:
    """Write one cell by its type; nothing is guessed from text, so no text becomes a formula, a link or a number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return
    if isinstance(value, bool):
        sheet.write_boolean(row, place, value)
    elif isinstance(value, int | float) and abs(value) < _EXACT_IN_EXCEL:
        sheet.write_number(row, place, value)
    elif isinstance(value, date) and value.year >= 1900 and getattr(value, "tzinfo", None) is None:
        sheet.write_datetime(row, place, value, dated[isinstance(value, datetime)])
    else:
        sheet.write_string(row, place, _xlsx_text(_flat(value)))


def _xlsx_text(text: str) -> str:
    """Text that XML can hold, cut to what a cell can hold."""
    text = _NOT_IN_XML.sub("\ufffd", text)
    if 2 * len(text) <= XLSX_MAX_CELL:
        return text
    units = text.encode("utf-16-le")
    if len(units) // 2 <= XLSX_MAX_CELL:
        return text
    return units[: 2 * (XLSX_MAX_CELL - len(CUT_MARK))].decode("utf-16-le", "ignore") + CUT_MARK


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _write_parquet(path: Path, columns: Sequence[str], rows: Rows) -> int:
    """Spool the rows while learning each column's type, then let polars stream the spool into the file."""
    kinds: list[pl.DataType] = [pl.Null()] * len(columns)
    rows = iter(rows)
    count = 0
    with tempfile.TemporaryFile(dir=path.parent) as spool:
        while batch := list(islice(rows, _BATCH_ROWS)):
            count += len(batch)
            values = [[row.get(name) for row in batch] for name in columns]
            kinds = [_kind_of_all(kind, column) for kind, column in zip(kinds, values, strict=True)]
            pickle.dump(values, spool, pickle.HIGHEST_PROTOCOL)
        spool.flush()
        schema = pl.Schema(zip(map(_mended, columns), map(_storable, kinds), strict=True))
        if not count:
            pl.DataFrame(schema=schema).write_parquet(path)
        else:
            frames = register_io_source(lambda *_: _spooled(spool, schema), schema=schema)
            frames.sink_parquet(path, row_group_size=4 * _BATCH_ROWS)
    return count


def _spooled(spool: IO[bytes], schema: pl.Schema) -> Iterator[pl.DataFrame]:
    spool.seek(0)
    while True:
        try:
            values = pickle.load(spool)  # noqa: S301  (our own file, which has no name that another could open)
        except EOFError:
            return
        yield pl.DataFrame([_series(*item) for item in zip(schema.items(), values, strict=True)])


def _series(column: tuple[str, pl.DataType], values: list[Any]) -> pl.Series:
    name, kind = column
    return pl.Series(name, [_fit(value, kind) for value in values], dtype=kind, strict=True)


def _kind_of_all(kind: pl.DataType, values: list[Any]) -> pl.DataType:
    for value in values:
        if value is not None and not (kind == pl.String and isinstance(value, str)):
            kind = _merge(kind, _kind_of(value))
    return kind


_SCALARS: Final[dict[type, pl.DataType]] = {
    type(None): pl.Null(),
    str: pl.String(),
    bool: pl.Boolean(),
    float: pl.Float64(),
    date: pl.Date(),
    bytes: pl.Binary(),
}


def _kind_of(value: Any) -> pl.DataType:
    """The Parquet type of one value; String for what has none."""
    if isinstance(value, Mapping):
        return pl.Struct({_mended(str(name)): _kind_of(item) for name, item in value.items()})
    if isinstance(value, list | tuple):
        inner: pl.DataType = pl.Null()
        for item in value:
            inner = _merge(inner, _kind_of(item))
        return pl.List(inner)
    if type(value) is int:
        return pl.Int64() if -(2**63) <= value < 2**63 else pl.String()
    if type(value) is datetime:
        return pl.Datetime("us") if value.tzinfo is None else pl.String()
    return _SCALARS.get(type(value), pl.String())


def _merge(one: pl.DataType, other: pl.DataType) -> pl.DataType:
    """The type that holds the values of both; String (as JSON text where nested) if none does."""
    if one == other or other == pl.Null:
        return one
    if one == pl.Null:
        return other
    if {one, other} == {pl.Int64(), pl.Float64()}:
        return pl.Float64()
    if isinstance(one, pl.List) and isinstance(other, pl.List):
        return pl.List(_merge(_inner(one), _inner(other)))
    if isinstance(one, pl.Struct) and isinstance(other, pl.Struct):
        fields = dict(one)
        for name, kind in dict(other).items():
            fields[name] = _merge(cast("pl.DataType", fields.get(name, pl.Null())), cast("pl.DataType", kind))
        return pl.Struct(fields) if len(fields) <= _MAX_STRUCT_FIELDS else pl.String()
    return pl.String()


def _inner(kind: pl.List) -> pl.DataType:
    return cast("pl.DataType", kind.inner)


def _storable(kind: pl.DataType) -> pl.DataType:
    """The type with String for what was always null or an object without fields, which Parquet cannot store."""
    if isinstance(kind, pl.List):
        return pl.List(_storable(_inner(kind)))
    if isinstance(kind, pl.Struct):
        fields = {name: _storable(cast("pl.DataType", item)) for name, item in dict(kind).items()}
        return pl.Struct(fields) if fields else pl.String()
    return pl.String() if kind == pl.Null else kind


def _fit(value: Any, kind: pl.DataType) -> Any:
    """The value as its column's type holds it."""
    if value is None:
        return None
    if kind == pl.String:
        text = value if isinstance(value, str) else _json(value) if _is_nested(value) else _flat(value)
        return _mended(text)
    if isinstance(kind, pl.List):
        return [_fit(item, _inner(kind)) for item in value]
    if isinstance(kind, pl.Struct):
        items = {_mended(str(name)): item for name, item in value.items()}
        return {name: _fit(items.get(name), cast("pl.DataType", item)) for name, item in dict(kind).items()}
    return float(value) if kind == pl.Float64 else value


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)
