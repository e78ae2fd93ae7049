"""`/v1/corrections`: labels that people gave."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from reviewmill.server.access import Analyst
from reviewmill.server.engine import text_sha256
from reviewmill.server.problems import invalid
from reviewmill.server.schemas import (
    Correction,
    CorrectionBody,
    CorrectionPage,
    Cursor,
    Name,
    body_of,
    json_response,
    problem_responses,
    read_body,
)
from reviewmill.server.state import service_of
from reviewmill.server.talk.pointing import Said, said_in_chat
from reviewmill.server.talk.speaker import speaker_of
from reviewmill.store import CorrectionRecord

router = APIRouter(tags=["corrections"])


@router.post(
    "/v1/corrections",
    summary="Correct a label",
    status_code=201,
    response_model=Correction,
    responses={
        200: {"model": Correction, "description": "It replaced an earlier one."},
        **problem_responses(404, 409, 415),
    },
    openapi_extra=body_of(CorrectionBody),
)
async def correct(request: Request, caller: Analyst) -> Response:
    """Keep a person's label. The latest one by the same author about the same text and task counts.

    The comment is given by its text, or by where it stands: in a chat, in the answer `message`, as its row `row`.
    """
    body = await read_body(request, CorrectionBody)
    service = service_of(request)
    speaker = speaker_of(request.headers, caller)
    if (body.text is None) == (body.chat is None):
        raise invalid("text", "exactly one of text and chat is needed.")
    said = Said(body.task, body.text or "", body.model_label, body.confidence)
    if body.chat is not None:
        said = await asyncio.to_thread(said_in_chat, service, speaker.chat_key(body.chat), body.message, body.row, said)
    task = service.room.task(said.task)
    for where, label in (("label", body.label), ("model_label", said.model_label)):
        if label is not None and label not in task.label_names:
            raise invalid(where, "it is no label of the task.", hint=f"Labels are: {', '.join(task.label_names)}.")
    record, created = await asyncio.to_thread(
        service.store.corrections.add,
        caller.key_id,
        text=said.text,
        text_sha256=text_sha256(said.text),
        task=task.name,
        label=body.label,
        model_label=said.model_label,
        confidence=said.confidence,
        note=body.note,
        author=speaker.shown or body.author,
        external_id=body.id,
    )
    return json_response(_shown(record).model_dump(), 201 if created else 200)


@router.get("/v1/corrections", summary="List corrections", response_model=CorrectionPage, responses=problem_responses())
async def list_corrections(
    request: Request,
    caller: Analyst,
    task: Annotated[Name | None, Query(description="Those of one task.")] = None,
    cursor: Annotated[Cursor | None, Query(description="The `next_cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """Your corrections, newest first; with the scope admin, everybody's."""
    corrections = service_of(request).store.corrections
    rows, following = await asyncio.to_thread(
        corrections.list, task=task, owner=caller.sees, cursor=cursor, limit=limit
    )
    return json_response({"items": [_shown(row).model_dump() for row in rows], "next_cursor": following})


def _shown(record: CorrectionRecord) -> Correction:
    return Correction(
        id=record.id,
        external_id=record.external_id,
        text=record.text,
        text_sha256=record.text_sha256,
        task=record.task,
        label=record.label,
        model_label=record.model_label,
        confidence=record.confidence,
        note=record.note,
        author=record.author,
        created_at=record.created_at.isoformat(),
        updated_at=record.updated_at.isoformat(),
    )
