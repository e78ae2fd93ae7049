"""Reading the challenge suite: one TOML file a phenomenon, in this folder."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

INSUFFICIENT: Final = "insufficient"
SENTIMENTS: Final = ("positive", "neutral", "negative")

Expected = Literal["positive", "neutral", "negative", "insufficient"]
_Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]

# The order in which they are shown.
PHENOMENA: Final = (
    "double_negation", "rhetorical_question", "irony", "slang", "dialect", "homophone", "emoji", "mixed",
    "comparison", "expectation", "conditional", "idiom", "neutral_fact", "question", "default_text", "incentivised",
    "code_mix", "injection", "minimal_pair", "other_language",
)  # fmt: skip


class Case(BaseModel):
    """One comment of the suite.

    Attributes:
        id: its name in reports.
        text: the comment.
        label: the right answer; `insufficient` where there is nothing to judge.
        lang: its language (BCP 47); of mixed ones, the language of the sentence.
        why: the reason for the label, one line.
        pair: the id of the case that differs from this one by a word or two, and in its label.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: _Line
    text: _Line
    label: Expected
    lang: _Line
    why: _Line
    pair: str | None = None


class Phenomenon(BaseModel):
    """What a group of cases tests.

    Attributes:
        name: the file's name.
        title: what it is called in tables.
        about: one sentence.
        cases: the comments.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    title: _Line
    about: _Line
    cases: tuple[Case, ...] = Field(alias="case", min_length=1)


@cache
def load_suite() -> tuple[Phenomenon, ...]:
    """All phenomena with their cases."""
    folder = resources.files("reviewmill.evaluate.challenge")
    read = ((name, (folder / f"{name}.toml").read_text(encoding="utf-8")) for name in PHENOMENA)
    return tuple(Phenomenon.model_validate(tomllib.loads(text) | {"name": name}) for name, text in read)
