"""Task files: their model, validation, content hash, and where they are found."""

from __future__ import annotations

import hashlib
import json
import tomllib
import unicodedata
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from reviewmill.errors import TaskError
from reviewmill.schema import AnalysisFields

BUILTIN_TASKS: Final = ("sentiment", "emotion")
MAX_KEYWORD_CHARS: Final = 16
"""A keyword's longest form, in Unicode code points."""

_RESERVED: Final = frozenset(AnalysisFields.__annotations__) | {"label", "text"}
_DICT_METHODS: Final = frozenset(name for name in dir(dict) if not name.startswith("_"))
_MAX_FILE_BYTES: Final = 256 * 1024
_BREAKS_LABEL: Final = '|,，"\\<>'
_BREAKS_KEYWORD: Final = "|,，\n\r"
_EXAMPLE_HINT: Final = "`reviewmill tasks show sentiment --source` prints a complete example."
_PLAIN: Final = {"missing": "is missing", "extra_forbidden": "is not a field that a task file has"}


def _is_name(name: str) -> bool:
    taken = name.casefold() in _RESERVED or name in _DICT_METHODS
    return len(name) <= 64 and name.isidentifier() and not taken


def _check_name(name: str) -> str:
    if not _is_name(name):
        raise ValueError(
            f"name {name!r} must be at most 64 letters, digits and underscores, must not start with a digit, and must "
            f"not be a field of every analysis ({', '.join(sorted(_RESERVED))}) or a method of dict"
        )
    return name


def _check_label(name: str) -> str:
    breaking = sorted(char for char in set(name) if char in _BREAKS_LABEL or _is_layout(char))
    if breaking or name != name.strip():
        held = f"holds {', '.join(map(ascii, breaking))}" if breaking else "begins or ends with a space"
        raise ValueError(
            f"label {name!r} {held}; a label has no commas, quotes, backslashes, |, <, >, control characters or white "
            "space other than plain spaces between its words"
        )
    return name


def _is_layout(char: str) -> bool:
    return char != " " and unicodedata.category(char) in {"Cc", "Zl", "Zp", "Zs"}


def _same(name: str) -> str:
    """What labels must differ in: neither case nor full width makes another label."""
    return unicodedata.normalize("NFKC", name).casefold()


Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2000)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Label(_Model):
    """One possible answer: the word that the model writes, and when to write it.

    `weight` corrects a model that gives a label too readily (below 1) or too rarely (above): its probability is
    multiplied by it, and all are normalised again, before the most probable label is taken. The model is not shown it.
    """

    name: Annotated[str, StringConstraints(min_length=1, max_length=40), AfterValidator(_check_label)]
    definition: Line
    weight: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 1.0


class Example(_Model):
    """A comment with its right answer, shown to the model.

    Keywords must occur in the text, have at most `MAX_KEYWORD_CHARS` characters, and hold neither commas nor `|`.
    """

    text: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=1000)]
    label: str
    keywords: tuple[Line, ...] = ()


class Task(_Model):
    """What to find out about a comment.

    Attributes:
        name: an identifier; the label stands under it in every analysis and export.
        description: one or two sentences: what is judged, and whose view counts.
        language: the language that the instructions around the task are written in (`zh` or `en`); comments may be
            in any language.
        labels: 2 to 20 labels with their definitions.
        guidelines: rules for hard cases, one line each.
        examples: comments with their answers.
        keywords: whether keywords are extracted.
        max_keywords: at most this many (1 to 10).
    """

    name: Annotated[str, AfterValidator(_check_name)]
    description: Line
    language: Literal["zh", "en"] = "zh"
    labels: Annotated[tuple[Label, ...], Field(min_length=2, max_length=20)]
    guidelines: tuple[Line, ...] = ()
    examples: Annotated[tuple[Example, ...], Field(max_length=50)] = ()
    keywords: Annotated[bool, Field(strict=True)] = True
    max_keywords: Annotated[int, Field(strict=True, ge=1, le=10)] = 5

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        names = [label.name for label in self.labels]
        if len({_same(name) for name in names}) != len(names):
            raise ValueError(f"labels must differ by more than case and width; found {names}")
        for number, example in enumerate(self.examples, 1):
            if example.label not in names:
                raise ValueError(f"example {number} has label {example.label!r}, which is not one of {names}")
            missing = [keyword for keyword in example.keywords if keyword not in example.text]
            if missing:
                raise ValueError(f"example {number}: keywords {missing} do not occur in its text")
            self._check_format(number, example.keywords)
        return self

    def _check_format(self, number: int, keywords: tuple[str, ...]) -> None:
        """An example that breaks the answer format would teach the model to break it."""
        long = [word for word in keywords if len(word) > MAX_KEYWORD_CHARS or set(word) & set(_BREAKS_KEYWORD)]
        if long:
            raise ValueError(
                f"example {number}: keywords {long} must have at most {MAX_KEYWORD_CHARS} characters, on one line, "
                "without commas and |"
            )
        if len(keywords) > self.max_keywords:
            raise ValueError(f"example {number} has {len(keywords)} keywords; max_keywords is {self.max_keywords}")

    @cached_property
    def label_names(self) -> tuple[str, ...]:
        """The labels' names, in the file's order."""
        return tuple(label.name for label in self.labels)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the task's content: its version. Comments and layout of the file do not count."""
        return _digest(self.model_dump(mode="json"))

    @cached_property
    def asked_hash(self) -> str:
        """The same of what the model is asked, which is all but the weights: what a cached answer depends on."""
        return _digest(self.model_dump(mode="json", exclude={"labels": {"__all__": {"weight"}}}))

    @cached_property
    def weights(self) -> dict[str, float]:
        """Each label's weight."""
        return {label.name: label.weight for label in self.labels}

    def notes(self) -> list[str]:
        """Return what is legal and yet likely to make answers worse, one sentence each."""
        shown = {example.label for example in self.examples}
        notes = [f"label {name!r} has no example" for name in self.label_names if name not in shown]
        if not self.guidelines:
            notes.append("there are no guidelines for hard cases")
        return notes


def _digest(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def parse_task(source: str, where: str) -> Task:
    """Read a task from TOML text.

    Args:
        source: the TOML text.
        where: the file's name, for messages.

    Raises:
        TaskError: it is not TOML, or does not describe a task; the message names each field.
    """
    try:
        content = tomllib.loads(source)
    except RecursionError:
        raise TaskError(f"{where} is not a task: its brackets are nested too deeply.", hint=_EXAMPLE_HINT) from None
    except ValueError as error:  # TOMLDecodeError, and Python's own for a number of thousands of digits
        raise TaskError(f"{where} is not valid TOML: {error}", hint="Correct that line and try again.") from None
    return _validated(content, where)


def _validated(content: dict[str, Any], where: str) -> Task:
    try:
        return Task.model_validate(content)
    except ValidationError as error:
        lines = [
            f"  {'.'.join(str(part + 1) if isinstance(part, int) else part for part in e['loc']) or 'task'}: "
            f"{_PLAIN.get(e['type'], e['msg'].removeprefix('Value error, '))}"
            for e in error.errors(include_input=False, include_url=False)
        ]
        raise TaskError(
            f"{where} is not a valid task:\n" + "\n".join(lines),
            hint=_EXAMPLE_HINT,
        ) from None


def task_source(name_or_path: str | Path) -> tuple[str, str]:
    """Find a task file; return its TOML text and where it was found.

    Raises:
        TaskError: there is no such task, or the file cannot be read.
    """
    if str(name_or_path) in BUILTIN_TASKS:
        file = resources.files("reviewmill.tasks") / "builtin" / f"{name_or_path}.toml"
        return file.read_text(encoding="utf-8"), f"built-in task {name_or_path}"
    path = Path(name_or_path)
    try:
        # Not by its size: a pipe or a device does not say it.
        with path.open("rb") as opened:
            content = opened.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise TaskError(
                f"{path} is larger than {_MAX_FILE_BYTES // 1024} KiB; that is no task file.",
                hint="Comments to analyse go before --task, the task file after it.",
            )
        return content.decode("utf-8-sig"), str(path)
    except FileNotFoundError:
        raise TaskError(
            f"There is no task {str(name_or_path)!r}: it is not built in and not a file.",
            hint=f"Built in: {', '.join(BUILTIN_TASKS)}. `reviewmill tasks new my.toml` starts one of your own.",
        ) from None
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path that no file can have
        raise TaskError(
            f"{str(path)!r} cannot be read as a task file: {error}", hint="It must be a UTF-8 TOML file."
        ) from None


def load_task(name_or_path: str | Path | Task) -> Task:
    """Load a built-in task by name or a task file by path; a Task is returned as it is.

    Raises:
        TaskError: there is no such task, or its file is not valid.
    """
    return name_or_path if isinstance(name_or_path, Task) else parse_task(*task_source(name_or_path))


def template(name: str) -> str:
    """Return the TOML text of a new task to fill in; it is valid as it stands.

    Raises:
        TaskError: the name cannot be a task's name.
    """
    if not _is_name(name):
        raise TaskError(
            f"A task cannot be called {name!r}: a name is letters, digits and underscores, does not start with a "
            f"digit, and is not a field of every analysis ({', '.join(sorted(_RESERVED))}) or a method of dict.",
            hint="Give it another with --name.",
        )
    text = (resources.files("reviewmill.tasks") / "builtin" / "_template.toml").read_text(encoding="utf-8")
    return text.replace("my_task", name, 1)
