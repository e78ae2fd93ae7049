"""The cascade on real comments whose labels by the model are known: what it asks, and what it reaches.

    reviewmill analyze comments.jsonl --no-keywords -o labels.jsonl
    python benchmarks/cascade.py labels.jsonl [more.jsonl ...] --model MODEL.gguf [--seeds 20]
        [--targets 0.90 0.95 0.98] [--ablation]

The labels that were collected once stand in for the model, so that the whole router, student and certificate run as
they do in `analyze --agreement`, many times with other draws. All labels are known, so the agreement that was truly
reached is too: a *violation* is a run whose output agrees with the model in less than the target. At most `delta` of
the runs may be.

A file has one object a line: the comment (`original_text` or `text`), the model's label (the column that `--label`
names, else `sentiment`, else `label`), and `probabilities`, without which the label counts as certain.

Beside it stands what other kinds of certificate would have granted the same students by the same samples. `--ablation`
changes one thing at a time, at the second target. `--speed` measures the student alone.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from reviewmill.cascade import guarantee
from reviewmill.cascade.certificate import Part
from reviewmill.cascade.directions import Embeddings
from reviewmill.cascade.features import Hasher, frequencies
from reviewmill.cascade.forecast import Group
from reviewmill.cascade.learning import Reals
from reviewmill.cascade.router import Goal, Router
from reviewmill.cascade.student import Lesson, rarity, train
from reviewmill.models.vectors import read_vectors
from reviewmill.tasks import drop_orders, load_task
from reviewmill.text import clean, triage

Flags = npt.NDArray[np.bool_]

SPEED_ROWS = 2_000
SPEED_COMMENTS = 100_000


@dataclass(frozen=True)
class World:
    """Distinct comments, and what the model says of each (comments x labels, the most for its label)."""

    name: str
    texts: list[str]
    labels: tuple[str, ...]
    targets: Reals

    @property
    def hard(self) -> World:
        """The same without the model's probabilities."""
        return World(self.name, self.texts, self.labels, np.eye(len(self.labels))[self.targets.argmax(axis=1)])


@dataclass
class Outcome:
    """What came of one run."""

    asked: int
    agreement: float
    seconds: float
    rounds: int
    certified: dict[str, int] = field(default_factory=dict)


@dataclass
class Row:
    """One line of a table: many runs of the same kind."""

    name: str
    setting: str
    target: float
    comments: int
    outcomes: list[Outcome]

    @property
    def shares(self) -> list[float]:
        """Shares of the comments that the model answered."""
        return [outcome.asked / self.comments for outcome in self.outcomes]

    @property
    def violations(self) -> int:
        """Runs that reached less than the target."""
        return sum(outcome.agreement < self.target - 1e-12 for outcome in self.outcomes)

    def line(self) -> str:
        """A line of Markdown."""
        reached = [outcome.agreement for outcome in self.outcomes]
        seconds = float(np.mean([outcome.seconds for outcome in self.outcomes]))
        return (
            f"| {self.name} | {self.setting} | {self.target:.2f} | {np.mean(self.shares):.1%} "
            f"({min(self.shares):.1%} to {max(self.shares):.1%}) | {np.mean(reached):.2%} (least {min(reached):.2%}) "
            f"| {self.violations} of {len(self.outcomes)} | {seconds:.1f} |"
        )


HEAD = (
    "| file | setting | target | answered by the model | agreement reached | violations | s |\n"
    "|---|---|---|---|---|---|---|"
)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_world(path: Path, label: str | None, task_name: str, rows: int | None) -> World:
    """The distinct cleaned texts of a file, as a run has them, with the model's labels."""
    task = load_task(task_name)
    found: dict[str, list[float]] = {}
    with path.open(encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            column = label or (task.name if task.name in record else "label")
            text = clean(record.get("original_text") or record["text"]).text
            if record.get(column) in task.label_names and not triage(text):
                found.setdefault(drop_orders(text, task)[0], _target(record, record[column], task.label_names))
            if rows is not None and len(found) >= rows:
                break
    used = [at for at, name in enumerate(task.label_names) if any(target[at] > 0 for target in found.values())]
    targets = np.array(list(found.values()))[:, used]
    labels = tuple(task.label_names[at] for at in used)
    return World(path.stem, list(found), labels, targets / targets.sum(axis=1, keepdims=True))


def _target(record: dict[str, Any], label: str, labels: Sequence[str]) -> list[float]:
    said = record.get("probabilities") or {}
    target = [float(said.get(name, 0.0)) for name in labels]
    at = labels.index(label)
    target[at] = max(max(target) + 1e-9, target[at]) if said else 1.0
    return target


# --- running ----------------------------------------------------------------------------------------------------------


class Compared(Router):
    """A router that also notes what other certificates would have let the same student answer, by the same sample."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.by_kind: dict[str, int] = {}

    def _certified(self, group: Group, drawn: Flags, bad: Flags) -> Part:
        part = super()._certified(group, drawn, bad)
        ranks = np.flatnonzero(drawn[group.order])
        sample = Sample(ranks, np.cumsum(bad[group.order][ranks]), group)
        for kind, size in other_certificates(sample).items():
            self.by_kind[kind] = max(size, self.by_kind.get(kind, 0))
        return part


@dataclass(frozen=True)
class Sample:
    """A certification sample: places in the student's order, disagreements up to each, and what is certified."""

    ranks: npt.NDArray[np.intp]
    bad: npt.NDArray[np.int64]
    group: Group

    def prefixes(self) -> Iterator[tuple[int, int, int, int]]:
        """Size, drawn, disagreeing, allowed of each prefix."""
        for size in guarantee.even_prefixes(len(self.group.order)):
            drawn = int(np.searchsorted(self.ranks, size))
            yield size, drawn, int(self.bad[drawn - 1]) if drawn else 0, self.group.limit(size)


def other_certificates(sample: Sample) -> dict[str, int]:
    """The largest prefix by each kind of certificate, all at the same delta."""
    delta, prefixes = sample.group.delta, list(sample.prefixes())
    corrected = delta / len(prefixes)
    found: dict[str, int] = {}
    failed = False
    for size, drawn, seen, allowed in prefixes:
        share = allowed / size
        failed = failed or (size > allowed and guarantee.tail(size, allowed + 1, drawn, seen) > delta)
        passed = {
            "hypergeometric, fixed sequence": not failed,
            "hypergeometric, Bonferroni": guarantee.tail(size, min(size, allowed + 1), drawn, seen) <= corrected,
            "Clopper-Pearson, Bonferroni": drawn > seen
            and stats.beta.ppf(1 - corrected, seen + 1, drawn - seen) <= share,
            "Hoeffding, Bonferroni": drawn > 0 and seen / drawn + np.sqrt(np.log(1 / corrected) / (2 * drawn)) <= share,
        }
        for kind, good in passed.items():
            found[kind] = size if good or allowed >= size else found.get(kind, 0)
    return found


def run(
    world: World,
    goal: Goal,
    seed: int,
    *,
    hasher: Hasher | None = None,
    truth: Reals | None = None,
    embeddings: Embeddings | None = None,
) -> Outcome:
    """One cascade over all comments of a world."""
    began = time.perf_counter()
    router = Compared(world.texts, world.labels, goal, seed=seed, hasher=hasher, embeddings=embeddings)
    for draw in router.draws():
        router.learn(draw.rows, world.targets[draw.rows])
    certificate, granted = router.certificate(), router.granted
    right = (world.targets if truth is None else truth).argmax(axis=1)
    wrong = 0
    if granted is not None and certificate.used is not None:
        wrong = int((granted.student.choices(granted.logits) != right[granted.rows]).sum())
    total = len(world.texts)
    return Outcome(
        asked=total - certificate.spared,
        agreement=1 - wrong / total,
        seconds=time.perf_counter() - began,
        rounds=len(certificate.rounds),
        certified={"as shipped (rectifying)": _certified(router), **router.by_kind},
    )


def _certified(router: Router) -> int:
    return max((sum(part.prefix for part in round_.parts) for round_ in router.rounds), default=0)


def many(world: World, setting: str, goal: Goal, seeds: Iterable[int], **how: Any) -> Row:
    """The same with several seeds."""
    outcomes = [run(world, goal, seed, **how) for seed in seeds]
    row = Row(world.name, setting, goal.agreement or 0.0, len(world.texts), outcomes)
    print(row.line(), flush=True)
    return row


def ablation(
    world: World, target: float, delta: float, seeds: Sequence[int], embeddings: Embeddings | None
) -> list[Row]:
    """One thing changed at a time."""
    print(f"\n{HEAD}")
    goal = Goal(agreement=target, delta=delta)
    rows = [many(world, "as shipped", goal, seeds, embeddings=embeddings)]
    if embeddings is not None:
        rows.append(many(world, "without the model's embeddings", goal, seeds))
    rows += [
        many(world, f"rounds: {n}", Goal(agreement=target, delta=delta, rounds=n), seeds, embeddings=embeddings)
        for n in (1, 3)
    ]
    rows.append(many(world.hard, "hard labels", goal, seeds, embeddings=embeddings))
    features = {
        "characters, orders 1 to 2, no words": Hasher(orders=2, words=False),
        "orders 1 to 4, no words": Hasher(words=False),
        "orders 1 to 3, words": Hasher(orders=3),
        "orders 1 to 5, words": Hasher(orders=5),
        "2^15 features": Hasher(bits=15),
    }
    rows += [many(world, name, goal, seeds, hasher=hasher, embeddings=embeddings) for name, hasher in features.items()]
    return rows


def certificates(row: Row) -> None:
    """Print what each kind of certificate would have granted, by the same students and samples."""
    print(f"\n| certificate, {row.name} at {row.target:.2f} | prefix granted, of all comments |\n|---|---|")
    for kind in row.outcomes[0].certified:
        sizes = [outcome.certified.get(kind, 0) / row.comments for outcome in row.outcomes]
        print(f"| {kind} | {np.mean(sizes):.1%} |")


# --- speed ------------------------------------------------------------------------------------------------------------


def speed(world: World) -> None:
    """How fast the student learns and answers."""
    hasher, some = Hasher(), world.texts[:SPEED_ROWS]
    frequencies(hasher, world.texts[:100])  # tables that are made once
    began = time.perf_counter()
    idf = rarity(frequencies(hasher, world.texts[:50_000]), min(len(world.texts), 50_000))
    counted = time.perf_counter()
    student = train(Lesson(some, world.targets[: len(some)], np.ones(len(some))), world.labels, hasher, idf).student
    trained = time.perf_counter()
    short = [text[:30] for text in world.texts]
    many = (short * -(-SPEED_COMMENTS // len(short)))[:SPEED_COMMENTS]
    student.choices(student.logits(many[:5000]))
    start = time.perf_counter()
    student.choices(student.logits(many))
    seconds = time.perf_counter() - start
    characters = np.mean([len(text) for text in many])
    print(f"\ncounting features of {min(len(world.texts), 50_000):,} comments: {counted - began:.2f} s")
    print(f"training on {len(some):,} comments: {trained - counted:.2f} s")
    print(f"features and prediction: {len(many) / seconds:,.0f} comments/s ({characters:.0f} characters each)")


def main() -> None:
    """Read, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="comments with the model's labels, JSON lines")
    parser.add_argument("--label", help="the column with the model's label")
    parser.add_argument("--task", default="sentiment")
    parser.add_argument("--rows", type=int, help="no more comments than this")
    parser.add_argument("--seeds", type=int, default=10, help="runs of each kind")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--targets", type=float, nargs="+", default=[0.90, 0.95, 0.98])
    parser.add_argument("--delta", type=float, default=0.05)
    parser.add_argument("--model", type=Path, help="the GGUF file that gave the labels, for its token embeddings")
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--json", type=Path, help="also write every run here")
    asked = parser.parse_args()
    if asked.seeds < 1:
        parser.error("--seeds must be 1 or more")
    seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
    embeddings = read_vectors(asked.model) if asked.model is not None else None
    worlds = [read_world(path, asked.label, asked.task, asked.rows) for path in asked.files]
    for world in worlds:
        shares = np.bincount(world.targets.argmax(axis=1), minlength=len(world.labels)) / len(world.texts)
        said = ", ".join(f"{name} {share:.1%}" for name, share in zip(world.labels, shares, strict=True))
        print(f"{world.name}: {len(world.texts):,} distinct comments; {said}")
    print(f"\n{HEAD}")
    rows = [
        many(world, "as shipped", Goal(agreement=target, delta=asked.delta), seeds, embeddings=embeddings)
        for world in worlds
        for target in asked.targets
    ]
    for row in rows:
        certificates(row)
    for world in worlds if asked.ablation else []:
        rows += ablation(world, asked.targets[min(1, len(asked.targets) - 1)], asked.delta, seeds, embeddings)
    if asked.speed:
        speed(worlds[0])
    if asked.json is not None:
        asked.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
