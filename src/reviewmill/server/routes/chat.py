"""`POST /v1/chat/completions`: each task as a model that answers comments, and the raw model under its own name."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Final

from fastapi import APIRouter, Depends, Request, Response

from reviewmill.errors import AnswerError, ChatError, EndpointError, ReviewmillError
from reviewmill.schema import Comment
from reviewmill.server.access import LOCAL, Caller, require, spend
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
from reviewmill.server.face.faults import OpenAIRoute, failed, told, told_by_server
from reviewmill.server.face.messages import background_answer, comments_in, last_user_text
from reviewmill.server.face.presence import Events, end, while_present
from reviewmill.server.problems import Problem
from reviewmill.server.state import Service, service_of

if TYPE_CHECKING:
    from reviewmill.endpoints.client import Forwarded
    from reviewmill.tasks import Task

MODEL_PREFIX: Final = "reviewmill-"
"""A task's name as a model is this and the task's name."""

_PATIENCE_S: Final = 2.0
"""A stream begins after so many seconds at the latest; what fails before has an HTTP status of its own."""

_WAITING_EVERY_S: Final = 10.0
_MAX_ANSWER_BYTES: Final = 16_000_000

router = APIRouter(route_class=OpenAIRoute, tags=["OpenAI-compatible"])


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, caller: Annotated[Caller, Depends(require("analyse"))]) -> Response:
    """Answer like OpenAI's chat completions.

    The model `reviewmill-<task>` analyses the last user message: one comment, or one comment a line. Any other model
    must be the raw model's own name; then the request goes to it as it is.
    """
    service = service_of(request)
    wanted = read_request(await request.body())
    task = service.room.tasks().get(wanted.model.removeprefix(MODEL_PREFIX))
    if task is not None and wanted.model.startswith(MODEL_PREFIX):
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
    if aside is None:
        comments = comments_in(text, service.settings.service.max_comments)
        work = _answer(service, caller, comments, task, form)
    else:
        work = _at_once(aside)
    answer = asyncio.ensure_future(work)
    if not wanted.stream:
        await while_present(request, answer)
        return Response(json_bytes(envelope.whole(answer.result())), media_type="application/json")
    if await while_present(request, answer, seconds=_PATIENCE_S):
        answer.result()  # what failed has a status of its own
    return Events(_events(envelope, answer, include_usage=wanted.include_usage), lambda: end(answer))


async def _at_once(text: str) -> str:
    return text


async def _answer(service: Service, caller: Caller, comments: list[str], task: Task, form: Form) -> str:
    check_form(len(comments), form)
    analyses = await service.analyse(caller, [Comment(comment) for comment in comments], task.name)
    if len(analyses) == 1 and analyses[0]["error"] is not None:
        raise failed(analyses[0]["error"])
    return answer_text(analyses, task, form)


async def _events(envelope: Envelope, answer: asyncio.Future[str], *, include_usage: bool) -> AsyncIterator[bytes]:
    yield event(envelope.first(include_usage=include_usage))
    while not answer.done():
        await asyncio.wait({answer}, timeout=_WAITING_EVERY_S)
        if not answer.done():
            yield WAITING
    try:
        text = answer.result()
    except (Problem, ReviewmillError) as error:
        yield event(told(error)[1])
        return
    for piece in envelope.rest(text, include_usage=include_usage):
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
        await while_present(request, opening)
        answer = opening.result()
        if answer.status < 400 and answer.kind == "text/event-stream":
            return Events(_passed_on(answer), held.aclose)
        reading = asyncio.ensure_future(_whole(answer))
        await while_present(request, reading)
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
    remote = service.settings.endpoint is not None
    if service.settings.redact and remote:
        raise Problem(
            403,
            "not-redacted",
            "The raw model may not be asked",
            "This service masks personal data before they leave it, and cannot do so in a request to the raw model.",
            "Use one of the models reviewmill-<task>.",
        )
