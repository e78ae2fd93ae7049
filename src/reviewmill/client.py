"""`Client`: a reviewmill service from Python, over the same schema as the classes that run the model themselves.

What was lost on the way is asked again where that is safe: whatever only reads, analyses, and jobs, which the service
knows by their idempotency key. `Retry-After` is obeyed, unless it is longer than anybody would wait.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx2
import stamina
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from reviewmill._version import __version__
from reviewmill.errors import InputError, OutputError, ServiceError, ServiceUnreachableError, SettingsError
from reviewmill.outbound import checked_key, is_this_machine, retry_after_seconds
from reviewmill.schema import Analysis, Comment

T = TypeVar("T")
Text = str | Comment

BATCH: Final = 256
"""The most comments that one request may hold."""

PROBLEM_PREFIX: Final = "urn:reviewmill:problem:"
RESULT_FORMATS: Final = ("csv", "xlsx", "jsonl", "parquet")
ENDED: Final = frozenset({"done", "failed", "cancelled", "deleted"})
"""States of a job in which nothing more happens."""

_ATTEMPTS: Final = 4
_EVENT_ATTEMPTS: Final = 10
"""A service that is started anew is away for a while, and its jobs go on afterwards."""

_CONNECT_S: Final = 10.0
_FILE_SILENCE_S: Final = 300.0
"""Before an upload is accepted, and before a result begins, the service reads or writes a whole file."""

_EVENT_SILENCE_S: Final = 45.0
"""The service says something every 15 seconds."""

_LONGEST_PAUSE_S: Final = 15.0
_LEAST_PAUSE_S: Final = 0.5
_COMMENTS_PER_TIMEOUT: Final = 16
_MOST_BYTES: Final = 1_500_000
"""Of one request; a service takes two million."""

_BLOCK: Final = 1 << 18
_BUSY: Final = frozenset({429, 503})
_GATEWAY: Final = frozenset({502, 504})
_LONE: Final = re.compile("[\ud800-\udfff]")

# stamina logs each retry as a warning; without a handler Python would print its bare name.
logging.getLogger("stamina").addHandler(logging.NullHandler())


class Job(BaseModel):
    """A job as the service tells it; times are in UTC.

    Attributes:
        state: `queued`, `running`, `done`, `failed` or `cancelled`.
        progress: phase, distinct texts and how many are done, rate.
        summary: when done: counts, shares, routes, errors, keywords.
        error: when failed: why, and what to do.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    state: str
    owner: str
    task: str
    filename: str
    format: str
    text_column: str | None = None
    id_column: str | None = None
    size: int
    sha256: str
    rows: int | None = None
    progress: dict[str, Any] = {}
    summary: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more happens with it."""
        return self.state in ENDED


class Correction(BaseModel):
    """A person's label for a comment, as the service keeps it; times are in UTC.

    Attributes:
        external_id: the `id` that it was sent with.
        model_label: what the model had said, with `confidence`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    external_id: str | None = None
    text: str
    text_sha256: str
    task: str
    label: str
    model_label: str | None = None
    confidence: float | None = None
    note: str | None = None
    author: str | None = None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class JobEvent:
    """What a job said of itself.

    Attributes:
        type: `state` or `progress`.
        id: names it; a follower that comes back says it.
        data: `state` and, beside it, the progress, the summary or the error.
    """

    type: str
    id: str | None
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether it is the job's last one."""
        return self.type == "state" and self.data.get("state") in ENDED


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
        self.base_url = _service_url(base_url)
        self.timeout = timeout
        self.concurrency = max(1, concurrency)
        self._api_key = checked_key(api_key)
        self._held: httpx2.AsyncClient | None = None

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
        held, self._held = self._held, None
        if held is not None:
            await held.aclose()

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
        response = await self._request("POST", "/v1/analyze", json_body=body, safe=True, seconds=seconds)
        analyses = self._read(response, _ANALYSES)["results"]
        if len(analyses) != len(comments):
            raise self._unreadable(response, f"{len(analyses)} results for {len(comments)} comments")
        for comment, analysis in zip(comments, analyses, strict=True):
            analysis["original_text"] = comment.text  # what was sent may differ, see `_sendable`
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
            idempotency_key: with the same key, the same request makes one job however often it is sent. None: a new
                key, so that what is lost on the way is sent again, and every call makes a job.

        Raises:
            InputError: there is no such file.
            ServiceError: the service refused it.
        """
        upload = await asyncio.to_thread(_Upload.of, file, filename)
        named = _given(
            filename=upload.name,
            text=text_column,
            id=id_column,
            customer=customer_column,
            task=task,
            format=format,
            keywords=None if keywords is None else str(keywords).lower(),
        )
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(upload.size),
            "Idempotency-Key": idempotency_key or secrets.token_urlsafe(24),
        }
        response = await self._request(
            "POST",
            "/v1/jobs",
            params=named,
            headers=headers,
            body=upload.blocks,
            safe=True,
            silence=max(self.timeout, _FILE_SILENCE_S),
        )
        return self._read(response, _JOB)

    async def job(self, job_id: str) -> Job:
        """One job: its state, its progress, and the summary when it is done.

        Raises:
            ServiceError: there is no such job (404), or it is somebody else's.
        """
        return self._read(await self._request("GET", _job_path(job_id)), _JOB)

    async def jobs(self) -> AsyncGenerator[Job, None]:
        """The key's jobs, newest first (all jobs, for an admin); the next page is fetched when it is needed."""
        async for row in self._pages("/v1/jobs"):
            yield self._checked(_JOB, row)

    async def events(self, job_id: str) -> AsyncGenerator[JobEvent, None]:
        """What a job says of its progress and state, until it has ended or is deleted.

        A connection that is lost is opened again, and nothing is told twice.

        Raises:
            ServiceError: there is no such job, or the service stays away.
        """
        last, pause = "", 2.0
        retries = _Retries(_EVENT_ATTEMPTS, self.timeout)
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
            try:
                async with self._stream(f"{_job_path(job_id)}/events", headers, silence=_EVENT_SILENCE_S) as response:
                    if response.status_code == HTTPStatus.NO_CONTENT:
                        return
                    async for sent in httpx2.EventSource(response):
                        retries = _Retries(_EVENT_ATTEMPTS, self.timeout)
                        last = sent.id or last
                        pause = min(sent.retry / 1000, _LONGEST_PAUSE_S) if sent.retry else pause
                        if sent.data:
                            event = JobEvent(sent.event, sent.id or None, _event_data(sent.data))
                            yield event
                            if event.ended:
                                return
            except ServiceError as error:
                wanted = retries(error)
                if wanted is False:
                    raise
                pause = min(max(pause, float(wanted)) * 1.25, _LONGEST_PAUSE_S)
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
        await self._with_retries(lambda: self._fetch(address, {"format": kind}, target))
        return target

    async def _fetch(self, address: str, params: Mapping[str, str], target: Path) -> None:
        silence = max(self.timeout, _FILE_SILENCE_S)
        async with self._stream(address, {}, params=params, silence=silence) as response, _replacing(target) as file:
            async for block in response.aiter_bytes(_BLOCK):
                await asyncio.to_thread(file.write, block)

    async def cancel(self, job_id: str) -> Job:
        """Stop a job; one that has ended stays as it is.

        Raises:
            ServiceError: there is no such job.
        """
        return self._read(await self._request("POST", f"{_job_path(job_id)}/cancel", safe=False), _JOB)

    async def delete(self, job_id: str) -> None:
        """Delete a job, its upload and its result; it is stopped if it runs.

        Raises:
            ServiceError: there is no such job.
        """
        await self._request("DELETE", _job_path(job_id), safe=False)

    # --- what the service knows ---

    async def tasks(self) -> list[dict[str, Any]]:
        """What can be found out, the default task first: `name`, `description`, `labels`, `version`, ..."""
        response = await self._request("GET", "/v1/tasks")
        return self._read(response, _TASKS)["tasks"]

    async def models(self) -> list[dict[str, Any]]:
        """What may stand as a model in chat completions: the tasks, and the model behind them."""
        response = await self._request("GET", "/v1/models")
        return self._read(response, _MODELS)["data"]

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
        return self._read(await self._request("POST", "/v1/corrections", json_body=body, safe=False), _CORRECTION)

    async def corrections(self, *, task: str | None = None) -> AsyncGenerator[Correction, None]:
        """The key's corrections, newest first (everybody's, for an admin).

        Args:
            task: those of one task only.
        """
        async for row in self._pages("/v1/corrections", **_given(task=task)):
            yield self._checked(_CORRECTION, row)

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
        digest = text_sha256 if text is None else hashlib.sha256(_sendable(text).encode()).hexdigest()
        if [text, text_sha256, customer_id].count(None) != 2:
            raise InputError(
                "What is to be deleted is not clear.", hint="Give one of text, text_sha256 and customer_id."
            )
        response = await self._request(
            "DELETE", "/v1/comments", params=_given(text_sha256=digest, customer_id=customer_id), safe=False
        )
        return self._read(response, _DELETED)

    # --- requests ---

    def _http(self) -> httpx2.AsyncClient:
        if self._held is None:
            headers = {"User-Agent": f"reviewmill/{__version__}"}
            if self._api_key:
                headers["Authorization"] = f"Bearer {self._api_key}"
            self._held = httpx2.AsyncClient(
                headers=headers,
                # Requests are timed as a whole (`asyncio.timeout`); what is streamed, by its silence.
                timeout=httpx2.Timeout(None, connect=min(_CONNECT_S, self.timeout)),
                # One connection a request in flight; the default pool of 100 would queue without saying so.
                limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
                trust_env=not is_this_machine(httpx2.URL(self.base_url).host),
            )
        return self._held

    async def _request(
        self,
        method: str,
        path: str,
        *,
        safe: bool = True,
        seconds: float | None = None,
        silence: float | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json_body: Mapping[str, Any] | None = None,
        body: Callable[[], AsyncIterator[bytes]] | None = None,
    ) -> httpx2.Response:
        """Send a request and read the whole answer.

        Args:
            method: GET, POST or DELETE.
            path: below the service's address.
            safe: whether it may be sent again.
            seconds: how long it may take; None: `timeout`.
            silence: instead of that, how long nothing may move.
            params: the query.
            headers: beside those of every request.
            json_body: a body in JSON.
            body: makes a body, anew for each attempt.
        """
        content: Any = None
        sent = dict(headers or {})
        if json_body is not None:
            content, sent["Content-Type"] = _json_bytes(json_body), "application/json"
        whole = None if silence else seconds or self.timeout
        timeout = httpx2.Timeout(silence, connect=min(_CONNECT_S, self.timeout))

        async def once() -> httpx2.Response:
            with_body = body() if body else content
            try:
                async with asyncio.timeout(whole):
                    response = await self._http().request(
                        method, self.base_url + path, params=params, headers=sent, content=with_body, timeout=timeout
                    )
            except (TimeoutError, httpx2.RequestError) as error:
                raise self._unreachable(error, whole or silence) from error
            if not response.is_success:
                raise self._refused(response)
            return response

        return await self._with_retries(once, safe=safe, patience=whole)

    async def _with_retries(
        self, once: Callable[[], Awaitable[T]], *, safe: bool = True, patience: float | None = None
    ) -> T:
        retries = _Retries(_ATTEMPTS, patience or self.timeout) if safe else _never
        async for attempt in stamina.retry_context(
            on=retries, attempts=None, timeout=None, wait_initial=_LEAST_PAUSE_S, wait_max=_LONGEST_PAUSE_S
        ):
            with attempt:
                return await once()
        raise AssertionError("unreachable: the retry loop returns or raises")

    @asynccontextmanager
    async def _stream(
        self, path: str, headers: Mapping[str, str], *, silence: float, params: Mapping[str, str] | None = None
    ) -> AsyncGenerator[httpx2.Response, None]:
        """Send a request that reads, once, and hand over the answer before its body is there."""
        timeout = httpx2.Timeout(silence, connect=min(_CONNECT_S, self.timeout))
        address = self.base_url + path
        try:
            async with self._http().stream("GET", address, params=params, headers=headers, timeout=timeout) as response:
                if not response.is_success:
                    await response.aread()
                    raise self._refused(response)
                yield response
        except httpx2.RequestError as error:
            raise self._unreachable(error, silence) from error

    async def _pages(self, path: str, **params: Any) -> AsyncGenerator[Any, None]:
        while True:
            response = await self._request("GET", path, params=params)
            page = self._read(response, _PAGE)
            for row in page["items"]:
                yield row
            if page["next_cursor"] is None:
                return
            params["cursor"] = page["next_cursor"]

    # --- answers ---

    def _read(self, response: httpx2.Response, form: TypeAdapter[T]) -> T:
        try:
            return form.validate_json(response.content)
        except ValidationError as error:
            raise self._unreadable(response, _faults(error)) from None

    def _checked(self, form: TypeAdapter[T], value: Any) -> T:
        try:
            return form.validate_python(value)
        except ValidationError as error:
            raise self._odd(_faults(error)) from None

    def _unreadable(self, response: httpx2.Response, why: str) -> ServiceError:
        return self._odd(why, status=response.status_code, request_id=response.headers.get("x-request-id"))

    def _odd(self, why: str, *, status: int | None = None, request_id: str | None = None) -> ServiceError:
        return ServiceError(
            f"{self.base_url} answered something that this client does not understand: {self._without_key(why)}",
            hint="Is that the address of a reviewmill service, and of the same version?",
            status=status,
            type="unreadable",
            title="The answer cannot be read",
            request_id=request_id,
        )

    def _refused(self, response: httpx2.Response) -> ServiceError:
        """The problem document that came, or what came instead of one, as an error."""
        status, headers = response.status_code, response.headers
        problem = _problem(response)
        phrase = response.reason_phrase or f"Status {status}"
        detail = self._without_key(str((problem or {}).get("detail") or f"{phrase}."))
        hint = (problem or {}).get("hint") or _HINTS.get(status)
        if response.has_redirect_location:
            hint = "It redirects; give the address that it redirects to."
        return ServiceError(
            f"{self.base_url} refused the request ({status}): {detail}",
            hint=self._without_key(str(hint)) if hint else None,
            status=status,
            type=str((problem or {}).get("type", NO_PROBLEM)).removeprefix(PROBLEM_PREFIX),
            title=str((problem or {}).get("title") or phrase),
            detail=detail,
            errors=(problem or {}).get("errors") or (),
            retry_after=retry_after_seconds(headers.get("retry-after", "")),
            request_id=(problem or {}).get("request_id") or headers.get("x-request-id"),
        )

    def _unreachable(self, error: Exception, seconds: float | None) -> ServiceUnreachableError:
        slow = isinstance(error, TimeoutError | httpx2.ReadTimeout | httpx2.WriteTimeout)
        if slow:
            return ServiceUnreachableError(
                f"{self.base_url} did not answer within {seconds:g} s.",
                hint="Raise `timeout`, send less at once, or look at the service's load.",
                type=TIMED_OUT,
                title="The service did not answer in time",
            )
        why = self._without_key(str(error) or type(error).__name__)
        return ServiceUnreachableError(
            f"{self.base_url} cannot be reached: {why}.",
            hint="Is the service running (`reviewmill serve`), and is that its address?",
            type="unreachable",
            title="The service cannot be reached",
        )

    def _without_key(self, said: str) -> str:
        """Some proxies repeat the key that they refuse."""
        return said.replace(self._api_key, "***") if self._api_key else said


NO_PROBLEM: Final = "no-problem-document"
"""The type of a refusal that came without a problem document, so from something in front of the service."""

TIMED_OUT: Final = "timeout"

_HINTS: Final[dict[int, str]] = {
    401: "It wants a key: `Client(url, api_key=…)`.",
    404: "Is that the address of a reviewmill service?",
}


class _Analyses(TypedDict):
    results: list[Analysis]


class _Tasks(TypedDict):
    tasks: list[dict[str, Any]]


class _Page(TypedDict):
    items: list[Any]
    next_cursor: str | None


class _Models(TypedDict):
    data: list[dict[str, Any]]


_ANALYSES: Final = TypeAdapter(_Analyses)
_JOB: Final = TypeAdapter(Job)
_CORRECTION: Final = TypeAdapter(Correction)
_TASKS: Final = TypeAdapter(_Tasks)
_MODELS: Final = TypeAdapter(_Models)
_DELETED: Final = TypeAdapter(dict[str, int])
_PAGE: Final = TypeAdapter(_Page)


class _Retries:
    """Decides, for one request, whether to try again, and after how long.

    What was lost on the way is tried again a few times. A service that says when to come again is believed, for as
    long as all waiting together is no longer than the patience.
    """

    def __init__(self, attempts: int, patience: float) -> None:
        self._left = attempts - 1
        self._patience = patience

    def __call__(self, error: Exception) -> bool | float:
        if not isinstance(error, ServiceError):
            return False
        if error.status in _BUSY and error.retry_after is not None:
            pause = max(error.retry_after, _LEAST_PAUSE_S)
            self._patience -= pause
            return pause if self._patience >= 0 else False
        # The service itself has asked the model again and again; a gateway in front of it has not.
        lost = isinstance(error, ServiceUnreachableError) and error.type != TIMED_OUT
        passing = error.status in _BUSY or (error.status in _GATEWAY and error.type == NO_PROBLEM)
        self._left -= 1
        return (lost or passing) and self._left >= 0


def _never(error: Exception) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class _Upload:
    """A file, or its content, that can be sent several times."""

    name: str | None
    size: int
    source: Path | bytes

    @classmethod
    def of(cls, file: str | Path | bytes, name: str | None) -> _Upload:
        if isinstance(file, bytes):
            return cls(name, len(file), file)
        path = Path(file)
        try:
            with path.open("rb") as opened:
                return cls(name or path.name, os.fstat(opened.fileno()).st_size, path)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from error

    async def blocks(self) -> AsyncIterator[bytes]:
        """The content, piece by piece; of exactly the size that was announced."""
        if isinstance(self.source, bytes):
            for start in range(0, self.size, _BLOCK):
                yield self.source[start : start + _BLOCK]
            return
        left = self.size
        with await asyncio.to_thread(self.source.open, "rb") as file:
            while left and (block := await asyncio.to_thread(file.read, min(_BLOCK, left))):
                left -= len(block)
                yield block
        if left:
            raise InputError(f"{self.source} became shorter while it was sent.", hint="Send it when it is complete.")


@asynccontextmanager
async def _replacing(target: Path) -> AsyncGenerator[IO[bytes], None]:
    """A temporary file beside the target, which takes its name when it is complete and on the disk.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        with await asyncio.to_thread(temporary.open, "xb") as file:
            yield file
            await asyncio.to_thread(_to_disk, file)
        temporary.replace(target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):  # it was renamed, or could not be made
            temporary.unlink()


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


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


def _service_url(url: str) -> str:
    """The address without what is added to it."""
    trimmed = url.strip().rstrip("/").removesuffix("/v1").rstrip("/")
    try:
        parsed = httpx2.URL(trimmed)
    except httpx2.InvalidURL:
        parsed = httpx2.URL("")
    if parsed.userinfo or parsed.query or parsed.fragment:
        # Not shown: it may hold a password.
        raise SettingsError(
            f"The service's address on {parsed.host!r} holds a user, a query or a fragment.",
            hint="Write it like http://127.0.0.1:8080, and a key as `api_key`.",
        )
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise SettingsError(f"{url!r} is not the address of a service.", hint="Write it like http://127.0.0.1:8080.")
    return trimmed


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


def _json_bytes(body: Mapping[str, Any]) -> bytes:
    return _sendable(json.dumps(body, ensure_ascii=False)).encode()


def _sendable(text: str) -> str:
    """The text without halves of surrogate pairs, which no UTF-8 and so no service can hold; it stays as long."""
    return _LONE.sub("\ufffd", text)


def _event_data(data: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError:
        value = data
    return value if isinstance(value, dict) else {"data": value}


def _problem(response: httpx2.Response) -> dict[str, Any] | None:
    """The problem document (RFC 9457), if the answer is one."""
    if response.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/problem+json":
        return None
    try:
        problem = json.loads(response.content)
    except ValueError:
        return None
    return problem if isinstance(problem, dict) else None


def _faults(error: ValidationError) -> str:
    """What is wrong in an answer, without its content, which may be a comment."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    return f"{where}: {first['msg']}" if where else str(first["msg"])
