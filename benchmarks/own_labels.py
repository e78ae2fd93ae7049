"""What a user's own labels bring: `reviewmill calibrate`, with and without `--method stack`, by how many there are.

    python benchmarks/own_labels.py FILE.jsonl... [--own 60 200 500 2000] [--test 2000] [--draws 5] [--cache CACHE]

Each file is JSONL with `text` and `label`, and has many rows. Per draw, `--test` rows are set aside to judge; of the
rest, so many as `--own` says are what the user has labelled. The model is asked without keywords (or the cache is) for
all these rows and no others. Shown are means over the draws, all on the same rows:

- in force: the calibration that ships.
- calibrate: temperature and biases fitted on the own labels.
- stack: as `--method stack` does it: with the comments' n-grams where they win in cross-validation, else without.
- n-grams alone: logistic regression on the same features and labels, no model; its strength by cross-validation.

The last line of each file is n-grams alone with every row that is not set aside: what tens of thousands of labels and
no language model come to. Accuracy is among the labels that the file has.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from reviewmill import AsyncSentimentAnalyzer
from reviewmill.evaluate.answers import answers
from reviewmill.evaluate.calibrating import Subject, fit_labelled
from reviewmill.evaluate.labelled import LabelledRow, read_labelled
from reviewmill.pipeline import Pipeline, bound_of
from reviewmill.schema import Comment
from reviewmill.scoring.calibration import Calibration, Prior
from reviewmill.scoring.fitting import Scored
from reviewmill.scoring.shelf import builtin
from reviewmill.scoring.stack import feature_matrix
from reviewmill.settings import DEFAULT_MODEL


def alone(train: Sequence[Scored], test: Sequence[Scored]) -> float:
    """Accuracy of n-grams without the model."""
    matrix, _ = feature_matrix([row.text for row in [*train, *test]])
    search = GridSearchCV(LogisticRegression(max_iter=300), {"C": [1.0, 10.0, 100.0]}, cv=3)
    search.fit(matrix[: len(train)], [row.label for row in train])
    return float(search.score(matrix[len(train) :], [row.label for row in test]))


def accuracy(calibration: Calibration, rows: Sequence[Scored], labels: Sequence[str]) -> float:
    """How often the most probable of these labels is right."""
    right = 0
    for row in rows:
        given = calibration.apply(row.logprobs, row.text)
        right += max(labels, key=given.__getitem__) == row.label
    return right / len(rows)


async def scored(pipeline: Pipeline, rows: Sequence[LabelledRow]) -> list[Scored]:
    """Rows with the model's log-probabilities."""
    judged = (await answers(list(rows), pipeline)).rows
    return [
        Scored(each.row.label, each.answer.logprobs, pipeline.prepare(Comment(each.row.text)).text or "")
        for each in judged
        if each.answer is not None and each.answer.logprobs
    ]


def line(name: str, means: Sequence[float]) -> str:
    """One line of a table."""
    return f"{name:<28}" + "".join(f"{mean:>14.3f}" for mean in means)


async def measure(path: Path, pipeline: Pipeline, options: argparse.Namespace) -> None:
    """Print one file's table."""
    task, bound = pipeline.labeller.task, bound_of(pipeline.labeller)
    rows = read_labelled(path, task, label="label", text="text", mapping={"mixed": ""}).rows
    labels = sorted({row.label for row in rows})
    shipped = next(each for each in builtin() if each.because_not_for(bound) is None)
    subject = Subject(task.name, "", bound, Prior.from_calibration(shipped), "the shipped calibration")
    found: dict[int, list[list[float]]] = {own: [] for own in options.own}
    for draw in range(options.draws):
        order = np.random.default_rng(draw).permutation(len(rows))
        taken = await scored(pipeline, [rows[at] for at in order[: options.test + max(options.own)]])
        test, rest = taken[: options.test], taken[options.test :]
        for own in options.own:
            fits = [fit_labelled(rest[:own], subject, [], stack=stack).calibration for stack in (False, True)]
            right = [accuracy(fitted or shipped, test, labels) for fitted in (shipped, *fits)]
            found[own].append([*right, alone(rest[:own], test)])
    print(f"\n{path.stem}: {len(rows)} rows, {options.test} to judge by, {options.draws} draws")
    print(f"{'own labels':<28}" + "".join(f"{name:>14}" for name in ("in force", "calibrate", "stack", "n-grams")))
    for own, numbers in found.items():
        print(line(str(own), np.mean(numbers, axis=0)), flush=True)
    order = np.random.default_rng(0).permutation(len(rows))
    texts = [Scored(row.label, {}, pipeline.prepare(Comment(row.text)).text or "") for row in rows]
    everything = [texts[at] for at in order]
    most = alone(everything[options.test :], everything[: options.test])
    print(f"{len(rows) - options.test:<28}" + " " * 42 + f"{most:>14.3f}")


async def run(options: argparse.Namespace) -> None:
    """Measure file after file."""
    async with AsyncSentimentAnalyzer(
        model=options.model, keywords=False, cache=options.cache, calibration="none"
    ) as analyzer:
        pipeline = await analyzer.pipeline()
        for path in options.files:
            await measure(path, pipeline, options)


def main() -> None:
    """Measure the files that were named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", type=Path, nargs="+", help="JSONL with text and label")
    parser.add_argument("--own", type=int, nargs="+", default=[60, 200, 500, 2000])
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--cache", default="sqlite", help="sqlite:PATH lets an interrupted measurement continue")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
