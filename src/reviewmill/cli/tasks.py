"""`reviewmill tasks`: list, show, validate, new."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from reviewmill.cli.show import console
from reviewmill.errors import OutputError
from reviewmill.tasks import BUILTIN_TASKS, CompactWire, JsonWire, Wire, load_task, render, task_source, template

app = typer.Typer(help="Task files: what to find out about each comment.", no_args_is_help=True)

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="A built-in task's name, or a task file.")]


@app.command("list")
def list_tasks() -> None:
    """List the built-in tasks."""
    table = Table("task", "labels", "what it finds out")
    for name in BUILTIN_TASKS:
        task = load_task(name)
        table.add_row(task.name, ", ".join(task.label_names), task.description)
    console().print(table)
    typer.echo("Your own: `reviewmill tasks new my.toml`, then `reviewmill analyze FILE --task my.toml`.")


@app.command()
def show(
    task: TaskName,
    source: Annotated[bool, typer.Option("--source", help="Print the task file instead.")] = False,
    wire: Annotated[Literal["compact", "json"], typer.Option(help="Answer format.")] = "compact",
    keywords: Annotated[bool, typer.Option(help="With keywords.")] = True,
) -> None:
    """Print what the model reads, word for word."""
    if source:
        typer.echo(task_source(task)[0])
        return
    loaded = load_task(task)
    with_keywords = keywords and loaded.keywords
    form: Wire = JsonWire(loaded, with_keywords) if wire == "json" else CompactWire(loaded, with_keywords)
    prompt = render(loaded, form, keywords=with_keywords)
    # The prompt does not show the weights, and they decide too.
    weights = "".join(f" · weight of {name} {weight:g}" for name, weight in loaded.weights.items() if weight != 1)
    typer.echo(f"# task {loaded.name} · hash {loaded.hash[:12]} · prompt {prompt.id} · {form.name}{weights}\n")
    for line in _calibrations(loaded.asked_hash, prompt.id):
        typer.echo(line)
    for message in prompt.messages("…"):
        typer.secho(f"[{message['role']}]", fg=typer.colors.CYAN)
        typer.echo(message["content"] + "\n")


def _calibrations(asked: str, prompt: str) -> list[str]:
    """A line on each calibration that replaces the weights where its model answers."""
    from reviewmill.scoring.shelf import builtin, stored
    from reviewmill.settings import load_settings

    own = [(each, "your own") for each in stored(load_settings().calibrations_dir)]
    all_of_them = [*own, *((each, "shipped") for each in builtin())]
    lines = [
        f"# calibration, {whose}, instead of weights where {each.model} answers: {each.describe()}"
        for each, whose in all_of_them
        if (each.bound_to.task, each.bound_to.prompt) == (asked, prompt)
    ]
    return [*lines, ""] if lines else []


@app.command()
def validate(task: TaskName) -> None:
    """Check a task file; say what is wrong with it, or what could be better."""
    loaded = load_task(task)
    typer.echo(f"{task}: valid. Task {loaded.name!r}, {len(loaded.labels)} labels, hash {loaded.hash[:12]}.")
    for note in loaded.notes():
        typer.echo(f"  note: {note}")


@app.command()
def new(
    path: Annotated[Path, typer.Argument(metavar="FILE.toml", help="The file to create.")],
    name: Annotated[str | None, typer.Option(help="The task's name; by default the file's.")] = None,
) -> None:
    """Start a task file of your own from a template that is valid as it stands."""
    source = template(name or path.stem)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(source)
    except FileExistsError:
        raise OutputError(f"{path} exists already.", hint="Choose another name.") from None
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}.", hint="Choose another folder.") from error
    typer.echo(f"Created {path}. Fill it in, then: reviewmill tasks validate {path}")
