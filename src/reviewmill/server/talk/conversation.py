"""One turn of a conversation: what a message wants, and the answer in pieces.

What decides, in this order (documented in `docs/conversations.md`):

1. A file that is new in this chat is analysed: one job for each chat, file and task. The text beside it is a question
   about it, or an instruction; it is never analysed.
2. If something was analysed before in this chat, a message that is a follow-up (`face/followups.py`) is answered about
   what was analysed last, or about the file that it names; one that speaks of the comments as comments, and is not
   understood, gets the list of what can be asked.
3. Everything else is comments.

What was analysed before is kept for chats that have a name (`X-Chat`). In a conversation without one, it is the
comments of the messages before, which are sent along each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final

from reviewmill.schema import Analysis
from reviewmill.server.face.chat import answer_text
from reviewmill.server.face.followups import FollowUp, asks_about_set, follow_up
from reviewmill.server.face.messages import comments_in
from reviewmill.server.face.overview import file_line
from reviewmill.server.face.render import MAX_ROWS, inline
from reviewmill.server.face.sources import Sources
from reviewmill.server.face.words import CHINESE, ENGLISH, words_of
from reviewmill.server.jobs.enqueue import Good, enqueue
from reviewmill.server.jobs.results import ResultGoneError
from reviewmill.server.talk.answers import Answers
from reviewmill.server.talk.following import Following
from reviewmill.server.talk.links import Thing
from reviewmill.server.talk.material import JobMaterial, Material, TypedMaterial
from reviewmill.server.talk.typed import Typed
from reviewmill.store import ChatFile, ChatSet, digest, new_id

if TYPE_CHECKING:
    from reviewmill.server.access import Caller
    from reviewmill.server.state import Service
    from reviewmill.server.talk.speaker import Speaker
    from reviewmill.store import JobRecord
    from reviewmill.tasks import Task

_LEAST_STEM: Final = 3
_BROKEN: Final = frozenset({"failed", "cancelled"})


class Conversation:
    """One turn.

    Args:
        service: who answers.
        caller: whose key is shown.
        speaker: who asks, in which chat.
        task: what is to be found out.
        base_url: what the caller calls this service.
        live: whether the answer is read as it comes, so that progress is worth telling.
    """

    def __init__(
        self, service: Service, caller: Caller, speaker: Speaker, task: Task, base_url: str, *, live: bool
    ) -> None:
        self._service = service
        self._caller = caller
        self._speaker = speaker
        self._task = task
        self._base_url = base_url
        self._live = live
        self._store = service.store
        self._typed = Typed(service, caller, speaker, task)
        self._words = ENGLISH
        self._wordless = False

    async def answer(self, message: Sources, earlier: Sequence[str]) -> AsyncIterator[str]:
        """Answer a message.

        Args:
            message: the message, taken apart.
            earlier: the texts of the user's messages before it.

        Raises:
            ReviewmillError, Problem: it cannot be answered.
        """
        self._words = words_of(message.text)
        self._wordless = words_of(message.text, CHINESE) is not self._words
        asked = follow_up(message.text, self._task.label_names)
        if message.files:
            async for piece in self._with_files(message, asked, opening=not earlier):
                yield piece
        elif message.others and not message.text.strip():
            yield self._words.say["sources_not_read"] + "\n"
        else:
            async for piece in self._without_files(message.text, asked, earlier):
                yield piece

    # -- files --------------------------------------------------------------------------------------------------

    async def _with_files(self, message: Sources, asked: FollowUp | None, *, opening: bool) -> AsyncIterator[str]:
        if self._caller.scopes.isdisjoint({"jobs", "chat", "admin"}):
            yield self._words.say["no_scope"] + "\n"
            return
        files = [file for each in message.files if (file := await asyncio.to_thread(self._file, each)) is not None]
        sets = [await self._set_of(file) for file in files]
        fresh = [(file, was) for file, (was, is_new) in zip(files, sets, strict=True) if is_new]
        if not files:
            if message.marked or not message.text.strip():
                yield self._words.say["file_gone"] + "\n"
            if message.text.strip() and not message.marked:
                async for piece in self._without_files(message.text, asked, ()):
                    yield piece
            return
        if not fresh:
            chat_set = self._meant([each for each, _ in sets if each is not None], message.text)
            # A conversation without a name that begins: the file was analysed in another one.
            text = "" if opening and not self._speaker.chat and asked is None else message.text
            async for piece in self._about_files(chat_set, text, asked):
                yield piece
            return
        for file, before in fresh:
            async for piece in self._analyse(file, before, asked if len(fresh) == 1 else None):
                yield piece

    def _file(self, file_id: str) -> ChatFile | None:
        return self._store.chats.file(self._caller.key_id, self._speaker.account, file_id)

    async def _set_of(self, file: ChatFile) -> tuple[ChatSet | None, bool]:
        """The set that a file is in this chat, and whether it is to be analysed (again, if that failed before)."""
        found = await asyncio.to_thread(self._store.chats.set_of_file, self._speaker.key, file, self._task.name)
        if found is None:
            return None, True
        job = await asyncio.to_thread(self._store.jobs.get, found.job_id or "")
        return found, job is None or job.state in _BROKEN

    async def _analyse(self, file: ChatFile, before: ChatSet | None, asked: FollowUp | None) -> AsyncIterator[str]:
        """Have a file analysed, tell how far it is, and answer what was asked about it."""
        # Whoever leaves now, leaves a job behind and no half of one.
        chat_set = await asyncio.shield(asyncio.ensure_future(self._start(file, before)))
        yield file_line(file.filename, file.rows, file.text_column, self._words) + "\n\n"
        async for piece in self._about_set(chat_set, asked, summary=True):
            yield piece

    async def _start(self, file: ChatFile, before: ChatSet | None) -> ChatSet:
        """Make the job over a file, unless somebody does so at this moment."""
        failed_job = None if before is None else before.job_id
        good = Good(
            job_id=new_id(),
            task=self._task.name,
            filename=file.filename,
            format=file.format,
            text_column=file.text_column,
            id_column=file.id_column,
            size=file.size,
            sha256=file.sha256,
            options={
                "rows": file.rows,
                "keywords": None,
                "customer": file.customer_column,
                "since": file.created_at.isoformat(),
            },
        )
        await asyncio.to_thread(self._service.talk.attachments.give, file, self._service.jobs.files(good.job_id))
        key = digest("chat", self._speaker.key.sha256, file.id, self._task.name, failed_job)
        job, _ = await enqueue(self._service, self._caller, good, key=key)
        chat_set = await asyncio.to_thread(self._keep_job, file, job, failed_job)
        if self._speaker.message is not None:
            note = self._store.chats.note_message
            await asyncio.to_thread(note, chat_set.id, self._speaker.key, self._speaker.message)
        return chat_set

    def _keep_job(self, file: ChatFile, job: JobRecord, instead_of: str | None) -> ChatSet:
        return self._store.chats.keep_job(
            self._speaker.key,
            task=self._task.name,
            labels=self._task.label_names,
            file=file,
            job_id=job.id,
            instead_of=instead_of,
        )

    def _meant(self, sets: Sequence[ChatSet], text: str) -> ChatSet | None:
        """Which of the files that came with a message it is about; None: whatever the chat was about last."""
        named = [each for each in sets if each.name is not None and _names(text, each.name)]
        if named:
            return named[-1]
        return None if self._speaker.chat else sets[-1]

    async def _about_files(self, chat_set: ChatSet | None, text: str, asked: FollowUp | None) -> AsyncIterator[str]:
        """Answer a later message in a chat that has a file: it is sent along each time, and not analysed again."""
        if chat_set is not None:
            stem = (chat_set.name or "").rpartition(".")[0]
            asked = asked or follow_up(_without(text, chat_set.name or "", stem), self._task.label_names)
        current = chat_set or await self._latest(asked)
        if not text.strip() or asked is not None:
            async for piece in self._about_set(current, asked, summary=True):
                yield piece
        else:
            async for piece in self._comments_or_help(text, current):
                yield piece

    # -- questions ----------------------------------------------------------------------------------------------

    async def _without_files(self, text: str, asked: FollowUp | None, earlier: Sequence[str]) -> AsyncIterator[str]:
        current = await self._latest(asked) if self._speaker.chat else None
        if current is not None:
            answer = self._comments_or_help(text, current) if asked is None else self._about_set(current, asked)
        elif self._speaker.chat and not text.strip():
            answer = _said(self._words.say["write_something"])
        elif (asked or asks_about_set(text)) and (before := self._typed.before(earlier)):
            answer = self._about_earlier(before, asked)
        else:
            answer = self._comments(text)
        async for piece in answer:
            yield piece

    async def _latest(self, asked: FollowUp | None) -> ChatSet | None:
        """What this chat was about last, for this task.

        Who has tried a single comment meanwhile, and asks for "the negative ones" or for row 3, means what was before.
        """
        sets = await asyncio.to_thread(self._store.chats.sets, self._speaker.key, self._task.name)
        least = 2 if asked is None or asked.kind not in {"why", "row"} else asked.row or 1
        return next((each for each in sets if each.rows >= least), next(iter(sets), None))

    async def _about_set(
        self, chat_set: ChatSet | None, asked: FollowUp | None, *, summary: bool = False
    ) -> AsyncIterator[str]:
        """Answer about a set; if its job is under way, wait for it first, and tell how far it is."""
        if chat_set is None:
            yield self._words.say["nothing_yet"] + "\n"
            return
        await asyncio.to_thread(self._store.chats.use, chat_set.id)
        material: Material | None
        if chat_set.job_id is None:
            rows = await asyncio.to_thread(self._store.chats.rows, chat_set.id)
            material = TypedMaterial(
                [(number, Analysis(row)) for number, row in rows], chat_set.task, ("set", chat_set.id)
            )
        else:
            following = self._follow(chat_set.job_id)
            async for mark in following.line():
                if self._live:
                    yield mark
            material = self._of_job(following.job)
            if material is None:
                yield self._why_not(following.job, chat_set)
                return
        answers = self._answers(material)
        try:
            if asked is None and summary:
                yield await answers.summary()
            elif asked is None:
                yield answers.not_understood(chat_set.rows)
            else:
                async for piece in answers.about(asked):
                    yield piece
        except ResultGoneError:  # it was deleted at this moment
            yield self._words.say["deleted"] + "\n"

    def _follow(self, job_id: str) -> Following:
        jobs = self._store.jobs
        return Following(
            lambda: jobs.get(job_id), lambda: jobs.before(job_id), self._service.closing.is_set, self._words
        )

    def _of_job(self, job: JobRecord | None) -> JobMaterial | None:
        if job is None or job.state != "done":
            return None
        return JobMaterial(job, self._service.jobs.files(job.id))

    def _why_not(self, job: JobRecord | None, chat_set: ChatSet) -> str:
        """Why there is nothing to say about a job."""
        say, name = self._words.say, inline(chat_set.name or "", 80)
        if job is None:
            return say["deleted"] + "\n"
        if job.state == "failed":
            error = inline(str((job.error or {}).get("message", "")), 300)
            return say["failed"].format(name=name, error=error) + "\n"
        return (say["cancelled"].format(name=name) if job.state == "cancelled" else say["closing"]) + "\n"

    def _answers(self, material: Material) -> Answers:
        # Who writes no words is answered in the language of the comments.
        if self._wordless and 2 * material.counts.get("languages", {}).get("zh", 0) > material.counts["rows"]:
            self._words = CHINESE
        return Answers(self._service, self._caller, self._task, material, self._base_url, self._words)

    # -- comments -----------------------------------------------------------------------------------------------

    async def _comments_or_help(self, text: str, current: ChatSet | None) -> AsyncIterator[str]:
        if asks_about_set(text) and current is not None:
            async for piece in self._about_set(current, None):
                yield piece
        else:
            async for piece in self._comments(text):
                yield piece

    async def _comments(self, text: str) -> AsyncIterator[str]:
        """Analyse the comments of a message, and keep them for questions if the chat has a name."""
        analyses = await self._typed.analysed(comments_in(text, self._service.settings.service.max_comments))
        link = None
        if self._speaker.chat or len(analyses) > MAX_ROWS:
            chat_set = await self._typed.keep(analyses)
            if len(analyses) > MAX_ROWS:
                token = self._service.talk.links.token
                signed = await asyncio.to_thread(token, "set", chat_set.id, self._caller.key_id)
                link = f"{self._base_url}/v1/downloads?token={signed}&format=csv"
        yield answer_text(analyses, self._task, "markdown", link=link)

    async def _about_earlier(self, comments: Sequence[str], asked: FollowUp | None) -> AsyncIterator[str]:
        """Answer about the comments of an earlier message, in a conversation without a name."""
        if asked is None:
            yield self._answers(TypedMaterial([], self._task.name, None)).not_understood(len(comments))
            return
        analyses = await self._typed.analysed(comments)
        # Only a link needs something that is kept.
        kept = await self._typed.keep(analyses) if asked.kind == "export" else None
        thing: tuple[Thing, str] | None = None if kept is None else ("set", kept.id)
        answers = self._answers(TypedMaterial(list(enumerate(analyses, 1)), self._task.name, thing))
        async for piece in answers.about(asked):
            yield piece


async def _said(text: str) -> AsyncIterator[str]:
    yield text + "\n"


def _names(text: str, filename: str) -> bool:
    """Whether a message names a file, with or without its extension."""
    stem, said = filename.rpartition(".")[0].casefold(), text.casefold()
    return filename.casefold() in said or (len(stem) >= _LEAST_STEM and stem in said)


def _without(text: str, *names: str) -> str:
    for name in names:
        at = text.casefold().find(name.casefold()) if name else -1
        text = f"{text[:at]} {text[at + len(name) :]}" if at >= 0 else text
    return text
