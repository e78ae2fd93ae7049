"""A finished job's result: one canonical file, other formats made from it, and what deletion does to it.

The canonical file is JSONL with all columns of a nested output. Every other format has the same rows: flat ones (CSV,
XLSX) with the columns that `reviewmill analyze` gives them. Dates of an XLSX or Parquet input are text by then.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, NamedTuple

from filelock import FileLock

from reviewmill.batch.columns import FLAT_FORMATS, Layout
from reviewmill.batch.manifest import Manifest, Tally, write_json
from reviewmill.batch.write import write_rows
from reviewmill.errors import OutputError, ReviewmillError
from reviewmill.schema import Analysis
from reviewmill.server.jobs.files import JobFiles

ResultFormat = Literal["csv", "xlsx", "jsonl", "json", "parquet"]

MEDIA_TYPES: Final[dict[ResultFormat, str]] = {
    "csv": "text/csv; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "jsonl": "application/x-ndjson",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
}

_LOCK_S: Final = 600
_NOT_FOR_CALLERS: Final = ("input", "output", "continued", "model_answers_this_time")


class ResultGoneError(ReviewmillError):
    """A job's result is not there (any more)."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides a result's columns; kept beside it, because a task may change later.

    Attributes:
        task: the task's name.
        labels: the names of its labels.
        columns: the input's columns, in order.
        text_column: the one with the comment.
        customer_column: the one that says whose comment it is, or None.
        in_parts: whether long comments were judged part by part.
    """

    task: str
    labels: list[str]
    columns: list[str]
    text_column: str
    customer_column: str | None
    in_parts: bool = False

    def layout(self, *, flat: bool) -> Layout:
        """The columns of an output of this kind."""
        return Layout(self.task, self.labels, self.columns, flat=flat, in_parts=self.in_parts)

    def write(self, path: Path) -> None:
        """Keep it.

        Raises:
            OutputError: it cannot be written.
        """
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Shape:
        """What was kept.

        Raises:
            ResultGoneError: the result is not there.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise _gone() from None


def _gone() -> ResultGoneError:
    return ResultGoneError("The job's result is not there any more.", hint="Was the job deleted meanwhile?")


# --- other formats ----------------------------------------------------------------------------------------------------


def open_result(files: JobFiles, token: int, kind: ResultFormat, *, label: str | None = None) -> IO[bytes]:
    """Open a finished job's result in a format, which is made now if nobody asked for it before. Blocks.

    With a label, it is the rows that have it, in their order.

    Whoever reads on while the result is deleted, or texts are deleted from it, reads what was there when it was opened.

    Raises:
        ResultGoneError: there is none.
        OutputError: the format cannot be made: too many rows for it, or the disk is full.
    """
    result = files.result(token)
    if not result.exists():  # else the lock would bring the folder back
        raise _gone()
    try:
        with FileLock(files.lock, timeout=_LOCK_S, mode=0o600):
            whole = kind == "jsonl" and label is None
            return (result if whole else _export(files, token, kind, label)).open("rb")
    except FileNotFoundError:
        raise _gone() from None


def _export(files: JobFiles, token: int, kind: ResultFormat, label: str | None) -> Path:
    """The export of the result as it is now. Its name is bound to the result's, so an older one is never taken."""
    result, folder = files.result(token), files.exports(token)
    stat = result.stat()
    part = "" if label is None else f"-{hashlib.sha256(label.encode()).hexdigest()[:16]}"
    path = folder / f"{stat.st_mtime_ns}-{stat.st_size}{part}.{kind}"
    if not path.exists():
        folder.mkdir(exist_ok=True, mode=0o700)
        shape = Shape.read(files.shape(token))
        if label is not None and label not in shape.labels:  # else anybody could have any number of files made
            raise _gone()
        flat = kind in FLAT_FORMATS
        records = (record for record in records_of(result) if label is None or record[shape.task] == label)
        write_rows(path, shape.layout(flat=flat).names, flattened(records, shape) if flat else records)
    return path


def records_of(result: Path) -> Iterator[dict[str, Any]]:
    """The rows of a canonical file, in their order."""
    with result.open(encoding="utf-8", newline="\n") as lines:
        for line in lines:
            yield json.loads(line)


def flattened(records: Iterator[dict[str, Any]], shape: Shape) -> Iterator[dict[str, Any]]:
    """Rows of a canonical file as flat formats have them."""
    nested, flat = shape.layout(flat=False), shape.layout(flat=True)
    inputs = [(nested.renamed.get(name, name), flat.renamed.get(name, name)) for name in shape.columns]
    labels = {f"p_{label}": label for label in shape.labels}
    for record in records:
        row = {there: record[here] for here, there in inputs}
        for name in flat.own:
            row[name] = record["probabilities"].get(labels[name]) if name in labels else record[name]
        yield row


# --- what a job says of its result ------------------------------------------------------------------------------------


def summary_of(manifest: Manifest) -> dict[str, Any]:
    """What a job says when it is done: counts, shares, errors, routes, mean confidence, keywords."""
    whole = manifest.as_json()
    return {name: value for name, value in whole.items() if name not in _NOT_FOR_CALLERS} | counts_of(manifest.tally)


def counts_of(tally: Tally) -> dict[str, Any]:
    """What a summary counts."""
    labelled = tally.labels.total()
    return {
        "rows": tally.rows,
        "statuses": dict(tally.statuses),
        "labels": dict(tally.labels),
        "shares": {label: round(count / labelled, 4) for label, count in tally.labels.items()},
        "routes": dict(tally.routes),
        "mean_confidence": tally.mean_confidence,
        "needs_review": tally.needs_review,
        "errors": dict(tally.error_types),
        "languages": dict(tally.languages),
        "top_keywords": tally.top_keywords(),
    }


# --- deletion ---------------------------------------------------------------------------------------------------------


def text_digest(text: str) -> str:
    """The SHA-256 of a comment as it came, in hexadecimal: what deletion and the index of comments name it by."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Forgotten(NamedTuple):
    """What a deletion did: the rows that it emptied, and the counts over the result as it is now."""

    rows: int
    counts: dict[str, Any]


def forget_texts(
    files: JobFiles,
    token: int,
    *,
    texts: Sequence[str] | set[str],
    customers: Sequence[str] | set[str] = (),
    on_text: Callable[[str], None] = lambda _: None,
) -> Forgotten | None:
    """Remove comments from a result, and everything that was derived from them. Blocks.

    The rows stay, with their ids and other columns, and say `status="deleted"`.

    Args:
        files: the job's folder.
        token: the claim that wrote the result.
        texts: SHA-256 digests of the comments (see `text_digest`).
        customers: ids of customers whose comments go.
        on_text: called with each comment that is removed.

    Returns:
        What became of it, or None where nothing was to be removed.

    Raises:
        ResultGoneError: there is no result.
        OutputError: it cannot be written.
    """
    result = files.result(token)
    if not result.exists():  # else the lock would bring the folder back
        raise _gone()
    try:
        with FileLock(files.lock, timeout=_LOCK_S, mode=0o600):
            doomed = _Doomed(Shape.read(files.shape(token)), frozenset(texts), frozenset(customers))
            if not any(doomed.holds(record) for record in records_of(result)):
                return None
            tally = Tally()
            write_rows(result, doomed.layout.names, doomed.remaining(records_of(result), tally, on_text))
            shutil.rmtree(files.exports(token), ignore_errors=True)
            _still_there(files.exports(token))
    except FileNotFoundError:
        raise _gone() from None
    return Forgotten(doomed.removed, counts_of(tally))


def _still_there(folder: Path) -> None:
    if folder.exists():
        raise OutputError(f"{folder} could not be deleted.", hint="It holds comments that were to be deleted.")


class _Doomed:
    """Which rows of a result go, and what is left of them."""

    def __init__(self, shape: Shape, texts: frozenset[str], customers: frozenset[str]) -> None:
        self.layout = shape.layout(flat=False)
        self.removed = 0
        self._in_parts = shape.in_parts
        self._task = shape.task
        self._texts = texts
        self._customers = customers
        self._text = self.layout.renamed.get(shape.text_column, shape.text_column)
        named = shape.customer_column
        self._customer = None if named is None else self.layout.renamed.get(named, named)

    def holds(self, record: dict[str, Any]) -> bool:
        if record["status"] == "deleted":
            return False
        if self._texts and text_digest(record["original_text"]) in self._texts:
            return True
        return self._customer is not None and str(record[self._customer]) in self._customers

    def remaining(
        self, records: Iterator[dict[str, Any]], tally: Tally, on_text: Callable[[str], None]
    ) -> Iterator[dict[str, Any]]:
        for record in records:
            if self.holds(record):
                self.removed += 1
                on_text(record["original_text"])
                self._empty(record)
            tally.add(Analysis(record), self._task)
            yield record

    def _empty(self, record: dict[str, Any]) -> None:
        emptied: dict[str, Any] = dict.fromkeys((self._text, self._task, "original_text", "confidence"))
        emptied |= {"keywords": [], "spans": [], "probabilities": {}, "flags": [], "language": None, "route": None}
        emptied |= {"needs_review": False, "error": None, "status": "deleted"}
        if self._in_parts:
            emptied["parts"] = []  # they hold the comment's words
        record.update(emptied)
        record["provenance"] = {**record["provenance"], "latency_ms": None}
