"""Installing Open WebUI: pinned, into a virtual environment of its own, whole or not at all.

Open WebUI names each of its requirements by exact version, so it never shares an environment with anything. The slim
form (its own name for it: no torch, no embedding) is what we need, because files are read by our service. Its packages
are listed with their digests in `open-webui-slim.txt`: what was changed on its way is refused.

Wheels are fetched in groups, several at once; what has come stays, so that the next try goes on from there. They are
unpacked in a folder that is renamed at the end: an environment that has its name is complete.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from reviewmill.chat.interpreter import find
from reviewmill.chat.place import Place
from reviewmill.errors import InstallError

VERSION: Final = "0.12.4"
Flavour = Literal["slim", "full"]
Progress = Callable[[str, int, int | None], None]
"""Told the phase (`fetch`, `unpack`), the bytes that have come, and how many will."""

_MB: Final = 1_000_000
_DISK: Final[dict[Flavour, int]] = {"slim": 771 * _MB, "full": 2_900 * _MB}
"""Bytes on the disk, as measured."""

_SPARE: Final = 300 * _MB
_AT_ONCE: Final = 4
_GROUP: Final = 15
_TRIES: Final = 3
_LOOK_EVERY: Final = 0.5
_REASON_CHARS: Final = 600


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be installed.

    Attributes:
        flavour: `slim` or `full`.
        folder: the environment.
        wheels: where fetched wheels wait.
        download: bytes to fetch (Linux, x86-64); None if not known.
        disk: bytes on the disk afterwards.
        python: what it is made with; None if it is installed already.
    """

    flavour: Flavour
    folder: Path
    wheels: Path
    download: int | None
    disk: int
    python: Path | None

    @property
    def installed(self) -> bool:
        """Whether there is nothing to do."""
        return self.python is None

    @property
    def interpreter(self) -> Path:
        """The environment's own Python."""
        return self.folder / "bin" / "python"

    @property
    def words(self) -> str:
        """What and how big, in a line."""
        fetched = "" if self.download is None else f"; {self.download / _MB:,.0f} MB to fetch"
        return f"Open WebUI {VERSION} ({self.flavour}): {self.disk / _MB:,.0f} MB in {self.folder}{fetched}"


def plan(place: Place, flavour: Flavour = "slim", *, python: str | None = None) -> Plan:
    """Look what there is to do.

    Args:
        place: the chat's folder.
        flavour: what is wanted.
        python: a Python 3.11 or 3.12 that somebody named.

    Raises:
        InstallError: there is no suitable Python, or no room on the disk.
    """
    folder = place.installs / f"{VERSION}-{flavour}"
    wheels = place.installs / f"wheels-{VERSION}-{flavour}"
    size = re.search(r"^# download: (\d+) bytes", _requirements(flavour), re.MULTILINE)
    download = int(size[1]) if size else None
    there = (folder / "bin" / "python").exists()
    made = Plan(flavour, folder, wheels, download, _DISK[flavour], None if there else find(python))
    if not there:
        _check_room(place, made)
    return made


def _check_room(place: Place, wanted: Plan) -> None:
    needed = wanted.disk + (wanted.download or wanted.disk) + _SPARE - _size_below([wanted.wheels])
    free = shutil.disk_usage(place.root).free
    if free < needed:
        raise InstallError(
            f"Open WebUI takes {needed / _MB:,.0f} MB while it is installed; {place.root} has {free / _MB:,.0f} MB.",
            hint="Make room, or choose another disk: REVIEWMILL_CHAT__DATA_DIR.",
        )


def install(wanted: Plan, on_progress: Progress) -> None:
    """Install what is planned; does nothing if it is there. The caller holds the chat's lock.

    Raises:
        InstallError: the packages cannot be had, or are not what they should be.
    """
    if wanted.python is None:
        return
    parent = wanted.folder.parent
    for left in parent.glob(".making-*"):
        shutil.rmtree(left, ignore_errors=True)
    making = parent / f".making-{os.getpid()}-{time.time_ns()}"
    try:
        _run([wanted.python, "-m", "venv", str(making)], "make a virtual environment")
        pip = [str(making / "bin" / "python"), "-m", "pip"]
        _fill(pip, wanted, on_progress)
        _check_version(making)
        # No command of the environment is called by name, so it may be moved.
        making.rename(wanted.folder)
    except OSError as error:
        raise InstallError(
            f"Open WebUI cannot be installed in {parent}: {error.strerror or error}.", hint="Is the disk full?"
        ) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    shutil.rmtree(wanted.wheels, ignore_errors=True)


def _fill(pip: list[str], wanted: Plan, on_progress: Progress) -> None:
    """Bring all packages into the environment whose pip this is."""
    lines = _requirements(wanted.flavour)
    if wanted.flavour == "full":
        listed = wanted.folder.parent / f".requirements-{wanted.flavour}.txt"
        listed.write_text(lines, "utf-8")
        on_progress("unpack", 0, None)
        _run([*pip, "install", "-q", "--no-compile", "-r", str(listed)], "install Open WebUI")
        return
    wanted.wheels.mkdir(exist_ok=True)
    _fetch(pip, lines, wanted, on_progress)
    on_progress("unpack", 0, None)
    listed = wanted.wheels / "all.txt"
    listed.write_text(lines, "utf-8")
    options = ["--no-index", "--find-links", str(wanted.wheels), "--no-deps", "--require-hashes", "--no-compile"]
    _run([*pip, "install", "-q", *options, "-r", str(listed)], "unpack Open WebUI")


def _fetch(pip: list[str], lines: str, wanted: Plan, on_progress: Progress) -> None:
    """Fetch all wheels, several groups at once; a group that has come whole is not asked for again."""
    groups = list(grouped(lines))
    ended = threading.Event()

    def report() -> None:
        most = 0  # pip keeps what it fetched twice for a moment
        while not ended.wait(_LOOK_EVERY):
            came = max(most, _size_below([wanted.wheels]))
            most = min(came, wanted.download or came)
            on_progress("fetch", most, wanted.download)

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        jobs = [pool.submit(_fetch_group, pip, group, wanted.wheels, n) for n, group in enumerate(groups)]
        for job in jobs:
            job.result()
    finally:
        pool.shutdown(cancel_futures=True)
        ended.set()
        reporter.join()


def _fetch_group(pip: list[str], group: str, wheels: Path, number: int) -> None:
    done, listed, temporary = (wheels / f"{kind}{number:02}" for kind in ("done-", "list-", "tmp-"))
    if done.exists() and done.read_text("utf-8") == group:
        return
    listed.write_text(group, "utf-8")
    temporary.mkdir(exist_ok=True)
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--progress-bar=off", "-q", "-d", str(wheels)]
    try:
        command = [*pip, "download", *options, "-r", str(listed)]
        _run(command, "fetch the packages of Open WebUI", tries=_TRIES, temporary=temporary)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    done.write_text(group, "utf-8")


def grouped(lines: str) -> Iterator[str]:
    """Divide a list of requirements into groups; the largest package, which comes last, is fetched first, alone."""
    packages = re.findall(r"^\S+==.*(?:\n {4}--hash=.*)*", lines, re.MULTILINE)
    *rest, largest = packages
    yield largest + "\n"
    for start in range(0, len(rest), _GROUP):
        yield "\n".join(rest[start : start + _GROUP]) + "\n"


def _run(command: Iterable[str | Path], what: str, *, tries: int = 1, temporary: Path | None = None) -> None:
    """Run a program to its end; its last words become the error's."""
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET"}}
    env = kept | {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    env |= {"TMPDIR": str(temporary)} if temporary else {}
    said = ""
    for attempt in range(tries):
        if attempt:
            time.sleep(2**attempt)
        done = subprocess.run(  # noqa: S603 - a Python, with arguments of ours
            [*map(str, command)], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        if not done.returncode:
            return
        said = (done.stderr + done.stdout).strip()
        if "DO NOT MATCH THE HASHES" in said:
            raise InstallError(
                "A package is not the one that it should be, and was not installed.",
                hint="A mirror or a proxy changes files; use another PIP_INDEX_URL. " + _last(said),
            )
    raise InstallError(
        f"Could not {what}: {_last(said)}",
        hint="Run the same again; it goes on from here. Behind a proxy or with a mirror, set PIP_INDEX_URL.",
    )


def _last(said: str) -> str:
    """The end of what a program said, without names and passwords of URLs."""
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(("hint:", "note:", "[notice]"))]
    return re.sub(r"//[^/\s]*@", "//", " | ".join(lines[-3:]))[-_REASON_CHARS:] or "no reason given"


def _check_version(folder: Path) -> None:
    look = f"import importlib.metadata as m; import sys; sys.exit(m.version('open-webui') != {VERSION!r})"
    _run([folder / "bin" / "python", "-I", "-c", look], "find Open WebUI in its environment")


def _requirements(flavour: Flavour) -> str:
    return files("reviewmill.chat").joinpath(f"open-webui-{flavour}.txt").read_text("utf-8")


def _size_below(folders: Iterable[Path]) -> int:
    """Bytes of all files; what goes while we look is not counted."""
    total = 0
    for folder in folders:
        for root, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):
                    total += Path(root, name).stat().st_size
    return total
