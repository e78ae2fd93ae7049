"""Asks the raw model to write a few sentences, through the same gate as comments, and counted like one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

from reviewmill.errors import AnswerError
from reviewmill.schema import Comment
from reviewmill.server.access import LOCAL, Caller, spend
from reviewmill.server.face.writing import MAX_TOKENS
from reviewmill.tasks import drop_orders

if TYPE_CHECKING:
    from reviewmill.server.state import Service
    from reviewmill.tasks import Task

_MOST_BYTES: Final = 1_000_000


async def readable(service: Service, task: Task, texts: Sequence[str]) -> list[str]:
    """Comments as a model may read them: cleaned, masked where that is asked for, without orders to the reader."""
    pipeline = await service.room.pipeline(task.name)

    def read() -> list[str]:
        prepared = (pipeline.prepare(Comment(text)).text for text in texts)
        return [drop_orders(text, task)[0] for text in prepared if text]

    return await asyncio.to_thread(read)


async def write(service: Service, caller: Caller, task: Task, messages: list[dict[str, str]]) -> str:
    """What the model writes; one request, one attempt.

    Args:
        service: whose model is asked.
        caller: whose rate and quota it is counted against, as one comment.
        task: whose connection is used.
        messages: what to ask.

    Raises:
        Problem: the caller's rate or quota is used up.
        BusyError: too many comments wait.
        EndpointError: the model cannot be reached, or its answer cannot be used.
    """
    spend(caller, 1)
    if caller.key_id != LOCAL:
        service.ledger.used(caller.key_id, 1)
    pipeline = await service.room.pipeline(task.name)
    body: dict[str, Any] = {"messages": messages, "temperature": 0, "max_tokens": MAX_TOKENS}
    async with AsyncExitStack() as held:
        await held.enter_async_context(service.room.place())
        client = await pipeline.labeller.connection.open(pipeline.labeller.prompt)
        answer = await held.enter_async_context(client.forward(body))
        content = bytearray()
        async for piece in answer.pieces:
            content += piece
            if len(content) > _MOST_BYTES:
                raise AnswerError("The model's answer is too large.")
    if answer.status >= 400:
        raise AnswerError(f"The model's server answered {answer.status}.")
    return _text(bytes(content))


def _text(content: bytes) -> str:
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str):
        raise AnswerError("The model's server answered something that is not a chat completion.")
    return text
