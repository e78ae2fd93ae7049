"""Who answers which comment: draws what the model is asked next, trains, tests, and says what the student may answer.

The router asks nobody and writes nothing. It yields draws (which comments the model is to label next), is told the
labels, and at the end names the comments that the student answers, with a certificate. A draw that was recorded by an
earlier, interrupted run is taken instead of a new one, so that a sample stays the sample that it was.

1. *Seed*: a uniform sample, to train the first student.
2. *Active* draws: the student says which comments will have to go to the model anyway; some of these are asked now,
   since their labels cost nothing extra, and the student learns from them. Repeated while it pays.
3. *Certify*: a fresh uniform sample of what the model has not labelled; the student that is tested has not seen it.
4. If another round is likely to save more than its sample costs, go on with 2, else stop. The sample has become
   training data by then.

Which draws are made, and how large, follows from what was seen before the draw, never from its own labels; that is all
that the guarantee asks (docs/guarantee.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from reviewmill.cascade import guarantee
from reviewmill.cascade.certificate import Certificate, Part, Round
from reviewmill.cascade.directions import Directions, Embeddings, find_directions
from reviewmill.cascade.features import Hasher, frequencies
from reviewmill.cascade.forecast import Forecast, Group, forecast
from reviewmill.cascade.learning import Reals
from reviewmill.cascade.student import Lesson, Student, Trained, rarity, train

ROUNDS: Final = 2
_SEED_SHARE: Final = 0.025
_SEED_LEAST: Final = 200
_SEED_MOST: Final = 1000
_ACTIVE_LEAST: Final = 50
_ACTIVE_SHARE: Final = 0.5
_ACTIVE_DRAWS: Final = 5
_WORTH: Final = 0.9
_CALM: Final = 10
_LEARNED_LEAST: Final = 10
_COUNTED: Final = 50_000
_BUDGET_SAMPLE: Final = 0.15

Role = Literal["seed", "active", "certify"]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a cascade is to reach: an agreement, or the best agreement for so many questions.

    Attributes:
        agreement: the share of labels that must be the model's (0 to 1); None where `budget` counts.
        delta: probability with which the certificate may be wrong.
        per_class: whether the agreement must hold for each label by itself.
        rounds: tests at most.
        budget: questions to the model; None: as many as the agreement needs.
    """

    agreement: float | None = 0.95
    delta: float = 0.05
    per_class: bool = False
    rounds: int = ROUNDS
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class Draw:
    """Comments that the model is to label, by their place in the population, in ascending order."""

    round: int
    role: Role
    rows: Rows


@dataclass(frozen=True, slots=True)
class Granted:
    """What the student may answer: these comments, with its logits."""

    student: Student
    rows: Rows
    logits: Reals


@dataclass(slots=True)
class Standing:
    """What is known so far, for the progress."""

    labelled: int = 0
    certified: int = 0
    expected: int | None = None


def seed_size(total: int) -> int:
    """Comments labelled to train the first student, by the number of comments."""
    return min(max(round(total * _SEED_SHARE), _SEED_LEAST), _SEED_MOST, total)


class Router:
    """Draws, trains and tests; see the module.

    Args:
        texts: the population: distinct comments that need an answer, in a fixed order.
        labels: the task's labels.
        goal: what to reach.
        seed: decides every draw.
        recorded: draws of an earlier run, in order.
        start: a student from elsewhere to begin with; it counts only where it predicts the model's labels on this
            population better than a student without it, and is certified anew like any other.
        known: other comments, not of the population, with the model's probabilities: more to learn from.
        hasher: makes the features.
        embeddings: of a model's tokens, so that the student knows which words are alike.
    """

    def __init__(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        goal: Goal,
        *,
        seed: int,
        recorded: Sequence[Draw] = (),
        start: Student | None = None,
        known: tuple[Sequence[str], Reals] | None = None,
        hasher: Hasher | None = None,
        embeddings: Embeddings | None = None,
    ) -> None:
        self.texts = texts
        self.labels = tuple(labels)
        self.goal = goal
        self.standing = Standing()
        self.targets: Reals = np.full((len(texts), len(labels)), np.nan)
        self.granted: Granted | None = None
        self.rounds: list[Round] = []
        self._seed = seed
        self._recorded = list(recorded)
        self._hasher = hasher or Hasher()
        self._embeddings = embeddings
        self._known_texts, self._known_targets = known or ((), np.empty((0, len(labels))))
        self._start = start
        self._asked = np.zeros(len(texts), dtype=np.bool_)
        self._weight = np.zeros(len(texts))
        self._bias = 1.0
        self._draws: list[Draw] = []
        self._trained: Trained | None = None
        self._idf: Reals | None = None
        self._directions: Directions | None = None
        self._looked = False
        self._thought: tuple[Rows, Reals] | None = None

    # -- what the run calls -----------------------------------------------------------------------------------------

    @property
    def smallest(self) -> int:
        """Fewer comments than this are not worth beginning with."""
        agreement = self.goal.agreement
        return guarantee.smallest_population(agreement, self.goal.delta, seed_size) if agreement else 0

    def draws(self) -> Iterator[Draw]:
        """What the model is to label; call `learn` with the labels of each draw before asking for the next."""
        if len(self.texts) < self.smallest or len(self.texts) <= (self.goal.budget or 0):
            return
        while True:
            planned = self._plan()  # also where a draw was recorded: what is learned on the way must be the same
            draw = self._recorded.pop(0) if self._recorded else planned
            if draw is None:
                return
            yield draw
            self._take(draw)

    def learn(self, rows: Rows, targets: Reals) -> None:
        """Take labels in: probabilities, comments x labels; NaN where the model gave no answer."""
        self.targets[rows] = targets

    def certificate(self) -> Certificate:
        """What can be said of the output, once all draws are done."""
        used = max(range(len(self.rounds)), key=lambda number: self.rounds[number].spared, default=None)
        spared = self.rounds[used].spared if used is not None else 0
        return Certificate(
            population=len(self.texts),
            agreement=self.goal.agreement,
            delta=self.goal.delta,
            per_class=self.goal.per_class,
            budget=self.goal.budget,
            seed=self._seed,
            smallest=self.smallest,
            rounds=tuple(self.rounds),
            used=used if spared else None,
        )

    # -- planning: on what is known before a draw -------------------------------------------------------------------

    def _plan(self) -> Draw | None:
        if not self._draws:
            return self._seed_draw()
        if int(self._learned().sum()) < _LEARNED_LEAST:  # nearly all questions failed
            return None
        if self.goal.budget is not None:
            return self._plan_budget(self.goal.budget)
        if len(self.rounds) >= self.goal.rounds:
            return None
        chance = self._chance()
        rest, ahead = self._ahead()
        self.standing.expected = int(self._asked.sum()) + ahead.calls
        if self.rounds:
            left = len(rest) - max((round_.spared for round_ in self.rounds), default=0)
            if self._draws[-1].role == "certify" and ahead.calls > _WORTH * left:
                return None
        active = min(round(_ACTIVE_SHARE * len(ahead.beyond)), int(self._asked.sum()))
        tried = sum(draw.role == "active" and draw.round == len(self.rounds) for draw in self._draws)
        if active >= self._least_active() and tried < _ACTIVE_DRAWS:
            return self._draw("active", rest[chance.choice(ahead.beyond, active, replace=False)])
        if ahead.calls >= len(rest):  # not even the best guess saves anything
            return None
        return self._draw("certify", chance.choice(rest, ahead.sample, replace=False))

    def _least_active(self) -> int:
        """Smaller draws teach too little for the time that training takes."""
        return max(_ACTIVE_LEAST, int(self._asked.sum()) // 20)

    def _plan_budget(self, budget: int) -> Draw | None:
        """Ask about the least certain until the budget is down to a sample; the prefix is all that is left then."""
        if self.rounds:
            return None
        chance, rest = self._chance(), np.flatnonzero(~self._asked)
        left = budget - int(self._asked.sum())
        sample = min(max(round(_BUDGET_SAMPLE * budget), 1), max(left, 0), len(rest))
        tried = sum(draw.role == "active" for draw in self._draws)
        spare = min(left - sample, len(rest) - sample)
        if spare > 0:
            steps = max(1, _ACTIVE_DRAWS - tried)
            size = spare if spare < _ACTIVE_LEAST else min(spare, max(_ACTIVE_LEAST, -(-spare // steps)))
            confidence = self._known().student.confidence(self._logits(rest))
            return self._draw("active", rest[np.argsort(confidence, kind="stable")[:size]])
        if sample < 1:
            return None
        return self._draw("certify", chance.choice(rest, sample, replace=False))

    def _seed_draw(self) -> Draw:
        size = seed_size(len(self.texts))
        if self.goal.budget is not None:
            size = max(1, min(size, self.goal.budget // 3))
        return self._draw("seed", self._chance().choice(len(self.texts), size, replace=False))

    def _draw(self, role: Role, rows: npt.NDArray[np.integer[Any]]) -> Draw:
        return Draw(len(self.rounds), role, np.sort(rows).astype(np.int64))

    def _chance(self) -> np.random.Generator:
        return np.random.default_rng([self._seed, len(self._draws)])

    def _ahead(self) -> tuple[Rows, Forecast]:
        """What a test of the present student is likely to bring."""
        rest = np.flatnonzero(~self._asked)
        logits = self._logits(rest)
        delta = guarantee.share(self.goal.delta, len(self.rounds), self.goal.rounds)
        groups = self._groups(logits, delta)
        doubt = np.minimum(1, self._bias * (1 - self._known().student.confidence(logits)))
        return rest, forecast(groups, doubt, len(rest))

    # -- after a draw -----------------------------------------------------------------------------------------------

    def _take(self, draw: Draw) -> None:
        if draw.role == "certify":
            self._test(draw)
        if self._draws:
            self._compare(draw)
            self._weigh(draw)
        self._weight[draw.rows] = 1 if not self._draws else self._weight[draw.rows]
        self._asked[draw.rows] = True
        self._draws.append(draw)
        self._trained = self._thought = None
        self.standing.labelled = int(self._asked.sum())

    def _compare(self, draw: Draw) -> None:
        """See how far the student's doubt about comments that it did not know was right, to forecast better."""
        rest = np.flatnonzero(~self._asked)
        place, logits = np.searchsorted(rest, draw.rows), self._logits(rest)
        student = self._known().student
        bad = self._disagrees(draw.rows, student.choices(logits)[place]).sum()
        self._bias = (bad + _CALM) / ((1 - student.confidence(logits)[place]).sum() + _CALM)

    def _weigh(self, draw: Draw) -> None:
        """Settle how many of the comments that have no label each labelled one stands for, now that more have one."""
        rest = np.flatnonzero(~self._asked)
        left = len(rest) - len(draw.rows)
        if draw.role == "active":
            student, logits = self._known().student, self._logits(rest)
            taken = np.isin(rest, draw.rows)
            # Where comments were taken, those that are left are represented by all that have a label there.
            edge = np.full(len(self.labels), -1.0)
            np.maximum.at(edge, student.choices(logits)[taken], student.confidence(logits)[taken])
            left = int(np.sum(student.confidence(logits) <= edge[student.choices(logits)])) - len(draw.rows)
            learned = np.flatnonzero(self._learned())
            held_out = self._known().held_out[: len(learned)]
            low = student.confidence(held_out) <= edge[student.choices(held_out)]
            there, elsewhere = learned[low], learned[~low]
            self._weight[there] = self._weight[draw.rows] = left / (len(there) + len(draw.rows))
            others = len(rest) - len(draw.rows) - left
            self._weight[elsewhere] *= others / max(self._weight[elsewhere].sum(), 1e-9)
            return
        total, squares = self._weight.sum(), np.square(self._weight).sum()
        before = total**2 / squares if squares else 0.0  # so many of equal weight say as much
        self._weight *= before / (before + len(draw.rows))
        self._weight[draw.rows] = left / (before + len(draw.rows))

    def _test(self, draw: Draw) -> None:
        """Test the student that was trained before this sample was drawn."""
        rest = np.flatnonzero(~self._asked)
        logits = self._logits(rest)
        place = np.searchsorted(rest, draw.rows)
        delta = guarantee.share(self.goal.delta, len(self.rounds), self.goal.rounds)
        if self.goal.agreement is None:
            delta = self.goal.delta
        bad = np.zeros(len(rest), dtype=np.bool_)
        bad[place] = self._disagrees(draw.rows, self._known().student.choices(logits)[place])
        drawn = np.zeros(len(rest), dtype=np.bool_)
        drawn[place] = True
        parts, granted = [], np.zeros(len(rest), dtype=np.bool_)
        for group in self._groups(logits, delta):
            part = self._certified(group, drawn, bad)
            parts.append(part)
            granted[group.order[: part.prefix]] = True
        spared = rest[granted & ~drawn]
        if len(spared) > max((round_.spared for round_ in self.rounds), default=0):
            self.granted = Granted(self._known().student, spared, logits[granted & ~drawn])
        self.rounds.append(
            Round(delta, int(self._asked.sum()), len(rest), len(draw.rows), tuple(parts), spared=len(spared))
        )
        self.standing.certified = max(round_.spared for round_ in self.rounds)

    def _disagrees(self, rows: Rows, said: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        """Where the student's label is not the model's; where the model gave none, it counts against the student."""
        truth = self.targets[rows]
        failed = np.isnan(truth).any(axis=1)
        disagrees: npt.NDArray[np.bool_] = failed | (np.nan_to_num(truth).argmax(axis=1) != said)
        return disagrees

    def _certified(self, group: Group, drawn: npt.NDArray[np.bool_], bad: npt.NDArray[np.bool_]) -> Part:
        """Test one group's prefixes; or bound its disagreements, where the prefix is fixed."""
        ranks = np.flatnonzero(drawn[group.order])
        disagrees = bad[group.order][ranks]
        size = len(group.order)
        if self.goal.agreement is None:
            seen = int(disagrees.sum())
            total = len(self.texts) if group.name is None else size + group.base
            sure = guarantee.certain_agreement(total, size, len(ranks), seen, group.delta)
            return Part(group.name, group.delta, size, len(ranks), seen, None, None, 0, group.base, sure)
        tested: int | None = None
        if group.name is None:
            passed = guarantee.rectifying(ranks, disagrees, size, group.limit(size), group.delta)
        else:
            test = guarantee.fixed_sequence(ranks, disagrees, guarantee.even_prefixes(size), group.limit, group.delta)
            passed, tested = test.passed, len(test.steps)
        if passed is None or not guarantee.worth(passed.size, passed.allowed):
            return Part(group.name, group.delta, 0, 0, 0, 0, None, tested, group.base, None)
        return Part(
            label=group.name,
            delta=group.delta,
            prefix=passed.size,
            drawn=passed.drawn,
            disagreeing=passed.disagreeing,
            allowed=passed.allowed,
            p=passed.p,
            tested=tested,
            base=group.base,
            agreement=self.goal.agreement,
        )

    # -- the student ------------------------------------------------------------------------------------------------

    def _groups(self, logits: Reals, delta: float) -> list[Group]:
        """What is certified together, each in its order of confidence."""
        student, agreement = self._known().student, self.goal.agreement or 0.0
        order = np.argsort(-student.confidence(logits), kind="stable")
        if not self.goal.per_class:
            limit = guarantee.allowed(len(self.texts), agreement)
            return [Group(None, order, lambda _: limit, 0, delta)]
        said = student.choices(logits)[order]
        given = self.targets[self._asked]
        given = given[~np.isnan(given).any(axis=1)].argmax(axis=1)
        groups = []
        for column, label in enumerate(self.labels):
            base = int(np.sum(given == column))
            groups.append(
                Group(label, order[said == column], _limit_with(base, agreement), base, delta / len(self.labels))
            )
        return groups

    def _known(self) -> Trained:
        """The student of what the model has labelled so far."""
        if self._trained is None:
            rows = np.flatnonzero(self._learned())
            more = len(self._known_texts)
            lesson = Lesson(
                texts=[*self._some(rows), *self._known_texts],
                targets=np.concatenate([self.targets[rows], self._known_targets]),
                weight=np.concatenate([self._weight[rows], np.zeros(more)]),
                balance=0.5 if self.goal.per_class else 0.0,
                seed=self._seed,
            )
            trained = [train(lesson, self.labels, self._hasher, self._rarity(), directions=self._main_directions())]
            if self._start is not None:
                idf = np.sqrt(self._start.table[:, -1].astype(np.float64))
                trained.append(train(lesson, self.labels, self._start.hasher, idf, start=self._start))
            self._trained = min(trained, key=lambda one: one.loss)
        return self._trained

    def _some(self, rows: npt.NDArray[np.integer[Any]]) -> list[str]:
        return [self.texts[row] for row in rows.tolist()]

    def _learned(self) -> npt.NDArray[np.bool_]:
        """Which comments have a label of the model by now."""
        learned: npt.NDArray[np.bool_] = self._asked & ~np.isnan(self.targets).any(axis=1)
        return learned

    def _rarity(self) -> Reals:
        if self._idf is None:
            known = self.texts[:_COUNTED]
            self._idf = rarity(frequencies(self._hasher, known), len(known))
        return self._idf

    def _main_directions(self) -> Directions | None:
        if not self._looked:
            self._directions = find_directions(
                self._hasher, self.texts, self._rarity(), seed=self._seed, embeddings=self._embeddings
            )
            self._looked = True
        return self._directions

    def _logits(self, rows: Rows) -> Reals:
        if self._thought is None or len(self._thought[0]) != len(rows):
            logits = self._known().student.logits(self._some(rows))
            self._thought = (rows, logits)
        return self._thought[1]


def _limit_with(base: int, agreement: float) -> Callable[[int], int]:
    """How many of the comments with one label may disagree, where `base` others certainly agree."""
    return lambda size: guarantee.allowed(size + base, agreement)
