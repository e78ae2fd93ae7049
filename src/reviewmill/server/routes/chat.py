"""`POST /v1/chat/completions`: each task as a model that answers comments, and the raw model under its own name."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request, Response

from reviewmill.endpoints.connection import EMBEDDED
from reviewmill.errors import AnswerError, ChatError, EndpointError, ReviewmillError
from reviewmill.server.access import LOCAL, Analyst, Caller, spend
from reviewmill.server.face.chat import (
    DONE,
    WAITING,
    ChatRequest,
    Envelope,
    Form,
    answer_text,
    check_form,
    event,
    json_bytes,
    read_request,
    wanted_form,
)
from reviewmill.server.face.faults import OpenAIRoute, told, told_by_server
from reviewmill.server.face.messages import background_answer, comments_in, earlier_user_texts, last_user_text
from reviewmill.server.face.presence import Events, Flow, await_present, end
from reviewmill.server.face.sources import read_sources
from reviewmill.server.problems import Problem
from reviewmill.server.routes.models import PREFIX
from reviewmill.server.state import Service, service_of
from reviewmill.server.talk.conversation import Conversation
from reviewmill.server.talk.failures import said_to
from reviewmill.server.talk.speaker import Speaker, speaker_of
from reviewmill.server.talk.typed import Typed

if TYPE_CHECKING:
    from reviewmill.endpoints.client import Forwarded
    from reviewmill.tasks import Task

_PATIENCE_S: Final = 2.0
"""A stream begins after so many seconds at the latest; what fails before has an HTTP status of its own."""

_WAITING_EVERY_S: Final = 10.0
_PLAIN_URL: Final = re.compile(r"https?://[A-Za-z0-9.:\[\]/_~%-]+")
_MAX_ANSWER_BYTES: Final = 16_000_000

log = logging.getLogger("reviewmill.server")

router = APIRouter(route_class=OpenAIRoute, tags=["OpenAI-compatible"])


_EXAMPLE: Final[dict[str, Any]] = {
    "model": "reviewmill-sentiment",
    "messages": [{"role": "user", "content": "这个手机拍照太差了，根本不像宣传那样清晰。"}],
    "response_format": {"type": "json_object"},
}
_PART: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
}
_MESSAGE: Final[dict[str, Any]] = {
    "anyOf": [
        {
            "type": "object",
            "required": ["role", "content"],
            "properties": {
                "role": {"const": "user"},
                "content": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": _PART}]},
            },
        },
        {
            "type": "object",
            "required": ["role"],
            "properties": {"role": {"enum": ["system", "developer", "assistant", "tool", "function"]}},
        },
    ]
}
_SCHEMA_OF_ANSWER: Final[dict[str, Any]] = {
    "type": "object",
    "description": "whose fields must be those of the answer: the task's name, or `results` for several comments, ...",
    "properties": {
        "type": {"const": "object"},
        "properties": {"type": "object"},
        "required": {"type": "array", "items": {"enum": ["confidence", "keywords", "original_text"]}},
    },
}
_BODY: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["model", "messages"],
    "description": "As OpenAI's; what makes no difference here (temperature, ...) is not looked at.",
    "properties": {
        "model": {"type": "string", "minLength": 1, "description": "`reviewmill-<task>`, or the raw model's own name"},
        "messages": {
            "type": "array",
            "minItems": 1,
            "description": "the last one of the user counts: one comment, or one a line (several, if fenced)",
            "items": _MESSAGE,
            "contains": {"properties": {"role": {"const": "user"}}},
        },
        "stream": {"type": ["boolean", "null"], "description": "whether to answer with server-sent events"},
        "stream_options": {"type": ["object", "null"], "properties": {"include_usage": {"type": ["boolean", "null"]}}},
        "n": {"enum": [1, None], "description": "there is one answer"},
        "tool_choice": {"enum": ["none", "auto", None], "description": "no tools are called"},
        "function_call": {"enum": ["none", "auto", None], "description": "likewise"},
        "modalities": {"enum": [["text"], None]},
        "response_format": {
            "description": "`json_object` or `json_schema` for JSON: {sentiment, confidence, keywords, original_text}, "
            "for several comments {results: […]}; else Markdown",
            "anyOf": [
                {"type": "null"},
                {"type": "object", "required": ["type"], "properties": {"type": {"enum": ["text", "json_object"]}}},
                {
                    "type": "object",
                    "required": ["type", "json_schema"],
                    "properties": {
                        "type": {"const": "json_schema"},
                        "json_schema": {
                            "type": "object",
                            "required": ["name", "schema"],
                            "properties": {"name": {"type": "string"}, "schema": _SCHEMA_OF_ANSWER},
                        },
                    },
                },
            ],
        },
    },
}
_ERROR: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The answer, whole or as events.",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {"schema": {"type": "object", "properties": {"data": {"type": "string"}}}},
        },
    },
    "default": {
        "description": "An error in OpenAI's shape; a problem document where the request did not come as far as here.",
        "content": {
            "application/json": {"schema": _ERROR},
            "application/problem+json": {"schema": {"type": "object"}},
        },
    },
}


@router.post(
    "/v1/chat/completions",
    summary="Analyse comments, or ask the raw model, as OpenAI's API",
    response_class=Response,
    responses=_RESPONSES,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _BODY, "example": _EXAMPLE}},
        }
    },
)
async def chat_completions(request: Request, caller: Analyst) -> Response:
    """Answer like OpenAI's chat completions.

    The model `reviewmill-<task>` analyses the last user message: one comment, or one comment a line. Any other model
    must be the raw model's own name; then the request goes to it as it is.
    """
    service = service_of(request)
    wanted = read_request(await request.body())
    task = service.room.tasks().get(wanted.model.removeprefix(PREFIX))
    if task is not None and wanted.model.startswith(PREFIX):
        return await _answered(service, caller, request, wanted, task)
    if wanted.model == await _raw_model(service):
        return await _forwarded(service, caller, request, wanted)
    raise ChatError(
        f"There is no model {wanted.model[:100]!a}.",
        param="model",
        code="model_not_found",
        hint="GET /v1/models lists what there is.",
    )


# --- comments ---------------------------------------------------------------------------------------------------------


async def _answered(service: Service, caller: Caller, request: Request, wanted: ChatRequest, task: Task) -> Response:
    form = wanted_form(wanted.body, task)
    text = last_user_text(wanted.body.get("messages"))
    aside = background_answer(text)
    envelope = Envelope(f"chatcmpl-{secrets.token_hex(12)}", int(time.time()), wanted.model)
    speaker = speaker_of(request.headers, caller)
    if aside is not None:
        pieces = _at_once(aside)
    elif form == "markdown":
        base = _base_url(service, request)
        talk = Conversation(service, caller, speaker, task, base, live=wanted.stream)
        pieces = talk.answer(read_sources(text), earlier_user_texts(wanted.body["messages"]))
    else:
        pieces = _as_json(service, caller, speaker, task, form, read_sources(text).text)
    flow = Flow(pieces)
    try:
        if not wanted.stream:
            await await_present(request, flow.work)
            return Response(json_bytes(envelope.whole(await flow.whole())), media_type="application/json")
        await await_present(request, flow.begun, seconds=_PATIENCE_S)
        flow.raise_early()  # what failed has a status of its own
    except (Problem, ReviewmillError) as error:
        raise said_to(speaker, text, error) from error
    except BaseException:
        await end(flow.work)
        raise
    events = _events(envelope, flow, lambda error: said_to(speaker, text, error), include_usage=wanted.include_usage)
    return Events(events, lambda: end(flow.work))


async def _at_once(text: str) -> AsyncIterator[str]:
    yield text


async def _as_json(
    service: Service, caller: Caller, speaker: Speaker, task: Task, form: Form, text: str
) -> AsyncIterator[str]:
    comments = comments_in(text, service.settings.service.max_comments)
    check_form(len(comments), form)
    yield answer_text(await Typed(service, caller, speaker, task).analysed(comments), task, form)


def _base_url(service: Service, request: Request) -> str:
    """What the caller calls this service; nothing, for links that begin with a slash, where the name is odd."""
    base = (service.settings.service.public_url or str(request.base_url)).rstrip("/")
    return base if _PLAIN_URL.fullmatch(base) else ""


async def _events(
    envelope: Envelope, flow: Flow, told_as: Callable[[Exception], Exception], *, include_usage: bool
) -> AsyncIterator[bytes]:
    yield event(envelope.first(include_usage=include_usage))
    try:
        while (text := await flow.next(_WAITING_EVERY_S)) is not None:
            if not text:
                yield WAITING
            for piece in envelope.some(text, include_usage=include_usage):
                yield event(piece)
    except (Problem, ReviewmillError) as error:
        yield event(told(told_as(error))[1])
        return
    for piece in envelope.last(include_usage=include_usage):
        yield event(piece)
    yield DONE


# --- the raw model ----------------------------------------------------------------------------------------------------


async def _raw_model(service: Service) -> str:
    pipeline = await service.room.pipeline()
    return pipeline.labeller.connection.about.model


async def _forwarded(service: Service, caller: Caller, request: Request, wanted: ChatRequest) -> Response:
    """Hand a request to the raw model, under the same gate as comments, and what it answers back."""
    _check_redaction(service)
    spend(caller, 1)
    if caller.key_id != LOCAL:
        service.ledger.used(caller.key_id, 1)
    held = AsyncExitStack()
    opening = asyncio.ensure_future(_open(service, wanted, held))
    try:
        await await_present(request, opening)
        answer = opening.result()
        if answer.status < 400 and answer.kind == "text/event-stream":
            return Events(_passed_on(answer), held.aclose)
        reading = asyncio.ensure_future(_whole(answer))
        await await_present(request, reading)
        content = reading.result()
    except BaseException:
        await held.aclose()
        raise
    await held.aclose()
    if answer.status >= 400:
        status, body = told_by_server(answer.status, content)
        again = {"Retry-After": answer.retry_after} if answer.retry_after else None
        return Response(json_bytes(body), status, again, "application/json")
    return Response(content, media_type="application/json")


async def _open(service: Service, wanted: ChatRequest, held: AsyncExitStack) -> Forwarded:
    pipeline = await service.room.pipeline()
    await held.enter_async_context(service.room.place())
    client = await pipeline.labeller.connection.open(pipeline.labeller.prompt)
    return await held.enter_async_context(client.forward(wanted.body))


async def _whole(answer: Forwarded) -> bytes:
    """All that was answered, if it is JSON that will end."""
    content = bytearray()
    async for piece in answer.pieces:
        content += piece
        if len(content) > _MAX_ANSWER_BYTES:
            raise AnswerError(f"The model's answer is larger than {_MAX_ANSWER_BYTES:,} bytes.")
    if answer.status < 400 and answer.kind != "application/json":
        raise AnswerError("The model's server answered something that is not a chat completion.")
    return bytes(content)


async def _passed_on(answer: Forwarded) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.pieces:
            yield piece
    except EndpointError as error:
        # After an unfinished event, which the blank line ends.
        yield b"\n\n" + event(told(error)[1])


def _check_redaction(service: Service) -> None:
    """What is sent to the raw model is not masked, so it must not leave this machine where masking was asked for."""
    remote = service.settings.endpoint not in {None, EMBEDDED} or bool(service.settings.endpoints)
    if service.settings.redact and remote:
        raise Problem(
            403,
            "not-redacted",
            "The raw model may not be asked",
            "This service masks personal data before they leave it, and cannot do so in a request to the raw model.",
            "Use one of the models reviewmill-<task>.",
        )
