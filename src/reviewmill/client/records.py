"""What a service tells, as Python values: jobs, what they say of themselves, corrections; and how answers are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, TypeAdapter
from typing_extensions import TypedDict

from reviewmill.schema import Analysis

ENDED: Final = frozenset({"done", "failed", "cancelled", "deleted"})
"""States of a job in which nothing more happens."""


class Job(BaseModel):
    """A job as the service tells it; times are in UTC.

    Attributes:
        state: `queued`, `running`, `done`, `failed` or `cancelled`.
        progress: phase, distinct texts and how many are done, rate.
        summary: when done: counts, shares, routes, errors, keywords.
        cascade: what was asked of a student (`agreement`, `budget`, `delta`, `per_class`); None: nothing.
        certificate: when a cascade is done: what may be said of the labels; `sentence` says it to everybody.
        error: when failed: why, and what to do.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    state: str
    owner: str
    task: str
    filename: str
    format: str
    text_column: str | None = None
    id_column: str | None = None
    size: int
    sha256: str
    rows: int | None = None
    progress: dict[str, Any] = {}
    summary: dict[str, Any] | None = None
    cascade: dict[str, Any] | None = None
    certificate: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more happens with it."""
        return self.state in ENDED


class Correction(BaseModel):
    """A person's label for a comment, as the service keeps it; times are in UTC.

    Attributes:
        external_id: the `id` that it was sent with.
        model_label: what the model had said, with `confidence`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    external_id: str | None = None
    text: str
    text_sha256: str
    task: str
    label: str
    model_label: str | None = None
    confidence: float | None = None
    note: str | None = None
    author: str | None = None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class JobEvent:
    """What a job said of itself.

    Attributes:
        type: `state` or `progress`.
        id: names it; a follower that comes back says it.
        data: `state` and, beside it, the progress, the summary or the error.
    """

    type: str
    id: str | None
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether it is the job's last one."""
        return self.type == "state" and self.data.get("state") in ENDED


class _Analyses(TypedDict):
    results: list[Analysis]


class _Tasks(TypedDict):
    tasks: list[dict[str, Any]]


class _Page(TypedDict):
    items: list[Any]
    next_cursor: str | None


class _Models(TypedDict):
    data: list[dict[str, Any]]


ANALYSES: Final = TypeAdapter(_Analyses)
JOB: Final = TypeAdapter(Job)
CORRECTION: Final = TypeAdapter(Correction)
TASKS: Final = TypeAdapter(_Tasks)
MODELS: Final = TypeAdapter(_Models)
DELETED: Final = TypeAdapter(dict[str, int])
PAGE: Final = TypeAdapter(_Page)
