"""JSONL and JSON as tables; a JSON array is parsed piece by piece, without holding the file."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from reviewmill.batch.tables import LINE_COLUMN, MAX_FIELD_CHARS, Record, check_columns, malformed, short
from reviewmill.errors import InputError
from reviewmill.schema import ErrorInfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import TextIO

    from reviewmill.batch.formats import TextFile


def _load_json(line: str) -> Any:
    """Parse JSON; raises ValueError (RecursionError included) where it is none, and mends lone surrogates."""
    try:
        value = json.loads(line)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return _mend(value) if "\\u" in line else value


def _mend(value: Any) -> Any:
    """The value with every lone surrogate as U+FFFD: no UTF-8 file and no database could hold one."""
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [_mend(item) for item in value]
    if isinstance(value, dict):
        return {_mend(name): _mend(item) for name, item in value.items()}
    return value


def _union_of_keys(path: Path, items: Iterable[Any]) -> list[str]:
    """The keys of all objects, in order of first occurrence."""
    known: dict[str, None] = {}
    for item in items:
        if isinstance(item, dict) and not item.keys() <= known.keys():
            known.update(dict.fromkeys(item))
            check_columns(path, known)
    return list(known)


def _record_of(value: Any, columns: list[str], number: int, where: str, required: str | None) -> Record:
    if not isinstance(value, dict):
        message = f"{where}: not an object but {type(value).__name__}: {short(value)}"
        return number, dict.fromkeys(columns), malformed(message)
    if len(value) != len(columns):
        problem: ErrorInfo | None = None
        if required is not None and required not in value:
            problem = ErrorInfo(type="text_missing", message=f"{where}: the object has no key {required!r}")
        return number, {name: value.get(name) for name in columns}, problem
    return number, value, None


class JsonLines:
    """One JSON object a line; blank lines are skipped."""

    def __init__(self, file: TextFile) -> None:
        self._file = file
        self.columns = _union_of_keys(file.path, (value for _, value, _ in self._values()))

    def _values(self) -> Iterator[tuple[int, Any, str | None]]:
        with self._file.open(newline="\n") as handle:
            for number, line in enumerate(handle, 1):
                if line.isspace():
                    continue
                try:
                    yield number, _load_json(line), None
                except ValueError as error:
                    yield number, None, f"line {number} is not JSON: {error}"

    def records(self, required: str | None = None) -> Iterator[Record]:
        """See `Table`."""
        columns = self.columns
        for number, (line, value, problem) in enumerate(self._values(), 1):
            if problem is not None:
                yield number, dict.fromkeys(columns), malformed(problem)
            else:
                yield _record_of(value, columns, number, f"line {line}", required)


class Json:
    """An array of objects or of strings, or an object that holds one array; the file is parsed piece by piece."""

    def __init__(self, file: TextFile) -> None:
        self._file = file
        keys = _union_of_keys(file.path, self._items())
        first = next(self._items(), None)
        self._bare = not isinstance(first, dict)
        self.columns = [LINE_COLUMN] if self._bare else keys

    def _items(self) -> Iterator[Any]:
        with self._file.open() as handle:
            yield from _JsonArray(self._file.path, handle)

    def records(self, required: str | None = None) -> Iterator[Record]:
        """See `Table`."""
        for number, item in enumerate(self._items(), 1):
            if self._bare and not isinstance(item, dict | list):
                yield number, {LINE_COLUMN: item}, None
            elif self._bare:
                yield number, {LINE_COLUMN: None}, malformed(f"item {number}: not a string like the first")
            else:
                yield _record_of(item, self.columns, number, f"item {number}", required)


class _JsonArray:
    """The items of the one array in a JSON text, without holding the text.

    Raises, while iterating:
        InputError: the text is not JSON, or is no array and holds none, or holds several.
    """

    def __init__(self, path: Path, handle: TextIO) -> None:
        self._path = path
        self._handle = handle
        self._text = ""
        self._at = 0
        self._count = 0
        self._escapes = False
        self._ended = False

    def __iter__(self) -> Iterator[Any]:
        opening = self._peek()
        if opening == "[":
            yield from self._array()
        elif opening == "{":
            yield from self._object()
        else:
            raise self._error("is neither an array nor an object")
        if self._peek():
            raise self._error("goes on after its first value", "If it holds one object a line, name it .jsonl.")

    def _array(self) -> Iterator[Any]:
        self._at += 1
        if self._skip("]"):
            return
        while True:
            yield self._value()
            self._count += 1
            if self._skip("]"):
                return
            self._expect(",")

    def _object(self) -> Iterator[Any]:
        lists: list[str] = []
        self._at += 1
        while not self._skip("}"):
            name = self._value()
            self._expect(":")
            if self._peek() == "[":
                lists.append(str(name))
                if len(lists) > 1:
                    raise self._error(
                        f"holds several arrays ({', '.join(lists)}, ...)", "Keep the one with the comments."
                    )
                yield from self._array()
            else:
                self._value()
            if self._peek() != "}":
                self._expect(",")
        if not lists:
            raise self._error(
                "holds no array", "Wrap the objects in [ ], or name a file with one object a line .jsonl."
            )

    def _more(self) -> bool:
        """Read on; as much again as is waiting, so that a long item costs linear time."""
        waiting = self._text[self._at :]
        if len(waiting) > MAX_FIELD_CHARS:
            raise self._error(f"has an item over {MAX_FIELD_CHARS:,} characters")
        piece = self._handle.read(max(1 << 16, len(waiting)))
        self._text, self._at = waiting + piece, 0
        self._escapes = "\\u" in self._text
        self._ended = not piece
        return bool(piece)

    def _peek(self) -> str:
        """The next character that is not white space, or "" at the end."""
        while True:
            while self._at < len(self._text):
                character = self._text[self._at]
                if character not in " \t\r\n":
                    return character
                self._at += 1
            if not self._more():
                return ""

    def _skip(self, character: str) -> bool:
        if self._peek() != character:
            return False
        self._at += 1
        return True

    def _expect(self, character: str) -> None:
        if not self._skip(character):
            raise self._error(f"is not JSON: {character!r} is missing")

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                raise self._error("is nested too deeply") from None
            except json.JSONDecodeError as error:
                # An error far from the end of what was read is one; near the end, the value may only be cut there.
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - 16
                if not (cut and self._more()):
                    raise self._error(f"is not JSON: {error.msg}") from None
                continue
            if end == len(self._text) and not self._ended:  # 12 may be the beginning of 123
                self._more()
                continue
            escaped = self._escapes and "\\u" in self._text[self._at : end]
            self._at = end
            return _mend(value) if escaped else value

    def _error(self, problem: str, hint: str = "Repair the file, or write it again.") -> InputError:
        return InputError(f"{self._path} (after {self._count:,} items) {problem}.", hint=hint)


_DECODER: Final = json.JSONDecoder()
