"""Every exception that reviewmill raises on purpose.

One small hierarchy: catch `ReviewmillError` for all of it. Each message says what was wrong and where; `hint` says what
to do about it. An error that belongs to one comment never travels as an exception out of a batch: it becomes that row's
`error` field (`type` and `message`), whose types are listed in `ROW_ERROR_TYPES`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class ReviewmillError(Exception):
    """Base class of all errors that reviewmill raises on purpose.

    Args:
        message: what was wrong, and where (file, row, field).
        hint: what the user can do about it; shown on its own line by the command line.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class SettingsError(ReviewmillError):
    """A setting (file, environment or argument) is missing, malformed or contradicts another."""


class TaskError(ReviewmillError):
    """A task file does not exist or does not describe a task."""


class ChatError(ReviewmillError):
    """A chat request cannot be answered as it is.

    Args:
        message: what was wrong.
        param: the field of the request that it is about.
        code: a word for programs, in the manner of OpenAI's API.
        hint: what to do about it.
    """

    def __init__(self, message: str, *, param: str, code: str = "invalid_value", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.param = param
        self.code = code


class InputError(ReviewmillError):
    """An input file cannot be read as comments."""


class ColumnError(InputError):
    """A file has no such column, or it is not clear which of its columns is meant.

    Args:
        message: see `ReviewmillError`.
        columns: the columns that it has.
        hint: see `ReviewmillError`.
    """

    def __init__(self, message: str, columns: Sequence[str], *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.columns = list(columns)


class OutputError(ReviewmillError):
    """A result cannot be written (disk full, folder read-only, unknown format)."""


class ModelError(ReviewmillError):
    """A model is not in the catalog, not on this machine, or cannot be loaded."""


class DownloadError(ModelError):
    """No source could deliver a model file; the message carries the table of what was tried."""


class ChecksumError(ModelError):
    """A model file is not, byte for byte, what it claims to be. It was deleted and never loaded."""


class EndpointError(ReviewmillError):
    """A model endpoint did not give a usable answer, retries included.

    `type` is the row-level error type (see `ROW_ERROR_TYPES`). `status` is the HTTP status of the endpoint's answer,
    `retry_after` the seconds after which it wants to be asked again; both None where it said none.
    """

    type: str = "endpoint_error"
    status: int | None = None
    retry_after: float | None = None

    @property
    def is_overload(self) -> bool:
        """Whether the endpoint had more to do than it could."""
        return self.status in {429, 503}


class EndpointUnreachableError(EndpointError):
    """Nothing accepts connections at the endpoint's address, or the connection was lost."""

    type = "endpoint_unreachable"


class EndpointTimeoutError(EndpointError):
    """The endpoint accepted the request and did not answer in time."""

    type = "endpoint_timeout"

    @property
    def is_overload(self) -> bool:
        """Silence counts as one."""
        return True


class EndpointRefusedError(EndpointError):
    """The endpoint refused the request (4xx): wrong key, wrong model name, ..."""

    type = "endpoint_refused"


class ContextOverflowError(EndpointRefusedError):
    """The comment does not fit the endpoint's context, however much it was shortened."""

    type = "context_overflow"


class AnswerError(EndpointError):
    """The endpoint answered, but not with a label of the task."""

    type = "answer_invalid"


class AnswerCutError(AnswerError):
    """The answer was cut at `max_tokens` before it held a label."""

    type = "answer_cut"


class BusyError(ReviewmillError):
    """So many comments wait for the model that one more was turned away.

    Args:
        waiting: comments that wait.
        retry_after: whole seconds after which the present line will have moved on.
    """

    def __init__(self, waiting: int, *, retry_after: int) -> None:
        super().__init__(
            f"The model is busy: {waiting} comments wait already, and no more may.",
            hint=f"Try again in {retry_after} s.",
        )
        self.retry_after = retry_after


class ServiceError(ReviewmillError):
    """A reviewmill service did not do what `reviewmill.Client` asked for; the service's problem document says why.

    Args:
        message: what was wrong, and on which service.
        hint: what to do about it.
        status: HTTP status; None if no answer came.
        type: short name of the kind of problem (`not-found`, `busy`, `rate-exceeded`, ...).
        title: the kind of problem in words.
        detail: what was wrong this time.
        errors: the faults in the request, one by one: `where` and `detail`.
        retry_after: seconds after which it makes sense to try again, if the service said so.
        request_id: names the request in the service's log.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        status: int | None = None,
        type: str = "unknown",  # noqa: A002 -- the RFC's word
        title: str = "",
        detail: str = "",
        errors: Sequence[Mapping[str, str]] = (),
        retry_after: float | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.type = type
        self.title = title
        self.detail = detail or message
        self.errors = errors
        self.retry_after = retry_after
        self.request_id = request_id


class ServiceUnreachableError(ServiceError):
    """No answer came from the service: nothing listens there, the connection was lost, or it took too long."""


class StudentError(ReviewmillError):
    """A saved student does not exist, is damaged, or belongs to another task."""


class CacheError(ReviewmillError):
    """The result cache cannot be opened."""


class RunError(ReviewmillError):
    """A run cannot start or continue (another run holds its journal, the journal is damaged, ...)."""


class EndpointLostError(RunError):
    """The endpoint went away in the middle of a run; what was answered is kept, and the run can be continued."""


class StoreError(ReviewmillError):
    """The store (jobs, keys, corrections, audit) cannot be opened, read or written."""


class StoreUnavailableError(StoreError):
    """The database cannot be reached or cannot work now (down, disk full, locked): the same call may succeed later."""


class IdempotencyConflictError(StoreError):
    """An idempotency key was used before, for something else."""


class CursorError(StoreError):
    """A cursor of a list is none that the store gave out."""


class ProcessError(ReviewmillError):
    """A program that we run beside us cannot be started, watched or ended."""


class InstallError(ReviewmillError):
    """A program that we run beside us cannot be installed (no suitable Python, no package index, disk full, ...)."""


class WebUIError(ReviewmillError):
    """Open WebUI did not do what was asked of it through its API; `status` is the HTTP status, None if none came."""

    status: int | None = None


ROW_ERROR_TYPES: Final[dict[str, str]] = {
    "row_malformed": "the row could not be read (bad JSON, wrong number of fields, ...)",
    "text_missing": "the row has no text field, or its text is not a string",
    "comment_too_long": "the comment is longer than the limit on raw input",
    "endpoint_error": "the endpoint failed (5xx) after all retries",
    "endpoint_unreachable": EndpointUnreachableError.__doc__ or "",
    "endpoint_timeout": EndpointTimeoutError.__doc__ or "",
    "endpoint_refused": EndpointRefusedError.__doc__ or "",
    "context_overflow": ContextOverflowError.__doc__ or "",
    "answer_invalid": AnswerError.__doc__ or "",
    "answer_cut": AnswerCutError.__doc__ or "",
}
"""What `error.type` of one analysis can be, and what each means."""
