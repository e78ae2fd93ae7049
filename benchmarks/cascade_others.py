"""The same comments, the same student, other people's cascades: BARGAIN and LOTUS, as they are on PyPI.

    python -m venv others && others/bin/pip install . bargain litellm && others/bin/pip install --no-deps lotus-ai
    others/bin/python benchmarks/cascade_others.py labels.jsonl [--seeds 50] [--target 0.95] [--rows 5000]

The task has two labels (rows that the model calls neutral are left out), because LOTUS knows no more. Labels that were
collected once stand in for the model, as in `cascade.py`. For each seed one student is trained on a uniform sample of
1,000 comments (calls that everybody pays), and answers as the proxy of

- BARGAIN: `BARGAIN_A`, its accuracy cascade, with its own settings (20 thresholds) and the same delta;
- LOTUS: the thresholds of `sem_filter`'s cascade, with recall and precision targets of `--target` and the same
  probability of failure. Of `lotus-ai` only the module that learns the thresholds is loaded: the package itself wants
  PyTorch and more;
- ours, one test: our certificate, with the size of the sample that our forecast takes;
- ours, whole: `analyze --agreement`, which also chooses what to learn from.

Calls are distinct comments that the model labels. A violation is an output that agrees with the model in less than the
target.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from BARGAIN import BARGAIN_A, Oracle, Proxy

from cascade import World, read_world, run
from reviewmill.cascade import guarantee
from reviewmill.cascade.directions import find_directions
from reviewmill.cascade.features import Hasher, frequencies
from reviewmill.cascade.forecast import Group, forecast
from reviewmill.cascade.router import Goal
from reviewmill.cascade.student import Lesson, rarity, train

TRAINED_ON = 1000

Found = tuple[int, float]
"""Calls, and the agreement reached."""


class Setting:
    """One seed's student, and what it says of all comments that it has not learned from."""

    def __init__(self, world: World, target: float, delta: float, seed: int) -> None:
        self.world, self.target, self.delta, self.seed = world, target, delta, seed
        total = len(world.texts)
        self.learned = np.sort(np.random.default_rng(seed).choice(total, TRAINED_ON, replace=False))
        self.rest = np.setdiff1d(np.arange(total), self.learned)
        hasher = Hasher()
        idf = rarity(frequencies(hasher, world.texts), total)
        lesson = Lesson(
            [world.texts[row] for row in self.learned], world.targets[self.learned], np.ones(TRAINED_ON), seed=seed
        )
        directions = find_directions(hasher, world.texts, idf, seed=seed)
        self.student = train(lesson, world.labels, hasher, idf, directions=directions).student
        self.logits = self.student.logits([world.texts[row] for row in self.rest])
        self.said = self.student.choices(self.logits)
        self.sure = self.student.confidence(self.logits)
        self.right = world.targets[self.rest].argmax(axis=1)

    def found(self, spared: np.ndarray, said: np.ndarray) -> Found:
        """What comes of it if these of the rest (a mask) get this label, and all others the model's."""
        total = len(self.world.texts)
        wrong = int((said[spared] != self.right[spared]).sum())
        return total - int(spared.sum()), 1 - wrong / total

    def of_the_rest(self) -> float:
        """The share of the rest that must agree, since what was learned from agrees anyway."""
        total, rest = len(self.world.texts), len(self.rest)
        return (self.target * total - (total - rest)) / rest


def bargain(at: Setting) -> Found:
    """BARGAIN's accuracy cascade."""

    class Student(Proxy):  # type: ignore[misc]
        def proxy_func(self, record: str) -> tuple[int, float]:
            row = int(record)
            return int(at.said[row]), float(at.sure[row])

    class Model(Oracle):  # type: ignore[misc]
        def oracle_func(self, record: str, proxy_output: Any) -> tuple[bool, int]:
            label = int(at.right[int(record)])
            return bool(proxy_output == label), label

    cascade = BARGAIN_A(
        Student(verbose=False, max_workers=1),
        Model(verbose=False, max_workers=1),
        target=at.of_the_rest(),
        delta=at.delta,
        verbose=False,
        seed=at.seed,
    )
    output, used = cascade.process([str(row) for row in range(len(at.rest))], return_oracle_usage=True)
    return at.found(~np.array(used, dtype=bool), np.array(output, dtype=int))


def lotus_module() -> tuple[Any, Any]:
    """`lotus.sem_ops.cascade_utils` and its `CascadeArgs`, without the rest of the package."""
    spec = importlib.util.find_spec("lotus")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("LOTUS is not installed: pip install --no-deps lotus-ai")
    root = Path(next(iter(spec.submodule_search_locations)))
    for name, folder in (("lotus", root), ("lotus.sem_ops", root / "sem_ops")):
        bare = types.ModuleType(name)
        bare.__path__ = [str(folder)]
        sys.modules[name] = bare
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it looks for prices on the network
    vars(sys.modules["lotus"])["logger"] = logging.getLogger("lotus")
    return importlib.import_module("lotus.sem_ops.cascade_utils"), importlib.import_module("lotus.types").CascadeArgs


def lotus(at: Setting) -> Found:
    """The cascade of LOTUS's `sem_filter`: is the first label right?"""
    module, arguments = LOTUS
    asked = arguments(
        recall_target=at.target,
        precision_target=at.target,
        failure_probability=at.delta,
        cascade_IS_random_seed=at.seed,
    )
    scores = module.calibrate_llm_logprobs(list(at.student.probabilities(at.logits)[:, 0]), asked)
    sample, factors = module.importance_sampling(scores, asked)
    true = at.right == 0
    (positive, negative), _ = module.learn_cascade_thresholds(
        proxy_scores=[scores[row] for row in sample],
        oracle_outputs=[bool(true[row]) for row in sample],
        sample_correction_factors=factors[sample],
        cascade_args=asked,
    )
    score = np.array(scores)
    spared = (score >= positive) | (score <= negative)
    said = np.where(score >= positive, 0, 1)
    asked_about = np.zeros(len(spared), dtype=bool)
    asked_about[sample] = True  # it asks again about what it sampled; nobody would, so they are the model's here
    return at.found(spared & ~asked_about, said)


def certified_once(at: Setting) -> Found:
    """Our certificate for the same student, tested once."""
    total, rest = len(at.world.texts), len(at.rest)
    limit = guarantee.allowed(total, at.target)
    order = np.argsort(-at.sure, kind="stable")
    group = Group(None, order, lambda _: limit, 0, at.delta)
    size = forecast([group], 1 - at.sure, rest).sample
    drawn = np.zeros(rest, dtype=bool)
    drawn[np.random.default_rng([at.seed, 1]).choice(rest, size, replace=False)] = True
    ranks = np.flatnonzero(drawn[order])
    step = guarantee.rectifying(ranks, (at.said != at.right)[order][ranks], rest, limit, at.delta)
    spared = np.zeros(rest, dtype=bool)
    if step is not None and guarantee.worth(step.size, step.allowed):
        spared[order[: step.size]] = True
    return at.found(spared & ~drawn, at.said)


def whole(at: Setting) -> Found:
    """`analyze --agreement`."""
    outcome = run(at.world, Goal(agreement=at.target, delta=at.delta), at.seed)
    return outcome.asked, outcome.agreement


WAYS: dict[str, Callable[[Setting], Found]] = {
    "BARGAIN": bargain,
    "LOTUS": lotus,
    "ours, one test": certified_once,
    "ours, whole": whole,
}


def two_labels(world: World, rows: int | None) -> World:
    """The comments that the model calls one or the other of the two commonest labels."""
    counts = np.bincount(world.targets.argmax(axis=1), minlength=len(world.labels))
    columns = np.sort(np.argsort(-counts)[:2])
    kept = np.flatnonzero(np.isin(world.targets.argmax(axis=1), columns))[:rows]
    targets = world.targets[kept][:, columns]
    labels = tuple(world.labels[column] for column in columns)
    return World(world.name, [world.texts[row] for row in kept], labels, targets / targets.sum(axis=1, keepdims=True))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--target", type=float, default=0.95)
    parser.add_argument("--delta", type=float, default=0.05)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--whole", type=int, default=20, help="seeds for which our whole cascade runs too")
    asked = parser.parse_args()
    world = two_labels(read_world(asked.file, None, "sentiment", None), asked.rows)
    found: dict[str, list[Found]] = {name: [] for name in WAYS}
    seconds = dict.fromkeys(WAYS, 0.0)
    for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
        at = Setting(world, asked.target, asked.delta, seed)
        for name, way in WAYS.items():
            if way is whole and seed >= asked.first_seed + asked.whole:
                continue
            began = time.perf_counter()
            found[name].append(way(at))
            seconds[name] += time.perf_counter() - began
        print(seed, {name: each[-1] for name, each in found.items()}, file=sys.stderr, flush=True)
    print(f"\n{world.name}, {len(world.texts):,} comments, {' or '.join(world.labels)}; target {asked.target}")
    print("\n| | calls | agreement reached | violations | s a run |\n|---|---|---|---|---|")
    for name, outcomes in found.items():
        calls, reached = np.array(outcomes).T
        violations = int((reached < asked.target - 1e-12).sum())
        print(
            f"| {name} | {calls.mean() / len(world.texts):.1%} | {reached.mean():.2%} (least {reached.min():.2%}) "
            f"| {violations} of {len(outcomes)} | {seconds[name] / len(outcomes):.1f} |"
        )


if __name__ == "__main__":
    LOTUS = lotus_module()
    main()
