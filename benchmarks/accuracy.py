"""Accuracy, macro-F1 and calibration on labelled files, beside the usual way and plain label scoring, with one model.

    python benchmarks/accuracy.py FILE... [--label label] [--rows 200] [--ways plain,words,compact] [--out DIR]

Rows whose label is `mixed` are left out (`--map` says what else). Ways: `plain` (one message that asks for JSON with a
confidence, which the model writes itself), `words` (a one-sentence prompt, the most probable label word), `label`
(reviewmill without keywords), `compact` and `json` (with keywords, in each wire format). "Restricted" takes the most
probable label among those that occur in the file: on a file with two labels, a third answer ("neutral") counts as wrong
in the first columns and not in that one. The calibration error is over all labels. Everything is answered through a
cache where one is given, so an interrupted measurement continues. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from sklearn.metrics import roc_auc_score

from reviewmill import AsyncSentimentAnalyzer
from reviewmill.evaluate.labelled import Labelled, parse_mapping, read_labelled
from reviewmill.evaluate.measures import Estimate
from reviewmill.evaluate.plain import plain_pipeline
from reviewmill.evaluate.report import Report, as_json, write_text
from reviewmill.evaluate.run import evaluate
from reviewmill.models import detect
from reviewmill.settings import DEFAULT_MODEL
from reviewmill.tasks import Task, load_task, parse_task

WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "words": {"keywords": False},
    "label": {"keywords": False},
    "compact": {"keywords": True, "wire": "compact"},
    "json": {"keywords": True, "wire": "json"},
}

WORDS_TASK = """
name = "sentiment"
description = "判断评论的情感倾向。"
labels = [
  { name = "positive", definition = "正面" },
  { name = "neutral", definition = "中性" },
  { name = "negative", definition = "负面" },
]
"""

COLUMNS = (
    "file",
    "way",
    "rows",
    "accuracy",
    "restricted",
    "macro-F1",
    "ECE",
    "AUROC",
    "says other labels",
    "tokens out",
)


def shown(estimate: Estimate | None) -> str:
    """A number with its 95% interval."""
    return "" if estimate is None else f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def line(report: Report, way: str) -> list[str]:
    """One line of the table."""
    scores, reliability = report.measures.scores, report.measures.reliability
    restricted = report.restricted.scores.accuracy if report.restricted else None
    other = sum(report.outside.values()) / scores.rows
    tokens = report.effort.tokens_out
    return [
        Path(report.data.file).stem,
        way,
        f"{scores.rows}",
        shown(scores.accuracy),
        shown(restricted),
        shown(scores.macro_f1),
        shown(reliability.ece) if reliability else "",
        separation([report]),
        f"{other:.0%}" if report.outside else "",
        "" if tokens is None else f"{tokens:.1f}",
    ]


def separation(reports: list[Report]) -> str:
    """The area under the ROC curve of the confidence, for right against wrong."""
    sure = [row for report in reports for row in report.rows if row.confidence is not None]
    right = [row.label == row.gold for row in sure]
    return f"{roc_auc_score(right, [row.confidence for row in sure]):.2f}" if len(set(right)) == 2 else ""


async def measure(options: argparse.Namespace) -> None:
    """Print one line for each file and way."""
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for way in options.ways.split(","):
        task = parse_task(WORDS_TASK, "words") if way == "words" else load_task(options.task)
        given = {"model": options.model, "cache": options.cache, **WAYS[way]}
        async with AsyncSentimentAnalyzer(task=task, **given) as analyzer:
            pipeline = await analyzer.pipeline()
            if way == "plain":
                pipeline = plain_pipeline(analyzer.settings, pipeline.labeller.connection, task, pipeline.cache)
            reports = []
            for path in options.files:
                labelled = first_rows(path, task, options)
                report = await evaluate(labelled, pipeline, label_column=options.label)
                reports.append(report)
                print(f"| {' | '.join(line(report, way))} |", flush=True)
                if options.out:
                    options.out.mkdir(parents=True, exist_ok=True)
                    write_text(options.out / f"{way}-{path.stem}.json", as_json(report))
            print(
                f"| all | {way} | {sum(len(report.rows) for report in reports)} | | | | | {separation(reports)} | | |"
            )


def first_rows(path: Path, task: Task, options: argparse.Namespace) -> Labelled:
    """The first usable rows of a file."""
    labelled = read_labelled(path, task, label=options.label, mapping=parse_mapping(options.map))
    return replace(labelled, rows=labelled.rows[: options.rows])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--label", default="label")
    parser.add_argument("--map", action="append", default=["mixed="])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--ways", default="plain,words,compact")
    parser.add_argument("--task", default="sentiment")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--cache", default="none", help="sqlite:PATH lets an interrupted measurement continue")
    parser.add_argument("--out", type=Path, help="folder for the reports, every row's answer in them")
    options = parser.parse_args()
    hardware = detect()
    print(f"{hardware.cpu}, {hardware.physical_cores} cores, {options.model}\n")
    asyncio.run(measure(options))


if __name__ == "__main__":
    main()
