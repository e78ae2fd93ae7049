"""How the challenge's result is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from reviewmill.cli.show import console

if TYPE_CHECKING:
    from reviewmill.evaluate.challenge.score import Outcome, Result, Share

_BAR = 20


def show_result(result: Result, *, missed: bool) -> None:
    """Print the tables, and the cases that were missed."""
    screen = console()
    titles = {phenomenon.name: phenomenon.title for phenomenon in result.phenomena}
    table = Table("phenomenon", "right", "share", "95% interval", "", box=None)
    for share in result.by_phenomenon():
        _row(table, titles[share.name], share)
    table.add_section()
    if len(result.phenomena) > 1:
        _row(table, "all", result.overall)
    screen.print(table)
    side = Table("cases", "right", "share", "95% interval", "", box=None)
    for share in (*result.by_label(), *result.by_language()):
        _row(side, share.name, share)
    if (pairs := result.pairs()).rows:
        _row(side, "pairs, both right", pairs)
    screen.print(side)
    subject = result.subject
    screen.print(
        f"{subject['model']} on {subject['endpoint']}, task {subject['task']}, prompt {subject['prompt']}", markup=False
    )
    if missed and result.missed:
        screen.print(f"\n{len(result.missed)} missed:")
        screen.print(_missed_table(result.missed))


def _row(table: Table, name: str, share: Share) -> None:
    low, high = share.interval
    bar = Text("█" * round(share.rate * _BAR), style="green" if share.rate >= 0.8 else "yellow")
    table.add_row(Text(name), f"{share.right}/{share.rows}", f"{share.rate:.1%}", Text(f"[{low:.3f}, {high:.3f}]"), bar)


def _missed_table(missed: list[Outcome]) -> Table:
    table = Table("case", box=None)
    table.add_column("comment", overflow="fold")
    table.add_column("right answer", no_wrap=True)
    table.add_column("found", no_wrap=True)
    table.add_column("why", overflow="fold")
    for outcome in missed:
        confidence = outcome.analysis["confidence"]
        sure = "" if confidence is None else f" {confidence:.2f}"
        text = "".join(char if char.isprintable() else " " for char in outcome.case.text)
        found = Text(f"{outcome.found or 'error'}{sure}")
        table.add_row(Text(outcome.case.id), Text(text), Text(outcome.case.label), found, Text(outcome.case.why))
    return table
