"""Guideline sentences to try: pools that ship with a task, or a file of one's own."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from reviewmill.errors import TaskError
from reviewmill.tasks import BUILTIN_TASKS, load_task

if TYPE_CHECKING:
    from reviewmill.tasks import Task

_Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]


class Sentence(BaseModel):
    """A guideline to try.

    Attributes:
        text: the sentence, in the language of the task's instructions.
        tag: what it is about (`irony`, `facts`, ...): of two sentences with one tag, a prompt gets one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: _Line
    tag: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]


class Pool(BaseModel):
    """Sentences for tasks with certain labels.

    Attributes:
        labels: the labels that the sentences name; tasks with others cannot use them.
        language: the language that they are written in.
        sentences: what to try.
        present: the tags of sentences that the built-in task has already, by the beginning of each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: tuple[str, ...]
    language: Literal["zh", "en"]
    sentences: tuple[Sentence, ...] = Field(alias="sentence", min_length=1)
    present: dict[str, str] = {}

    def fits(self, task: Task) -> bool:
        """Whether the sentences can stand in this task."""
        return set(self.labels) == set(task.label_names) and self.language == task.language

    def tag_of(self, guideline: str) -> str | None:
        """What a guideline is about, if it is known."""
        own = {sentence.text: sentence.tag for sentence in self.sentences}
        return own.get(guideline) or next(
            (tag for beginning, tag in self.present.items() if guideline.startswith(beginning)), None
        )


def load_pool(task: Task, path: Path | None = None) -> Pool | None:
    """The pool for a task: the file that is named, else the one that ships for its labels and language, else None.

    Raises:
        TaskError: the file is no pool, or is one for other labels.
    """
    if path is not None:
        pool = _parse(_read(path), str(path))
        if not pool.fits(task):
            raise TaskError(
                f"{path} is a pool for the labels {', '.join(pool.labels)} in {pool.language!r}; the task "
                f"{task.name!r} has {', '.join(task.label_names)} in {task.language!r}.",
                hint="Write the task's labels and language into the pool.",
            )
        return pool
    folder = resources.files("reviewmill.tasks") / "builtin"
    for name in BUILTIN_TASKS:
        file = folder / f"{name}.pool.toml"
        if file.is_file():
            pool = _parse(file.read_text(encoding="utf-8"), f"built-in pool {name}")
            if pool.fits(task):
                return pool
    return None


def builtin_pools() -> dict[str, Pool]:
    """The pools that ship, by the built-in task's name; each fits its task."""
    return {name: pool for name in BUILTIN_TASKS if (pool := load_pool(load_task(name))) is not None}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise TaskError(f"{path} cannot be read as a pool: {error}.", hint="It must be a UTF-8 TOML file.") from error


def _parse(source: str, where: str) -> Pool:
    try:
        content: dict[str, Any] = tomllib.loads(source)
        return Pool.model_validate(content)
    except tomllib.TOMLDecodeError as error:
        raise TaskError(f"{where} is not valid TOML: {error}", hint="Correct that line and try again.") from None
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)]
        raise TaskError(
            f"{where} is no pool of sentences:\n" + "\n".join(lines),
            hint="It has labels, language and [[sentence]] tables with text and tag.",
        ) from None
