"""What a cell of an output holds: values as text, text that no spreadsheet program runs, no lone surrogates."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from typing import Any, Final

LIST_SEPARATOR: Final = "|"

Rows = Iterable[Mapping[str, Any]]
"""What is to be written."""

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_FORMULA: Final = re.compile(r"[\t\r\n]|[\s\x00-\x20\u200b-\u200f\u2060\ufeff]*[=+\-@＝＋－＠]")
_PLAIN_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def mended(text: str) -> str:
    """The text with U+FFFD for each lone surrogate."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _replace_surrogates(error: UnicodeError) -> tuple[bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "\ufffd".encode() * (error.end - error.start), error.end


SURROGATES: Final = "reviewmill.surrogates"
"""The name of an error handler for encoders: a lone surrogate becomes U+FFFD."""

codecs.register_error(SURROGATES, _replace_surrogates)


def safe_cell(text: str) -> str:
    """The text as a CSV cell that no spreadsheet program runs as a formula.

    Text that begins with `=`, `+`, `-` or `@` (also full-width, also after white space), with a tab or with a line
    break gets an apostrophe in front, unless it is a plain number such as `-5` or `+3.2e5`.

    Source: OWASP, "CSV Injection", https://owasp.org/www-community/attacks/CSV_Injection
    """
    if _FORMULA.match(text) and not _PLAIN_NUMBER.fullmatch(text):
        return "'" + text
    return text


def read_back(text: str) -> str:
    """What `safe_cell` made this cell of."""
    return text[1:] if text.startswith("'") and safe_cell(text[1:]) == text else text


def flat(value: Any) -> str:
    """The value as the text of one cell."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return LIST_SEPARATOR.join(value)
    if isinstance(value, Mapping | list | tuple):
        return as_json(value, separators=(",", ":"))
    return _plain(value)


def _plain(value: Any) -> str:
    """The text of a value that is neither nested nor known to JSON (dates, decimals, bytes, ...)."""
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)


def as_json(value: Any, separators: tuple[str, str] = (", ", ": ")) -> str:
    """The value as JSON on one line; NaN and infinities are null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain, separators=separators)
    except (ValueError, TypeError):
        return json.dumps(_jsonable(value), ensure_ascii=False, default=_plain, separators=separators)


def _jsonable(value: Any) -> Any:
    """The value with null for NaN and infinities, and names that are strings."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value
