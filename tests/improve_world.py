"""A world in which how good each prompt is is known: for simulating searches. No model, no network.

Each row has a difficulty of its own, each prompt answers each row by a coin of its own (the same whenever it is asked),
and what a prompt is worth depends on nothing but the sentences that stand in it.
"""

from __future__ import annotations

import hashlib
import math
import random
from pathlib import Path

from reviewmill.evaluate.improve.ask import Found
from reviewmill.evaluate.improve.ledger import Ledger
from reviewmill.evaluate.improve.pool import Pool
from reviewmill.evaluate.improve.search import Search, SearchOptions
from reviewmill.evaluate.improve.state import State
from reviewmill.evaluate.labelled import Labelled, LabelledRow
from reviewmill.tasks import Task, parse_task

LABELS = ("positive", "negative", "neutral")

TASK = parse_task(
    """
name = "sentiment"
description = "判断评论的情感。"
guidelines = ["看总体。", "看结尾。"]
[[labels]]
name = "positive"
definition = "满意"
[[labels]]
name = "negative"
definition = "不满"
[[labels]]
name = "neutral"
definition = "没有好恶"
[[examples]]
text = "很喜欢这个颜色"
label = "positive"
keywords = ["喜欢"]
[[examples]]
text = "刚收到还没用过"
label = "neutral"
""",
    "world",
)

OWN = 0.5
HELP = "这一句真的有用。"
POOL = Pool.model_validate(
    {
        "labels": LABELS,
        "language": "zh",
        "sentence": [{"text": f"第{n}条没有用的规则。", "tag": f"idle{n}"} for n in range(8)],
    }
)
GOOD_POOL = Pool.model_validate(
    {"labels": LABELS, "language": "zh", "sentence": [*POOL.model_dump()["sentences"], {"text": HELP, "tag": "help"}]}
)


def _uniform(*what: object) -> float:
    digest = hashlib.blake2b(repr(what).encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") + 0.5) / 2**64


class World:
    """Answers rows by coins.

    Args:
        seed: another seed is another world.
        help: by how much a prompt with the sentence `HELP` is more often right.
        accuracy: how often a prompt is right.
        logprobs: whether probabilities are given.
    """

    def __init__(self, seed: int, *, help: float = 0.0, accuracy: float = 0.8, logprobs: bool = True) -> None:  # noqa: A002
        self.seed = seed
        self.help = help
        self.accuracy = accuracy
        self.logprobs = logprobs
        self.asked: list[tuple[str, int]] = []

    async def ask(self, task: Task, rows: list[LabelledRow]) -> list[Found]:
        self.asked += [(task.asked_hash, row.number) for row in rows]
        return [
            self._found(task, row).weighed(task.weights) if self.logprobs else self._found(task, row) for row in rows
        ]

    async def keywords(self, task: Task, rows: list[LabelledRow]) -> list[tuple[str, ...]]:
        return [(row.text[:2],) for row in rows]

    def _found(self, task: Task, row: LabelledRow) -> Found:
        # Half of the rows are answered alike by all prompts, the others by each prompt's own coin.
        own = _uniform(self.seed, "own", row.number) < OWN
        coin = _uniform(self.seed, task.asked_hash if own else "all", row.number)
        level = self.accuracy + (self.help / OWN if own and HELP in task.guidelines else 0.0)
        right = coin < level
        others = [name for name in LABELS if name != row.label]
        label = row.label if right else others[int(_uniform(self.seed, "wrong", row.number) < 0.5)]
        if not self.logprobs:
            return Found(label)
        sure = 0.55 + 0.4 * _uniform(self.seed, task.asked_hash, "sure", row.number)
        shares = {name: sure if name == label else (1 - sure) / 2 for name in LABELS}
        logs = {name: math.log(share) for name, share in shares.items()}
        return Found(label, shares, logs)


def rows_of(seed: int, number: int) -> Labelled:
    """So many labelled rows with texts of chance."""
    chance = random.Random(seed)
    rows = [
        LabelledRow(
            n,
            n,
            "".join(chance.choices("天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏", k=12)),
            chance.choice(LABELS),
            {},
        )
        for n in range(1, number + 1)
    ]
    return Labelled(Path("rows.csv"), f"{seed:064x}", LABELS, rows, {}, [])


def search_in(
    world: World, labelled: Labelled, folder: Path, *, pool: Pool | None = POOL, task: Task = TASK, **options: object
) -> Search:
    """A search in this world, its files in a folder."""
    chosen = SearchOptions(**({"budget": 1000, "seed": world.seed} | options))
    state = State.open(folder / "new.toml", {"seed": chosen.seed, "budget": chosen.budget, "file": labelled.digest})
    ledger = Ledger(folder / "state", task.name)
    return Search(task, labelled, lambda row: row.text, world, chosen, state, ledger, pool=pool)
