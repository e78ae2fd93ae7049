"""The application: its routes, and what opens and closes with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.middleware.cors import CORSMiddleware

from reviewmill._version import __version__
from reviewmill.server import problems
from reviewmill.server.routes import (
    analyze,
    chat,
    chat_files,
    chat_rows,
    comments,
    corrections,
    downloads,
    health,
    jobs,
    models,
    tasks,
)
from reviewmill.server.schemas import AnalyzeRequest, AnalyzeResponse, CorrectionBody, ProblemDocument
from reviewmill.server.shield import Shield
from reviewmill.server.state import Service, working_on_jobs
from reviewmill.server.talk.room import keeping_talks

if TYPE_CHECKING:
    from reviewmill.settings import Settings

ROUTERS: Final[list[APIRouter]] = [
    analyze.router,
    jobs.router,
    chat.router,
    chat_files.router,
    chat_rows.router,
    downloads.router,
    tasks.router,
    models.router,
    corrections.router,
    comments.router,
    health.router,
]
"""All routes."""

DOCUMENTED: Final[list[type[BaseModel]]] = [
    AnalyzeRequest,
    AnalyzeResponse,
    CorrectionBody,
    jobs.Job,
    ProblemDocument,
]
"""What the document describes, and FastAPI does not know (bodies that `read_body` reads) or drops the nulls of."""

COMPANIONS: Final[list[Callable[[Service], AbstractAsyncContextManager[None]]]] = [working_on_jobs, keeping_talks]
"""What runs beside the routes for as long as they are served."""


def create_app(settings: Settings, service: Service | None = None) -> FastAPI:
    """The application.

    Args:
        settings: all settings.
        service: what it serves; None: it is opened when the application starts, and closed when it ends.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            served = service
            if served is None:
                served = await Service.open(settings)
                stack.push_async_callback(served.aclose)
            app.state.service = served
            for companion in COMPANIONS:
                await stack.enter_async_context(companion(served))
            yield
            served.closing.set()

    app = FastAPI(
        title="reviewmill",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    problems.install(app)
    # The last one added stands before the others.
    if settings.service.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.service.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "X-Request-Id"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    app.add_middleware(Shield, settings=settings.service)
    for router in ROUTERS:
        app.include_router(router)
    app.openapi = lambda: _document(app, settings)  # type: ignore[method-assign]
    return app


def _document(app: FastAPI, settings: Settings) -> dict[str, Any]:
    """The OpenAPI document: what FastAPI knows, the bodies that are read later, and how to show a key."""
    if app.openapi_schema:
        return app.openapi_schema
    document = get_openapi(
        title="reviewmill",
        version=__version__,
        summary="Customer comments in, sentiment and keywords out.",
        description=_DESCRIPTION,
        routes=app.routes,
    )
    _, described = models_json_schema(
        [(model, "validation") for model in DOCUMENTED], ref_template="#/components/schemas/{model}"
    )
    components = document.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **described["$defs"]}
    _be_exact(components["schemas"], app.state.service)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": _KEYS}}
    document["security"] = [] if settings.service.no_auth else [{"key": []}]
    app.openapi_schema = document
    return document


def _be_exact(schemas: dict[str, Any], service: Service) -> None:
    """Say what this service's settings decide: its tasks, and how many comments one request may have."""
    schemas["ManyComments"]["properties"]["comments"]["maxItems"] = service.settings.service.max_comments
    for name in ("OneComment", "ManyComments", "CorrectionBody"):
        task = schemas[name]["properties"]["task"]
        task["anyOf"] = [{"type": "string", "enum": list(service.room.tasks())}, {"type": "null"}]


_DESCRIPTION: Final = """\
Analyses comments with a large language model on your own hardware.

Every answer that is not a success is a problem document (RFC 9457), but for those of `POST /v1/chat/completions`, which
have OpenAI's shape. `X-Request-Id` is echoed, or made up.
"""
_KEYS: Final = "An API key, made with `reviewmill keys create`. Scopes: analyse, jobs, chat, admin."
