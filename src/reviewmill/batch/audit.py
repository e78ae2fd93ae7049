"""An audit by the model: a fresh sample of what the student answered, asked of the model that it stands for.

Only the student's texts are drawn from. The label of every other text *is* the model's: to ask again would count its
own answer as evidence for itself. So all questions go where something can come out, and the agreement of the whole
output follows exactly, since the others agree by definition.

Seed and sample stand in a journal beside the output until the audit is done: one that was killed goes on.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from reviewmill.batch.audited import Audited, Drawn, Population
from reviewmill.batch.finished import FinishedRun
from reviewmill.batch.journal import Journal
from reviewmill.batch.manifest import write_json
from reviewmill.batch.progress import OnProgress
from reviewmill.batch.texts import analyse_in
from reviewmill.cascade.agreement import AuditReport, Finding, Seen
from reviewmill.errors import RunError, SettingsError
from reviewmill.pipeline import Pipeline
from reviewmill.schema import Analysis, Comment

if TYPE_CHECKING:
    from reviewmill.endpoints import About

LEAST: Final = 20
"""A smaller sample says nothing."""


def report_path(output: Path) -> Path:
    """Where the last audit of an output lies."""
    return output.with_name(output.name + ".audit.json")


async def audit(
    pipeline: Pipeline,
    run: FinishedRun,
    size: int,
    *,
    seed: int | None = None,
    on_progress: OnProgress | None = None,
) -> AuditReport:
    """Ask the run's model about a fresh sample of what the student answered.

    Args:
        pipeline: asks; with the run's own model, task and settings.
        run: the finished run.
        size: questions, at least `LEAST`.
        seed: of the draw; None: by chance, and recorded.
        on_progress: called after each answer; must be quick.

    Returns:
        What was found; it is also written beside the output.

    Raises:
        SettingsError: the pipeline's model is not the run's, or the sample is too small.
        RunError: no student answered in the run.
        ReviewmillError: see `Asker.ask`; what was answered is kept, and the same call goes on.
    """
    check_size(size)
    _check_model(run, pipeline)
    audited = Audited(run, pipeline.labeller.task, pipeline.settings)
    population = await asyncio.to_thread(audited.population)
    if not population.by_student.any():
        raise RunError(
            f"No student answered in {run.output}: every label is the model's own, and to ask it again shows nothing.",
            hint="A person can audit it: --sheet FILE.",
        )
    about = {"population": population.digest, "size": size, "seed": seed, "manifest": run.manifest["finished"]}
    place, locks = run.output.with_name(run.output.name + ".audit.journal"), pipeline.settings.state_dir / "locks"
    with Journal(place, about, lock_dir=locks) as journal:
        seed = _settled_seed(journal, seed)
        rows = population.draw(size, seed, student_only=True).tolist()
        drawn = await asyncio.to_thread(audited.texts, rows)
        batch = await analyse_in(journal, pipeline, [Comment(each.text) for each in drawn], on_progress=on_progress)
        found = report(drawn, batch.analyses, population, pipeline.labeller.connection.about, seed)
        write_json(report_path(run.output), found.as_json())
        if found.whole.seen.unknown == 0:
            journal.discard()
    return found


def check_size(size: int) -> None:
    """Refuse a sample that says nothing.

    Raises:
        SettingsError: it is one.
    """
    if size < LEAST:
        raise SettingsError(f"A sample of {size} texts says nothing.", hint=f"Take {LEAST} or more, better 200.")


def _check_model(run: FinishedRun, pipeline: Pipeline) -> None:
    then, labeller = run.manifest, pipeline.labeller
    about, calibration = labeller.connection.about, pipeline.assembler.calibration
    if then["model"]["fingerprint"] != about.fingerprint:
        raise SettingsError(
            f"The labels of {run.output} are those of {then['model']['model']}; here answers {about.model}, "
            "which is another (or other weights under the same name).",
            hint="Name the run's model with --endpoint and --model, or let a person audit it: --sheet FILE.",
        )
    if then["prompt"] != labeller.prompt_id or then["calibration"] != (calibration.id if calibration else None):
        raise SettingsError(
            f"{then['model']['model']} would be asked in other words, or calibrated otherwise, than in the run.",
            hint="Use the run's task, --wire and reviewmill version.",
        )


def _settled_seed(journal: Journal, given: int | None) -> int:
    """The seed, which stays what it was when an audit goes on."""
    journal.decide({"seed": json.dumps(given if given is not None else secrets.randbits(53)).encode()})
    seed: int = json.loads(journal.decided("seed") or b"0")
    return seed


def report(
    drawn: Sequence[Drawn], analyses: Sequence[Analysis], population: Population, about: About, seed: int
) -> AuditReport:
    """Count how often the model says what the student said."""
    said = [analysis.label if analysis["status"] == "ok" else None for analysis in analyses]
    seen = Seen(
        population=int(population.by_student.sum()),
        drawn=len(drawn),
        agreeing=sum(label == each.label for each, label in zip(drawn, said, strict=True)),
        unknown=sum(label is None for label in said),
    )
    return AuditReport(
        judge=about.model,
        seed=seed,
        student=Finding(seen),
        model=None,
        whole=Finding(seen, certain=len(population.rows) - seen.population),
        left_out=population.left_out,
        cached=sum(analysis["route"] == "cache" for analysis in analyses),
    )
