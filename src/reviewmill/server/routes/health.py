"""`/healthz`, `/readyz`, `/metrics`: for whoever runs the service."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Request, Response

from reviewmill._version import __version__
from reviewmill.errors import StoreError
from reviewmill.server.access import Admin
from reviewmill.server.metrics import CONTENT_TYPE
from reviewmill.server.schemas import Alive, Part, Readiness, json_response, problem_responses
from reviewmill.server.state import Service, service_of

router = APIRouter(tags=["health"])

OPEN: Final[dict[str, Any]] = {"security": []}


@router.get("/healthz", summary="Is the process there?", response_model=Alive, openapi_extra=OPEN)
async def healthz() -> Response:
    """Always yes, where an answer comes at all."""
    return json_response({"status": "ok", "version": __version__})


@router.get(
    "/readyz",
    summary="Can it answer?",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "It cannot, and why."}},
    openapi_extra=OPEN,
)
async def readyz(request: Request) -> Response:
    """Whether the database and the model answer. What is wrong in detail is in the log."""
    service = service_of(request)
    health, store = await asyncio.gather(service.room.check(), _store(service))
    parts = {
        "model": Part(ready=health.ready, detail="answers" if health.ready else "does not answer"),
        "database": store,
    }
    ready = all(part.ready for part in parts.values()) and not service.closing.is_set()
    readiness = Readiness(status="ready" if ready else "not ready", parts=parts)
    return json_response(readiness.model_dump(), 200 if ready else 503)


async def _store(service: Service) -> Part:
    try:
        await asyncio.to_thread(service.store.ping)
    except StoreError:
        return Part(ready=False, detail="does not answer")
    return Part(ready=True, detail="answers")


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE: {"schema": {"type": "string"}}}}, **problem_responses()},
)
async def metrics(request: Request, _caller: Admin) -> Response:
    """All metrics; needs the scope admin."""
    return Response(service_of(request).metrics.scrape(), media_type=CONTENT_TYPE)
