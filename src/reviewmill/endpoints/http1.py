"""HTTP/1.1 to one server, for the one request that is made a million times: `POST` with a JSON body.

A general client spends more time on a request than a fast engine spends on a comment (docs/pool.md has the numbers).
This one keeps connections open, writes one buffer and reads one message at a time; the parser is llhttp, by httptools.
Everything else (proxies, redirects, HTTP/2) is for the general client.
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

import httptools
import httpx2

_MAX_HEAD: Final = 65_536
_MAX_BODY: Final = 64 * 1024 * 1024
_MAX_IDLE: Final = 1024


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
            if self._reader.closes:
                self.close()
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
    """Reads the responses of a connection, one after the other, from pieces of any size.

    Attributes:
        begun: whether anything of the next response has come.
        closes: whether the connection ends with the last response, or something came behind it.
    """

    def __init__(self) -> None:
        self.begun = False
        self.closes = False
        # The parser calls the `on_…` methods.
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._in_body = False
        self._body: list[bytes] = []
        self._read = 0
        self._found: Response | None = None
        self._refused = ""

    def feed(self, data: bytes) -> Response | None:
        """Take a piece in; return the response once it is whole.

        Raises:
            ValueError: this is no HTTP response.
        """
        self.begun = True
        self._read += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._found is None:
                raise ValueError(self._refused or f"{error} at {data[:20]!r}") from error
            self.closes = True  # the response is whole, and what came behind it is none
        if self._found is None and self._read > (_MAX_BODY if self._in_body else _MAX_HEAD):
            raise ValueError("it is too long")
        found, self._found = self._found, None
        if found is not None:
            self.begun, self._read = False, 0
        return found

    def ended(self) -> Response | None:
        """The response, if it is one that ends where the connection does."""
        delimited = {"content-length", "transfer-encoding"} & self._headers.keys()
        return self._response() if self._in_body and not delimited else None

    def _response(self) -> Response:
        return Response(self._parser.get_status_code(), self._headers, b"".join(self._body))

    def on_message_begin(self) -> None:
        if self._found is not None:
            self._refuse("another one follows unasked")
        self._headers, self._in_body, self._body = {}, False, []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1").strip()

    def on_headers_complete(self) -> None:
        self._in_body = True
        if self._headers.get("content-encoding", "identity").lower() != "identity":
            self._refuse("its body is packed, which was not asked for")
        if int(self._headers.get("content-length", "0")) > _MAX_BODY:
            self._refuse("its body is too long")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        if self._parser.get_status_code() < 200:  # an interim response; the real one follows
            return
        self.closes = not self._parser.should_keep_alive()
        self._found = self._response()

    def _refuse(self, reason: str) -> None:
        self._refused = reason
        raise ValueError(reason)
