"""Comments that were typed into a message: analysed, kept for questions, found again in earlier messages."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reviewmill.schema import Analysis, Comment
from reviewmill.server.engine import text_sha256
from reviewmill.server.face.faults import failed
from reviewmill.server.face.followups import asks_about_set, follow_up
from reviewmill.server.face.messages import background_answer, comments_in
from reviewmill.server.face.sources import read_sources
from reviewmill.store import ChatSet

if TYPE_CHECKING:
    from reviewmill.server.access import Caller
    from reviewmill.server.state import Service
    from reviewmill.server.talk.speaker import Speaker
    from reviewmill.tasks import Task

log = logging.getLogger("reviewmill.server")


class Typed:
    """The typed comments of a chat.

    Args:
        service: who answers.
        caller: whose key is shown.
        speaker: who asks, in which chat.
        task: what is to be found out.
    """

    def __init__(self, service: Service, caller: Caller, speaker: Speaker, task: Task) -> None:
        self._service = service
        self._caller = caller
        self._speaker = speaker
        self._task = task

    async def analysed(self, comments: Sequence[str]) -> list[Analysis]:
        """Analyses of comments; the only comment of a message must not fail.

        Raises:
            Problem, ReviewmillError: it did, or nothing could be done.
        """
        if self._service.settings.service.log_texts:
            log.info("Comments to analyse.", extra={"comments": list(comments)})
        analyses = await self._service.analyse(
            self._caller, [Comment(comment) for comment in comments], self._task.name
        )
        if len(analyses) == 1 and analyses[0]["error"] is not None:
            raise failed(analyses[0]["error"])
        return analyses

    async def keep(self, analyses: Sequence[Analysis]) -> ChatSet:
        """Keep what was analysed."""
        return await asyncio.to_thread(
            self._service.store.chats.keep_typed,
            self._speaker.key,
            task=self._task.name,
            labels=self._task.label_names,
            message=self._speaker.message,
            rows=[(text_sha256(analysis["original_text"]), analysis) for analysis in analyses],
        )

    def before(self, earlier: Sequence[str]) -> list[str]:
        """The comments of the last earlier message that had any; none if there is no such message."""
        for text in reversed(earlier):
            own = read_sources(text).text
            asked = follow_up(own, self._task.label_names) or asks_about_set(own)
            if own.strip() and not asked and background_answer(own) is None:
                return comments_in(own, self._service.settings.service.max_comments)
        return []
