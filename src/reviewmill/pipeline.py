"""One comment's way: prepare → (cache, model) → analysis. Shared by the Python classes and the batch run.

`prepare` and `Assembler` are pure. `Pipeline` adds what talks to the outside: the labeller and the cache.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from reviewmill.cache import AnswerCache
from reviewmill.endpoints import About, Labeller, Priority
from reviewmill.errors import EndpointError, ReviewmillError
from reviewmill.schema import Analysis, Answer, Comment, ErrorInfo, Provenance, Route, Status
from reviewmill.scoring import Bound, Calibration, Chosen, choose, reweigh
from reviewmill.settings import Settings
from reviewmill.tasks import Task
from reviewmill.text import CleanText, clean, detect_language, locate, redact, shorten, triage

REVIEW_FLAGS: Final = frozenset({"low_label_mass", "order_dropped", "shortened"})
"""Flags that ask for a person whatever the confidence."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A comment, cleaned and triaged.

    Exactly one of these holds: `text` is to be answered; or `insufficient` says why there is nothing to judge; or
    `error` says why it cannot be judged.
    """

    comment: Comment
    cleaned: CleanText | None
    insufficient: str | None = None
    error: ErrorInfo | None = None

    @property
    def text(self) -> str | None:
        """The cleaned text that the model is to judge, if it is to judge any."""
        if self.cleaned is None or self.insufficient or self.error:
            return None
        return self.cleaned.text


def prepare(comment: Comment, *, max_chars: int, max_raw_chars: int, redacted: bool = False) -> Prepared:
    """Clean and triage one comment. Pure, and never raises for any string.

    What it returns as `text` is all that anybody else sees of the comment: key, cache, endpoint, journal.

    Args:
        comment: the comment.
        max_chars: longer cleaned comments are shortened from the middle (code points).
        max_raw_chars: longer raw comments are refused (code points).
        redacted: whether personal data are masked.
    """
    if len(comment.text) > max_raw_chars:
        message = f"The comment has {len(comment.text):,} characters; the limit is {max_raw_chars:,}."
        return Prepared(comment, None, error=ErrorInfo(type="comment_too_long", message=message))
    cleaned = clean(comment.text)
    if redacted:
        cleaned = redact(cleaned)
    reason = triage(cleaned.text)
    if reason:
        return Prepared(comment, cleaned, insufficient=reason)
    return Prepared(comment, shorten(cleaned, max_chars))


def error_info(error: ReviewmillError) -> ErrorInfo:
    """Turn an exception about one comment into what its row carries."""
    kind = error.type if isinstance(error, EndpointError) else "endpoint_error"
    return ErrorInfo(type=kind, message=error.message)


class Assembler:
    """Turns answers into analyses. Pure.

    Args:
        task: the task; the label stands under its name.
        about: what answered.
        prompt_id: names the prompt.
        review_below: confidence under which a person should look (0 to 1).
        calibration: replaces the task's weights where there is one; it was fitted in their place.
    """

    def __init__(
        self,
        task: Task,
        about: About,
        prompt_id: str,
        review_below: float,
        calibration: Calibration | None = None,
    ) -> None:
        self.task = task
        self.calibration = calibration
        self._about = about
        self._prompt_id = prompt_id
        self._review_below = review_below

    def answered(self, prepared: Prepared, answer: Answer, route: Route) -> Analysis:
        """The analysis of a comment that was answered."""
        if prepared.cleaned is None:
            raise ValueError("a comment that was refused cannot have an answer")
        label, probabilities = self.decided(prepared.text, answer, route)
        confidence = round(probabilities[label], 4) if probabilities else None
        spans = locate(answer.keywords, prepared.cleaned)
        flags = list(dict.fromkeys((*prepared.cleaned.flags, *answer.flags)))
        unsure = confidence is None or confidence < self._review_below or not REVIEW_FLAGS.isdisjoint(flags)
        analysis = self._frame(prepared, label, "ok", route)
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
        if probabilities and self.calibration is not None and route != "student":
            analysis["provenance"]["calibration"] = self.calibration.id
        return analysis

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
        if self.calibration is not None:
            return self.calibration.apply(answer.logprobs, text)
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

    def _frame(self, prepared: Prepared, label: str | None, status: Status, route: Route | None) -> Analysis:
        answered, by_student = route not in {None, "rule"}, route == "student"
        model = f"student of {self._about.model}" if by_student else self._about.model
        provenance = Provenance(
            model=model if answered else None,
            task=self.task.name,
            prompt=self._prompt_id if answered else None,
            endpoint=self._about.endpoint if answered and not by_student else None,
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
        chosen = choose_calibration(settings, labeller)
        self.calibration_notes = chosen.notes
        self.assembler = Assembler(
            labeller.task,
            labeller.connection.about,
            labeller.prompt.id,
            settings.review_below,
            chosen.calibration,
        )
        self._in_flight: dict[tuple[bytes, Priority], _Shared] = {}

    def prepare(self, comment: Comment) -> Prepared:
        """Clean and triage under this pipeline's limits."""
        limits = self.settings
        return prepare(
            comment,
            max_chars=limits.max_comment_chars,
            max_raw_chars=limits.max_raw_chars,
            redacted=limits.redact,
        )

    async def cached(self, keys: Sequence[bytes]) -> dict[bytes, Answer]:
        """Answers that the cache holds."""
        return await asyncio.to_thread(self.cache.get_many, keys) if self.cache is not None else {}

    async def keep(self, answers: Mapping[bytes, Answer]) -> None:
        """Put answers into the cache."""
        if self.cache is not None and answers:
            await asyncio.to_thread(self.cache.put_many, answers)

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
        found = (await self.cached([key])).get(key)
        if found is not None:
            return found, "cache"
        answer = await self.labeller.label(text, priority)
        await self.keep({key: answer})
        return answer, "model"

    async def analyse(self, comment: Comment) -> Analysis:
        """Analyse one comment.

        Raises:
            ReviewmillError: the comment has words to judge, and no usable answer came.
        """
        prepared = self.prepare(comment)
        if prepared.text is None:
            return self.assembler.unanswered(prepared)
        answer, route = await self.answer(prepared.text)
        return self.assembler.answered(prepared, answer, route)

    async def analyse_row(self, comment: Comment) -> Analysis:
        """Analyse one of many: a failure becomes the row's own error."""
        try:
            return await self.analyse(comment)
        except EndpointError as error:
            return self.assembler.unanswered(self.prepare(comment), error_info(error))
