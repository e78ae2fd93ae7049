"""Work for a client that hangs up is cancelled: nobody would read the answer, and the model has others to serve."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from reviewmill.server.problems import Problem

if TYPE_CHECKING:
    from starlette.requests import Request

T = TypeVar("T")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Do some work for as long as the client is there. The request's body must have been read.

    Raises:
        Problem: the client hung up, and the work was cancelled (499, which only the log and the metrics see).
    """
    working = asyncio.create_task(work)
    listening = asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
    finally:
        listening.cancel()
        if not working.done():
            working.cancel()
            await asyncio.wait({working})
    raise Problem(499, "client-gone", "The client hung up", "The client hung up before the answer was there.")


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
