"""`reviewmill analyze`: a file, standard input, or texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from reviewmill.cli.endpoints import endpoint_arguments
from reviewmill.counted import counted

EXIT_ROWS_FAILED = 3


def analyze(
    inputs: Annotated[
        list[str], typer.Argument(metavar="FILE|-|TEXT...", help="A file of comments, - for standard input, or texts.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Result file (.csv .tsv .xlsx .jsonl .json .parquet); - for stdout."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Built-in task or task file.")] = None,
    text: Annotated[str | None, typer.Option(help="The column that holds the comments.")] = None,
    id: Annotated[str | None, typer.Option(help="The column that holds the ids.")] = None,  # noqa: A002
    format: Annotated[  # noqa: A002
        str | None, typer.Option(help="Input format where the extension does not tell; stdin is text lines.")
    ] = None,
    endpoint: Annotated[
        list[str] | None, typer.Option(help="URL of an OpenAI-compatible server, or embedded; repeat for a pool.")
    ] = None,
    mixed: Annotated[bool, typer.Option("--mixed", help="Let endpoints with different models share the work.")] = False,
    engine: Annotated[str | None, typer.Option(help="Without an endpoint: auto, embedded or vllm.")] = None,
    model: Annotated[str | None, typer.Option(help="Catalog name, .gguf file, or the server's model name.")] = None,
    gpu_layers: Annotated[int | None, typer.Option(min=0, help="Layers of the embedded model on a GPU.")] = None,
    cache: Annotated[str | None, typer.Option(help="sqlite, sqlite:PATH, redis://…, or none.")] = None,
    keywords: Annotated[bool | None, typer.Option(help="Extract keywords; without, one token a comment.")] = None,
    wire: Annotated[str | None, typer.Option(help="Answer format: auto, compact, json or free.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests in flight.")] = None,
    long: Annotated[
        str | None, typer.Option(help="Long comments: split (part by part) or whole; without, they are shortened.")
    ] = None,
    redact: Annotated[bool | None, typer.Option(help="Mask personal data before anything else sees a comment.")] = None,
    calibration: Annotated[str | None, typer.Option(help="auto, none, or one by file, name or id.")] = None,
    agreement: Annotated[
        str | None,
        typer.Option(help="Let a student answer, while at least this share of labels is surely the model's: 0.95."),
    ] = None,
    delta: Annotated[float, typer.Option(help="Probability with which that may be wrong.")] = 0.05,
    budget: Annotated[
        int | None, typer.Option(help="Instead of --agreement: at most so many questions to the model.")
    ] = None,
    deadline: Annotated[
        str | None, typer.Option(help="Instead of --agreement: what fits into so much time, like 30m.")
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="The agreement holds for each label by itself.")
    ] = False,
    student: Annotated[
        Path | None, typer.Option(help="A saved student (`distill`): a file's cascade begins with it.")
    ] = None,
    student_only: Annotated[
        bool, typer.Option("--student-only", help="Texts are answered by --student: no model, no certificate.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an output that is not ours.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result (texts) or the manifest as JSON.")] = False,
) -> None:
    """Analyse comments.

    A file comes back with the result's columns beside its own, by default as `NAME.analyzed.EXT`. The run can be
    killed at any moment and continues with the same command.
    """
    from reviewmill.settings import load_settings

    settings = load_settings(
        **endpoint_arguments(endpoint),
        mixed=mixed or None,
        engine=engine,
        gpu_layers=gpu_layers,
        model=model,
        cache=cache,
        keywords=keywords,
        wire=wire,
        concurrency=concurrency,
        task=task,
        long=long,
        redact=redact,
        calibration=calibration,
    )
    from reviewmill.cli import work

    source = work.one_source(inputs)
    cascade = work.cascade_options(agreement, delta, budget, deadline, per_class=per_class, student=student)
    if alone := work.alone(student, student_only=student_only, texts=source is None):
        work.answer_by_student(inputs, alone, settings, as_json=as_json, quiet=quiet)
        return
    if source is None:
        if work.analyze_texts(inputs, settings, as_json=as_json, quiet=quiet):
            raise typer.Exit(EXIT_ROWS_FAILED)
        return
    job = work.plan_file(source, output, settings, format=format)
    job.cascade = work.needed(cascade, student)
    job.check(force=force)
    manifest = job.execute(text=text, id=id, quiet=quiet)
    if as_json and not job.to_stdout:
        typer.echo(json.dumps(manifest.as_json(), ensure_ascii=False, indent=2))
    if errors := manifest.tally.errors:
        told = f"{counted(errors, 'row carries', 'rows carry')} an error. The first: {manifest.tally.first_error}"
        typer.secho(told, fg=typer.colors.YELLOW, err=True)
        typer.echo("The same command tries them again.", err=True)
        raise typer.Exit(EXIT_ROWS_FAILED)
