"""HTTP/1.1 to one server, for the one request that is made a million times: `POST` with a JSON body.

A general client spends more time on a request than a fast engine spends on a comment (docs/pool.md has the numbers).
This one keeps connections open, writes one buffer and reads one message at a time. It knows what RFC 9112 demands of
the receiver of a response: both ways in which a body can be delimited, interim responses, a connection that the server
closes. Everything else (proxies, redirects, HTTP/2) is for the general client.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast

import httpx2

_MAX_HEAD: Final = 65_536
_MAX_BODY: Final = 64 * 1024 * 1024
_MAX_IDLE: Final = 1024
_END_OF_HEAD: Final = b"\r\n\r\n"
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")


class HttpError(OSError):
    """The connection was lost, or what came over it is no HTTP."""


class StaleConnectionError(HttpError):
    """A kept connection was closed by the server before it answered anything: the request may be sent again."""


@dataclass(frozen=True, slots=True)
class Response:
    """What came back.

    Attributes:
        status: HTTP status.
        headers: by name in lower case; of a name that occurs twice, the last.
        body: the whole body.
    """

    status: int
    headers: dict[str, str]
    body: bytes


class HttpPool:
    """Connections to one server. It belongs to one event loop.

    Args:
        url: the server's base URL; its path is put before every request's.
        headers: sent with every request.
        connect_timeout: seconds until a connection must stand.
    """

    def __init__(self, url: str, headers: dict[str, str], *, connect_timeout: float) -> None:
        parsed = httpx2.URL(url)
        self._tls = ssl.create_default_context() if parsed.scheme == "https" else None
        self._host = parsed.host
        self._port = parsed.port or (443 if self._tls else 80)
        self._path = parsed.raw_path.decode().rstrip("/")
        authority = parsed.netloc.decode()
        fixed = {"Host": authority, "Accept": "application/json", "Content-Type": "application/json", **headers}
        self._head = "".join(f"{name}: {value}\r\n" for name, value in fixed.items())
        self._connect_timeout = connect_timeout
        self._idle: deque[_Connection] = deque()
        self._open: set[_Connection] = set()
        self._closed = False

    async def post(self, path: str, body: bytes) -> Response:
        """Send a request and wait for the whole answer. Cancelling it closes its connection.

        Raises:
            HttpError: the connection was lost, or the answer is no HTTP.
            OSError: there is no connection to be had.
        """
        head = f"POST {self._path}{path} HTTP/1.1\r\n{self._head}Content-Length: {len(body)}\r\n\r\n"
        message = head.encode("latin-1") + body
        while self._idle:
            connection = self._idle.pop()  # the one used last: others grow old and are closed by the server
            if connection.is_open:
                try:
                    return await self._exchange(connection, message)
                except StaleConnectionError:
                    continue  # RFC 9112, 9.3.1: it was closed while it idled, and the request was never read
        return await self._exchange(await self._connect(), message)

    async def _exchange(self, connection: _Connection, message: bytes) -> Response:
        try:
            response = await connection.request(message)
        except BaseException:
            connection.close()
            raise
        if connection.is_open and len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()
        return response

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self._open.discard), self._host, self._port, ssl=self._tls
                )
        except TimeoutError:
            raise HttpError(f"no connection within {self._connect_timeout:g} s") from None
        if self._closed:  # while this connection was being made
            connection.close()
            raise HttpError("the pool was closed")
        if connection.is_open:
            self._open.add(connection)
        return connection

    async def aclose(self) -> None:
        """Close all connections, for good, and wait until they are; requests in flight fail."""
        self._closed = True
        self._idle.clear()
        closing = list(self._open)
        for connection in closing:
            connection.close()
        await asyncio.gather(*(connection.lost.wait() for connection in closing))


class _Connection(asyncio.Protocol):
    """One connection, and the reader of what comes over it.

    Args:
        on_lost: told when it is closed.

    Attributes:
        is_open: whether a request may be sent.
        lost: set when its socket is closed.
    """

    def __init__(self, on_lost: Callable[[_Connection], None]) -> None:
        self.is_open = False
        self.lost = asyncio.Event()
        self._on_lost = on_lost
        self._answer: asyncio.Future[Response] | None = None
        self._used = False
        self._reader = _Reader()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its type
        self.is_open = True
        with suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        self.lost.set()
        self._on_lost(self)
        answer, self._answer = self._answer, None
        if answer is None or answer.done():
            return
        if (last := self._reader.ended()) is not None:
            answer.set_result(last)
        elif self._used and not self._reader.begun:
            answer.set_exception(StaleConnectionError("the server closed the connection while it idled"))
        else:
            answer.set_exception(HttpError(str(error) if error else "the server closed the connection"))

    def eof_received(self) -> bool:
        return False  # closes the connection, which ends the answer one way or the other

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None or answer.done():
            self.close()  # words that nobody asked for
            return
        try:
            response = self._reader.feed(data)
        except ValueError as error:
            self._answer = None
            answer.set_exception(HttpError(f"what the server answers is no HTTP: {error}"))
            self.close()
            return
        if response is not None:
            self._answer = None
            self._used = True
            if self._reader.closes or self._reader.left:
                self.close()
            self._reader = _Reader()
            answer.set_result(response)

    async def request(self, message: bytes) -> Response:
        if self._transport is None:
            raise RuntimeError("a request before the connection stands")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(message)
        return await self._answer

    def close(self) -> None:
        self.is_open = False
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(HttpError("the connection was closed on this side"))  # not stale: do not send it again
        if self._transport is not None:
            self._transport.abort()


class _Reader:
    """Reads one response (RFC 9112, sections 4 to 7) from pieces of any size.

    Attributes:
        begun: whether anything has come.
        closes: whether the connection ends with this response.
        left: what came behind it.
    """

    def __init__(self) -> None:
        self.begun = False
        self.closes = False
        self.left = b""
        self._buffer = b""
        self._status = 0
        self._headers: dict[str, str] | None = None
        self._length: int | None = None
        self._chunks: _Chunks | None = None

    def feed(self, data: bytes) -> Response | None:
        """Take a piece in; return the response once it is whole.

        Raises:
            ValueError: this is no HTTP response.
        """
        self.begun = True
        self._buffer = self._buffer + data if self._buffer else data
        while self._headers is None:
            head, found, rest = self._buffer.partition(_END_OF_HEAD)
            if len(head) > _MAX_HEAD:
                raise ValueError("its head is too long")
            if not found:
                if not self._buffer.startswith(b"HTTP/1."[: len(self._buffer)]):
                    raise ValueError(f"it begins with {self._buffer[:20]!r}")
                return None
            self._buffer = rest
            self._read_head(head)
        return self._read_body()

    def _read_head(self, head: bytes) -> None:
        line, *fields = head.decode("latin-1").split("\r\n")
        version, _, rest = line.partition(" ")
        status = rest[:3]
        if version not in {"HTTP/1.1", "HTTP/1.0"} or not status.isdecimal() or not status.isascii():
            raise ValueError(f"it begins with {line[:40]!r}")
        if status[0] == "1":  # an interim response; the real one follows
            return
        headers = {}
        for field in fields:
            name, _, value = field.partition(":")
            headers[name.lower()] = value.strip()
        self._status, self._headers = int(status), headers
        connection = headers.get("connection", "").lower()
        self.closes = "close" in connection or (version == "HTTP/1.0" and "keep-alive" not in connection)
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise ValueError("its body is packed, which was not asked for")
        if headers.get("transfer-encoding", "").lower().endswith("chunked"):
            self._chunks = _Chunks()
        elif self._status in {204, 304}:
            self._length = 0
        elif (length := headers.get("content-length")) is not None:
            if not (length.isdecimal() and length.isascii()) or int(length) > _MAX_BODY:
                raise ValueError(f"its length is {length[:20]!r}")
            self._length = int(length)
        else:
            self.closes = True  # the body ends where the connection does

    def _read_body(self) -> Response | None:
        if self._chunks is not None:
            data, self._buffer = self._buffer, b""
            body = self._chunks.feed(data)
            if body is None:
                return None
            self.left = self._chunks.left
            return self._response(body)
        if self._length is None:
            if len(self._buffer) > _MAX_BODY:
                raise ValueError("its body is too long")
            return None
        if len(self._buffer) < self._length:
            return None
        self.left = self._buffer[self._length :]
        return self._response(self._buffer[: self._length])

    def ended(self) -> Response | None:
        """The response, if it is one that ends where the connection does."""
        if self._headers is None or self._length is not None or self._chunks is not None:
            return None
        return self._response(self._buffer)

    def _response(self, body: bytes) -> Response:
        return Response(self._status, self._headers or {}, body)


class _Chunks:
    """Reads a chunked body (RFC 9112, 7.1)."""

    def __init__(self) -> None:
        self.left = b""
        self._buffer = bytearray()
        self._body = bytearray()
        self._wanted: int | None = None  # bytes of the chunk that are still to come, its line end included
        self._trailer = False

    def feed(self, data: bytes) -> bytes | None:
        self._buffer += data
        while True:
            if self._wanted is not None:
                if len(self._buffer) < self._wanted:
                    return None
                self._body += self._buffer[: self._wanted - 2]
                del self._buffer[: self._wanted]
                self._wanted = None
            at = self._buffer.find(b"\r\n")
            if at < 0:
                if len(self._buffer) > _MAX_HEAD:
                    raise ValueError("a line of its chunks is too long")
                return None
            line = bytes(self._buffer[:at])
            del self._buffer[: at + 2]
            if self._trailer:
                if not line:
                    self.left = bytes(self._buffer)
                    return bytes(self._body)
                continue
            digits = line.partition(b";")[0].strip()
            if not digits or not _HEX.issuperset(digits):
                raise ValueError(f"a chunk's length is {digits[:20]!r}")
            size = int(digits, 16)
            if len(self._body) + size > _MAX_BODY:
                raise ValueError("its body is too long")
            self._trailer = size == 0
            self._wanted = size + 2 if size else None
