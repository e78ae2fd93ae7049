"""`reviewmill improve`: search a better prompt, and let held-out rows decide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def improve(
    labelled: Annotated[Path, typer.Argument(metavar="LABELLED", help="A file of comments with their right labels.")],
    label: Annotated[str, typer.Option(help="The column that holds the labels.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The task file to write, if a better one is found.")],
    task: Annotated[str | None, typer.Option(help="The task to improve: built-in or a file.")] = None,
    text: Annotated[str | None, typer.Option(help="The column that holds the comments.")] = None,
    mapping: Annotated[
        list[str] | None, typer.Option("--map", help="Labels of the file to the task's: 好评=positive,差评=negative.")
    ] = None,
    budget: Annotated[int, typer.Option(min=1, help="The most questions to the model.")] = 4000,
    seed: Annotated[int, typer.Option(min=0, help="Of the parts and all chance.")] = 0,
    pool: Annotated[
        Path | None, typer.Option(help="Guideline sentences to try; by default those that ship for these labels.")
    ] = None,
    weights: Annotated[bool, typer.Option(help="Try other weights of the labels too; they cost no question.")] = True,
    proposer: Annotated[
        str | None,
        typer.Option(help="URL of a server whose model writes guidelines; its key: REVIEWMILL_PROPOSER_API_KEY."),
    ] = None,
    proposer_model: Annotated[str | None, typer.Option(help="That model's name.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible server.")] = None,
    model: Annotated[str | None, typer.Option(help="Catalog name, .gguf file, or the server's model name.")] = None,
    cache: Annotated[str | None, typer.Option(help="sqlite, sqlite:PATH, or redis://…")] = None,
    keywords: Annotated[
        bool, typer.Option(help="Compare prompts that ask for keywords; without, one token a comment.")
    ] = False,
    calibration: Annotated[
        str | None, typer.Option(help="Of the present prompt: auto, none, or one by file, name or id.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests in flight.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show what it would cost, and stop.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a task file that is there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the result.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Search a better prompt for a task: other examples, guidelines and weights.

    The labelled rows are divided into three parts. Prompts are proposed from the first, the best is chosen on the
    second, and the third, which nothing has looked at, judges that one once. The task file is written only if it is
    better there by an exact test. The search can be stopped at any moment and continues with the same command.
    """
    from reviewmill.cli.improve_work import Wanted, run
    from reviewmill.settings import load_settings

    settings = load_settings(
        endpoint=endpoint,
        model=model,
        cache=cache,
        task=task,
        keywords=keywords,
        calibration=calibration,
        concurrency=concurrency,
    )
    wanted = Wanted(
        labelled=labelled,
        label=label,
        output=output,
        text=text,
        mapping=mapping or [],
        budget=budget,
        seed=seed,
        pool=pool,
        weights=weights,
        proposer=proposer,
        proposer_model=proposer_model,
        plan_only=plan,
        force=force,
    )
    report = run(wanted, settings, quiet=quiet or as_json)
    if as_json and report is not None:
        typer.echo(json.dumps(report, ensure_ascii=False, indent=2))
