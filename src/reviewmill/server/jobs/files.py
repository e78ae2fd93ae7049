"""Where a job's files lie. Every name in here is ours; what a caller calls a file is only ever shown.

    data_dir/jobs/<job>/upload.csv              as it came; removed when the job has ended
    data_dir/jobs/<job>/run-3/result.jsonl      what the third claim of the job wrote, with the run's journal beside it
    data_dir/jobs/<job>/run-3/exports/…         the same in other formats, made when they are asked for
    data_dir/jobs/<job>/lock                    held by whoever changes a finished result or makes an export

Each claim works in a folder of its own, named by its fencing token, and a reader takes the folder of the token under
which the job was finished. So a worker that lost its lease without noticing (it was frozen, or cut off) can write as
long as it likes: nobody reads it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sqlite3
import time
import unicodedata
from typing import TYPE_CHECKING, Final

from reviewmill.batch.formats import EXTENSIONS, TEXT_FORMATS
from reviewmill.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHOWN_NAME_CHARS: Final = 120
_ID: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z-]{7,63}")
_RUN: Final = re.compile(r"run-(\d+)")
_REMOVE_TRIES: Final = 20


class JobFiles:
    """The folder of one job.

    Args:
        root: the folder of all jobs.
        job_id: the job's id, as the store gave it.

    Raises:
        ValueError: `job_id` is no id; it is never taken for a path.
    """

    def __init__(self, root: Path, job_id: str) -> None:
        if not _ID.fullmatch(job_id):
            raise ValueError(f"not a job's id: {job_id!r}")
        self.folder = root / job_id
        self.lock = self.folder / "lock"

    def upload(self, kind: str) -> Path:
        """Where the upload lies; `kind` is a format, with `.gz` if it is packed."""
        return self.folder / f"upload.{kind}"

    def run(self, token: int) -> Path:
        """The folder in which the claim with this token works."""
        return self.folder / f"run-{token}"

    def result(self, token: int) -> Path:
        """What that claim writes."""
        return self.run(token) / "result.jsonl"

    def shape(self, token: int) -> Path:
        """What decides its columns."""
        return self.run(token) / "shape.json"

    def exports(self, token: int) -> Path:
        """Where other formats of it are kept."""
        return self.run(token) / "exports"

    def begin_run(self, token: int) -> None:
        """Make the folder of a new claim; the journal of the claim before it is copied, so that it is continued.

        A copy, because whoever held the job before may be frozen and not dead.

        Raises:
            OSError: the disk is full, or the like.
        """
        folder = self.run(token)
        folder.mkdir(mode=0o700, exist_ok=True)
        earlier = sorted(number for number in self._runs() if number < token)
        for number in reversed(earlier):
            if _copy_journal(_journal(self.result(number)), _journal(self.result(token))):
                break
        for number in earlier:
            remove_folder(self.run(number))

    def tidy(self, token: int | None) -> None:
        """Remove what an ended job needs no more: upload, journal, and the folders of other claims.

        Args:
            token: the claim whose result is kept; None keeps none.
        """
        for path in self.folder.glob("upload.*"):
            path.unlink(missing_ok=True)
        for number in self._runs():
            if number != token:
                remove_folder(self.run(number))
        if token is not None:
            kept = {self.result(token).name, self.shape(token).name}
            for path in self.run(token).iterdir():
                if path.name not in kept and not path.is_dir():
                    path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove everything."""
        remove_folder(self.folder)

    def _runs(self) -> list[int]:
        names = (_RUN.fullmatch(path.name) for path in self.folder.iterdir())
        return [int(name[1]) for name in names if name]


def _journal(result: Path) -> Path:
    return result.with_name(result.name + ".journal")


def _copy_journal(source: Path, target: Path) -> bool:
    """Copy an SQLite file that somebody may have open; False if there is none, or it cannot be read.

    Then the run starts anew, and finds in the cache what was answered before.
    """
    if not source.exists() or target.exists():
        return target.exists()
    unfinished = target.with_name("copy.tmp")
    unfinished.unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_CREAT | os.O_WRONLY, 0o600))
    try:
        with (
            contextlib.closing(sqlite3.connect(source, timeout=5)) as old,
            contextlib.closing(sqlite3.connect(unfinished)) as new,
        ):
            old.backup(new)
    except sqlite3.Error as error:
        unfinished.unlink(missing_ok=True)
        if "full" in str(error):
            raise OSError(f"the journal cannot be copied: {error}") from error
        return False
    unfinished.replace(target)
    return True


def remove_folder(folder: Path) -> None:
    """Remove a folder, also one into which somebody is still writing.

    Raises:
        OSError: it cannot be removed.
    """
    for attempt in range(_REMOVE_TRIES):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            if not folder.exists():
                return
        except OSError:
            if attempt == _REMOVE_TRIES - 1:
                raise
            time.sleep(0.05)
        else:
            return


def job_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """The folders of jobs, with the ids that they are named by."""
    for folder in root.iterdir():
        if _ID.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            yield folder.name, folder


def shown_name(name: str | None) -> str:
    """A caller's file name as it is shown and put into headers: no folders, no control or invisible characters.

    It never names a file of ours.
    """
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name or ""))[-1]
    visible = "".join(c for c in last if unicodedata.category(c)[0] not in "CZ" or c == " ")
    stripped = visible.strip(" .")
    if len(stripped) > SHOWN_NAME_CHARS:
        stem, dot, suffix = stripped.rpartition(".")
        suffix = dot + suffix if stem and len(suffix) <= 10 else ""
        stripped = stripped[: SHOWN_NAME_CHARS - len(suffix)] + suffix
    return stripped or "upload"


def kind_of(name: str, given: str | None, media_type: str | None) -> str:
    """The kind of an upload (`csv`, `jsonl.gz`, ...): as was said, else by its name, else by its media type.

    Raises:
        InputError: none of them tells.
    """
    named = _kind(f".{given.lower().lstrip('.')}") if given else _kind(name) or _MEDIA_TYPES.get(media_type or "")
    if named is None:
        wanted = repr(given or shown_name(name)) if given or name else f"a file without a name ({media_type})"
        raise InputError(
            f"The format of {wanted} is not known.",
            hint=f"Known: {', '.join(EXTENSIONS)}; text formats also with .gz. Say it in the field `format`.",
        )
    return named


_MEDIA_TYPES: Final = {
    "application/x-ndjson": "jsonl",
    "application/jsonl": "jsonl",
    "application/json": "json",
    "text/csv": "csv",
    "text/tab-separated-values": "tsv",
}
"""What a file may be by its media type; others (`application/octet-stream`, ...) say nothing."""


def _kind(name: str) -> str | None:
    stem, gzipped = (name[:-3], True) if name.lower().endswith(".gz") else (name, False)
    dot = stem.rfind(".")
    kind = EXTENSIONS.get(stem[dot:].lower()) if dot >= 0 else None
    if kind is None or (gzipped and kind not in TEXT_FORMATS):
        return None
    return f"{kind}.gz" if gzipped else kind
