"""The program `reviewmill`: its commands, and how errors leave it.

Exit codes: 0 all is well; 1 an error, told on stderr; 2 wrong usage; 3 a run finished, but some rows carry errors
(they are tried again by the same command); 4 an evaluation is significantly worse than the one it was compared with;
130 interrupted.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from reviewmill.cli import (
    analyze,
    audit,
    bench,
    calibrate,
    challenge,
    chat,
    compare,
    distill,
    doctor,
    engine,
    errors,
    evaluate,
    improve,
    keys,
    models,
    serve,
    tasks,
)
from reviewmill.errors import ReviewmillError

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="reviewmill",
    help="Turn customer comments into sentiment that people can trust, with a language model on your own hardware.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("analyze")(analyze.analyze)
app.command("audit")(audit.audit)
app.command("distill")(distill.distill)
app.command("evaluate")(evaluate.evaluate)
app.command("errors")(errors.errors)
app.command("compare")(compare.compare)
app.command("challenge")(challenge.challenge)
app.command("improve")(improve.improve)
app.command("calibrate")(calibrate.calibrate)
app.add_typer(calibrate.app, name="calibrations")
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)
app.command("serve")(serve.serve)
app.add_typer(tasks.app, name="tasks")
app.add_typer(models.app, name="models")
app.add_typer(engine.app, name="engine")
app.add_typer(keys.app, name="keys")
app.add_typer(chat.app, name="chat")


def _print_version(wanted: bool) -> None:
    if wanted:
        from reviewmill._version import __version__

        typer.echo(f"reviewmill {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the program; errors that we raise on purpose become one message and exit code 1."""
    try:
        app()
    except ReviewmillError as error:
        typer.secho(f"error: {error.message}", fg=typer.colors.RED, err=True)
        if error.hint:
            typer.echo(f"  → {error.hint}", err=True)
        sys.exit(EXIT_ERROR)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # `| head` has seen enough
        sys.stderr.close()
        sys.exit(0)
