"""What the command line shows: progress, the summary of a run, one analysis. All of it on stderr but the analysis."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from reviewmill.batch.manifest import Manifest
from reviewmill.batch.run import Progress as RunProgress
from reviewmill.counted import counted
from reviewmill.schema import Analysis

_PLAIN_EVERY: Final = 10.0
_PLAIN_WIDTH: Final = 140
_BAR: Final = 20
_COLOURS: Final = {"positive": "green", "neutral": "yellow", "negative": "red"}
_PHASES: Final = {"plan": "reading", "answer": "answering", "write": "writing"}
_SHOWN_KEYWORDS: Final = 6


def console(*, stderr: bool = False) -> Console:
    """Where things are shown; what is no terminal gets wide lines, so that logs are not chopped."""
    screen = Console(stderr=stderr, highlight=False)
    return screen if screen.is_terminal else Console(stderr=stderr, highlight=False, width=_PLAIN_WIDTH)


class RunDisplay:
    """Progress of a run: a bar on a terminal, a plain line now and then elsewhere, nothing when quiet.

    Args:
        name: what the input is called.
        quiet: show nothing.
    """

    def __init__(self, name: str, *, quiet: bool) -> None:
        self.done = 0
        self._quiet = quiet
        self._name = name
        self._console = console(stderr=True)
        self._live = self._console.is_terminal and not quiet
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[about]}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(f"{self._name}: starting", total=None, about="")
        self._next_line = time.monotonic()
        self._phase = ""

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

    def update(self, progress: RunProgress) -> None:
        """Show how far the run is (the run's `on_progress`)."""
        self.done = progress.done
        if self._quiet:
            return
        if self._live:
            total = progress.distinct if progress.phase == "answer" else None
            about = _about(progress)
            title = f"{self._name}: {_PHASES[progress.phase]}"
            self._bar.update(self._task, description=title, completed=progress.done, total=total, about=about)
        elif progress.phase != self._phase or time.monotonic() >= self._next_line:
            self._phase = progress.phase
            self._next_line = time.monotonic() + _PLAIN_EVERY
            print(f"{self._name}: {_PHASES[progress.phase]} {_about(progress)}", file=sys.stderr, flush=True)


def _about(progress: RunProgress) -> str:
    if progress.phase != "answer":
        return counted(progress.rows, "row")
    parts = [f"{progress.done:,}/{progress.distinct:,}"]
    if progress.rate is not None and progress.eta is not None:
        parts += [f"{_rate(progress.rate)}/s", f"{_clock(progress.eta)} left"]
    parts += [f"{route} {count:,}" for route, count in sorted(progress.routes.items()) if count]
    if progress.certified:
        parts.append(f"certified {progress.certified:,}")
    if progress.expected is not None:
        parts.append(f"about {counted(progress.left, 'question')} left")
    if progress.stage:
        parts.append(progress.stage)
    return " · ".join(parts)


def _rate(a_second: float) -> str:
    return f"{a_second:.1f}" if a_second >= 0.1 else f"{a_second:.2f}"  # the start of an engine, and one answer


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def show_summary(manifest: Manifest, output: Path | None) -> None:
    """Print what came of a run."""
    screen = console(stderr=True)
    if manifest.sample and output is not None:
        screen.print(_sample_table(manifest.sample, manifest.description["task"]["name"]))
    screen.print(_label_table(manifest))
    screen.print(*_facts(manifest), sep="\n", highlight=False)
    if manifest.certificate is not None:
        screen.print(Text(manifest.certificate["sentence"], style="bold"))
        screen.print(Text(manifest.certificate["statement"], style="dim"))
    for note in manifest.notes:
        screen.print(f"[dim]note: {escape(note)}[/dim]", highlight=False)
    if output is not None:
        screen.print(f"Result: [bold]{escape(str(output))}[/bold]   Manifest: {escape(str(Manifest.path_for(output)))}")


def _facts(manifest: Manifest) -> list[str]:
    tally = manifest.tally
    confidence = "none" if tally.mean_confidence is None else f"{tally.mean_confidence:.2f}"
    routes = ", ".join(f"{route} {count:,}" for route, count in tally.routes.most_common())
    seconds = manifest.seconds.get("answer", 0.0)
    rate = f" ({_rate(manifest.asked / seconds)}/s)" if manifest.asked and seconds else ""
    return [
        f"{counted(tally.rows, 'comment')}, {counted(sum(manifest.distinct.values()), 'distinct text')} to judge; "
        f"mean confidence {confidence}; {counted(tally.needs_review, 'needs', 'need')} review; "
        f"{counted(tally.errors, 'error')}",
        f"answered by: {routes or 'nobody'}; the model was asked {counted(manifest.asked, 'time')}{rate}; "
        f"{_clock(manifest.finished - manifest.started)} in all",
    ]


def _label_table(manifest: Manifest) -> Table:
    tally = manifest.tally
    table = Table(manifest.description["task"]["name"], "comments", "share", "", "top keywords", box=None)
    top = tally.top_keywords()
    insufficient = tally.statuses["insufficient"]
    rows = [*tally.labels.most_common()]
    rows += [("(nothing to judge)", insufficient)] if insufficient else []
    rows += [("(error)", tally.errors)] if tally.errors else []
    for name, count in rows:
        share = count / tally.rows if tally.rows else 0.0
        words = "、".join(escape(word) for word, _ in top.get(name, [])[:_SHOWN_KEYWORDS])
        bar = Text("█" * round(share * _BAR), style=_COLOURS.get(name, "cyan"))
        table.add_row(Text(name, style=_COLOURS.get(name, "")), f"{count:,}", f"{share:.1%}", bar, words)
    return table


def _sample_table(sample: list[Analysis], task: str) -> Table:
    table = Table("comment", task, "confidence", "keywords", box=None)
    for analysis in sample:
        label = analysis[task] or f"({analysis['status']})"
        confidence = "" if analysis["confidence"] is None else f"{analysis['confidence']:.2f}"
        review = " ?" if analysis["needs_review"] else ""
        table.add_row(
            Text(one_line(analysis["original_text"], 48)),
            Text(label, style=_COLOURS.get(label, "")),
            confidence + review,
            Text("、".join(analysis["keywords"])),
        )
    return table


def one_line(text: str, limit: int) -> str:
    """A comment on one line, cut to a length."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 2 * limit]).split())
    return line if len(line) <= limit and len(text) <= 2 * limit else line[: limit - 1] + "…"


def show_analysis(analysis: Analysis) -> None:
    """Print one analysis on stdout: the comment with its keywords marked, the label, the probabilities."""
    screen = console()
    text = Text("".join(c if c.isprintable() else " " for c in analysis["original_text"]))
    for span in analysis["spans"]:
        text.stylize("bold underline", span["start"], span["end"])
    screen.print(text)
    if analysis["error"]:
        screen.print(Text(f"  error: {analysis['error']['message']}", style="red"))
        return
    if analysis["status"] != "ok":
        screen.print(Text(f"  nothing to judge ({', '.join(analysis['flags'])})", style="yellow"))
        return
    label = analysis.label or ""
    confidence = analysis["confidence"]
    line = Text("  ").append(label, style=f"bold {_COLOURS.get(label, 'cyan')}")
    if confidence is not None:
        line.append(f"  {confidence:.2f} ").append("█" * round(confidence * _BAR), style=_COLOURS.get(label, "cyan"))
    line.append("  " + " · ".join(f"{name} {p:.2f}" for name, p in analysis["probabilities"].items()), style="dim")
    if analysis["route"] == "student":
        line.append(f"  {analysis['provenance']['model']}, not certified", style="yellow")
    screen.print(line)
    if analysis["keywords"]:
        screen.print(Text("  " + "、".join(analysis["keywords"])))
