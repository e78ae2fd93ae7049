"""The shapes of OpenAI's chat completions: what a request wants, and an answer whole or in pieces. Pure.

Source: OpenAI, "API reference: chat completions", https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from reviewmill.errors import ChatError
from reviewmill.schema import Analysis
from reviewmill.server.face.render import render
from reviewmill.tasks import Task

Form = Literal["markdown", "json", "one", "results"]
"""How to answer: Markdown; JSON for as many comments as there are; JSON for one; JSON for several."""

_PIECE_CHARS: Final = 2_000


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat request, as far as it is the same for every model.

    Attributes:
        model: the model's name.
        stream: whether to answer in pieces.
        include_usage: whether the last piece is to tell the tokens.
        body: all that was sent.
    """

    model: str
    stream: bool
    include_usage: bool
    body: Mapping[str, Any]


def read_request(content: bytes) -> ChatRequest:
    """Read the body of a request.

    Raises:
        ChatError: it is not a JSON object, or one of the fields above is missing or of another type.
    """
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise ChatError("The body must be a JSON object.", param="body", code="invalid_json")
    model, stream, options = body.get("model"), body.get("stream"), body.get("stream_options")
    if not isinstance(model, str) or not model:
        raise ChatError(
            "`model` must be the name of a model.", param="model", hint="GET /v1/models lists what there is."
        )
    if not isinstance(stream, bool | None):
        raise ChatError("`stream` must be true or false.", param="stream", code="invalid_type")
    usage = options.get("include_usage") if isinstance(options, dict) else None
    if not isinstance(options, dict | None) or not isinstance(usage, bool | None):
        raise ChatError('`stream_options` must be {"include_usage": true} or so.', param="stream_options")
    return ChatRequest(model, bool(stream), bool(usage), body)


def wanted_form(body: Mapping[str, Any], task: Task) -> Form:
    """How the answer about a task is wanted.

    What cannot be had is refused; what makes no difference here (temperature, tools that need not be used, ...) is not
    looked at.

    Raises:
        ChatError: more than one answer, a tool call, sound or a form that does not exist is wanted.
    """
    if body.get("n") not in (None, 1) or body.get("n") is True:
        raise ChatError("There is one answer: `n` must be 1.", param="n", code="unsupported_value")
    if body.get("tool_choice") not in (None, "none", "auto") or body.get("function_call") not in (None, "none", "auto"):
        raise ChatError("This model calls no tools.", param="tool_choice", code="unsupported_value")
    if body.get("modalities") not in (None, ["text"]):
        raise ChatError("This model answers with text only.", param="modalities", code="unsupported_value")
    wanted = body.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if wanted is None or kind == "text":
        return "markdown"
    if kind == "json_object":
        return "json"
    if kind == "json_schema":
        return _form_of_schema(_schema(wanted.get("json_schema")), task)
    raise _refused("`response_format` must have the type text, json_object or json_schema.")


def _refused(message: str, hint: str | None = None) -> ChatError:
    return ChatError(message, param="response_format", code="unsupported_value", hint=hint)


def _schema(given: Any) -> dict[str, Any]:
    """The schema of an object that is given with a name."""
    schema = given.get("schema") if isinstance(given, dict) and isinstance(given.get("name"), str) else None
    if not isinstance(schema, dict):
        raise _refused("`response_format.json_schema` must have a name and a schema.")
    properties, required = schema.get("properties", {}), schema.get("required", [])
    named = isinstance(required, list) and all(isinstance(name, str) for name in required)
    if schema.get("type", "object") != "object" or not isinstance(properties, dict) or not named:
        raise _refused("The schema must be that of an object.")
    return schema


def _form_of_schema(schema: Mapping[str, Any], task: Task) -> Form:
    """The form whose fields a schema asks for. Their values are as they are, whatever more the schema says."""
    one = {task.name, "confidence", "keywords", "original_text"}
    properties, required = set(schema.get("properties", {})), set(schema.get("required", []))
    wanted: Form = "results" if "results" in properties | required else "one" if properties | required else "json"
    missing = required - ({"results"} if wanted == "results" else one)
    if missing:
        names = ", ".join(f"{name[:40]!a}" for name in sorted(missing)[:10])
        raise _refused(
            f"The schema requires {names}, which an answer does not have.",
            f"For one comment it has {', '.join(sorted(one))}; for several, a list of such under `results`.",
        )
    return wanted


def check_form(comments: int, form: Form) -> None:
    """Refuse, before any work, a form that cannot hold so many comments.

    Raises:
        ChatError: it cannot.
    """
    if form == "one" and comments > 1:
        raise ChatError(
            f"The schema is for one comment, and the message holds {comments} (one a line).",
            param="messages",
            hint="Fence a comment of several lines with ```, or ask for a list under `results`.",
        )


def answer_text(analyses: Sequence[Analysis], task: Task, form: Form, *, link: str | None = None) -> str:
    """The text of the answer.

    Args:
        analyses: at least one, all of this task.
        task: the task.
        form: how to answer.
        link: where the whole file is, if a Markdown table does not show all.

    """
    if form == "markdown":
        return render(analyses, task, link=link)
    rows = [_fields(analysis, task) for analysis in analyses]
    single = form == "one" or (form == "json" and len(rows) == 1)
    return json.dumps(rows[0] if single else {"results": rows}, ensure_ascii=False)


def _fields(analysis: Analysis, task: Task) -> dict[str, Any]:
    fields = {name: analysis[name] for name in (task.name, "confidence", "keywords", "original_text")}
    # Nobody may take a failure for a comment in which there is nothing to judge.
    return fields if analysis["error"] is None else fields | {"error": analysis["error"]}


USAGE: Final = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
"""Tokens are not counted by request: answers are shared, with the cache and with whoever asks the same at that time."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What surrounds an answer, and is the same in all its pieces.

    Attributes:
        id: names the answer.
        created: when it began, in seconds since 1970.
        model: the model's name, as the request gave it.
    """

    id: str
    created: int
    model: str

    def whole(self, text: str) -> dict[str, Any]:
        """The answer in one piece."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return self._frame("chat.completion", [choice]) | {"usage": USAGE}

    def first(self, *, include_usage: bool) -> dict[str, Any]:
        """The first piece, which holds no text yet."""
        return self._piece({"role": "assistant", "content": ""}, None, include_usage)

    def some(self, text: str, *, include_usage: bool) -> Iterator[dict[str, Any]]:
        """The pieces that hold some text."""
        for piece in pieces(text):
            yield self._piece({"content": piece}, None, include_usage)

    def last(self, *, include_usage: bool) -> Iterator[dict[str, Any]]:
        """The piece that ends the answer, and the one with the usage if it is wanted."""
        yield self._piece({}, "stop", include_usage)
        if include_usage:
            yield self._frame("chat.completion.chunk", []) | {"usage": USAGE}

    def _piece(self, delta: dict[str, Any], finish: str | None, include_usage: bool) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        framed = self._frame("chat.completion.chunk", [choice])
        return framed | {"usage": None} if include_usage else framed

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def pieces(text: str) -> Iterator[str]:
    """Large pieces of a text, ending with whole lines where these are not longer."""
    at = 0
    while at < len(text):
        end = at + _PIECE_CHARS
        line_end = text.rfind("\n", at, end) + 1
        end = line_end if line_end > at and end < len(text) else end
        yield text[at:end]
        at = end


def json_bytes(value: Any) -> bytes:
    """JSON as UTF-8; a lone surrogate, which UTF-8 cannot hold, as its escape, which JSON can."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")


def event(value: Any) -> bytes:
    """One server-sent event with JSON in it (WHATWG HTML, section 9.2)."""
    return b"data: " + json_bytes(value) + b"\n\n"


DONE: Final = b"data: [DONE]\n\n"
WAITING: Final = b": waiting\n\n"
"""A comment, which keeps proxies from taking silence for death."""


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
