"""What a question is about: the analysed rows of a set, read from where they lie. Everything in here blocks."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Final, Protocol

from reviewmill.batch.manifest import Tally
from reviewmill.schema import Analysis
from reviewmill.server.face.followups import FollowUp
from reviewmill.server.face.overview import UNCERTAIN_ROWS, Numbered
from reviewmill.server.jobs.files import JobFiles
from reviewmill.server.jobs.results import ResultGoneError, counts_of, records_of
from reviewmill.server.talk.links import Thing
from reviewmill.store import JobRecord

_MOST_TEXTS: Final = 2_000


class Material(Protocol):
    """Analysed rows.

    Attributes:
        thing: what a link to it opens, and that thing's id; None: nothing keeps it.
    """

    thing: tuple[Thing, str] | None

    def rows(self) -> Iterator[Numbered]:
        """All rows in their order; raises `ResultGoneError` if they are not there any more."""

    @property
    def counts(self) -> dict[str, Any]:
        """What the rows are, counted."""


class JobMaterial:
    """The result of a finished job."""

    def __init__(self, job: JobRecord, files: JobFiles) -> None:
        self._job = job
        self._result = files.result(job.token)
        self.thing: tuple[Thing, str] | None = ("job", job.id)

    def rows(self) -> Iterator[Numbered]:
        """All rows in their order."""
        try:
            for number, record in enumerate(records_of(self._result), 1):
                yield number, Analysis(record)
        except FileNotFoundError:
            raise ResultGoneError("The job's result is not there any more.") from None

    @property
    def counts(self) -> dict[str, Any]:
        """What the job's summary counts."""
        return self._job.summary or {}


class TypedMaterial:
    """Comments that were typed."""

    def __init__(self, rows: Sequence[Numbered], task: str, thing: tuple[Thing, str] | None) -> None:
        self._rows = rows
        self._task = task
        self.thing = thing

    def rows(self) -> Iterator[Numbered]:
        """All rows in their order."""
        return iter(self._rows)

    @cached_property
    def counts(self) -> dict[str, Any]:
        """The same as a job's summary counts."""
        tally = Tally()
        for _, analysis in self._rows:
            tally.add(analysis, self._task)
        return counts_of(tally)


def row_of(material: Material, number: int) -> Analysis | None:
    """One row, by its number."""
    if number < 1:
        return None
    return next((analysis for _, analysis in islice(material.rows(), number - 1, number)), None)


def fits(analysis: Analysis, wanted: FollowUp) -> bool:
    """Whether a row is of the kind that was asked for."""
    if analysis["status"] == "deleted":
        return False
    if wanted.labels and analysis.label not in wanted.labels:
        return False
    if wanted.only == "review" and not analysis["needs_review"]:
        return False
    if wanted.only in {"error", "insufficient"} and analysis["status"] != wanted.only:
        return False
    return wanted.about is None or wanted.about in (analysis["original_text"] or "").casefold()


def select(material: Material, wanted: FollowUp, most: int) -> tuple[int, list[Numbered]]:
    """How many rows are of a kind, and the first of them."""
    found = 0
    first: list[Numbered] = []
    for number, analysis in material.rows():
        if fits(analysis, wanted):
            found += 1
            if len(first) < most:
                first.append((number, analysis))
    return found, first


def least_certain(material: Material, labels: Sequence[str] = (), most: int = UNCERTAIN_ROWS) -> list[Numbered]:
    """The rows whose label is least certain, the least certain first; equal ones in their order."""
    rated = (
        (analysis["confidence"], number, analysis)
        for number, analysis in material.rows()
        if analysis["confidence"] is not None and (not labels or analysis.label in labels)
    )
    return [(number, analysis) for _, number, analysis in heapq.nsmallest(most, rated, key=lambda each: each[:2])]


@dataclass(frozen=True, slots=True)
class Gist:
    """What rows of a kind are about.

    Attributes:
        found: how many there are.
        texts: some of them, from everywhere.
        keywords: the most frequent keywords, each with how many rows have it and the first of these.
    """

    found: int
    texts: list[str]
    keywords: list[tuple[str, int, int]]


def gist(material: Material, wanted: FollowUp, most_keywords: int) -> Gist:
    """What rows of a kind are about."""
    texts: list[str] = []
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    found, step = 0, 1
    for number, analysis in material.rows():
        if not fits(analysis, wanted) or analysis["status"] != "ok":
            continue
        if found % step == 0:
            texts.append(analysis["original_text"])
            if len(texts) > _MOST_TEXTS:  # every second one is enough from here on
                texts, step = texts[::2], step * 2
        found += 1
        for keyword in dict.fromkeys(analysis["keywords"]):
            counts[keyword] += 1
            first.setdefault(keyword, number)
    top = [(keyword, count, first[keyword]) for keyword, count in counts.most_common(most_keywords)]
    return Gist(found, texts, top)
