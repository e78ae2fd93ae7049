"""Long jobs over files: upload, look, follow, fetch the result, cancel, delete.

An upload is streamed to the disk and looked at before it becomes a job, so that what cannot be read is refused at once.
Other people's jobs are not there (404).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from reviewmill.batch.goals import LEAST_BUDGET
from reviewmill.batch.threads import in_thread
from reviewmill.errors import ColumnError, IdempotencyConflictError, InputError, OutputError
from reviewmill.server.access import Caller, require
from reviewmill.server.jobs.check import Found, Wanted, check
from reviewmill.server.jobs.download import RESULT_FILE, result_response
from reviewmill.server.jobs.enqueue import Good, enqueue
from reviewmill.server.jobs.events import ENDED, event_id, job_events, public_progress
from reviewmill.server.jobs.files import JobFiles, kind_of, shown_name
from reviewmill.server.jobs.goal import FIELDS, GoalError, goal_of
from reviewmill.server.jobs.intake import Upload, UploadTooLargeError, receive
from reviewmill.server.jobs.results import ResultFormat
from reviewmill.server.problems import Fault, Problem, invalid, not_found
from reviewmill.server.schemas import Cursor, problem_responses
from reviewmill.server.state import Service, service_of
from reviewmill.store import JobRecord, JobState, new_id

router = APIRouter(tags=["jobs"])

_COLUMNS_SHOWN: Final = 100

JobCaller = Annotated[Caller, Depends(require("jobs", "admin"))]


# --- what goes over the wire ------------------------------------------------------------------------------------------


_JOB_EXAMPLE: Final[dict[str, Any]] = {
    "id": "01a20f18-5fe0-7ded-b5c6-0bc76b005312",
    "state": "done",
    "owner": "local",
    "task": "sentiment",
    "filename": "comments.csv",
    "format": "csv",
    "text_column": "评论",
    "id_column": "编号",
    "size": 52113,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "rows": 1000,
    "progress": {"phase": "write", "rows": 1000, "rows_total": 1000, "distinct": 912, "done": 912, "waiting": None},
    "summary": {
        "rows": 1000,
        "labels": {"positive": 700, "negative": 300},
        "shares": {"positive": 0.7, "negative": 0.3},
    },
    "cascade": None,
    "certificate": None,
    "error": None,
    "created_at": "2026-01-05T08:30:00Z",
    "started_at": "2026-01-05T08:30:01Z",
    "finished_at": "2026-01-05T08:41:17Z",
    "links": {"self": "/v1/jobs/01a20f18-5fe0-7ded-b5c6-0bc76b005312"},
}


class Job(BaseModel):
    """A job. Times are in UTC."""

    model_config = ConfigDict(json_schema_extra={"examples": [_JOB_EXAMPLE]})

    id: str
    state: JobState
    owner: str = Field(description="the id of the API key that made it")
    task: str
    filename: str = Field(description="the upload's name, made harmless")
    format: str
    text_column: str | None
    id_column: str | None
    size: int = Field(description="bytes of the upload")
    sha256: str = Field(description="digest of the upload")
    rows: int | None = Field(description="rows of the upload")
    progress: dict[str, Any] = Field(description="phase, distinct texts and how many are done, rate, why it waits")
    summary: dict[str, Any] | None = Field(description="when done: counts, shares, routes, errors, keywords")
    cascade: dict[str, Any] | None = Field(description="what was asked of a student: agreement or budget, delta")
    certificate: dict[str, Any] | None = Field(
        description="when a cascade is done: what may be said of its labels, with a `sentence` and a `statement`"
    )
    error: dict[str, Any] | None = Field(description="when failed: why, and what to do")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    links: dict[str, str]


class JobPage(BaseModel):
    """One page of jobs, newest first."""

    items: list[Job]
    next_cursor: str | None = Field(description="give it as `cursor` for the next page; null on the last")


def _shown(job: JobRecord) -> Job:
    here = f"/v1/jobs/{job.id}"
    return Job(
        id=job.id,
        state=job.state,
        owner=job.owner,
        task=job.task,
        filename=job.filename,
        format=job.format,
        text_column=job.text_column,
        id_column=job.id_column,
        size=job.size,
        sha256=job.sha256,
        rows=job.options.get("rows"),
        progress=public_progress(job.progress),
        summary=job.summary,
        cascade=job.options.get("cascade"),
        certificate=(job.summary or {}).get("certificate"),
        error=job.error,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        links={"self": here, "events": f"{here}/events", "result": f"{here}/result"},
    )


# --- upload -----------------------------------------------------------------------------------------------------------

_FORM: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "CSV, TSV, JSONL, JSON, Parquet, XLSX, text"},
        "text": {"type": "string", "description": "the column that holds the comments; found if not given"},
        "id": {"type": "string", "description": "the column that holds the ids"},
        "customer": {"type": "string", "description": "the column that holds the customers' ids, for deletion"},
        "task": {"type": "string", "description": "what to find out; `sentiment` if not given"},
        "format": {"type": "string", "description": "the file's format, where its name does not tell"},
        "keywords": {"type": "boolean", "description": "whether keywords are extracted"},
        **FIELDS,
    },
}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _FORM},
            "application/x-ndjson": {
                "schema": {"type": "string"},
                "example": '{"id": 1, "comment": "物流很快，包装很好"}\n{"id": 2, "comment": "太差了"}\n',
            },
            "text/csv": {"schema": {"type": "string"}, "example": "id,comment\n1,物流很快\n"},
        },
    }
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a caller wants of an upload: the form's fields, else the query's."""

    text: str | None
    id: str | None
    customer: str | None
    task: str | None
    format: str | None
    keywords: bool | None
    cascade: dict[str, Any] | None

    @classmethod
    def of(cls, query: Any, fields: dict[str, str]) -> Asked:
        """Read it.

        Raises:
            Problem: a value is none that it may be.
        """
        given = {name: value for name, value in {**query, **fields}.items() if value != ""}
        names = ("text", "id", "customer", "task", "format")
        try:
            cascade = goal_of(given)
        except GoalError as error:
            raise invalid(error.field, error.detail, hint=error.hint) from None
        return cls(**{name: given.get(name) for name in names}, keywords=_flag(given.get("keywords")), cascade=cascade)


def _flag(value: str | None) -> bool | None:
    if value is None:
        return None
    if value.lower() not in {"true", "false", "1", "0"}:
        raise invalid("keywords", "it is neither true nor false")
    return value.lower() in {"true", "1"}


@router.post(
    "/v1/jobs",
    status_code=201,
    summary="Make a job",
    responses={
        200: {"model": Job, "description": "The same request was made before, with this Idempotency-Key."},
        **problem_responses(409, 415, 507),
    },
    openapi_extra=_BODY,
)
async def create_job(
    request: Request,
    response: Response,
    caller: JobCaller,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
    text: Annotated[str | None, Query(description="as in the form, where the body is the file alone")] = None,
    id: Annotated[str | None, Query(description="likewise")] = None,  # noqa: A002
    customer: Annotated[str | None, Query(description="likewise")] = None,
    task: Annotated[str | None, Query(description="likewise")] = None,
    format: Annotated[str | None, Query(description="likewise")] = None,  # noqa: A002
    keywords: Annotated[bool | None, Query(description="likewise")] = None,
    agreement: Annotated[float | None, Query(gt=0.5, lt=1, description="likewise")] = None,
    budget: Annotated[int | None, Query(ge=LEAST_BUDGET, description="likewise")] = None,
    delta: Annotated[float | None, Query(gt=0, lt=0.5, description="likewise")] = None,
    per_class: Annotated[bool | None, Query(description="likewise")] = None,
    filename: Annotated[str | None, Query(description="what the file is called, likewise")] = None,
) -> Job:
    """Upload a file of comments: a form with the file in it, or the file alone as the body.

    A body is of the kind that its type says (`application/x-ndjson`, `text/csv`, ...), or its name, or `format`.

    With `agreement` (or `budget`) a student answers what it surely can (a cascade): see `certificate` of the job.

    With an `Idempotency-Key`, the same request makes the job once, however often it is sent.
    """
    service = service_of(request)
    with _refusals():
        arrived = await _receive(service, request, filename)
        job, created = await enqueue(service, caller, arrived.good(), key=idempotency_key)
    response.status_code = 201 if created else 200
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return _shown(job)


@dataclass(frozen=True, slots=True)
class Arrived:
    """An upload that lies in its folder and was found good."""

    job_id: str
    upload: Upload
    asked: Asked
    task: str
    kind: str
    found: Found

    def good(self) -> Good:
        """What becomes a job."""
        found = self.found
        return Good(
            job_id=self.job_id,
            task=self.task,
            filename=shown_name(self.upload.filename),
            format=self.kind,
            text_column=found.text_column,
            id_column=found.id_column,
            size=self.upload.size,
            sha256=self.upload.sha256,
            options={
                "rows": found.rows,
                "keywords": self.asked.keywords,
                "customer": found.customer_column,
                **({"cascade": self.asked.cascade} if self.asked.cascade is not None else {}),
            },
        )


async def _receive(service: Service, request: Request, filename: str | None) -> Arrived:
    """Take an upload in, and look at it; nothing is left of one that is refused."""
    limit = service.settings.service.max_upload_bytes
    content_type = _accepted(request.headers, limit)
    job_id = new_id()
    files = service.jobs.files(job_id)
    try:
        await in_thread(_make_folder, files)
        upload = await receive(request.stream(), content_type, files.upload("part"), limit=limit)
        upload.filename = upload.filename or filename
        asked = Asked.of(request.query_params, upload.fields)
        task = service.room.task(asked.task).name
        kind = kind_of(upload.filename or "", asked.format, upload.media_type)
        await in_thread(files.upload("part").rename, files.upload(kind))
        found = await _looked_at(service, files, kind, upload, asked)
    except BaseException:
        await in_thread(files.remove)
        raise
    return Arrived(job_id, upload, asked, task, kind, found)


def _accepted(headers: Any, limit: int) -> str:
    """The content type, if what comes may be taken at all."""
    content_type: str = headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() in {"", "application/x-www-form-urlencoded"}:
        raise Problem(
            415,
            "unsupported-media-type",
            "The body is of no kind that is taken",
            "A form (multipart/form-data) with a part `file` is needed, or a file of comments as the body.",
            'With curl: -F "file=@comments.csv", or -H "Content-Type: text/csv" --data-binary @comments.csv.',
        )
    return content_type


def _make_folder(files: JobFiles) -> None:
    try:
        files.folder.mkdir(mode=0o700)
    except OSError as error:
        raise OutputError(f"The upload cannot be stored: {error.strerror}.") from error


async def _looked_at(service: Service, files: JobFiles, kind: str, upload: Upload, asked: Asked) -> Found:
    limits = service.settings.service
    wanted = Wanted(
        path=str(files.upload(kind)),
        size=upload.size,
        kind=kind,
        text=asked.text,
        id=asked.id,
        customer=asked.customer,
        max_rows=limits.max_rows,
        max_columns=limits.max_columns,
    )
    return await check(wanted, shown=shown_name(upload.filename), turn=service.jobs.looking)


@contextmanager
def _refusals() -> Iterator[None]:
    """Say by status what is wrong with an upload."""
    try:
        yield
    except UploadTooLargeError as error:
        raise _too_large(error.message, error.hint) from None
    except IdempotencyConflictError as error:
        raise Problem(
            409, "idempotency-conflict", "The key was used for another request", error.message, error.hint
        ) from None
    except ColumnError as error:
        listed = ", ".join(name[:100] for name in error.columns[:_COLUMNS_SHOWN])
        fault = Fault(where="file", detail=f"{len(error.columns):,} columns: {listed}")
        raise Problem(422, "no-such-column", _UNREADABLE, error.message, error.hint, errors=[fault]) from None
    except InputError as error:
        raise Problem(422, "unreadable-file", _UNREADABLE, error.message, error.hint) from None
    except OutputError as error:
        raise Problem(507, "storage-full", "The upload cannot be stored", error.message, error.hint) from error


_UNREADABLE: Final = "The file cannot be read as comments"


def _too_large(detail: str, hint: str | None = None) -> Problem:
    return Problem(413, "too-large", "The upload is too large", detail, hint)


# --- look, follow -----------------------------------------------------------------------------------------------------


@router.get("/v1/jobs", summary="List jobs", responses=problem_responses())
async def list_jobs(
    request: Request,
    caller: JobCaller,
    cursor: Annotated[Cursor | None, Query(description="The `next_cursor` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JobPage:
    """Your jobs, newest first; with the scope admin, everybody's."""
    jobs, following = await asyncio.to_thread(
        service_of(request).store.jobs.list, caller.sees, cursor=cursor, limit=limit
    )
    return JobPage(items=[_shown(job) for job in jobs], next_cursor=following)


@router.get("/v1/jobs/{job_id}", summary="Look at a job", responses=problem_responses(404))
async def get_job(request: Request, caller: JobCaller, job_id: str) -> Job:
    """State, progress, and the summary when it is done."""
    return _shown(await _job(request, caller, job_id))


@router.get(
    "/v1/jobs/{job_id}/events",
    summary="Follow a job",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "Progress and state."},
        204: {"description": "The job has ended, and the last event was seen."},
        **problem_responses(404),
    },
)
async def follow_job(
    request: Request,
    caller: JobCaller,
    job_id: str,
    last_event_id: Annotated[str | None, Header(max_length=100)] = None,
) -> Response:
    """Server-sent events `progress` and `state`, until the job has ended.

    Who comes back with `Last-Event-ID` is told only what is newer.
    """
    service = service_of(request)
    job = await _job(request, caller, job_id)
    if job.state in ENDED and last_event_id == event_id(job):
        return Response(status_code=204)  # a browser's EventSource then comes back no more
    events = job_events(lambda: service.store.jobs.get(job_id), last_id=last_event_id, stopping=service.closing.is_set)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


# --- result -----------------------------------------------------------------------------------------------------------


@router.get(
    "/v1/jobs/{job_id}/result",
    summary="Fetch a result",
    response_class=StreamingResponse,
    responses={
        200: RESULT_FILE,
        **problem_responses(404, 409, 507),
    },
)
async def get_result(
    request: Request,
    caller: JobCaller,
    job_id: str,
    format: ResultFormat = "csv",  # noqa: A002
) -> Response:
    """All rows of the upload in their order, with the result's columns. What failed is in the rows."""
    service = service_of(request)
    return await result_response(service, await _job(request, caller, job_id), format)


# --- cancel, delete ---------------------------------------------------------------------------------------------------


@router.post("/v1/jobs/{job_id}/cancel", summary="Cancel a job", responses=problem_responses(404))
async def cancel_job(request: Request, caller: JobCaller, job_id: str) -> Job:
    """A job that has ended stays as it is."""
    service = service_of(request)
    before = await _job(request, caller, job_id)
    job = await asyncio.to_thread(service.store.jobs.cancel, job_id)
    if job is None:
        raise not_found("job with this id")
    if before.state == "queued" and job.state == "cancelled":  # no worker has it, which would tidy up itself
        await in_thread(service.jobs.files(job.id).tidy, None)
    return _shown(job)


@router.delete("/v1/jobs/{job_id}", status_code=204, summary="Delete a job", responses=problem_responses(404))
async def delete_job(request: Request, caller: JobCaller, job_id: str) -> Response:
    """Its upload and its result go; it is stopped if it runs. A line in the audit says that it was there."""
    job = await _job(request, caller, job_id)
    await in_thread(partial(service_of(request).jobs.delete, job, actor=caller.key_id))
    return Response(status_code=204)


async def _job(request: Request, caller: Caller, job_id: str) -> JobRecord:
    job = await asyncio.to_thread(service_of(request).store.jobs.get, job_id)
    if job is None or caller.sees not in {None, job.owner}:
        raise not_found("job with this id")
    return job
