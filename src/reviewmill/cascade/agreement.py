"""What a sample says of the agreement of a finished run with a judge: the run's model, or a person. Pure.

The sample is uniform without replacement, so the disagreements in it are hypergeometric, and the interval is exact
(`guarantee.interval`). A part of the texts (those that the student answered) is a uniform sample of that part, given
how many of it were drawn. What the judge could not say counts against the lower end and for the upper one.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

from reviewmill.cascade.guarantee import interval

LEVEL: Final = 0.95
_EXACT: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of some texts.

    Attributes:
        population: distinct texts.
        drawn: those of them in the sample.
        agreeing: those on which output and judge agree.
        unknown: those of which the judge could not say anything.
    """

    population: int
    drawn: int
    agreeing: int
    unknown: int = 0

    @property
    def share(self) -> float | None:
        """The agreement among those that were judged; None where none was."""
        judged = self.drawn - self.unknown
        return self.agreeing / judged if judged else None

    def disagreements(self, level: float) -> tuple[int, int]:
        """An exact interval for the disagreements among all of them."""
        bad = self.drawn - self.agreeing - self.unknown
        least, _ = interval(self.population, self.drawn, bad, level)
        _, most = interval(self.population, self.drawn, bad + self.unknown, level)
        return least, most


@dataclass(frozen=True, slots=True)
class Finding:
    """The agreement of some texts.

    Attributes:
        seen: the counts that it follows from; `certain` texts agree by definition and were not drawn from.
        certain: texts beside `seen.population` that carry the judge's own label.
        level: with at least this probability the interval holds the true share.
    """

    seen: Seen
    certain: int = 0
    level: float = LEVEL

    @property
    def population(self) -> int:
        """Distinct texts."""
        return self.seen.population + self.certain

    @property
    def agreement(self) -> float | None:
        """The estimate; None where nothing was judged."""
        share = self.seen.share
        if not self.seen.population:
            return 1.0 if self.certain else None
        return None if share is None else 1 - (1 - share) * self.seen.population / self.population

    @property
    def interval(self) -> tuple[float, float]:
        """The exact interval."""
        if not self.population:
            return 0.0, 1.0
        least, most = self.seen.disagreements(self.level)
        return 1 - most / self.population, 1 - least / self.population

    def as_json(self) -> dict[str, Any]:
        """The numbers."""
        low, high = self.interval
        return {
            "population": self.population,
            "agreeing_by_definition": self.certain,
            **{name: value for name, value in asdict(self.seen).items() if name != "population"},
            "agreement": self.agreement,
            "low": low,
            "high": high,
        }

    def spoken(self) -> str:
        """`96.5% (93.1% to 98.4%)`; the interval is rounded outwards."""
        low, high = self.interval
        share = "unknown" if self.agreement is None else f"{self.agreement:.1%}"
        return f"{share} ({math.floor(low * 1000 + _EXACT) / 10:g}% to {math.ceil(high * 1000 - _EXACT) / 10:g}%)"


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit found.

    Attributes:
        judge: who judged: the model's name, or None for a person.
        seed: of the draw.
        student: the texts that the student answered; None where there are none.
        model: those that the model answered, in this run or before; None where it was not asked about them again.
        whole: all texts that have a label.
        left_out: rows without a label, or whose text cannot be read back; they are in no number.
        cached: of the model's answers, how many lay in the cache already.
    """

    judge: str | None
    seed: int
    student: Finding | None
    model: Finding | None
    whole: Finding
    left_out: int = 0
    cached: int = 0

    def sentence(self) -> str:
        """For everybody."""
        level = f"{self.whole.level:.4g} confidence"
        if self.judge is not None and self.student is not None:
            return (
                f"Asked about {self.student.seen.drawn:,} of the {self.student.population:,} texts that the student "
                f"answered, {self.judge} gives the same label to {self.student.spoken()}, with {level}; of all "
                f"{self.whole.population:,} labels {self.whole.spoken()} are its own, the "
                f"{self.whole.certain:,} that it gave itself included, which were not asked again."
            )
        parts = [("the student's", self.student), ("the model's", self.model)]
        said = [f"of {name} {part.population:,} {part.spoken()}" for name, part in parts if part is not None]
        return (
            f"Of {self.whole.seen.drawn:,} texts drawn from all {self.whole.population:,}, a person gives the same "
            f"label to {self.whole.spoken()}, with {level}; {'; '.join(said)}."
        )

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        parts = {"student": self.student, "model": self.model, "all": self.whole}
        return {
            "judge": {"kind": "person" if self.judge is None else "model", "name": self.judge},
            "seed": self.seed,
            "level": self.whole.level,
            "left_out_rows": self.left_out,
            "answers_from_cache": self.cached,
            **{name: part.as_json() if part is not None else None for name, part in parts.items()},
            "sentence": self.sentence(),
        }
