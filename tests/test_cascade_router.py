"""The router with labels in memory: what it asks, whom it lets answer, and what a student from elsewhere costs."""

from __future__ import annotations

import numpy as np
import pytest

from cascades import LABELS, comments, model_label
from reviewmill.cascade.certificate import Certificate
from reviewmill.cascade.features import Hasher, frequencies
from reviewmill.cascade.learning import Reals
from reviewmill.cascade.router import Goal, Router
from reviewmill.cascade.student import Lesson, Student, rarity, train

COUNT = 3000


def soft(labels: list[str]) -> Reals:
    columns = np.array([LABELS.index(label) for label in labels])
    return np.asarray(np.eye(len(LABELS))[columns] * 0.97 + 0.01)


def routed(texts: list[str], targets: Reals, goal: Goal, seed: int, start: Student | None = None) -> Router:
    """Run it to the end; every question is answered."""
    router = Router(texts, LABELS, goal, seed=seed, start=start)
    for draw in router.draws():
        router.learn(draw.rows, targets[draw.rows])
    return router


def calls(certificate: Certificate) -> int:
    return certificate.population - certificate.spared


def taught(texts: list[str], labels: list[str]) -> Student:
    hasher = Hasher(bits=15)
    idf = rarity(frequencies(hasher, texts), len(texts))
    return train(Lesson(texts, soft(labels), np.ones(len(texts))), LABELS, hasher, idf).student


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return comments(COUNT, seed=11, noise=0.3)


@pytest.fixture(scope="module")
def targets(texts: list[str]) -> Reals:
    return soft([model_label(text) for text in texts])


@pytest.fixture(scope="module")
def afresh(texts: list[str], targets: Reals) -> list[int]:
    """What two runs ask that begin without a student."""
    return [calls(routed(texts, targets, Goal(agreement=0.95), seed).certificate()) for seed in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["turned round", "of chance"])
def test_a_useless_student_from_elsewhere_costs_no_more_than_none(kind, texts, targets, afresh) -> None:
    others = comments(1500, seed=12)
    labels = [model_label(text) for text in others]
    chance = np.random.default_rng(0)
    turned = {"positive": "negative", "negative": "neutral", "neutral": "positive"}
    wrong = [turned[label] if kind == "turned round" else str(chance.choice(LABELS)) for label in labels]
    start = taught(others, wrong)
    goal = Goal(agreement=0.95)
    begun = [calls(routed(texts, targets, goal, seed, start).certificate()) for seed in range(2)]
    print(f"\ncalls afresh {afresh}, with a student {kind} {begun}")
    assert sum(begun) <= 1.05 * sum(afresh)


@pytest.mark.slow
def test_a_good_student_from_elsewhere_saves_questions(texts, targets, afresh) -> None:
    others = comments(4000, seed=13, noise=0.3)
    start = taught(others, [model_label(text) for text in others])
    goal = Goal(agreement=0.95)
    begun = [calls(routed(texts, targets, goal, seed, start).certificate()) for seed in range(2)]
    print(f"\ncalls afresh {afresh}, with a good student {begun}")
    assert sum(begun) < 0.9 * sum(afresh)


@pytest.mark.slow
def test_a_student_that_knows_nothing_is_not_used_where_many_may_disagree(texts) -> None:
    texts = texts[:1500]
    chance = np.random.default_rng(1)
    targets = soft([str(label) for label in chance.choice(LABELS, size=len(texts))])
    for agreement, per_class in ((0.7, True), (0.9, False)):
        router = routed(texts, targets, Goal(agreement=agreement, per_class=per_class), 2)
        certificate = router.certificate()
        if certificate.used is None:
            assert router.granted is None
            assert calls(certificate) == len(texts)
        else:  # then at least half of what it says agrees, though by chance it is a third
            said = router.granted
            assert said is not None
            agreeing = said.student.choices(said.logits) == targets[said.rows].argmax(axis=1)
            assert agreeing.mean() >= 0.5


def test_what_is_recorded_is_drawn_again_whatever_was_planned(texts, targets) -> None:
    goal = Goal(agreement=0.95)
    router = Router(texts, LABELS, goal, seed=5)
    draws = []
    for draw in router.draws():
        draws.append(draw)
        router.learn(draw.rows, targets[draw.rows])
    for kept in (1, len(draws)):
        again = Router(texts, LABELS, goal, seed=5, recorded=draws[:kept])
        seen = []
        for draw in again.draws():
            seen.append(draw)
            again.learn(draw.rows, targets[draw.rows])
        assert [one.rows.tolist() for one in seen] == [one.rows.tolist() for one in draws]
        assert again.certificate() == router.certificate()
