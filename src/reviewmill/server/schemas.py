"""What the HTTP API reads and writes, with examples.

Requests are strict: an unknown field or a value of another type is refused. Bodies are read by `read_body` after the
caller is known, so that nobody without a key makes us parse anything.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    RootModel,
    StringConstraints,
    Tag,
    ValidationError,
)
from starlette.responses import Response

from reviewmill.schema import AnalysisFields
from reviewmill.server.problems import Problem, bad_request, faults

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from starlette.requests import Request

ModelT = TypeVar("ModelT", bound=BaseModel)

JSON: Final = "application/json"


def _whole(value: Any) -> Any:
    """JSON knows one kind of number: 4.0 is the integer 4."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Id = (
    Annotated[str, StringConstraints(max_length=200)]
    | Annotated[int, Field(ge=-(2**63), lt=2**63), BeforeValidator(_whole)]
)
Name = Annotated[str, StringConstraints(min_length=1, max_length=100)]
CustomerId = Annotated[str, StringConstraints(min_length=1, max_length=200)]
ChatName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Cursor = Annotated[str, StringConstraints(max_length=100)]

_ANALYSIS_EXAMPLE: Final[dict[str, Any]] = {
    "sentiment": "negative",
    "confidence": 0.9712,
    "keywords": ["拍照", "太差"],
    "original_text": "这个手机拍照太差了。",
    "id": "r-17",
    "status": "ok",
    "probabilities": {"positive": 0.0079, "neutral": 0.0209, "negative": 0.9712},
    "spans": [{"text": "拍照", "start": 4, "end": 6}, {"text": "太差", "start": 6, "end": 8}],
    "language": "zh",
    "flags": [],
    "route": "model",
    "needs_review": False,
    "error": None,
    "provenance": {
        "model": "qwen2.5-coder-1.5b-instruct-q4_k_m",
        "task": "sentiment",
        "prompt": "6f1d0c52",
        "endpoint": "embedded",
        "calibration": None,
        "latency_ms": 412.6,
    },
}


class Body(BaseModel):
    """What a client sends."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


# --- analyse ---


class CommentBody(Body):
    """One comment."""

    text: str = Field(description="The comment as it was written.", examples=["这个手机拍照太差了。"])
    id: Id | None = Field(default=None, description="Your name for it; comes back with the result.")
    customer_id: CustomerId | None = Field(
        default=None, description="Whose comment it is, so that all of a customer's can be deleted."
    )


class _Options(Body):
    task: Name | None = Field(default=None, description="What to find out; the default is the service's.")
    keywords: bool | None = Field(default=None, description="Whether to extract keywords; without, it is faster.")


class OneComment(CommentBody, _Options):
    """One comment to analyse."""


class ManyComments(_Options):
    """Several comments to analyse."""

    comments: list[CommentBody] = Field(min_length=1, description="At most as many as the service allows (256).")


def _how_many(value: Any) -> str:
    return "many" if (isinstance(value, dict) and "comments" in value) or isinstance(value, ManyComments) else "one"


class AnalyzeRequest(
    RootModel[
        Annotated[
            Annotated[OneComment, Tag("one")] | Annotated[ManyComments, Tag("many")],
            Discriminator(_how_many),
        ]
    ]
):
    """One comment, or several."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "这个手机拍照太差了。"},
                {
                    "comments": [
                        {"id": "r-17", "text": "这个手机拍照太差了。", "customer_id": "c-204"},
                        {"id": "r-18", "text": "Good value, arrived a day early."},
                    ],
                    "task": "sentiment",
                    "keywords": False,
                },
            ]
        }
    )


class AnalyzeResponse(BaseModel):
    """The results, in the order of the comments; each has a status of its own."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"task": "sentiment", "results": [_ANALYSIS_EXAMPLE]}]})

    task: str
    results: list[AnalysisFields]


# --- tasks and models ---


class LabelInfo(BaseModel):
    """One possible answer of a task."""

    name: str
    definition: str


class TaskInfo(BaseModel):
    """What can be found out."""

    name: str = Field(examples=["sentiment"])
    description: str
    language: str
    labels: list[LabelInfo]
    keywords: bool
    version: str = Field(description="SHA-256 of its content.")
    is_default: bool


class TaskList(BaseModel):
    """All tasks, the default one first."""

    tasks: list[TaskInfo]


class ModelInfo(BaseModel):
    """A model in OpenAI's form: a task (`reviewmill-…`), or the model behind them under its own name."""

    id: str = Field(examples=["reviewmill-sentiment"])
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """All models in OpenAI's form."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]


# --- corrections ---


class CorrectionBody(Body):
    """A person's label for a comment; the model's label stays beside it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "text": "也就那样吧。",
                    "task": "sentiment",
                    "label": "neutral",
                    "model_label": "negative",
                    "confidence": 0.58,
                    "author": "li",
                }
            ],
            "anyOf": [{"required": ["text"]}, {"required": ["chat"]}],
        }
    )

    text: str | None = Field(default=None, max_length=100_000, description="The comment; or it is named by its chat.")
    chat: ChatName | None = Field(
        default=None, description="The chat in which the comment was analysed, as `X-Chat` named it."
    )
    message: ChatName | None = Field(
        default=None, description="The answer in which it stands (`X-Msg`); without it, what the chat was about last."
    )
    row: Annotated[int, Field(ge=1, lt=2**53), BeforeValidator(_whole)] | None = Field(
        default=None, description="Its number; may be left out where there is one comment."
    )
    label: Name = Field(description="One of the task's labels.")
    task: Name | None = Field(default=None, description="The default is the service's.")
    model_label: Name | None = Field(default=None, description="What the model had said.")
    confidence: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    note: str | None = Field(default=None, max_length=2_000)
    author: str | None = Field(
        default=None,
        max_length=200,
        description="Who says so. Under a key with the scope `chat`, the account that the request's headers name.",
    )
    id: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        default=None, description="Your name for it: the same id again replaces what was said before."
    )


class Correction(BaseModel):
    """A correction that is kept."""

    id: str
    external_id: str | None = Field(description="The `id` that it was sent with.")
    text: str
    text_sha256: str
    task: str
    label: str
    model_label: str | None
    confidence: float | None
    note: str | None
    author: str | None
    created_at: str
    updated_at: str


class CorrectionPage(BaseModel):
    """Some corrections, newest first."""

    items: list[Correction]
    next_cursor: str | None = Field(description="For the next page; null on the last.")


# --- deletion ---


class Deleted(BaseModel):
    """What was deleted."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"comments": 2, "answers": 1, "corrections": 0, "rows": 0}]}
    )

    comments: int = Field(description="Places in the index where they lay.")
    answers: int = Field(description="Cached answers about them.")
    corrections: int
    rows: int = Field(description="Rows in files of jobs.")


# --- health ---


class Part(BaseModel):
    """One thing that the service needs."""

    ready: bool
    detail: str


class Readiness(BaseModel):
    """Whether the service can answer."""

    status: Literal["ready", "not ready"]
    parts: dict[str, Part]


class Alive(BaseModel):
    """The process is there."""

    status: Literal["ok"] = "ok"
    version: str


# --- problems ---


class FaultInfo(BaseModel):
    """One thing that is wrong in a request."""

    where: str
    detail: str


class ProblemDocument(BaseModel):
    """What went wrong, as RFC 9457 has it."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:reviewmill:problem:busy",
                    "title": "The service is busy",
                    "status": 429,
                    "detail": "The model is busy: 256 comments wait already, and no more may.",
                    "hint": "Try again in 3 s.",
                    "request_id": "5f0c8a1be2d94c77",
                }
            ]
        }
    )

    type: str
    title: str
    status: int
    detail: str
    hint: str | None = None
    errors: list[FaultInfo] | None = None
    request_id: str


_MEANINGS: Final = {
    400: "The request cannot be read.",
    401: "No valid API key.",
    403: "The key may not do this.",
    404: "There is no such thing.",
    405: "The address does not answer that method.",
    408: "The request took too long to arrive.",
    409: "This does not go with the state of things.",
    410: "It was there, and is not any more.",
    413: "The body is too large.",
    415: "The body is not of the right kind.",
    422: "The request is not valid.",
    429: "Too much at once; `Retry-After` says when to come again.",
    500: "The service made a mistake.",
    502: "The model's endpoint gave no usable answer.",
    503: "Something that the service needs cannot be used now.",
    504: "The model's endpoint was silent for too long.",
    507: "The service's disk is full.",
}
_ALWAYS: Final = (400, 401, 403, 405, 408, 413, 422, 429, 500, 503)


def problem_responses(*more: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route documents: those that any route can have, and `more`."""
    return {
        status: {"description": _MEANINGS[status], "content": {"application/problem+json": {"schema": _PROBLEM_REF}}}
        for status in sorted({*_ALWAYS, *more})
    }


_SCHEMAS: Final = "#/components/schemas/{model}"
_PROBLEM_REF: Final = {"$ref": _SCHEMAS.format(model="ProblemDocument")}


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """What a route documents of a body that it reads by `read_body`; `app.py` adds the schema itself."""
    return {
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": {"$ref": _SCHEMAS.format(model=model.__name__)}}},
        }
    }


async def read_body(request: Request, model: type[ModelT]) -> ModelT:
    """Read a JSON body.

    Raises:
        Problem: it is not JSON, or not of this form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON or request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(
            415,
            "not-json",
            "The body is not of the right kind",
            "This needs a JSON body, not compressed.",
            f"Send it with `Content-Type: {JSON}`.",
            {"Accept": JSON},
        )
    content = await request.body()
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        if found and found[0]["type"] == "json_invalid":
            raise Problem(400, "malformed", "Bad Request", str(found[0]["msg"])) from None
        raise bad_request(faults(found)) from None


def json_response(content: Mapping[str, Any] | Iterable[Any], status: int = 200) -> Response:
    """An answer in JSON, as it is: what we made ourselves needs no validation."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    try:
        encoded = text.encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can carry
        encoded = json.dumps(content, separators=(",", ":")).encode()
    return Response(encoded, status, media_type=JSON)
