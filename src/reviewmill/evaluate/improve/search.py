"""The search: propose on the first part, select on the second, judge once on the third."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from reviewmill.counted import counted
from reviewmill.errors import InputError
from reviewmill.evaluate.improve.ask import fit_keywords
from reviewmill.evaluate.improve.parts import LEAST_ROWS, Parts, split
from reviewmill.evaluate.improve.plan import DEFAULT_BUDGET, Plan, Round, make_plan, most_judged
from reviewmill.evaluate.improve.prompts import Candidate, Proposer, changed, drawable
from reviewmill.evaluate.improve.verdict import LEVEL, Verdict, judge
from reviewmill.evaluate.improve.weights import better_weights
from reviewmill.tasks.write import task_toml

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from reviewmill.evaluate.improve.ask import Asker, Found
    from reviewmill.evaluate.improve.ledger import Ledger
    from reviewmill.evaluate.improve.parts import SealedPart
    from reviewmill.evaluate.improve.pool import Pool
    from reviewmill.evaluate.improve.state import State
    from reviewmill.evaluate.labelled import Labelled, LabelledRow
    from reviewmill.tasks import Task

LEAST_JUDGED: Final = 20
_CARRIED: Final = 4
"""How many of the first round's best the second builds on."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What a search is told.

    Attributes:
        budget: the most questions to the model.
        seed: of all chance.
        weights: whether other weights of the labels are tried too; they cost no question.
        keywords: whether the prompts that are compared ask for keywords; else new examples get theirs at the end.
        calibrated: whether the present prompt is in use with a calibration, which stands in its weights' place.
    """

    budget: int = DEFAULT_BUDGET
    seed: int = 0
    weights: bool = True
    keywords: bool = False
    calibrated: bool = False


@dataclass(slots=True)
class Trial:
    """A candidate with what it found on the beginning of the second part."""

    candidate: Candidate
    found: list[Found] = field(default_factory=list)
    accuracy: float = 0.0
    share: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """As it is written into the report."""
        return {
            "name": self.candidate.name,
            "changes": list(self.candidate.changes),
            "rows": len(self.found),
            "accuracy": round(self.accuracy, 4),
            "mean_probability_of_the_right_label": round(self.share, 4),
        }


@dataclass(frozen=True, slots=True)
class Step:
    """How far a search is; given to `on_step`.

    Attributes:
        what: what is being done.
        asked: questions answered so far, from the cache or the model.
        at_most: questions that the plan may ask.
    """

    what: str
    asked: int
    at_most: int


class GuidelineWriter(Protocol):
    """Proposes guidelines for a task from rows of the first part."""

    async def write(
        self, task: Task, rows: Sequence[LabelledRow], labels: Sequence[str], calls: int
    ) -> list[tuple[str, tuple[str, ...]]]:
        """Return lists of guidelines, each with a phrase that says what it is, asking at most `calls` questions."""


class Search:
    """One search over one labelled file.

    Args:
        task: the present task.
        labelled: the rows.
        cleaned: gives the text of a row that the model would see, or None where there is nothing to judge.
        asker: answers rows with a prompt.
        options: budget, seed and the like.
        state: the state file.
        ledger: which texts have judged before, on this machine.
        pool: guideline sentences to try.
        writer: proposes guidelines of its own.
        on_step: called before each step.

    Raises:
        InputError: the rows cannot be searched on: too few, one label, no fresh rows to judge, too small a budget.
    """

    def __init__(
        self,
        task: Task,
        labelled: Labelled,
        cleaned: Callable[[LabelledRow], str | None],
        asker: Asker,
        options: SearchOptions,
        state: State,
        ledger: Ledger,
        *,
        pool: Pool | None = None,
        writer: GuidelineWriter | None = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> None:
        self.task = task
        self.options = options
        self.state = state
        self._asker = asker
        self._ledger = ledger
        self._pool = pool
        self._writer = writer
        self._on_step = on_step or (lambda _: None)
        self._source = labelled.digest
        self._among = labelled.labels_present
        self._asked = 0
        read = [(row, cleaned(row)) for row in labelled.rows]
        self._texts = {row.number: text for row, text in read if text is not None}
        self.nothing_to_judge = len(read) - len(self._texts)
        self.warnings = list(labelled.warnings) + self._own_warnings(labelled)
        self.parts = self._split([row for row, text in read if text is not None])
        self.plan: Plan = make_plan(
            self.parts, budget=options.budget, keywords=self._asks_for_keywords, proposer=writer is not None
        )
        self.select = self.parts.select[: self.plan.select]
        self._trials: list[Trial] = []

    @property
    def _asks_for_keywords(self) -> bool:
        return self.task.keywords and not self.options.keywords

    def _own_warnings(self, labelled: Labelled) -> list[str]:
        warnings = []
        if self.nothing_to_judge:
            rows = counted(self.nothing_to_judge, "row")
            warnings.append(f"Left out: {rows} with nothing to judge (no words, default texts).")
        missing = [name for name in self.task.label_names if name not in labelled.labels_present]
        if missing:
            warnings.append(
                f"No row is {', '.join(missing)}: prompts are compared by the most probable of the labels that occur, "
                "or the best would be one that never says it. How often it is said wrongly is not measured."
            )
        if self.options.calibrated:
            warnings.append(
                "The present prompt is in use with a calibration, and a new one has to win without. Calibrate it "
                "afterwards, or compare both without: --calibration none."
            )
        earlier = self._ledger.times(labelled.digest) - (self.state.phase == "judging")
        if earlier > 0:
            warnings.append(
                f"Judged before: {counted(earlier, 'search', 'searches')} over this file. Each takes a prompt "
                f"that is no better with a chance of up to {LEVEL:.0%}; of many searches some do."
            )
        return warnings

    def _split(self, rows: list[LabelledRow]) -> Parts:
        texts = [self._texts[row.number] for row in rows]
        used = (self._ledger.used() | self.state.used()) - self.state.judging()
        parts = split(rows, texts, seed=self.options.seed, used=used, most_judged=most_judged(self.options.budget))
        if parts.judge.size < LEAST_JUDGED:
            self._refuse(parts)
        if parts.stale:
            self.warnings.append(
                f"Left out of the third part: {counted(parts.stale, 'row')} that judged a search before."
            )
        return parts

    def _refuse(self, parts: Parts) -> None:
        if parts.stale:
            raise InputError(
                f"The third part is no longer fresh: {parts.stale} of its rows have judged a search of the task "
                f"{self.task.name!r} before, and {parts.judge.size} have not. Judged by them again, a prompt "
                "that is no better would pass more often than it should.",
                hint="Label more comments and add them; another --seed draws a third part with fewer of these rows.",
            )
        raise InputError(
            f"The third part would have {parts.judge.size} rows; at least {LEAST_JUDGED} must judge.",
            hint=f"Label more comments (at least {LEAST_ROWS}), or allow more questions with --budget.",
        )

    async def run(self) -> dict[str, Any]:
        """Search and judge; return the report.

        Raises:
            EndpointError: the endpoint failed; the same command continues.
            ValueError: the state is that of a search that is done; `State.report` has its report.
        """
        if self.state.phase == "done":
            raise ValueError("this search is done")
        self.state.content["plan"] = self.plan.as_json()
        self.state.save()
        winner = self._winner_in_state() if self.state.phase == "judging" else await self._find()
        verdict = await self._judge(winner) if winner is not None else None
        report = self._report(winner, verdict)
        self.state.phase = "done"
        self.state.content["report"] = report
        self.state.save()
        return report

    # Proposing and selecting

    async def _find(self) -> Candidate | None:
        """The best candidate on the second part, or None where none is better than the present prompt there."""
        known = self.parts.propose[: self.plan.propose]
        found = await self._ask(self.task, known, "the present prompt on the first part")
        seen = [(row, self._texts[row.number], each) for row, each in zip(known, found, strict=True)]
        extra = await self._written(known)
        proposer = Proposer(self.task, self._pool, drawable(self.task, seen), self.options.seed, extra)
        present = Trial(Candidate(self.task, ()))
        await self._extend(present, len(self.select), "the present prompt on the second part")
        first, *later = self.plan.rounds
        best = await self._halve(proposer.first(first.candidates), first, "round 1")
        for number, each in enumerate(later, 2):
            built_on = [trial.candidate for trial in _ranked(best)[:_CARRIED]]
            best += await self._halve(proposer.second(built_on, each.candidates), each, f"round {number}")
        finalists = self._weighed([present, *best])
        self._log(present, finalists)
        winner = next((trial for trial in _ranked(finalists) if trial.accuracy > present.accuracy), None)
        return await self._with_keywords(winner.candidate) if winner is not None else None

    async def _written(self, rows: Sequence[LabelledRow]) -> list[tuple[str, tuple[str, ...]]]:
        if self._writer is None or not self.plan.proposer:
            return []
        self._on_step(Step("guidelines by the proposing model", self._asked, self.plan.cost))
        written = await self._writer.write(self.task, rows, self._among, self.plan.proposer)
        self._asked += self.plan.proposer
        return written

    async def _halve(self, candidates: list[Candidate], plan: Round, title: str) -> list[Trial]:
        """Successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943): the better half gets more rows.

        Ranked by the mean probability of the right label, which tells two prompts apart on fewer rows than counting.
        """
        trials = [Trial(candidate) for candidate in candidates]
        self._trials += trials
        for step, rows in enumerate(plan.rungs, 1):
            for number, trial in enumerate(trials, 1):
                where = f"{title}, step {step} of {len(plan.rungs)}: prompt {number} of {len(trials)}"
                await self._extend(trial, rows, where)
            if step < len(plan.rungs):
                trials = sorted(trials, key=lambda trial: -trial.share)[: plan.survivors(len(trials))]
        return trials

    async def _extend(self, trial: Trial, rows: int, what: str) -> None:
        trial.found += await self._ask(trial.candidate.task, self.select[len(trial.found) : rows], what)
        self._count(trial)

    def _count(self, trial: Trial) -> None:
        gold = [row.label for row in self.select[: len(trial.found)]]
        pairs = list(zip(trial.found, gold, strict=True))
        trial.accuracy = sum(found.among(self._among) == label for found, label in pairs) / len(pairs)
        trial.share = sum(_share(found, label, self._among) for found, label in pairs) / len(pairs)

    def _weighed(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials, the present prompt's left out, and each with other weights where these help."""
        gold = [row.label for row in self.select]
        tuned = []
        present, *others = trials
        for trial in [*others, *([] if self.options.calibrated else [present])] if self.options.weights else ():
            better = better_weights(trial.candidate.task, trial.found, gold, self._among)
            if better is None:
                continue
            weights, accuracy = better
            before = trial.candidate.task
            labels = [label.model_dump() | {"weight": weights[label.name]} for label in before.labels]
            task = changed(before, labels=labels)
            told = ", ".join(f"{name} {weight:g}" for name, weight in weights.items() if weight != 1)
            candidate = Candidate(task, (*trial.candidate.changes, f"weights: {told or 'none'}"))
            share = sum(
                _share(found.weighed(weights), label, self._among)
                for found, label in zip(trial.found, gold, strict=True)
            ) / len(gold)
            tuned.append(Trial(candidate, trial.found, accuracy, share))
        self._trials += tuned
        return [*others, *tuned]

    async def _with_keywords(self, winner: Candidate) -> Candidate:
        """Give new examples the keywords that the present prompt finds: without, they would teach to write none."""
        own = {example.text for example in self.task.examples}
        bare = [e for e in winner.task.examples if e.text not in own and not e.keywords]
        if not bare or not self._asks_for_keywords:
            return winner
        by_text = {self._texts[row.number]: row for row in self.parts.propose}
        rows = [by_text[example.text] for example in bare]
        self._on_step(Step("keywords of the new examples", self._asked, self.plan.cost))
        words = dict(zip((e.text for e in bare), await self._asker.keywords(self.task, rows), strict=True))
        self._asked += len(rows)
        examples = [
            example.model_dump() | {"keywords": fit_keywords(self.task, example.text, words[example.text])}
            if example.text in words
            else example.model_dump()
            for example in winner.task.examples
        ]
        task = changed(winner.task, examples=examples)
        return Candidate(task, winner.changes, winner.guidelines_from, winner.examples_from)

    async def _ask(self, task: Task, rows: Sequence[LabelledRow], what: str) -> list[Found]:
        self._on_step(Step(what, self._asked, self.plan.cost))
        found = await self._asker.ask(task, rows) if rows else []
        self._asked += len(rows)
        return found

    def _log(self, present: Trial, finalists: Sequence[Trial]) -> None:
        order = sorted(self._trials, key=lambda trial: (-len(trial.found), -trial.accuracy, -trial.share))
        self.state.content["present"] = present.as_json()
        self.state.content["prompts"] = [trial.as_json() for trial in order]
        self.state.content["finalists"] = [trial.candidate.name for trial in _ranked(finalists)]
        self.state.save()

    # Judging

    def _winner_in_state(self) -> Candidate:
        return Candidate(self.state.winner(), tuple(self.state.content["winner"]["changes"]))

    async def _judge(self, winner: Candidate) -> Verdict:
        """Open the third part, once, for this candidate."""
        rows = self.parts.judge.open(lambda part: self._record(part, winner))
        texts = [self._texts[row.number] for row in rows]
        present = await self._ask(self.task, rows, "the third part: the present prompt")
        new = await self._ask(winner.task, rows, "the third part: the new prompt")
        return judge(rows, texts, present, new, self._among)

    def _record(self, part: SealedPart, winner: Candidate) -> None:
        """Write down, before any of them is asked, that these rows judge this candidate."""
        if self.state.phase == "judging":
            if sorted(part.digests) != sorted(self.state.judging()):
                raise InputError(
                    f"{self.state.path}: the third part that was opened is not the one of this file.",
                    hint="Give another -o to begin anew.",
                )
        else:
            self.state.content["winner"] = {
                "name": winner.name,
                "changes": list(winner.changes),
                "task": task_toml(winner.task),
            }
            self.state.judged.append({"at": time.time(), "winner": winner.name, "rows": list(part.digests)})
            self.state.phase = "judging"
            self.state.save()
        if not self._ledger.used().issuperset(part.digests):
            self._ledger.add(part.digests, source=self._source, winner=winner.name)

    # Reporting

    def _report(self, winner: Candidate | None, verdict: Verdict | None) -> dict[str, Any]:
        content = self.state.content
        return {
            "accepted": verdict is not None and verdict.accepted,
            "task": {"name": self.task.name, "hash": self.task.hash},
            "new_task": winner.task.hash if winner is not None else None,
            "changes": list(winner.changes) if winner is not None else [],
            "difference": differences(self.task, winner.task) if winner is not None else {},
            "rows": self.plan.as_json()["rows"] | {"third_part_opened": verdict is not None},
            "questions": self._asked,
            "select": {"present": content.get("present"), "prompts": content.get("prompts", [])},
            "verdict": verdict.as_json() if verdict is not None else None,
            "warnings": self.warnings,
        }


def differences(present: Task, new: Task) -> dict[str, Any]:
    """What stands in one task and not in the other."""
    old_examples, new_examples = (
        {f"{example.label}: {example.text}" for example in task.examples} for task in (present, new)
    )
    return {
        "guidelines_added": [rule for rule in new.guidelines if rule not in present.guidelines],
        "guidelines_removed": [rule for rule in present.guidelines if rule not in new.guidelines],
        "examples_added": sorted(new_examples - old_examples),
        "examples_removed": sorted(old_examples - new_examples),
        "weights": {
            name: {"present": present.weights[name], "new": weight}
            for name, weight in new.weights.items()
            if weight != present.weights[name]
        },
    }


def _ranked(trials: Sequence[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda trial: (-trial.accuracy, -trial.share))


def _share(found: Found, label: str, among: Sequence[str]) -> float:
    """The probability of the right label among those that occur."""
    if not found.probabilities:
        return float(found.label == label)
    total = sum(found.probabilities.get(name, 0.0) for name in among)
    return found.share(label) / total if total else 0.0
