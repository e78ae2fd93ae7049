"""A cascade in a run: asks for the router's draws, keeps them in the journal, and writes down what the student answers.

What the journal remembers, and why: the seed and the population (the texts that had no answer when the cascade began),
so that they stay what they were; each draw, *before* its first question, so that a sample stays the sample that it was
whatever happens while it is answered; and at the end, in one transaction, the certificate, the student, and all of the
student's answers. A run that is killed anywhere trains again (seconds), and asks again only what was in flight.

The student's answers are never put into the cache: they hold for this run only.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import numpy as np

from reviewmill.batch.asking import Asker
from reviewmill.batch.goals import LEAST_BUDGET, CascadeOptions
from reviewmill.batch.journal import Journal
from reviewmill.batch.threads import in_thread
from reviewmill.cascade.certificate import Certificate
from reviewmill.cascade.directions import Embeddings
from reviewmill.cascade.explain import keywords
from reviewmill.cascade.learning import Reals
from reviewmill.cascade.router import Draw, Goal, Granted, Router, Rows
from reviewmill.cascade.saved import student_bytes
from reviewmill.errors import StudentError
from reviewmill.models.vectors import read_vectors
from reviewmill.schema import Answer
from reviewmill.tasks import Task, drop_orders, orderable

_CACHED: Final = 20_000
_KEYWORDS: Final = 5
_MARGIN: Final = 0.9
"""Of the time that is left, so much is planned for questions; the rest is for training, writing, and slow moments."""

_LEAST: Final = 1e-9
_STAGES: Final = {"seed": "a first sample", "active": "where the student is least certain", "certify": "a fresh sample"}


class CascadeRun:
    """One run's cascade.

    Args:
        options: what it is to reach.
        asker: asks the model, and has the journal.
    """

    def __init__(self, options: CascadeOptions, asker: Asker) -> None:
        self._options = options
        self._asker = asker
        self._journal: Journal = asker.journal
        self._task: Task = asker.pipeline.labeller.task
        self._labels = self._task.label_names
        self._orders: set[int] = set()

    async def execute(self) -> Certificate:
        """Draw, ask, train and test until it is settled what the student answers, and write its answers down.

        Raises:
            StudentError: the saved student belongs to other labels.
            ReviewmillError: see `Asker.ask`.
        """
        settled = self._journal.decided("certificate")
        if settled is not None:
            return Certificate.from_json(json.loads(settled))
        population, router = await in_thread(self._begin)
        steps = router.draws()
        number = 0
        while (draw := await self._thought(lambda: next(steps, None), router)) is not None:
            numbers = population[draw.rows]
            self._journal.decide({f"draw-{number:04}": _packed(draw)})
            self._tell(f"asking the model about {_STAGES[draw.role]}", router)
            began, before = time.monotonic(), self._asker.progress.asked
            await self._asker.ask(self._journal.pending_among(numbers.tolist()), len(numbers))
            await in_thread(self._learn, router, draw.rows, numbers)
            if draw.role == "seed":
                self._settle_budget(router, time.monotonic() - began, self._asker.progress.asked - before)
            number += 1
        return await self._settled(population, router)

    async def _thought(self, think: Callable[[], Draw | None], router: Router) -> Draw | None:
        self._tell("training the student", router)
        return await asyncio.to_thread(think)

    def _tell(self, stage: str, router: Router) -> None:
        progress = self._asker.progress
        progress.stage, progress.certified = stage, router.standing.certified
        progress.expected = router.standing.expected
        self._asker.on_progress(progress)

    # -- the beginning ----------------------------------------------------------------------------------------------

    def _begin(self) -> tuple[Rows, Router]:
        journal = self._journal
        if journal.decided("population") is None:
            seed = self._options.seed if self._options.seed is not None else secrets.randbits(62)
            journal.decide(
                {
                    "seed": json.dumps(seed).encode(),
                    "began": json.dumps(time.time()).encode(),
                    "population": np.array(journal.without_answer(), dtype="<i8").tobytes(),
                }
            )
        population = np.frombuffer(journal.decided("population") or b"", dtype="<i8").astype(np.int64)
        texts = [self._judged(n, text) for n, text in self._texts(population)]
        start = self._options.loaded
        if start is not None and start.student.labels != self._labels:
            raise StudentError(
                f"The student {self._options.student} knows the labels {', '.join(start.student.labels)}; the task "
                f"{self._task.name} has {', '.join(self._labels)}.",
                hint="A student serves the task that it was distilled from.",
            )
        router = Router(
            texts,
            self._labels,
            self._goal(),
            seed=json.loads(journal.decided("seed") or b"0"),
            recorded=list(self._recorded()),
            start=start.student if start is not None else None,
            known=self._known(),
            embeddings=self._embeddings(),
        )
        return population, router

    def _texts(self, population: Rows) -> Iterator[tuple[int, str]]:
        for known in self._journal.known(population.tolist()):
            yield known.n, known.text

    def _judged(self, n: int, text: str) -> str:
        """What the model reads of a text: an order to the reader is not shown to it, nor to the student."""
        kept, ordered = drop_orders(text, self._task)
        if ordered:
            self._orders.add(n)
        return kept

    def _goal(self) -> Goal:
        options, budget = self._options, self._options.budget
        recorded = self._journal.decided("budget")
        if recorded is not None:
            budget = json.loads(recorded)
        return Goal(options.agreement, options.delta, options.per_class, budget=budget)

    def _recorded(self) -> Iterator[Draw]:
        number = 0
        while (packed := self._journal.decided(f"draw-{number:04}")) is not None:
            yield _unpacked(packed)
            number += 1

    def _known(self) -> tuple[list[str], Reals]:
        """Texts of this input that the cache answered: not in the population, but there to learn from."""
        found = list(self._journal.known(self._journal.cached(_CACHED)))
        texts = [drop_orders(known.text, self._task)[0] for known in found]
        targets = [self._target(known.text, known.answer) for known in found if known.answer is not None]
        return texts, np.array(targets).reshape(len(texts), len(self._labels))

    def _embeddings(self) -> Embeddings | None:
        """What the model knows of words, where its file is on this machine."""
        file = self._asker.pipeline.labeller.connection.model_file
        return read_vectors(file) if file is not None else None

    # -- on the way -------------------------------------------------------------------------------------------------

    def _learn(self, router: Router, rows: Rows, numbers: Rows) -> None:
        targets = np.full((len(rows), len(self._labels)), np.nan)
        for at, known in enumerate(self._journal.known(numbers.tolist())):
            if known.answer is not None:
                targets[at] = self._target(known.text, known.answer)
        router.learn(rows, targets)

    def _target(self, text: str, answer: Answer) -> list[float]:
        """What the student is to say: the probabilities of the analysis, the most for its label."""
        label, probabilities = self._asker.pipeline.assembler.decided(text, answer, "model")
        target = [probabilities.get(name, 0.0) for name in self._labels]
        at = self._labels.index(label)
        target[at] = max(max(target) + _LEAST, target[at]) if probabilities else 1.0
        total = sum(target)
        return [value / total for value in target]

    def _settle_budget(self, router: Router, seconds: float, asked: int) -> None:
        """With a deadline, settle how many questions fit into the time that is left."""
        if self._options.deadline is None or router.goal.budget is not None:
            return
        recorded = self._journal.decided("budget")
        if recorded is None:
            spent = time.time() - json.loads(self._journal.decided("began") or b"0")
            rate = asked / seconds if asked and seconds > 0 else 0.0
            seed = len(_unpacked(self._journal.decided("draw-0000") or b"").rows)
            fits = int(max(0.0, self._options.deadline - spent) * _MARGIN * rate)
            recorded = json.dumps(max(LEAST_BUDGET, seed + max(fits, seed // 2))).encode()
            self._journal.decide({"budget": recorded})
        router.goal = replace(router.goal, budget=json.loads(recorded))

    # -- the end ----------------------------------------------------------------------------------------------------

    async def _settled(self, population: Rows, router: Router) -> Certificate:
        self._tell("writing the student's answers", router)
        certificate = router.certificate()
        model = self._asker.pipeline.labeller.connection.about.model
        values = {"certificate": json.dumps(certificate.as_json(model), ensure_ascii=False).encode()}
        answers: Iterator[tuple[int, Answer]] = iter(())
        if router.granted is not None:
            values["student"] = await asyncio.to_thread(
                student_bytes, router.granted.student, self._about(certificate, model)
            )
            answers = self._answers(population, router, router.granted)
        answered = await in_thread(self._journal.decide, values, answers)
        progress = self._asker.progress
        progress.routes["student"] += answered
        progress.stage, progress.expected = "", None
        progress.certified = certificate.spared
        self._asker.on_progress(progress)
        return certificate

    def _answers(self, population: Rows, router: Router, granted: Granted) -> Iterator[tuple[int, Answer]]:
        """What the student says, with the words that made it say so."""
        probabilities = granted.student.probabilities(granted.logits)
        columns = granted.student.choices(granted.logits)
        labeller = self._asker.pipeline.labeller
        most = min(self._task.max_keywords, _KEYWORDS) if labeller.keywords else 0
        texts = [router.texts[row] for row in granted.rows]
        words = keywords(granted.student, texts, columns, most)
        logs = np.log(np.maximum(probabilities, 1e-12))
        for at, row in enumerate(granted.rows):
            n = int(population[row])
            yield (
                n,
                Answer(
                    label=self._labels[columns[at]],
                    logprobs=dict(zip(self._labels, logs[at].tolist(), strict=True)),
                    keywords=words[at],
                    flags=("order_dropped",) if n in self._orders else (),
                ),
            )

    def _about(self, certificate: Certificate, model: str) -> dict[str, Any]:
        labeller, assembler = self._asker.pipeline.labeller, self._asker.pipeline.assembler
        about = labeller.connection.about
        return {
            "task": {"name": self._task.name, "hash": self._task.hash, "orderable": orderable(self._task)},
            "model": {"name": about.model, "fingerprint": about.fingerprint},
            "prompt": labeller.prompt.id,
            "calibration": assembler.calibration.id if assembler.calibration is not None else None,
            "max_keywords": self._task.max_keywords if labeller.keywords else 0,
            "certificate": certificate.as_json(model),
        }


def _packed(draw: Draw) -> bytes:
    head = json.dumps({"round": draw.round, "role": draw.role}).encode()
    return head + b"\n" + draw.rows.astype("<i8").tobytes()


def _unpacked(packed: bytes) -> Draw:
    head, _, rows = packed.partition(b"\n")
    return Draw(**json.loads(head), rows=np.frombuffer(rows, dtype="<i8").astype(np.int64))
