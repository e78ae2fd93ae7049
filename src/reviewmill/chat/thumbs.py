"""Looks at the thumbs of an Open WebUI now and then, and tells what came of it. What a thumb says: `feedback`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from reviewmill.chat.feedback import FeedbackSync, Synced
from reviewmill.chat.service import ServiceFace
from reviewmill.chat.signals import signals
from reviewmill.chat.webui import WebUI
from reviewmill.errors import ReviewmillError, ServiceError, WebUIError

_TURN_S: Final = 0.5


class Thumbs:
    """Brings thumbs now and then, in a thread, so that a slow answer does not delay whoever takes the turns.

    Args:
        notes: the file that remembers what was brought.
        ui: an administrator's; closed at the end.
        service: with a key that may speak for others; closed at the end.
        sign_in: gives a new one when the administrator's session is over.
        say: told, in a sentence, what was brought and, once, what is in the way.
        every_s: seconds from the end of one look to the next.
    """

    def __init__(
        self,
        notes: Path,
        ui: WebUI,
        service: ServiceFace,
        sign_in: Callable[[], WebUI],
        say: Callable[[str], None],
        *,
        every_s: float,
    ) -> None:
        self._notes = notes
        self._ui = ui
        self._service = service
        self._sign_in = sign_in
        self._say = say
        self._every_s = every_s
        self._pool = ThreadPoolExecutor(1, "thumbs")
        self._pending: Future[Synced] | None = None
        self._next = 0.0
        self._signed_in_again = False
        self._told_of = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._ui.close()
        self._service.close()

    def turn(self) -> None:
        """Take in a look that has ended, and begin the next when it is time."""
        if self._pending is not None and self._pending.done():
            done, self._pending = self._pending, None
            self._next = time.monotonic() + self._every_s
            self._take_in(done)
        if self._pending is None and time.monotonic() >= self._next:
            self._pending = self._pool.submit(FeedbackSync(self._notes, self._ui, self._service).look)

    def _take_in(self, done: Future[Synced]) -> None:
        try:
            brought = done.result()
        except (WebUIError, ServiceError) as error:
            if isinstance(error, WebUIError) and error.status in {401, 403} and not self._signed_in_again:
                self._renew_session()
            else:
                self._complain(error)
            return
        self._signed_in_again = False
        if self._told_of:
            self._say("Thumbs are brought to the service again.")
            self._told_of = ""
        if brought.kept:
            self._say(f"{brought.kept} correction(s) from thumbs.")

    def _renew_session(self) -> None:
        self._signed_in_again = True
        try:
            renewed = self._sign_in()
        except ReviewmillError as error:
            self._complain(error)
            return
        self._ui.close()
        self._ui = renewed
        self._next = 0.0

    def _complain(self, error: ReviewmillError) -> None:
        if error.message != self._told_of:
            self._say(f"Thumbs are not brought to the service: {error.message}")
        self._told_of = error.message


def bring_until_ended(thumbs: Thumbs) -> None:
    """Take the turns of `thumbs` until SIGINT, SIGTERM or SIGHUP.

    Raises:
        KeyboardInterrupt: SIGINT ended it.
    """
    stop = threading.Event()
    with signals(stop) as came:
        while not stop.wait(_TURN_S):
            thumbs.turn()
    if signal.SIGINT in came:
        raise KeyboardInterrupt
