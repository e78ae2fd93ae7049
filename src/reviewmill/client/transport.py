"""One service over HTTP: requests, the one layer that tries them again, and errors that say what was wrong.

What was lost on the way is asked again where that is safe. `Retry-After` is obeyed, unless it is longer than anybody
would wait.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

import httpx2
import stamina
from pydantic import TypeAdapter, ValidationError

from reviewmill._version import __version__
from reviewmill.client.records import PAGE
from reviewmill.errors import ServiceError, ServiceUnreachableError, SettingsError
from reviewmill.outbound import checked_key, retry_after_seconds, way_to

T = TypeVar("T")

PROBLEM_PREFIX: Final = "urn:reviewmill:problem:"

_ATTEMPTS: Final = 4
_CONNECT_S: Final = 10.0
LONGEST_PAUSE_S: Final = 15.0
_LEAST_PAUSE_S: Final = 0.5
_BUSY: Final = frozenset({429, 503})
_GATEWAY: Final = frozenset({502, 504})
_LONE: Final = re.compile("[\ud800-\udfff]")

# stamina logs each retry as a warning; without a handler Python would print its bare name.
logging.getLogger("stamina").addHandler(logging.NullHandler())

NO_PROBLEM: Final = "no-problem-document"
"""The type of a refusal that came without a problem document, so from something in front of the service."""

TIMED_OUT: Final = "timeout"

_HINTS: Final[dict[int, str]] = {
    401: "It wants a key: `Client(url, api_key=…)`.",
    404: "Is that the address of a reviewmill service?",
}


class Transport:
    """Requests to one service.

    Args:
        base_url: the service's address.
        api_key: its key; None where it wants none.
        timeout: seconds that one request may take.

    Raises:
        SettingsError: the address is not one, or the key cannot stand in an HTTP header.
    """

    def __init__(self, base_url: str, api_key: str | None, timeout: float) -> None:
        self.base_url = _service_url(base_url)
        self.timeout = timeout
        self._api_key = checked_key(api_key)
        self._held: httpx2.AsyncClient | None = None

    async def aclose(self) -> None:
        """Close the connections; new ones are opened by the next request."""
        held, self._held = self._held, None
        if held is not None:
            await held.aclose()

    def _http(self) -> httpx2.AsyncClient:
        if self._held is None:
            headers = {"User-Agent": f"reviewmill/{__version__}"}
            if self._api_key:
                headers["Authorization"] = f"Bearer {self._api_key}"
            self._held = httpx2.AsyncClient(
                headers=headers,
                # Requests are timed as a whole (`asyncio.timeout`); what is streamed, by its silence.
                timeout=httpx2.Timeout(None, connect=min(_CONNECT_S, self.timeout)),
                # One connection a request in flight; the default pool of 100 would queue without saying so.
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
                **way_to(self.base_url),
            )
        return self._held

    async def request(
        self,
        method: str,
        path: str,
        *,
        safe: bool = True,
        seconds: float | None = None,
        silence: float | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json_body: Mapping[str, Any] | None = None,
        body: Callable[[], AsyncIterator[bytes]] | None = None,
    ) -> httpx2.Response:
        """Send a request and read the whole answer.

        Args:
            method: GET, POST or DELETE.
            path: below the service's address.
            safe: whether it may be sent again.
            seconds: how long it may take; None: `timeout`.
            silence: instead of that, how long nothing may move.
            params: the query.
            headers: beside those of every request.
            json_body: a body in JSON.
            body: makes a body, anew for each attempt.
        """
        content: Any = None
        sent = dict(headers or {})
        if json_body is not None:
            content, sent["Content-Type"] = _json_bytes(json_body), "application/json"
        whole = None if silence else seconds or self.timeout
        timeout = httpx2.Timeout(silence, connect=min(_CONNECT_S, self.timeout))

        async def once() -> httpx2.Response:
            with_body = body() if body else content
            try:
                async with asyncio.timeout(whole):
                    response = await self._http().request(
                        method, self.base_url + path, params=params, headers=sent, content=with_body, timeout=timeout
                    )
            except (TimeoutError, httpx2.RequestError) as error:
                raise self._unreachable(error, whole or silence) from error
            if not response.is_success:
                raise self._refused(response)
            return response

        return await self.with_retries(once, safe=safe, patience=whole)

    async def with_retries(
        self, once: Callable[[], Awaitable[T]], *, safe: bool = True, patience: float | None = None
    ) -> T:
        """Do something once, and again for as long as `Retries` says so, if that is `safe`."""
        retries = Retries(_ATTEMPTS, patience or self.timeout) if safe else _never
        async for attempt in stamina.retry_context(
            on=retries, attempts=None, timeout=None, wait_initial=_LEAST_PAUSE_S, wait_max=LONGEST_PAUSE_S
        ):
            with attempt:
                return await once()
        raise AssertionError("unreachable: the retry loop returns or raises")

    @asynccontextmanager
    async def stream(
        self, path: str, headers: Mapping[str, str], *, silence: float, params: Mapping[str, str] | None = None
    ) -> AsyncGenerator[httpx2.Response, None]:
        """Send a request that reads, once, and hand over the answer before its body is there."""
        timeout = httpx2.Timeout(silence, connect=min(_CONNECT_S, self.timeout))
        address = self.base_url + path
        try:
            async with self._http().stream("GET", address, params=params, headers=headers, timeout=timeout) as response:
                if not response.is_success:
                    await response.aread()
                    raise self._refused(response)
                yield response
        except httpx2.RequestError as error:
            raise self._unreachable(error, silence) from error

    async def pages(self, path: str, **params: Any) -> AsyncGenerator[Any, None]:
        """The rows of a list that comes in pages; a page is fetched when it is needed."""
        while True:
            response = await self.request("GET", path, params=params)
            page = self.read(response, PAGE)
            for row in page["items"]:
                yield row
            if page["next_cursor"] is None:
                return
            params["cursor"] = page["next_cursor"]

    # --- answers ---

    def read(self, response: httpx2.Response, form: TypeAdapter[T]) -> T:
        """An answer's body in the form that it should have.

        Raises:
            ServiceError: it has another.
        """
        try:
            return form.validate_json(response.content)
        except ValidationError as error:
            raise self.unreadable(response, _faults(error)) from None

    def checked(self, form: TypeAdapter[T], value: Any) -> T:
        """A part of an answer in the form that it should have.

        Raises:
            ServiceError: it has another.
        """
        try:
            return form.validate_python(value)
        except ValidationError as error:
            raise self._odd(_faults(error)) from None

    def unreadable(self, response: httpx2.Response, why: str) -> ServiceError:
        """The error for an answer that makes no sense."""
        return self._odd(why, status=response.status_code, request_id=response.headers.get("x-request-id"))

    def _odd(self, why: str, *, status: int | None = None, request_id: str | None = None) -> ServiceError:
        return ServiceError(
            f"{self.base_url} answered something that this client does not understand: {self._without_key(why)}",
            hint="Is that the address of a reviewmill service, and of the same version?",
            status=status,
            type="unreadable",
            title="The answer cannot be read",
            request_id=request_id,
        )

    def _refused(self, response: httpx2.Response) -> ServiceError:
        """The problem document that came, or what came instead of one, as an error."""
        status, headers = response.status_code, response.headers
        problem = _problem(response)
        phrase = response.reason_phrase or f"Status {status}"
        detail = self._without_key(str((problem or {}).get("detail") or f"{phrase}."))
        hint = (problem or {}).get("hint") or _HINTS.get(status)
        if response.has_redirect_location:
            hint = "It redirects; give the address that it redirects to."
        return ServiceError(
            f"{self.base_url} refused the request ({status}): {detail}",
            hint=self._without_key(str(hint)) if hint else None,
            status=status,
            type=str((problem or {}).get("type", NO_PROBLEM)).removeprefix(PROBLEM_PREFIX),
            title=str((problem or {}).get("title") or phrase),
            detail=detail,
            errors=(problem or {}).get("errors") or (),
            retry_after=retry_after_seconds(headers.get("retry-after", "")),
            request_id=(problem or {}).get("request_id") or headers.get("x-request-id"),
        )

    def _unreachable(self, error: Exception, seconds: float | None) -> ServiceUnreachableError:
        slow = isinstance(error, TimeoutError | httpx2.ReadTimeout | httpx2.WriteTimeout)
        if slow:
            return ServiceUnreachableError(
                f"{self.base_url} did not answer within {seconds:g} s.",
                hint="Raise `timeout`, send less at once, or look at the service's load.",
                type=TIMED_OUT,
                title="The service did not answer in time",
            )
        why = self._without_key(str(error) or type(error).__name__)
        return ServiceUnreachableError(
            f"{self.base_url} cannot be reached: {why}.",
            hint="Is the service running (`reviewmill serve`), and is that its address?",
            type="unreachable",
            title="The service cannot be reached",
        )

    def _without_key(self, said: str) -> str:
        """Some proxies repeat the key that they refuse."""
        return said.replace(self._api_key, "***") if self._api_key else said


class Retries:
    """Decides, for one request, whether to try again, and after how long.

    What was lost on the way is tried again a few times. A service that says when to come again is believed, for as
    long as all waiting together is no longer than the patience.
    """

    def __init__(self, attempts: int, patience: float) -> None:
        self._left = attempts - 1
        self._patience = patience

    def __call__(self, error: Exception) -> bool | float:
        """Whether to try again after this error; a number: after so many seconds."""
        if not isinstance(error, ServiceError):
            return False
        if error.status in _BUSY and error.retry_after is not None:
            pause = max(error.retry_after, _LEAST_PAUSE_S)
            self._patience -= pause
            return pause if self._patience >= 0 else False
        # The service itself has asked the model again and again; a gateway in front of it has not.
        lost = isinstance(error, ServiceUnreachableError) and error.type != TIMED_OUT
        passing = error.status in _BUSY or (error.status in _GATEWAY and error.type == NO_PROBLEM)
        self._left -= 1
        return (lost or passing) and self._left >= 0


def _never(error: Exception) -> bool:
    return False


def _service_url(url: str) -> str:
    """The address without what is added to it."""
    trimmed = url.strip().rstrip("/").removesuffix("/v1").rstrip("/")
    try:
        parsed = httpx2.URL(trimmed)
    except httpx2.InvalidURL:
        parsed = httpx2.URL("")
    if parsed.userinfo or parsed.query or parsed.fragment:
        # Not shown: it may hold a password.
        raise SettingsError(
            f"The service's address on {parsed.host!r} holds a user, a query or a fragment.",
            hint="Write it like http://127.0.0.1:8080, and a key as `api_key`.",
        )
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise SettingsError(f"{url!r} is not the address of a service.", hint="Write it like http://127.0.0.1:8080.")
    return trimmed


def _json_bytes(body: Mapping[str, Any]) -> bytes:
    return sendable(json.dumps(body, ensure_ascii=False)).encode()


def sendable(text: str) -> str:
    """The text without halves of surrogate pairs, which no UTF-8 and so no service can hold; it stays as long."""
    return _LONE.sub("\ufffd", text)


def _problem(response: httpx2.Response) -> dict[str, Any] | None:
    """The problem document (RFC 9457), if the answer is one."""
    if response.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/problem+json":
        return None
    try:
        problem = json.loads(response.content)
    except ValueError:
        return None
    return problem if isinstance(problem, dict) else None


def _faults(error: ValidationError) -> str:
    """What is wrong in an answer, without its content, which may be a comment."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])
