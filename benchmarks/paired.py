"""Which of two ways is right where the other is wrong, over reports of the same comments.

    python benchmarks/paired.py FIRST.json... --against SECOND.json...

The n-th report of the one is compared with the n-th of the other: what `benchmarks/accuracy.py --out DIR` writes, or
`reviewmill challenge -o`. Rows that only one report has are left out. p is of McNemar's exact test.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from scipy.stats import binomtest


def right(path: Path) -> dict[str, bool]:
    """Whether each row was right, by its id."""
    report = json.loads(path.read_text(encoding="utf-8"))
    if report.get("kind") == "challenge":
        return {case["id"]: case["right"] for case in report["cases"]}
    return {row["id"]: row["label"] == row["gold"] for row in report["rows"]}


def line(name: str, only_first: int, only_second: int, rows: int) -> str:
    """One line of the table."""
    differing = only_first + only_second
    p = binomtest(only_first, differing).pvalue if differing else 1.0
    return f"| {name} | {rows} | {only_first} | {only_second} | {p:.2g} |"


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("first", type=Path, nargs="+")
    parser.add_argument("--against", type=Path, nargs="+", required=True)
    options = parser.parse_args()
    print("| reports | rows | only the first right | only the second right | p |\n|---|---|---|---|---|")
    whole = [0, 0, 0]
    for first, second in zip(options.first, options.against, strict=True):
        one, other = right(first), right(second)
        both = one.keys() & other.keys()
        counts = [sum(one[key] > other[key] for key in both), sum(one[key] < other[key] for key in both), len(both)]
        whole = [total + count for total, count in zip(whole, counts, strict=True)]
        print(line(f"{first.stem}, {second.stem}", *counts))
    print(line("all", *whole))


if __name__ == "__main__":
    main()
