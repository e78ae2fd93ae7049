"""`GET /v1/chat/rows`: what an answer in a chat is about, for whoever is about to correct a label of it."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from reviewmill.server.access import Analyst
from reviewmill.server.problems import Problem
from reviewmill.server.schemas import ChatName, Name, json_response, problem_responses
from reviewmill.server.state import service_of
from reviewmill.server.talk.pointing import pointed_at
from reviewmill.server.talk.speaker import speaker_of

router = APIRouter(tags=["chat"])


class ChatRow(BaseModel):
    """A row, as the model saw it."""

    row: int = Field(description="its number, from 1")
    text: str
    label: str | None = Field(description="None where there was nothing to judge")
    confidence: float | None


class ChatRows(BaseModel):
    """What an answer is about."""

    task: str
    labels: list[str]
    total: int = Field(description="how many rows there are")
    row: ChatRow | None = Field(description="the row that was asked for, or the only one")


@router.get(
    "/v1/chat/rows",
    summary="What is an answer in a chat about?",
    response_model=ChatRows,
    responses=problem_responses(404, 409),
)
async def rows(
    request: Request,
    caller: Analyst,
    chat: Annotated[ChatName | None, Query(description="The chat; by default the header X-Chat.")] = None,
    message: Annotated[ChatName | None, Query(description="The answer; by default the header X-Msg.")] = None,
    row: Annotated[int | None, Query(ge=1, lt=2**53, description="A row's number.")] = None,
    task: Annotated[Name | None, Query(description="The task, where the chat used several.")] = None,
) -> Response:
    """The task, its labels, how many comments there are, and one of them."""
    speaker = speaker_of(request.headers, caller)
    named = chat or speaker.chat
    if named is None:
        raise Problem(404, "not-found", "Not found", "No chat is named.", "Name it in `chat`, or in the header X-Chat.")
    service = service_of(request)
    key = speaker.chat_key(named)
    found = await asyncio.to_thread(pointed_at, service, key, message or speaker.message, row, task)
    one = None
    if found.analysis is not None and found.row is not None:
        analysis = found.analysis
        text, label = analysis["original_text"], analysis[found.task]
        one = ChatRow(row=found.row, text=text, label=label, confidence=analysis["confidence"])
    shown = ChatRows(task=found.task, labels=found.labels, total=found.total, row=one)
    return json_response(shown.model_dump())
