"""What `compare` does with its arguments: which systems, asking each, showing them side by side."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reviewmill.analyzer import AsyncSentimentAnalyzer
from reviewmill.cli.measuring import Asked, number, run_kept, share, warn
from reviewmill.cli.show import RunDisplay, console
from reviewmill.errors import SettingsError
from reviewmill.evaluate.compare import MOST_SYSTEMS, Comparison, compare
from reviewmill.evaluate.plain import PLAIN, plain_pipeline
from reviewmill.evaluate.run import check_files, evaluate, report_files, write_comparison
from reviewmill.settings import Settings, load_settings
from reviewmill.tasks import load_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reviewmill.evaluate.labelled import Labelled
    from reviewmill.evaluate.report import Report
    from reviewmill.pipeline import Pipeline
    from reviewmill.tasks import Task

_EMBEDDED: Final = "embedded"


@dataclass(frozen=True, slots=True)
class Contender:
    """One system to compare: how it is called, its settings, and whether it is the plain baseline."""

    name: str
    settings: Settings
    plain: bool = False

    @property
    def task(self) -> Task:
        """Its task."""
        return load_task(self.settings.task)


def contenders(
    settings: Settings,
    models: Sequence[str],
    endpoints: Sequence[str],
    tasks: Sequence[str],
    wires: Sequence[str],
    *,
    plain: bool,
) -> list[Contender]:
    """Every combination of what was given; the plain baseline once for each model and endpoint, first.

    Raises:
        SettingsError: there are fewer than two or too many, or endpoints do not go with the models.
    """
    engines = _engines(models, endpoints)
    found = []
    if plain:
        found = [
            _contender(settings, {**engine, "task": tasks[0] if tasks else None}, plain=True) for engine in engines
        ]
    unset: list[str | None] = [None]
    for engine, task, wire in product(engines, tasks or unset, wires or unset):
        found.append(_contender(settings, {**engine, "task": task, "wire": wire}))
    if not 2 <= len(found) <= MOST_SYSTEMS:
        raise SettingsError(
            f"That makes {len(found)} {'system' if len(found) == 1 else 'systems'}; it takes 2 to {MOST_SYSTEMS}.",
            hint="Name several with --model, --endpoint, --task or --wire, or add --baseline plain.",
        )
    return _named(found)


def _engines(models: Sequence[str], endpoints: Sequence[str]) -> list[dict[str, Any]]:
    """The models with their endpoints; `endpoint` is absent where none was named."""
    if len(endpoints) > 1 and len(models) > 1 and len(models) != len(endpoints):
        raise SettingsError(
            f"{len(models)} models and {len(endpoints)} endpoints: it is not clear which goes with which.",
            hint="Give one --endpoint for all models, or one for each --model in the same order.",
        )
    count = max(len(models), len(endpoints), 1)
    engines = []
    for place in range(count):
        model = models[place if len(models) > 1 else 0] if models else None
        endpoint = endpoints[place if len(endpoints) > 1 else 0] if endpoints else None
        engines.append({"model": model, **({} if endpoint is None else {"endpoint": endpoint})})
    return engines


def _contender(settings: Settings, choice: dict[str, Any], *, plain: bool = False) -> Contender:
    given = settings.model_dump(exclude_unset=True)
    given |= {name: value for name, value in choice.items() if value is not None}
    if given.get("endpoint") == _EMBEDDED:
        given["endpoint"] = None
        own = Settings(**given)  # an explicit None: over the environment's
    else:
        own = load_settings(**given)
    return Contender("", own, plain)


def _named(found: list[Contender]) -> list[Contender]:
    """Names made of what differs."""
    features = [
        {
            "model": Path(one.settings.model).name,
            "endpoint": one.settings.endpoint or _EMBEDDED,
            "task": Path(one.settings.task).stem,
            "wire": PLAIN if one.plain else one.settings.wire,
        }
        for one in found
    ]
    telling = [key for key in features[0] if len({feature[key] for feature in features}) > 1]
    names = [" · ".join(feature[key] for key in telling) for feature in features]
    names = [PLAIN if name == "" and one.plain else name for name, one in zip(names, found, strict=True)]
    names = [
        "reviewmill" if name == "auto" else name.removesuffix(" · auto") for name in names
    ]  # the wire is told only where it was chosen
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SettingsError(f"{twice!r} was given twice.", hint="Compare different systems.")
    return [replace(one, name=name) for one, name in zip(found, names, strict=True)]


def compare_file(
    asked: Asked,
    systems: Sequence[Contender],
    output: Path | None,
    *,
    rows: int | None,
    seed: int,
    force: bool,
    quiet: bool,
) -> int:
    """Ask each system, compare, write, show; return how many answers failed."""
    json, html = report_files(asked.path, output, suffix=".comparison")
    check_files(json, html, force=force)
    first, *others = [one.task for one in systems]
    for task in others:
        if set(task.label_names) != set(first.label_names):
            raise SettingsError(
                f"The tasks {first.name!r} and {task.name!r} have different labels: their answers cannot be compared.",
                hint="Compare tasks with the same labels.",
            )
    labelled = _drawn(asked.read(first), rows, seed)
    if not quiet:
        warn(labelled.warnings)
    reports = run_kept(_asked(asked, labelled, systems, seed, quiet=quiet))
    comparison = compare(reports)
    write_comparison(comparison, json, html)
    if not quiet:
        show_comparison(comparison)
        console(stderr=True).print(f"Report: [bold]{escape(str(html))}[/bold]   JSON: {escape(str(json))}")
    return sum(one.unanswered.get("error", 0) for one in comparison.systems)


def _drawn(labelled: Labelled, rows: int | None, seed: int) -> Labelled:
    """A random part of the rows, in the file's order."""
    if rows is None or rows >= len(labelled.rows):
        return labelled
    chosen = sorted(random.Random(seed).sample(range(len(labelled.rows)), rows))  # noqa: S311 -- no secret
    told = f"{rows:,} of {len(labelled.rows):,} rows were drawn at random (seed {seed})."
    return replace(labelled, rows=[labelled.rows[place] for place in chosen], warnings=[*labelled.warnings, told])


async def _asked(
    asked: Asked, labelled: Labelled, systems: Sequence[Contender], seed: int, *, quiet: bool
) -> dict[str, Report]:
    """Each system's evaluation, one after the other: they would slow each other down."""
    reports = {}
    for system in systems:
        with RunDisplay(system.name, quiet=quiet) as display:
            async with AsyncSentimentAnalyzer(settings=system.settings) as analyzer:
                reports[system.name] = await evaluate(
                    labelled,
                    _pipeline(system, await analyzer.pipeline()),
                    label_column=asked.label,
                    mapping=asked.translation,
                    on_progress=display.update,
                    seed=seed,
                )
        if not quiet:
            warn(analyzer.warnings)
    return reports


def _pipeline(system: Contender, pipeline: Pipeline) -> Pipeline:
    if not system.plain:
        return pipeline
    return plain_pipeline(system.settings, pipeline.labeller.connection, system.task, pipeline.cache)


def show_comparison(comparison: Comparison) -> None:
    """Print the systems side by side, and how each two differ."""
    screen = console(stderr=True)
    restricted = any(one.restricted for one in comparison.systems)
    more = ("labels that occur",) if restricted else ()
    table = Table("", "accuracy", *more, "macro-F1", "ECE", "per s", "tokens out", box=None)
    for one in comparison.systems:
        reliability = comparison.shown(one).reliability
        ece = number(reliability.ece) if reliability else "-"
        own = (share(one.restricted.scores.accuracy) if one.restricted else "-",) if restricted else ()
        rate = "-" if one.effort.per_second is None else f"{one.effort.per_second:.2f}"
        tokens = "-" if one.effort.tokens_out is None else f"{one.effort.tokens_out:.1f}"
        scores = one.measures.scores
        table.add_row(Text(one.name), share(scores.accuracy), *own, number(scores.macro_f1), ece, rate, tokens)
    screen.print(table)
    for pair in comparison.pairs:
        gap = pair.difference
        screen.print(
            Text(
                f"{pair.second} against {pair.first}: {gap.value * 100:+.1f} points "
                f"[{gap.low * 100:+.1f}, {gap.high * 100:+.1f}], p = {pair.adjusted:.4f} (McNemar, {pair.scored}); "
                f"same label for {pair.agreement:.1%}"
            )
        )
