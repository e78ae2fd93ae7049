"""What `errors` does with its arguments: collect, write, show."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reviewmill.cli.measuring import warn
from reviewmill.cli.show import console, one_line
from reviewmill.errors import InputError, OutputError
from reviewmill.evaluate.errors import (
    corrections_from,
    corrections_in,
    errors_from_corrections,
    errors_of,
)
from reviewmill.evaluate.report import read_report, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reviewmill.evaluate.errors import ErrorRow, ErrorSet, ExportedCorrection, Group, How

SERVICE_KEY: Final = "REVIEWMILL_SERVICE_KEY"

_GROUPS: Final = 8
_EXAMPLES: Final = 3
_WIDTH: Final = 64


def collect(report: Path | None, corrections: str | None, *, task: str | None, how: How, suspicious: float) -> ErrorSet:
    """The error set of a report, or of corrections.

    Raises:
        InputError: neither or both were given, or they cannot be read.
    """
    if (report is None) == (corrections is None):
        raise InputError(
            "Give a report, or --corrections, and not both.",
            hint="reviewmill errors report.json -o errors.jsonl, or reviewmill errors --corrections http://127.0.0.1:8080",
        )
    if report is not None:
        return errors_of(read_report(report), how=how, suspicious=suspicious)
    source = str(corrections)
    if source.startswith(("http://", "https://")):
        return errors_from_corrections(asyncio.run(_fetched(source, task)))
    return errors_from_corrections(corrections_in(Path(source), task=task))


async def _fetched(url: str, task: str | None) -> list[ExportedCorrection]:
    from reviewmill.client import Client

    async with Client(url, os.environ.get(SERVICE_KEY) or None) as client:
        found = [one async for one in client.corrections(task=task)]
    return corrections_from((f"{url}, correction {one.id}", one.model_dump(mode="json")) for one in found)


def write(found: ErrorSet, output: Path, *, force: bool) -> None:
    """Write the errors, then the suspects, one a line.

    Raises:
        OutputError: the file exists, or cannot be written.
    """
    if output.exists() and not force:
        raise OutputError(f"{output} exists.", hint="Choose another place with -o, or add --force.")
    rows = [row.model_dump_json() for row in (*found.errors, *found.suspects)]
    write_text(output, "".join(f"{row}\n" for row in rows))


def show(found: ErrorSet, output: Path | None) -> None:
    """Print how many there are, the largest groups, and examples of each."""
    screen = console(stderr=True)
    total = len(found.errors) + len(found.suspects)
    of = f" of {found.judged:,} comments" if found.judged is not None else ""
    screen.print(f"{total:,} wrong labels{of}; of these, {len(found.suspects):,} where the right label may be wrong.")
    warn(found.warnings)
    if not total:
        return
    screen.print(_table("right → given", found.by_kind, rates=False))
    screen.print(_table("sign in the text", found.by_cause, rates=found.judged is not None))
    causes = [group.name for group in found.by_cause[:_GROUPS]]
    for name in sorted(causes, key=lambda cause: -_count(found.errors, cause))[:_EXAMPLES]:
        _show_examples(name, [row for row in found.errors if row.cause == name])
    _show_examples("right label suspected", found.suspects)
    if output is not None:
        screen.print(f"Errors: [bold]{escape(str(output))}[/bold]")


def _count(rows: Sequence[ErrorRow], cause: str) -> int:
    return sum(row.cause == cause for row in rows)


def _table(title: str, groups: Sequence[Group], *, rates: bool) -> Table:
    more = ("of comments with it", "error rate", "times the others'", "p") if rates else ()
    table = Table(title, "errors", *more, "mean confidence", box=None)
    for group in groups[:_GROUPS]:
        cells = []
        if rates:
            ratio = "" if group.ratio is None else f"{group.ratio:.1f}"
            cells = [f"{group.rows:,}", f"{group.rate:.1%}", ratio, f"{group.p_value:.3f}"]
        sure = "" if group.confidence is None else f"{group.confidence:.2f}"
        table.add_row(Text(group.name.replace("_", " ")), f"{group.errors:,}", *cells, sure)
    return table


def _show_examples(title: str, rows: Sequence[ErrorRow]) -> None:
    if not rows:
        return
    screen = console(stderr=True)
    screen.print(Text(f"\n{title.replace('_', ' ')} ({len(rows):,}), most confident first:", style="bold"))
    for row in rows[:_EXAMPLES]:
        sure = "" if row.confidence is None else f" {row.confidence:.2f}"
        screen.print(Text(f"  {row.label}{sure}, right: {row.gold}   {one_line(row.text, _WIDTH)}"))
