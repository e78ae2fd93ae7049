"""`reviewmill calibrate` fits a calibration; `reviewmill calibrations` lists, shows and removes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from reviewmill.cli.show import RunDisplay, console
from reviewmill.errors import InputError, ReviewmillError
from reviewmill.settings import Settings, load_settings

if TYPE_CHECKING:
    from reviewmill.evaluate.calibrating import Outcome
    from reviewmill.evaluate.holding import Holding
    from reviewmill.scoring import Calibration

app = typer.Typer(help="Calibrations: what makes confidence hold.", no_args_is_help=True)


def calibrate(
    labelled: Annotated[
        Path | None, typer.Argument(metavar="LABELLED", help="A file of comments with their right labels.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="The column that holds the right labels.")] = None,
    text: Annotated[str | None, typer.Option(help="The column that holds the comments.")] = None,
    map: Annotated[  # noqa: A002
        list[str] | None, typer.Option(help="The file's labels to the task's: 好评=positive,差评=negative,其他= .")
    ] = None,
    unlabelled: Annotated[
        Path | None, typer.Option(help="Fit the labels' shares alone, on a file of comments without labels.")
    ] = None,
    expect: Annotated[
        str | None, typer.Option(help="With --unlabelled: shares that such files have, positive=60,neutral=10,….")
    ] = None,
    method: Annotated[
        Literal["vector", "stack"],
        typer.Option(help="vector: temperature and biases; stack: the comments' n-grams too, if they win."),
    ] = "vector",
    absent: Annotated[
        Literal["keep", "fit"], typer.Option(help="Labels in no row: keep their bias, or count as never right.")
    ] = "keep",
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="A name in your folder, or a path elsewhere."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Built-in task or task file.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible server.")] = None,
    model: Annotated[str | None, typer.Option(help="Catalog name, .gguf file, or the server's model name.")] = None,
    cache: Annotated[str | None, typer.Option(help="sqlite, sqlite:PATH, redis://…, or none.")] = None,
    keywords: Annotated[bool | None, typer.Option(help="For answers with or without keywords.")] = None,
    wire: Annotated[str | None, typer.Option(help="Answer format: auto, compact, json or free.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Requests in flight.")] = None,
    redact: Annotated[bool | None, typer.Option(help="Mask personal data before anything else sees a comment.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what came of it as JSON.")] = False,
) -> None:
    """Fit a calibration, and say how well it holds on rows that it was not fitted on.

    It is saved only if it helps there, and then used by every later command with the same model, task and prompt.
    """
    if (labelled is None) == (unlabelled is None):
        raise InputError("Give a labelled file, or --unlabelled and a file.", hint="`reviewmill calibrate --help`")
    settings = load_settings(
        endpoint=endpoint,
        model=model,
        cache=cache,
        keywords=keywords,
        wire=wire,
        concurrency=concurrency,
        task=task,
        redact=redact,
    )
    # It is fitted on what the model says itself; what would be in force must not be in the way of replacing it.
    settings = settings.model_copy(update={"calibration": "none"})
    if labelled is not None:
        outcome = _on_labels(labelled, settings, label, text, map or [], method == "stack", absent, quiet)
    else:
        outcome = _on_texts(unlabelled or Path(), settings, text, expect, quiet)
    saved = _save(outcome, output, settings)
    if as_json:
        typer.echo(json.dumps(as_record(outcome, saved), ensure_ascii=False, indent=2))
    elif not quiet:
        _show(outcome, saved, elsewhere=bool(output and _is_path(output)))


def _on_labels(
    path: Path,
    settings: Settings,
    label: str | None,
    text: str | None,
    mapping: list[str],
    stack: bool,
    absent: Literal["keep", "fit"],
    quiet: bool,
) -> Outcome:
    from reviewmill.analyzer import SentimentAnalyzer
    from reviewmill.evaluate.calibrating_files import calibrate_labelled
    from reviewmill.evaluate.labelled import parse_mapping, read_labelled

    if label is None:
        raise InputError(f"Which column of {path} holds the right labels?", hint="Name it: --label COLUMN.")
    with SentimentAnalyzer(settings=settings) as analyzer, RunDisplay(path.name, quiet=quiet) as display:
        rows = read_labelled(path, analyzer.task, label=label, text=text, mapping=parse_mapping(mapping))
        return analyzer.with_pipeline(
            lambda pipeline: calibrate_labelled(pipeline, rows, stack=stack, absent=absent, on_progress=display.update)
        )


def _on_texts(path: Path, settings: Settings, text: str | None, expect: str | None, quiet: bool) -> Outcome:
    from reviewmill.analyzer import SentimentAnalyzer
    from reviewmill.batch.read import open_source
    from reviewmill.evaluate.calibrating_files import calibrate_unlabelled

    expected = _shares(expect) if expect is not None else None
    source = open_source(path, text=text)
    with SentimentAnalyzer(settings=settings) as analyzer, RunDisplay(path.name, quiet=quiet) as display:
        return analyzer.with_pipeline(
            lambda pipeline: calibrate_unlabelled(pipeline, source, expected=expected, on_progress=display.update)
        )


def _shares(words: str) -> dict[str, float]:
    shares = {}
    for part in words.split(","):
        name, equals, share = part.rpartition("=")
        try:
            shares[name.strip()] = float(share.strip().removesuffix("%"))
        except ValueError:
            equals = ""
        if not equals:
            raise InputError(
                f"--expect cannot be read at {part!r}.",
                hint="Write it like --expect positive=60,neutral=10,negative=30.",
            )
    return shares


def _is_path(output: str) -> bool:
    return "/" in output or "\\" in output or output.endswith((".json", ".npz"))


def _save(outcome: Outcome, output: str | None, settings: Settings) -> Path | None:
    from reviewmill.scoring.shelf import save

    made = outcome.calibration
    if made is None:
        return None
    if output and _is_path(output):
        return save(made, Path(output))
    return save(made, settings.calibrations_dir / (output or f"{made.task}-{made.id}"))


def as_record(outcome: Outcome, saved: Path | None) -> dict[str, Any]:
    """What came of a fit, for programs."""
    made, comparison = outcome.calibration, outcome.comparison
    record: dict[str, Any] = {
        "id": made.id if made else None,
        "saved": str(saved) if saved else None,
        "calibration": made.model_dump(mode="json") if made else None,
        "shares": {name: {"before": before, "after": after} for name, (before, after) in outcome.shares.items()},
        "said": list(outcome.said),
    }
    if comparison is not None:
        record |= {"before": _record(comparison.before), "after": _record(comparison.after)}
        if comparison.restricted is not None:
            first, second = comparison.restricted
            record["restricted"] = {"before": _record(first), "after": _record(second)}
        record["nll_change"] = comparison.nll.model_dump()
    return record


def _record(holding: Holding) -> dict[str, Any]:
    held = holding.reliability
    return {
        **holding.brief().model_dump(),
        "ece_interval": [held.ece.low, held.ece.high],
        "ece_by_chance": holding.floor,
        "accuracy_interval": [holding.scores.accuracy.low, holding.scores.accuracy.high],
        "macro_f1_interval": [holding.scores.macro_f1.low, holding.scores.macro_f1.high],
        "bins": [each.model_dump() for each in held.bins],
    }


def _show(outcome: Outcome, saved: Path | None, *, elsewhere: bool) -> None:
    screen = console()
    made, comparison = outcome.calibration, outcome.comparison
    if comparison is not None:
        screen.print(_table("on rows not fitted on", comparison.before, comparison.after))
        if comparison.restricted is not None:
            screen.print(_table("among the labels that occur", *comparison.restricted))
    if made is not None:
        table = Table("label", "bias", "share before", "share after", box=None)
        for name, (before, after) in outcome.shares.items():
            table.add_row(escape(name), f"{made.bias[name]:+.3f}", f"{before:.1%}", f"{after:.1%}")
        screen.print(f"temperature {made.temperature:.3f}")
        screen.print(table)
    for sentence in outcome.said:
        screen.print(f"· {escape(sentence)}", highlight=False)
    if saved is not None and made is not None:
        use = f"Use it with --calibration {saved}." if elsewhere else "It is used from now on."
        screen.print(f"Saved as [bold]{made.id}[/bold] in {escape(str(saved))}. {escape(use)}", highlight=False)


def _table(title: str, before: Holding, after: Holding) -> Table:
    table = Table(title, "before", "after", box=None)

    def add(name: str, values: list[tuple[float, float, float] | None]) -> None:
        table.add_row(name, *("–" if v is None else f"{v[0]:.3f} [{v[1]:.3f}, {v[2]:.3f}]" for v in values))

    both = (before, after)
    add("accuracy", [(each.value, each.low, each.high) for each in (h.scores.accuracy for h in both)])
    add("macro-F1", [(each.value, each.low, each.high) for each in (h.scores.macro_f1 for h in both)])
    add("ECE", [(each.value, each.low, each.high) for each in (h.reliability.ece for h in both)])
    for name in ("nll", "brier"):
        found = [getattr(h.reliability, name) for h in both]
        add(name.upper() if name == "nll" else "Brier", [each and (each.value, each.low, each.high) for each in found])
    table.add_row("ECE by chance alone", f"{before.floor:.3f}", f"{after.floor:.3f}")
    table.add_row("rows", f"{before.scores.rows:,}", f"{after.scores.rows:,}")
    return table


@app.command("list")
def list_calibrations() -> None:
    """List your own calibrations and the shipped ones."""
    from reviewmill.scoring.shelf import builtin, shelved

    table = Table("id", "task", "model", "method", "fitted on", "ECE", "where")
    folder = load_settings().calibrations_dir
    for where, each in [*((path.name, each) for path, each in shelved(folder)), *(("shipped", e) for e in builtin())]:
        files = ", ".join(f"{file.name} ({file.rows:,})" for file in each.fitted_on)
        held = f"{each.before.ece:.3f} → {each.after.ece:.3f}" if each.before and each.after else ""
        table.add_row(*map(escape, (each.id, each.task, each.model, each.method, files, held, where)))
    console().print(table)
    typer.echo(f"Your own are in {folder}.")


@app.command()
def show(name: Annotated[str, typer.Argument(help="Its id, its name in your folder, or a file.")]) -> None:
    """Print a calibration as JSON: numbers, what it is bound to, what it was fitted on, and how well it held."""
    from reviewmill.scoring.shelf import find

    found: Calibration = find(name, load_settings().calibrations_dir)
    typer.echo(json.dumps({"id": found.id, **found.model_dump(mode="json")}, ensure_ascii=False, indent=2))


@app.command()
def remove(name: Annotated[str, typer.Argument(help="Its id, or its name in your folder.")]) -> None:
    """Delete one of your own calibrations."""
    from reviewmill.scoring.shelf import shelved

    folder = load_settings().calibrations_dir
    for path, each in shelved(folder):
        if name in {each.id, path.name, path.stem}:
            path.unlink()
            typer.echo(f"Removed {path}.")
            return
    raise ReviewmillError(f"There is no calibration {name!r} in {folder}.", hint="`reviewmill calibrations list`")
