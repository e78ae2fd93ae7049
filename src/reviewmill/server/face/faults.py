"""Errors in OpenAI's shape, so that the `openai` package raises the class that its users expect.

Source: OpenAI, "API reference: error codes", https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from reviewmill.errors import ChatError, ReviewmillError
from reviewmill.schema import ErrorInfo
from reviewmill.server.face.chat import error_body, json_bytes
from reviewmill.server.face.presence import ClientLeftError
from reviewmill.server.problems import RETRY_AFTER_S, Problem, as_problem, bad_request, faults

_TYPES: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_TOO_LONG: Final = frozenset({"comment_too_long", "context_overflow"})
_STATUS: Final = {"endpoint_timeout": 504, "endpoint_unreachable": 503, "endpoint_error": 503}
_PASSED_ON: Final = frozenset({400, 404, 413, 422, 429})
_MESSAGE_CHARS: Final = 2_000
_CLIENT_LEFT: Final = 499
"""What nginx calls a client that closed the connection; nobody but the log sees it."""


class OpenAIRoute(APIRoute):
    """A route whose errors have OpenAI's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except (Problem, ReviewmillError, RequestValidationError) as error:
                return error_response(error)
            except ClientLeftError:
                return Response(status_code=_CLIENT_LEFT)

        return handled


def error_response(error: Exception) -> Response:
    """The answer that tells of one of our own errors."""
    status, body, headers = told(error)
    return Response(json_bytes(body), status, headers, "application/json")


def told(error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Status, body and further headers that tell of one of our own errors."""
    if isinstance(error, ChatError):
        status = 404 if error.code == "model_not_found" else 400
        return status, error_body(_said(error.message, error.hint), _type(status), error.param, error.code), {}
    if isinstance(error, ReviewmillError):
        problem = as_problem(error)
    elif isinstance(error, RequestValidationError):
        problem = bad_request(faults(error.errors()))
    elif isinstance(error, Problem):
        problem = error
    else:
        raise error
    kind = "insufficient_quota" if problem.type == "quota-exceeded" else _type(problem.status)
    message = _said(problem.detail, problem.hint)
    return problem.status, error_body(message, kind, code=problem.type.replace("-", "_")), problem.headers


def _type(status: int) -> str:
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")


def _said(message: str, hint: str | None) -> str:
    return f"{message} {hint}" if hint else message


def failed(error: ErrorInfo) -> Exception:
    """What to raise where the only comment of a request failed."""
    kind = error["type"]
    if kind in _TOO_LONG:
        return ChatError(error["message"], param="messages", code=kind)
    status = _STATUS.get(kind, 502)
    return Problem(
        status,
        kind.replace("_", "-"),
        "The model's endpoint gave no usable answer",
        error["message"],
        retry_after=RETRY_AFTER_S if status == 503 else None,
    )


def told_by_server(status: int, content: bytes) -> tuple[int, dict[str, Any]]:
    """Status and body that tell of an error of the model's server, in its own words as far as they can be found."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        said = None
    said = said if isinstance(said, dict) else {}
    error = said["error"] if isinstance(said.get("error"), dict) else said
    words = [error.get("message"), error.get("detail"), said.get("error")]
    message = next((word for word in words if isinstance(word, str) and word), f"The model's server said {status}.")
    status = status if status in _PASSED_ON else 503 if status == 503 else 502
    kind, param, code = (error.get(name) for name in ("type", "param", "code"))
    return status, error_body(
        message[:_MESSAGE_CHARS],
        kind if isinstance(kind, str) else _type(status),
        param=param if isinstance(param, str) else None,
        code=str(code) if isinstance(code, str | int) else None,
    )
