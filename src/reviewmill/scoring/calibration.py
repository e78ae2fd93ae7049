"""A calibration: what turns a model's label log-probabilities into probabilities that hold.

`p(k) ∝ exp(z(k) / T + b(k))`: one temperature T and one bias for each label, on the uncalibrated log-probabilities z
(temperature scaling with bias correction: Guo et al. 2017, arXiv 1706.04599; Alexandari, Kundaje & Shrikumar 2020,
arXiv 1901.06852). The temperature makes the model less or more sure of everything; it never changes a label. The
biases say how readily each label is given, and move labels that were nearly even. A calibration made with
`--method stack` adds to the biases what the comment's own n-grams say (`scoring/stack.py`).

Answers are cached before calibration, so that applying another one asks nothing again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, model_validator

FORMAT: Final = 1
ID_CHARS: Final = 12
_DIGITS: Final = 6

Method = Literal["vector", "prior", "stack"]
"""How it was fitted: on labels; on comments without labels (biases only); on labels with the comments' n-grams."""


@runtime_checkable
class TextScores(Protocol):
    """What a comment's own words add to the scores: `scoring.stack.TextPart`, loaded only where there is one."""

    labels: tuple[str, ...]
    digest: str

    def add(self, scores: Mapping[str, float], text: str) -> dict[str, float]:
        """Scores with what this comment adds."""
        ...


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Bound(_Model):
    """What a calibration was fitted for; it is void for anything else.

    Attributes:
        model: the model's fingerprint (`About.fingerprint`).
        task: the task's `asked_hash`: all that the model is asked.
        prompt: the prompt's id: words, wire format, with or without keywords.
    """

    model: str
    task: str
    prompt: str


class FittedOn(_Model):
    """A file that a calibration was fitted on: its name, SHA-256, rows used, and rows of each label (if it has any)."""

    name: str
    rows: Annotated[int, Field(ge=1)]
    sha256: str | None = None
    labels: dict[str, int] = {}


class Held(_Model):
    """How probabilities held on rows that they were not fitted on; what each number is: `evaluate/metrics.py`."""

    rows: int
    accuracy: float
    macro_f1: float
    nll: float
    brier: float
    ece: float


class Calibration(_Model):
    """One calibration.

    Attributes:
        task: the task's name.
        model: the model's name.
        labels: the task's labels, in its order.
        temperature: T, above 0.
        bias: b of each label; only differences matter, and their mean is 0.
        bound_to: what it was fitted for.
        method: how it was fitted.
        fitted_on: on what.
        before, after: how the probabilities held on rows that were not fitted on, without and with it.
        notes: what whoever uses it should know.
        created: when, as ISO 8601 in UTC; of several that match, the youngest is used.
        text: the weights of n-grams, for the method `stack`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    format: Literal[1] = FORMAT
    task: str
    model: str
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    temperature: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] = 1.0
    bias: dict[str, Annotated[float, Field(ge=-50, le=50, allow_inf_nan=False)]]
    bound_to: Bound
    method: Method = "vector"
    fitted_on: tuple[FittedOn, ...] = ()
    before: Held | None = None
    after: Held | None = None
    notes: tuple[str, ...] = ()
    created: str = ""
    text: Annotated[TextScores | None, Field(exclude=True, repr=False)] = None

    @model_validator(mode="after")
    def _consistent(self) -> Calibration:
        if len(set(self.labels)) != len(self.labels) or set(self.bias) != set(self.labels):
            raise ValueError("there must be exactly one bias for each label")
        if (self.method == "stack") != (self.text is not None):
            raise ValueError("a calibration of the method stack has weights of n-grams, and no other has")
        if self.text is not None and not set(self.text.labels) <= set(self.labels):
            raise ValueError("the weights of n-grams are for labels that the calibration does not have")
        return self

    @cached_property
    def id(self) -> str:
        """Names everything that decides what it does: the beginning of a SHA-256."""
        deciding: list[Any] = [self.format, self.method, list(self.labels), self.temperature]
        deciding += [[self.bias[label] for label in self.labels], self.bound_to.model_dump()]
        if self.text is not None:
            deciding.append(self.text.digest)
        canonical = json.dumps(deciding, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:ID_CHARS]

    def apply(self, logprobs: Mapping[str, float], text: str | None = None) -> dict[str, float]:
        """Calibrated probabilities.

        Args:
            logprobs: label to natural log-probability, as the model gave it; finite, for exactly `labels`.
            text: the cleaned comment; needed by the method `stack`, not read by others.

        Returns:
            Label to probability, in the order of `logprobs`; they sum to 1.

        Raises:
            ValueError: the labels are others, or the comment is missing.
        """
        if logprobs.keys() != self.bias.keys():
            raise ValueError(f"this calibration is for the labels {self.labels}, not for {tuple(logprobs)}")
        scores = {name: value / self.temperature + self.bias[name] for name, value in logprobs.items()}
        if self.text is not None:
            if text is None:
                raise ValueError("this calibration reads the comment too")
            scores = self.text.add(scores, text)
        return softmax(scores)

    def describe(self) -> str:
        """One line for people: id, what it was fitted on, and how well its probabilities held."""
        rows = sum(file.rows for file in self.fitted_on)
        kind = {"vector": "labelled comments", "prior": "comments without labels", "stack": "labelled comments"}
        line = f"{self.id}, fitted on {rows:,} {kind[self.method]} ({', '.join(file.name for file in self.fitted_on)})"
        if self.method == "stack":
            line += ", with their n-grams"
        if self.before is not None and self.after is not None:
            line += f"; ECE on rows not fitted on {self.before.ece:.3f} → {self.after.ece:.3f}"
        return line

    def because_not_for(self, bound: Bound) -> str | None:
        """Why it cannot be used for something else, in words; None if it is for exactly that."""
        own = self.bound_to
        if own.task != bound.task:
            return "the task has changed since (its labels, guidelines or examples), or is another one"
        if own.model != bound.model:
            return "the model is another one, or another file of it"
        if own.prompt != bound.prompt:
            return "the prompt is another one (another answer format, or with keywords instead of without)"
        return None


def softmax(scores: Mapping[str, float]) -> dict[str, float]:
    """exp(s) / Σ exp(s), in the same order; scores are finite."""
    most = max(scores.values())
    shares = {name: math.exp(value - most) for name, value in scores.items()}
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


def centred(bias: Mapping[str, float]) -> dict[str, float]:
    """The same biases with mean 0, rounded as they are stored (differences are all that matters)."""
    mean = sum(bias.values()) / len(bias)
    return {name: round(value - mean, _DIGITS) + 0.0 for name, value in bias.items()}


class Prior(_Model):
    """The temperature and biases that a fit starts from and shrinks towards."""

    temperature: float = 1.0
    bias: dict[str, float]

    @classmethod
    def from_weights(cls, weights: Mapping[str, float]) -> Prior:
        """What a task's weights do, as biases: a probability times w is a log-probability plus log w."""
        return cls(bias={name: math.log(weight) for name, weight in weights.items()})

    @classmethod
    def from_calibration(cls, calibration: Calibration) -> Prior:
        """Temperature and biases of a calibration (not its n-grams)."""
        return cls(temperature=calibration.temperature, bias=dict(calibration.bias))
