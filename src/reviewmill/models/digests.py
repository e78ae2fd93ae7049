"""SHA-256 of files, remembered; and trust on first use.

`digests.json` in the models folder holds two things. `seen`: the digest of each file by (size, modification time), so
that a file of gigabytes is hashed once. `trusted`: the digest that a file without a checksum in the catalog had when
it was first downloaded; from then on it must have that one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from filelock import FileLock

from reviewmill.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME: Final = "digests.json"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old or the new text, never a part.

    Raises:
        OSError: the file cannot be written.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            # mkstemp's file is for its owner alone, and a models folder may serve several users.
            os.fchmod(descriptor, 0o644)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes; waits for it. The kernel frees it if the process dies.

    Raises:
        OSError: the lock file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield


class Digests:
    """What is known of digests in one models folder."""

    def __init__(self, models_dir: Path) -> None:
        self._path = models_dir / _NAME

    def of(self, path: Path, *, afresh: bool = False) -> str:
        """SHA-256 of a file: remembered if size and modification time are as they were, else computed.

        Args:
            path: the file.
            afresh: compute in any case.
        """
        path = path.resolve()
        stat = path.stat()
        mark = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        seen = self._read()["seen"].get(str(path), {})
        if not afresh and {key: seen.get(key) for key in mark} == mark:
            return str(seen["sha256"])
        digest = sha256_of(path)
        # A folder that cannot be written costs the next call the time to compute it again, and nothing else.
        with contextlib.suppress(OSError):
            self._change("seen", str(path), {**mark, "sha256": digest})
        return digest

    def moved(self, old: Path, new: Path) -> None:
        """Carry over what is remembered of a file that was renamed."""
        old, new = old.resolve(), new.resolve()
        seen = self._read()["seen"].get(str(old))
        with contextlib.suppress(OSError):
            self._change("seen", str(old), None)
            if seen is not None:
                self._change("seen", str(new), seen)

    def trusted(self, name: str) -> str | None:
        """The digest that `name` (`MODEL/FILE`) had when it was first downloaded here, or None."""
        known = self._read()["trusted"].get(name)
        return str(known["sha256"]) if known else None

    def trust(self, name: str, digest: str, origin: str) -> None:
        """Trust that `name` has this digest, from now on.

        Args:
            name: `MODEL/FILE`.
            digest: SHA-256.
            origin: where the file came from.

        Raises:
            OSError: it cannot be written down.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._change("trusted", name, {"sha256": digest, "from": origin, "since": now})

    def distrust(self, name: str) -> None:
        """Forget the digest of `name` that was trusted."""
        if self.trusted(name) is not None:
            self._change("trusted", name, None)

    def _change(self, section: str, key: str, value: dict[str, Any] | None) -> None:
        with locked(self._path.with_name(f".{_NAME}.lock")):
            data = self._read()
            if value is None:
                data[section].pop(key, None)
            else:
                data[section][key] = value
            write_atomically(self._path, json.dumps(data, indent=1, sort_keys=True))

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            data = json.loads(self._path.read_text("utf-8"))
            return {section: dict(data[section]) for section in ("seen", "trusted")}
        except (FileNotFoundError, NotADirectoryError):
            return {"seen": {}, "trusted": {}}
        except OSError as error:
            raise ModelError(
                f"{self._path} cannot be read: {error.strerror}.", hint="Check its permissions."
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{self._path} is damaged: {error!r}.",
                hint="Delete it: digests are then computed again, and unverified files trusted anew.",
            ) from error
