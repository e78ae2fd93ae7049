"""What an audit draws from: the distinct texts of a finished run's output, with their labels and who gave them."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from reviewmill.batch.cells import read_back
from reviewmill.batch.finished import FinishedRun
from reviewmill.batch.formats import CUT_MARK
from reviewmill.batch.read import Row, Source, open_source
from reviewmill.errors import InputError, SettingsError
from reviewmill.pipeline import prepare_under
from reviewmill.schema import Comment
from reviewmill.settings import Settings
from reviewmill.tasks import Task

_SETTINGS: Final = ("max_comment_chars", "max_raw_chars", "redact", "long", "keywords")

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Drawn:
    """One text of a sample."""

    row: int
    text: str
    label: str
    by_student: bool


@dataclass(frozen=True, slots=True)
class Population:
    """The distinct texts of a run that have a label.

    Attributes:
        rows: for each the number of the first row that holds it, ascending.
        by_student: for each, whether the student answered it.
        left_out: rows that have no label, or whose text cannot be read back.
        digest: names what was drawn from: the texts, their order, and who answered them.
    """

    rows: Numbers
    by_student: npt.NDArray[np.bool_]
    left_out: int
    digest: str

    def draw(self, size: int, seed: int, *, student_only: bool = False) -> Numbers:
        """The rows of a uniform sample without replacement, in the order of drawing.

        Args:
            size: of the sample; all are taken where there are no more.
            seed: decides it.
            student_only: draw from those that the student answered.
        """
        among = self.rows[self.by_student] if student_only else self.rows
        drawn: Numbers = np.random.default_rng(seed).permutation(among)[:size]
        return drawn


class Audited:
    """A finished run's output, to draw from.

    Args:
        run: the run.
        task: its task.
        settings: limits; those of the run (`settings_of`).

    Raises:
        InputError: the output cannot be read.
        SettingsError: the task is not the run's.
    """

    def __init__(self, run: FinishedRun, task: Task, settings: Settings) -> None:
        self.run = run
        self.task = task
        self._settings = settings
        if run.manifest["task"]["hash"] != task.hash:
            raise SettingsError(
                f"{run.output} was made with another task than {task.name} (or it has changed since).",
                hint=f"Name the run's task with --task; the manifest calls it {run.manifest['task']['name']}.",
            )
        self._source: Source = open_source(run.output, text="original_text")
        missing = {task.name, "status", "route"} - set(self._source.columns)
        if missing:
            raise InputError(f"{run.output} has no column {', '.join(sorted(missing))}: it was changed since its run.")

    def population(self) -> Population:
        """Read the output, and find its distinct texts.

        Raises:
            InputError: it cannot be read, or has no text with a label.
        """
        digests, numbers, students = array("Q"), array("q"), array("b")
        left_out = 0
        for row in self._source.rows():
            if row.fields["status"] == "insufficient":
                continue
            text = self._text(row)
            if row.fields["status"] != "ok" or text is None:
                left_out += 1
                continue
            digests.append(self._digest(text))
            numbers.append(row.number)
            students.append(row.fields["route"] == "student")
        if not digests:
            raise InputError(f"{self.run.output} has no text with a label.")
        distinct, first = np.unique(np.frombuffer(digests, dtype=np.uint64), return_index=True)
        order = np.argsort(first, kind="stable")
        by_student = np.frombuffer(students, dtype=np.int8)[first[order]].astype(np.bool_)
        name = hashlib.sha256(distinct[order].tobytes() + by_student.tobytes()).hexdigest()[:8]
        return Population(np.frombuffer(numbers, dtype=np.int64)[first[order]], by_student, left_out, name)

    def texts(self, rows: Sequence[int]) -> list[Drawn]:
        """These rows' texts and labels, in the order of `rows`.

        Raises:
            InputError: the output was changed meanwhile.
        """
        wanted, found = set(rows), {drawn.row: drawn for drawn in self._those(set(rows))}
        if len(found) != len(wanted):
            raise InputError(f"{self.run.output} changed while it was read.")
        return [found[row] for row in rows]

    def _those(self, rows: set[int]) -> Iterator[Drawn]:
        for row in self._source.rows():
            if row.number in rows and (text := self._text(row)) is not None:
                label = str(row.fields[self.task.name])
                if label not in self.task.label_names:
                    raise InputError(f"Row {row.number} of {self.run.output} has the label {label!r}, which is none.")
                yield Drawn(row.number, text, label, row.fields["route"] == "student")

    def _text(self, row: Row) -> str | None:
        """The comment as it was; None where the format could not keep it."""
        if row.text is None or (self._source.format == "xlsx" and row.text.endswith(CUT_MARK)):
            return None
        return read_back(row.text) if self._source.format in {"csv", "tsv"} else row.text

    def _digest(self, text: str) -> int:
        """Names what the model read of it."""
        asked = json.dumps(prepare_under(self._settings, Comment(text)).texts).encode()
        return int.from_bytes(hashlib.sha256(asked).digest()[:8])


def settings_of(run: FinishedRun, settings: Settings) -> Settings:
    """These settings, but what decided which question the model was asked about a comment is as it was in the run."""
    kept = run.manifest["settings"]
    then = {name: kept.get(name) for name in _SETTINGS}
    return settings.model_copy(update=then | {"calibration": run.manifest["calibration"] or "none"})
