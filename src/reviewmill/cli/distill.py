"""`reviewmill distill`: the student of a finished run, to begin the next run with, or to answer without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def distill(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The output (or manifest) of `analyze` with a cascade.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the student goes, e.g. student.rm.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is no student.")] = False,
) -> None:
    """Save the student of a finished run, with its certificate.

    `reviewmill analyze FILE --agreement 0.95 --student STUDENT` begins with it, and certifies it anew; with
    `--student-only` it answers texts without any model and without a certificate.
    """
    from reviewmill.batch.finished import distil

    about = distil(run, output, force=force)
    task, model = about["task"]["name"], about["model"]["name"]
    typer.echo(f"{output}: a student of {model} for the task {task}.")
    typer.echo(f"Of the run it comes from: {about['certificate']['sentence']}")
    typer.echo("Elsewhere that is not promised: on another file it is certified anew.")
