"""One evaluation from file to report: read, ask, measure, write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from reviewmill.errors import InputError, OutputError
from reviewmill.evaluate.answers import answers
from reviewmill.evaluate.report import as_json, build_report, read_report, write_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from reviewmill.batch.run import Progress
    from reviewmill.evaluate.compare import Comparison
    from reviewmill.evaluate.labelled import Labelled
    from reviewmill.evaluate.report import Report
    from reviewmill.pipeline import Pipeline

_HTML: Final = frozenset({".html", ".htm"})
_MARK: Final = '<meta name="generator" content="reviewmill">'
_HEAD: Final = 4096


async def evaluate(
    labelled: Labelled,
    pipeline: Pipeline,
    *,
    label_column: str,
    mapping: dict[str, str] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    seed: int = 0,
) -> Report:
    """Ask about labelled rows and measure the answers.

    Args:
        labelled: the rows.
        pipeline: what answers.
        label_column: the column that held the labels, for the report.
        mapping: how they were translated, for the report.
        on_progress: called after each answer; must be quick.
        seed: of the bootstrap.

    Raises:
        InputError: no row got a label.
        EndpointLostError: the endpoint went away; what was answered is in the cache.
        ReviewmillError: the endpoint cannot be opened.
    """
    judgement = await answers(labelled.rows, pipeline, on_progress)
    embedded = pipeline.labeller.connection.about.endpoint == "embedded"
    memory = psutil.Process().memory_info().rss if embedded and judgement.asked else None
    return build_report(
        labelled,
        judgement,
        pipeline,
        label_column=label_column,
        mapping=mapping,
        memory_bytes=memory,
        seed=seed,
    )


def report_files(labelled: Path, output: Path | None, *, suffix: str = ".evaluation") -> tuple[Path, Path]:
    """Where a report goes: its JSON and its HTML page, side by side under one name.

    Args:
        labelled: the file that is measured on.
        output: what was asked for (`.html` or `.json`); None: beside the file, as `NAME.evaluation.json` and `.html`.
        suffix: put behind the file's name where no output was named.

    Raises:
        OutputError: the output has another extension.
    """
    if output is None:
        name = labelled.name.removesuffix(".gz")
        output = labelled.with_name(f"{Path(name).stem}{suffix}.json")
    if output.suffix.lower() not in {".json", *_HTML}:
        raise OutputError(
            f"{output} is neither .html nor .json.", hint="A report is written as both, side by side: -o report.html ."
        )
    return output.with_suffix(".json"), (output if output.suffix.lower() in _HTML else output.with_suffix(".html"))


def check_files(json: Path, html: Path, *, force: bool, read: Path | None = None) -> None:
    """Refuse to write over what is not ours, or over the report that is compared with, before anything is asked.

    Raises:
        OutputError: it is so, or their folder does not exist.
    """
    if not json.parent.is_dir():
        raise OutputError(f"The folder {json.parent} does not exist.", hint="Create it, or choose another with -o.")
    if read is not None and read.exists() and any(path.exists() and path.samefile(read) for path in (json, html)):
        raise OutputError(
            f"{read} is what this evaluation is compared with, and would be written over.",
            hint="Write to another place with -o; copy the new report over the old one once you accept it.",
        )
    for path in (json, html):
        if path.exists() and not force and not _ours(path):
            raise OutputError(
                f"{path} exists and is no report of reviewmill.", hint="Choose another place with -o, or add --force."
            )


def _ours(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return _MARK in head or ('"schema_version"' in head[:200] and '"reviewmill"' in head)


def write_report(report: Report, json: Path, html: Path) -> None:
    """Write a report as JSON and as an HTML page.

    Raises:
        OutputError: one of them cannot be written.
    """
    from reviewmill.evaluate.html import report_page

    write_text(json, as_json(report))
    write_text(html, report_page(report))


def write_comparison(comparison: Comparison, json: Path, html: Path) -> None:
    """Write a comparison as JSON and as an HTML page.

    Raises:
        OutputError: one of them cannot be written.
    """
    from reviewmill.evaluate.html import comparison_page

    write_text(json, as_json(comparison))
    write_text(html, comparison_page(comparison))


def read_baseline(path: Path) -> Report:
    """The earlier report of a regression gate.

    Raises:
        InputError: it is not there, or is none; the hint says how to make one.
    """
    try:
        return read_report(path)
    except InputError as error:
        if path.exists():
            raise
        raise InputError(
            f"{path} does not exist.", hint="Make it once with `reviewmill evaluate … -o report.json`, and keep it."
        ) from error
