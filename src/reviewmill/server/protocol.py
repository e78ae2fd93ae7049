"""HTTP on one connection: uvicorn's, with limits on how long and how large a request's head may be.

A head that comes drop by drop (slow loris) or does not end would otherwise hold a connection, and memory, for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from reviewmill.server.problems import MEDIA_TYPE, Problem

if TYPE_CHECKING:
    from reviewmill.settings import ServiceSettings

MOST_HEAD_BYTES: Final = 32_768

_MALFORMED: Final = Problem(400, "malformed", "Bad Request", "This is not an HTTP request.")
_SLOW: Final = Problem(
    408, "head-too-slow", "Request Timeout", "The request's head was not complete in time.", "Send it at once."
)
_LARGE: Final = Problem(
    431,
    "head-too-large",
    "Request Header Fields Too Large",
    f"The request's head has more than {MOST_HEAD_BYTES:,} bytes.",
)


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `guarded` makes a class of it for some settings."""

    head_timeout_s = 10.0
    on_refused: Callable[[int], None] = staticmethod(lambda _status: None)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head = False
        self._head_bytes = 0
        self._chunk_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._refusal = _MALFORMED

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected, and is expected to ask something."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes came: the head's end must come in time."""
        if self._in_head:
            self._head_bytes += len(data)
        self._chunk_bytes = len(data)
        super().data_received(data)
        if self._in_head:
            self._expect_head()
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse(_LARGE)
        elif self.timeout_keep_alive_task is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()  # what came was no request, such as an empty line

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        self._head_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head is complete."""
        self._in_head = False
        self._head_came()
        if self._chunk_bytes > MOST_HEAD_BYTES:
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > MOST_HEAD_BYTES:
                self._refusal = _LARGE
                raise ValueError("the head is too large")  # stops the parser, which answers by `send_400_response`
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser could not read; not in uvicorn's words, which are no problem document."""
        self._in_head = False
        self._refuse(self._refusal)

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._too_slow)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._refuse(_SLOW)
        elif not self.transport.is_closing():
            self.transport.close()  # nothing was asked, so there is nothing to answer

    def _refuse(self, problem: Problem) -> None:
        self._head_came()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:  # else an answer is on its way, and only ends here
            body = problem.document()
            head = (
                f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode("ascii") + body)
        self.transport.close()
        self.on_refused(problem.status)


def guarded(settings: ServiceSettings, on_refused: Callable[[int], None]) -> type[GuardedProtocol]:
    """The protocol for some settings; `on_refused` is told the status of what never became a request."""

    class Protocol(GuardedProtocol):
        head_timeout_s = settings.header_timeout_s

    Protocol.on_refused = staticmethod(on_refused)
    return Protocol
