"""Start, ask about and end a supervised program, from any process that has its folder."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from reviewmill.errors import ProcessError
from reviewmill.supervise.identity import alive, descendants, send, wait_gone
from reviewmill.supervise.spec import LOG_NAME, PATH_BEFORE, Identity, Spec, Status

_LOCK_SECONDS: Final = 30.0
_APPEAR_SECONDS: Final = 20.0
_LOOK_EVERY: Final = 0.1
_MARGIN_SECONDS: Final = 10.0


def start(folder: Path, spec: Spec) -> Status:
    """Start a program and leave a supervisor with it; returns at once, before the program is well.

    Args:
        folder: where its status and log are kept; made if need be, for its owner only.
        spec: the program.

    Raises:
        ProcessError: it runs already, the folder cannot be used, or the supervisor does not come up.
    """
    with _locked(folder):
        before = status(folder)
        if before is not None and before.running:
            raise ProcessError(f"{before.name} runs already ({before.state}).", hint="Stop it first.")
        if before is not None:
            _end_rest(before, spec.grace_seconds)
        supervisor = _spawn(folder, spec)
        deadline = time.monotonic() + _APPEAR_SECONDS
        while time.monotonic() < deadline:
            now = Status.read(folder)
            if now is not None and now.supervisor is not None and now.supervisor.pid == supervisor.pid:
                return now
            if supervisor.poll() is not None:
                break
            time.sleep(_LOOK_EVERY)
        supervisor.kill()
        raise ProcessError(
            f"The supervisor of {spec.name} did not start.", hint=f"What it said: {_said(folder)}".rstrip()
        )


def _spawn(folder: Path, spec: Spec) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "reviewmill.supervise", str(folder)]
    before = os.environ.get("PYTHONPATH", "")
    with (folder / "supervisor.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - ourselves
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), PATH_BEFORE: before},
        )
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(spec.to_json().encode())
    return process


def status(folder: Path) -> Status | None:
    """What is known of the program; None if nothing was ever started there.

    Where the supervisor is gone without having said so (killed, or the machine was restarted), the state is `failed`.

    Raises:
        ProcessError: the status file cannot be read.
    """
    now = Status.read(folder)
    if now is not None and now.running and not alive(now.supervisor):
        now.state = "failed"
        now.last_end = "its supervisor was killed, or the machine was restarted"
    return now


def stop(folder: Path, *, seconds: float = 30.0) -> Status | None:
    """End the program and its supervisor, and all that the program started.

    Args:
        folder: as at `start`.
        seconds: how long the program may take to end by itself.

    Returns:
        The last status; None if nothing was ever started there.

    Raises:
        ProcessError: something of it cannot be ended.
    """
    with _locked(folder):
        now = status(folder)
        if now is None:
            return None
        if now.supervisor is not None and send(now.supervisor, signal.SIGTERM):
            for late in wait_gone([now.supervisor], seconds + _MARGIN_SECONDS):
                send(late, signal.SIGKILL)
        now = Status.read(folder) or now
        left = _end_rest(now, seconds)
        if left:
            numbers = ", ".join(str(identity.pid) for identity in left)
            raise ProcessError(f"{now.name} does not end (processes {numbers}).", hint="Whose processes are they?")
        now.state, now.program, now.others = "stopped", None, []
        now.write(folder)
        return now


def _end_rest(now: Status, seconds: float) -> list[Identity]:
    """End what a dead supervisor left behind; return what does not end."""
    left = [identity for identity in (now.program, *now.others) if alive(identity) and identity is not None]
    left += [child for identity in left for child in descendants(identity.pid) if child not in left]
    for number, wait in ((signal.SIGTERM, seconds), (signal.SIGKILL, _MARGIN_SECONDS)):
        for identity in left:
            send(identity, number)
        left = wait_gone(left, wait)
    return left


def log_tail(folder: Path, lines: int) -> list[str]:
    """The last lines of the program's log.

    Raises:
        ProcessError: there is none, or it cannot be read.
    """
    path = folder / LOG_NAME
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            size = file.tell()
            file.seek(max(0, size - 400 * max(lines, 1)))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError as error:
        raise ProcessError(f"There is no log at {path}: {error.strerror}.", hint="Was it ever started?") from error


def wait_until(
    folder: Path, good: frozenset[str], *, seconds: float, on_look: Callable[[Status], None] | None = None
) -> Status:
    """Wait until the program is in one of these states.

    Args:
        folder: as at `start`.
        good: the states.
        seconds: how long to wait.
        on_look: called at every look.

    Raises:
        ProcessError: it was given up, stopped, or is not there after so long; the message holds the end of its log.
    """
    deadline = time.monotonic() + seconds
    while True:
        now = status(folder)
        if now is not None and now.state in good:
            return now
        if now is None or not now.running or time.monotonic() > deadline:
            what = "was never started" if now is None else f"is {now.state}"
            why = f" ({now.last_end})" if now is not None and now.last_end else ""
            raise ProcessError(f"{now.name if now else folder} {what}{why}.", hint=_said(folder))
        if on_look is not None:
            on_look(now)
        time.sleep(_LOOK_EVERY)


def _said(folder: Path) -> str:
    for name in (LOG_NAME, "supervisor.log"):
        path = folder / name
        if path.exists() and path.stat().st_size:
            lines = path.read_text("utf-8", "replace").splitlines()[-12:]
            return f"The end of {path}:\n" + "\n".join(f"    {line}" for line in lines)
    return "It said nothing."


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(folder / "lock", timeout=_LOCK_SECONDS):
            yield
    except Timeout:
        raise ProcessError(f"Somebody else is starting or stopping {folder.name}.", hint="Try again soon.") from None
    except OSError as error:
        raise ProcessError(f"{folder} cannot be used: {error}.", hint="Check its permissions.") from error
