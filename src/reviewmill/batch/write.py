"""Write result files: whole or not at all, in memory that does not grow with the number of rows.

A file is written in a working folder beside its final place, flushed to the disk and then renamed, so that what stands
under the final name is always complete. CSV and TSV cannot run formulas (see `safe_cell`); XLSX holds strings as
strings.

How values are spelled: JSONL, JSON and Parquet keep lists and objects; in CSV, TSV and XLSX a list of strings is joined
with `|` and everything else that is nested becomes compact JSON. NaN and infinities are null in JSON; in the flat
formats NaN is an empty cell. A lone surrogate is written as U+FFFD everywhere.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import gzip
import hashlib
import io
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol, cast

from reviewmill.batch.cells import SURROGATES, Rows, as_json, flat, mended, safe_cell
from reviewmill.batch.formats import (
    EXTENSIONS,
    TEXT_FORMATS,
    XLSX_MAX_ROWS,
    FileKind,
    Format,
    file_kind,
    too_many_rows,
)
from reviewmill.errors import OutputError


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
            # Their libraries take a third of a second to import: only where they are used.
            if kind.format == "parquet":
                from reviewmill.batch.parquet_out import write_parquet

                return write_parquet(unfinished, columns, _upstream(rows))
            if kind.format == "xlsx":
                from reviewmill.batch.xlsx_out import write_xlsx

                return write_xlsx(unfinished, columns, _upstream(rows), path)
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
        raise too_many_rows(path, f"{rows:,}")
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
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}", hint=_hint(error)) from error


def _hint(error: OSError) -> str:
    # polars and xlsxwriter wrap the system's error and keep only its words.
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} or os.strerror(errno.ENOSPC) in str(error):
        return "The disk (or your share of it) is full: free some space, or write somewhere else."
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
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


# --- CSV, TSV, JSONL, JSON --------------------------------------------------------------------------------------------


class _Writable(Protocol):
    def write(self, text: str, /) -> object: ...


class _Mending:
    """A text stream in memory that takes lone surrogates as U+FFFD, as the encoder does on the way to bytes."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    def write(self, text: str, /) -> object:
        return self._stream.write(mended(text))


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
    text = io.TextIOWrapper(handle, encoding=encoding, errors=SURROGATES, newline="", line_buffering=live)
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
        writer.writerow([safe_cell(flat(row.get(name))) for name in columns])
    return count


def _emit_jsonl(out: _Writable, columns: Sequence[str], rows: Rows) -> int:
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007
        out.write(as_json({name: row.get(name) for name in columns}) + "\n")
    return count


def _emit_json(out: _Writable, columns: Sequence[str], rows: Rows) -> int:
    count = 0
    out.write("[")
    for count, row in enumerate(rows, 1):
        out.write((",\n" if count > 1 else "\n") + as_json({name: row.get(name) for name in columns}))
    out.write("\n]\n" if count else "]\n")
    return count
