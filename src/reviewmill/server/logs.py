"""Logs as JSON, one object a line, on stderr. Comments are never in them unless `log_texts` is set.

A traceback shows where an error happened and its type, not its message: an exception's words may quote a comment.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import traceback
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Any, Final, NamedTuple

from reviewmill.server.problems import request_id

WRITE_S: Final = 0.25
MOST_LINES: Final = 50_000
"""Lines that may wait to be written; more are counted and dropped."""

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON, with the id of the request that it belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD and value is not None}
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            line["error"] = kind.__name__
            line["where"] = [f"{at.filename}:{at.lineno} {at.name}" for at in traceback.extract_tb(trace)]
        return json.dumps(line, default=str)


def set_up(level: int = logging.INFO) -> None:
    """Let everything that is logged in this process come out as JSON on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # They log each request to the model, and what they are about to do.
    for name in ("httpx2", "httpcore2", "openai", "alembic", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)


class Access(NamedTuple):
    """What the access log says of one request."""

    at: float
    request_id: str
    client: str
    key_id: str | None
    method: str
    path: str
    status: int
    seconds: float


class AccessLog:
    """Lines about requests, collected here and written by a thread a moment later.

    Args:
        on_lost: told how many lines were dropped.
        stream: where to write; None: stderr.
    """

    def __init__(self, on_lost: Callable[[int], None], stream: IO[str] | None = None) -> None:
        self._on_lost = on_lost
        self._stream = stream
        self._waiting: deque[Access] = deque(maxlen=MOST_LINES)

    def note(self, access: Access) -> None:
        """Keep one line."""
        if len(self._waiting) == MOST_LINES:
            self._on_lost(1)
        self._waiting.append(access)

    async def run(self) -> None:
        """Write, again and again, until cancelled."""
        while True:
            await asyncio.sleep(WRITE_S)
            if self._waiting:
                await asyncio.to_thread(self.write)

    def write(self) -> None:
        """Write what waits."""
        lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
        stream = self._stream or sys.stderr
        try:
            stream.write("".join(f"{_line(each)}\n" for each in lines))
            stream.flush()
        except (OSError, ValueError):  # nobody reads our stderr any more, and there is nowhere to say so
            self._on_lost(len(lines))


def _line(access: Access) -> str:
    line: dict[str, Any] = {"time": _time(access.at), "level": "info", "logger": "reviewmill.access"}
    line |= access._asdict()
    del line["at"]
    line["seconds"] = round(access.seconds, 6)
    return json.dumps(line)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
