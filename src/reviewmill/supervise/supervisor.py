"""The supervisor: runs one program, looks after it, starts it again, keeps its log, and ends all of it.

It is one thread: each turn takes in what the program wrote, looks whether it lives and is well, and acts.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from reviewmill.supervise.identity import alive, descendants, identify, send, wait_gone
from reviewmill.supervise.log import RotatingLog
from reviewmill.supervise.spec import LOG_NAME, Identity, Spec, State, Status

_TURN: Final = 0.2  # seconds
_OTHERS_EVERY: Final = 1.0
_FINAL_SECONDS: Final = 5.0
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


class Supervisor:
    """Runs one program until it is told to stop, or the program fails too often.

    Args:
        folder: where status and log are written.
        spec: the program.
    """

    def __init__(self, folder: Path, spec: Spec) -> None:
        self.folder = folder
        self.spec = spec
        self.log = RotatingLog(folder / LOG_NAME, spec.log_bytes, spec.log_files, spec.secrets)
        self.status = Status(spec.name, "starting", identify(os.getpid()), about=spec.about)
        self._stopping = False
        self._failures = 0
        self._selector = selectors.DefaultSelector()
        self._process: subprocess.Popen[bytes] | None = None
        self._health = _Health(spec)

    def run(self) -> None:
        """Run to the end."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        _adopt_orphans()
        self._enter("starting")
        while True:
            end = self._run_once()
            if self._stopping:
                self._enter("stopped", end)
                return
            self._failures += 1
            if self._failures >= self.spec.most_failures:
                self.log.note(f"{end}; given up after {self._failures} failures in a row")
                self._enter("failed", end)
                return
            pause = min(self.spec.first_pause * 2 ** (self._failures - 1), self.spec.longest_pause)
            self.log.note(f"{end}; started again in {pause:g} s")
            self._enter("waiting", end)
            self._sleep(pause)
            if self._stopping:
                self._enter("stopped", end)
                return
            self.status.restarts += 1

    def _on_signal(self, *_: object) -> None:
        self._stopping = True

    def _enter(self, state: State, end: str | None = None) -> None:
        if state != self.status.state or not self.status.since:
            self.status.since = time.time()
        self.status.state = state
        self.status.last_end = end or self.status.last_end
        self.status.write(self.folder)

    def _run_once(self) -> str:
        """Start the program, look after it until it ends or must be ended, and say how it ended."""
        try:
            process = self._start()
        except OSError as error:
            return f"{self.spec.argv[0]} cannot be started: {error.strerror or error}"
        self._enter("starting")
        reason = self._watch(process)
        if reason is not None and not self._stopping:
            self.log.note(f"ended because {reason}")
        if self._stopping:
            self._enter("stopping")
        self._end(process)
        self.status.program, self.status.others, self.status.started = None, [], None
        return _how(process.returncode, reason)

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(  # noqa: S603 - what we were told to run
            self.spec.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.spec.cwd or self.folder,
            env=self._environment(),
            process_group=0,
            preexec_fn=_die_with_parent(),
        )
        self._process = process
        self.status.program = identify(process.pid)
        self.status.started = time.time()
        if process.stdout is not None:
            os.set_blocking(process.stdout.fileno(), False)
            self._selector.register(process.stdout, selectors.EVENT_READ)
        return process

    def _environment(self) -> dict[str, str]:
        """What the program gets: ours, if it inherits, without what it must not have; and its own."""
        ours = {key: value for key, value in os.environ.items() if key not in self.spec.without}
        return (ours if self.spec.inherits else {}) | self.spec.env

    def _watch(self, process: subprocess.Popen[bytes]) -> str | None:
        """Take turns until the program ended (None) or must be ended (why)."""
        self._health.begin()
        began = time.monotonic()
        listed = 0.0
        while not self._stopping:
            self._take_in(_TURN)
            if process.poll() is not None:
                return None
            if time.monotonic() - listed >= _OTHERS_EVERY:
                listed = time.monotonic()
                self._list_others(process.pid)
                self._look_for_owner()
            self._health.look()
            if self.status.state == "starting" and self._health.well:
                self._enter("ready")
            elif self.status.state == "starting" and time.monotonic() - began > self.spec.start_seconds:
                return f"it was not ready after {self.spec.start_seconds:g} s"
            elif self.status.state in {"ready", "unhealthy"}:
                if self._health.failed_looks >= self.spec.unhealthy_limit:
                    return f"it did not answer {self.spec.health_url} {self._health.failed_looks} times"
                state: State = "unhealthy" if self._health.failed_looks else "ready"
                if state != self.status.state:
                    self._enter(state)
                if state == "ready" and time.time() - self.status.since > self.spec.settled_seconds:
                    self._failures = 0
        return None

    def _take_in(self, seconds: float) -> bool:
        """Write what the program said into the log; wait for it up to so long. Return whether it said anything."""
        if not self._selector.get_map():
            time.sleep(seconds)
            return False
        heard = False
        for key, _ in self._selector.select(seconds):
            data = os.read(key.fd, 1 << 16)
            if data:
                heard = True
                self.log.write(data)
            else:  # it closed its output
                self._selector.unregister(key.fileobj)
        return heard

    def _look_for_owner(self) -> None:
        if self.spec.owner is not None and not alive(self.spec.owner):
            self.log.note("whoever it was started for is gone")
            self._stopping = True

    def _list_others(self, pid: int) -> None:
        others = descendants(pid)
        if others != self.status.others:
            self.status.others = others
            self.status.write(self.folder)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """End the program and everything that it started."""
        family = self._family(process)
        for identity in family:
            if identity.pid == process.pid or process.poll() is not None:
                send(identity, signal.SIGTERM)
        deadline = time.monotonic() + self.spec.grace_seconds
        while time.monotonic() < deadline and self._family(process):
            self._take_in(_TURN)
            self._collect(process)
        for identity in self._family(process):
            self.log.note(f"process {identity.pid} did not end in {self.spec.grace_seconds:g} s and was killed")
            send(identity, signal.SIGKILL)
        wait_gone(self._family(process), _FINAL_SECONDS)
        self._collect(process)
        while self._take_in(0):
            pass
        if process.stdout is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(process.stdout)
            process.stdout.close()

    def _family(self, process: subprocess.Popen[bytes]) -> list[Identity]:
        """What still runs of the program: itself, and all that it started.

        Processes whose parent died became our own children (where the system knows that), so that none escapes.
        """
        process.poll()
        ours = descendants(os.getpid())
        return ours if _can_adopt() else [*ours, *(one for one in self.status.others if one not in ours)]

    def _collect(self, process: subprocess.Popen[bytes]) -> None:
        """Take note of the deaths of processes that became ours."""
        process.poll()
        if process.returncode is None:
            return  # waiting for any child would take its exit status away
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < deadline:
            time.sleep(min(_TURN, seconds))
            self._look_for_owner()


class _Health:
    """Looks at the health address, in a thread, so that a slow answer holds up nothing."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.well = False
        self.failed_looks = 0
        self._thread = ThreadPoolExecutor(1, "health")
        self._pending: Future[bool] | None = None
        self._next = 0.0

    def begin(self) -> None:
        """Forget what was seen of an earlier process."""
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        self.well = self.spec.health_url is None
        self.failed_looks = 0
        self._next = 0.0

    def look(self) -> None:
        """Take in a finished look, and begin the next when it is time."""
        if self.spec.health_url is None:
            return
        if self._pending is not None and self._pending.done():
            good, self._pending = self._pending.result(), None
            self.failed_looks = 0 if good or not self.well else self.failed_looks + 1
            self.well = self.well or good
            # Until it is well somebody waits for it.
            self._next = time.monotonic() + (self.spec.health_every if self.well else min(0.5, self.spec.health_every))
        if self._pending is None and time.monotonic() >= self._next:
            self._pending = self._thread.submit(_answers, self.spec.health_url, self.spec.health_timeout)


def _answers(url: str, seconds: float) -> bool:
    # Never through a proxy: the program is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=seconds) as reply:
            return bool(200 <= reply.status < 300)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _how(code: int | None, reason: str | None) -> str:
    if reason is not None:
        return reason
    if code is None:
        return "it could not be ended"
    if code < 0:
        try:
            return f"it was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"it was ended by signal {-code}"
    return f"it ended with status {code}"


def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


def _can_adopt() -> bool:
    return sys.platform == "linux"


def _adopt_orphans() -> None:
    """Become the parent of every process whose parent dies below us, however it detached itself (man 2 prctl)."""
    if _can_adopt():
        _libc().prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _die_with_parent() -> Callable[[], None] | None:
    """Have the program ended if its supervisor is killed (Linux); prepared here, because a fork can do little."""
    if sys.platform != "linux":
        return None
    prctl = _libc().prctl
    return lambda: prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
