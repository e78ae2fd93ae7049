"""Files on their way to a service and back: what is uploaded, and results that are there as a whole or not at all."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from reviewmill.errors import InputError, OutputError

BLOCK: Final = 1 << 18
"""Bytes that are read or written at once."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file, or its content, that can be sent several times."""

    name: str | None
    size: int
    source: Path | bytes

    @classmethod
    def of(cls, file: str | Path | bytes, name: str | None) -> Upload:
        """From a path, or from a content.

        Raises:
            InputError: the file cannot be read.
        """
        if isinstance(file, bytes):
            return cls(name, len(file), file)
        path = Path(file)
        try:
            with path.open("rb") as opened:
                return cls(name or path.name, os.fstat(opened.fileno()).st_size, path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from error

    async def blocks(self) -> AsyncIterator[bytes]:
        """The content, piece by piece; of exactly the size that was announced."""
        if isinstance(self.source, bytes):
            for start in range(0, self.size, BLOCK):
                yield self.source[start : start + BLOCK]
            return
        left = self.size
        with await asyncio.to_thread(self.source.open, "rb") as file:
            while left and (block := await asyncio.to_thread(file.read, min(BLOCK, left))):
                left -= len(block)
                yield block
        if left:
            raise InputError(f"{self.source} became shorter while it was sent.", hint="Send it when it is complete.")


@asynccontextmanager
async def replacing(target: Path) -> AsyncGenerator[IO[bytes], None]:
    """A temporary file beside the target, which takes its name when it is complete and on the disk.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        with await asyncio.to_thread(temporary.open, "xb") as file:
            yield file
            await asyncio.to_thread(_to_disk, file)
        temporary.replace(target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):  # it was renamed, or could not be made
            temporary.unlink()


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
