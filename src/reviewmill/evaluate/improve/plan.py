"""What a search may cost, and how it spends it. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from reviewmill.errors import InputError
from reviewmill.evaluate.improve.prompts import MOST_EXAMPLES

if TYPE_CHECKING:
    from reviewmill.evaluate.improve.parts import Parts

DEFAULT_BUDGET: Final = 4000
"""Questions to the model; about three quarters of an hour of the embedded model on two cores."""

JUDGED_SHARE: Final = 0.2
_PROPOSE_SHARE: Final = 0.1
_PROPOSER_SHARE: Final = 0.25
_FIRST_ROUND: Final = 0.6
_LEAST_CANDIDATES: Final = 4
_MOST_CANDIDATES: Final = 64
_LEAST_SELECT: Final = 20
_LEAST_PROPOSE: Final = 30
_SURVIVORS: Final = 2
_POWER: Final = 1.645 + 0.842  # one-sided 5%, found four times of five
_DISAGREE: Final = 0.10


@dataclass(frozen=True, slots=True)
class Round:
    """One round of successive halving.

    Attributes:
        candidates: how many begin.
        rungs: how many rows of the second part those that are left have been asked, after each step.
    """

    candidates: int
    rungs: tuple[int, ...]

    @property
    def cost(self) -> int:
        """Questions."""
        left, asked, total = self.candidates, 0, 0
        for rows in self.rungs:
            total += left * (rows - asked)
            left, asked = max(_SURVIVORS, math.ceil(left / 2)), rows
        return total

    def survivors(self, begun: int) -> int:
        """How many of so many go on after a step."""
        return max(_SURVIVORS, math.ceil(begun / 2))


@dataclass(frozen=True, slots=True)
class Plan:
    """How the budget is spent.

    Attributes:
        budget: the most questions that the search may ask.
        propose, select, judge: rows of each part that are used.
        proposer: questions that candidates of a proposing model may cost.
        rounds: the rounds of selection.
        keywords: questions for the keywords of new examples.
    """

    budget: int
    propose: int
    select: int
    judge: int
    proposer: int
    rounds: tuple[Round, ...]
    keywords: int

    @property
    def cost(self) -> int:
        """The most questions that this plan asks; at most the budget."""
        rounds = sum(each.cost for each in self.rounds)
        return self.propose + self.select + self.proposer + rounds + self.keywords + 2 * self.judge

    @property
    def detectable(self) -> float:
        """The gain in accuracy that is found four times of five, if the two prompts differ on a tenth of the rows.

        By the normal approximation of the sign test (Connor 1987, Biometrics 43, 207-211).
        """
        return _POWER * math.sqrt(_DISAGREE / self.judge)

    def as_json(self) -> dict[str, Any]:
        """As it is written into the state file."""
        return {
            "budget": self.budget,
            "cost_at_most": self.cost,
            "rows": {"propose": self.propose, "select": self.select, "judge": self.judge},
            "proposer": self.proposer,
            "keywords": self.keywords,
            "rounds": [{"candidates": each.candidates, "rungs": list(each.rungs)} for each in self.rounds],
        }


def most_judged(budget: int) -> int:
    """How many rows may judge within a budget: each is asked twice."""
    return max(1, int(budget * JUDGED_SHARE))


def make_plan(parts: Parts, *, budget: int, keywords: bool, proposer: bool) -> Plan:
    """Divide the budget.

    Args:
        parts: the rows there are.
        budget: the most questions.
        keywords: whether new examples must be asked for keywords by themselves.
        proposer: whether another model proposes guidelines.

    Raises:
        InputError: the budget buys too little.
    """
    there = (len(parts.propose), len(parts.select), parts.fresh)
    plan = _divided(there, budget, keywords=keywords, proposer=proposer)
    if plan.rounds[0].candidates >= _LEAST_CANDIDATES:
        return plan
    enough = budget
    while _divided(there, enough, keywords=keywords, proposer=proposer).rounds[0].candidates < _LEAST_CANDIDATES:
        enough = (enough // 100 + 1) * 100
    raise InputError(
        f"A budget of {budget:,} questions buys {plan.rounds[0].candidates} prompts to compare; a search needs at "
        f"least {_LEAST_CANDIDATES}.",
        hint=f"Allow more with --budget; here at least {enough:,}.",
    )


def _divided(there: tuple[int, int, int], budget: int, *, keywords: bool, proposer: bool) -> Plan:
    propose = min(there[0], max(_LEAST_PROPOSE, int(budget * _PROPOSE_SHARE)))
    select = min(there[1], max(_LEAST_SELECT, budget // 10))
    judge = min(there[2], most_judged(budget))
    asked_for_keywords = MOST_EXAMPLES if keywords else 0
    rest = budget - propose - select - asked_for_keywords - 2 * judge
    for_proposer = max(0, int(rest * _PROPOSER_SHARE)) if proposer else 0
    rest -= for_proposer
    rungs = _rungs(select)
    first = _round(int(rest * _FIRST_ROUND), rungs)
    second = _round(rest - first.cost, rungs)
    rounds = (first, second) if second.candidates >= _SURVIVORS else (first,)
    return Plan(budget, propose, select, judge, for_proposer, rounds, asked_for_keywords)


def _rungs(rows: int) -> tuple[int, ...]:
    """Doubling from an eighth of the rows, or from where a rung has enough."""
    return tuple(rows // part for part in (8, 4, 2, 1) if part == 1 or rows // part >= _LEAST_SELECT)


def _round(budget: int, rungs: tuple[int, ...]) -> Round:
    """The most candidates that a budget buys."""
    best = Round(0, rungs)
    for number in range(1, _MOST_CANDIDATES + 1):
        tried = Round(number, rungs)
        if tried.cost > budget:
            break
        best = tried
    return best
