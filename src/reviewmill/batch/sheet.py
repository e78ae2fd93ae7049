"""An audit by a person: a sheet of drawn texts without any label, to be filled in and read back.

Everything that is needed to read it back stands in the sheet: each line's id names the seed, the size and what was
drawn from, so that the sample can be drawn again, and lines that are missing are noticed. A sheet from which somebody
took the hard ones would be no sample any more.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from reviewmill.batch.audited import Audited, Drawn, Population
from reviewmill.batch.read import open_source
from reviewmill.batch.write import write_rows
from reviewmill.cascade.agreement import AuditReport, Finding, Seen
from reviewmill.errors import InputError, OutputError
from reviewmill.tasks import Task

UNSURE: Final = "?"
"""What a person writes who cannot tell."""

_ID: Final = re.compile(r"s(\d+)-n(\d+)-([0-9a-f]{8})-(\d+)")
_LABEL: Final = "label"


def write_sheet(path: Path, audited: Audited, size: int, *, seed: int | None = None) -> int:
    """Draw from all texts of a run that have a label, and write them without it.

    Args:
        path: the sheet; CSV or XLSX for people.
        audited: the run's output.
        size: texts to draw.
        seed: of the draw; None: by chance.

    Returns:
        Texts in the sheet.

    Raises:
        OutputError: it cannot be written, or is there already.
    """
    if path.exists():
        raise OutputError(f"{path} exists.", hint="Fill it in, or choose another name.")
    population = audited.population()
    seed = seed if seed is not None else secrets.randbits(32)
    rows = population.draw(size, seed).tolist()
    head = f"s{seed}-n{len(rows)}-{population.digest}"
    title = f"{_LABEL} ({' / '.join(audited.task.label_names)}; {UNSURE} if you cannot tell)"
    lines = [
        {"id": f"{head}-{number}", "text": drawn.text, title: ""}
        for number, drawn in enumerate(audited.texts(rows), start=1)
    ]
    return write_rows(path, ["id", "text", title], lines)


def read_sheet(path: Path, audited: Audited) -> AuditReport:
    """Read a filled sheet back.

    Raises:
        InputError: it is no sheet, or of another run, or lines are missing or not filled in.
    """
    said = _labels(path, audited.task)
    seed, size, digest = _head(path, said)
    population = audited.population()
    if population.digest != digest:
        raise InputError(f"{path} was drawn from another output than {audited.run.output}, or that changed since.")
    missing = [number for number in range(1, size + 1) if number not in {_number(key) for key in said}]
    if missing:
        raise InputError(
            f"{path} lacks {len(missing)} of the {size} texts that were drawn (the first: number {missing[0]}).",
            hint=f"Without them it is no sample. Write {UNSURE} where you cannot tell.",
        )
    drawn = audited.texts(population.draw(size, seed).tolist())
    labels = {_number(key): label for key, label in said.items()}
    return _report(drawn, [labels[number] for number in range(1, size + 1)], population, seed)


def _labels(path: Path, task: Task) -> dict[str, str | None]:
    """By the lines' ids: the label, or None for unsure."""
    source = open_source(path, text="text", id="id")
    column = next((name for name in source.columns if name.startswith(_LABEL)), None)
    if column is None:
        raise InputError(f"{path} has no column {_LABEL!r}.", hint="Its heading must begin so.")
    known = _spellings(task)
    found: dict[str, str | None] = {}
    blank = 0
    for row in source.rows():
        written = str(row.fields[column] if row.fields[column] is not None else "").strip()
        blank += not written
        if written and written != UNSURE and written.casefold() not in known:
            raise InputError(
                f"{path}, {row.id}: {written!r} is no label of the task {task.name}.",
                hint=f"Labels: {', '.join(task.label_names)}, or {UNSURE}.",
            )
        found[str(row.id)] = known.get(written.casefold())
    if blank:
        raise InputError(
            f"{path}: {blank} of {len(found)} texts have no label yet.", hint=f"Write {UNSURE} where you cannot tell."
        )
    return found


def _spellings(task: Task) -> Mapping[str, str]:
    """A label as its name, or as the word that its definition begins with (正面：…)."""
    spoken = {label.definition.split("：")[0].split(":")[0].strip().casefold(): label.name for label in task.labels}
    return spoken | {name.casefold(): name for name in task.label_names}


def _head(path: Path, ids: Mapping[str, Any]) -> tuple[int, int, str]:
    heads = {match.groups()[:3] for match in map(_ID.fullmatch, ids) if match}
    if len(heads) != 1 or not all(map(_ID.fullmatch, ids)):
        raise InputError(
            f"{path} is no sheet of one audit: its ids are not as they were written.", hint="Leave the ids as they are."
        )
    seed, size, digest = heads.pop()
    return int(seed), int(size), digest


def _number(key: str) -> int:
    return int(key.rpartition("-")[2])


def _report(drawn: Sequence[Drawn], said: Sequence[str | None], population: Population, seed: int) -> AuditReport:
    """Count how often the person says what the output says."""

    def finding(by_student: bool | None) -> Finding | None:
        among = [
            (each, label) for each, label in zip(drawn, said, strict=True) if by_student in {None, each.by_student}
        ]
        total = len(population.rows) if by_student is None else int((population.by_student == by_student).sum())
        agreeing = sum(label == each.label for each, label in among)
        unknown = sum(label is None for _, label in among)
        return Finding(Seen(total, len(among), agreeing, unknown)) if total else None

    whole = finding(None)
    if whole is None:
        raise InputError("The run has no text with a label.")
    return AuditReport(None, seed, finding(True), finding(False), whole, left_out=population.left_out)
