"""Results as files that are downloaded: of jobs, whole or of one label, and of comments that were typed in a chat."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import quote

from starlette.responses import StreamingResponse

from reviewmill.batch.columns import FLAT_FORMATS
from reviewmill.batch.formats import XLSX_MAX_ROWS
from reviewmill.batch.threads import in_thread
from reviewmill.batch.write import write_rows
from reviewmill.errors import OutputError
from reviewmill.server.jobs.results import MEDIA_TYPES, ResultFormat, ResultGoneError, Shape, flattened, open_result
from reviewmill.server.problems import Problem, invalid, not_found

if TYPE_CHECKING:
    from reviewmill.server.state import Service
    from reviewmill.store import JobRecord

_BLOCK: Final = 1 << 18
_SCHEMAS: Final[dict[ResultFormat, dict[str, Any]]] = {
    "json": {"schema": {"type": "array", "items": {"type": "object"}}},
    "csv": {"schema": {"type": "string"}},
}
RESULT_FILE: Final[dict[str, Any]] = {
    "content": {media.partition(";")[0]: _SCHEMAS.get(kind, {}) for kind, media in MEDIA_TYPES.items()},
    "description": "The file.",
}
"""What the document says of it."""

_NO_RESULT: Final[dict[str, str]] = {
    "queued": "Wait until it is done: follow its events.",
    "running": "Wait until it is done: follow its events.",
    "failed": "Its `error` says why.",
    "cancelled": "Upload the file again.",
}


async def result_response(
    service: Service, job: JobRecord, kind: ResultFormat, *, label: str | None = None
) -> StreamingResponse:
    """A job's result in a format, as a download.

    Args:
        service: whose job it is.
        job: the job.
        kind: the format.
        label: only rows with this label; None: all rows.

    Raises:
        Problem: the job has no result (yet, or any more), or there is no room for this format.
    """
    if job.state != "done":
        raise Problem(
            409,
            "job-not-done",
            "The job has no result",
            f"The job is {job.state}.",
            _NO_RESULT[job.state],
        )
    if kind == "xlsx" and label is None and job.summary is not None and job.summary["rows"] > XLSX_MAX_ROWS:
        raise invalid("format", f"an XLSX sheet holds {XLSX_MAX_ROWS:,} rows", hint="Take csv or parquet.")
    try:
        async with service.jobs.converting:
            handle = await in_thread(partial(open_result, service.jobs.files(job.id), job.token, kind, label=label))
    except ResultGoneError:
        raise not_found("job with this id") from None
    except OutputError as error:
        raise _no_room() from error
    return _download(handle, f"{_stem(job.filename)}.analyzed{f'.{label}' if label else ''}", kind)


async def rows_response(
    records: Sequence[dict[str, Any]], shape: Shape, kind: ResultFormat, *, label: str | None = None
) -> StreamingResponse:
    """Analysed rows in a format, as a download.

    Args:
        records: as in a result's canonical file.
        shape: what decides the columns.
        kind: the format.
        label: only rows with this label; None: all rows.

    Raises:
        Problem: there is no room for it.
    """
    chosen = records if label is None else [record for record in records if record[shape.task] == label]
    try:
        handle = await in_thread(_written, chosen, shape, kind)
    except OutputError as error:
        raise _no_room() from error
    return _download(handle, f"chat.analyzed{f'.{label}' if label else ''}", kind)


def _written(records: Sequence[dict[str, Any]], shape: Shape, kind: ResultFormat) -> IO[bytes]:
    """The rows in a file that is gone as soon as it is closed."""
    flat = kind in FLAT_FORMATS
    rows: Iterator[dict[str, Any]] = flattened(iter(records), shape) if flat else iter(records)
    with tempfile.TemporaryDirectory(prefix="reviewmill-") as folder:
        path = Path(folder) / f"result.{kind}"
        write_rows(path, shape.layout(flat=flat).names, rows)
        return path.open("rb")


def _no_room() -> Problem:
    return Problem(507, "storage-full", "The result cannot be made", "There is no room for this format.", "Take jsonl.")


def _download(handle: IO[bytes], stem: str, kind: ResultFormat) -> StreamingResponse:
    headers = {
        "Content-Length": str(os.fstat(handle.fileno()).st_size),
        "Content-Disposition": _disposition(stem, kind),
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
    return StreamingResponse(_blocks(handle), headers=headers, media_type=MEDIA_TYPES[kind])


def _stem(filename: str) -> str:
    return PurePath(filename.removesuffix(".gz")).stem or "result"


def _disposition(stem: str, kind: str) -> str:
    """The header that names a download (RFC 6266; the name in UTF-8 by RFC 8187)."""
    name = f"{stem}.{kind}"
    plain = "".join(c if c.isascii() and (c.isalnum() or c in " ._-") else "_" for c in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


async def _blocks(handle: IO[bytes]) -> AsyncIterator[bytes]:
    try:
        while block := await asyncio.to_thread(handle.read, _BLOCK):
            yield block
    finally:
        handle.close()
