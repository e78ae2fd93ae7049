"""Where the chat's files are, and its secrets."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from reviewmill.errors import SettingsError

MACHINE_EMAIL: Final = "reviewmill@localhost"
"""The account through which we wire Open WebUI. It is the first one, which Open WebUI lets nobody else change."""

_PASSWORD_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class Secrets:
    """What must be the same at every start and known to nobody else.

    Attributes:
        webui_key: signs Open WebUI's sessions. Hexadecimal: what looks like base64 and is none stops it at its start.
        machine_password: of `MACHINE_EMAIL`.
        service_key: the service's API key that the chat uses; None until it is made.
        admin_shown: whether the first administrator was made, and the password shown.
    """

    webui_key: str
    machine_password: str
    service_key: str | None = None
    admin_shown: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """The chat's folder. All in it is for its owner only.

    Attributes:
        root: the folder.
    """

    root: Path

    @property
    def installs(self) -> Path:
        """Installed versions of Open WebUI, each a virtual environment."""
        return self.root / "open-webui"

    @property
    def data(self) -> Path:
        """Open WebUI's own data: accounts, chats, uploads."""
        return self.root / "data"

    @property
    def database(self) -> Path:
        """Open WebUI's database."""
        return self.data / "webui.db"

    def program(self, name: str) -> Path:
        """Status and log of a supervised program."""
        return self.root / "run" / name

    def make(self) -> None:
        """Make the folders.

        Raises:
            SettingsError: they cannot be made.
        """
        try:
            for folder in (self.root, self.installs, self.data, self.root / "run"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                folder.chmod(0o700)
        except OSError as error:
            raise SettingsError(
                f"The chat's folder {self.root} cannot be used: {error.strerror or error}.",
                hint="Choose another: REVIEWMILL_CHAT__DATA_DIR.",
            ) from error

    def lock(self) -> FileLock:
        """Take the chat for this process alone; released with the process, however it ends.

        Raises:
            SettingsError: another process has it.
        """
        lock = FileLock(self.root / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise SettingsError(
                f"A chat runs already from {self.root}.",
                hint="`reviewmill chat status` says where, `reviewmill chat stop` ends it.",
            ) from None
        return lock

    def secrets(self) -> Secrets:
        """The secrets, made when they are first needed.

        Raises:
            SettingsError: the file is damaged.
        """
        path = self.root / "secrets.json"
        try:
            return Secrets(**json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            made = Secrets(secrets.token_hex(32), secrets.token_urlsafe(_PASSWORD_BYTES))
            self.keep(made)
            return made
        except (OSError, ValueError, TypeError) as error:
            raise SettingsError(
                f"{path} cannot be read: {error}.", hint="Put it back from a backup; without it, sessions are lost."
            ) from error

    def keep(self, known: Secrets) -> None:
        """Write the secrets, whole or not at all, for their owner only."""
        write_private(self.root / "secrets.json", json.dumps(asdict(known), indent=2) + "\n")

    def update(self, **changed: str | bool | None) -> Secrets:
        """Change some of the secrets, and keep them."""
        known = replace(self.secrets(), **changed)  # type: ignore[arg-type]
        self.keep(known)
        return known


def write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all, readable by its owner only from its first byte on."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp: 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
