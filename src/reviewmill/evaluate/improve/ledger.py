"""Which comments have judged a search before, on this machine: names of texts, never texts."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock

from reviewmill.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_FILE: Final = "judged.jsonl"


class Ledger:
    """A file to which a line is added before rows judge.

    A row that has judged is used for that task: what was accepted or refused because of it shapes what is tried next,
    so that a second verdict by the same row is worth less than it says.

    Args:
        folder: where the file lies; created when something is written.
        task: the task's name; other tasks' rows do not count.
    """

    def __init__(self, folder: Path, task: str) -> None:
        self._path = folder / _FILE
        self._task = task

    def _lines(self) -> list[dict[str, Any]]:
        try:
            content = self._path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise OutputError(f"{self._path} cannot be read: {error.strerror}.") from error
        lines = []
        for line in content.splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # the end of a line that was cut by a crash
                continue
            if isinstance(entry, dict) and entry.get("task") == self._task:
                lines.append(entry)
        return lines

    def used(self) -> set[str]:
        """The digests of all texts that have judged."""
        return {digest for entry in self._lines() for digest in entry.get("rows", ())}

    def times(self, source: str) -> int:
        """How many searches over a file (by its digest) were judged."""
        return sum(entry.get("file") == source for entry in self._lines())

    def add(self, digests: Sequence[str], *, source: str, winner: str) -> None:
        """Write down that these texts judge now; it is on the disk when this returns.

        Raises:
            OutputError: it cannot be written: then nothing may be judged.
        """
        entry = {"at": time.time(), "task": self._task, "file": source, "winner": winner, "rows": list(digests)}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with FileLock(f"{self._path}.lock"):
                handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                with os.fdopen(handle, "a", encoding="utf-8") as file:
                    # A line that a crash cut short must not swallow this one.
                    file.write(("\n" if file.tell() else "") + json.dumps(entry) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(
                f"{self._path} cannot be written: {error.strerror}.", hint="Set REVIEWMILL_STATE_DIR to your folder."
            ) from error
