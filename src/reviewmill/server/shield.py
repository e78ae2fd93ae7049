"""What stands before all routes, as one pure ASGI middleware: request ids, limits, metrics, the access log.

It also answers what went wrong beyond the routes' own error handling, so that every error is a problem document.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response

from reviewmill.server.logs import Access
from reviewmill.server.problems import Problem, from_http, request_id, unexpected

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from reviewmill.server.state import Service
    from reviewmill.settings import ServiceSettings

log = logging.getLogger("reviewmill.server")

_ATTACHING: Final = "/v1/chat/files/process"
UPLOADS: Final = frozenset({("POST", "/v1/jobs"), ("PUT", _ATTACHING)})
"""What may have a large body, and take long to send it."""

UNMATCHED: Final = "unmatched"
_SANE_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_MULTIPART_BYTES: Final = 100_000  # what the form around an uploaded file may need
_DRAIN_S: Final = 2.0
_DRAIN_FACTOR: Final = 8
_LOOPBACK_NAMES: Final = frozenset({b"localhost", b"127.0.0.1", b"[::1]", b"::1"})


class Shield:
    """The middleware.

    Args:
        app: what is behind it.
        settings: the limits.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        exchange = _Exchange(scope, headers, receive, send, self._settings)
        token = request_id.set(exchange.id)
        service: Service = scope["app"].state.service
        service.metrics.in_flight.inc()
        try:
            await self._answer(exchange, scope, headers)
        finally:
            request_id.reset(token)
            service.metrics.in_flight.dec()
            self._record(service, scope, exchange)

    async def _answer(self, exchange: _Exchange, scope: Scope, headers: dict[bytes, bytes]) -> None:
        try:
            if self._settings.no_auth:
                _check_local(scope, headers, self._settings.cors_origins)
            await exchange.check_length()
            await self._app(scope, exchange.receive, exchange.send)
        except Problem as problem:
            await exchange.refuse(problem)
        except HTTPException as error:
            await exchange.refuse(from_http(error))
        except ClientDisconnect:
            exchange.status = 499
        except Exception:
            log.exception("An error that nobody expected.")
            await exchange.refuse(unexpected())

    def _record(self, service: Service, scope: Scope, exchange: _Exchange) -> None:
        route = getattr(scope.get("route"), "path", UNMATCHED)
        seconds = (exchange.answered or time.perf_counter()) - exchange.began
        service.metrics.answered(scope["method"], route, exchange.status, seconds)
        client = scope.get("client")
        service.access_log.note(
            Access(
                time.time(),
                exchange.id,
                client[0] if client else "",
                scope.get("caller"),
                scope["method"],
                scope["path"],
                exchange.status,
                seconds,
            )
        )


class _Exchange:
    """One request and its answer, as they pass through."""

    __slots__ = (
        "_deadline", "_more", "_receive", "_received", "_send", "announced", "answered", "began", "expects", "id",
        "most_bytes", "plain", "status",
    )  # fmt: skip

    def __init__(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send, settings: ServiceSettings
    ) -> None:
        self._receive = receive
        self._send = send
        self.began = time.perf_counter()
        self.answered: float | None = None
        self.status = 500
        self.plain = scope["path"] == _ATTACHING  # its answers are shown to people as they are
        given = headers.get(b"x-request-id", b"")
        self.id = given.decode("ascii") if _SANE_ID.fullmatch(given) else secrets.token_hex(8)
        self.expects = b"expect" in headers
        self._received = 0
        length = headers.get(b"content-length")
        self.announced = int(length) if length and length.isdigit() else 0
        self._more = bool(self.announced) or b"transfer-encoding" in headers
        if (scope["method"], scope["path"]) in UPLOADS:
            self.most_bytes = settings.max_upload_bytes + _MULTIPART_BYTES
            self._deadline = settings.upload_timeout_s
        else:
            self.most_bytes = settings.max_body_bytes
            self._deadline = settings.body_timeout_s

    async def check_length(self) -> None:
        """Refuse a body that says itself that it is too large, before it is read."""
        if self.announced > self.most_bytes:
            await self._drain()
            raise self._too_large()

    def _too_large(self) -> HTTPException:
        # Not a Problem: what reads bodies turns all but this kind of exception into "cannot be parsed".
        return HTTPException(413, f"The body has more than {self.most_bytes:,} bytes.", {"Connection": "close"})

    async def receive(self) -> Message:
        """The next part of the body, within the limits; after it, what the connection says."""
        if not self._more:
            return await self._receive()
        try:
            async with asyncio.timeout(self.began + self._deadline - time.perf_counter()):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(
                408, f"The body was not complete after {self._deadline:g} s.", {"Connection": "close"}
            ) from None
        self._received += len(message.get("body", b""))
        self._more = message.get("more_body", False)
        if self._received > self.most_bytes:
            raise self._too_large()
        return message

    async def send(self, message: Message) -> None:
        """Pass the answer on, with the request's id."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.answered = time.perf_counter()
            message["headers"] = [
                *message.get("headers", ()),
                (b"x-request-id", self.id.encode("ascii")),
                (b"x-content-type-options", b"nosniff"),
            ]
        await self._send(message)

    async def _drain(self) -> None:
        """Read on for a moment: a client that still sends would not see the answer of a connection that is closed."""
        left = self.most_bytes * _DRAIN_FACTOR
        if self.expects or self.announced > left:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while self._more and left > 0:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    self._more = message.get("more_body", False)

    async def refuse(self, problem: Problem) -> None:
        """Answer with a problem, unless an answer has begun: then its end stays missing, and the server cuts it."""
        if self.answered is not None:
            return
        if self._more:
            problem.headers["Connection"] = "close"
        if self.plain and problem.status == 413:
            response: Response = PlainTextResponse(f"{problem.detail}\n文件太大，没有收下。", 413, problem.headers)
        else:
            response = problem.response()
        await self.send({"type": "http.response.start", "status": problem.status, "headers": response.raw_headers})
        await self.send({"type": "http.response.body", "body": response.body})


def _check_local(scope: Scope, headers: dict[bytes, bytes], origins: list[str]) -> None:
    """Without keys, only this machine's own programs may ask: neither other hosts, nor web pages in its browser.

    A page can have its own name point to 127.0.0.1 (DNS rebinding): then the Host header tells. And it can send some
    requests to other addresses without being let read the answer: then the Origin header tells.
    """
    client = scope.get("client")
    if client is None or not is_loopback(client[0]):
        raise Problem(
            403, "not-local", "Only this machine may ask", "Without keys, requests of other machines are not answered."
        )
    if not _is_local_authority(headers.get(b"host", b"")):
        raise Problem(
            421,
            "host-not-local",
            "The request was meant for another host",
            "Without keys, the Host header must name this machine (localhost, 127.0.0.1 or [::1]).",
        )
    origin = headers.get(b"origin")
    if origin is None or origin.decode("latin-1") in origins:
        return
    if not _is_local_authority(urlsplit(origin).netloc):
        raise Problem(
            403,
            "origin-not-allowed",
            "Web pages of other origins may not ask",
            "The request comes from a web page of another origin.",
            "Name the origin in `cors_origins` of the service's settings.",
        )


def _is_local_authority(authority: bytes) -> bool:
    """Whether `HOST` or `HOST:PORT` names this machine."""
    host, colon, port = authority.rpartition(b":")
    if not colon or not port.isdigit():
        host = authority
    return host.lower() in _LOOPBACK_NAMES


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own, and no other can reach it."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
