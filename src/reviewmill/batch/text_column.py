"""Which column of a table holds the comments, and which the ids: by name, else by looking."""

from __future__ import annotations

import re
import statistics
import unicodedata
from typing import TYPE_CHECKING, Any, Final

from reviewmill.batch.tables import short
from reviewmill.errors import ColumnError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

TEXT_NAMES: Final = (
    *("评论", "评论内容", "评论正文", "评价", "评价内容", "评论文本", "评价文本", "内容", "文本", "正文", "留言"),
    *("留言内容", "反馈", "反馈内容", "意见", "評論", "評論內容", "評價", "評價內容", "內容", "文字", "留言內容"),
    *("review_text", "review_body", "review_content", "review", "reviews", "comment_text", "comment_body"),
    *("comment", "comments", "text", "content", "body", "message", "feedback", "original_text", "sentence", "tweet"),
)
"""Names of the text column, the surest first; compared without case, spaces, hyphens and underscores."""

ID_NAMES: Final = ("id", "编号", "評論id", "评论id", "评论编号", "review_id", "comment_id")
"""Names of the id column, likewise."""

_NUMBER = r"[+-]?[\d.,]*\d%?"
_DATE = r"\d{1,4}[-/.年]\d{1,2}([-/.月]\d{1,4}日?)?([T ].*)?|\d{1,2}:\d\d(:\d\d)?"
_ADDRESS = r"https?://\S+|www\.\S+|\S+@\S+\.\w+"
_NO_TEXT: Final = re.compile(rf"\s*({_NUMBER}|{_DATE}|{_ADDRESS})\s*")
_CODE: Final = re.compile(r"(?=\S*\d)[\x21-\x7e]{4,}")
_SENTENCE: Final = re.compile(r"[。！!，…]|.{41}|[.] ")


def _plain_name(name: str) -> str:
    """A column name as it is compared: no case, no spaces, hyphens or underscores, no full-width forms."""
    return re.sub(r"[\s_\-\u200b\ufeff]", "", unicodedata.normalize("NFKC", name)).casefold()


def find_named(columns: Sequence[str], names: Iterable[str]) -> list[str]:
    """The columns that have one of the names, by the order of the names."""
    by_name = {_plain_name(column): column for column in reversed(columns)}
    wanted = dict.fromkeys(map(_plain_name, names))
    return [by_name[name] for name in wanted if name in by_name]


def given_column(path: Path, columns: Sequence[str], wanted: str, option: str) -> str:
    """The column that an option names; ColumnError if it is not there."""
    if wanted in columns:
        return wanted
    found = find_named(columns, [wanted])
    if not found:
        raise ColumnError(
            f"{path} has no column {wanted!r}.", columns, hint=f"{option} takes one of: {_listed(columns)}"
        )
    return found[0]


def _listed(columns: Sequence[str], limit: int = 40) -> str:
    more = f", ... ({len(columns) - limit:,} more)" if len(columns) > limit else ""
    return ", ".join(columns[:limit]) + more


def id_column_of(path: Path, columns: Sequence[str], wanted: str | None) -> str | None:
    """The column that holds the ids, or None; ColumnError if `wanted` is not there."""
    if wanted is not None:
        return given_column(path, columns, wanted, "--id")
    return next(iter(find_named(columns, ID_NAMES)), None)


def text_column_of(
    path: Path, columns: Sequence[str], sample: Sequence[dict[str, Any]], wanted: str | None, *, has_header: bool
) -> str:
    """The column that holds the comments; ColumnError if it is not clear which one."""
    if not columns:
        raise ColumnError(
            f"{path} has rows, and no row has a column.", columns, hint='Each row needs one, like {"comment": "…"}.'
        )
    if wanted is not None:
        return given_column(path, columns, wanted, "--text")
    scores = {column: _text_score([fields[column] for fields in sample]) for column in columns}
    named = find_named(columns, TEXT_NAMES)
    if named:
        return next((column for column in named if scores[column] > 0), named[0])
    if has_header and any(_is_data(column) for column in columns):
        raise ColumnError(
            f"{path}: the first line looks like data, not like column names: {short(', '.join(columns), 80)}",
            columns,
            hint="Put a line with column names on top (for example: comment), name the column with --text if it is a "
            "header after all, or read the file as one comment a line (--format txt).",
        )
    best, *others = sorted(scores, key=lambda column: scores[column], reverse=True)
    if scores[best] >= 8 and all(scores[best] >= 2 * scores[other] for other in others[:1]):
        return best
    samples = "\n".join(
        f"  {column}: {short(next((f[column] for f in sample if f[column] not in (None, '')), ''))}"
        for column in columns[:40]
    )
    raise ColumnError(
        f"{path}: it is not clear which column holds the comments. Its {len(columns)} columns, each with a "
        f"value:\n{samples}",
        columns,
        hint="Name the column: --text COLUMN.",
    )


def _is_data(name: str) -> bool:
    """Whether a column name looks like a value. A survey's question is a name, however long it is."""
    if name.rstrip().endswith(("?", "？", ":", "：")):
        return False
    return bool(_NO_TEXT.fullmatch(name) or _SENTENCE.search(name))


def _text_score(values: Sequence[Any]) -> float:
    """How much a column looks like free text: median length in half-widths (at most 200) x share of distinct values.

    0 if more than half of the values are numbers, dates, addresses or codes.
    """
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    wordy = [text for text in texts if not (_NO_TEXT.fullmatch(text[:200]) or _CODE.fullmatch(text.strip()))]
    if not wordy or 2 * len(wordy) <= len(texts):
        return 0.0
    lengths = [sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text[:200] if c.isalpha()) for text in wordy]
    return statistics.median(lengths) * len(set(texts)) / len(texts)
