"""Files of comments whose right labels are known.

What cannot be used is either refused with a message that counts and names it (labels that are not the task's), or left
out and told in `Labelled.warnings` (rows without a label or a text, repeated texts, texts with two different labels).
"""

from __future__ import annotations

import math
import shlex
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from reviewmill.batch.read import open_source
from reviewmill.batch.tables import short
from reviewmill.batch.text_column import given_column
from reviewmill.counted import counted
from reviewmill.errors import InputError
from reviewmill.text import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from reviewmill.batch.read import Row, Source
    from reviewmill.tasks import Task

FEW_ROWS: Final = 100
"""With fewer rows the 95% interval of an accuracy of 0.85 is wider than 14 points."""

SHOWN: Final = 12


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A comment with its right label.

    Attributes:
        number: which data row of the file it is, from 1.
        id: the value of the id column, as read; None without one.
        text: the comment as it was written.
        label: one of the task's labels.
        metadata: the row's other columns.
    """

    number: int
    id: Any
    text: str
    label: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Labelled:
    """The usable rows of a labelled file.

    Attributes:
        path: the file.
        digest: SHA-256 of its bytes, in hexadecimal.
        labels: the task's labels, in the task's order.
        rows: the usable rows, in the file's order; every cleaned text once.
        left_out: how many rows were left out, by reason (`no_label`, `no_text`, `mapped_away`, `duplicate`,
            `contradiction`, `unreadable`).
        unused: what the mapping translates and no usable row has.
        warnings: what a reader of any number made from these rows has to know, one sentence each.
    """

    path: Path
    digest: str
    labels: tuple[str, ...]
    rows: list[LabelledRow]
    left_out: dict[str, int]
    unused: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def labels_present(self) -> tuple[str, ...]:
        """The labels that occur, in the task's order."""
        occurring = {row.label for row in self.rows}
        return tuple(name for name in self.labels if name in occurring)


def read_labelled(
    path: Path,
    task: Task,
    *,
    label: str,
    text: str | None = None,
    mapping: Mapping[str, str] | None = None,
    id: str | None = None,  # noqa: A002 - the column's usual name
    format: str | None = None,  # noqa: A002
) -> Labelled:
    """Read a labelled file, of any format that `reviewmill analyze` reads.

    A label is the task's own, whatever its case and width, or is translated by `mapping`.

    Args:
        path: the file.
        task: whose labels they are.
        label: the column that holds the labels.
        text: the column that holds the comments; None: found.
        mapping: what is written in the file, to a label of the task, or to "" for rows to leave out.
        id: the column that holds the ids; None: found by name, else there is none.
        format: the file's format, where its extension does not tell.

    Raises:
        InputError: the file cannot be read, has no such column, holds labels that are not the task's, or no usable row.
    """
    translation = _translation(task, mapping or {})
    source = open_source(path, text=text, id=id, format=format)
    column = given_column(path, source.columns, label, "--label")
    if column == source.text_column:
        raise InputError(
            f"{path}: the column {column!r} cannot hold both the comments and their labels.",
            hint="Name the columns with --text and --label.",
        )
    sorting = _Sorting(task, source, column, translation)
    for row in source.rows():
        sorting.take(row)
    sorting.check()
    rows = _distinct(sorting.rows, sorting.left_out)
    if not rows:
        raise InputError(
            f"{path} has no usable row: {_reasons(sorting.left_out)}.",
            hint=f"It needs comments ({source.text_column}) and labels ({column}).",
        )
    unused = [given for given in mapping or {} if _same(given) not in sorting.seen]
    result = Labelled(path, source.digest(), task.label_names, rows, dict(sorting.left_out), unused)
    result.warnings.extend(_warnings(result))
    return result


def parse_mapping(words: Iterable[str]) -> dict[str, str]:
    """Read `好评=positive,差评=negative,其他=` (several of them, too) into a mapping.

    Raises:
        InputError: a part has no `=`, or one label is mapped twice.
    """
    mapping: dict[str, str] = {}
    for part in (part for word in words for part in word.split(",") if part.strip()):
        given, equals, wanted = part.rpartition("=")
        if not equals or not given.strip():
            raise InputError(
                f"--map cannot be read at {part!r}.", hint="Write it like --map 好评=positive,差评=negative,其他= ."
            )
        if mapping.setdefault(given.strip(), wanted.strip()) != wanted.strip():
            raise InputError(f"--map gives {given.strip()!r} two labels: {mapping[given.strip()]}, {wanted.strip()}.")
    return mapping


def _same(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()


def _translation(task: Task, mapping: Mapping[str, str]) -> dict[str, str]:
    """What may stand in the file, as it is compared, to a label of the task or to ""."""
    own = {_same(name): name for name in task.label_names}
    translation = dict(own)
    for given, wanted in mapping.items():
        if wanted and _same(wanted) not in own:
            raise InputError(
                f"--map {given}={wanted}: {wanted!r} is no label of the task {task.name!r}.",
                hint=f"Its labels are: {', '.join(task.label_names)}. Leave the right side empty to leave rows out.",
            )
        translation[_same(given)] = own[_same(wanted)] if wanted else ""
    return translation


class _Sorting:
    """Sorts a file's rows into those that can be used and those that cannot."""

    def __init__(self, task: Task, source: Source, column: str, translation: Mapping[str, str]) -> None:
        self.task = task
        self.source = source
        self.column = column
        self.rows: list[LabelledRow] = []
        self.left_out: Counter[str] = Counter()
        self.seen: set[str] = set()
        self._translation = translation
        self._unknown: Counter[str] = Counter()
        self._first_unknown: dict[str, int] = {}

    def take(self, row: Row) -> None:
        """Look at one row."""
        written = _written(row.fields.get(self.column))
        if row.text is None:
            self.left_out["unreadable"] += 1
        elif written is None:
            self.left_out["no_label"] += 1
        elif (name := self._translation.get(_same(written))) is None:
            self._unknown[written] += 1
            self._first_unknown.setdefault(written, row.number)
        elif not name:
            self.seen.add(_same(written))
            self.left_out["mapped_away"] += 1
        elif not row.text.strip():
            self.left_out["no_text"] += 1
        else:
            self.seen.add(_same(written))
            own = {self.column, self.source.text_column, self.source.id_column}
            metadata = {key: value for key, value in row.fields.items() if key not in own}
            self.rows.append(LabelledRow(row.number, row.id, row.text, name, metadata))

    def check(self) -> None:
        """Refuse labels that are not the task's: leaving them out silently would flatter or blame the model."""
        if not self._unknown:
            return
        named = [
            f"{short(name, 40)} ({counted(count, 'row')}, first row {self._first_unknown[name]:,})"
            for name, count in self._unknown.most_common(SHOWN)
        ]
        more = f", and {len(self._unknown) - SHOWN:,} more" if len(self._unknown) > SHOWN else ""
        first = shlex.quote(next(iter(self._unknown.most_common(1)))[0][:40])
        many = counted(self._unknown.total(), "row has a label", "rows have labels")
        raise InputError(
            f"{self.source.path}: {many} in {self.column!r} "
            f"that the task {self.task.name!r} does not know: {', '.join(named)}{more}.",
            hint=f"Its labels are: {', '.join(self.task.label_names)}. Translate with --map {first}="
            f"{self.task.label_names[0]}, or leave such rows out with --map {first}= (nothing after =).",
        )


def _written(value: Any) -> str | None:
    """A label cell as text; None where there is none. 1, 1.0 and "1" are the same label."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        value = int(value)
    return str(value).strip() or None


def _distinct(rows: list[LabelledRow], left_out: Counter[str]) -> list[LabelledRow]:
    """Every cleaned text once; none that has two labels, of which at least one is wrong.

    Repeated rows would make every interval narrower than it is: the model answers equal texts equally.
    """
    cleaned = [clean(row.text).text for row in rows]
    labels: dict[str, set[str]] = {}
    for text, row in zip(cleaned, rows, strict=True):
        labels.setdefault(text, set()).add(row.label)
    kept: dict[str, LabelledRow] = {}
    for text, row in zip(cleaned, rows, strict=True):
        if len(labels[text]) > 1:
            left_out["contradiction"] += 1
        elif text in kept:
            left_out["duplicate"] += 1
        else:
            kept[text] = row
    return list(kept.values())


_REASONS: Final = {
    "unreadable": ("row", "rows", "could not be read"),
    "no_label": ("row has", "rows have", "no label"),
    "no_text": ("row has", "rows have", "no text"),
    "mapped_away": ("row was", "rows were", "left out by --map"),
    "duplicate": ("row repeats", "rows repeat", "an earlier text with the same label"),
    "contradiction": ("row holds", "rows hold", "a text that occurs with two different labels"),
}


def _reasons(left_out: Mapping[str, int]) -> str:
    told = [
        f"{counted(left_out[reason], one, many)} {what}"
        for reason, (one, many, what) in _REASONS.items()
        if left_out.get(reason)
    ]
    return "; ".join(told) or "there are no rows"


def _warnings(labelled: Labelled) -> list[str]:
    warnings = []
    if labelled.left_out:
        warnings.append(f"Left out: {_reasons(labelled.left_out)}.")
    if labelled.unused:
        warnings.append(f"--map names what no usable row has: {', '.join(map(repr, labelled.unused[:SHOWN]))}.")
    present = labelled.labels_present
    if len(present) == 1:
        warnings.append(
            f"Every row has the label {present[0]!r}: accuracy is that label's recall, and nothing is learned about "
            "how often the others are said wrongly."
        )
    elif len(present) < len(labelled.labels):
        missing = [name for name in labelled.labels if name not in present]
        warnings.append(
            f"No row has the label {', '.join(map(repr, missing))}: an answer with it is counted apart, and a score "
            "restricted to the labels that occur is shown beside."
        )
    if len(labelled.rows) < FEW_ROWS:
        warnings.append(
            f"Only {counted(len(labelled.rows), 'row')}: the intervals are wide, and small differences mean nothing."
        )
    return warnings
