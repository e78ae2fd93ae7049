"""`reviewmill errors`: what was judged wrongly, why perhaps, and which right labels look wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def errors(
    report: Annotated[
        Path | None, typer.Argument(metavar="[REPORT]", help="A report of `reviewmill evaluate` (.json or .html).")
    ] = None,
    corrections: Annotated[
        str | None,
        typer.Option(
            metavar="URL|FILE",
            help="Corrections instead: a service's address (key in REVIEWMILL_SERVICE_KEY), or a JSONL export.",
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where the errors go (.jsonl).")] = None,
    task: Annotated[str | None, typer.Option(help="With --corrections: those of one task.")] = None,
    suspects: Annotated[
        Literal["confident", "cleanlab"],
        typer.Option(help="What puts a right label under suspicion: a confident model, or confident learning."),
    ] = "confident",
    suspicious: Annotated[
        float, typer.Option(min=0.5, max=1, help="With --suspects confident: from this confidence on.")
    ] = 0.95,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
) -> None:
    """Collect the comments that got a wrong label, grouped by what they have in common.

    Each line of the output holds one comment: the model's label, the right one, probabilities, keywords, signs of
    difficulty, and whether rather the right label may be wrong (`suspect`).
    """
    from reviewmill.cli import erring

    found = erring.collect(report, corrections, task=task, how=suspects, suspicious=suspicious)
    if output is not None:
        erring.write(found, output, force=force)
    erring.show(found, output)
