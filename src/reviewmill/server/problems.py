"""Errors as problem documents (RFC 9457): every answer that is not a success has this form.

A problem says what was wrong and what to do. It never quotes what was sent, nor what is nobody's business outside
(paths, hosts, queries): that is in the log, under the same request id.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypedDict

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from reviewmill.errors import (
    AnswerError,
    BusyError,
    CursorError,
    EndpointError,
    EndpointTimeoutError,
    IdempotencyConflictError,
    InputError,
    ReviewmillError,
    StoreUnavailableError,
    TaskError,
)

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:reviewmill:problem:"
RETRY_AFTER_S: Final = 5

request_id: Final[ContextVar[str]] = ContextVar("request_id", default="-")
"""The id of the request that is being answered; "-" outside of one."""

log = logging.getLogger("reviewmill.server")


class Fault(TypedDict):
    """One thing that is wrong in a request: where, and what."""

    where: str
    detail: str


class Problem(Exception):  # noqa: N818 -- the RFC's word
    """An answer that is not a success.

    Args:
        status: HTTP status.
        type: short name of the kind of problem; programs may rely on it.
        title: the kind of problem in words, the same each time.
        detail: what was wrong this time.
        hint: what to do about it.
        headers: further headers of the answer.
        errors: the faults in the request, one by one.
        retry_after: seconds after which it makes sense to try again.
    """

    def __init__(
        self,
        status: int,
        type: str,  # noqa: A002 -- the RFC's word
        title: str,
        detail: str,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        errors: Sequence[Fault] = (),
        retry_after: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.type = type
        self.title = title
        self.detail = detail
        self.hint = hint
        self.errors = errors
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)

    def document(self) -> bytes:
        """The problem as JSON."""
        members: dict[str, Any] = {
            "type": TYPE_PREFIX + self.type,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "hint": self.hint,
            "errors": list(self.errors),
            "request_id": request_id.get(),
        }
        # ASCII only: what a detail quotes may hold what UTF-8 cannot.
        return json.dumps({name: value for name, value in members.items() if value or name == "detail"}).encode()

    def response(self) -> Response:
        """The answer."""
        return Response(self.document(), self.status, self.headers, MEDIA_TYPE)


def invalid(where: str, detail: str, *, hint: str | None = None) -> Problem:
    """The request is well-formed, and one of its values is not what it may be."""
    return Problem(
        422,
        "invalid-request",
        "The request is not valid",
        f"{where}: {detail}",
        hint,
        errors=[Fault(where=where, detail=detail)],
    )


def not_found(what: str) -> Problem:
    """What the request names does not exist, or is not the caller's."""
    return Problem(404, "not-found", "There is no such thing", f"There is no {what}.")


def faults(errors: Sequence[Any]) -> list[Fault]:
    """Pydantic's errors, without the values that were sent."""
    found = [
        Fault(where=_where(error["loc"]), detail=str(error["msg"]).removeprefix("Value error, ")) for error in errors
    ]
    return found[:20]


def _where(loc: Sequence[int | str]) -> str:
    """The path to a value, without pydantic's names for the branches of a union, and never longer than people read."""
    parts = [
        str(part) for part in loc if part not in _BRANCHES and not str(part).startswith(("constrained-", "function-"))
    ]
    return ".".join(parts)[:200] or "body"


_BRANCHES: Final = ("one", "many", "constrained-", "function-")


def bad_request(found: Sequence[Fault]) -> Problem:
    """The request has these faults."""
    first = found[0] if found else Fault(where="request", detail="it cannot be read")
    return Problem(
        422, "invalid-request", "The request is not valid", f"{first['where']}: {first['detail']}", errors=found
    )


def as_problem(error: ReviewmillError) -> Problem:
    """What the caller is told of one of our own errors."""
    if isinstance(error, BusyError):
        return Problem(429, "busy", "The service is busy", error.message, error.hint, retry_after=error.retry_after)
    if isinstance(error, CursorError | TaskError | InputError | IdempotencyConflictError):
        kind = "idempotency-conflict" if isinstance(error, IdempotencyConflictError) else "invalid-request"
        return Problem(422, kind, "The request is not valid", error.message, error.hint)
    if isinstance(error, EndpointError):
        return _endpoint_problem(error)
    log.error("%s", error.message, extra={"hint": error.hint})
    if isinstance(error, StoreUnavailableError):
        return Problem(
            503,
            "store-unavailable",
            "The service's database cannot be used now",
            "The database cannot be reached or cannot work at the moment; nothing was changed.",
            "Try again in a moment.",
            retry_after=RETRY_AFTER_S,
        )
    return Problem(
        503,
        "unavailable",
        "The service cannot do this now",
        f"Something that the service needs has failed ({type(error).__name__}).",
        "The service's log says more, under the same request id.",
        retry_after=RETRY_AFTER_S,
    )


def _endpoint_problem(error: EndpointError) -> Problem:
    status = 504 if isinstance(error, EndpointTimeoutError) else 502 if isinstance(error, AnswerError) else 503
    return Problem(
        status,
        error.type.replace("_", "-"),
        "The model's endpoint gave no usable answer",
        error.message,
        error.hint,
        retry_after=RETRY_AFTER_S if status == 503 else None,
    )


def unexpected() -> Problem:
    """An error that nobody expected; what it was is in the log only."""
    return Problem(
        500,
        "unexpected",
        "The service made a mistake",
        "An error happened that should not. It is in the service's log, under the same request id.",
    )


_PLAIN: Final[dict[int, tuple[str, str]]] = {
    400: ("malformed", "The request cannot be read."),
    404: ("not-found", "There is nothing at this address."),
    405: ("method-not-allowed", "This address does not answer that method."),
}
_KINDS: Final = {408: "body-too-slow", 413: "body-too-large"}


def from_http(error: HTTPException) -> Problem:
    """What the caller is told of an error in Starlette's own form."""
    kind, detail = _PLAIN.get(
        error.status_code, (_KINDS.get(error.status_code, f"http-{error.status_code}"), str(error.detail))
    )
    title = HTTPStatus(error.status_code).phrase
    return Problem(error.status_code, kind, title, detail, headers=error.headers)


def install(app: FastAPI) -> None:
    """Let every exception that a route raises become a problem document."""

    async def ours(_request: Request, error: Exception) -> Response:
        return (as_problem(error) if isinstance(error, ReviewmillError) else unexpected()).response()

    async def problem(_request: Request, error: Exception) -> Response:
        return (error if isinstance(error, Problem) else unexpected()).response()

    async def invalid_request(_request: Request, error: Exception) -> Response:
        found = faults(error.errors()) if isinstance(error, RequestValidationError) else []
        return bad_request(found).response()

    async def http(_request: Request, error: Exception) -> Response:
        return (from_http(error) if isinstance(error, HTTPException) else unexpected()).response()

    app.add_exception_handler(ReviewmillError, ours)
    app.add_exception_handler(Problem, problem)
    app.add_exception_handler(RequestValidationError, invalid_request)
    app.add_exception_handler(HTTPException, http)
