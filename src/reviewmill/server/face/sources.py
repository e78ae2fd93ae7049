"""Files that are attached to a message: how they are named in its text. Pure.

Open WebUI writes what its document loader made of an attached file before the question:

    <source id="1" name="reviews.csv" resource-type="file" resource-id="FILE">reviewmill-file:FILE …</source>
    How do people like it?

It does so again with every later question of the chat. Names of files stand there unescaped, so nothing in them is
believed: only what our own loader wrote between the tags, or else the `resource-id`, names a file. Both are looked up
among the asker's own files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

FILE_ID: Final = re.compile(r"[A-Za-z0-9_.-]{8,100}", re.ASCII)

_MARK: Final = re.compile(r"reviewmill-file:([A-Za-z0-9_.-]{8,100})(?=\s|\Z)", re.ASCII)
_RESOURCE: Final = re.compile(r'resource-type="file" resource-id="([A-Za-z0-9_.-]{8,100})"', re.ASCII)
_OPENING: Final = re.compile(r"\s*<source(?=[ >])")
_CLOSING: Final = "</source>"


@dataclass(frozen=True, slots=True)
class Sources:
    """A message, taken apart.

    Attributes:
        files: the ids of the attached files, in order, each once.
        marked: whether our loader named at least one of them.
        others: how many sources are no files (web pages, notes, …).
        text: what the person wrote.
    """

    files: tuple[str, ...]
    marked: bool
    others: int
    text: str


def marker(file_id: str, rows: int) -> str:
    """The text that stands for a file, wherever a chat program shows or sends the file's content."""
    return (
        f"reviewmill-file:{file_id}\n"
        f"{rows:,} comments. The models reviewmill-… analyse the whole file when they are asked about it.\n"
        f"共 {rows:,} 条评论。向 reviewmill-… 模型提问，就会分析整个文件。"
    )


def read_sources(message: str) -> Sources:
    """Take the sources off the beginning of a message."""
    files: list[str] = []
    marked, others, at = False, 0, 0
    while opening := _OPENING.match(message, at):
        end = message.find(_CLOSING, opening.end())
        if end < 0:
            break
        block = message[opening.end() : end]
        mark = _MARK.search(block)
        resource = None if mark else _last(_RESOURCE, block)
        if mark or resource:
            files.append((mark or resource)[1])  # type: ignore[index]
            marked = marked or mark is not None
        else:
            others += 1
        at = end + len(_CLOSING)
    text = message[at:].lstrip("\r\n") if at else message
    return Sources(tuple(dict.fromkeys(files)), marked, others, text)


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last match: what stands after a name was not written by whoever named the file."""
    matches = list(pattern.finditer(text))
    return matches[-1] if matches else None
