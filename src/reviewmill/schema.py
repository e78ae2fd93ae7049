"""What crosses a boundary: comments in, analyses out, and the raw answers that are cached between them.

`Analysis` is schema version 1. It is a plain `dict` whose keys are also attributes, so that `json.dumps`, a DataFrame
and `result["sentiment"]` work without conversion.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, with_config
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import GetCoreSchemaHandler

SCHEMA_VERSION: Final = 1

KEY_BYTES: Final = 32
TEXT_PREFIX_BYTES: Final = 16
"""An answer's key has 32 bytes: 16 that name the cleaned text alone, 16 that name all that decided the answer."""

Status = Literal["ok", "insufficient", "error"]
Route = Literal["rule", "cache", "student", "model", "human"]


@dataclass(frozen=True, slots=True)
class Comment:
    """One text to analyse.

    Attributes:
        text: the comment as it was written.
        id: the caller's name for it; copied to the analysis.
        metadata: the caller's other fields (stars, product, date, ...); copied to exports, never shown to the model.
    """

    text: str
    id: str | int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Span(TypedDict):
    """Where a keyword stands: `original_text[start:end] == text`, in Unicode code points, half-open."""

    text: str
    start: int
    end: int


class ErrorInfo(TypedDict):
    """Why a comment has no label. `type` is one of `reviewmill.errors.ROW_ERROR_TYPES`."""

    type: str
    message: str


class Provenance(TypedDict):
    """What decided the result. `calibration` is None where the confidence is the model's own, uncalibrated."""

    model: str | None
    task: str
    prompt: str | None
    endpoint: str | None
    calibration: str | None
    latency_ms: float | None


@with_config(ConfigDict(extra="allow"))
class AnalysisFields(TypedDict):
    """The keys that every analysis has beside the label, which stands under the task's own name."""

    id: str | int | None
    original_text: str
    status: Status
    confidence: float | None
    probabilities: dict[str, float]
    keywords: list[str]
    spans: list[Span]
    language: str | None
    flags: list[str]
    route: Route | None
    needs_review: bool
    error: ErrorInfo | None
    provenance: Provenance


class Analysis(dict[str, Any]):
    """The result for one comment: a dict whose keys are also attributes.

    The label stands first, under the name of the task (`result["sentiment"]`, `result["emotion"]`); `result.label`
    reads it whatever the task. The other keys are those of `AnalysisFields`. `confidence` is the probability that
    the label is right; it and the label are None unless `status` is `"ok"`.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        id: str | int | None
        original_text: str
        status: Status
        confidence: float | None
        probabilities: dict[str, float]
        keywords: list[str]
        spans: list[Span]
        language: str | None
        flags: list[str]
        route: Route | None
        needs_review: bool
        error: ErrorInfo | None
        provenance: Provenance

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"an analysis has no field {name!r}; it has {', '.join(self)}") from None

    @property
    def label(self) -> str | None:
        """The label, whatever the task is called."""
        label: str | None = self[self["provenance"]["task"]]
        return label

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic (and so FastAPI) validate and describe an analysis."""
        return core_schema.no_info_after_validator_function(cls, handler.generate_schema(AnalysisFields))


class AnsweredBy(BaseModel):
    """Who gave an answer, where several could have.

    Attributes:
        model: the model's name.
        fingerprint: names its weights.
        endpoint: `embedded`, or the server's URL.
        prompt: names the prompt.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    fingerprint: str
    endpoint: str
    prompt: str


class Answer(BaseModel):
    """What a model (or a student) answered for one cleaned text, before calibration: this is what is cached.

    Attributes:
        label: the label that was generated.
        logprobs: natural logarithm of each label's probability, normalised over the labels; None if the endpoint
            gives no logprobs.
        mass: the share of the whole next-token distribution that the labels held (0 to 1); None likewise.
        keywords: as generated, not yet checked against the text.
        flags: what went wrong on the way (`keywords_cut`, `low_label_mass`, ...).
        tokens_in, tokens_out: prompt and generated tokens, as the endpoint counted them.
        latency_ms: time of the request that succeeded.
        by: who answered, if the endpoint was one of a pool.
    """

    model_config = ConfigDict(frozen=True)

    label: str
    logprobs: dict[str, float] | None = None
    mass: float | None = None
    keywords: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    tokens_in: int = 0
    tokens_out: int = 0
    latency_ms: float | None = None
    by: AnsweredBy | None = None
