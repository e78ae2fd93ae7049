"""`GET /v1/downloads`: a result for whoever holds a link to it, from a browser, without an API key."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import StreamingResponse

from reviewmill.server.access import LOCAL
from reviewmill.server.jobs.download import RESULT_FILE, result_response, rows_response
from reviewmill.server.jobs.results import ResultFormat, Shape
from reviewmill.server.problems import Problem, not_found
from reviewmill.server.schemas import problem_responses
from reviewmill.server.state import Service, service_of
from reviewmill.server.talk.links import Capability, is_over

if TYPE_CHECKING:
    from reviewmill.store import ChatSet

router = APIRouter(tags=["chat"])


@router.get(
    "/v1/downloads",
    summary="Fetch a result by a link",
    response_class=StreamingResponse,
    responses={200: RESULT_FILE, **problem_responses(404, 409, 410, 507)},
    openapi_extra={"security": []},
)
async def download(
    request: Request,
    token: Annotated[str, Query(max_length=200, description="from a link that an answer gave")],
    format: ResultFormat = "csv",  # noqa: A002
    label: Annotated[str | None, Query(max_length=100, description="only rows with this label")] = None,
) -> Response:
    """A link is given by an answer in a chat. It opens one result, and is good for some days (`link_days`)."""
    service = service_of(request)
    capability = service.talk.links.read(token)
    if capability is None:
        raise not_found("result under this link")
    response = await (_job if capability.thing == "job" else _set)(service, capability, format, label)
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


async def _job(service: Service, capability: Capability, kind: ResultFormat, label: str | None) -> StreamingResponse:
    job = await asyncio.to_thread(service.store.jobs.get, capability.id)
    await asyncio.to_thread(_check, service, capability, job.owner if job else None)
    if job is None:
        raise not_found("result under this link")
    return await result_response(service, job, kind, label=label)


async def _set(service: Service, capability: Capability, kind: ResultFormat, label: str | None) -> StreamingResponse:
    found: ChatSet | None = await asyncio.to_thread(service.store.chats.get, capability.id)
    await asyncio.to_thread(_check, service, capability, found.owner if found else None)
    if found is None:
        raise not_found("result under this link")
    rows = await asyncio.to_thread(service.store.chats.rows, found.id)
    records: list[dict[str, Any]] = [
        {"number": number, "comment": analysis["original_text"], **analysis} for number, analysis in rows
    ]
    shape = Shape(found.task, found.labels, ["number", "comment"], "comment", None)
    return await rows_response(records, shape, kind, label=label)


def _check(service: Service, capability: Capability, owner: str | None) -> None:
    """Refuse what is forged, over, or of a key that lets nobody in any more; which of them, only to who has a link."""
    if owner is None or not service.talk.links.is_genuine(capability, owner):
        raise not_found("result under this link")
    key = None if owner == LOCAL else service.store.keys.get(owner)
    if owner != LOCAL and (key is None or key.state != "active"):
        raise not_found("result under this link")
    if is_over(capability):
        raise Problem(
            410,
            "link-expired",
            "The link is not good any more",
            f"Links are good for {service.talk.links.days:g} days. 链接已过期。",
            "Ask for a new one in the chat: export. 请在对话里再说一次“导出”。",
        )
