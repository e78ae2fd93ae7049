"""The signals that end a program, as an event."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def signals(stop_event: threading.Event) -> Iterator[list[int]]:
    """Turn SIGINT, SIGTERM and SIGHUP into an event.

    Args:
        stop_event: is set when one comes.

    Yields:
        Those that came, in their order.
    """
    came: list[int] = []

    def on_signal(number: int, _: object) -> None:
        came.append(number)
        stop_event.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
