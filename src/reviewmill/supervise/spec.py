"""What is to be run, and what is known of it while it runs."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from reviewmill.errors import ProcessError

State = Literal["starting", "ready", "unhealthy", "waiting", "stopping", "stopped", "failed"]
"""`waiting`: it ended and will be started again; `failed`: it ended too often and was given up."""

RUNNING: Final = frozenset({"starting", "ready", "unhealthy", "waiting", "stopping"})
STATUS_NAME: Final = "status.json"
LOG_NAME: Final = "log"
PATH_BEFORE: Final = "REVIEWMILL_PYTHONPATH_BEFORE"
"""Carries the user's PYTHONPATH past the supervisor, which has another so that it finds this package."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that cannot be mistaken for a later one with the same number.

    Attributes:
        pid: its number.
        born: when it started, as the kernel counts, and in which boot.
    """

    pid: int
    born: str


@dataclass(frozen=True, slots=True)
class Spec:
    """A program to run.

    It travels to the supervisor through a pipe and is never written down, so that `env` may hold keys.

    Attributes:
        name: what messages call it.
        argv: the program and its arguments; no secrets, because every user of the machine can read them.
        env: variables beside those of whoever starts it.
        without: variables that it does not get.
        inherits: whether it gets those of whoever starts it at all.
        secrets: strings that must not show in the log.
        cwd: working folder; None: the folder of the status.
        health_url: address that answers 200 while the program is well; None: it is well while it runs.
        start_seconds: it counts as failed if it is not well after so long.
        health_every, health_timeout: seconds between two looks, and how long one may take.
        unhealthy_limit: looks that may fail in a row, once it was well, before it is restarted.
        first_pause, longest_pause: seconds before a restart; doubled at each, up to the longest.
        settled_seconds: after so long without trouble, earlier failures are forgotten.
        most_failures: ends in a row, none of them asked for, after which it is given up.
        grace_seconds: between asking it to end and ending it.
        log_bytes, log_files: the log is begun anew at so many bytes, and so many older ones are kept.
        about: what whoever started it wants to find again in `Status.about`; no secrets.
        owner: the process without which it makes no sense: when that one is gone, it ends; None: it needs nobody.
    """

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    cwd: str | None = None
    health_url: str | None = None
    start_seconds: float = 600.0
    health_every: float = 5.0
    health_timeout: float = 5.0
    unhealthy_limit: int = 6
    first_pause: float = 1.0
    longest_pause: float = 60.0
    settled_seconds: float = 300.0
    most_failures: int = 5
    grace_seconds: float = 20.0
    log_bytes: int = 10_000_000
    log_files: int = 3
    about: dict[str, Any] = field(default_factory=dict)
    owner: Identity | None = None
    inherits: bool = True

    def to_json(self) -> str:
        """Write it for the supervisor."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """Read what `to_json` wrote."""
        raw = json.loads(text)
        owner = Identity(**raw["owner"]) if raw["owner"] else None
        return cls(**raw | {"owner": owner} | {key: tuple(raw[key]) for key in ("argv", "without", "secrets")})


@dataclass(slots=True)
class Status:
    """What is known of a supervised program.

    Attributes:
        name: as in its `Spec`.
        state: see `State`.
        supervisor, program: the processes; `program` is None while none runs.
        others: processes that the program started, as last seen.
        since: when it came into this state (seconds since 1970).
        started: when the present process of the program was started (seconds since 1970).
        restarts: times it was started again.
        last_end: how its process ended last, in words.
        about: as in its `Spec`.
    """

    name: str
    state: State
    supervisor: Identity | None
    program: Identity | None = None
    others: list[Identity] = field(default_factory=list)
    since: float = 0.0
    started: float | None = None
    restarts: int = 0
    last_end: str | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        """Whether somebody looks after it."""
        return self.state in RUNNING

    def write(self, folder: Path) -> None:
        """Write it down, whole or not at all, readable by its owner only.

        Raises:
            OSError: the folder cannot be written.
        """
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=".status.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(self), file)
            Path(name).replace(folder / STATUS_NAME)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    @classmethod
    def read(cls, folder: Path) -> Status | None:
        """Read it back; None if nothing was ever started there.

        Raises:
            ProcessError: the file is damaged, or belongs to somebody else.
        """
        path = folder / STATUS_NAME
        try:
            raw = json.loads(path.read_text("utf-8"))
            for key in ("supervisor", "program"):
                raw[key] = Identity(**raw[key]) if raw[key] else None
            raw["others"] = [Identity(**other) for other in raw["others"]]
            return cls(**raw)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ProcessError(
                f"{path} cannot be read: {error}.", hint="Delete it once you know that nothing of it runs any more."
            ) from error
