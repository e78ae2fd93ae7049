"""One cleaned comment in, one `Answer` out: the prompt, the constraint, the request, the scores.

A labeller is bound to one endpoint, one task and one answer format; `key` names what decides an answer, so that equal
keys may share one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Literal

from reviewmill.endpoints.capabilities import Capabilities, json_schema_format
from reviewmill.endpoints.connection import Connection
from reviewmill.endpoints.gate import Gate, Priority
from reviewmill.endpoints.limiter import Limiter, Place
from reviewmill.errors import AnswerCutError, AnswerError, ContextOverflowError, EndpointError
from reviewmill.schema import KEY_BYTES, TEXT_PREFIX_BYTES, Answer, AnsweredBy
from reviewmill.scoring import score_labels
from reviewmill.tasks import CompactWire, JsonWire, Parsed, Prompt, Task, Wire, drop_orders, render

if TYPE_CHECKING:
    from reviewmill.endpoints.client import Completion, EndpointClient

ANSWER_VERSION: Final = 2
"""Raised when the stored `Answer` or its key changes its meaning, so that older cached ones are not used."""

LOW_MASS: Final = 0.5
"""Below this share of the distribution on the labels, the model hardly meant any of them."""

_SHORTENINGS: Final = 6
_LEAST_SHARE: Final = 0.1
_MOST_SHARE: Final = 0.9
_MARGIN: Final = 0.9
"""The prompt takes its part of the limit, and is not shortened."""
_GAP: Final = " … "

WireName = Literal["auto", "compact", "json", "free"]


class Labeller:
    """Labels comments with one model.

    Args:
        connection: where answers come from; opened on the first question.
        task: what to find out.
        keywords: whether to ask for keywords.
        wire: answer format; `auto` takes the shortest that the server can enforce.
        gate: decides whose turn it is; None: whoever asks, asks at once.
        capabilities: what may be asked of the connection; None: all that it can do.
        names_itself: write into each answer who gave it.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        task: Task,
        keywords: bool,
        wire: WireName = "auto",
        gate: Gate | None = None,
        capabilities: Capabilities | None = None,
        names_itself: bool = False,
    ) -> None:
        self.connection = connection
        self._gate = gate
        self.capabilities = capabilities or connection.capabilities
        self.task = task
        self.keywords = keywords and task.keywords
        self.wire: Wire = self._choose_wire(wire)
        self.prompt: Prompt = render(task, self.wire, keywords=self.keywords)
        self._constraint: Mapping[str, Any] = {} if wire == "free" else self._constrain()
        # Without keywords one token mostly tells the label; labels that share their first token need more.
        self._short = not self.keywords and self.wire.name == "compact" and bool(self._constraint)
        self._decisive_tokens = 1 if self._short else self.wire.max_tokens
        self._frame = hashlib.sha256(
            "\n".join(
                [
                    f"{ANSWER_VERSION}",
                    connection.about.fingerprint,
                    task.asked_hash,
                    self.prompt.id,
                    json.dumps(self._constraint, sort_keys=True),
                    f"{self.capabilities.top_logprobs}",
                ]
            ).encode()
        ).digest()
        about = connection.about
        by = AnsweredBy(
            model=about.model, fingerprint=about.fingerprint, endpoint=about.endpoint, prompt=self.prompt.id
        )
        self._by = by if names_itself else None
        self.prompt_id, self.wire_name = self.prompt.id, self.wire.name

    def _choose_wire(self, wanted: WireName) -> Wire:
        able = self.capabilities
        compact = able.grammar or able.regex or (able.choice and not self.keywords)
        if wanted == "compact" or (wanted == "auto" and compact):
            return CompactWire(self.task, self.keywords)
        return JsonWire(self.task, self.keywords)

    def _constrain(self) -> Mapping[str, Any]:
        able, wire = self.capabilities, self.wire
        if isinstance(wire, CompactWire):
            if able.grammar:
                return {"grammar": wire.grammar}
            if able.choice and not self.keywords:
                return {"structured_outputs": {"choice": list(self.task.label_names)}}
            return {"structured_outputs": {"regex": wire.regex}} if able.regex else {}
        if able.regex and isinstance(wire, JsonWire):
            # vLLM lets a schema's answer hold any white space, unless the whole server is told otherwise.
            return {"structured_outputs": {"regex": wire.regex}}
        if able.json_schema and isinstance(wire, JsonWire):
            return json_schema_format("answer", wire.schema)
        return {}

    def key(self, text: str) -> bytes:
        """Name (32 bytes) of everything that decides this text's answer: the exact cache key.

        Its first half is `text_prefix`, so that every answer about one text, by whatever task and model, can be found
        and deleted. Each half is half a SHA-256, so that two keys are alike by chance once in 2^128 pairs.
        """
        whole = hashlib.sha256(self._frame + _encoded(text)).digest()
        return self.text_prefix(text) + whole[: KEY_BYTES - TEXT_PREFIX_BYTES]

    def cache_keys(self, text: str) -> tuple[bytes, ...]:
        """The keys under which an answer to this text may lie in the cache, the best first."""
        return (self.key(text),)

    def cache_key(self, text: str, answer: Answer) -> bytes | None:
        """The key under which this answer belongs into the cache; None: nobody would find it."""
        return self.key(text)

    def gave(self, answer: Answer) -> bool:
        """Whether this is an answer of this model to this prompt."""
        by = answer.by
        return by is not None and (by.fingerprint, by.prompt) == (self.connection.about.fingerprint, self.prompt.id)

    def answerer(self, answer: Answer) -> AnsweredBy:
        """Who gave this answer. Its `fingerprint` names the model: what is calibrated, is calibrated for that."""
        about = self.connection.about
        return answer.by or AnsweredBy(
            model=about.model, fingerprint=about.fingerprint, endpoint=about.endpoint, prompt=self.prompt.id
        )

    @staticmethod
    def text_prefix(text: str) -> bytes:
        """The first 16 bytes of every key about this cleaned text: the beginning of its SHA-256 (as UTF-8)."""
        return hashlib.sha256(_encoded(text)).digest()[:TEXT_PREFIX_BYTES]

    async def label(self, text: str, priority: Priority = "interactive") -> Answer:
        """Ask the model about one cleaned comment; what does not fit its context is shortened from the middle.

        One place of the gate is held for all of it, further requests about the same comment included.

        Raises:
            EndpointError: no usable answer, retries included.
            BusyError: too many interactive comments wait already.
        """
        async with self._place(priority), self._limited() as place:
            try:
                answer = await self.label_here(text)
            except EndpointError as error:
                place.outcome = "overloaded" if error.is_overload else "failed"
                raise
            place.outcome = "answered"
            return answer

    def _limited(self) -> AbstractAsyncContextManager[Place]:
        limiter: Limiter | None = getattr(self.connection, "limiter", None)
        return limiter.place() if limiter is not None else nullcontext(Place())

    def _place(self, priority: Priority) -> AbstractAsyncContextManager[None]:
        return self._gate.place(priority) if self._gate is not None else nullcontext()

    async def label_here(self, text: str) -> Answer:
        """The same, at once: whoever calls this has a place.

        Raises:
            EndpointError: no usable answer, retries included.
        """
        text, ordered = drop_orders(text, self.task)
        flags = ("order_dropped",) if ordered else ()
        for shortened in range(_SHORTENINGS + 1):
            try:
                return await self._label(text, (*flags, "shortened") if shortened else flags)
            except ContextOverflowError as error:
                shorter = _shortened(text, _fitting_share(error.message))
                if shortened == _SHORTENINGS or len(shorter) >= len(text):
                    raise
                text = shorter
        raise AssertionError("unreachable: the last try returns or raises")

    async def _label(self, text: str, flags: tuple[str, ...]) -> Answer:
        asked = self._decisive_tokens
        reply = await self._ask(text, asked)
        parsed, label = self._read(reply, asked)
        if label is None and asked == 1:
            asked = self._decisive_tokens = self.wire.max_tokens
            reply = await self._ask(text, asked)
            parsed, label = self._read(reply, asked)
        if label is None:
            raise self._unreadable(reply)
        return self._answer(reply, parsed, label, flags)

    async def request(self, text: str) -> tuple[EndpointClient, bytes]:
        """The first request about one cleaned comment, and the client that would send it; for measuring the engine.

        Raises:
            ReviewmillError: the endpoint cannot be opened.
        """
        client = await self.connection.open(self.prompt)
        shown, _ = drop_orders(text, self.task)
        return client, client.body(
            self.prompt.messages(shown),
            max_tokens=self._decisive_tokens,
            top_logprobs=self.capabilities.top_logprobs,
            constraint=self._constraint,
        )

    async def _ask(self, text: str, max_tokens: int) -> Completion:
        client = await self.connection.open(self.prompt)
        async with self.connection.placed(self.prompt) as place:
            return await client.complete(
                self.prompt.messages(text),
                max_tokens=max_tokens,
                top_logprobs=self.capabilities.top_logprobs,
                constraint={**self._constraint, **place} if place else self._constraint,
            )

    def _read(self, reply: Completion, asked: int) -> tuple[Parsed, str | None]:
        """The answer and its label; of one token that was asked for, only one label may be meant."""
        parsed = self.wire.parse(reply.text)
        if asked > 1:
            return parsed, parsed.label
        # One token "好" may be the label "好" or the start of "好评".
        begun = reply.text.strip()
        meant = [name for name in self.task.label_names if begun and name.startswith(begun)]
        return parsed, meant[0] if len(meant) == 1 else None

    def _answer(self, reply: Completion, parsed: Parsed, label: str, flags: tuple[str, ...]) -> Answer:
        scores = (
            score_labels(
                reply.steps, self.task.label_names, start=parsed.label_start, terminators=self.wire.terminators
            )
            if reply.steps and self.capabilities.top_logprobs  # without alternatives every label looks certain
            else None
        )
        if scores is not None and scores.mass < LOW_MASS:
            flags += ("low_label_mass",)
        if self.keywords and (not parsed.complete or reply.finish_reason == "length"):
            flags += ("keywords_cut",)
        return Answer(
            label=label,
            logprobs=scores.logprobs if scores else None,
            mass=scores.mass if scores else None,
            keywords=parsed.keywords if self.keywords else (),
            flags=flags,
            tokens_in=reply.tokens_in,
            tokens_out=reply.tokens_out,
            latency_ms=round(reply.latency_ms, 1),
            by=self._by,
        )

    def _unreadable(self, reply: Completion) -> AnswerError:
        labels = ", ".join(self.task.label_names)
        shown = reply.text[:80].replace("\n", "⏎")
        where = self.connection.about.endpoint
        if reply.finish_reason == "length":
            return AnswerCutError(
                f"The answer of {where} was cut before it held a label ({labels}): {shown!r}.",
                hint="Does the model think aloud before it answers? Switch that off, or use another model.",
            )
        hint = "The server enforces no format and the model did not keep to it; a larger model might."
        if self._constraint:
            hint = "The server was told to enforce the format and did not; its log may say why."
        return AnswerError(f"The answer of {where} holds no label of the task ({labels}): {shown!r}.", hint=hint)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _fitting_share(said: str) -> float:
    """The share of a text that should fit, from what the server says of its length and its limit; else half."""
    tokens = [int(number) for number in re.findall(r"(\d+)(?: \w+)? tokens", said)]
    limit, asked = (min(tokens), max(tokens)) if tokens else (0, 0)
    return max(_LEAST_SHARE, min(_MOST_SHARE, _MARGIN * limit / asked)) if 0 < limit < asked else 0.5


def _shortened(text: str, share: float) -> str:
    """A share of a text: its beginning (60%) and its end (40%), where most comments say what they mean."""
    kept = int(len(text) * share)
    head = kept * 6 // 10
    return text[:head] + _GAP + text[len(text) - (kept - head) :]
