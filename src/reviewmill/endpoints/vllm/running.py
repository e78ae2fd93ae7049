"""The vLLM that `reviewmill engine` runs: where its state is, and how to ask it."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reviewmill import supervise
from reviewmill.errors import ProcessError
from reviewmill.settings import Settings


@dataclass(frozen=True, slots=True)
class Running:
    """A vLLM of ours.

    Attributes:
        url: its base URL, with `/v1`.
        model: what it serves.
        sequences: that it answers at once, over all copies.
        state: see `supervise.State`.
        plan: as `Plan.as_json`, of when it was started.
    """

    url: str
    model: str
    sequences: int
    state: supervise.State
    plan: dict[str, Any]


def run_folder(settings: Settings) -> Path:
    """Where status, log and key of the engine are."""
    return settings.state_dir / "engine"


def key_file(settings: Settings) -> Path:
    """The file with the engine's key."""
    return run_folder(settings) / "key"


def find_running(settings: Settings) -> Running | None:
    """The engine, if one of ours runs (it need not be ready yet).

    Raises:
        ProcessError: its status cannot be read.
    """
    now = supervise.status(run_folder(settings))
    if now is None or not now.running:
        return None
    about = now.about
    return Running(about["url"], about["model"], about["sequences"], now.state, about["plan"])


def read_key(settings: Settings) -> str:
    """The engine's key.

    Raises:
        ProcessError: there is none that only its owner can read.
    """
    path = key_file(settings)
    try:
        if path.stat().st_mode & 0o077:
            raise ProcessError(f"{path} can be read by others.", hint=f"chmod 600 {path}, and restart the engine.")
        return path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ProcessError(f"The engine's key {path} cannot be read: {error}.", hint="Restart the engine.") from error


def ensure_key(settings: Settings) -> str:
    """The engine's key; made on first use, and kept, so that programs that know it go on after a restart.

    Raises:
        ProcessError: it can neither be read nor made.
    """
    path = key_file(settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(secrets.token_urlsafe(32))
    except OSError as error:
        raise ProcessError(f"{path} cannot be written: {error}.", hint="Check REVIEWMILL_STATE_DIR.") from error
    return read_key(settings)
