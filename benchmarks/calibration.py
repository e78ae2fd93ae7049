"""Fit the calibration that ships with reviewmill, and show what calibration does on files that it was not fitted on.

    python benchmarks/calibration.py THREE.jsonl... --check TWO.jsonl... [--rows 200] [--cache sqlite:PATH] [--write]

Each file is JSONL with `text` and `label`; rows with label `mixed` are left out. The recipe: the first `--rows` rows of
each three-label file; every file counts the same, and within a file the labels count as if they had the shares of
`--shares`, because labelled files are mixed evenly and comments are not. Temperature and biases are then the least
negative log-likelihood (`scoring/fitting.py`), held only weakly (σ = 5) near the task's weights.

Printed are: each three-label file, judged by a fit on the others only; the check files, judged by the fit on all
three-label files; and each file calibrated on one half of its own rows and judged on the other half, both ways round,
which is what `reviewmill calibrate` does for a user (a few labels, from there towards the shipped one); the same with
60 rows only; and batch calibration, which sees no labels.

`--write` puts the result into `src/reviewmill/scoring/builtin/TASK.toml`, beside those for other prompts.
"""

from __future__ import annotations

import argparse
import asyncio
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from reviewmill import AsyncSentimentAnalyzer
from reviewmill.evaluate.answers import answers
from reviewmill.evaluate.calibrating import MOST_ODDS, cross_fitted, stratified_folds
from reviewmill.evaluate.holding import Holding, judgements
from reviewmill.evaluate.labelled import read_labelled
from reviewmill.pipeline import Pipeline, bound_of
from reviewmill.schema import Comment
from reviewmill.scoring.calibration import Bound, Calibration, FittedOn, Held, Prior
from reviewmill.scoring.fitting import Fit, Scored, fit, fit_prior
from reviewmill.settings import DEFAULT_MODEL

LOOSE = 5.0
HEAD = """\
# The calibration that ships with reviewmill, for the embedded default model. Not written by hand: it was fitted by
#   python benchmarks/calibration.py FILES --rows {rows} --shares {shares} --write
# which explains the recipe; docs/calibration.md has the results. Only a few numbers come from the data: one temperature
# and one bias a label. Only files with all three labels were used: two-label files would forbid "neutral".
# Sources: {sources}.
# `before` and `after`: each file judged by a fit on the other files only; means over the files.
"""
SOURCES = {
    "zh_amazon_marc": "Amazon reviews, zh (MARC; Keung et al. 2020; 1, 3 and 5 stars)",
    "zh_tw_gmaps": "Google Maps restaurant reviews, Traditional Chinese (stars)",
    "zh_douban_movie": "Douban film reviews (stars)",
    "zh_aichallenger_dianping": "Dianping restaurant reviews (AI Challenger 2018)",
    "zh_absa_dianping_zhang": "Dianping sentences with labelled aspects",
    "en_sst5": "SST-5 film sentences (Socher et al. 2013)",
    "en_finegrained_reviews": "finegrained review sentences (Täckström & McDonald 2011)",
    "multi_xlmt_tweets": "tweets in eight languages (XLM-T; Barbieri et al. 2022)",
}


@dataclass(frozen=True)
class Set:
    """One file's rows with the model's log-probabilities."""

    name: str
    rows: list[Scored]


async def ask(pipeline: Pipeline, path: Path, rows: int) -> Set:
    """The first rows of a file, answered by the model or from the cache."""
    task = pipeline.labeller.task
    labelled = read_labelled(path, task, label="label", text="text", mapping={"mixed": ""})
    judged = (await answers(labelled.rows[:rows], pipeline)).rows
    scored = [
        Scored(each.row.label, each.answer.logprobs, pipeline.prepare(Comment(each.row.text)).text or "")
        for each in judged
        if each.answer is not None and each.answer.logprobs
    ]
    return Set(path.stem, scored)


def pooled(sets: Sequence[Set], shares: dict[str, float]) -> tuple[list[Scored], list[float]]:
    """All rows, and how much each counts: every set the same, and its labels as `shares` says."""
    rows: list[Scored] = []
    weights: list[float] = []
    for each in sets:
        counts = Counter(row.label for row in each.rows)
        present = sum(shares[label] for label in counts)
        weights += [shares[row.label] / present / counts[row.label] for row in each.rows]
        rows += each.rows
    scale = len(rows) / sum(weights)
    return rows, [weight * scale for weight in weights]


def shipped(sets: Sequence[Set], start: Prior, shares: dict[str, float]) -> Fit:
    """The fit of the recipe."""
    rows, weights = pooled(sets, shares)
    return fit(rows, start, weights=weights, sigma_slope=LOOSE, sigma_bias=LOOSE)


def probabilities(found: Fit, rows: Sequence[Scored]) -> list[dict[str, float]]:
    """What a fit makes of rows."""
    return cross_fitted(rows, [np.arange(len(rows))], lambda _: found)


def holding(rows: Sequence[Scored], given: Sequence[dict[str, float]], *, among: bool = False) -> Holding:
    """How probabilities do; `among`: among the labels that occur."""
    judged = judgements([row.label for row in rows], given)
    return Holding.of((judged.restricted() if among else None) or judged)


def line(name: str, rows: int, before: Holding, after: Holding, note: str = "") -> str:
    """One line of a table."""
    numbers = [
        (h.scores.accuracy.value, h.scores.macro_f1.value, h.reliability.ece.value, h.brief().nll)
        for h in (before, after)
    ]
    cells = [f"{name:<28}{rows:>5}", *(f"{old:.3f} → {new:.3f}" for old, new in zip(*numbers, strict=True))]
    cells.append(f"{after.floor:.3f}")
    return "   ".join([*cells, note]).rstrip()


TITLE = f"{'file':<28}{'rows':>5}   {'accuracy':<16}{'macro-F1':<16}{'ECE':<16}{'NLL':<16}ECE by chance"


def left_out(sets: Sequence[Set], start: Prior, shares: dict[str, float]) -> list[tuple[Holding, Holding]]:
    """Each set judged by a fit on the others."""
    print(f"\nEach file judged by a fit on the others\n{TITLE}")
    results = []
    for each in sets:
        found = shipped([other for other in sets if other is not each], start, shares)
        before = holding(each.rows, probabilities(Fit(start.temperature, start.bias), each.rows))
        after = holding(each.rows, probabilities(found, each.rows))
        results.append((before, after))
        print(line(each.name, len(each.rows), before, after, f"T {found.temperature:.2f}"))
    return results


def checked(sets: Sequence[Set], start: Prior, found: Fit) -> None:
    """Files with two labels, judged by the fit on all three-label files."""
    print(f"\nCheck files\n{TITLE}")
    for each in sets:
        before, after = (probabilities(f, each.rows) for f in (Fit(start.temperature, start.bias), found))
        said = [Counter(max(p, key=p.__getitem__) for p in given) for given in (before, after)]
        labels = {row.label for row in each.rows}
        others = ", ".join(
            f"{name} {said[0][name] / len(before):.1%} → {said[1][name] / len(after):.1%}"
            for name in start.bias
            if name not in labels
        )
        print(line(each.name, len(each.rows), holding(each.rows, before), holding(each.rows, after), others))
        narrow = [holding(each.rows, given, among=True) for given in (before, after)]
        print(line("  among its labels", len(each.rows), narrow[0], narrow[1]))


def halves(sets: Sequence[Set], everything: Sequence[Set], start: Prior, shares: dict[str, float]) -> None:
    """Each file calibrated on one half of its rows and judged on the other, both ways round."""
    print(f"\nEach file calibrated on half of its own rows, judged on the other half\n{TITLE}")
    for each in sets:
        others = [other for other in everything if other.name != each.name]
        base = shipped(others, start, shares).prior()
        folds = stratified_folds([row.label for row in each.rows], 2)
        before = probabilities(Fit(start.temperature, start.bias), each.rows)
        few = len({row.label for row in each.rows}) < len(start.bias)
        rows = each.rows

        def fitting(train: Any, rows: list[Scored] = rows, base: Prior = base) -> Fit:
            return fit([rows[at] for at in train], base)

        after = cross_fitted(rows, folds, fitting)
        for among in (False, True) if few else (False,):
            name = "  among its labels" if among else each.name
            print(line(name, len(rows), holding(rows, before, among=among), holding(rows, after, among=among)))


def sixty(sets: Sequence[Set], everything: Sequence[Set], start: Prior, shares: dict[str, float]) -> None:
    """Each file calibrated on 60 of its rows, judged on the rest; means over 20 draws."""
    print(f"\nEach file calibrated on 60 of its own rows, judged on the rest (means of 20 draws)\n{TITLE}")
    for each in sets:
        base = shipped([other for other in everything if other.name != each.name], start, shares)
        draw = np.random.default_rng(0)
        sums = np.zeros((2, 4))
        floor = 0.0
        for _ in range(20):
            order = draw.permutation(len(each.rows))
            train, test = ([each.rows[at] for at in part] for part in (order[:60], order[60:]))
            for place, found in enumerate((Fit(start.temperature, start.bias), fit(train, base.prior()))):
                held = holding(test, probabilities(found, test))
                brief = held.brief()
                sums[place] += np.array([brief.accuracy, brief.macro_f1, brief.ece, brief.nll]) / 20
                floor += place * held.floor / 20
        cells = "   ".join(f"{before:.3f} → {after:.3f}" for before, after in zip(*sums, strict=True))
        print(f"{each.name:<28}{len(each.rows) - 60:>5}   {cells}   {floor:.3f}")


def without_labels(sets: Sequence[Set], everything: Sequence[Set], start: Prior, shares: dict[str, float]) -> None:
    """Batch calibration on each file's own comments, from the fit on the other files, which is "before" here."""
    print(f"\nBatch calibration on each file's own comments, without their labels\n{TITLE}")
    for each in sets:
        base = shipped([other for other in everything if other.name != each.name], start, shares)
        even = dict.fromkeys(base.bias, 1.0)
        moved = fit_prior([row.logprobs for row in each.rows], base.prior(), even, most=MOST_ODDS)
        before, after = (holding(each.rows, probabilities(found, each.rows)) for found in (base, moved))
        print(line(each.name, len(each.rows), before, after))


def mean_of(results: Sequence[Holding], rows: int) -> Held:
    """Means over the files."""
    briefs = [each.brief() for each in results]
    means = {
        name: round(float(np.mean([getattr(brief, name) for brief in briefs])), 4)
        for name in ("accuracy", "macro_f1", "nll", "brier", "ece")
    }
    return Held(rows=rows, **means)


def as_toml(calibration: Calibration) -> str:
    """One `[[calibration]]` table."""
    content = calibration.model_dump(mode="json", exclude={"notes", "format"})

    def value(of: Any) -> str:
        if isinstance(of, dict):
            return "{ " + ", ".join(f"{name} = {value(each)}" for name, each in of.items() if each is not None) + " }"
        if isinstance(of, list):
            inside = [value(each) for each in of]
            long = sum(map(len, inside)) > 90
            return "[\n  " + ",\n  ".join(inside) + ",\n]" if long else "[" + ", ".join(inside) + "]"
        return f'"{of}"' if isinstance(of, str) else repr(of)

    lines = [f"{name} = {value(each)}" for name, each in content.items() if each is not None]
    return "[[calibration]]\n" + "\n".join(lines) + "\n"


def write(calibration: Calibration, head: str) -> Path:
    """Put it into the built-in file, instead of the one for the same prompt or for prompts of an older task."""
    path = Path(__file__).parent.parent / "src/reviewmill/scoring/builtin" / f"{calibration.task}.toml"
    old = tomllib.loads(path.read_text(encoding="utf-8"))["calibration"] if path.exists() else []
    known = [Calibration.model_validate(entry) for entry in old]
    bound = calibration.bound_to
    same = (bound.task, bound.model)
    kept = [each for each in known if (each.bound_to.task, each.bound_to.model) == same and each.bound_to != bound]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join([head, *map(as_toml, [*kept, calibration])]), encoding="utf-8")
    return path


async def gather(options: argparse.Namespace) -> tuple[list[Set], list[Set], Prior, Bound, tuple[str, str]]:
    """Everything that must be asked."""
    analyzer = AsyncSentimentAnalyzer(
        model=options.model, task=options.task, keywords=options.keywords, cache=options.cache, calibration="none"
    )
    async with analyzer:
        pipeline = await analyzer.pipeline()
        sets = [await ask(pipeline, path, options.rows) for path in options.files]
        checks = [await ask(pipeline, path, options.check_rows or options.rows) for path in options.check]
        names = (pipeline.labeller.task.name, pipeline.labeller.connection.about.model)
        return sets, checks, Prior.from_weights(analyzer.task.weights), bound_of(pipeline.labeller), names


def main() -> None:
    """Fit, show, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", type=Path, nargs="+", help="files with all labels of the task")
    parser.add_argument("--check", type=Path, nargs="*", default=[], help="files with fewer labels")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--check-rows", type=int, help="of each check file; by default as many")
    parser.add_argument("--shares", default="positive=44,neutral=12,negative=44")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--task", default="sentiment")
    parser.add_argument("--keywords", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cache", default="sqlite", help="sqlite:PATH lets an interrupted measurement continue")
    parser.add_argument("--write", action="store_true", help="write it into the built-in file")
    options = parser.parse_args()
    shares = {name: float(share) for name, _, share in (part.partition("=") for part in options.shares.split(","))}
    sets, checks, start, bound, (task, model) = asyncio.run(gather(options))
    found = shipped(sets, start, shares)
    print(f"task {task}, prompt {bound.prompt}, {model}; labels counted as {options.shares}")
    print(f"temperature {found.temperature:.4f}   " + "   ".join(f"{k} {v:+.4f}" for k, v in found.bias.items()))
    everything = [row for each in sets for row in each.rows]
    areas = {
        name: roc_auc_score([row.label == name for row in everything], [row.logprobs[name] for row in everything])
        for name in start.bias
    }
    print("area under the ROC curve, each label against the others: " + str({k: round(v, 3) for k, v in areas.items()}))
    results = left_out(sets, start, shares)
    checked(checks, start, found)
    halves([*sets, *checks], sets, start, shares)
    sixty([*sets, *checks], sets, start, shares)
    without_labels([*sets, *checks], sets, start, shares)
    total = sum(len(each.rows) for each in sets)
    calibration = Calibration(
        task=task,
        model=model,
        labels=tuple(found.bias),
        temperature=found.temperature,
        bias=found.bias,
        bound_to=bound,
        fitted_on=tuple(
            FittedOn(name=each.name, rows=len(each.rows), labels=dict(Counter(row.label for row in each.rows)))
            for each in sets
        ),
        before=mean_of([before for before, _ in results], total),
        after=mean_of([after for _, after in results], total),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if options.write:
        sources = "; ".join(SOURCES.get(each.name, each.name) for each in sets)
        path = write(calibration, HEAD.format(rows=options.rows, shares=options.shares, sources=sources))
        print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
