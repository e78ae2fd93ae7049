"""Blocking work in threads that outlives nobody: whoever is cancelled leaves only when the thread is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[..., T], *arguments: Any) -> T:
    """Call in a thread, and stay until it has returned, also when cancelled: it works in files that are closed then.

    Args:
        call: what blocks.
        *arguments: what it is called with.
    """
    thread = asyncio.ensure_future(asyncio.to_thread(call, *arguments))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await asyncio.wait({thread})
        raise
