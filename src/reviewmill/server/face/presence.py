"""Work that ends when the client leaves, also where the answer is sent in pieces and the work may outlive its route."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from reviewmill.server.hangup import while_connected


async def await_present(request: Request, work: asyncio.Future[Any], *, seconds: float | None = None) -> None:
    """Wait for work, which is cancelled if its client hangs up.

    Args:
        request: the request; its body must have been read.
        work: the work, begun already.
        seconds: how long to wait; None: until it is done.

    Raises:
        Problem: the client hung up.
    """
    try:
        await while_connected(request, asyncio.wait({work}, timeout=seconds))
    except BaseException:
        await end(work)
        raise


async def end(work: asyncio.Future[Any]) -> None:
    """Cancel work that nobody wants any more, and wait until it has ended; how, is nobody's business."""
    work.cancel()
    await asyncio.wait({work})
    if not work.cancelled():
        work.exception()


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


class Flow:
    """An answer whose pieces are made in a task of their own, so that its beginning can be waited for.

    Args:
        pieces: the answer, as it is made.

    Attributes:
        work: the task; cancelled, it ends the answer wherever it is.
        begun: done when there is a first piece, or the answer has ended or failed.
    """

    def __init__(self, pieces: AsyncIterator[str]) -> None:
        self._waiting: asyncio.Queue[str | None] = asyncio.Queue()
        self.begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.work = asyncio.ensure_future(self._pump(pieces))

    async def _pump(self, pieces: AsyncIterator[str]) -> None:
        try:
            async for piece in pieces:
                self._waiting.put_nowait(piece)
                self._begin()
        finally:
            self._waiting.put_nowait(None)
            self._begin()

    def _begin(self) -> None:
        if not self.begun.done():
            self.begun.set_result(None)

    def raise_early(self) -> None:
        """Raise what the answer failed with, if it has ended already."""
        if self.work.done():
            self.work.result()

    async def next(self, seconds: float) -> str | None:
        """The next piece, "" if none came within so many seconds, None at the end.

        Raises:
            Exception: what the answer failed with.
        """
        try:
            async with asyncio.timeout(seconds):
                piece = await self._waiting.get()
        except TimeoutError:
            return ""
        if piece is None:
            await self.work
        return piece

    async def whole(self) -> str:
        """All of it.

        Raises:
            Exception: what it failed with.
        """
        await self.work
        pieces = []
        while (piece := self._waiting.get_nowait()) is not None:
            pieces.append(piece)
        return "".join(pieces)
