"""`POST /v1/analyze`: one comment, or several."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Request, Response

from reviewmill.schema import Comment
from reviewmill.server.access import Analyst
from reviewmill.server.hangup import while_connected
from reviewmill.server.problems import invalid
from reviewmill.server.schemas import (
    AnalyzeRequest,
    AnalyzeResponse,
    CommentBody,
    ManyComments,
    body_of,
    json_response,
    problem_responses,
    read_body,
)
from reviewmill.server.state import CUSTOMER, service_of

router = APIRouter(tags=["analyse"])

log = logging.getLogger("reviewmill.server")


@router.post(
    "/v1/analyze",
    summary="Analyse comments",
    response_model=AnalyzeResponse,
    responses=problem_responses(415, 502, 504),
    openapi_extra=body_of(AnalyzeRequest),
)
async def analyze(request: Request, caller: Analyst) -> Response:
    """Analyse one comment, or several at once. A comment that fails carries its own error; the others do not mind."""
    body = (await read_body(request, AnalyzeRequest)).root
    service = service_of(request)
    sent = body.comments if isinstance(body, ManyComments) else [body]
    most = service.settings.service.max_comments
    if len(sent) > most:
        raise invalid("comments", f"{len(sent):,} were sent; at most {most:,} may be.", hint="Send several requests.")
    comments = [_comment(each) for each in sent]
    if service.settings.service.log_texts:
        log.info("Comments to analyse.", extra={"comments": [comment.text for comment in comments]})
    task = service.room.task(body.task)
    # What is answered from memory is answered before anybody can hang up.
    at_once = service.room.knows(comments, task.name, keywords=body.keywords)
    work = service.analyse(caller, comments, task.name, keywords=body.keywords)
    analyses = await (work if at_once else while_connected(request, work))
    return json_response({"task": task.name, "results": analyses})


def _comment(body: CommentBody) -> Comment:
    return Comment(body.text, body.id, {CUSTOMER: body.customer_id} if body.customer_id is not None else {})
