"""The report of an evaluation: what was measured, on which rows, with what; as JSON that can be read back.

The JSON holds every row with its comment, so that errors can be looked at, and a later evaluation can be compared row
by row. It is as confidential as the comments are.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from pydantic import Field, ValidationError

from reviewmill._version import __version__
from reviewmill.counted import counted
from reviewmill.errors import InputError, OutputError
from reviewmill.evaluate.answers import describe
from reviewmill.evaluate.gate import Gate
from reviewmill.evaluate.measures import Estimate, Measured, Measures, Slice
from reviewmill.evaluate.metrics import Judgements, indices, measure, wilson
from reviewmill.evaluate.slices import Facets, column_facets, slices
from reviewmill.evaluate.tags import length_of, tags_of
from reviewmill.text import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reviewmill.evaluate.answers import Judged, Judgement
    from reviewmill.evaluate.labelled import Labelled
    from reviewmill.pipeline import Pipeline

REPORT_VERSION: Final = 1


class Data(Measured):
    """The rows that were judged: the file's name and SHA-256, its columns, what was left out and why.

    Attributes:
        unused: what the mapping translates and no usable row has.
        calibrated_on: the calibration that was used had been fitted on this very file.
    """

    file: str
    sha256: str
    label_column: str
    mapping: dict[str, str]
    rows: int
    left_out: dict[str, int]
    labels: dict[str, int]
    unused: list[str] = Field(default_factory=list)
    calibrated_on: bool = False


class System(Measured):
    """What answered: everything that decides an answer."""

    model: str
    fingerprint: str
    digest: str | None
    endpoint: str
    task: str
    task_hash: str
    asked_hash: str
    prompt: str
    wire: str
    keywords: bool
    calibration: str | None = None
    confidence: Literal["logprobs", "spoken", "none"] = "logprobs"


class Effort(Measured):
    """What it took.

    Attributes:
        asked: comments that the model was asked about in this evaluation; the others came from the cache or a rule.
        seconds: wall time of asking them; None if none was.
        per_second: comments a second; None likewise.
        tokens_in, tokens_out: mean tokens of a question and of an answer, cached ones included; None if not counted.
        latency_p50, latency_p95: seconds a question took, waiting for others included; None likewise.
        memory_bytes: resident memory of this process with the embedded model in it; None for other endpoints.
    """

    asked: int
    seconds: float | None
    per_second: float | None
    tokens_in: float | None
    tokens_out: float | None
    latency_p50: float | None
    latency_p95: float | None
    memory_bytes: int | None = None


class RowRecord(Measured):
    """One comment: its right label (`gold`), and what was said of it."""

    number: int
    id: str | int | None
    text: str
    gold: str
    label: str | None
    status: Literal["ok", "insufficient", "error"]
    confidence: float | None
    probabilities: dict[str, float]
    keywords: list[str]
    spans: list[tuple[int, int]]
    language: str | None
    length: str
    flags: list[str]
    tags: list[str]
    error: str | None = None

    @property
    def right(self) -> bool:
        """Whether the label is right; a comment without one is not."""
        return self.label == self.gold


class Report(Measured):
    """An evaluation.

    Attributes:
        schema_version: of this format.
        labels: the task's labels.
        warnings: what a reader has to know.
        unanswered: rows without a label, by status; they are in no score but `accuracy_of_all`.
        accuracy_of_all: right answers over all rows, those without an answer counted as wrong.
        measures: over the rows that have a label; any label that is not the right one is wrong.
        outside: where the file lacks some of the task's labels, how often each of those was answered.
        decided: accuracy over the answers that name a label that occurs; None where `outside` is empty.
        restricted: the same measures with the answer taken among the labels that occur; None where all do, or where
            there are no probabilities.
        slices: parts of the rows; their scores are those of `measures`, or of `restricted` where there is one.
        gate: the comparison with an earlier report, where one was asked for.
    """

    schema_version: Literal[1] = REPORT_VERSION
    kind: Literal["evaluation"] = "evaluation"
    reviewmill: str
    created: datetime
    data: Data
    system: System
    labels: list[str]
    warnings: list[str]
    unanswered: dict[str, int]
    accuracy_of_all: Estimate
    measures: Measures
    outside: dict[str, int]
    decided: Estimate | None
    restricted: Measures | None
    slices: list[Slice]
    effort: Effort
    gate: Gate | None = None
    rows: list[RowRecord] = Field(repr=False)

    @property
    def best(self) -> Measures:
        """The restricted measures where there are some, else the plain ones."""
        return self.restricted or self.measures


def build_report(
    labelled: Labelled,
    judgement: Judgement,
    pipeline: Pipeline,
    *,
    label_column: str,
    mapping: dict[str, str] | None = None,
    memory_bytes: int | None = None,
    seed: int = 0,
) -> Report:
    """Measure everything about judged rows.

    Args:
        labelled: where the rows are from.
        judgement: the rows with their answers.
        pipeline: what answered.
        label_column: the column that held the labels.
        mapping: how they were translated.
        memory_bytes: see `Effort`.
        seed: of the bootstrap.

    Raises:
        InputError: no row got a label.
    """
    records = [_record(judged) for judged in judgement.rows]
    answered = [number for number, record in enumerate(records) if record.status == "ok"]
    if not answered:
        raise InputError(
            f"None of the {len(records):,} comments of {labelled.path} got a label; the first: {_why(records[0])}.",
            hint="An evaluation needs answers. `reviewmill doctor` checks the endpoint.",
        )
    kept = [records[number] for number in answered]
    judged = _judgements(kept, labelled.labels)
    partial = len(labelled.labels_present) < len(labelled.labels)
    restricted = judged.restricted() if partial else None
    outside = {name: 0 for name in labelled.labels if name not in labelled.labels_present}
    outside |= Counter(record.label for record in kept if record.label in outside)
    decided = [record for record in kept if record.label not in outside]
    facets = _facets(kept, [judgement.rows[number] for number in answered])
    right = sum(record.right for record in records)
    own = _own_rows(labelled, pipeline)
    return Report(
        reviewmill=__version__,
        created=datetime.now(UTC).replace(microsecond=0),
        data=Data(
            file=labelled.path.name,
            sha256=labelled.digest,
            label_column=label_column,
            mapping=mapping or {},
            rows=len(records),
            left_out=labelled.left_out,
            labels=dict(Counter(record.gold for record in records)),
            unused=labelled.unused,
            calibrated_on=bool(own),
        ),
        system=_system(pipeline, judgement),
        labels=list(labelled.labels),
        warnings=[*labelled.warnings, *own, *_warnings(kept, records)],
        unanswered=dict(Counter(record.status for record in records if record.status != "ok")),
        accuracy_of_all=wilson(right, len(records)),
        measures=measure(judged, seed=seed),
        outside=outside,
        decided=wilson(sum(r.right for r in decided), len(decided)) if outside and decided else None,
        restricted=measure(restricted, seed=seed) if restricted is not None else None,
        slices=slices(restricted or judged, facets),
        effort=_effort(judgement, memory_bytes),
        rows=records,
    )


def _record(judged: Judged) -> RowRecord:
    row, analysis = judged.row, judged.analysis
    text = clean(row.text).text
    error = analysis["error"]
    return RowRecord(
        number=row.number,
        id=row.id if isinstance(row.id, str | int | None) else str(row.id),
        text=row.text,
        gold=row.label,
        label=analysis.label,
        status=analysis["status"],
        confidence=analysis["confidence"],
        probabilities=analysis["probabilities"],
        keywords=analysis["keywords"],
        spans=[(span["start"], span["end"]) for span in analysis["spans"]],
        language=analysis["language"],
        length=length_of(text),
        flags=analysis["flags"],
        tags=tags_of(text),
        error=f"{error['type']}: {error['message']}" if error else None,
    )


def _why(record: RowRecord) -> str:
    return record.error or ", ".join(record.flags) or record.status


def _judgements(records: Sequence[RowRecord], labels: tuple[str, ...]) -> Judgements:
    gold = indices([record.gold for record in records], labels)
    said = indices([str(record.label) for record in records], labels)
    confidence = np.array([np.nan if record.confidence is None else record.confidence for record in records])
    if not any(record.probabilities for record in records):
        return Judgements(labels, gold, said, None, confidence)
    table = [[record.probabilities.get(label, np.nan) for label in labels] for record in records]
    return Judgements(labels, gold, said, np.array(table), confidence)


def _facets(records: Sequence[RowRecord], rows: Sequence[Judged]) -> list[Facets]:
    columns = column_facets([judged.row.metadata for judged in rows])
    return [
        Facets(
            {
                "language": [record.language or "?"],
                "length": [record.length],
                "tag": record.tags,
                "flag": record.flags,
                **{f"column {name}": values for name, values in own.items()},
            }
        )
        for record, own in zip(records, columns, strict=True)
    ]


def _own_rows(labelled: Labelled, pipeline: Pipeline) -> list[str]:
    """A calibration does well on the rows that it was fitted on; that says nothing about others."""
    calibration = pipeline.assembler.calibration
    if calibration is None or labelled.digest not in {file.sha256 for file in calibration.fitted_on}:
        return []
    return [
        f"The calibration {calibration.id} was fitted on this very file: how well confidence holds is flattered here. "
        "What `reviewmill calibrate` printed was measured on rows not fitted on; or evaluate another file."
    ]


def _warnings(kept: Sequence[RowRecord], records: Sequence[RowRecord]) -> list[str]:
    warnings = []
    errors = [record for record in records if record.status == "error"]
    if errors:
        failed = counted(len(errors), "comment")
        warnings.append(f"{failed} failed; the first: {_why(errors[0])}. The same command tries again.")
    silent = sum(record.status == "insufficient" for record in records)
    if silent:
        warnings.append(
            f"{counted(silent, 'comment says', 'comments say')} nothing that could be judged and got no label; "
            "`accuracy_of_all` counts that as wrong, the other scores leave it out."
        )
    unsure = sum(record.confidence is None for record in kept)
    if unsure:
        warnings.append(
            f"{counted(unsure, 'answer has', 'answers have')} no probability; calibration and acceptance are measured "
            "on the others."
        )
    return warnings


def _system(pipeline: Pipeline, judgement: Judgement) -> System:
    analyses = [judged.analysis for judged in judgement.rows if judged.analysis["status"] == "ok"]
    calibrations = {analysis["provenance"]["calibration"] for analysis in analyses}
    spoken = any(judged.answer is not None and judged.answer.logprobs is None for judged in judgement.rows)
    kind: Literal["logprobs", "spoken", "none"] = "logprobs"
    if spoken:
        kind = "spoken" if any(analysis["confidence"] is not None for analysis in analyses) else "none"
    return System(**describe(pipeline), calibration=next(iter(calibrations), None), confidence=kind)


def _effort(judgement: Judgement, memory_bytes: int | None) -> Effort:
    answers = [judged.answer for judged in judgement.rows if judged.answer is not None]
    counted = [answer for answer in answers if answer.tokens_in]
    fresh = [judged.answer for judged in judgement.rows if judged.fresh and judged.answer is not None]
    latencies = [answer.latency_ms / 1000 for answer in fresh if answer.latency_ms is not None]
    return Effort(
        asked=judgement.asked,
        seconds=round(judgement.seconds, 3) if judgement.asked else None,
        per_second=judgement.asked / judgement.seconds if judgement.asked and judgement.seconds else None,
        tokens_in=float(np.mean([answer.tokens_in for answer in counted])) if counted else None,
        tokens_out=float(np.mean([answer.tokens_out for answer in counted])) if counted else None,
        latency_p50=float(np.quantile(latencies, 0.5)) if latencies else None,
        latency_p95=float(np.quantile(latencies, 0.95)) if latencies else None,
        memory_bytes=memory_bytes,
    )


# -- files ----------------------------------------------------------------------------------------------------------


def read_report(path: Path) -> Report:
    """Read a report's JSON; given its HTML page, the JSON that was written beside it.

    Raises:
        InputError: it is not there, or is no report that this version can read.
    """
    path = path.with_suffix(".json") if path.suffix.lower() in {".html", ".htm"} else path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", hint="Is it the right file?") from None
    try:
        return Report.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise InputError(
            f"{path} is no report of `reviewmill evaluate` in the format {REPORT_VERSION}: {where}: {first['msg']}.",
            hint="Give it the JSON that `reviewmill evaluate` wrote; one of another version has to be made anew.",
        ) from None


def write_text(path: Path, content: str) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(
            f"{path} cannot be written: {error.strerror}.", hint="Choose another place with -o."
        ) from error


def as_json(report: Measured) -> str:
    """A report as JSON; half characters, which no file can hold, are replaced."""
    text = report.model_dump_json(indent=1)
    return text.encode("utf-8", "replace").decode()
