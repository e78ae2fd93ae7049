"""Look at an upload before it becomes a job: is it a file of comments, and can it be read at a bearable price?

A few bytes of XLSX or gzip can stand for terabytes, and a library that runs out of memory ends its whole process. So
everything but a small text file is looked at in a process of its own, whose memory and time are bounded. This file is
that process's program too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import struct
import sys
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from reviewmill.batch.formats import MAX_UNPACKED_BYTES
from reviewmill.batch.read import Source, open_source
from reviewmill.batch.text_column import find_named
from reviewmill.errors import ColumnError, InputError, ReviewmillError

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY_BYTES: Final = 3 * 1024**3
"""Address space of the process that looks at a file."""

SECONDS: Final = 300
"""How long it may look."""

MAX_RATIO: Final = 200
"""A packed file that unpacks to more than so many times its size, and to more than `SMALL_BYTES`, is refused."""

SMALL_BYTES: Final = 64 * 1024**2
MAX_MEMBERS: Final = 10_000
"""Files in an XLSX archive."""

CUSTOMER_NAMES: Final = ("customer_id", "customerid", "user_id", "客户编号", "客户id", "用户id", "用户编号", "会员号")
"""Names of the column that says whose comment it is, by which all comments of one customer can be deleted."""

_PLAIN_BYTES: Final = 4 * 1024**2
_CHUNK: Final = 1 << 16
_LOCAL_HEADER: Final = struct.Struct("<4sHHHHHIIIHH")
_PLAIN: Final = frozenset({"csv", "tsv", "jsonl", "json", "txt"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look at.

    Attributes:
        path: the file, under our own name.
        size: its bytes.
        kind: its kind (`csv`, `jsonl.gz`, ...).
        text, id, customer: the columns that the caller named.
        max_rows, max_columns: what is more is refused.
    """

    path: str
    size: int
    kind: str
    text: str | None
    id: str | None
    customer: str | None
    max_rows: int
    max_columns: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a file of comments holds."""

    rows: int
    columns: int
    text_column: str
    id_column: str | None
    customer_column: str | None


async def check(wanted: Wanted, *, shown: str, turn: asyncio.Semaphore) -> Found:
    """Look at an upload.

    Args:
        wanted: what to look at.
        shown: what messages call the file; our own name for it is nobody's business.
        turn: bounds how many processes look at once.

    Raises:
        InputError: it is not a file of comments, or too large a one; `ColumnError` where the columns are the matter.
    """
    try:
        if wanted.kind in _PLAIN and wanted.size <= _PLAIN_BYTES:
            return await asyncio.to_thread(look, wanted)
        async with turn:
            return await _look_apart(wanted)
    except InputError as error:
        raise _for_callers(error, wanted.path, shown) from None


def look(wanted: Wanted) -> Found:
    """Look at a file, in this process.

    Raises:
        InputError: see `check`.
    """
    path, size = Path(wanted.path), wanted.size
    if wanted.kind == "xlsx" and zipfile.is_zipfile(path):  # what is no archive at all is explained by the reader
        _check_archive(path, size)
    elif wanted.kind.endswith(".gz"):
        _check_gzip(path, size)
    source = open_source(path, text=wanted.text, id=wanted.id, format=wanted.kind)
    if len(source.columns) > wanted.max_columns:
        raise InputError(
            f"{path} has {len(source.columns):,} columns; at most {wanted.max_columns:,} are taken.",
            hint="Keep the columns that matter.",
        )
    return Found(
        rows=_count(source, wanted.max_rows),
        columns=len(source.columns),
        text_column=source.text_column,
        id_column=source.id_column,
        customer_column=_customer_column(source, wanted.customer),
    )


def _count(source: Source, max_rows: int) -> int:
    count = 0
    for count, _ in enumerate(source.rows(), 1):
        if count > max_rows:
            raise InputError(
                f"{source.path} has more than {max_rows:,} rows, which is the most of one job.",
                hint="Split it into several files; equal comments in them are still asked about once.",
            )
    return count


def _customer_column(source: Source, wanted: str | None) -> str | None:
    if wanted is None:
        return next(iter(find_named(source.columns, CUSTOMER_NAMES)), None)
    if wanted not in source.columns:
        raise ColumnError(f"{source.path} has no column {wanted!r}.", source.columns, hint="See the field `customer`.")
    return wanted


# --- packed files -----------------------------------------------------------------------------------------------------


def _check_archive(path: Path, size: int) -> None:
    """Refuse a ZIP bomb by what its directory says, and then by what really comes out: a directory can lie."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as raw:
            items = archive.infolist()
            if len(items) > MAX_MEMBERS:
                raise InputError(f"{path} is an archive of {len(items):,} files.", hint=_SAVE_AGAIN)
            _refuse_bomb(path, sum(item.file_size for item in items), size)
            unpacked = 0
            for item in items:
                for piece in _pieces(raw, item):
                    unpacked += piece
                    _refuse_bomb(path, unpacked, size)
    except (zipfile.BadZipFile, zlib.error, struct.error, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is not an XLSX workbook: {error}.", hint=_SAVE_AGAIN) from None


def _pieces(raw: IO[bytes], item: zipfile.ZipInfo) -> Iterator[int]:
    """The sizes of what one member unpacks to, piece by piece; the sizes that it declares are not believed."""
    raw.seek(item.header_offset)
    header = _LOCAL_HEADER.unpack(raw.read(_LOCAL_HEADER.size))
    if header[0] != b"PK\x03\x04" or item.flag_bits & 1:
        raise ValueError("a member is damaged or encrypted")
    raw.seek(header[9] + header[10], os.SEEK_CUR)
    if item.compress_type == zipfile.ZIP_STORED:
        yield item.compress_size
        return
    if item.compress_type != zipfile.ZIP_DEFLATED:
        raise ValueError(f"a member is packed by method {item.compress_type}")
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    left = item.compress_size
    while left > 0 and not unpacker.eof and (packed := raw.read(min(_CHUNK, left))):
        left -= len(packed)
        while packed:
            yield len(unpacker.decompress(packed, 16 * _CHUNK))
            packed = unpacker.unconsumed_tail


def _check_gzip(path: Path, size: int) -> None:
    unpacked = 0
    with path.open("rb") as raw:
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        packed = b""
        try:
            while packed := packed or raw.read(_CHUNK):
                unpacked += len(unpacker.decompress(packed, 16 * _CHUNK))
                _refuse_bomb(path, unpacked, size)
                packed = unpacker.unconsumed_tail
                if unpacker.eof:  # another member may follow
                    packed, unpacker = unpacker.unused_data, zlib.decompressobj(zlib.MAX_WBITS | 16)
        except zlib.error:
            return  # the reader says it better


def _refuse_bomb(path: Path, unpacked: int, size: int) -> None:
    if unpacked > MAX_UNPACKED_BYTES or (unpacked > SMALL_BYTES and unpacked > MAX_RATIO * size):
        raise InputError(
            f"{path} has {size:,} bytes and unpacks to {unpacked:,} or more, which is no file of comments.",
            hint=f"At most {MAX_UNPACKED_BYTES >> 20:,} MB are unpacked, and {MAX_RATIO} times a file's own size.",
        )


_SAVE_AGAIN: Final = "Open it in a spreadsheet program and save it again as .xlsx or .csv."


# --- a process of its own ---------------------------------------------------------------------------------------------


async def _look_apart(wanted: Wanted) -> Found:
    few = {"POLARS_MAX_THREADS": "2", "RUST_BACKTRACE": "0"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "reviewmill.server.jobs.check"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | few,
    )
    try:
        async with asyncio.timeout(SECONDS):
            said, _ = await process.communicate(json.dumps(asdict(wanted)).encode())
    except TimeoutError:
        raise InputError(f"{wanted.path} could not be read within {SECONDS} s.", hint=_LIGHTER) from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                process.kill()
            await process.wait()
    reply = _parsed(said)
    if reply is None:
        raise InputError(
            f"{wanted.path} cannot be read: whatever reads it needs more than {MEMORY_BYTES >> 30} GB of memory or "
            "breaks down.",
            hint=_LIGHTER,
        )
    if "found" in reply:
        return Found(**reply["found"])
    if reply["columns"] is not None:
        raise ColumnError(reply["message"], reply["columns"], hint=reply["hint"])
    raise InputError(reply["message"], hint=reply["hint"])


_LIGHTER: Final = "Save it as .csv, with the columns that matter, and without cells far away from the others."


def _parsed(said: bytes) -> dict[str, Any] | None:
    """What the process answered; None if it ended before it could."""
    try:
        reply = json.loads(said)
    except ValueError:
        return None
    return reply if isinstance(reply, dict) else None


def main() -> None:
    """Look at the file that stdin names, within limits, and say on stdout what was found."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    wanted = Wanted(**json.load(sys.stdin))
    try:
        reply: dict[str, Any] = {"found": asdict(look(wanted))}
    except ReviewmillError as error:
        columns = error.columns if isinstance(error, ColumnError) else None
        reply = {"message": error.message, "hint": error.hint, "columns": columns}
    json.dump(reply, sys.stdout)


def _for_callers(error: InputError, path: str, shown: str) -> InputError:
    """The same error without our folders, and without the command line's options in its hint."""
    message = error.message.replace(path, shown)
    if isinstance(error, ColumnError):
        return ColumnError(message, error.columns, hint="Name the column in the field `text` (or `id`, `customer`).")
    return InputError(message, hint=error.hint.replace("--format", "the field `format`") if error.hint else None)


if __name__ == "__main__":
    main()
