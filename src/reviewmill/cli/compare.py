"""`reviewmill compare`: models, prompts, wire formats and the plain baseline on the same labelled comments."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

EXIT_ROWS_FAILED = 3


def compare(
    labelled: Annotated[Path, typer.Argument(metavar="LABELLED", help="A file of comments with their right labels.")],
    label: Annotated[str, typer.Option(help="The column that holds the right labels.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Comparison: .html or .json; the other is written beside it."),
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model; give several.")] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(help="One server's URL for all, or one for each --model in order (`embedded` for our own)."),
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="A built-in task or task file; give several.")] = None,
    wire: Annotated[str | None, typer.Option(help="Answer formats, separated by commas: compact,json")] = None,
    baseline: Annotated[
        Literal["plain"] | None,
        typer.Option(help="plain: also the usual way, one message that asks for JSON with a stated confidence."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="The column that holds the comments.")] = None,
    id: Annotated[str | None, typer.Option(help="The column that holds the ids.")] = None,  # noqa: A002
    map: Annotated[list[str] | None, typer.Option("--map", help="好评=positive,差评=negative,其他=")] = None,  # noqa: A002
    format: Annotated[str | None, typer.Option(help="Input format where the extension does not tell.")] = None,  # noqa: A002
    cache: Annotated[
        str | None, typer.Option(help="sqlite, sqlite:PATH, …; none: ask anew, and so measure speed.")
    ] = None,
    keywords: Annotated[bool | None, typer.Option(help="Extract keywords; without, one token a comment.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests in flight.")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Only so many rows, drawn at random.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap and of --rows.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are no reports of ours.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
) -> None:
    """Compare models, prompts or answer formats on the same labelled comments.

    Everything that is given several times is combined with everything else. Shows accuracy with intervals, paired
    differences (McNemar's exact test, bootstrap), calibration, speed, tokens, memory, agreement, and the comments on
    which they differ.
    """
    from reviewmill.cli import comparing
    from reviewmill.cli.measuring import Asked
    from reviewmill.settings import load_settings

    settings = load_settings(cache=cache, keywords=keywords, concurrency=concurrency)
    asked = Asked(labelled, label, text=text, id=id, mapping=map or (), format=format)
    wires = [word.strip() for word in (wire or "").split(",") if word.strip()]
    contenders = comparing.contenders(
        settings, model or [], endpoint or [], task or [], wires, plain=baseline == "plain"
    )
    failed = comparing.compare_file(asked, contenders, output, rows=rows, seed=seed, force=force, quiet=quiet)
    if failed:
        raise typer.Exit(EXIT_ROWS_FAILED)
