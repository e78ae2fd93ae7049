"""A message of more comments than a table shows becomes a job besides, whose result is the whole file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from reviewmill.errors import OutputError
from reviewmill.server.face.chat import json_bytes
from reviewmill.store import JobRecord, new_id

if TYPE_CHECKING:
    from reviewmill.server.state import Service
    from reviewmill.tasks import Task

FILENAME: Final = "chat.jsonl"


def keep_as_job(service: Service, owner: str, comments: Sequence[str], task: Task) -> JobRecord:
    """Queue the comments as a job; a worker finds the answers in the cache. Blocks.

    Args:
        service: whose jobs it joins.
        owner: the caller's key.
        comments: the message's comments.
        task: what was found out about them.

    Raises:
        OutputError: the file cannot be written.
        StoreError: the job cannot be queued.
    """
    job_id = new_id()
    files = service.jobs.files(job_id)
    rows = [json_bytes({"number": number, "comment": text}) + b"\n" for number, text in enumerate(comments, 1)]
    content = b"".join(rows)
    try:
        files.folder.mkdir(mode=0o700)
        with os.fdopen(os.open(files.upload("jsonl"), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        job, _ = service.store.jobs.create(
            owner,
            job_id=job_id,
            task=task.name,
            filename=FILENAME,
            format="jsonl",
            text_column="comment",
            id_column="number",
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            options={"rows": len(comments), "keywords": None, "customer": None},
        )
    except OSError as error:
        files.remove()
        raise OutputError(f"The message's whole file cannot be kept: {error.strerror}.") from error
    except BaseException:
        files.remove()
        raise
    return job
