"""How an answer travels: the format that the model is asked for, what enforces it, and how it is read back.

Two formats carry the same answer, the label always first:

* `CompactWire`: `negative|拍照,差` (about 8 tokens); enforced by a GBNF grammar or a regular expression.
* `JsonWire`: `{"sentiment":"negative","keywords":["拍照","差"]}` (about 16 tokens); enforced by JSON Schema, which
  nearly every server takes. It is also what is asked for, unenforced, where a server can enforce nothing.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final, Protocol

from reviewmill.tasks.task import MAX_KEYWORD_CHARS, Task

_METACHARACTERS: Final = re.compile(r"[.^$*+?{}\[\]()|\\]")
_KEYWORDS_KEY: Final = re.compile(r'"keywords"\s*:\s*\[')
_LIST_ITEM: Final = re.compile(r'\s*(?:,\s*)?("(?:[^"\\]|\\.)*")', re.DOTALL)
_LIST_END: Final = re.compile(r"\s*(?:,\s*)?\]")


@dataclass(frozen=True, slots=True)
class Parsed:
    """An answer read back.

    Attributes:
        label: the label, or None if the text holds none.
        label_start: where the label begins, in bytes of the UTF-8 text.
        keywords: as generated, at most `max_keywords`.
        complete: whether the format was closed; False if the text was cut. The compact format has no closing mark, so
            a cut in it shows only in the server's `finish_reason`.
    """

    label: str | None
    label_start: int
    keywords: tuple[str, ...]
    complete: bool


_NOTHING: Final = Parsed(None, 0, (), complete=False)


class Wire(Protocol):
    """One answer format for one task."""

    name: ClassVar[str]

    @property
    def terminators(self) -> tuple[bytes, ...]:
        """What may follow a label."""

    @property
    def max_tokens(self) -> int:
        """Enough for the longest legal answer."""

    def example(self, label: str, keywords: tuple[str, ...]) -> str:
        """The answer as the model should write it."""

    def parse(self, text: str) -> Parsed:
        """Read an answer back; never raises."""


@dataclass(frozen=True)
class _BaseWire(ABC):
    task: Task
    keywords: bool

    @abstractmethod
    def example(self, label: str, keywords: tuple[str, ...]) -> str:
        """The answer as the model should write it."""

    @cached_property
    def max_tokens(self) -> int:
        # A token has at least one byte, a character at most four; the rest is for white space and the end's token.
        longest = max(self.task.label_names, key=lambda name: len(name.encode()))
        words = ("\U0001f600" * MAX_KEYWORD_CHARS,) * self.task.max_keywords
        return len(self.example(longest, words).encode()) + 16

    def _label_of(self, body: str, terminators: tuple[str, ...]) -> str | None:
        """The label that the text begins with; the longest, or "好" would hide "好评"."""
        longest_first = sorted(self.task.label_names, key=len, reverse=True)
        return next((name for name in longest_first if _is_label(body, name, terminators)), None)

    def _kept(self, words: Iterable[str]) -> tuple[str, ...]:
        """The keywords that are any; half a character (a lone surrogate) occurs in no comment."""
        stripped = (word.strip() for word in words)
        kept = [word for word in stripped if word and not any("\ud800" <= char <= "\udfff" for char in word)]
        return tuple(kept[: self.task.max_keywords]) if self.keywords else ()


class CompactWire(_BaseWire):
    """`label|keyword,keyword`, one line."""

    name: ClassVar[str] = "compact"
    terminators: ClassVar[tuple[bytes, ...]] = (b"|", b"\n", b"\r")

    def example(self, label: str, keywords: tuple[str, ...]) -> str:
        """`negative|拍照,差`; the label alone where there are no keywords."""
        return f"{label}|{','.join(keywords)}" if self.keywords and keywords else label

    @cached_property
    def grammar(self) -> str:
        """The format in GBNF (llama.cpp's grammar language)."""
        # A label holds no quote, backslash or control character, so that JSON's literal is GBNF's too.
        labels = " | ".join(json.dumps(name, ensure_ascii=False) for name in self.task.label_names)
        if not self.keywords:
            return f"root ::= {labels}\n"
        more = self.task.max_keywords - 1
        keyword = f"[^|,，\\n\\r] [^|,，\\n\\r]{{0,{MAX_KEYWORD_CHARS - 1}}}"
        return f'root ::= ({labels}) ("|" kw ("," kw){{0,{more}}})?\nkw ::= {keyword}\n'

    @cached_property
    def regex(self) -> str:
        """The same format as a regular expression (vLLM's `structured_outputs.regex`)."""
        labels = "|".join(_literal(name) for name in self.task.label_names)
        if not self.keywords:
            return f"({labels})"
        keyword = rf"[^|,，\n\r]{{1,{MAX_KEYWORD_CHARS}}}"
        return rf"({labels})(\|{keyword}(,{keyword}){{0,{self.task.max_keywords - 1}}})?"

    def parse(self, text: str) -> Parsed:
        """Read `label|keyword,keyword` back; what follows the first line is not part of the answer."""
        body = text.lstrip()
        label = self._label_of(body, ("|", "\n", "\r"))
        if label is None:
            return _NOTHING
        line = re.split(r"[\n\r]", body[len(label) :], maxsplit=1)[0]
        keywords = self._kept(re.split("[,，]", line.partition("|")[2]))
        return Parsed(label, _bytes_before(text, len(text) - len(body)), keywords, complete=True)


class JsonWire(_BaseWire):
    """`{"sentiment":"negative","keywords":["拍照","差"]}`, without spaces."""

    name: ClassVar[str] = "json"
    terminators: ClassVar[tuple[bytes, ...]] = (b'"',)

    def example(self, label: str, keywords: tuple[str, ...]) -> str:
        """The answer as compact JSON."""
        answer: dict[str, Any] = {self.task.name: label}
        if self.keywords:
            answer["keywords"] = list(keywords)
        return json.dumps(answer, ensure_ascii=False, separators=(",", ":"))

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The format as JSON Schema (draft 2020-12)."""
        properties: dict[str, Any] = {self.task.name: {"type": "string", "enum": list(self.task.label_names)}}
        if self.keywords:
            word = {"type": "string", "minLength": 1, "maxLength": MAX_KEYWORD_CHARS}
            properties["keywords"] = {"type": "array", "items": word, "maxItems": self.task.max_keywords}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    @cached_property
    def regex(self) -> str:
        """The format as a regular expression: without white space, in which small models run away."""
        labels = "|".join(_literal(name) for name in self.task.label_names)
        if not self.keywords:
            return rf'\{{"{_literal(self.task.name)}":"({labels})"\}}'
        keyword = rf'"([^"\\\n\r\t]|\\["\\]){{1,{MAX_KEYWORD_CHARS}}}"'
        listed = rf"({keyword}(,{keyword}){{0,{self.task.max_keywords - 1}}})?"
        return rf'\{{"{_literal(self.task.name)}":"({labels})","keywords":\[{listed}\]\}}'

    def parse(self, text: str) -> Parsed:
        """Read the JSON back; a cut answer gives what it holds, and a bare label is understood too."""
        key = re.search(rf'"{re.escape(self.task.name)}"\s*:\s*"\s*', text)
        if key is None:
            is_json = text.lstrip().startswith("{")
            return _NOTHING if is_json else CompactWire(self.task, self.keywords).parse(text)
        body = text[key.end() :]
        label = self._label_of(body, ('"',))
        if label is None or self._may_grow(body, label):
            return _NOTHING
        listed = _KEYWORDS_KEY.search(text) if self.keywords else None
        words, after = _json_strings(text, listed.end()) if listed else ([], body[len(label) :])
        complete = after is not None and "}" in after
        return Parsed(label, _bytes_before(text, key.end()), self._kept(words), complete)

    def _may_grow(self, body: str, label: str) -> bool:
        """Whether the answer was cut inside what may have been a longer label: its quote is not closed."""
        return '"' not in body and any(name != label and name.startswith(body) for name in self.task.label_names)


def _literal(text: str) -> str:
    """A text as a regular expression that matches only it."""
    # Not re.escape: it also escapes spaces, dashes and #, which other engines' dialects need not know.
    return _METACHARACTERS.sub(r"\\\g<0>", text)


def _is_label(body: str, name: str, terminators: tuple[str, ...]) -> bool:
    rest = body[len(name) :].lstrip(" \t.。")
    return body.startswith(name) and (not rest or rest.startswith(terminators))


def _bytes_before(text: str, end: int) -> int:
    return len(text[:end].encode("utf-8", "surrogatepass"))


def _json_strings(text: str, start: int) -> tuple[list[str], str | None]:
    """The strings of the list that begins at `start`, and what follows the list; None if it was not closed."""
    words: list[str] = []
    at = start
    while item := _LIST_ITEM.match(text, at):
        at = item.end()
        try:
            words.append(str(json.loads(item[1], strict=False)))
        except ValueError:  # a broken escape spoils that keyword only
            continue
    end = _LIST_END.match(text, at)
    return words, text[end.end() :] if end else None
