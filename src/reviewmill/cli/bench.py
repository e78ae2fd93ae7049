"""`reviewmill bench`: how fast an endpoint is, and how much of that comes through."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reviewmill.cli.endpoints import endpoint_arguments
from reviewmill.errors import InputError, OutputError, SettingsError

if TYPE_CHECKING:
    from reviewmill.bench import Report

_MOST_ROWS = 20_000


def bench(
    file: Annotated[Path | None, typer.Argument(help="A file of comments; without one, made-up ones are used.")] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(help="URL of an OpenAI-compatible server, or embedded; repeat for a pool.")
    ] = None,
    mixed: Annotated[bool, typer.Option("--mixed", help="Let endpoints with different models share the work.")] = False,
    engine: Annotated[str | None, typer.Option(help="Without an endpoint: auto, embedded or vllm.")] = None,
    model: Annotated[str | None, typer.Option(help="Catalog name, .gguf file, or the server's model name.")] = None,
    concurrency: Annotated[
        str, typer.Option(help="Requests in flight at each endpoint, by commas; auto finds out.")
    ] = "1,4,16",
    task: Annotated[str | None, typer.Option(help="Built-in task or task file.")] = None,
    text: Annotated[str | None, typer.Option(help="The column that holds the comments.")] = None,
    keywords: Annotated[bool | None, typer.Option(help="Extract keywords; without, one token a comment.")] = None,
    wire: Annotated[str | None, typer.Option(help="Answer format: auto, compact, json or free.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the result into this file (.svg or .png).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not say what is measured now.")] = False,
) -> None:
    """Measure comments and tokens a second, time to the first result, and the ratio to the engine's own rate."""
    from reviewmill.bench import measure
    from reviewmill.bench.comments import sample
    from reviewmill.settings import load_settings

    levels = _levels(concurrency)
    if plot is not None and plot.suffix not in {".svg", ".png"}:
        raise OutputError(f"{plot}: a plot is .svg or .png.", hint="Name the file so.")
    settings = load_settings(
        **endpoint_arguments(endpoint),
        mixed=mixed or None,
        engine=engine,
        model=model,
        task=task,
        keywords=keywords,
        wire=wire,
    )
    texts = _texts(file, text) if file is not None else sample(max(64, 8 * max(level or 64 for level in levels) + 8))

    def step(what: str) -> None:
        if not quiet:
            typer.echo(f"… {what}", err=True)

    report = asyncio.run(measure(settings, texts, levels, step))
    if as_json:
        typer.echo(json.dumps(report.as_json(), ensure_ascii=False, indent=2))
    else:
        _show(report)
    if plot is not None:
        _plot(report, plot)


def _levels(said: str) -> list[int | None]:
    try:
        levels = [None if level.strip() == "auto" else int(level) for level in said.split(",")]
    except ValueError:
        levels = [0]
    if not all(level is None or 1 <= level <= 4096 for level in levels):
        raise SettingsError(f"{said!r} is no list of concurrencies.", hint="Write it like 1,4,16 or 4,auto.")
    return levels


def _texts(file: Path, column: str | None) -> list[str]:
    from itertools import islice

    from reviewmill.batch.read import open_source

    rows = islice(open_source(file, text=column, id=None, format=None).rows(), _MOST_ROWS)
    texts = [row.text for row in rows if row.text]
    if not texts:
        raise InputError(f"{file} holds no comments.", hint="Give a file of comments.")
    return texts


def _show(report: Report) -> None:
    from rich.table import Table

    from reviewmill.bench.draw import bars, name_of
    from reviewmill.cli.show import console

    screen = console()
    kind = "with keywords" if report.keywords else "label only"
    screen.print(f"{report.model} on {report.endpoint}: {report.task}, {kind}, format {report.wire}", markup=False)
    table = Table()
    names = ("in flight", "comments/s", "engine alone", "ratio", "first result", "tokens in/s", "tokens out/s")
    for name in names:
        table.add_column(name, justify="right")
    for level in report.levels:
        table.add_row(
            name_of(level),
            f"{level.comments_per_second:.2f}",
            f"{level.raw_per_second:.2f}",
            f"{level.ratio:.1%}",
            f"{level.first_result_s:.2f} s",
            f"{level.tokens_in_per_second:.0f}",
            f"{level.tokens_out_per_second:.0f}",
        )
    screen.print(table)
    for line in bars(report):
        screen.print(line, markup=False)


def _plot(report: Report, path: Path) -> None:
    from reviewmill.bench.draw import name_of, svg

    try:
        if path.suffix == ".svg":
            path.write_text(svg(report), encoding="utf-8")
            return
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise OutputError(
                "A .png needs matplotlib, which is not installed.", hint="pip install matplotlib, or take .svg."
            ) from error
        figure = Figure(figsize=(7, 0.6 * len(report.levels) + 1.6), layout="constrained")
        axes = figure.subplots()
        names = [name_of(level) for level in report.levels]
        axes.barh(names, [level.comments_per_second for level in report.levels], color="#2b6cb0", label="a run")
        raw = [level.raw_per_second for level in report.levels]
        axes.barh(names, raw, fill=False, edgecolor="#1a202c", label="the engine alone")
        axes.invert_yaxis()
        axes.set(xlabel="comments a second", ylabel="requests in flight", title=f"{report.model}, {report.task}")
        axes.legend()
        figure.savefig(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.", hint="Name another file.") from error
