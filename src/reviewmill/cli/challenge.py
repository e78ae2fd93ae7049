"""`reviewmill challenge`: the suite of hard comments, by phenomenon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from reviewmill.evaluate.challenge import Phenomenon
    from reviewmill.evaluate.challenge.score import Result
    from reviewmill.settings import Settings

EXIT_ROWS_FAILED = 3


def challenge(
    task: Annotated[str | None, typer.Option(help="Built-in task or task file, with sentiment labels.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible server.")] = None,
    model: Annotated[str | None, typer.Option(help="Catalog name, .gguf file, or the server's model name.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the report as JSON to this file.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Ask this phenomenon only; may be given more than once.")
    ] = None,
    mapping: Annotated[
        list[str] | None, typer.Option("--map", help="What the task's labels mean: 好评=positive,差评=negative.")
    ] = None,
    missed: Annotated[bool, typer.Option(help="Show the cases that were missed.")] = True,
    cache: Annotated[str | None, typer.Option(help="sqlite, sqlite:PATH, redis://…, or none.")] = None,
    keywords: Annotated[bool, typer.Option(help="Ask for keywords too; without, one token a comment.")] = False,
    wire: Annotated[str | None, typer.Option(help="Answer format: auto, compact, json or free.")] = None,
    calibration: Annotated[str | None, typer.Option(help="auto, none, or one by file, name or id.")] = None,
    baseline: Annotated[
        Literal["plain"] | None,
        typer.Option(help="plain: ask in the usual way instead, one message that wants JSON with a stated confidence."),
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests in flight.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON instead of tables.")] = False,
) -> None:
    """Ask the challenge suite: hard comments of our own, mostly Chinese, by phenomenon.

    Irony, double negation, dialect, plain facts, orders to the machine, pairs that differ by one word, and more. Every
    case carries the reason for its label.
    """
    from reviewmill.settings import load_settings

    settings = load_settings(
        task=task,
        endpoint=endpoint,
        model=model,
        cache=cache,
        keywords=keywords,
        wire=wire,
        calibration=calibration,
        concurrency=concurrency,
    )
    phenomena = _chosen(only or [])
    result = _ask(settings, phenomena, mapping or [], plain=baseline == "plain", quiet=quiet)
    if output is not None:
        from reviewmill.batch.manifest import write_json

        write_json(output, result.as_json())
    if as_json:
        typer.echo(json.dumps(result.as_json(), ensure_ascii=False, indent=2))
    else:
        from reviewmill.cli.show_challenge import show_result

        show_result(result, missed=missed)
    failed = [outcome for outcome in result.outcomes if outcome.analysis["status"] == "error"]
    if failed:
        error = failed[0].analysis["error"] or {"message": ""}
        typer.secho(f"{len(failed)} cases failed. The first: {error['message']}", fg=typer.colors.YELLOW, err=True)
        raise typer.Exit(EXIT_ROWS_FAILED)


def _chosen(names: list[str]) -> list[Phenomenon]:
    from reviewmill.errors import InputError
    from reviewmill.evaluate.challenge import load_suite

    suite = {phenomenon.name: phenomenon for phenomenon in load_suite()}
    unknown = [name for name in names if name not in suite]
    if unknown:
        raise InputError(f"--only {unknown[0]}: the suite has no such phenomenon.", hint=f"It has: {', '.join(suite)}.")
    return [suite[name] for name in names or suite]


def _ask(settings: Settings, phenomena: list[Phenomenon], mapping: list[str], *, plain: bool, quiet: bool) -> Result:
    import asyncio

    from reviewmill.analyzer import AsyncSentimentAnalyzer
    from reviewmill.cli.show import RunDisplay
    from reviewmill.evaluate.challenge.score import ask_suite, translation
    from reviewmill.evaluate.labelled import parse_mapping
    from reviewmill.evaluate.plain import plain_pipeline

    words = parse_mapping(mapping)

    async def ask() -> Result:
        async with AsyncSentimentAnalyzer(settings=settings) as analyzer:
            translation(analyzer.task, words)  # before anything is started
            pipeline = await analyzer.pipeline()
            if plain:
                connection = pipeline.labeller.connection
                pipeline = plain_pipeline(settings, connection, analyzer.task, pipeline.cache)
            with RunDisplay("challenge", quiet=quiet) as display:
                return await ask_suite(pipeline, phenomena, mapping=words, on_progress=display.update)

    return asyncio.run(ask())
