"""The application: its routes, and what opens and closes with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

from fastapi import APIRouter, FastAPI

from reviewmill._version import __version__
from reviewmill.server import problems
from reviewmill.server.routes import chat, jobs
from reviewmill.server.state import Service, working_on_jobs

if TYPE_CHECKING:
    from reviewmill.settings import Settings

ROUTERS: Final[list[APIRouter]] = [chat.router, jobs.router]
"""All routes."""

COMPANIONS: Final[list[Callable[[Service], AbstractAsyncContextManager[None]]]] = [working_on_jobs]
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
    for router in ROUTERS:
        app.include_router(router)
    return app
