"""What is written beside an output: everything that decided the result, and what came of it."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from reviewmill._version import __version__
from reviewmill.batch.read import Source
from reviewmill.errors import OutputError
from reviewmill.pipeline import Pipeline
from reviewmill.schema import SCHEMA_VERSION, Analysis

_TOP_KEYWORDS: Final = 10
_KEYWORDS_HELD: Final = 50_000


@dataclass(slots=True)
class Tally:
    """Counts over the rows of an output."""

    rows: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    routes: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    error_types: Counter[str] = field(default_factory=Counter)
    needs_review: int = 0
    confidence_sum: float = 0.0
    confidences: int = 0
    first_error: str | None = None
    keywords: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    @property
    def errors(self) -> int:
        """Rows with an error."""
        return self.statuses["error"]

    def add(self, analysis: Analysis, task: str) -> None:
        """Count one row in."""
        self.rows += 1
        self.statuses[analysis["status"]] += 1
        self.needs_review += analysis["needs_review"]
        if analysis["route"]:
            self.routes[analysis["route"]] += 1
        if analysis["language"]:
            self.languages[analysis["language"]] += 1
        if analysis["error"]:
            self.error_types[analysis["error"]["type"]] += 1
            self.first_error = self.first_error or analysis["error"]["message"]
        if analysis["confidence"] is not None:
            self.confidences += 1
            self.confidence_sum += analysis["confidence"]
        label = analysis[task]
        if label is not None:
            self.labels[label] += 1
            self._add_keywords(label, analysis["keywords"])

    def _add_keywords(self, label: str, keywords: list[str]) -> None:
        counts = self.keywords[label]
        counts.update(keywords)
        if len(counts) > 2 * _KEYWORDS_HELD:  # memory must not grow with the input; the rare ones go
            self.keywords[label] = Counter(dict(counts.most_common(_KEYWORDS_HELD)))

    @property
    def mean_confidence(self) -> float | None:
        """Mean over the rows that have one."""
        return round(self.confidence_sum / self.confidences, 4) if self.confidences else None

    def top_keywords(self) -> dict[str, list[tuple[str, int]]]:
        """The most frequent keywords of each label, with their counts."""
        return {label: counts.most_common(_TOP_KEYWORDS) for label, counts in self.keywords.items()}


def describe_run(
    pipeline: Pipeline, source: Source, output: Path, cascade: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Everything that decides a run's result: two runs with equal descriptions give equal results.

    With a cascade that holds within the run: its samples are drawn by chance, and its journal remembers them.
    """
    labeller, settings = pipeline.labeller, pipeline.settings
    calibration = pipeline.assembler.calibration
    return {
        "schema_version": SCHEMA_VERSION,
        "input": {
            "name": source.path.name,
            "sha256": source.digest(),
            "format": source.format,
            "text_column": source.text_column,
            "id_column": source.id_column,
        },
        "output": output.name,
        "task": {"name": labeller.task.name, "hash": labeller.task.hash},
        "model": asdict(labeller.connection.about),
        "prompt": labeller.prompt_id,
        "wire": labeller.wire_name,
        "settings": {
            "keywords": labeller.keywords,
            "max_comment_chars": settings.max_comment_chars,
            "max_raw_chars": settings.max_raw_chars,
            "redact": settings.redact,
            "review_below": settings.review_below,
            **({"long": settings.long} if settings.long else {}),
        },
        "calibration": calibration.id if calibration is not None else None,
        **({"cascade": dict(cascade)} if cascade is not None else {}),
    }


@dataclass(frozen=True, slots=True)
class Manifest:
    """A finished run.

    Attributes:
        description: what decided the result (`describe_run`).
        tally: counts over the output's rows.
        distinct: distinct texts, by who answered them; `error` counts those that failed.
        asked: answers that the model gave in this process; the seconds it took; the tokens are in `tokens`.
        notes: what the reader should know (fallbacks, warnings, what the confidence is).
        continued: whether an earlier, interrupted run of the same command was continued.
        started, finished: seconds since the epoch.
        sample: the analyses of a small input, to look at; not written.
        endpoints: what each endpoint of a pool did.
        certificate: what the cascade may say of the labels; None without a cascade.
    """

    description: dict[str, Any]
    tally: Tally
    distinct: dict[str, int]
    asked: int
    seconds: dict[str, float]
    notes: list[str]
    continued: bool
    started: float
    finished: float
    sample: list[Analysis] = field(default_factory=list)
    endpoints: list[dict[str, Any]] = field(default_factory=list)
    certificate: dict[str, Any] | None = None

    @staticmethod
    def path_for(output: Path) -> Path:
        """Where the manifest of an output lies."""
        return output.with_name(output.name + ".manifest.json")

    def as_json(self) -> dict[str, Any]:
        """The manifest as it is written."""
        tally = self.tally
        return {
            "reviewmill": __version__,
            **self.description,
            "started": _moment(self.started),
            "finished": _moment(self.finished),
            "continued": self.continued,
            "seconds": self.seconds,
            "rows": tally.rows,
            "statuses": dict(tally.statuses),
            "labels": dict(tally.labels),
            "routes": dict(tally.routes),
            "distinct_texts": self.distinct,
            "model_answers_this_time": self.asked,
            "mean_confidence": tally.mean_confidence,
            "needs_review": tally.needs_review,
            "errors": dict(tally.error_types),
            "languages": dict(tally.languages),
            "top_keywords": tally.top_keywords(),
            "notes": self.notes,
            **({"endpoints": self.endpoints} if self.endpoints else {}),
            **({"certificate": self.certificate} if self.certificate is not None else {}),
        }

    def write(self, output: Path) -> None:
        """Write the manifest beside its output, atomically.

        Raises:
            OutputError: it cannot be written.
        """
        write_json(self.path_for(output), self.as_json())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON to a temporary name, then rename.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OutputError(f"{path} cannot be written: {error.strerror}.", hint="Is the disk full?") from error


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
