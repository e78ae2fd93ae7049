"""Which process is which: numbers are given out again, so that a number alone is never trusted with a signal."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import psutil

from reviewmill.supervise.spec import Identity

_START_TIME: Final = 19  # field 22 of /proc/PID/stat, counted after the name (man 5 proc)
_LOOK_EVERY: Final = 0.05


def identify(pid: int) -> Identity | None:
    """Name a process beyond doubt; None if there is none, or it is dead and only waits to be collected."""
    if sys.platform == "linux":
        return _identify_linux(pid)
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return Identity(pid, f"{process.create_time():.2f}")
    except psutil.Error:
        return None


def _identify_linux(pid: int) -> Identity | None:
    # Not psutil's create_time: it is reckoned from the clock, which may be set while the process runs.
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[0] in {"Z", "X"}:
        return None
    return Identity(pid, f"{boot} {fields[_START_TIME]}")


def alive(identity: Identity | None) -> bool:
    """Whether exactly this process runs."""
    return identity is not None and identify(identity.pid) == identity


def descendants(pid: int) -> list[Identity]:
    """All processes that a process started and their own, whatever group or session they moved to."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    return [identity for child in children if (identity := identify(child.pid)) is not None]


def send(identity: Identity, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; return whether it was there.

    On Linux through a handle (`man 2 pidfd_open`): between the look and the signal the number cannot change hands.
    """
    if hasattr(os, "pidfd_open"):
        try:
            handle = os.pidfd_open(identity.pid)
        except OSError:
            return False
        try:
            if not alive(identity):
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True
    if not alive(identity):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(identity.pid, number)
    return True


def wait_gone(identities: Iterable[Identity], seconds: float) -> list[Identity]:
    """Wait until these processes are gone; return those that are not after so long."""
    left = [identity for identity in identities if alive(identity)]
    deadline = time.monotonic() + seconds
    while left and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY)
        left = [identity for identity in left if alive(identity)]
    return left
