"""What `evaluate`, `compare` and `errors` do with their arguments: read, ask, show, write."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reviewmill.analyzer import AsyncSentimentAnalyzer
from reviewmill.cli.show import RunDisplay, console
from reviewmill.evaluate.gate import check_against
from reviewmill.evaluate.labelled import Labelled, parse_mapping, read_labelled
from reviewmill.evaluate.run import check_files, evaluate, read_baseline, report_files, write_report
from reviewmill.tasks import load_task

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from reviewmill.evaluate.measures import Estimate, Measures
    from reviewmill.evaluate.report import Report
    from reviewmill.settings import Settings
    from reviewmill.tasks import Task

_SHOWN_SLICES = 5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """A labelled file as it was named on the command line."""

    path: Path
    label: str
    text: str | None = None
    id: str | None = None
    mapping: Sequence[str] = field(default=())
    format: str | None = None

    @property
    def translation(self) -> dict[str, str]:
        """What `--map` says."""
        return parse_mapping(self.mapping)

    def read(self, task: Task) -> Labelled:
        """The usable rows."""
        return read_labelled(
            self.path,
            task,
            label=self.label,
            text=self.text,
            mapping=self.translation,
            id=self.id,
            format=self.format,
        )


def evaluate_file(
    asked: Asked,
    settings: Settings,
    output: Path | None,
    *,
    against: Path | None,
    max_drop: float,
    seed: int,
    force: bool,
    quiet: bool,
) -> tuple[int, str | None]:
    """Evaluate, write the report, show it; return how many comments failed, and the gate's verdict."""
    json, html = report_files(asked.path, output)
    check_files(json, html, force=force, read=against)
    before = read_baseline(against) if against is not None else None
    labelled = asked.read(load_task(settings.task))
    if not quiet:
        warn(labelled.warnings)
    report = run_kept(_evaluated(asked, labelled, settings, seed, quiet=quiet))
    gate = check_against(report, before, max_drop=max_drop) if before is not None else None
    write_report(report.model_copy(update={"gate": gate}), json, html)
    if not quiet:
        show_report(report)
        console(stderr=True).print(f"Report: [bold]{escape(str(html))}[/bold]   JSON: {escape(str(json))}")
    if gate is not None:
        typer.secho(gate.in_words(), fg=_GATE_COLOURS[gate.verdict], err=True)
    return report.unanswered.get("error", 0), gate.verdict if gate is not None else None


_GATE_COLOURS = {"passed": typer.colors.GREEN, "unclear": typer.colors.YELLOW, "worse": typer.colors.RED}


async def _evaluated(asked: Asked, labelled: Labelled, settings: Settings, seed: int, *, quiet: bool) -> Report:
    with RunDisplay(asked.path.name, quiet=quiet) as display:
        async with AsyncSentimentAnalyzer(settings=settings) as analyzer:
            report = await evaluate(
                labelled,
                await analyzer.pipeline(),
                label_column=asked.label,
                mapping=asked.translation,
                on_progress=display.update,
                seed=seed,
            )
    if not quiet:
        warn(analyzer.warnings)
    return report


def run_kept(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; who interrupts is told that nothing is lost."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        typer.echo("\nStopped. What was answered is kept; run the same command again and it continues.", err=True)
        raise


def warn(warnings: Sequence[str]) -> None:
    """Print warnings on stderr."""
    for warning in warnings:
        typer.secho(f"warning: {warning}", fg=typer.colors.YELLOW, err=True)


def show_report(report: Report) -> None:
    """Print what an evaluation found, in a few lines."""
    screen = console(stderr=True)
    measured = [("all labels", report.measures)]
    if report.restricted is not None:
        measured.append(("only labels that occur", report.restricted))
    table = Table("", *(name for name, _ in measured), box=None)
    for name, cells in _score_rows([one for _, one in measured]):
        table.add_row(name, *cells)
    screen.print(table)
    screen.print(*(Text(line) for line in _sentences(report)), sep="\n")
    standing = [one for one in report.slices if one.stands_out == "worse"]
    for one in sorted(standing, key=lambda part: part.accuracy.value)[:_SHOWN_SLICES]:
        screen.print(Text(f"worse than the rest: {one.by} {one.value}: {share(one.accuracy)} of {one.rows:,}"))


def _score_rows(measured: Sequence[Measures]) -> list[tuple[str, list[str]]]:
    rows = [
        ("accuracy", [share(one.scores.accuracy) for one in measured]),
        ("macro-F1", [number(one.scores.macro_f1) for one in measured]),
        ("Cohen's kappa", [number(one.scores.kappa) for one in measured]),
    ]
    found = [one.reliability for one in measured]
    if any(found):
        rows += [
            ("ECE", [number(one.ece) if one else "" for one in found]),
            ("Brier", [number(one.brier) if one else "" for one in found]),
            ("NLL", [number(one.nll) if one else "" for one in found]),
        ]
    return rows


def _sentences(report: Report) -> list[str]:
    said = []
    outside = [f"{name} {count:,}" for name, count in report.outside.items() if count]
    if outside and report.decided is not None:
        said.append(
            f"answers with labels that the file has not (counted as wrong above): {', '.join(outside)}; "
            f"of the others {share(report.decided)} are right"
        )
    said += [
        f"accept everything at or above {one.confidence:.2f}: {one.coverage:.1%} of comments, "
        f"{one.accuracy.value:.1%} right"
        for one in (report.best.selection.thresholds if report.best.selection else [])
        if one.accuracy is not None and one.confidence in {0.8, 0.9, 0.95}
    ]
    promised = [one for one in (report.best.selection.promises if report.best.selection else []) if one.rows]
    said += [
        f"at least {one.target:.0%} right (with 95% confidence): accept from {one.confidence:.4f}, "
        f"{one.coverage:.1%} of comments"
        for one in promised[:1] + promised[-1:] * (len(promised) > 1)
    ]
    effort = report.effort
    if effort.per_second is not None:
        said.append(f"{effort.asked:,} comments asked in {effort.seconds:.1f} s: {effort.per_second:.1f} a second")
    if effort.tokens_out is not None:
        said.append(f"tokens a comment: {effort.tokens_in:.0f} in, {effort.tokens_out:.1f} out")
    return said


def share(estimate: Estimate | None) -> str:
    """A share with its interval, in percent."""
    if estimate is None:
        return "-"
    return f"{estimate.value:.1%} [{estimate.low:.1%}, {estimate.high:.1%}]"


def number(estimate: Estimate | None) -> str:
    """A number with its interval."""
    return "-" if estimate is None else f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
