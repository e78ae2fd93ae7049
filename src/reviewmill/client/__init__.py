"""`Client`: a reviewmill service from Python, over the same schema as the classes that run the model themselves.

What was lost on the way is asked again where that is safe: whatever only reads, analyses, and jobs, which the service
knows by their idempotency key. `Retry-After` is obeyed, unless it is longer than anybody would wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx2

from reviewmill.client.files import BLOCK, Upload, replacing
from reviewmill.client.records import (
    ANALYSES,
    CORRECTION,
    DELETED,
    JOB,
    MODELS,
    TASKS,
    Correction,
    Job,
    JobEvent,
)
from reviewmill.client.transport import LONGEST_PAUSE_S, PROBLEM_PREFIX, Retries, Transport, sendable
from reviewmill.errors import InputError, OutputError, ServiceError
from reviewmill.schema import Analysis, Comment

__all__ = ["PROBLEM_PREFIX", "Client", "Correction", "Job", "JobEvent"]

T = TypeVar("T")
Text = str | Comment

BATCH: Final = 256
"""The most comments that one request may hold."""

RESULT_FORMATS: Final = ("csv", "xlsx", "jsonl", "parquet")

_EVENT_ATTEMPTS: Final = 10
"""A service that is started anew is away for a while, and its jobs go on afterwards."""

_FILE_SILENCE_S: Final = 300.0
"""Before an upload is accepted, and before a result begins, the service reads or writes a whole file."""

_EVENT_SILENCE_S: Final = 45.0
"""The service says something every 15 seconds."""

_COMMENTS_PER_TIMEOUT: Final = 16
_MOST_BYTES: Final = 1_500_000
"""Of one request; a service takes two million."""


class Client:
    """A reviewmill service (`reviewmill serve`). Use it as an async context manager, or call `aclose()`.

    Args:
        base_url: the service's address, like `http://127.0.0.1:8080`.
        api_key: a key that `reviewmill keys create` made; None where the service wants none.
        timeout: seconds that one request may take. One with many comments may take it once for every 16 of them;
            files may take as long as they move.
        concurrency: requests of one `analyze_batch` that are under way at once.

    Raises:
        SettingsError: the address is not one, or the key cannot stand in an HTTP header.
    """

    def __init__(
        self, base_url: str, api_key: str | None = None, timeout: float = 60.0, *, concurrency: int = 4
    ) -> None:
        self.concurrency = max(1, concurrency)
        self._http = Transport(base_url, api_key, timeout)

    @property
    def base_url(self) -> str:
        """The service's address."""
        return self._http.base_url

    @property
    def timeout(self) -> float:
        """Seconds that one request may take."""
        return self._http.timeout

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; the client can be used again."""
        await self._http.aclose()

    # --- comments ---

    async def analyze(self, text: Text, *, task: str | None = None, keywords: bool | None = None) -> Analysis:
        """Analyse one comment.

        Args:
            text: the comment.
            task: what to find out; None: what the service does if nothing is said.
            keywords: whether keywords are extracted; None: likewise.

        Raises:
            ServiceError: the service refused the request, or the model gave no usable answer.
        """
        (analysis,) = await self._analyse([_comment(text)], task, keywords)
        if analysis["status"] == "error":
            error = analysis["error"]
            raise ServiceError(
                f"{self.base_url} could not analyse the comment: {error['message']}",
                status=HTTPStatus.OK,
                type=error["type"].replace("_", "-"),
                title="The comment has no analysis",
                detail=error["message"],
            )
        return analysis

    async def analyze_batch(
        self, comments: Iterable[Text], task: str | None = None, *, keywords: bool | None = None
    ) -> list[Analysis]:
        """Analyse many comments; the result has their order and length. Failures are in the rows (`status`).

        Raises:
            ServiceError: the service refused a request, or went away; the other requests are given up.
        """
        texts = [_comment(text) for text in comments]
        places = asyncio.Semaphore(self.concurrency)

        async def part(some: Sequence[Comment]) -> list[Analysis]:
            async with places:
                return await self._analyse(some, task, keywords)

        parts = await _all_or_none([part(some) for some in _parts(texts)])
        return [analysis for analyses in parts for analysis in analyses]

    async def _analyse(self, comments: Sequence[Comment], task: str | None, keywords: bool | None) -> list[Analysis]:
        body: dict[str, Any] = {"comments": [_as_sent(comment) for comment in comments]}
        body |= _given(task=task, keywords=keywords)
        seconds = self.timeout * -(-len(comments) // _COMMENTS_PER_TIMEOUT)
        response = await self._http.request("POST", "/v1/analyze", json_body=body, safe=True, seconds=seconds)
        analyses = self._http.read(response, ANALYSES)["results"]
        if len(analyses) != len(comments):
            raise self._http.unreadable(response, f"{len(analyses)} results for {len(comments)} comments")
        for comment, analysis in zip(comments, analyses, strict=True):
            analysis["original_text"] = comment.text  # what was sent may differ, see `sendable`
        return analyses

    # --- jobs ---

    async def submit(
        self,
        file: str | Path | bytes,
        *,
        filename: str | None = None,
        text_column: str | None = None,
        id_column: str | None = None,
        customer_column: str | None = None,
        task: str | None = None,
        format: str | None = None,  # noqa: A002
        keywords: bool | None = None,
        agreement: float | None = None,
        budget: int | None = None,
        delta: float | None = None,
        per_class: bool | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Upload a file of comments, to be analysed.

        Args:
            file: its path, or its content.
            filename: what it is called; None: the path's name. Content alone needs one, or a `format`.
            text_column: the column that holds the comments; None: found.
            id_column: the column that holds the ids; None: found.
            customer_column: the column that holds the customers' ids, by which they can be deleted later.
            task: what to find out; None: what the service does if nothing is said.
            format: the file's format, where its name does not tell.
            keywords: whether keywords are extracted.
            agreement: let a student answer, while at least this share of the labels (above 0.5, below 1) is surely the
                model's; the job's `certificate` says what came of it. None: the model answers everything.
            budget: instead of `agreement`: at most so many questions to the model.
            delta: probability with which the certificate may be wrong; None: 0.05.
            per_class: whether the agreement must hold for each label by itself.
            idempotency_key: with the same key, the same request makes one job however often it is sent. None: a new
                key, so that what is lost on the way is sent again, and every call makes a job.

        Raises:
            InputError: there is no such file.
            ServiceError: the service refused it.
        """
        upload = await asyncio.to_thread(Upload.of, file, filename)
        named = _given(
            filename=upload.name,
            text=text_column,
            id=id_column,
            customer=customer_column,
            task=task,
            format=format,
            keywords=None if keywords is None else str(keywords).lower(),
            agreement=agreement,
            budget=budget,
            delta=delta,
            per_class=None if per_class is None else str(per_class).lower(),
        )
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(upload.size),
            "Idempotency-Key": idempotency_key or secrets.token_urlsafe(24),
        }
        response = await self._http.request(
            "POST",
            "/v1/jobs",
            params=named,
            headers=headers,
            body=upload.blocks,
            safe=True,
            silence=max(self.timeout, _FILE_SILENCE_S),
        )
        return self._http.read(response, JOB)

    async def job(self, job_id: str) -> Job:
        """One job: its state, its progress, and the summary when it is done.

        Raises:
            ServiceError: there is no such job (404), or it is somebody else's.
        """
        return self._http.read(await self._http.request("GET", _job_path(job_id)), JOB)

    async def jobs(self) -> AsyncGenerator[Job, None]:
        """The key's jobs, newest first (all jobs, for an admin); the next page is fetched when it is needed."""
        async for row in self._http.pages("/v1/jobs"):
            yield self._http.checked(JOB, row)

    async def events(self, job_id: str) -> AsyncGenerator[JobEvent, None]:
        """What a job says of its progress and state, until it has ended or is deleted.

        A connection that is lost is opened again, and nothing is told twice.

        Raises:
            ServiceError: there is no such job, or the service stays away.
        """
        last, pause = "", 2.0
        retries = Retries(_EVENT_ATTEMPTS, self.timeout)
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
            try:
                async with self._http.stream(
                    f"{_job_path(job_id)}/events", headers, silence=_EVENT_SILENCE_S
                ) as response:
                    if response.status_code == HTTPStatus.NO_CONTENT:
                        return
                    async for sent in httpx2.EventSource(response):
                        retries = Retries(_EVENT_ATTEMPTS, self.timeout)
                        last = sent.id or last
                        pause = min(sent.retry / 1000, LONGEST_PAUSE_S) if sent.retry else pause
                        if sent.data:
                            event = JobEvent(sent.event, sent.id or None, _event_data(sent.data))
                            yield event
                            if event.ended:
                                return
            except ServiceError as error:
                wanted = retries(error)
                if wanted is False:
                    raise
                pause = min(max(pause, float(wanted)) * 1.25, LONGEST_PAUSE_S)
            await asyncio.sleep(pause)

    async def wait(self, job_id: str) -> Job:
        """Wait until a job has ended, however it ended; returns it. Bound it with `asyncio.timeout`.

        Raises:
            ServiceError: there is no such job, it was deleted meanwhile (404), or the service stays away.
        """
        async for _ in self.events(job_id):
            pass
        return await self.job(job_id)

    async def result(self, job_id: str, path: str | Path, format: str | None = None) -> Path:  # noqa: A002
        """Fetch the result of a finished job into a file, which is there as a whole or not at all.

        Args:
            job_id: the job.
            path: the file to write; one that is there is replaced.
            format: `csv`, `xlsx`, `jsonl` or `parquet`; None: by the path's extension.

        Raises:
            OutputError: the file cannot be written, or the format is not known.
            ServiceError: the job is not done (409), or is not there.
        """
        target = Path(path)
        kind = format or target.suffix.lower().lstrip(".")
        if kind not in RESULT_FORMATS:
            raise OutputError(f"The format of {target} is not known.", hint=f"Known: {', '.join(RESULT_FORMATS)}.")
        address = f"{_job_path(job_id)}/result"
        await self._http.with_retries(lambda: self._fetch(address, {"format": kind}, target))
        return target

    async def _fetch(self, address: str, params: Mapping[str, str], target: Path) -> None:
        silence = max(self.timeout, _FILE_SILENCE_S)
        async with (
            self._http.stream(address, {}, params=params, silence=silence) as response,
            replacing(target) as file,
        ):
            async for block in response.aiter_bytes(BLOCK):
                await asyncio.to_thread(file.write, block)

    async def cancel(self, job_id: str) -> Job:
        """Stop a job; one that has ended stays as it is.

        Raises:
            ServiceError: there is no such job.
        """
        return self._http.read(await self._http.request("POST", f"{_job_path(job_id)}/cancel", safe=False), JOB)

    async def delete(self, job_id: str) -> None:
        """Delete a job, its upload and its result; it is stopped if it runs.

        Raises:
            ServiceError: there is no such job.
        """
        await self._http.request("DELETE", _job_path(job_id), safe=False)

    # --- what the service knows ---

    async def tasks(self) -> list[dict[str, Any]]:
        """What can be found out, the default task first: `name`, `description`, `labels`, `version`, ..."""
        response = await self._http.request("GET", "/v1/tasks")
        return self._http.read(response, TASKS)["tasks"]

    async def models(self) -> list[dict[str, Any]]:
        """What may stand as a model in chat completions: the tasks, and the model behind them."""
        response = await self._http.request("GET", "/v1/models")
        return self._http.read(response, MODELS)["data"]

    async def correct(
        self,
        comment: str | Analysis,
        label: str,
        *,
        task: str | None = None,
        model_label: str | None = None,
        confidence: float | None = None,
        note: str | None = None,
        author: str | None = None,
        id: str | None = None,  # noqa: A002
    ) -> Correction:
        """Say what a comment's label is; the latest one of an author about the same text and task counts.

        Args:
            comment: the comment, or the analysis of it that is wrong: task, label and confidence are then taken from
                it where they are not given.
            label: one of the task's labels.
            task: the task; None: the service's default one.
            model_label: what the model had said.
            confidence: how sure it was.
            note: why.
            author: who says so.
            id: your name for the correction; the same one again replaces what was said before.

        Raises:
            ServiceError: there is no such task or label.
        """
        text: str
        if isinstance(comment, Analysis):
            text = comment["original_text"]
            task = task or comment["provenance"]["task"]
            model_label = model_label or comment.label
            confidence = comment["confidence"] if confidence is None else confidence
        else:
            text = comment
        given = _given(task=task, model_label=model_label, confidence=confidence, note=note, author=author, id=id)
        body = {"text": text, "label": label, **given}
        return self._http.read(
            await self._http.request("POST", "/v1/corrections", json_body=body, safe=False), CORRECTION
        )

    async def corrections(self, *, task: str | None = None) -> AsyncGenerator[Correction, None]:
        """The key's corrections, newest first (everybody's, for an admin).

        Args:
            task: those of one task only.
        """
        async for row in self._http.pages("/v1/corrections", **_given(task=task)):
            yield self._http.checked(CORRECTION, row)

    async def delete_comments(
        self, *, text: str | None = None, text_sha256: str | None = None, customer_id: str | None = None
    ) -> dict[str, int]:
        """Delete a text, or a customer's comments, wherever they lie: answers, corrections, rows of jobs.

        Exactly one of the three must be given.

        Args:
            text: the comment as it was written; only its digest is sent.
            text_sha256: SHA-256 of its UTF-8, in hexadecimal.
            customer_id: the customer that the comments were sent with.

        Returns:
            How many `comments`, `answers`, `corrections` and `rows` were deleted.

        Raises:
            InputError: none or several of them were given.
            ServiceError: the service could not delete everything; nothing is lost by asking again.
        """
        digest = text_sha256 if text is None else hashlib.sha256(sendable(text).encode()).hexdigest()
        if [text, text_sha256, customer_id].count(None) != 2:
            raise InputError(
                "What is to be deleted is not clear.", hint="Give one of text, text_sha256 and customer_id."
            )
        response = await self._http.request(
            "DELETE", "/v1/comments", params=_given(text_sha256=digest, customer_id=customer_id), safe=False
        )
        return self._http.read(response, DELETED)


async def _all_or_none(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; the first failure cancels the rest, and is raised as it is."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _parts(comments: Sequence[Comment]) -> Iterator[Sequence[Comment]]:
    """The comments in parts that one request may hold, by number and by size."""
    start, size = 0, 0
    for at, comment in enumerate(comments):
        needed = 6 * len(comment.text)  # an escape in JSON is never longer
        if at > start and (at - start == BATCH or size + needed > _MOST_BYTES):
            yield comments[start:at]
            start, size = at, 0
        size += needed
    if start < len(comments):
        yield comments[start:]


def _job_path(job_id: str) -> str:
    if not job_id.strip("."):
        raise InputError(f"{job_id!r} is not the id of a job.")
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _comment(text: Text) -> Comment:
    if isinstance(text, Comment):
        return text
    if not isinstance(text, str):
        raise InputError(f"A comment must be a str or a Comment, not {type(text).__name__}.")
    return Comment(text)


def _as_sent(comment: Comment) -> dict[str, Any]:
    """What of a comment leaves this machine: of the metadata, only whose it is."""
    customer = comment.metadata.get("customer_id")
    return {"text": comment.text, **_given(id=comment.id, customer_id=None if customer is None else str(customer))}


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _event_data(data: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        value = data
    return value if isinstance(value, dict) else {"data": value}
