"""Prompts to try: a task with other guidelines, other examples, other weights. Pure but for the seeded chance."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from reviewmill.evaluate.improve.ask import fit_keywords
from reviewmill.tasks import Example, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from reviewmill.evaluate.improve.ask import Found
    from reviewmill.evaluate.improve.pool import Pool, Sentence
    from reviewmill.evaluate.labelled import LabelledRow

MOST_EXAMPLES: Final = 12
MOST_GUIDELINES: Final = 9
MOST_GROWTH: Final = 700
"""Characters by which a prompt's guidelines and examples may outgrow the present ones: each makes every comment dearer,
and the embedded engine has room for about 1,200 tokens of task."""

_EXAMPLE_CHARS: Final = range(4, 121)
_DOUBTFUL: Final = 0.05
"""A label that the model gives less than this is taken for a slip of whoever labelled, and is no example."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A task to try.

    Attributes:
        task: the task.
        changes: what was done to the present one, a phrase each.
        guidelines_from, examples_from: names of where each half comes from, so that merging two knows what is new.
    """

    task: Task
    changes: tuple[str, ...]
    guidelines_from: str = "present"
    examples_from: str = "present"

    @property
    def name(self) -> str:
        """Twelve hex digits of the task's hash."""
        return self.task.hash[:12]


@dataclass(frozen=True, slots=True)
class Drawable:
    """A row that may become an example.

    Attributes:
        text: as the model would see it.
        label: its label.
        share: the probability that the present task's prompt gave this label.
        keywords: what the present task's prompt found, if it was asked for.
    """

    text: str
    label: str
    share: float
    keywords: tuple[str, ...] = ()


def drawable(task: Task, rows: Sequence[tuple[LabelledRow, str, Found]]) -> list[Drawable]:
    """The rows that may become examples: short, of one line, without orders, and not labelled in doubt.

    Args:
        task: the present task.
        rows: each row, its cleaned text, and what the present prompt found.
    """
    return [
        Drawable(text, row.label, found.share(row.label), fit_keywords(task, text, found.keywords))
        for row, text, found in rows
        if len(text) in _EXAMPLE_CHARS
        and "\n" not in text
        and "order_dropped" not in found.flags
        and found.share(row.label) >= _DOUBTFUL
    ]


@dataclass
class Proposer:
    """Makes candidates out of a task, a pool of sentences and rows that may become examples.

    Args:
        task: the present task.
        pool: sentences to try, or None.
        rows: what examples may be drawn from.
        seed: of all chance.
        extra: guideline lists that somebody else proposed, with a phrase each.
    """

    task: Task
    pool: Pool | None
    rows: Sequence[Drawable]
    seed: int
    extra: Sequence[tuple[str, tuple[str, ...]]] = ()
    _chance: random.Random = field(init=False)
    _draws: dict[str, Callable[[int], list[Drawable]]] = field(init=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)  # noqa: S311 - no secret
        self._by_label: dict[str, list[Drawable]] = defaultdict(list)
        for row in self.rows:
            self._by_label[row.label].append(row)
        self._tried: Counter[str] = Counter()
        self._draws = {"balanced": self._balanced, "diverse": self._diverse, "boundary": self._boundary}

    def first(self, number: int) -> list[Candidate]:
        """So many different candidates, all made from the present task."""
        here = Candidate(self.task, ())
        proposed = [self._with_guidelines(here, text, rules) for text, rules in self.extra]
        makers = self._makers()
        if not makers:
            return _distinct(proposed, self.task, number)

        def endless() -> Iterator[Candidate | None]:
            yield from proposed
            turn = 0
            while True:
                made = makers[turn % len(makers)](here)
                # Every third one changes both halves.
                if turn % 3 == 2 and made is not None:
                    made = self._chance.choice(makers)(made)
                turn += 1
                yield made

        return _distinct(endless(), self.task, number)

    def second(self, best: Sequence[Candidate], number: int) -> list[Candidate]:
        """So many new candidates out of the best: their halves put together, then small changes of them."""
        merged = [merge for one, other in combinations(best, 2) for merge in self._merges(one, other)]
        makers = self._makers()

        def endless() -> Iterator[Candidate | None]:
            yield from merged
            while makers and best:
                yield self._chance.choice(makers)(self._chance.choice(best))

        known = {candidate.task.asked_hash for candidate in best}
        return _distinct(endless(), self.task, number, known)

    def _makers(self) -> list[Callable[[Candidate], Candidate | None]]:
        makers: list[Callable[[Candidate], Candidate | None]] = []
        if self.pool is not None:
            makers += [self._add_sentence, self._swap_sentence]
        if self._by_label:
            makers += [self._new_examples, self._more_examples]
        if self.pool is not None:
            makers.append(self._add_sentence)
        makers += [self._drop_sentence] if len(self.task.guidelines) > 1 else []
        makers += [self._fewer_examples] if self.task.examples else []
        return makers

    # Guidelines

    def _tag(self, rule: str) -> str | None:
        return self.pool.tag_of(rule) if self.pool is not None else None

    def _add_sentence(self, here: Candidate) -> Candidate | None:
        assert self.pool is not None  # noqa: S101 - only made with a pool
        tags = {self._tag(rule) for rule in here.task.guidelines}
        new = [sentence for sentence in self.pool.sentences if sentence.tag not in tags]
        if not new or len(here.task.guidelines) >= MOST_GUIDELINES:
            return None
        sentence = self._least_tried(new)
        # At the end, so that the engine's cached beginning of the prompt stays the longest.
        rules = (*here.task.guidelines, sentence.text)
        return self._with_guidelines(here, f"added a guideline on {sentence.tag}", rules)

    def _least_tried(self, sentences: Sequence[Sentence]) -> Sentence:
        """One that was tried as rarely as any: no sentence twice while another waits."""
        least = min(self._tried[sentence.text] for sentence in sentences)
        chosen = self._chance.choice([sentence for sentence in sentences if self._tried[sentence.text] == least])
        self._tried[chosen.text] += 1
        return chosen

    def _swap_sentence(self, here: Candidate) -> Candidate | None:
        assert self.pool is not None  # noqa: S101
        rules = here.task.guidelines
        swaps = [
            (place, sentence)
            for place, rule in enumerate(rules)
            for sentence in self.pool.sentences
            if sentence.tag == self._tag(rule) and sentence.text != rule
        ]
        if not swaps:
            return None
        sentence = self._least_tried(list({each.text: each for _, each in swaps}.values()))
        place = self._chance.choice([at for at, each in swaps if each == sentence])
        changed = (*rules[:place], sentence.text, *rules[place + 1 :])
        return self._with_guidelines(here, f"another guideline on {sentence.tag}", changed)

    def _drop_sentence(self, here: Candidate) -> Candidate | None:
        rules = here.task.guidelines
        if len(rules) < 2:
            return None
        place = self._chance.randrange(len(rules))
        about = self._tag(rules[place]) or f"no. {place + 1}"
        return self._with_guidelines(here, f"dropped the guideline on {about}", (*rules[:place], *rules[place + 1 :]))

    def _with_guidelines(self, here: Candidate, change: str, rules: tuple[str, ...]) -> Candidate:
        return Candidate(
            changed(here.task, guidelines=rules), (*here.changes, change), _name(rules), here.examples_from
        )

    # Examples

    def _new_examples(self, here: Candidate) -> Candidate | None:
        way = self._chance.choice(list(self._draws))
        each = self._chance.choice((1, 2, 2, 3))
        drawn = self._draws[way](min(each, MOST_EXAMPLES // len(self.task.labels)))
        return self._with_examples(here, f"{len(drawn)} new examples ({way})", map(_example, drawn))

    def _more_examples(self, here: Candidate) -> Candidate | None:
        way = self._chance.choice(list(self._draws))
        held = {example.text for example in here.task.examples}
        drawn = [row for row in self._draws[way](1) if row.text not in held]
        self._chance.shuffle(drawn)
        added = drawn[: self._chance.randint(1, 3)]
        if not added or len(here.task.examples) + len(added) > MOST_EXAMPLES:
            return None
        mixed = [*here.task.examples, *map(_example, added)]
        return self._with_examples(here, f"{len(added)} more examples ({way})", mixed)

    def _fewer_examples(self, here: Candidate) -> Candidate | None:
        held = list(here.task.examples)
        if not held:
            return None
        gone = self._chance.choice((1, 2, len(held)))
        kept = sorted(self._chance.sample(range(len(held)), max(0, len(held) - gone)))
        change = f"{len(held) - len(kept)} examples fewer"
        return self._with_examples(here, change, [held[place] for place in kept])

    def _with_examples(self, here: Candidate, change: str, examples: Iterable[Example]) -> Candidate:
        chosen = [example.model_dump() for example in examples]
        texts = [f"{example['label']} {example['text']}" for example in chosen]
        return Candidate(
            changed(here.task, examples=chosen), (*here.changes, change), here.guidelines_from, _name(texts)
        )

    def _balanced(self, each: int) -> list[Drawable]:
        """So many of each label, by chance."""
        return self._in_turn([self._chance.sample(rows, min(each, len(rows))) for rows in self._by_label.values()])

    def _boundary(self, each: int) -> list[Drawable]:
        """Those that the present prompt gets wrong or just right: the third with the least probability."""
        drawn = []
        for rows in self._by_label.values():
            hard = sorted(rows, key=lambda row: row.share)[: max(each, len(rows) // 3)]
            drawn.append(self._chance.sample(hard, min(each, len(hard))))
        return self._in_turn(drawn)

    def _diverse(self, each: int) -> list[Drawable]:
        """Far from each other in words: the first by chance, each next one the farthest from those drawn."""
        drawn = []
        for rows in self._by_label.values():
            some = self._chance.sample(rows, min(200, len(rows)))
            drawn.append([some[place] for place in _far_apart([row.text for row in some], each)])
        return self._in_turn(drawn)

    def _in_turn(self, by_label: Sequence[list[Drawable]]) -> list[Drawable]:
        """The labels in turn, in a random order: a block of one label at the end would be an answer by itself."""
        rounds = max((len(rows) for rows in by_label), default=0)
        ordered: list[Drawable] = []
        for at in range(rounds):
            these = [rows[at] for rows in by_label if at < len(rows)]
            self._chance.shuffle(these)
            ordered += these
        return ordered

    # Both

    def _merges(self, one: Candidate, other: Candidate) -> Iterator[Candidate]:
        """The guidelines of one with the examples of the other, and what both did to the guidelines."""
        if "present" not in {one.guidelines_from, other.guidelines_from}:
            yield from self._both_guidelines(one, other)
        for rules, examples in ((one, other), (other, one)):
            halves = {rules.guidelines_from, examples.examples_from}
            if "present" in halves:
                continue
            task = changed(rules.task, examples=examples.task.model_dump()["examples"])
            changes = (f"guidelines of {rules.name}", f"examples of {examples.name}")
            yield Candidate(task, changes, rules.guidelines_from, examples.examples_from)

    def _both_guidelines(self, one: Candidate, other: Candidate) -> Iterator[Candidate]:
        present, first, second = (task.guidelines for task in (self.task, one.task, other.task))
        kept = [rule for rule in present if rule in first and rule in second]
        added = list(dict.fromkeys(rule for rule in (*first, *second) if rule not in present))
        tags = [tag for rule in (*kept, *added) if (tag := self._tag(rule)) is not None]
        if len(set(tags)) < len(tags) or not 0 < len(kept) + len(added) <= MOST_GUIDELINES:
            return
        changes: tuple[str, ...] = (f"guidelines of {one.name} and {other.name}",)
        examples = one if one.examples_from != "present" else other
        if examples.examples_from != "present":
            changes += (f"examples of {examples.name}",)
        task = changed(examples.task, guidelines=(*kept, *added))
        yield Candidate(task, changes, _name((*kept, *added)), examples.examples_from)


def _example(row: Drawable) -> Example:
    return Example(text=row.text, label=row.label, keywords=row.keywords)


def _name(parts: Iterable[str]) -> str:
    return "\n".join(parts)


def changed(task: Task, **parts: object) -> Task:
    """The task with other parts, validated; `model_copy` would neither validate nor forget the hash.

    Raises:
        ValueError: that is no task.
    """
    return Task.model_validate(task.model_dump() | parts)


def _far_apart(texts: Sequence[str], number: int) -> list[int]:
    if len(texts) <= number:
        return list(range(len(texts)))
    grams = TfidfVectorizer(analyzer="char", ngram_range=(1, 2)).fit_transform(texts)
    chosen = [0]
    nearest = np.asarray((grams @ grams[[0]].T).todense()).ravel()
    while len(chosen) < number:
        nearest[chosen] = np.inf
        chosen.append(int(nearest.argmin()))
        nearest = np.maximum(nearest, np.asarray((grams @ grams[[chosen[-1]]].T).todense()).ravel())
    return chosen


def size_of(task: Task) -> int:
    """Characters of guidelines and examples."""
    return sum(map(len, task.guidelines)) + sum(len(example.text) for example in task.examples)


def _distinct(
    candidates: Iterable[Candidate | None], present: Task, number: int, known: Iterable[str] = ()
) -> list[Candidate]:
    """The first so many that differ from each other and the present task, and are not too long."""
    seen = {present.asked_hash, *known}
    limit = size_of(present) + MOST_GROWTH
    found: list[Candidate] = []
    for tries, candidate in enumerate(candidates):
        if len(found) >= number or tries > 200 + 20 * number:
            break
        if candidate is None or candidate.task.asked_hash in seen or size_of(candidate.task) > limit:
            continue
        seen.add(candidate.task.asked_hash)
        found.append(candidate)
    return found
