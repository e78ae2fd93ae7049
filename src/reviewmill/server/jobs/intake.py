"""Receive an upload: streamed to the disk under our own name, hashed on the way, never over the limit.

Either a form (`multipart/form-data`) with the file and the fields beside it, or the file alone as the body.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from reviewmill.errors import InputError, OutputError, ReviewmillError

MAX_FIELD_BYTES: Final = 10_000
MAX_PARTS: Final = 32
MAX_HEADER_BYTES: Final = 16_000
_WRITE_BYTES: Final = 1 << 20


class UploadTooLargeError(ReviewmillError):
    """An upload, or a field beside it, is larger than is taken."""


@dataclass(slots=True)
class Upload:
    """What came.

    Attributes:
        size: bytes of the file.
        sha256: their digest, in hexadecimal.
        filename: what the caller calls it, unchecked; None if nothing was said.
        media_type: what the caller says it is, in lower case.
        fields: the form's other fields; what was given twice counts as it was given last.
    """

    size: int = 0
    sha256: str = ""
    filename: str | None = None
    media_type: str | None = None
    fields: dict[str, str] = field(default_factory=dict)


class _Sink:
    """The file on the disk; blocks of about a megabyte are written and hashed in a thread."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._handle: IO[bytes] | None = None
        self._digest = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self.size = 0

    def take(self, data: bytes) -> None:
        """Hold data until the next `flush`."""
        self.size += len(data)
        if self.size > self._limit:
            raise UploadTooLargeError(
                f"The file is larger than {self._limit:,} bytes, which is the most that is taken.",
                hint="Split it, pack it (.csv.gz), or raise service.max_upload_bytes.",
            )
        self._waiting.append(data)
        self._waiting_bytes += len(data)

    async def flush(self, *, least: int = _WRITE_BYTES) -> None:
        """Write what waits, if it is at least so much."""
        if self._waiting_bytes >= least:
            blocks, self._waiting, self._waiting_bytes = self._waiting, [], 0
            await asyncio.to_thread(self._write, blocks)

    def _write(self, blocks: list[bytes]) -> None:
        try:
            if self._handle is None:
                self._handle = os.fdopen(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")
            for block in blocks:
                self._digest.update(block)
                self._handle.write(block)
        except OSError as error:
            raise _unwritable(error) from error

    async def finish(self) -> str:
        """Have all of it on the disk; returns its digest."""
        await self.flush(least=0)
        await asyncio.to_thread(self._sync)
        return self._digest.hexdigest()

    def _sync(self) -> None:
        if self._handle is not None:
            try:
                self._handle.flush()
                os.fsync(self._handle.fileno())
                self._handle.close()
            except OSError as error:
                raise _unwritable(error) from error

    def close(self) -> None:
        """Close the file, whatever is in it."""
        if self._handle is not None:
            try:
                self._handle.close()
            except OSError as error:  # closing flushes, and there may be no room
                raise _unwritable(error) from error


def _unwritable(error: OSError) -> OutputError:
    return OutputError(f"The upload cannot be stored: {error.strerror}.", hint="Is the service's disk full?")


async def receive(chunks: AsyncIterator[bytes], content_type: str, path: Path, *, limit: int) -> Upload:
    """Receive an upload into a new file. If this raises, a part of the file may be there; the caller removes it.

    Args:
        chunks: the request's body.
        content_type: the request's header.
        path: the file.
        limit: the most bytes that it may have.

    Raises:
        UploadTooLargeError: it is larger, or one of the fields is.
        InputError: the form is malformed or has no part `file`, or the body is empty.
        OutputError: it cannot be stored: the disk is full, or the like.
    """
    kind, options = parse_options_header(content_type.encode("latin-1", "replace"))
    sink = _Sink(path, limit)
    upload = Upload(media_type=kind.decode("latin-1").lower() or None)
    try:
        if upload.media_type == "multipart/form-data":
            await _receive_form(chunks, options.get(b"boundary", b""), sink, upload)
        else:
            async for chunk in chunks:
                sink.take(chunk)
                await sink.flush()
        upload.size, upload.sha256 = sink.size, await sink.finish()
    finally:
        sink.close()
    if not upload.size:
        raise InputError("The file is empty (0 bytes).", hint="Is it the right file?")
    return upload


async def _receive_form(chunks: AsyncIterator[bytes], boundary: bytes, sink: _Sink, upload: Upload) -> None:
    form = _Form(sink, upload)
    try:
        parser = MultipartParser(boundary, form.callbacks(), max_header_count=16, max_header_size=MAX_HEADER_BYTES)
        async for chunk in chunks:
            parser.write(chunk)
            await sink.flush()
        parser.finalize()
    except MultipartParseError as error:
        raise InputError(f"The form is malformed: {error}.", hint="Is it multipart/form-data (RFC 7578)?") from None
    if not form.ended:
        raise InputError("The form is cut short: its last boundary is missing.", hint="Send it again.")
    if not form.has_file:
        raise InputError("The form has no part `file`.", hint='With curl: -F "file=@comments.csv".')


class _Form:
    """Puts the parts of a form where they belong, as they come."""

    def __init__(self, sink: _Sink, upload: Upload) -> None:
        self._sink = sink
        self._upload = upload
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._value = bytearray()
        self._parts = 0
        self._in_file = False
        self.has_file = False
        self.ended = False

    def callbacks(self) -> Any:
        """What the parser calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._open,
            "on_part_data": self._data,
            "on_part_end": self._close,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise UploadTooLargeError(f"The form has more than {MAX_PARTS} parts.", hint="Send only what is asked for.")
        self._headers.clear()
        self._value.clear()
        self._name, self._in_file = "", False

    def _end_header(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        self._in_file = self._name == "file"
        if not self._in_file:
            return
        if self.has_file:
            raise InputError("The form has several parts `file`.", hint="One job takes one file.")
        self.has_file = True
        self._upload.filename = options.get(b"filename", b"").decode("utf-8", "replace") or None
        kind, _ = parse_options_header(self._headers.get(b"content-type", b""))
        self._upload.media_type = kind.decode("latin-1").lower() or None

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._sink.take(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise UploadTooLargeError(f"The field {self._name[:40]!r} is over {MAX_FIELD_BYTES:,} bytes.")

    def _close(self) -> None:
        if not self._in_file and self._name:
            self._upload.fields[self._name] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self.ended = True
