"""The usual way, to compare with: one user message that asks for JSON with a confidence that the model writes itself.

No definitions, no examples, no log-probabilities; the format is enforced where the server can. Cleaning, cache and
concurrency are those of any other pipeline, so that a comparison shows the prompt and the confidence, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from reviewmill.endpoints import Labeller
from reviewmill.endpoints.capabilities import json_schema_format
from reviewmill.pipeline import REVIEW_FLAGS, Assembler, Pipeline
from reviewmill.schema import KEY_BYTES, TEXT_PREFIX_BYTES, Analysis, Answer
from reviewmill.tasks import Prompt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reviewmill.cache import AnswerCache
    from reviewmill.endpoints import Connection
    from reviewmill.endpoints.client import Completion
    from reviewmill.pipeline import Prepared
    from reviewmill.schema import Route
    from reviewmill.settings import Settings
    from reviewmill.tasks import Parsed, Task

PLAIN: Final = "plain"
"""What such a prompt is called on the command line and in reports."""

_ASKED: Final = {
    "zh": (
        "你是一名专业的评论分析师。{description}只返回JSON，不要解释："
        '{{"{name}": "{labels}", "confidence": 0到1的小数, "keywords": ["关键词"]}}\n评论：'
    ),
    "en": (
        "You are a professional analyst of comments. {description} Return only JSON, no explanation: "
        '{{"{name}": "{labels}", "confidence": a number from 0 to 1, "keywords": ["keyword"]}}\nComment: '
    ),
}
_SPOKEN: Final = re.compile(r'"confidence"\s*:\s*"?(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)')
_FLAG: Final = "spoken_confidence="


@dataclass(frozen=True, slots=True)
class PlainPrompt(Prompt):
    """One user message; the comment comes last."""

    asked: str = ""

    def messages(self, comment: str) -> list[dict[str, str]]:
        """The conversation: the question with the comment behind it, as it is."""
        return [{"role": "user", "content": self.asked + comment}]


class PlainLabeller(Labeller):
    """Labels comments in the usual way; `Answer.flags` keeps the confidence that the model wrote.

    Args:
        connection: where answers come from.
        task: its description and labels are used, and nothing else of it.
    """

    def __init__(self, connection: Connection, *, task: Task) -> None:
        super().__init__(connection, task=task, keywords=True, wire="json")
        asked = _ASKED[task.language].format(
            description=task.description, name=task.name, labels="/".join(task.label_names)
        )
        self.prompt = PlainPrompt((), hashlib.sha256(f"plain {asked}".encode()).hexdigest()[:12], asked)
        self._constraint: Mapping[str, Any] = (
            json_schema_format("answer", _schema(task)) if connection.capabilities.json_schema else {}
        )
        self._plain_frame = f"{connection.about.fingerprint}\n{self.prompt.id}\n{json.dumps(self._constraint)}".encode()

    def key(self, text: str) -> bytes:
        """Name of everything that decides this text's answer (see `Labeller.key`)."""
        whole = hashlib.sha256(self._plain_frame + text.encode("utf-8", "surrogatepass")).digest()
        return self.text_prefix(text) + whole[: KEY_BYTES - TEXT_PREFIX_BYTES]

    async def label_here(self, text: str) -> Answer:
        """One question: the usual way neither shortens nor looks for orders."""
        return await self._label(text, ())

    def _answer(self, reply: Completion, parsed: Parsed, label: str, flags: tuple[str, ...]) -> Answer:
        found = super()._answer(reply, parsed, label, flags)
        spoken = spoken_in(reply.text)
        flags = (*found.flags, f"{_FLAG}{spoken:g}") if spoken is not None else found.flags
        return found.model_copy(update={"logprobs": None, "mass": None, "flags": flags})


class PlainAssembler(Assembler):
    """Shows the written confidence as the confidence."""

    def answered(self, prepared: Prepared, answer: Answer, route: Route) -> Analysis:
        """The analysis of a comment that was answered."""
        spoken = next((float(flag.removeprefix(_FLAG)) for flag in answer.flags if flag.startswith(_FLAG)), None)
        others = tuple(flag for flag in answer.flags if not flag.startswith(_FLAG))
        analysis = super().answered(prepared, answer.model_copy(update={"flags": others}), route)
        analysis["confidence"] = spoken
        unsure = spoken is None or spoken < self._review_below or not REVIEW_FLAGS.isdisjoint(analysis["flags"])
        analysis["needs_review"] = unsure
        return analysis


def plain_pipeline(settings: Settings, connection: Connection, task: Task, cache: AnswerCache | None) -> Pipeline:
    """A pipeline that asks in the usual way.

    Args:
        settings: limits and thresholds.
        connection: where answers come from.
        task: its description and labels are used.
        cache: where answers are kept, or None.
    """
    labeller = PlainLabeller(connection, task=task)
    # A calibration was fitted to other answers, and what is shown here is what the model wrote.
    pipeline = Pipeline(settings.model_copy(update={"calibration": "none"}), labeller, cache)
    pipeline.assembler = PlainAssembler(task, labeller.answerer, settings.review_below)
    return pipeline


def spoken_in(text: str) -> float | None:
    """The confidence that an answer states, 0 to 1; "95" is read as a percentage, what is no share as none."""
    found = _SPOKEN.search(text)
    if found is None:
        return None
    value = float(found[1])
    value = value / 100 if 1 < value <= 100 else value
    return value if 0 <= value <= 1 else None


def _schema(task: Task) -> dict[str, Any]:
    properties: dict[str, Any] = {
        task.name: {"type": "string", "enum": list(task.label_names)},
        "confidence": {"type": "number"},
        "keywords": {"type": "array", "items": {"type": "string"}, "maxItems": task.max_keywords},
    }
    return {"type": "object", "properties": properties, "required": list(properties)}
