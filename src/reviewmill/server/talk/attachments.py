"""Files that were attached to chats, kept as they came until a chat needs them; every name in here is ours.

    data_dir/chat/<id>/original.csv

A file is kept for as long as somebody uses it, and `retention_days` longer. It goes before that if its job is deleted,
or if it holds a comment that is to be deleted: a file cannot be emptied of one comment, and must not bring it back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path
from typing import Final

from reviewmill.batch.read import open_source
from reviewmill.batch.threads import in_thread
from reviewmill.errors import ColumnError, InputError, OutputError, ReviewmillError
from reviewmill.server.jobs.check import Found, Wanted, check
from reviewmill.server.jobs.files import JobFiles, remove_folder, shown_name
from reviewmill.server.jobs.intake import receive
from reviewmill.server.jobs.results import text_digest
from reviewmill.server.jobs.room import ORPHAN_S, JobRoom
from reviewmill.server.talk.kinds import kind_of_content
from reviewmill.server.talk.speaker import Speaker
from reviewmill.settings import ServiceSettings
from reviewmill.store import ChatFile, Store, new_id

log = logging.getLogger("reviewmill.server")

_OPAQUE: Final = "application/octet-stream"
_NAME_COLUMN: Final = "Give the column with the comments a name such as comment or 评论, in the first line."


class Attachments:
    """Attached files.

    Args:
        store: where they are noted.
        settings: the data folder, and limits.
        jobs: whose turn it is to look at a file.
    """

    def __init__(self, store: Store, settings: ServiceSettings, jobs: JobRoom) -> None:
        self._store = store
        self._settings = settings
        self._jobs = jobs
        self._root = settings.data_dir / "chat"

    async def take(
        self, chunks: AsyncIterator[bytes], *, speaker: Speaker, file_id: str | None, name: str | None
    ) -> ChatFile:
        """Take a file in: streamed to the disk, looked at, and kept. Nothing is left of one that is refused.

        Args:
            chunks: its bytes.
            speaker: who attached it.
            file_id: what the chat program calls it; None: it gets an id.
            name: its name.

        Raises:
            UploadTooLargeError: it has more bytes than are taken.
            InputError: it cannot be read as comments; the message says why.
            OutputError: it cannot be stored.
        """
        ours = new_id()
        folder = self._root / ours
        try:
            await in_thread(_make, folder)
            part = folder / "part"
            upload = await receive(chunks, _OPAQUE, part, limit=self._settings.max_upload_bytes)
            kind = await in_thread(kind_of_content, part, name or "")
            original = self.path(ours, kind)
            await in_thread(part.rename, original)
            wanted = Wanted(
                path=str(original),
                size=upload.size,
                kind=kind,
                text=None,
                id=None,
                customer=None,
                max_rows=self._settings.max_rows,
                max_columns=self._settings.max_columns,
            )
            found = await self._look(wanted, shown_name(name))
            facts = {
                "id": ours,
                "filename": shown_name(name),
                "format": kind,
                "text_column": found.text_column,
                "id_column": found.id_column,
                "customer_column": found.customer_column,
                "rows": found.rows,
                "size": upload.size,
                "sha256": upload.sha256,
            }
            keep = self._store.chats.keep_file
            kept, gone = await in_thread(keep, speaker.owner, speaker.account, file_id or ours, facts)
        except BaseException:
            await in_thread(remove_folder, folder)
            raise
        for old in gone:
            await in_thread(remove_folder, self._root / old)
        return kept

    async def _look(self, wanted: Wanted, shown: str) -> Found:
        try:
            return await check(wanted, shown=shown, turn=self._jobs.looking)
        except ColumnError as error:
            raise ColumnError(error.message, error.columns, hint=_NAME_COLUMN) from None

    def path(self, file: str, kind: str) -> Path:
        """Where a file lies, by our id and its kind."""
        return self._root / file / f"original.{kind}"

    def give(self, file: ChatFile, files: JobFiles) -> None:
        """Put a file into the folder of a new job. Blocks.

        Raises:
            InputError: it is not here any more.
            OutputError: it cannot be stored.
        """
        source, target = self.path(file.id, file.format), files.upload(file.format)
        try:
            files.folder.mkdir(mode=0o700)
            try:
                os.link(source, target)  # nobody changes an upload
            except FileNotFoundError:
                raise
            except OSError:  # the file system knows no links
                shutil.copyfile(source, target)
                target.chmod(0o600)
        except FileNotFoundError:
            files.remove()
            raise InputError(f"{file.filename} is not here any more.", hint="Attach it again.") from None
        except OSError as error:
            files.remove()
            raise OutputError(f"The file cannot be stored: {error.strerror}.", hint="Is the disk full?") from error

    # -- deletion -----------------------------------------------------------------------------------------------

    def delete(self, file: str) -> None:
        """Delete a file by our id. Blocks.

        Raises:
            OutputError: it cannot be deleted.
        """
        try:
            remove_folder(self._root / file)
        except OSError as error:
            raise OutputError(f"The attached file {file} cannot be deleted: {error.strerror}.") from error
        self._store.chats.delete_file(file)

    def forget(self, texts: Collection[str], customer: str | None, owner: str | None) -> int:
        """Delete the files that hold one of these comments, or one of this customer's. Blocks; reads all files.

        Args:
            texts: SHA-256 digests of the comments.
            customer: the customer; then `texts` is not looked at.
            owner: whose files; None: everybody's.

        Returns:
            How many rows held such a comment.
        """
        rows = 0
        for file in self._store.chats.files(owner):
            held = self._held(file, frozenset(texts), customer)
            if held:
                self.delete(file.id)
                rows += held
        return rows

    def _held(self, file: ChatFile, texts: frozenset[str], customer: str | None) -> int:
        if customer is not None and file.customer_column is None:
            return 0
        path = self.path(file.id, file.format)
        try:
            source = open_source(path, text=file.text_column, id=file.id_column, format=file.format)
            if customer is not None:
                return sum(str(row.fields.get(file.customer_column or "")) == customer for row in source.rows())
            return sum(row.text is not None and text_digest(row.text) in texts for row in source.rows())
        except (ReviewmillError, OSError) as error:
            log.warning("attached file %s cannot be read, and is deleted for that: %s", file.id, type(error).__name__)
            return 1  # what cannot be looked at might hold it

    def sweep(self, stale: Collection[str]) -> None:
        """Delete these files, and folders that belong to none. Blocks."""
        for file in stale:
            self.delete(file)
        for folder in self._folders():
            with contextlib.suppress(FileNotFoundError):
                old = time.time() - folder.stat().st_mtime > ORPHAN_S
                if old and not self._store.chats.has_file(folder.name):
                    remove_folder(folder)

    def _folders(self) -> Iterator[Path]:
        if self._root.is_dir():
            yield from (folder for folder in self._root.iterdir() if folder.is_dir() and not folder.is_symlink())


def _make(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise OutputError(f"The file cannot be stored: {error.strerror}.", hint="Is the disk full?") from error
