"""Finished runs, found by what they left: the output, the manifest beside it, and the student that answered in it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reviewmill.batch.goals import student_path
from reviewmill.batch.manifest import Manifest
from reviewmill.errors import InputError, OutputError, StudentError

_BESIDE: Final = (".manifest.json", ".student.rm", ".journal")


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A run that wrote its output.

    Attributes:
        output: what it wrote.
        manifest: what it wrote down about it.
    """

    output: Path
    manifest: dict[str, Any]

    @property
    def certificate(self) -> dict[str, Any] | None:
        """What its cascade could say; None if it had none."""
        found: dict[str, Any] | None = self.manifest.get("certificate")
        return found


def find_run(path: Path) -> FinishedRun:
    """A finished run by its output, or by one of the files beside it (manifest, student, journal).

    Raises:
        InputError: there is no such run, or it has not finished.
    """
    suffix = next((suffix for suffix in _BESIDE if path.name.endswith(suffix)), "")
    output = path.with_name(path.name.removesuffix(suffix))
    place = Manifest.path_for(output)
    try:
        manifest = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _none(output, place) from None
    except (OSError, ValueError) as error:
        raise InputError(f"The manifest {place} cannot be read: {error}.") from error
    if not isinstance(manifest, dict) or "reviewmill" not in manifest:
        raise InputError(f"{place} is no manifest of a run.")
    return FinishedRun(output, manifest)


def _none(output: Path, place: Path) -> InputError:
    if output.with_name(output.name + ".journal").exists():
        return InputError(
            f"The run that writes {output} has not finished.", hint="Run its command again: it continues."
        )
    return InputError(
        f"There is no manifest {place}, so {output} is no output of `reviewmill analyze`, or it was moved without it.",
        hint="Name the output of a run, and leave what was written beside it there.",
    )


def distil(path: Path, target: Path, *, force: bool = False) -> dict[str, Any]:
    """Save the student of a finished run.

    Args:
        path: the run (`find_run`).
        target: the file to write.
        force: replace a file that is no student.

    Returns:
        What is said of the student: task, model, certificate.

    Raises:
        InputError: there is no such run.
        StudentError: no student answered in it, or its file is gone, or is that of another run.
        OutputError: `target` cannot be written, or holds something else.
    """
    from reviewmill.cascade.saved import load_student

    run = find_run(path)
    kept = student_path(run.output)
    _check_certificate(run)
    if not kept.exists():
        raise StudentError(
            f"{kept} is gone; the student of the run lay there.", hint="Run its command again: it is trained anew."
        )
    saved = load_student(kept)
    if saved.about.get("certificate") != run.certificate:
        raise StudentError(f"{kept} is the student of another run than {run.output}.", hint="Run its command again.")
    if target.exists() and not force:
        _check_target(target)
    _copy(kept, target)
    return saved.about


def _check_certificate(run: FinishedRun) -> None:
    if run.certificate is None:
        raise StudentError(
            f"{run.output} was written without a cascade: the model answered everything, and there is no student.",
            hint="Run it with --agreement 0.95; what the cache holds is not asked again, but learned from.",
        )
    if run.certificate.get("used") is None:
        raise StudentError(f"There is no student to save: {run.certificate['sentence']}")


def _check_target(target: Path) -> None:
    from reviewmill.cascade.saved import load_student

    try:
        load_student(target)
    except StudentError:
        raise OutputError(f"{target} exists and is no student.", hint="Choose another -o, or say --force.") from None


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(source.read_bytes())
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{target} cannot be written: {error.strerror}.", hint="Is the disk full?") from error
