"""Blocking work in threads that outlives nobody: whoever is cancelled leaves only when the thread is done."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[..., T], *arguments: Any, hurry: Callable[[], object] | None = None) -> T:
    """Call in a thread, and stay until it has returned, also when cancelled: it works in files that are closed then.

    To close an SQLite connection that a thread works with ends the process by a segmentation fault.

    Args:
        call: what blocks.
        *arguments: what it is called with.
        hurry: called when this is cancelled, to tell the thread that nobody wants its result any more.
    """
    # A future and no task: a loop that ends cancels all tasks, and then this would look done while the thread goes on.
    work = functools.partial(contextvars.copy_context().run, call, *arguments)
    thread = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        if hurry is not None:
            hurry()
        while not thread.done():
            with contextlib.suppress(asyncio.CancelledError):  # once is enough
                await asyncio.wait({thread})
        thread.exception()  # seen, and wanted by nobody
        raise
