"""What a cascade is to reach, as users say it. Imports nothing heavy: most runs have no cascade."""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reviewmill.errors import OutputError, SettingsError

if TYPE_CHECKING:
    from reviewmill.batch.journal import Journal
    from reviewmill.cascade.saved import SavedStudent

LEAST_BUDGET: Final = 50


@dataclass(frozen=True)
class CascadeOptions:
    """What a cascade is to reach. Exactly one of `agreement`, `budget` and `deadline` counts.

    Attributes:
        agreement: the share of labels that must be the model's, above 0.5 and below 1.
        delta: probability with which the certificate may be wrong, above 0 and at most 0.5.
        budget: at most so many questions to the model about texts that have no answer yet.
        deadline: seconds in which the run should be done; the questions that fit are a budget.
        per_class: whether the agreement must hold for each label by itself.
        student: a saved student to begin with; it is certified anew.
        seed: of the draws; None: by chance.

    Raises:
        SettingsError: a value is out of range, or they contradict each other.
    """

    agreement: float | None = None
    delta: float = 0.05
    budget: int | None = None
    deadline: float | None = None
    per_class: bool = False
    student: Path | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("agreement", "budget", "deadline") if getattr(self, name) is not None]
        if len(given) != 1:
            named = " and ".join(given) or "none of agreement, budget and deadline"
            raise SettingsError(
                f"A cascade has one goal, and here is {named}.",
                hint="Say what share of labels must be the model's (agreement), or how many questions it may be asked "
                "(budget), or how long it may take (deadline).",
            )
        _within("agreement", self.agreement, 0.5, 1)
        _within("delta", self.delta, 0, 0.5)
        if self.budget is not None and self.budget < LEAST_BUDGET:
            raise SettingsError(
                f"A budget of {self.budget} questions is too small to train and to test a student.",
                hint=f"Allow {LEAST_BUDGET} or more.",
            )
        if self.deadline is not None and not self.deadline > 0:
            raise SettingsError(f"A deadline of {self.deadline:g} seconds is none.")

    @cached_property
    def loaded(self) -> SavedStudent | None:
        """The saved student to begin with."""
        from reviewmill.cascade.saved import load_student

        return load_student(self.student) if self.student is not None else None

    def describe(self) -> dict[str, Any]:
        """What decides a run's result.

        Raises:
            StudentError: the saved student cannot be read.
        """
        digest = None
        if self.student is not None and self.loaded is not None:
            digest = hashlib.sha256(self.student.read_bytes()).hexdigest()
        return {
            "agreement": self.agreement,
            "delta": self.delta,
            "budget": self.budget,
            "deadline": self.deadline,
            "per_class": self.per_class,
            "student": digest,
            "seed": self.seed,
        }


def _within(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low < value < high:
        raise SettingsError(f"{name} is {value:g}; it must be above {low:g} and below {high:g}.")


def student_path(output: Path) -> Path:
    """Where the student of an output lies."""
    return output.with_name(output.name + ".student.rm")


def keep_student(journal: Journal, output: Path) -> None:
    """Write the run's student beside its output; a student that an earlier run left there is not this one's.

    Raises:
        OutputError: it cannot be written.
    """
    path, content = student_path(output), journal.decided("student")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if content is None:
            path.unlink(missing_ok=True)
            return
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OutputError(f"{path} cannot be written: {error.strerror}.", hint="Is the disk full?") from error


def parse_agreement(value: str) -> float:
    """Read `0.95`, `95%` or `95` as a share.

    Raises:
        SettingsError: it is none.
    """
    try:
        number = Fraction(value.strip().removesuffix("%"))
    except (ValueError, ZeroDivisionError):
        raise SettingsError(f"agreement {value!r} is no share.", hint="Write it like 0.95 or 95%.") from None
    return float(number / 100 if value.strip().endswith("%") or number > 1 else number)


def parse_duration(value: str) -> float:
    """Read `90s`, `30m`, `1h30m` or a number of seconds.

    Raises:
        SettingsError: it is none.
    """
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    total, number = 0.0, ""
    try:
        for character in value.strip().lower():
            if character in units:
                total, number = total + float(number) * units[character], ""
            else:
                number += character
        return total + (float(number) if number else 0.0)
    except ValueError:
        raise SettingsError(f"{value!r} is no length of time.", hint="Write it like 90s, 30m or 1h30m.") from None
