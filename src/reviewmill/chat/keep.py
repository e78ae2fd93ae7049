"""Backing up the chat's data, putting it back, and deleting it."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from reviewmill.chat.place import Place
from reviewmill.errors import OutputError, SettingsError

_FILES: Final = ("secrets.json", "feedback.json")
_DATABASE: Final = "data/webui.db"
_LEFT_OUT: Final = frozenset({"webui.db", "webui.db-wal", "webui.db-shm", "cache"})


def save(place: Place, target: Path) -> int:
    """Write accounts, chats, uploads and secrets into an archive, also while the chat runs.

    The database is copied by SQLite itself (https://www.sqlite.org/backup.html), as it is at one moment.

    Args:
        place: the chat's folder.
        target: a `.tar.gz` file; only its owner can read it.

    Returns:
        Its size in bytes.

    Raises:
        SettingsError: there is nothing to save.
        OutputError: it cannot be written.
    """
    if not place.database.exists():
        raise SettingsError(f"There are no chats in {place.root}.", hint="Start it once: reviewmill chat")
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        temporary = Path(name)
        with (
            os.fdopen(descriptor, "wb") as file,
            tarfile.open(fileobj=file, mode="w:gz") as archive,
            tempfile.TemporaryDirectory(dir=place.root) as folder,
        ):
            copy = Path(folder) / "webui.db"
            _copy_database(place.database, copy)
            archive.add(copy, _DATABASE)
            for path in sorted(place.data.iterdir()):
                if path.name not in _LEFT_OUT:
                    archive.add(path, f"data/{path.name}")
            for known in _FILES:
                if (place.root / known).exists():
                    archive.add(place.root / known, known)
        temporary.replace(target)
    except (OSError, sqlite3.Error, tarfile.TarError) as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise OutputError(f"{target} cannot be written: {error}.", hint="Choose another with --output.") from error
    return target.stat().st_size


def _copy_database(source: Path, copy: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True)) as here,
        contextlib.closing(sqlite3.connect(copy)) as there,
    ):
        here.backup(there)


def put_back(place: Place, archive: Path) -> None:
    """Put what `save` wrote into a folder without accounts and chats.

    Raises:
        SettingsError: there are some already, a chat runs, or the archive is none of ours.
    """
    place.make()
    with place.lock():
        if place.database.exists():
            raise SettingsError(
                f"There are accounts and chats in {place.root}.", hint="Delete them first: reviewmill chat reset"
            )
        try:
            with tempfile.TemporaryDirectory(dir=place.root) as name, tarfile.open(archive, "r:gz") as packed:
                folder = Path(name)
                packed.extractall(folder, filter="data")
                if not (folder / _DATABASE).exists() or not (folder / "secrets.json").exists():
                    raise SettingsError(f"{archive} is no backup of a chat.", hint="It is what `chat backup` writes.")
                (folder / "secrets.json").chmod(0o600)
                shutil.rmtree(place.data)
                for known in _FILES:
                    if (folder / known).exists():
                        (folder / known).replace(place.root / known)
                # Last: the database is what says that all is back.
                (folder / "data").rename(place.data)
                place.data.chmod(0o700)
        except (OSError, tarfile.TarError) as error:
            raise SettingsError(f"{archive} cannot be put back: {error}.", hint="Is it whole?") from error


def wipe(place: Place, *, installs: bool) -> None:
    """Delete all accounts, chats and secrets.

    Args:
        place: the chat's folder.
        installs: delete Open WebUI itself, too.

    Raises:
        SettingsError: a chat runs.
        OutputError: something cannot be deleted.
    """
    place.make()
    with place.lock():
        folders = [place.data, place.root / "run", *([place.installs] if installs else [])]
        try:
            for folder in folders:
                shutil.rmtree(folder)
            for known in _FILES:
                (place.root / known).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{place.root} cannot be emptied: {error}.", hint="Check its permissions.") from error
    place.make()
