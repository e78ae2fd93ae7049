"""What `improve` does with its arguments: read, plan, search, write, show."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from reviewmill.cache import open_cache
from reviewmill.cli.show_improve import SearchDisplay, show_plan, show_report
from reviewmill.endpoints import connect
from reviewmill.errors import OutputError, SettingsError
from reviewmill.evaluate.answers import describe
from reviewmill.evaluate.improve.ask import EndpointAsker
from reviewmill.evaluate.improve.ledger import Ledger
from reviewmill.evaluate.improve.pool import load_pool
from reviewmill.evaluate.improve.search import Search, SearchOptions
from reviewmill.evaluate.improve.state import State
from reviewmill.evaluate.labelled import parse_mapping, read_labelled
from reviewmill.schema import Comment
from reviewmill.tasks import load_task
from reviewmill.tasks.write import write_task

if TYPE_CHECKING:
    from pathlib import Path

    from reviewmill.evaluate.improve.gepa_writer import GepaWriter
    from reviewmill.evaluate.improve.pool import Pool
    from reviewmill.evaluate.labelled import Labelled, LabelledRow
    from reviewmill.pipeline import Pipeline
    from reviewmill.settings import Settings
    from reviewmill.tasks import Task


@dataclass(frozen=True, slots=True)
class Wanted:
    """The command's arguments; see `cli.improve`."""

    labelled: Path
    label: str
    output: Path
    text: str | None
    mapping: list[str]
    budget: int
    seed: int
    pool: Path | None
    weights: bool
    proposer: str | None
    proposer_model: str | None
    plan_only: bool
    force: bool


def run(wanted: Wanted, settings: Settings, *, quiet: bool) -> dict[str, Any] | None:
    """Search; return the report, or None where only the plan was wanted.

    Raises:
        ReviewmillError: see `Search`.
        KeyboardInterrupt: the user stopped it; how to continue was said.
    """
    task = load_task(settings.task)
    if settings.cache == "none":
        raise SettingsError(
            "A search without a cache could not be continued, and would ask the same questions again.",
            hint="Leave out --cache none.",
        )
    if wanted.proposer is not None:
        from reviewmill.evaluate.improve.gepa_writer import require_gepa

        require_gepa()
    mapping = parse_mapping(wanted.mapping)
    labelled = read_labelled(wanted.labelled, task, label=wanted.label, text=wanted.text, mapping=mapping)
    pool = load_pool(task, wanted.pool)
    with SearchDisplay(wanted.labelled.name, quiet=quiet) as display:
        try:
            return asyncio.run(_Job(wanted, settings, task, labelled, pool, display).run())
        except KeyboardInterrupt:
            display.stop()
            typer.echo(
                f"\nStopped. {display.asked:,} answers are kept; run the same command again and it continues.", err=True
            )
            raise


@dataclass(frozen=True, slots=True)
class _Job:
    wanted: Wanted
    settings: Settings
    task: Task
    labelled: Labelled
    pool: Pool | None
    display: SearchDisplay

    async def run(self) -> dict[str, Any] | None:
        settings, wanted = self.settings, self.wanted
        async with AsyncExitStack() as resources:
            folder = settings.state_dir / "improve"
            if not wanted.plan_only:
                resources.callback(State.lock(wanted.output, folder).release)
            cache = open_cache(
                settings.cache, cache_dir=settings.cache_dir, ttl=settings.cache_ttl, on_warning=self.display.warn
            )
            if cache is not None:
                resources.callback(cache.close)
            connection = await connect(settings)
            resources.push_async_callback(connection.aclose)
            asker = EndpointAsker(settings, self.task, connection, cache, self.display.update)
            pipeline = asker.pipeline(self.task)
            state = State.open(wanted.output, self._binding(pipeline))
            if (done := state.report) is not None:
                self.display.note(
                    f"This search is done, and {_third_part(done)}. Nothing is asked again; here is its report. "
                    "Another verdict needs rows that have not judged: add labelled comments to the file."
                )
                self._finish(done, state)
                return done
            self._check_output()
            texts = {row.number: _cleaned(pipeline, row) for row in self.labelled.rows}
            writer = await self._writer(asker, resources, {n: text for n, text in texts.items() if text is not None})
            search = Search(
                self.task,
                self.labelled,
                lambda row: texts[row.number],
                asker,
                SearchOptions(
                    wanted.budget,
                    wanted.seed,
                    weights=wanted.weights,
                    keywords=settings.keywords,
                    calibrated=pipeline.assembler.calibration is not None,
                ),
                state,
                Ledger(folder, self.task.name),
                pool=self.pool,
                writer=writer,
                on_step=self.display.step,
            )
            self.display.show(lambda: show_plan(search, self.pool, continued=state.continued, proposer=wanted.proposer))
            if wanted.plan_only:
                return None
            report = await search.run()
            self._finish(report, state)
            return report

    def _binding(self, pipeline: Pipeline) -> dict[str, Any]:
        """What decides the search: the same command continues only the same search."""
        wanted = self.wanted
        subject = describe(pipeline)
        return {
            **{
                key: subject[key] for key in ("model", "fingerprint", "task", "task_hash", "prompt", "wire", "keywords")
            },
            "file": self.labelled.digest,
            "label": wanted.label,
            "text": wanted.text,
            "map": sorted(parse_mapping(wanted.mapping).items()),
            "calibration": calibration.id if (calibration := pipeline.assembler.calibration) is not None else None,
            "redact": self.settings.redact,
            "max_comment_chars": self.settings.max_comment_chars,
            "pool": _digest(self.pool.model_dump_json()) if self.pool else None,
            "weights": wanted.weights,
            "proposer": [wanted.proposer, wanted.proposer_model] if wanted.proposer else None,
            "budget": wanted.budget,
            "seed": wanted.seed,
        }

    def _check_output(self) -> None:
        if self.wanted.output.exists() and not self.wanted.force and not self.wanted.plan_only:
            raise OutputError(f"{self.wanted.output} exists.", hint="Choose another -o, or say --force.")
        if not self.wanted.output.absolute().parent.is_dir():
            raise OutputError(
                f"{self.wanted.output} cannot be written: its folder does not exist.",
                hint="Create it, or choose another -o.",
            )

    async def _writer(
        self, asker: EndpointAsker, resources: AsyncExitStack, texts: dict[int, str]
    ) -> GepaWriter | None:
        wanted = self.wanted
        if wanted.proposer is None:
            return None
        from reviewmill.endpoints.client import EndpointClient
        from reviewmill.evaluate.improve.gepa_writer import GepaWriter

        key = self.settings.proposer_api_key.get_secret_value() if self.settings.proposer_api_key else None
        client = EndpointClient(wanted.proposer, wanted.proposer_model, api_key=key, timeout=self.settings.timeout)
        resources.push_async_callback(client.aclose)
        await client.identify()
        return GepaWriter(asker, client, texts, seed=wanted.seed)

    def _finish(self, report: dict[str, Any], state: State) -> None:
        """Write the task if it was accepted, and show what came of it."""
        output = self.wanted.output
        if report["accepted"]:
            winner = state.winner()
            if not output.exists() or load_task(output).hash != winner.hash:
                write_task(output, winner, _head(report, self.labelled, state))
        self.display.stop()
        self.display.show(lambda: show_report(report, output if report["accepted"] else None, state.path))


def _cleaned(pipeline: Pipeline, row: LabelledRow) -> str | None:
    return pipeline.prepare(Comment(row.text)).text


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _third_part(report: dict[str, Any]) -> str:
    return "its third part has judged" if report["verdict"] else "its third part was not opened"


def _head(report: dict[str, Any], labelled: Labelled, state: State) -> list[str]:
    """What stands at the head of a task file that was found."""
    verdict = report["verdict"]
    bound = state.binding
    return [
        f"Found by `reviewmill improve` from the task {bound['task']} ({bound['task_hash'][:12]}), on "
        f"{labelled.path.name}, for the model {bound['model']}.",
        f"On {verdict['rows']} rows that the search had not seen: {verdict['second']:.1%} right, before "
        f"{verdict['first']:.1%}; difference {verdict['difference']:+.1%} "
        f"[{verdict['low']:+.1%}, {verdict['high']:+.1%}], p = {verdict['p_second_better']:.3g}.",
    ]
