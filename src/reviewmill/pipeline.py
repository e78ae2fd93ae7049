"""One comment's way: prepare → (cache, model) → analysis. Shared by the Python classes and the batch run.

`prepare` and `Assembler` are pure. `Pipeline` adds what talks to the outside: the labeller and the cache.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from reviewmill.cache import AnswerCache
from reviewmill.endpoints import Labeller, Priority
from reviewmill.errors import EndpointError, ReviewmillError
from reviewmill.schema import Analysis, Answer, AnsweredBy, Comment, ErrorInfo, Provenance, Route, Span, Status
from reviewmill.scoring import Bound, Calibration, Chosen, choose, reweigh
from reviewmill.scoring.parts import overall, vote
from reviewmill.settings import Settings
from reviewmill.tasks import Task
from reviewmill.text import CleanText, clean, detect_language, locate, redact, shorten, triage
from reviewmill.text.parts import Part, split_text

_PARTS_AT_ONCE: Final = 16

REVIEW_FLAGS: Final = frozenset({"low_label_mass", "order_dropped", "shortened"})
"""Flags that ask for a person whatever the confidence."""


@dataclass(frozen=True, slots=True)
class PreparedPart:
    """A part of a long comment.

    Attributes:
        part: where it stands in the comment, and who says it.
        prepared: the part by itself, cleaned and triaged; its offsets are its own.
        counts: whether it decides about the whole; what an agent says to a customer does not, and is asked of nobody.
    """

    part: Part
    prepared: Prepared
    counts: bool


@dataclass(frozen=True, slots=True)
class Prepared:
    """A comment, cleaned and triaged.

    Exactly one of these holds: `text` is to be answered; or `parts` are, each by itself; or `insufficient` says why
    there is nothing to judge; or `error` says why it cannot be judged.
    """

    comment: Comment
    cleaned: CleanText | None
    insufficient: str | None = None
    error: ErrorInfo | None = None
    parts: tuple[PreparedPart, ...] = ()

    @property
    def text(self) -> str | None:
        """The cleaned text that the model is to judge, if it is to judge the comment as one."""
        if self.cleaned is None or self.insufficient or self.error or self.parts:
            return None
        return self.cleaned.text

    @property
    def texts(self) -> list[str]:
        """All cleaned texts that the model is to judge: one, or those of the parts."""
        if self.parts:
            return [each.prepared.text for each in self.parts if each.counts and each.prepared.text is not None]
        return [] if self.text is None else [self.text]


def prepare(
    comment: Comment, *, max_chars: int, max_raw_chars: int, redacted: bool = False, split: bool = False
) -> Prepared:
    """Clean and triage one comment. Pure, and never raises for any string.

    What it returns as `text` is all that anybody else sees of the comment: key, cache, endpoint, journal.

    Args:
        comment: the comment.
        max_chars: longer cleaned comments are shortened from the middle (code points).
        max_raw_chars: longer raw comments are refused (code points).
        redacted: whether personal data are masked.
        split: whether conversations and long articles are judged part by part.
    """
    if len(comment.text) > max_raw_chars:
        message = f"The comment has {len(comment.text):,} characters; the limit is {max_raw_chars:,}."
        return Prepared(comment, None, error=ErrorInfo(type="comment_too_long", message=message))
    if split:
        kind, parts = split_text(comment.text)
        if len(parts) > 1:
            return _in_parts(comment, kind, parts, max_chars=max_chars, redacted=redacted)
    cleaned = clean(comment.text)
    if redacted:
        cleaned = redact(cleaned)
    reason = triage(cleaned.text)
    if reason:
        return Prepared(comment, cleaned, insufficient=reason)
    return Prepared(comment, shorten(cleaned, max_chars))


def prepare_under(limits: Settings, comment: Comment) -> Prepared:
    """Clean and triage one comment, under the limits that the settings name."""
    return prepare(
        comment,
        max_chars=limits.max_raw_chars if limits.long == "whole" else limits.max_comment_chars,
        max_raw_chars=limits.max_raw_chars,
        redacted=limits.redact,
        split=limits.long == "split",
    )


def _in_parts(comment: Comment, kind: str, parts: Sequence[Part], *, max_chars: int, redacted: bool) -> Prepared:
    heard = any(part.role == "customer" for part in parts)
    ready = []
    for part in parts:
        counts = kind != "transcript" or (part.role == "customer" if heard else part.role != "agent")
        own = Comment(comment.text[part.start : part.end], comment.id)
        prepared = prepare(own, max_chars=max_chars, max_raw_chars=len(own.text), redacted=redacted)
        ready.append(PreparedPart(part, prepared, counts))
    whole = CleanText(comment.text, comment.text, flags=("split",))
    if not any(each.counts and each.prepared.text is not None for each in ready):
        return Prepared(comment, whole, insufficient="no_words", parts=tuple(ready))
    return Prepared(comment, whole, parts=tuple(ready))


def error_info(error: ReviewmillError) -> ErrorInfo:
    """Turn an exception about one comment into what its row carries."""
    kind = error.type if isinstance(error, EndpointError) else "endpoint_error"
    return ErrorInfo(type=kind, message=error.message)


class Assembler:
    """Turns answers into analyses. Pure.

    Args:
        task: the task; the label stands under its name.
        answerer: tells who gave an answer.
        review_below: confidence under which a person should look (0 to 1).
        calibrations: replace the task's weights where there is one; it was fitted in their place.
    """

    def __init__(
        self,
        task: Task,
        answerer: Callable[[Answer], AnsweredBy],
        review_below: float,
        calibrations: Calibrations | None = None,
    ) -> None:
        self.task = task
        self._answerer = answerer
        self._calibrations = calibrations
        self._review_below = review_below

    def answered(self, prepared: Prepared, answer: Answer, route: Route) -> Analysis:
        """The analysis of a comment that was answered."""
        if prepared.cleaned is None:
            raise ValueError("a comment that was refused cannot have an answer")
        who = self._answerer(answer)
        label, probabilities = self.decided(prepared.text, answer, route)
        confidence = round(probabilities[label], 4) if probabilities else None
        spans = locate(answer.keywords, prepared.cleaned)
        flags = list(dict.fromkeys((*prepared.cleaned.flags, *answer.flags)))
        unsure = confidence is None or confidence < self._review_below or not REVIEW_FLAGS.isdisjoint(flags)
        analysis = self._frame(prepared, label, "ok", route, who)
        analysis.update(
            confidence=confidence,
            probabilities=probabilities,
            keywords=[span["text"] for span in spans],
            spans=spans,
            language=detect_language(prepared.cleaned.text),
            flags=flags,
            needs_review=unsure,
        )
        analysis["provenance"]["latency_ms"] = answer.latency_ms if route == "model" else None
        calibration = self._calibration_of(who)
        if probabilities and calibration is not None and route != "student":
            analysis["provenance"]["calibration"] = calibration.id
        return analysis

    @property
    def calibration(self) -> Calibration | None:
        """The calibration of this labeller's answers; in a mixed pool, each model has its own."""
        return self._calibrations.chosen.calibration if self._calibrations else None

    def assemble(self, prepared: Prepared, find: Callable[[str], Outcome]) -> Analysis:
        """The analysis of a comment, whatever became of it.

        Args:
            prepared: the comment.
            find: tells what became of each of `prepared.texts`.
        """
        if prepared.parts and not prepared.insufficient:
            return self._in_parts(prepared, find)
        if prepared.text is None:
            return self.unanswered(prepared)
        outcome = find(prepared.text)
        return self.answered(prepared, *outcome) if isinstance(outcome, tuple) else self.unanswered(prepared, outcome)

    def _in_parts(self, prepared: Prepared, find: Callable[[str], Outcome]) -> Analysis:
        """The verdict on a whole from those on its parts (see `scoring.parts`). A part that failed fails the whole."""
        analyses = [self.assemble(each.prepared, find) if each.counts else None for each in prepared.parts]
        told = [(each, own) for each, own in zip(prepared.parts, analyses, strict=True) if own is not None]
        failed = next((own["error"] for _, own in told if own["status"] == "error"), None)
        if failed is not None:
            analysis = self.unanswered(prepared, failed)
        else:
            analysis = self._verdict(prepared, [(each, own) for each, own in told if own["status"] == "ok"])
        analysis["parts"] = [self._part(each, own) for each, own in zip(prepared.parts, analyses, strict=True)]
        return analysis

    def _verdict(self, prepared: Prepared, judged: Sequence[tuple[PreparedPart, Analysis]]) -> Analysis:
        lengths = [len(each.prepared.text or "") for each, _ in judged]
        probabilities: dict[str, float] = {}
        if all(own["probabilities"] for _, own in judged):
            means = overall([(own["probabilities"], length) for (_, own), length in zip(judged, lengths, strict=True)])
            probabilities = {name: round(p, 6) for name, p in means.items()}
            label = max(probabilities, key=probabilities.__getitem__)
        else:
            label = vote([(own.label or "", length) for (_, own), length in zip(judged, lengths, strict=True)])
        confidence = round(probabilities[label], 4) if probabilities else None
        spans = [
            Span(text=span["text"], start=span["start"] + each.part.start, end=span["end"] + each.part.start)
            for each, own in judged
            for span in own["spans"]
        ]
        routes = {own["route"] for _, own in judged}
        route: Route = "model" if "model" in routes else "student" if "student" in routes else "cache"
        analysis = self._frame(prepared, label, "ok", route)
        flags = dict.fromkeys(("split", *(flag for _, own in judged for flag in own["flags"])))
        analysis.update(
            confidence=confidence,
            probabilities=probabilities,
            keywords=list(dict.fromkeys(span["text"] for span in spans)),
            spans=spans,
            language=detect_language(prepared.comment.text),
            flags=list(flags),
            needs_review=confidence is None or confidence < self._review_below or not REVIEW_FLAGS.isdisjoint(flags),
        )
        whose = [own["provenance"] for _, own in judged]
        for name in ("model", "endpoint", "prompt", "calibration"):
            said = list(dict.fromkeys(each[name] for each in whose if each[name]))
            analysis["provenance"][name] = ", ".join(said) or None
        return analysis

    def _part(self, each: PreparedPart, own: Analysis | None) -> dict[str, Any]:
        """What a result says of one part."""
        part = each.part
        told: dict[str, Any] = {"text": each.prepared.comment.text, "start": part.start, "end": part.end}
        if part.speaker is not None:
            told |= {"speaker": part.speaker, "role": part.role}
        told["counts"] = each.counts
        if own is not None:
            names = (self.task.name, "status", "confidence", "probabilities", "keywords", "flags", "error")
            told |= {name: own[name] for name in names}
        return told

    def _calibration_of(self, who: AnsweredBy) -> Calibration | None:
        return self._calibrations.of(who) if self._calibrations else None

    def decided(self, text: str | None, answer: Answer, route: Route) -> tuple[str, dict[str, float]]:
        """The label and the probabilities that an analysis gets from an answer.

        A student has learned from labels that were calibrated and weighed; what it says is final.
        """
        probabilities = {name: round(p, 6) for name, p in self._probabilities(text, answer, route).items()}
        if route == "student" or not probabilities:
            return answer.label, probabilities
        # The most probable label; it differs from the generated one where calibration decides, or two are nearly even.
        return max(probabilities, key=probabilities.__getitem__), probabilities

    def _probabilities(self, text: str | None, answer: Answer, route: Route) -> dict[str, float]:
        if not answer.logprobs:
            return {}
        if route == "student":
            return {name: math.exp(value) for name, value in answer.logprobs.items()}
        calibration = self._calibration_of(self._answerer(answer))
        if calibration is not None:
            return calibration.apply(answer.logprobs, text)
        return reweigh(answer.logprobs, self.task.weights)

    def unanswered(self, prepared: Prepared, error: ErrorInfo | None = None) -> Analysis:
        """The analysis of a comment that triage answered, or of one that failed (`error`, or the prepared one's)."""
        error = error or prepared.error
        if error is not None:
            analysis = self._frame(prepared, None, "error", None)
            analysis.update(error=error, needs_review=True)
        else:
            analysis = self._frame(prepared, None, "insufficient", "rule")
            analysis["flags"] = [prepared.insufficient]
        if prepared.cleaned is not None:
            analysis["flags"] = [*prepared.cleaned.flags, *analysis["flags"]]
            analysis["language"] = detect_language(prepared.cleaned.text)
        return analysis

    def _frame(
        self,
        prepared: Prepared,
        label: str | None,
        status: Status,
        route: Route | None,
        by: AnsweredBy | None = None,
    ) -> Analysis:
        by_student = route == "student"
        model = by.model if by else None
        provenance = Provenance(
            model=f"student of {model}" if model and by_student else model,
            task=self.task.name,
            prompt=by.prompt if by else None,
            endpoint=by.endpoint if by and not by_student else None,
            calibration=None,
            latency_ms=None,
        )
        return Analysis(
            {
                self.task.name: label,
                "confidence": None,
                "keywords": [],
                "original_text": prepared.comment.text,
                "id": prepared.comment.id,
                "status": status,
                "probabilities": {},
                "spans": [],
                "language": None,
                "flags": [],
                "route": route,
                "needs_review": False,
                "error": None,
                "provenance": provenance,
            }
        )


Outcome = tuple[Answer, Route] | ErrorInfo
"""What became of one text: an answer and where it came from, or why there is none."""


def bound_of(labeller: Labeller) -> Bound:
    """What a calibration for this labeller's answers is bound to."""
    about = labeller.connection.about
    return Bound(model=about.fingerprint, task=labeller.task.asked_hash, prompt=labeller.prompt.id)


def choose_calibration(settings: Settings, labeller: Labeller) -> Chosen:
    """The calibration for this labeller's answers; none where the endpoint gives no probabilities to calibrate.

    Raises:
        SettingsError: the one that the settings name does not exist, or was fitted for something else.
    """
    if not labeller.capabilities.top_logprobs:
        return Chosen(None)
    return choose(settings.calibration, bound_of(labeller), labeller.task.name, settings.calibrations_dir)


class Calibrations:
    """The calibration of each model's answers; those of a mixed pool are looked up when their first answer comes.

    Raises:
        SettingsError: the one that the settings name does not exist, or was fitted for something else.
    """

    def __init__(self, settings: Settings, labeller: Labeller) -> None:
        self.chosen = choose_calibration(settings, labeller)
        self._settings = settings
        self._task = labeller.task
        bound = bound_of(labeller)
        self._by: dict[tuple[str, str], Calibration | None] = {(bound.model, bound.prompt): self.chosen.calibration}

    def of(self, who: AnsweredBy) -> Calibration | None:
        """The calibration of this model's answers, if there is one."""
        key = (who.fingerprint, who.prompt)
        if key not in self._by:
            bound = Bound(model=who.fingerprint, task=self._task.asked_hash, prompt=who.prompt)
            settings = self._settings
            self._by[key] = choose(settings.calibration, bound, self._task.name, settings.calibrations_dir).calibration
        return self._by[key]


@dataclass(slots=True)
class _Shared:
    """One request for an answer, and how many wait for it."""

    request: asyncio.Task[tuple[Answer, Route]]
    askers: int = 0
    route_told: bool = False


class Pipeline:
    """Everything that is needed to analyse comments with one task on one endpoint.

    Args:
        settings: limits and thresholds.
        labeller: asks the model.
        cache: where answers are kept, or None.

    Attributes:
        calibration_notes: what the user should know about the choice of the calibration.

    Raises:
        SettingsError: the calibration that the settings name does not exist, or was fitted for something else.
    """

    def __init__(self, settings: Settings, labeller: Labeller, cache: AnswerCache | None) -> None:
        self.settings = settings
        self.labeller = labeller
        self.cache = cache
        calibrations = Calibrations(settings, labeller)
        self.calibration_notes = calibrations.chosen.notes
        self.assembler = Assembler(labeller.task, labeller.answerer, settings.review_below, calibrations)
        self._in_flight: dict[tuple[bytes, Priority], _Shared] = {}

    def prepare(self, comment: Comment) -> Prepared:
        """Clean and triage under this pipeline's limits."""
        return prepare_under(self.settings, comment)

    async def cached(self, keys: Sequence[bytes]) -> dict[bytes, Answer]:
        """Answers that the cache holds."""
        return await asyncio.to_thread(self.cache.get_many, keys) if self.cache is not None else {}

    async def look_up(self, texts: Mapping[bytes, str]) -> dict[bytes, Answer]:
        """Answers that the cache holds to cleaned texts, by the keys that name these (`labeller.key`)."""
        if self.cache is None or not texts:
            return {}
        places = {key: self.labeller.cache_keys(text) for key, text in texts.items()}
        found = await self.cached([place for several in places.values() for place in several])
        answers = {key: next((found[at] for at in several if at in found), None) for key, several in places.items()}
        return {key: answer for key, answer in answers.items() if answer is not None}

    async def keep(self, answers: Iterable[tuple[str, Answer]]) -> None:
        """Put answers to cleaned texts into the cache."""
        if self.cache is None:
            return
        placed = [(self.labeller.cache_key(text, answer), answer) for text, answer in answers]
        if kept := {key: answer for key, answer in placed if key is not None}:
            await asyncio.to_thread(self.cache.put_many, kept)

    async def answer(self, text: str, priority: Priority = "interactive") -> tuple[Answer, Route]:
        """Answer one cleaned text: from the cache, from a request already under way, or from the model.

        Equal texts that are asked about at the same time share one request. It belongs to all who ask: who is
        cancelled fails nobody else, and the request is cancelled when its last asker is gone. Interactive askers do
        not share a job's request, which might still wait behind everybody.

        Raises:
            ReviewmillError: no usable answer, retries included.
            BusyError: too many interactive comments wait already.
        """
        name = (self.labeller.key(text), priority)
        shared = self._in_flight.get(name)
        if shared is None:
            shared = _Shared(asyncio.create_task(self._look_up_or_ask(text, priority)))
            self._in_flight[name] = shared
        shared.askers += 1
        try:
            answer, route = await asyncio.shield(shared.request)
        finally:
            shared.askers -= 1
            if not shared.askers:
                del self._in_flight[name]
                shared.request.cancel()  # does nothing once it is done
        # One of them shows who answered; the others were answered by that answer.
        route, shared.route_told = "cache" if shared.route_told else route, True
        return answer, route

    async def _look_up_or_ask(self, text: str, priority: Priority) -> tuple[Answer, Route]:
        key = self.labeller.key(text)
        found = (await self.look_up({key: text})).get(key)
        if found is not None:
            return found, "cache"
        answer = await self.labeller.label(text, priority)
        await self.keep([(text, answer)])
        return answer, "model"

    async def analyse(self, comment: Comment) -> Analysis:
        """Analyse one comment.

        Raises:
            ReviewmillError: the comment has words to judge, and no usable answer came.
        """
        prepared = self.prepare(comment)
        texts = list(dict.fromkeys(prepared.texts))
        found = dict(zip(texts, await self._answers(texts), strict=True))
        return self.assembler.assemble(prepared, lambda text: found[text])

    async def _answers(self, texts: Sequence[str]) -> list[tuple[Answer, Route]]:
        """Answers to the parts of one comment, a few asked at a time; the first failure ends it."""
        if len(texts) == 1:
            return [await self.answer(texts[0])]
        places = asyncio.Semaphore(_PARTS_AT_ONCE)

        async def one(text: str) -> tuple[Answer, Route]:
            async with places:
                return await self.answer(text)

        tasks = [asyncio.create_task(one(text)) for text in texts]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def analyse_row(self, comment: Comment) -> Analysis:
        """Analyse one of many: a failure becomes the row's own error."""
        try:
            return await self.analyse(comment)
        except EndpointError as error:
            return self.assembler.unanswered(self.prepare(comment), error_info(error))
