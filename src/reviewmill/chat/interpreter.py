"""Finding a Python that Open WebUI runs on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from reviewmill.errors import InstallError

SUITABLE: Final = ((3, 11), (3, 12))
"""What Open WebUI 0.12.4 asks for: `requires-python = ">= 3.11, < 3.13.0a1"`."""

_LOOK: Final = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
_SECONDS: Final = 20.0


def find(named: str | None = None) -> Path:
    """A Python 3.11 or 3.12 that can make virtual environments.

    Args:
        named: a program that somebody named; it is used or refused.

    Raises:
        InstallError: there is none; the message says what was found instead.
    """
    seen: dict[str, str] = {}
    for candidate in [named] if named else _candidates():
        path = shutil.which(candidate)
        if path is None:
            seen[candidate] = "not found"
            continue
        version = _version(path)
        if version in {f"{major}.{minor}" for major, minor in SUITABLE}:
            return Path(path)
        seen[candidate] = version
    tried = "; ".join(f"{name}: {what}" for name, what in seen.items())
    raise InstallError(
        f"Open WebUI needs Python 3.11 or 3.12, with venv. Tried: {tried}.",
        hint="Install one (Debian, Ubuntu: apt-get install python3.12 python3.12-venv; anywhere: uv python install "
        "3.12), or name one: reviewmill chat --python PATH.",
    )


def _candidates() -> Iterator[str]:
    """Names and paths to try, our own interpreter first: it is there and works."""
    # Not a virtual environment's: that one goes when its folder goes.
    if sys.version_info[:2] in SUITABLE:
        yield str(Path(getattr(sys, "_base_executable", sys.executable) or sys.executable))
    yield from ("python3.12", "python3.11", "python3")
    home = Path.home()
    roots = [
        Path(os.environ.get("UV_PYTHON_INSTALL_DIR", home / ".local/share/uv/python")),
        Path(os.environ.get("PYENV_ROOT", home / ".pyenv")) / "versions",
    ]
    for root in roots:
        for minor in ("3.12", "3.11"):
            yield from (str(path) for path in sorted(root.glob(f"*{minor}.*/bin/python{minor}"), reverse=True))


def _version(path: str) -> str:
    """The interpreter's version, or why it cannot be used."""
    try:
        # -I: a module of ours or of the user's that is called venv must not be taken for Python's.
        done = subprocess.run(  # noqa: S603 - a Python, to be asked its version
            [path, "-I", "-c", _LOOK], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not start ({type(error).__name__})"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return f"cannot make virtual environments ({last[:100]})"
    return done.stdout.strip()
