"""A program's output in a file that does not grow for ever and shows no secrets."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

_LONGEST_LINE: Final = 1 << 16


class RotatingLog:
    """Writes whole lines; at `limit` bytes the file becomes `NAME.1`, that one `NAME.2`, and so on.

    Args:
        path: the file.
        limit: bytes after which a new one is begun.
        keep: how many older files are kept.
        secrets: strings that are replaced by `***`.
    """

    def __init__(self, path: Path, limit: int, keep: int, secrets: Sequence[str]) -> None:
        self.path = path
        self._limit = limit
        self._keep = keep
        self._secrets = [secret.encode() for secret in secrets if secret]
        self._rest = b""
        self._file: BinaryIO = path.open("ab")

    def write(self, data: bytes) -> None:
        """Add what the program said; a line shows when it is complete, because a secret may come in two pieces."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        if lines:
            self._put(b"\n".join(lines) + b"\n")

    def note(self, text: str) -> None:
        """Add a line of our own."""
        if self._rest:
            self._put(self._rest + b"\n")
            self._rest = b""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._put(f"[supervisor {stamp}] {text}\n".encode())

    def _put(self, data: bytes) -> None:
        for secret in self._secrets:
            data = data.replace(secret, b"***")
        if self._file.tell() and self._file.tell() + len(data) > self._limit:
            self._rotate()
        self._file.write(data)
        self._file.flush()

    def _rotate(self) -> None:
        self._file.close()
        for number in range(self._keep, 0, -1):
            older = self.path if number == 1 else self.path.with_name(f"{self.path.name}.{number - 1}")
            if older.exists():
                older.replace(self.path.with_name(f"{self.path.name}.{number}"))
        self._file = self.path.open("wb" if self._keep == 0 else "ab")
