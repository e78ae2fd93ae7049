"""`reviewmill evaluate`: how good the labels are on comments whose labels are known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXIT_ROWS_FAILED = 3
EXIT_WORSE = 4


def evaluate(
    labelled: Annotated[Path, typer.Argument(metavar="LABELLED", help="A file of comments with their right labels.")],
    label: Annotated[str, typer.Option(help="The column that holds the right labels.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Report: .html or .json; the other is written beside it."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="The column that holds the comments.")] = None,
    id: Annotated[str | None, typer.Option(help="The column that holds the ids.")] = None,  # noqa: A002
    map: Annotated[  # noqa: A002
        list[str] | None,
        typer.Option("--map", help="好评=positive,差评=negative,其他= ; nothing after = leaves such rows out."),
    ] = None,
    format: Annotated[str | None, typer.Option(help="Input format where the extension does not tell.")] = None,  # noqa: A002
    task: Annotated[str | None, typer.Option(help="Built-in task or task file.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible server.")] = None,
    model: Annotated[str | None, typer.Option(help="Catalog name, .gguf file, or the server's model name.")] = None,
    cache: Annotated[str | None, typer.Option(help="sqlite, sqlite:PATH, redis://…, or none.")] = None,
    keywords: Annotated[bool | None, typer.Option(help="Extract keywords; without, one token a comment.")] = None,
    wire: Annotated[str | None, typer.Option(help="Answer format: auto, compact, json or free.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests in flight.")] = None,
    calibration: Annotated[str | None, typer.Option(help="auto, none, or one by file, name or id.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="An earlier report (.json): exit 4 if the accuracy is significantly worse.")
    ] = None,
    max_drop: Annotated[
        float, typer.Option(min=0, max=1, help="With --against: the drop in accuracy that is accepted.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are no reports of ours.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors, and the gate's verdict.")] = False,
) -> None:
    """Measure accuracy, calibration and what can be accepted without a look, on comments whose labels are known.

    Writes one JSON report and one HTML page that needs no network. What was answered is cached: a stopped evaluation
    continues with the same command. Exit codes: 0 all is well; 3 some comments failed; 4 significantly worse than the
    report of --against.
    """
    from reviewmill.cli import measuring
    from reviewmill.settings import load_settings

    settings = load_settings(
        endpoint=endpoint,
        model=model,
        cache=cache,
        keywords=keywords,
        wire=wire,
        concurrency=concurrency,
        task=task,
        calibration=calibration,
    )
    asked = measuring.Asked(labelled, label, text=text, id=id, mapping=map or (), format=format)
    failed, verdict = measuring.evaluate_file(
        asked, settings, output, against=against, max_drop=max_drop, seed=seed, force=force, quiet=quiet
    )
    if verdict == "worse":
        raise typer.Exit(EXIT_WORSE)
    if failed:
        raise typer.Exit(EXIT_ROWS_FAILED)
