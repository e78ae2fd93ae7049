"""Accuracy of labels on labelled files, beside plain label scoring with the same model.

    python benchmarks/accuracy.py FILE.jsonl... [--rows 200] [--ways plain,label,compact,json] [--out DIR]

Each file is JSONL with `text` and `label`; rows with label `mixed` are left out. Ways: `plain` (a one-sentence prompt,
the most probable label word), `label` (reviewmill without keywords), `compact` and `json` (with keywords, in each wire
format). "restricted" takes the most probable label among those that occur in the file: on a file with two labels, a
third answer ("neutral") counts as wrong in the first column and not in the second. Intervals: Wilson, 95%.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from reviewmill import AsyncSentimentAnalyzer, Task
from reviewmill.models import detect
from reviewmill.settings import DEFAULT_MODEL
from reviewmill.tasks import load_task, parse_task

WAYS: dict[str, dict[str, Any]] = {
    "plain": {"keywords": False},
    "label": {"keywords": False},
    "compact": {"keywords": True, "wire": "compact"},
    "json": {"keywords": True, "wire": "json"},
}

PLAIN_TASK = """
name = "sentiment"
description = "判断评论的情感倾向。"
labels = [
  { name = "positive", definition = "正面" },
  { name = "neutral", definition = "中性" },
  { name = "negative", definition = "负面" },
]
"""


def wilson(right: int, of: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927)."""
    z = 1.959964
    share, spread = right / of, z * z / of
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / of + spread / (4 * of))
    return middle - half, middle + half


def labelled(path: Path, rows: int) -> list[dict[str, Any]]:
    """The first rows that have one clear label."""
    records = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return [record for record in records if record["label"] != "mixed"][:rows]


async def score(analyzer: AsyncSentimentAnalyzer, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy over one file, and what was kept for a later look."""
    analyses = await analyzer.analyze_batch([record["text"] for record in records])
    possible = {record["label"] for record in records}
    right = restricted = 0
    for record, analysis in zip(records, analyses, strict=True):
        right += analysis.label == record["label"]
        among = {name: p for name, p in analysis["probabilities"].items() if name in possible}
        restricted += bool(among) and max(among, key=among.__getitem__) == record["label"]
    given = [len(analysis["keywords"]) for analysis in analyses]
    return {
        "rows": len(records),
        "right": right,
        "restricted": restricted,
        "labels": dict(Counter(str(analysis.label) for analysis in analyses)),
        "keywords": sum(given) / len(given),
        "analyses": [dict(analysis) | {"gold": r["label"]} for analysis, r in zip(analyses, records, strict=True)],
    }


async def measure(files: list[Path], ways: list[str], rows: int, model: str, cache: str, out: Path | None) -> None:
    """Print one line for each way and file."""
    print(f"{'way':<9}{'file':<28}{'rows':>5}  {'accuracy':<22}{'restricted':<22}{'neutral':>8}{'keywords':>9}")
    for way in ways:
        task: Task = parse_task(PLAIN_TASK, "plain") if way == "plain" else load_task("sentiment")
        async with AsyncSentimentAnalyzer(model=model, task=task, cache=cache, **WAYS[way]) as analyzer:
            for path in files:
                result = await score(analyzer, labelled(path, rows))
                cells = []
                for name in ("right", "restricted"):
                    low, high = wilson(result[name], result["rows"])
                    cells.append(f"{result[name] / result['rows']:.3f} [{low:.3f}, {high:.3f}]")
                neutral = result["labels"].get("neutral", 0) / result["rows"]
                print(
                    f"{way:<9}{path.stem:<28}{result['rows']:>5}  {cells[0]:<22}{cells[1]:<22}{neutral:>8.2f}"
                    f"{result['keywords']:>9.2f}",
                    flush=True,
                )
                keep(out, f"{way}-{path.stem}.json", result)


def keep(folder: Path | None, name: str, result: dict[str, Any]) -> None:
    """Write every row's analysis for a later look, if a folder was given."""
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(result, ensure_ascii=False))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--ways", default="plain,label,compact,json")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--cache", default="none", help="sqlite:PATH lets an interrupted measurement continue")
    parser.add_argument("--out", type=Path, help="folder for every row's analysis")
    options = parser.parse_args()
    hardware = detect()
    print(f"{hardware.cpu}, {hardware.physical_cores} cores, {options.model}\n")
    ways = options.ways.split(",")
    asyncio.run(measure(options.files, ways, options.rows, options.model, options.cache, options.out))


if __name__ == "__main__":
    main()
