"""Answers to questions about a set. What is counted is counted here; what the raw model writes is marked as such."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import quote as quoted

from reviewmill.errors import ReviewmillError
from reviewmill.server.face import overview, writing
from reviewmill.server.face.followups import FollowUp
from reviewmill.server.face.overview import Link
from reviewmill.server.face.render import MAX_ROWS, label_of, table
from reviewmill.server.face.words import Words
from reviewmill.server.problems import Problem
from reviewmill.server.talk.material import Material, gist, least_certain, row_of, select
from reviewmill.server.talk.writer import readable, write

if TYPE_CHECKING:
    from reviewmill.server.access import Caller
    from reviewmill.server.state import Service
    from reviewmill.tasks import Task

log = logging.getLogger("reviewmill.server")

_KEYWORDS: Final = 6
_MOST_UNCERTAIN: Final = 100
_MOST_READ: Final = 100


class Answers:
    """Answers about one set.

    Args:
        service: who answers.
        caller: whose key is shown.
        task: what was found out.
        material: the rows.
        base_url: what the caller calls this service.
        words: the language to answer in.
    """

    def __init__(
        self, service: Service, caller: Caller, task: Task, material: Material, base_url: str, words: Words
    ) -> None:
        self._service = service
        self._caller = caller
        self._task = task
        self._material = material
        self._base_url = base_url
        self._words = words
        self._labels = task.label_names

    def about(self, wanted: FollowUp) -> AsyncIterator[str]:
        """The answer to a question, in pieces."""
        if wanted.missing and not wanted.labels and wanted.kind not in {"why", "row"}:
            return self._once(self._no_label())
        if wanted.kind == "help":
            return self._once(self.help())
        kinds = {
            "show": self._show,
            "why": self._why,
            "row": self._row,
            "export": self._export,
            "summarise": self._summarise,
            "uncertain": self._uncertain,
            "keywords": self._keywords,
            "stats": self._stats,
        }
        return kinds[wanted.kind](wanted)

    async def summary(self) -> str:
        """All that matters about the set."""
        uncertain = await asyncio.to_thread(least_certain, self._material)
        counts, link = self._material.counts, await self._link()
        return overview.summary(counts, self._labels, uncertain, self._words, link=link)

    def help(self) -> str:
        """What can be asked."""
        examples = overview.examples([], self._labels, self._words)
        return self._words.say["help"].format(examples=examples, row=1) + "\n"

    def not_understood(self, rows: int) -> str:
        """That a message is not understood as a question about so many rows, and what can be asked."""
        return f"{self._words.say['not_understood'].format(all=rows)} {self.help()}"

    # -- kinds --------------------------------------------------------------------------------------------------

    async def _once(self, text: str) -> AsyncIterator[str]:
        yield text

    async def _show(self, wanted: FollowUp) -> AsyncIterator[str]:
        found, rows = await asyncio.to_thread(select, self._material, wanted, MAX_ROWS)
        whole = found > len(rows) and len(wanted.labels) == 1
        link = await self._link(wanted.labels[0] if whole else None) if found > len(rows) else None
        yield overview.chosen(wanted, found, rows, self._material.counts["rows"], self._words, link=link)

    async def _why(self, wanted: FollowUp) -> AsyncIterator[str]:
        total = self._material.counts["rows"]
        number = wanted.row or (1 if total == 1 else None)
        if number is None:
            named = label_of(next(iter(wanted.labels), self._labels[-1]), self._words)
            yield self._words.say["which_row"].format(all=total, row=1, label=named) + "\n"
            return
        analysis = await asyncio.to_thread(row_of, self._material, number)
        if analysis is None:
            yield self._words.say["no_row"].format(row=f"{number:,}", all=total) + "\n"
            return
        yield overview.one_row(number, analysis, wanted.labels, self._words)
        if analysis["status"] != "ok":
            return
        text = await readable(self._service, self._task, [analysis["original_text"]])
        named, meant = self._plain(analysis.label or ""), self._definition(analysis.label)
        prompt = writing.reason_prompt(" ".join(text), named, meant, analysis["keywords"], self._words)
        yield "\n" + await self._written(self._words.say["why_model"], prompt, [*text, *analysis["keywords"]])

    async def _row(self, wanted: FollowUp) -> AsyncIterator[str]:
        number = wanted.row or 1
        analysis = await asyncio.to_thread(row_of, self._material, number)
        if analysis is None:
            yield self._words.say["no_row"].format(row=f"{number:,}", all=self._material.counts["rows"]) + "\n"
        else:
            yield overview.one_row(number, analysis, (), self._words)

    async def _export(self, wanted: FollowUp) -> AsyncIterator[str]:
        label = wanted.labels[0] if len(wanted.labels) == 1 else None
        link = await self._link(label)
        if link is None:
            yield self._words.say["nothing_yet"] + "\n"
            return
        named = f"{label_of(label, self._words)}{self._words.colon}" if label else self._words.say["result"]
        yield f"{named}{link.shown(self._words, only=wanted.format)}\n"

    async def _summarise(self, wanted: FollowUp) -> AsyncIterator[str]:
        found = await asyncio.to_thread(gist, self._material, wanted, _KEYWORDS)
        total, what = self._material.counts["rows"], overview.what_of(wanted, self._words)
        if not found.found:
            yield self._words.say["none"].format(all=total, what=what) + "\n"
            return
        whole = self._words.say["all_of_them"].format(all=total)
        head = self._words.say["of"].format(shown=found.found, all=total, what=what) if what else whole
        yield "\n\n".join(filter(None, [head, overview.themes(found.keywords, self._words)])) + "\n\n"
        some = [found.texts[at] for at in writing.pick(len(found.texts), _MOST_READ)]
        texts = writing.fitting(await readable(self._service, self._task, some))
        kind = self._words.comma.join(map(self._plain, wanted.labels)) or self._words.say["any_kind"]
        prompt = writing.summary_prompt(texts, kind, self._words)
        yield await self._written(self._words.say["summary_of"].format(used=len(texts)), prompt, texts)

    async def _uncertain(self, wanted: FollowUp) -> AsyncIterator[str]:
        most = min(wanted.count or overview.UNCERTAIN_ROWS, _MOST_UNCERTAIN)
        rows = await asyncio.to_thread(least_certain, self._material, wanted.labels, most)
        if not rows:
            yield self._words.no_confidence + "\n"
            return
        yield f"**{self._words.say['uncertain']}**\n\n" + "\n".join(table(rows, self._words)) + "\n"

    async def _keywords(self, wanted: FollowUp) -> AsyncIterator[str]:
        lines = overview.keyword_lines(self._material.counts, wanted.labels or self._labels, self._words)
        yield "\n".join(lines or [self._words.say["no_keywords"]]) + "\n"

    async def _stats(self, wanted: FollowUp) -> AsyncIterator[str]:
        if not wanted.labels:
            yield await self.summary()
            return
        counts = self._material.counts
        head = self._words.say["all_of_them"].format(all=counts["rows"])
        yield "\n".join([head, "", *overview.counts_table(counts, wanted.labels, self._words)]) + "\n"

    # -- parts --------------------------------------------------------------------------------------------------

    async def _written(self, head: str, prompt: list[dict[str, str]], read: Sequence[str]) -> str:
        """What the model wrote, quoted, under a head; or that it could not be asked."""
        try:
            written = await write(self._service, self._caller, self._task, prompt)
        except (ReviewmillError, Problem) as error:
            log.warning("the model was to write about comments, and could not: %s", type(error).__name__)
            return self._words.say["model_failed"] + "\n"
        told = writing.shown(written, read)
        parts = [head, told.text] if told.text else [self._words.say["nothing_said"]]
        parts += [self._words.say["numbers_dropped"]] if told.dropped else []
        return "\n\n".join(parts) + "\n"

    def _plain(self, label: str) -> str:
        """A label's name as a model reads it, not as Markdown shows it."""
        return self._words.labels.get(label, label)

    def _definition(self, label: str | None) -> str:
        """What a label means; a task may have lost it since."""
        return next((each.definition for each in self._task.labels if each.name == label), "")

    def _no_label(self) -> str:
        named = self._words.comma.join(label_of(name, self._words) for name in self._labels)
        return self._words.say["no_label"].format(labels=named) + "\n"

    async def _link(self, label: str | None = None) -> Link | None:
        if self._material.thing is None:
            return None
        thing, thing_id = self._material.thing
        token = await asyncio.to_thread(self._service.talk.links.token, thing, thing_id, self._caller.key_id)
        address = f"{self._base_url}/v1/downloads?token={token}"
        part = "" if label is None else f"&label={quoted(label, safe='')}"
        kinds = {kind: f"{address}&format={kind}{part}" for kind in ("csv", "xlsx", "jsonl")}
        return Link(kinds, self._service.talk.links.days)
