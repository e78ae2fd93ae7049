"""What an attached file is: by its first and last bytes where these tell, else by its name, else by its lines."""

from __future__ import annotations

import codecs
import csv
from pathlib import Path
from typing import Final

from reviewmill.batch.formats import TEXT_FORMATS
from reviewmill.errors import InputError
from reviewmill.server.jobs.files import kind_of, shown_name

KNOWN: Final = "CSV, TSV, TXT, JSONL, JSON, XLSX, Parquet"

_HEAD: Final = 64 * 1024
_ZIP: Final = b"PK\x03\x04"
_LINES: Final = 20
_DOCUMENTS: Final = {b"word/": "a Word document", b"ppt/": "a presentation"}
_SAVE_AS: Final = "Save it as .xlsx or .csv."


def kind_of_content(path: Path, name: str) -> str:
    """The kind of a file (`csv`, `xlsx`, `jsonl.gz`, ...).

    Args:
        path: the file, under our own name.
        name: what its owner calls it.

    Raises:
        InputError: it is of no kind that holds comments.
    """
    with path.open("rb") as handle:
        head = handle.read(_HEAD)
        handle.seek(max(0, path.stat().st_size - _HEAD))
        tail = handle.read(_HEAD)
    named = _named(name)
    if head.startswith(_ZIP):
        return _packed(name, tail)
    if head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        raise InputError(f"{shown_name(name)} is an old .xls or .doc file, or has a password.", hint=_SAVE_AS)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"\x1f\x8b"):
        inner = _named(name) or "txt"
        return inner if inner.endswith(".gz") else f"{inner if inner in TEXT_FORMATS else 'txt'}.gz"
    # What is called .xlsx and is none, is often a CSV file that was renamed.
    return named if named in TEXT_FORMATS else _kind_of_lines(_decoded(head))


def _named(name: str) -> str | None:
    try:
        return kind_of(name, None, None)
    except InputError:
        return None


def _packed(name: str, tail: bytes) -> str:
    """What a ZIP archive is, by the list of its files, which stands at its end."""
    if b"xl/workbook" in tail:
        return "xlsx"
    what = next((what for mark, what in _DOCUMENTS.items() if mark in tail), "an archive")
    raise InputError(f"{shown_name(name)} is {what}, not a table of comments.", hint=f"Known: {KNOWN}.")


def _decoded(head: bytes) -> str:
    encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    text = head.decode(encoding, "replace")
    return text if text.count("\ufffd") * 20 <= len(text) else head.decode("gb18030", "replace")


def _kind_of_lines(text: str) -> str:
    begins = text.lstrip()[:1]
    if begins in {"{", "["}:
        return "jsonl" if begins == "{" else "json"
    lines = [line for line in text.splitlines()[:_LINES] if line.strip()]
    for kind, delimiter in (("tsv", "\t"), ("csv", ","), ("csv", ";")):
        counts = [len(row) for row in csv.reader(lines, delimiter=delimiter)]
        if len(counts) > 1 and counts[0] > 1 and len(set(counts)) == 1:
            return kind
    return "txt"
