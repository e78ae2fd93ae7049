"""`reviewmill audit`: how often the labels of a finished run are those of its model, or of a person."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reviewmill.cli.endpoints import endpoint_arguments


def audit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The output of `analyze` (its manifest lies beside it).")],
    n: Annotated[int, typer.Option("--n", "-n", help="Texts to draw.")] = 200,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Let a person judge: write this sheet (.csv, .xlsx), or read it back once it is filled in."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the draw; by chance if not given, and recorded.")] = None,
    task: Annotated[str | None, typer.Option(help="The run's task, where it is not the usual one.")] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(help="URL of an OpenAI-compatible server, or embedded; as in the run.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The run's model: catalog name, .gguf file, server's name.")] = None,
    cache: Annotated[str | None, typer.Option(help="sqlite, sqlite:PATH, redis://…, or none.")] = None,
    wire: Annotated[str | None, typer.Option(help="Answer format, as in the run: auto, compact, json or free.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors and --json.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Draw a fresh sample from a finished run, and see how often a judge gives the same label.

    Without --sheet the run's own model is asked about texts that the *student* answered; all other labels are its own
    already. With --sheet a person judges a sample of all texts: reviewmill's label is not shown. The interval is exact.
    The same command continues an audit that was stopped.
    """
    from reviewmill.cli import auditing

    asked = {**endpoint_arguments(endpoint), "task": task, "model": model, "cache": cache, "wire": wire}
    if sheet is not None:
        auditing.by_person(run, sheet, n, asked, seed=seed, quiet=quiet, as_json=as_json)
    else:
        auditing.by_model(run, n, asked, seed=seed, quiet=quiet, as_json=as_json)
