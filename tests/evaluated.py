"""Labelled files for the stub model, and the command line in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from reviewmill.cli.main import program

GOOD = "第{}次买，质量很好"
BAD = "第{}次买，太差了"
PLAIN = "第{}次买，黑色的"


def comments(good: int, bad: int, plain: int = 0, *, wrong: int = 0) -> list[dict[str, Any]]:
    """Comments with the labels that the stub gives them; the first `wrong` good ones are labelled negative."""
    rows = [{"text": GOOD.format(n), "label": "negative" if n < wrong else "positive"} for n in range(good)]
    rows += [{"text": BAD.format(n), "label": "negative"} for n in range(bad)]
    return rows + [{"text": PLAIN.format(n), "label": "neutral"} for n in range(plain)]


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """A JSONL file."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def reviewmill(*arguments: object) -> Result:
    """One call of the program; errors that it would tell are raised."""
    done = CliRunner().invoke(program(), [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done
