"""The program `reviewmill`: its commands, and how errors leave it.

Exit codes: 0 all is well; 1 an error, told on stderr; 2 wrong usage; 3 a run finished, but some rows carry errors
(they are tried again by the same command); 4 an evaluation is significantly worse than the one it was compared with;
130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Annotated, Final

import typer

from reviewmill.errors import ReviewmillError

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130

COMMANDS: Final = {
    "analyze": "analyze:analyze",
    "audit": "audit:audit",
    "distill": "distill:distill",
    "evaluate": "evaluate:evaluate",
    "errors": "errors:errors",
    "compare": "compare:compare",
    "challenge": "challenge:challenge",
    "improve": "improve:improve",
    "calibrate": "calibrate:calibrate",
    "bench": "bench:bench",
    "doctor": "doctor:doctor",
    "serve": "serve:serve",
    "calibrations": "calibrate:app",
    "tasks": "tasks:app",
    "models": "models:app",
    "engine": "engine:app",
    "keys": "keys:app",
    "chat": "chat:app",
}
"""Every command, with its module in this folder and the function or the group there; in `--help`'s order."""


@cache
def program(*names: str) -> typer.Typer:
    """The program with these commands only; without names, with all.

    Typer looks at every parameter of every command before it runs one, and a command brings what it works with along:
    together they take a second, so a command is run by a program that has no other.
    """
    app = typer.Typer(
        name="reviewmill",
        help="Turn customer comments into sentiment that people can trust, with a language model on your own hardware.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name in names or COMMANDS:
        module, _, what = COMMANDS[name].partition(":")
        found = getattr(import_module(f"reviewmill.cli.{module}"), what)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=name)
        else:
            app.command(name)(found)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from reviewmill._version import __version__

        typer.echo(f"reviewmill {__version__}")
        raise typer.Exit


def _root(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the program; errors that we raise on purpose become one message and exit code 1."""
    try:
        program(*_needed(sys.argv[1:]))()
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


def _needed(arguments: Sequence[str]) -> Sequence[str]:
    """The command that is called, if that is clear from the first word; else none, which means all of them.

    Help, suggestions for a command that does not exist, and a shell that completes one (it calls with no argument)
    need all; the version needs none, but a program has at least one.
    """
    first = "analyze" if arguments == ["--version"] else arguments[0] if arguments else ""
    return (first,) if first in COMMANDS else ()
