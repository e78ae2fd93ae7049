"""`reviewmill models`: the catalog, and the models on this machine."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from reviewmill import models
from reviewmill.models.catalog import SourceKind
from reviewmill.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from reviewmill.models import CatalogModel, LocalModel

app = typer.Typer(help="The models: list, download, verify, remove.", no_args_is_help=True)


Name = Annotated[str, typer.Argument(help="A name of `reviewmill models list`.", show_default=False)]
Folder = Annotated[
    Path | None, typer.Option("--models-dir", help="Where models are kept; by default from the settings.")
]


def _models_dir(given: Path | None) -> Path:
    return load_settings(models_dir=given).models_dir


@app.command("list")
def list_(models_dir: Folder = None) -> None:
    """Show the models of the catalog, and which of them are here."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for header in ("name", "here", "GB", "context", "runs on"):
        table.add_column(header, no_wrap=True, justify="right" if header in {"GB", "context"} else "left")
    table.add_column("licence", overflow="fold")
    for listed in models.list_models(_models_dir(models_dir)):
        model = listed.model
        table.add_row(
            model.name,
            {"here": "yes", "partial": "in part", "absent": ""}[listed.state],
            _size(model),
            f"{model.context.native:,}",
            model.engine,
            model.licence.name + (" (gated)" if model.licence.gated is True else ""),
        )
    # A pipe has no width; a row must stay one line there.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@app.command()
def pull(
    name: Name,
    source: Annotated[SourceKind | None, typer.Option(help="Use this kind of source only.")] = None,
    models_dir: Folder = None,
) -> None:
    """Download a model; one that broke off is continued."""
    console = Console(stderr=True)
    folder = _models_dir(models_dir)
    if not console.is_terminal:
        _report(models.pull(name, models_dir=folder, source=source, progress=_plain(console, name)))
        return
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=None)
        model = models.pull(
            name,
            models_dir=folder,
            source=source,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    _report(model)


@app.command()
def path(name: Name, models_dir: Folder = None) -> None:
    """Print where a model is."""
    typer.echo(models.model_path(name, models_dir=_models_dir(models_dir)))


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="A model; without, all that are here.")] = None,
    models_dir: Folder = None,
) -> None:
    """Hash a model's files afresh and compare; a file that differs is deleted."""
    folder = _models_dir(models_dir)
    here = [listed.model.name for listed in models.list_models(folder) if listed.state == "here"]
    for each in [name] if name else here:
        _report(models.verify(each, models_dir=folder))
    if not name and not here:
        typer.echo(f"No model is in {folder}.")


@app.command()
def remove(
    name: Name,
    forget: Annotated[bool, typer.Option("--forget", help="Trust the next download of unverified files anew.")] = False,
    models_dir: Folder = None,
) -> None:
    """Delete a model from this machine."""
    freed = models.remove(name, models_dir=_models_dir(models_dir), forget=forget)
    typer.echo(f"{name} is removed; {freed / 1e9:.2f} GB are free again.")


def _report(model: LocalModel) -> None:
    typer.echo(f"{model.name}\n  {model.path}\n  SHA-256 {model.sha256}")


def _size(model: CatalogModel) -> str:
    if model.bytes is None:
        return "?"
    return ("" if model.exact else "~") + f"{model.bytes / 1e9:.2f}"


def _plain(console: Console, name: str) -> Callable[[int, int | None], None]:
    """Progress as a line every five seconds, for logs."""
    last = time.monotonic()

    def line(done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last < 5:
            return
        last = time.monotonic()
        share = f" of {total / 1e6:.0f} MB ({done / total:.0%})" if total else " MB"
        console.print(f"{name}: {done / 1e6:.0f}{share}", highlight=False)

    return line
