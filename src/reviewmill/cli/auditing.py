"""What `audit` does with its arguments: draw, ask or hand out a sheet, show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from reviewmill.analyzer import SentimentAnalyzer
from reviewmill.batch import audit, sheet
from reviewmill.batch.audited import Audited, settings_of
from reviewmill.batch.finished import FinishedRun, find_run
from reviewmill.batch.manifest import write_json
from reviewmill.cli.show import RunDisplay
from reviewmill.settings import Settings, load_settings
from reviewmill.tasks import load_task

if TYPE_CHECKING:
    from reviewmill.cascade.agreement import AuditReport


def by_model(path: Path, size: int, asked: Mapping[str, Any], *, seed: int | None, quiet: bool, as_json: bool) -> None:
    """Ask the run's model about what its student answered, and show what was found.

    Raises:
        ReviewmillError: see `reviewmill.batch.audit.audit`.
    """
    run = find_run(path)
    settings = _settings(run, asked)
    with (
        SentimentAnalyzer(settings=settings) as analyzer,
        RunDisplay(f"audit of {run.output.name}", quiet=quiet) as bar,
    ):
        found = analyzer.with_pipeline(
            lambda pipeline: audit.audit(pipeline, run, size, seed=seed, on_progress=bar.update)
        )
    _show(found, run, quiet=quiet, as_json=as_json)


def by_person(
    path: Path, place: Path, size: int, asked: Mapping[str, Any], *, seed: int | None, quiet: bool, as_json: bool
) -> None:
    """Hand out a sheet, or read it back.

    Raises:
        ReviewmillError: see `reviewmill.batch.sheet`.
    """
    run = find_run(path)
    settings = _settings(run, asked)
    audited = Audited(run, load_task(settings.task), settings)
    if place.exists():
        found = sheet.read_sheet(place, audited)
        write_json(audit.report_path(run.output), found.as_json())
        _show(found, run, quiet=quiet, as_json=as_json)
        return
    audit.check_size(size)
    count = sheet.write_sheet(place, audited, size, seed=seed)
    if not quiet:
        typer.echo(f"{place}: {count:,} texts to label. Run the same command again when they are.", err=True)


def _settings(run: FinishedRun, asked: Mapping[str, Any]) -> Settings:
    return settings_of(run, load_settings(**asked))


def _show(found: AuditReport, run: FinishedRun, *, quiet: bool, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(found.as_json(), ensure_ascii=False, indent=2))
    elif not quiet:
        typer.echo(found.sentence())
        unknown = found.whole.seen.unknown
        if unknown:
            typer.echo(f"{unknown} could not be judged; the interval allows for whatever they are.", err=True)
        typer.echo(f"Kept as {audit.report_path(run.output)} (seed {found.seed}).", err=True)
