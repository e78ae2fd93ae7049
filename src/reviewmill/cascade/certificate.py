"""What was certified, in numbers, in one sentence, and in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Part:
    """One test of one round: of all comments, or of those to which the student gives one label.

    Attributes:
        label: the label; None: all comments.
        delta: its error probability.
        prefix: comments that the student may answer, the sampled ones among them included.
        drawn: sampled comments among them.
        disagreeing: sampled comments among them on which student and model disagree.
        allowed: disagreements that might be left in the output (of one label: that the prefix might hold) at most.
        p: the exact p-value of the last prefix that passed; None where no prefix passed, or where none was tested
            because the prefix was fixed beforehand.
        tested: prefixes that were tested one after the other; None: all at once.
        base: comments to which the model had given this label before the sample was drawn (certificates by label).
        agreement: certified share of agreement, of all comments that needed an answer, or of those with this label.
    """

    label: str | None
    delta: float
    prefix: int
    drawn: int
    disagreeing: int
    allowed: int | None
    p: float | None
    tested: int | None
    base: int
    agreement: float | None


@dataclass(frozen=True, slots=True)
class Round:
    """One round: a student, a fresh sample, a test.

    Attributes:
        delta: the part of the error probability that it spent.
        labelled: comments that the model had labelled before its sample was drawn.
        rest: comments from which the sample was drawn.
        sample: its size.
        parts: its tests.
        spared: comments that the student may answer and the model need not.
    """

    delta: float
    labelled: int
    rest: int
    sample: int
    parts: tuple[Part, ...]
    spared: int = 0


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a cascade may say of its output.

    Attributes:
        population: distinct comments that needed an answer: not by rule, not from the cache.
        agreement: the target; None where a budget of questions was given instead.
        delta: probability with which what is certified may not hold.
        per_class: whether it is certified for each label by itself.
        budget: the questions that might be asked.
        seed: of all draws.
        smallest: fewer comments than this are not worth beginning with.
        rounds: all rounds.
        used: the round whose student answers; None: no student does, and all is the model's.
    """

    population: int
    agreement: float | None
    delta: float
    per_class: bool
    budget: int | None
    seed: int
    smallest: int
    rounds: tuple[Round, ...]
    used: int | None

    @property
    def spared(self) -> int:
        """Comments that the student answers."""
        return self.rounds[self.used].spared if self.used is not None else 0

    @property
    def certified(self) -> float:
        """The certified share of labels that are the model's (of the worst label, where each has its own)."""
        if self.used is None:
            return 1.0
        found = [part.agreement for part in self.rounds[self.used].parts if part.agreement is not None]
        return min(found, default=1.0)

    def sentence(self, model: str) -> str:
        """For everybody: one sentence."""
        if not self.population:
            return f"Nothing was left for a student: rules and answers that {model} gave before cover every text."
        if self.population < self.smallest:
            return (
                f"{model} answered everything itself: {self.population:,} texts are fewer than the {self.smallest:,} "
                "from which on a student can pay."
            )
        if self.used is None:
            return f"{model} answered everything itself: no student could be certified to agree with it often enough."
        each = "of each label's comments" if self.per_class else f"of all {self.population:,} labels"
        return (
            f"A student answered {self.spared:,} of {self.population:,} texts; with {1 - self.delta:.4g} confidence at "
            f"least {_share(self.certified)} {each} are what {model} would have said."
        )

    def statement(self, model: str) -> str:
        """For a statistician: what was tested, and how it came out."""
        head = (
            f"Population: the N = {self.population:,} distinct cleaned texts that neither a rule nor the cache "
            "answered. "
            f"Agreement: the label in the output is the label that {model} gives under this task, prompt and "
            "calibration; texts that it labelled itself agree by definition. "
        )
        if self.used is None:
            return head + "No test was passed, and no text was answered by a student."
        used = self.rounds[self.used]
        return head + " ".join([self._design(used), *(self._part(part, used) for part in used.parts), self._limits()])

    def _design(self, used: Round) -> str:
        return (
            f"Round {self.rounds.index(used) + 1} of {len(self.rounds)} spent {used.delta:.4g} of "
            f"delta = {self.delta:.4g}. The student was trained on {used.labelled:,} texts that the model had "
            f"labelled; then {used.sample:,} were drawn uniformly without replacement from the other {used.rest:,} "
            f"(seed {self.seed})."
        )

    def _part(self, part: Part, used: Round) -> str:
        of = f"Label {part.label}: of" if part.label is not None else "Of"
        seen = (
            f"{of} the {part.prefix:,} texts that the student may answer, {part.drawn:,} were in the sample, and on "
            f"{part.disagreeing:,} of these it disagreed"
        )
        if part.allowed is None:
            return (
                f"{seen}; inverting the hypergeometric distribution at {part.delta:.4g}, "
                f"agreement >= {part.agreement:.4f}."
            )
        if part.p is None:
            none = "no prefix passed in which at least half is sure to agree, the model answers all."
            return f"Label {part.label}: {none}" if part.label else none.capitalize()
        exact = f"{part.p:.3g} <= {part.delta:.4g} (hypergeometric, exact)"
        if part.tested is None:
            return (
                f"{seen}, which the model's labels have corrected. At most {part.allowed:,} disagreements may be left; "
                f"were there more, so few would be seen with probability {exact}. This holds for all prefixes of the "
                "order, from the most confident on, at once."
            )
        return (
            f"{seen}. At most {part.allowed:,} disagreements are allowed; were there more, so few would be seen with "
            f"probability {exact}. It is the last of {part.tested} prefixes, tested in fixed order from the most "
            "confident on."
        )

    @staticmethod
    def _limits() -> str:
        return (
            "The probability is over the draw of the samples alone. It says nothing of the truth, of single texts, of "
            "other files, or of another model, task, prompt or quantisation."
        )

    def as_json(self, model: str) -> dict[str, Any]:
        """For the manifest."""
        return {
            **asdict(self),
            "rounds": [{**asdict(round_), "parts": [asdict(part) for part in round_.parts]} for round_ in self.rounds],
            "spared": self.spared,
            "certified_agreement": round(self.certified, 6),
            "smallest_population": self.smallest,
            "sentence": self.sentence(model),
            "statement": self.statement(model),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Certificate:
        """Read what `as_json` made."""
        rounds = tuple(
            Round(**{**round_, "parts": tuple(Part(**part) for part in round_["parts"])}) for round_ in found["rounds"]
        )
        names = ("population", "agreement", "delta", "per_class", "budget", "seed", "smallest", "used")
        return cls(**{name: found[name] for name in names}, rounds=rounds)


def _share(value: float) -> str:
    """A share as a percentage, rounded down: never more than was certified."""
    return f"{int(value * 10_000 + 1e-6) / 100:g}%"
