"""Work that ends when the client leaves: neither a place in the line nor the model is kept for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


class ClientLeftError(Exception):
    """The client closed the connection; there is nobody to answer."""


async def while_present(request: Request, work: asyncio.Future[T], *, seconds: float | None = None) -> bool:
    """Wait for work whose request has been read, as long as its client is there; whoever leaves cancels it.

    Args:
        request: the request.
        work: the work, begun already.
        seconds: how long to wait; None: until it is done.

    Returns:
        Whether it is done.

    Raises:
        ClientLeftError: the client has left.
    """
    leaving = asyncio.ensure_future(_left(request))
    watched: set[asyncio.Future[Any]] = {work, leaving}
    wanted = False
    try:
        await asyncio.wait(watched, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        wanted = work.done() or not leaving.done()
    finally:
        leaving.cancel()
        if not wanted:
            await end(work)
    if not wanted:
        raise ClientLeftError
    return work.done()


async def end(work: asyncio.Future[Any]) -> None:
    """Cancel work that nobody wants any more, and wait until it has ended; how, is nobody's business."""
    work.cancel()
    await asyncio.wait({work})
    if not work.cancelled():
        work.exception()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class Events(StreamingResponse):
    """A response in pieces, with something to give back when it ends, however it ends, also before it began."""

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        give_back: Callable[[], Awaitable[None]],
        *,
        media_type: str = "text/event-stream",
    ) -> None:
        # Nginx would collect the pieces.
        super().__init__(
            pieces, media_type=media_type, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )
        self._give_back = give_back

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.shield(asyncio.ensure_future(self._give_back()))
