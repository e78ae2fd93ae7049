"""What `improve` shows: the plan, the progress (both on stderr), and the report."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final, Self

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from reviewmill.cli.show import console

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from reviewmill.batch.run import Progress as Answering
    from reviewmill.evaluate.improve.pool import Pool
    from reviewmill.evaluate.improve.search import Search, Step

_PLAIN_EVERY: Final = 10.0
_SHOWN_PROMPTS: Final = 8
_SHOWN_SLICES: Final = 12
_SHOWN_TEXT: Final = 60


class SearchDisplay:
    """Progress of a search: a bar on a terminal, a plain line now and then elsewhere, nothing when quiet.

    Args:
        name: what the file is called.
        quiet: show nothing.
    """

    def __init__(self, name: str, *, quiet: bool) -> None:
        self.asked = 0
        self._quiet = quiet
        self._name = name
        self._console = console(stderr=True)
        self._live = self._console.is_terminal and not quiet
        self._what = "starting"
        self._at_most = 0
        self._before = 0
        self._fresh = 0
        self._fresh_here = 0
        self._began: float | None = None
        self._next_line = 0.0
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[about]}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(f"{name}: starting", total=None, about="")

    def __enter__(self) -> Self:
        if self._live:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bar away."""
        if self._live:
            self._bar.stop()

    def show(self, how: Callable[[], None]) -> None:
        """Show something, unless quiet."""
        if not self._quiet:
            how()

    def note(self, text: str) -> None:
        """Say something, unless quiet."""
        self.show(lambda: self._console.print(text, markup=False))

    def warn(self, text: str) -> None:
        """Warn, quiet or not."""
        self._console.print(f"warning: {text}", style="yellow", markup=False)

    def step(self, step: Step) -> None:
        """The search's `on_step`."""
        self._fresh += self._fresh_here
        self._fresh_here = 0
        self._what, self._before, self._at_most = step.what, step.asked, step.at_most
        self.asked = step.asked
        self._draw()

    def update(self, answering: Answering) -> None:
        """The asker's `on_progress`."""
        if answering.asked and self._began is None:
            self._began = time.monotonic()
        self._fresh_here = answering.asked
        self.asked = self._before + answering.done
        self._draw()

    def _draw(self) -> None:
        if self._quiet:
            return
        about = f"{self.asked:,} of at most {self._at_most:,} questions{self._pace()}"
        if self._live:
            total = self._at_most or None
            self._bar.update(
                self._task, description=f"{self._name}: {self._what}", completed=self.asked, total=total, about=about
            )
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _PLAIN_EVERY
            print(f"{self._name}: {self._what} · {about}", file=sys.stderr, flush=True)

    def _pace(self) -> str:
        seconds = time.monotonic() - self._began if self._began is not None else 0.0
        fresh = self._fresh + self._fresh_here
        if not fresh or seconds < 2:
            return ""
        rate = fresh / seconds
        minutes = (self._at_most - self.asked) / rate / 60
        return f" · {rate:.1f}/s · at most {minutes:.0f} min left"


def show_plan(search: Search, pool: Pool | None, *, continued: bool, proposer: str | None) -> None:
    """Say, before anything is asked, what will be asked at most."""
    screen = console(stderr=True)
    plan, parts = search.plan, search.parts
    table = Table("part", "rows", "what for", "questions at most", box=None)
    rounds = sum(each.cost for each in plan.rounds)
    tried = " + ".join(str(each.candidates) for each in plan.rounds)
    table.add_row("1 propose", f"{plan.propose:,}", "examples and mistakes of the present prompt", f"{plan.propose:,}")
    if proposer is not None:
        table.add_row("", "", f"guidelines written by the model on {proposer}", f"{plan.proposer:,}")
    table.add_row(
        "2 select", f"{plan.select:,}", f"{tried} prompts, the better half gets more rows", f"{plan.select + rounds:,}"
    )
    table.add_row("3 judge", f"{plan.judge:,}", "the best against the present one, once", f"{2 * plan.judge:,}")
    table.add_row("", "", "in all", f"{plan.cost:,}", style="bold")
    screen.print(table)
    about = (
        "continues; answers that are in the cache are not asked again" if continued else "what is cached is not asked"
    )
    sentences = (
        f"{len(pool.sentences)} guideline sentences to try" if pool else "no guideline sentences for these labels"
    )
    screen.print(
        f"Budget {plan.budget:,} ({about}). {sentences}. {parts.grouped:,} rows have near-duplicates, which stay "
        f"together. On {plan.judge:,} rows a gain of {plan.detectable:.1%} is recognised four times of five.",
        markup=False,
    )
    if proposer is not None:
        screen.print(f"Comments of the first part are sent to {proposer}.", style="yellow", markup=False)
    for warning in search.warnings:
        screen.print(f"warning: {warning}", style="yellow", markup=False)


def show_report(report: dict[str, Any], output: Path | None, state: Path) -> None:
    """Print what came of it."""
    screen = console()
    _show_prompts(report)
    verdict = report["verdict"]
    if verdict is None:
        screen.print(
            "No prompt was better than the present one on the second part. Nothing was written; the third part was not "
            "opened and stays fresh.",
            markup=False,
        )
    else:
        _show_changes(report)
        _show_verdict(verdict)
        _show_slices(verdict["slices"])
        screen.print(
            f"Written: {output}" if output else "Not better beyond doubt: no task file was written.",
            style="bold",
            markup=False,
        )
    screen.print(f"Report: {state}", markup=False)


def _show_prompts(report: dict[str, Any]) -> None:
    present, prompts = report["select"]["present"], report["select"]["prompts"]
    table = Table("tried on the second part", "rows", "right", "P(right label)", box=None)
    if present:
        _prompt_row(table, "the present prompt", present)
    for prompt in prompts[:_SHOWN_PROMPTS]:
        _prompt_row(table, f"{prompt['name'][:6]} {'; '.join(prompt['changes'])}", prompt)
    screen = console()
    screen.print(table)
    if len(prompts) > _SHOWN_PROMPTS:
        screen.print(f"and {len(prompts) - _SHOWN_PROMPTS} more", style="dim")


def _prompt_row(table: Table, what: str, trial: dict[str, Any]) -> None:
    share = trial["mean_probability_of_the_right_label"]
    table.add_row(Text(what), f"{trial['rows']:,}", f"{trial['accuracy']:.1%}", f"{share:.3f}")


def _show_changes(report: dict[str, Any]) -> None:
    screen = console()
    screen.print(f"\nThe best: {'; '.join(report['changes'])}", markup=False)
    found = report["difference"]
    for sign, part in (("+", "added"), ("-", "removed")):
        for kind in ("guidelines", "examples"):
            for line in found[f"{kind}_{part}"]:
                shown = "".join(char if char.isprintable() else " " for char in line)
                screen.print(f"  {sign} {shown}", style="green" if sign == "+" else "red", markup=False)
    for name, weight in found["weights"].items():
        screen.print(f"  weight of {name}: {weight['present']:g} → {weight['new']:g}", markup=False)


def _show_verdict(verdict: dict[str, Any]) -> None:
    table = Table(f"on {verdict['rows']:,} rows that nothing had seen", "present", "new", "difference", box=None)
    interval = f"{verdict['difference']:+.1%} [{verdict['low']:+.1%}, {verdict['high']:+.1%}]"
    table.add_row("right", f"{verdict['first']:.1%}", f"{verdict['second']:.1%}", Text(interval))
    f1, tokens = verdict["macro_f1"], verdict["prompt_tokens"]
    table.add_row("macro-F1", f"{f1['present']:.3f}", f"{f1['new']:.3f}", f"{f1['new'] - f1['present']:+.3f}")
    if tokens["present"]:
        table.add_row(
            "tokens of the prompt",
            f"{tokens['present']:,.0f}",
            f"{tokens['new']:,.0f}",
            f"{tokens['new'] - tokens['present']:+,.0f}",
        )
    screen = console()
    screen.print(table)
    screen.print(
        f"The new one alone is right on {verdict['only_second']}, the present one alone on {verdict['only_first']}: "
        f"p = {verdict['p_second_better']:.3g} (McNemar's exact test, one-sided; {verdict['level']:g} is needed).",
        markup=False,
    )


def _show_slices(slices: list[dict[str, Any]]) -> None:
    moved = [each for each in slices if each["won"] != each["lost"]]
    moved.sort(key=lambda each: each["won"] - each["lost"])
    # The greatest losses first, then the greatest gains.
    half = _SHOWN_SLICES // 2
    shown = moved if len(moved) <= _SHOWN_SLICES else moved[:half] + moved[-half:]
    if not shown:
        return
    table = Table("where", "rows", "present", "new", "won", "lost", "", box=None)
    for each in shown:
        worse = Text("worse beyond doubt", style="red") if each["p_worse"] <= 0.05 else Text("")
        right = [f"{each[key] / each['rows']:.1%}" for key in ("present", "new")]
        table.add_row(
            Text(f"{each['by']} {each['value']}"), str(each["rows"]), *right, str(each["won"]), str(each["lost"]), worse
        )
    console().print(table)
