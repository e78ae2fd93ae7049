"""What `analyze` does with its arguments: find the input, name the output, run, show."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import typer

from reviewmill.analyzer import SentimentAnalyzer
from reviewmill.batch.formats import EXTENSIONS, file_kind
from reviewmill.batch.goals import CascadeOptions, parse_agreement, parse_duration, student_path
from reviewmill.batch.manifest import Manifest
from reviewmill.cli.show import RunDisplay, show_analysis, show_summary
from reviewmill.errors import InputError, OutputError, SettingsError
from reviewmill.settings import Settings

STDIO: Final = "-"


def one_source(inputs: list[str]) -> Path | None:
    """The input file, or `-`, if the arguments are one; None if they are texts.

    Raises:
        InputError: one argument that is surely meant as a file, and is none; or a file among texts.
    """
    files = [argument for argument in inputs if argument == STDIO or _is_file(argument)]
    if len(inputs) == 1:
        if files or _looks_like_file(inputs[0]):
            return Path(inputs[0])
        return None
    files += [argument for argument in inputs if _looks_like_file(argument)]
    if files:
        raise InputError(
            f"{files[0]} names a file, and there are {len(inputs)} arguments.",
            hint="Give one file, or texts, not both: a run has one input and one output.",
        )
    return None


def _is_file(argument: str) -> bool:
    try:
        return Path(argument).exists()
    except OSError:  # a comment can be too long for a file name
        return False


def _looks_like_file(argument: str) -> bool:
    path = Path(argument)
    return " " not in argument and path.suffix.lower() in {*EXTENSIONS, ".gz", ".xls"}


def analyze_texts(texts: list[str], settings: Settings, *, as_json: bool, quiet: bool) -> int:
    """Analyse texts given on the command line and print each result; return how many failed."""
    failed = 0
    with SentimentAnalyzer(settings=settings) as analyzer:
        for analysis in analyzer.stream(texts):
            failed += analysis["status"] == "error"
            if as_json:
                typer.echo(json.dumps(analysis, ensure_ascii=False))
            elif not quiet:
                show_analysis(analysis)
        _warn(analyzer.warnings)
    return failed


def cascade_options(
    agreement: str | None,
    delta: float,
    budget: int | None,
    deadline: str | None,
    *,
    per_class: bool,
    student: Path | None,
) -> CascadeOptions | None:
    """What the arguments say of a cascade; None if they want none.

    Raises:
        SettingsError: they are not valid.
    """
    if agreement is None and budget is None and deadline is None:
        if per_class:
            raise SettingsError("--per-class belongs to --agreement.", hint="Say --agreement 0.95 --per-class.")
        return None
    return CascadeOptions(
        parse_agreement(agreement) if agreement is not None else None,
        delta,
        budget,
        parse_duration(deadline) if deadline is not None else None,
        per_class=per_class,
        student=student,
    )


def needed(cascade: CascadeOptions | None, student: Path | None) -> CascadeOptions | None:
    """The cascade of a file.

    Raises:
        SettingsError: a student without a goal, from which nothing follows about what it may answer.
    """
    if cascade is None and student is not None:
        raise SettingsError(
            "--student with a file needs a goal: what a saved student may answer there must be certified anew.",
            hint="Say --agreement 0.95 (or --budget, or --deadline) too.",
        )
    return cascade


def alone(student: Path | None, *, student_only: bool, texts: bool) -> Path | None:
    """The student that is to answer texts without a model, if one is.

    Raises:
        SettingsError: it is not said clearly who is to answer.
    """
    if not texts and student_only:
        raise SettingsError(
            "--student-only answers texts, and this is a file.",
            hint="A file needs a certificate of its own: say --agreement 0.95 instead.",
        )
    if texts and student_only != (student is not None):
        raise SettingsError(
            "Texts are answered by the model, or by a student without any model.",
            hint="For the student, say --student FILE --student-only; for the model, leave out both.",
        )
    return student if student_only else None


def answer_by_student(texts: list[str], path: Path, settings: Settings, *, as_json: bool, quiet: bool) -> None:
    """Let a saved student answer texts, without any model, and print each result.

    Raises:
        StudentError: it cannot be read.
    """
    from reviewmill.teller import StudentAnalyzer

    teller = StudentAnalyzer(path, settings)
    for analysis in teller.analyze_batch(texts):
        if as_json:
            typer.echo(json.dumps(analysis, ensure_ascii=False))
        elif not quiet:
            show_analysis(analysis)
    if not quiet:
        typer.echo(f"Answered by a {teller.name}: no model was asked, and nothing is certified.", err=True)


@dataclass(slots=True)
class FileJob:
    """One run: where it reads, where it writes, and whether its output goes on to stdout."""

    source: Path
    output: Path
    settings: Settings
    format: str | None = None
    from_stdin: bool = False
    to_stdout: bool = False
    cascade: CascadeOptions | None = None

    def check(self, *, force: bool) -> None:
        """Refuse to replace a file that no run of ours wrote.

        Raises:
            OutputError: there is one.
        """
        if self.output.exists() and not self.to_stdout and not force and not Manifest.path_for(self.output).exists():
            raise OutputError(
                f"{self.output} exists and was not written by reviewmill.", hint="Choose another -o, or say --force."
            )

    def execute(self, *, text: str | None, id: str | None, quiet: bool) -> Manifest:  # noqa: A002
        """Run to the end, showing progress and summary on stderr (stdout belongs to data).

        Raises:
            KeyboardInterrupt: the user stopped it; how to continue was said.
        """
        title = "stdin" if self.from_stdin else self.source.name
        with SentimentAnalyzer(settings=self.settings) as analyzer, RunDisplay(title, quiet=quiet) as display:
            try:
                manifest = analyzer.analyze_file(
                    self.source,
                    self.output,
                    text=text,
                    id=id,
                    format=self.format,
                    on_progress=display.update,
                    cascade=self.cascade,
                )
            except KeyboardInterrupt:
                display.stop()
                typer.echo(
                    f"\nStopped. {display.done} answers are kept; run the same command again and it continues.",
                    err=True,
                )
                raise
        _warn(analyzer.warnings)
        if self.to_stdout:
            self._pass_on(manifest)
        if not quiet:
            show_summary(manifest, None if self.to_stdout else self.output)
        return manifest

    def _pass_on(self, manifest: Manifest) -> None:
        with self.output.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        if not manifest.tally.errors:
            self.output.unlink()
            Manifest.path_for(self.output).unlink(missing_ok=True)
            student_path(self.output).unlink(missing_ok=True)
            if self.from_stdin:
                self.source.unlink()


def plan_file(source: Path, output: Path | None, settings: Settings, *, format: str | None) -> FileJob:  # noqa: A002
    """Settle where a run reads and writes; standard input and output go through files, so that it can continue.

    Raises:
        InputError: standard input is empty.
        OutputError: the place for these files cannot be written.
    """
    from_stdin = str(source) == STDIO
    if from_stdin:
        format = format or "txt"  # noqa: A001
        source = _spool(settings.state_dir, format)
    to_stdout = str(output) == STDIO or (output is None and from_stdin)
    if to_stdout:
        name = hashlib.sha256(f"{source.resolve()} {settings.task}".encode()).hexdigest()[:16]
        output = _private(settings.state_dir / "stdout") / f"{name}.jsonl"
    elif output is None:
        output = _beside(source, format)
    return FileJob(source, output, settings, format, from_stdin=from_stdin, to_stdout=to_stdout)


def _beside(source: Path, given: str | None) -> Path:
    """`comments.csv` → `comments.analyzed.csv`; formats that cannot hold columns become CSV."""
    format = file_kind(source, given, error=InputError).format  # noqa: A001
    stem = Path(source.name.removesuffix(".gz")).stem
    return source.with_name(f"{stem}.analyzed.{'csv' if format == 'txt' else format}")


def _private(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be created: {error.strerror}.", hint="Set REVIEWMILL_STATE_DIR to a folder of yours."
        ) from error
    return folder


def _spool(state_dir: Path, format: str) -> Path:  # noqa: A002
    """Copy standard input to a file named by its content: the same input continues the same run."""
    folder = _private(state_dir / "stdin")
    digest = hashlib.sha256()
    handle, temporary = tempfile.mkstemp(dir=folder)
    with os.fdopen(handle, "wb") as file:
        while block := sys.stdin.buffer.read(1 << 20):
            digest.update(block)
            file.write(block)
    path = folder / f"{digest.hexdigest()[:16]}.{format}"
    Path(temporary).replace(path)
    return path


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        typer.secho(f"warning: {warning}", fg=typer.colors.YELLOW, err=True)
