"""Write a task as the TOML file that would be read as the same task."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING

from reviewmill.errors import OutputError
from reviewmill.tasks.task import parse_task

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from reviewmill.tasks.task import Example, Label, Task


def task_toml(task: Task, comments: Sequence[str] = ()) -> str:
    """Return a task as TOML text; read again, it has the same hash.

    Args:
        task: the task.
        comments: lines to put at its head, without their `#`.
    """
    lines = [f"# {''.join(c for c in ' '.join(line.split()) if c.isprintable())}".rstrip() for line in comments]
    lines += [
        f"name = {_string(task.name)}",
        f"description = {_string(task.description)}",
        f"language = {_string(task.language)}",
        f"keywords = {str(task.keywords).lower()}",
        f"max_keywords = {task.max_keywords}",
        "",
        "guidelines = [",
        *(f"  {_string(rule)}," for rule in task.guidelines),
        "]",
    ]
    for label in task.labels:
        lines += _label(label)
    for example in task.examples:
        lines += _example(example)
    source = "\n".join(lines) + "\n"
    if parse_task(source, "the task as it would be written").hash != task.hash:
        raise AssertionError("a task changed while it was written")
    return source


def write_task(path: Path, task: Task, comments: Sequence[str] = ()) -> None:
    """Write a task file to a temporary name, then rename.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(task_toml(task, comments), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OutputError(f"{path} cannot be written: {error.strerror}.", hint="Choose another folder.") from error


def _label(label: Label) -> Iterable[str]:
    yield from ("", "[[labels]]", f"name = {_string(label.name)}", f"definition = {_string(label.definition)}")
    if label.weight != 1:
        yield f"weight = {label.weight!r}"


def _example(example: Example) -> Iterable[str]:
    yield from ("", "[[examples]]", f"text = {_string(example.text)}", f"label = {_string(example.label)}")
    if example.keywords:
        yield f"keywords = [{', '.join(map(_string, example.keywords))}]"


def _string(text: str) -> str:
    """A TOML basic string: JSON's, but that TOML escapes one character more."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
