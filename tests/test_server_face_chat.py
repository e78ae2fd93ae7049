"""The shapes of chat completions."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewmill.errors import ChatError
from reviewmill.schema import Analysis
from reviewmill.server.face.chat import Envelope, answer_text, check_form, json_bytes, pieces, read_request, wanted_form
from reviewmill.tasks import load_task

SENTIMENT = load_task("sentiment")
EMOTION = load_task("emotion")


def row(text: str, **fields: object) -> Analysis:
    return Analysis(
        {
            "sentiment": "positive",
            "confidence": 0.9,
            "keywords": ["好"],
            "original_text": text,
            "status": "ok",
            "error": None,
            "provenance": {"task": "sentiment"},
        }
        | fields
    )


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[1]", "body"),
        (b"\xff", "body"),
        (b"[" * 100_000, "body"),
        (b"1" * 10_000, "body"),
        (b"{}", "model"),
        (b'{"model": 3}', "model"),
        (b'{"model": ""}', "model"),
        (b'{"model": "m", "stream": "yes"}', "stream"),
        (b'{"model": "m", "stream": true, "stream_options": 3}', "stream_options"),
        (b'{"model": "m", "stream": true, "stream_options": {"include_usage": 1}}', "stream_options"),
    ],
)
def test_what_is_no_request_is_refused(body, param) -> None:
    with pytest.raises(ChatError) as caught:
        read_request(body)
    assert caught.value.param == param


def test_a_request() -> None:
    request = read_request(b'{"model": "m", "stream": true, "stream_options": {"include_usage": true}, "top_k": 3}')
    assert (request.model, request.stream, request.include_usage) == ("m", True, True)
    assert request.body["top_k"] == 3
    assert not read_request(b'{"model": "m", "stream": null}').stream


def schema(**properties: object) -> dict[str, object]:
    described = {"type": "object", "properties": properties, "required": list(properties)}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": described}}}


@pytest.mark.parametrize(
    ("body", "form"),
    [
        ({}, "markdown"),
        ({"n": 1, "temperature": 2, "tools": [], "tool_choice": "auto", "seed": 3, "user": "x"}, "markdown"),
        ({"response_format": {"type": "text"}}, "markdown"),
        ({"response_format": {"type": "json_object"}}, "json"),
        (schema(sentiment={}, confidence={}), "one"),
        (schema(results={}), "results"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}, "json"),
    ],
)
def test_the_form_that_is_wanted(body, form) -> None:
    assert wanted_form(body, SENTIMENT) == form


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 2}, "n"),
        ({"n": "1"}, "n"),
        ({"n": True}, "n"),
        ({"n": [1]}, "n"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": ["json_object"]}}, "response_format"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}},
            "response_format",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"required": 3}}}},
            "response_format",
        ),
        (schema(emotion={}), "response_format"),
        (schema(stars={}, sentiment={}), "response_format"),
    ],
)
def test_what_cannot_be_had_is_refused(body, param) -> None:
    with pytest.raises(ChatError) as caught:
        wanted_form(body, SENTIMENT)
    assert caught.value.param == param


def test_json_is_exactly_what_was_promised() -> None:
    one = {"sentiment": "positive", "confidence": 0.9, "keywords": ["好"], "original_text": "很好"}
    assert json.loads(answer_text([row("很好")], SENTIMENT, "json")) == one
    assert list(json.loads(answer_text([row("很好")], SENTIMENT, "one"))) == list(one)
    assert json.loads(answer_text([row("很好")], SENTIMENT, "results")) == {"results": [one]}
    assert json.loads(answer_text([row("很好")] * 2, SENTIMENT, "json")) == {"results": [one, one]}
    with pytest.raises(ChatError, match="one comment"):
        check_form(2, "one")
    angry = row("气死", emotion="anger", provenance={"task": "emotion"})
    assert next(iter(json.loads(answer_text([angry], EMOTION, "json")))) == "emotion"


def test_a_failed_row_is_not_taken_for_one_without_sentiment() -> None:
    nothing = {"sentiment": None, "confidence": None, "keywords": []}
    error = {"type": "endpoint_timeout", "message": "…"}
    rows = [row("", status="insufficient", **nothing), row("好", status="error", error=error, **nothing)]
    insufficient, failed = json.loads(answer_text(rows, SENTIMENT, "json"))["results"]
    assert insufficient == nothing | {"original_text": ""}
    assert failed == nothing | {"original_text": "好", "error": error}


@given(st.text(st.sampled_from("a\n好"), max_size=9000) | st.text(max_size=50))
def test_pieces_are_the_text(text) -> None:
    cut = list(pieces(text))
    assert "".join(cut) == text
    assert all(cut)
    assert len(cut) <= 2 * len(text) // 2000 + 1


def test_pieces_are_large_and_end_with_lines() -> None:
    cut = list(pieces("0123456789\n" * 1000))
    assert len(cut) == 6
    assert all(piece.endswith("\n") for piece in cut)


@given(st.text(st.characters(), max_size=30))
def test_any_text_travels(text) -> None:
    assert json.loads(json_bytes({"x": text})) == json.loads(json.dumps({"x": text}))


def test_an_answer_in_pieces_is_the_whole_answer() -> None:
    envelope = Envelope("chatcmpl-1", 7, "reviewmill-sentiment")
    text = "很好\n" * 2000
    whole = envelope.whole(text)
    chunks = [envelope.first(include_usage=True), *envelope.some(text, include_usage=True)]
    chunks += envelope.last(include_usage=True)
    assert whole["choices"][0]["message"]["content"] == text
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == text
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-1]["usage"] == whole["usage"]
    assert whole["usage"]["total_tokens"] == 0
    assert all(c["usage"] is None for c in chunks[:-1])
    assert not any(
        "usage" in c for c in [*envelope.some(text, include_usage=False), *envelope.last(include_usage=False)]
    )
