"""`POST /v1/chat/completions` over real HTTP, with the official `openai` package and with `curl`."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest
import uvicorn
from pydantic import BaseModel

from conftest import free_port
from reviewmill.server.app import create_app
from reviewmill.settings import load_settings
from stub_endpoint import StubEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SENTIMENT = "reviewmill-sentiment"
ONE = {"sentiment": "positive", "keywords": ["质量很好"], "original_text": "质量很好"}


class Serving:
    """A service on loopback, in a thread of this process."""

    def __init__(self, folder: Path, stub: StubEndpoint, **changes: Any) -> None:
        service = {"no_auth": True, "data_dir": folder / "data", **changes.pop("service", {})}
        base = {"endpoint": stub.url, "cache_dir": folder, "cache": "none", "attempts": 1, "service": service}
        self.settings = load_settings(**(base | changes))
        self.stub = stub
        self.port = free_port()
        self.app = create_app(self.settings)
        self._server = uvicorn.Server(uvicorn.Config(self.app, port=self.port, log_level="warning"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def start(self) -> None:
        self._thread.start()
        deadline = time.monotonic() + 20
        while not self._server.started:
            assert self._thread.is_alive(), "the service did not start"
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(20)

    def ask(self, content: Any, **more: Any) -> Any:
        messages = [{"role": "user", "content": content}]
        return self.client.chat.completions.create(**{"model": SENTIMENT, "messages": messages, **more})

    def text(self, content: Any, **more: Any) -> str:
        return str(self.ask(content, **more).choices[0].message.content)

    def is_idle(self) -> bool:
        """Whether nobody holds a place at the model."""
        return not any(self.app.state.service.room.gate.inside().values())


@contextmanager
def serving(folder: Path, stub: StubEndpoint, **changes: Any) -> Iterator[Serving]:
    made = Serving(folder, stub, **changes)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def stub() -> Iterator[StubEndpoint]:
    with StubEndpoint() as running:
        yield running


@pytest.fixture
def service(tmp_path, stub) -> Iterator[Serving]:
    with serving(tmp_path, stub) as made:
        yield made


def asked(stub: StubEndpoint) -> int:
    """Questions about comments, the probes of a new server apart."""
    return sum(stub.asked.values())


def eventually(condition: Any, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)


# --- comments ---------------------------------------------------------------------------------------------------------


def test_one_comment_as_markdown(service) -> None:
    answer = service.ask("质量很好")
    assert (answer.object, answer.model, answer.choices[0].finish_reason) == ("chat.completion", SENTIMENT, "stop")
    text = answer.choices[0].message.content
    assert text.startswith("**正面** ███████████████████░ 9")
    assert "> **质量很好**\n" in text


def test_several_comments_as_a_table(service) -> None:
    text = service.text([{"type": "text", "text": "质量很好\n\n太差了 | x"}, {"type": "text", "text": "灰色"}])
    assert text.startswith("**3 条评论** · 正面 1 (33.3%) · 负面 1 (33.3%) · 中性 1 (33.3%)\n")
    assert "\n| 2 | 太差了 \\| x | 负面 | " in text


def test_another_task_and_only_the_last_message(service) -> None:
    history = [
        {"role": "user", "content": "太差"},
        {"role": "assistant", "content": "负面"},
        {"role": "user", "content": "我 joy"},
    ]
    answer = service.client.chat.completions.create(model="reviewmill-emotion", messages=history)
    assert "**喜悦**" in answer.choices[0].message.content
    assert "太差" not in service.stub.asked


def test_a_long_message_gets_a_table_and_a_link_to_the_whole_file(tmp_path, stub) -> None:
    with serving(tmp_path, stub, cache="sqlite") as service:
        comments = [f"第{n}条很好" for n in range(201)]
        text = service.text("\n".join(comments))
        assert "\n| 200 | " in text
        assert "\n| 201 | " not in text
        link = re.search(r"\[完整文件\]\(<(http://[^>]+)>\)", text)
        assert link
        rows = list(csv.DictReader(httpx2.get(link[1]).text.lstrip("\ufeff").splitlines()))
        assert [row["comment"] for row in rows] == comments
        assert {row["sentiment"] for row in rows} == {"positive"}
        assert max(stub.asked.values()) == 1


def test_the_link_needs_no_key_and_no_scope(tmp_path, stub) -> None:
    with serving(tmp_path, stub, service={"no_auth": False}) as service:
        _, key = service.app.state.service.store.keys.create("k", ["analyse"])
        client = openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0)
        messages: Any = [{"role": "user", "content": "好\n" * 201}]
        text = client.chat.completions.create(model=SENTIMENT, messages=messages).choices[0].message.content
        link = re.search(r"\(<(http://[^>]+)>\)", text or "")
        assert link
        assert len(httpx2.get(link[1]).text.splitlines()) == 202
        wanted: Any = {"type": "json_object"}
        answer = client.chat.completions.create(model=SENTIMENT, messages=messages, response_format=wanted)
        assert len(json.loads(answer.choices[0].message.content or "")["results"]) == 201


class Review(BaseModel):
    sentiment: str | None
    confidence: float | None
    keywords: list[str]
    original_text: str


class Reviews(BaseModel):
    results: list[Review]


def test_json_is_exactly_what_was_promised(service) -> None:
    wanted = {"type": "json_object"}
    one = json.loads(service.text("质量很好", response_format=wanted))
    assert list(one) == ["sentiment", "confidence", "keywords", "original_text"]
    assert one.pop("confidence") > 0.9
    assert one == ONE
    several = json.loads(service.text("质量很好\n太差", response_format=wanted))
    assert [row["sentiment"] for row in several["results"]] == ["positive", "negative"]
    emotion = json.loads(service.text("joy", model="reviewmill-emotion", response_format=wanted))
    assert list(emotion)[:2] == ["emotion", "confidence"]


def test_the_openai_package_parses_into_models(service) -> None:
    messages: Any = [{"role": "user", "content": "质量很好\n太差"}]
    parse = service.client.chat.completions.parse
    parsed = parse(model=SENTIMENT, messages=messages, response_format=Reviews).choices[0].message.parsed
    assert [row.sentiment for row in parsed.results] == ["positive", "negative"]
    with pytest.raises(openai.BadRequestError, match="one comment"):
        parse(model=SENTIMENT, messages=messages, response_format=Review)
    one = parse(model=SENTIMENT, messages=[{"role": "user", "content": "太差"}], response_format=Review)
    assert one.choices[0].message.parsed.sentiment == "negative"


def test_streaming_gives_the_same_text_in_large_pieces(service) -> None:
    lines = "\n".join(f"第{n}条很好" for n in range(150))
    whole = service.text(lines)
    chunks = list(service.ask(lines, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.total_tokens == 0
    assert len(whole) / 2500 < len(chunks) < len(whole) / 200
    assert all(c.usage is None for c in service.ask("很好", stream=True))


def test_the_asynchronous_client(service) -> None:
    async def both() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="x", max_retries=0) as client:
            messages: Any = [{"role": "user", "content": "太差了"}]
            whole = await client.chat.completions.create(model=SENTIMENT, messages=messages)
            stream = await client.chat.completions.create(model=SENTIMENT, messages=messages, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return str(whole.choices[0].message.content), "".join(pieces)

    whole, streamed = asyncio.run(both())
    assert "**负面**" in whole
    assert whole == streamed


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_curl(service) -> None:
    def curl(body: dict[str, Any]) -> str:
        command = ["curl", "-sSN", f"{service.url}/v1/chat/completions", "-H", "Content-Type: application/json"]
        done = subprocess.run([*command, "-d", json.dumps(body)], check=True, capture_output=True, timeout=30)
        return done.stdout.decode()

    body = {"model": SENTIMENT, "messages": [{"role": "user", "content": "质量很好"}]}
    assert "正面" in json.loads(curl(body))["choices"][0]["message"]["content"]
    streamed = curl(body | {"stream": True})
    assert streamed.startswith('data: {"id":"chatcmpl-')
    assert streamed.endswith("\n\ndata: [DONE]\n\n")
    assert json.loads(curl({"model": "nothing"}))["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    "text",
    ["a\ud800b 很好", "a\u202ecba", "x" * 10_000, "![x](http://evil.example) <script>", "\u0000", "😀"],
)
def test_any_text_is_answered(service, text) -> None:
    body = json.dumps({"model": SENTIMENT, "messages": [{"role": "user", "content": text}]}).encode()
    for wanted in (None, {"type": "json_object"}):
        sent = json.dumps(json.loads(body) | {"response_format": wanted}).encode()
        answer = httpx2.post(f"{service.url}/v1/chat/completions", content=sent, timeout=30)
        assert answer.status_code == 200
        content = answer.json()["choices"][0]["message"]["content"]
        assert "<script>" not in content or wanted
        if wanted:
            assert json.loads(content)["original_text"] == text


def test_nothing_to_judge_is_said_without_asking(service) -> None:
    assert "**无可判断**：平台的默认文字" in service.text("此用户没有填写评价。")
    empty = json.loads(service.text("！！！", response_format={"type": "json_object"}))
    assert empty == {"sentiment": None, "confidence": None, "keywords": [], "original_text": "！！！"}
    assert service.text(" \n ") == "**nothing to judge**: the comment is empty\n"
    assert not asked(service.stub)


def test_open_webuis_own_calls_ask_no_model(service) -> None:
    prompt = '### Task:\nGenerate a title.\n### Output:\nJSON format: { "title": "x" }\n<chat_history>\nUSER: 很好\n'
    assert json.loads(service.text(prompt)) == {"title": "很好"}
    follow_ups = service.ask('### Task:\nSuggest.\nJSON format: { "follow_ups": ["?"] }', stream=True)
    assert json.loads("".join(c.choices[0].delta.content or "" for c in follow_ups)) == {"follow_ups": []}
    assert not asked(service.stub)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_unknown_models(service) -> None:
    for model in ("gpt-4", "reviewmill-", "reviewmill-../sentiment", "sentiment", "reviewmill-nothing\n"):
        with pytest.raises(openai.NotFoundError) as caught:
            service.ask("很好", model=model)
        assert caught.value.code == "model_not_found"
        assert caught.value.param == "model"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "Be kind."}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.[0].content.[0]"),
        ({"messages": [{"role": "user", "content": "好\n" * 257}]}, "messages"),
    ],
)
def test_what_cannot_be_answered_is_a_bad_request(service, more, param) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        service.ask("很好", **more)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert not asked(service.stub)


def test_harmless_parameters_are_ignored(service) -> None:
    tools: Any = [{"type": "function", "function": {"name": "x"}}]
    assert "正面" in service.text("很好", n=1, temperature=2, max_tokens=1, tools=tools, seed=3, stop="x", user="u")


def test_what_is_no_json_is_refused_in_openais_shape(service) -> None:
    for body in (b"", b"{", b"[]", b"\xff", b"[" * 10_000):
        answer = httpx2.post(f"{service.url}/v1/chat/completions", content=body)
        assert answer.status_code == 400
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_keys_and_their_limits(tmp_path, stub) -> None:
    with serving(tmp_path, stub, service={"no_auth": False}) as service:
        store = service.app.state.service.store
        _, good = store.keys.create("good", ["analyse"], rate_per_minute=2)
        _, bad = store.keys.create("bad", ["jobs"])

        def ask(key: str, text: str = "很好") -> Any:
            client = openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0)
            return client.chat.completions.create(model=SENTIMENT, messages=[{"role": "user", "content": text}])

        assert ask(good).choices
        with pytest.raises(openai.AuthenticationError, match="API key"):
            ask("rm_nonsense")
        with pytest.raises(openai.PermissionDeniedError, match="analyse"):
            ask(bad)
        with pytest.raises(openai.RateLimitError) as caught:
            ask(good, "很好\n太差")
        assert int(caught.value.response.headers["retry-after"]) > 0
        assert asked(stub) == 1


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_comment_that_fails_is_an_error_and_a_row_that_fails_is_a_row(tmp_path, stub, stream) -> None:
    stub.fail_texts = {"坏": 500}
    with serving(tmp_path, stub) as service:
        with pytest.raises(openai.InternalServerError) as caught:
            service.ask("坏", stream=stream)
        assert caught.value.status_code == 503
        if not stream:
            assert "| 出错：" in service.text("坏\n很好")
            rows = json.loads(service.text("坏\n很好", response_format={"type": "json_object"}))["results"]
            assert [row["sentiment"] for row in rows] == [None, "positive"]
            assert rows[0]["error"]["type"] == "endpoint_error"
            assert "error" not in rows[1]


def test_a_model_that_is_away(tmp_path) -> None:
    with StubEndpoint() as gone, serving(tmp_path, gone) as service:
        service.text("很好")
        gone.close()
        with pytest.raises(openai.InternalServerError) as caught:
            service.ask("太差")
        assert caught.value.status_code == 503
        with pytest.raises(openai.InternalServerError):
            service.ask("hi", model="stub-model")


def test_a_busy_service_says_when_to_come_again(tmp_path, stub) -> None:
    with serving(tmp_path, stub, concurrency=1, service={"queue": 0}) as service:
        service.text("很好")
        stub.latency = 3
        slow = threading.Thread(target=lambda: service.ask("太差"))
        slow.start()
        eventually(lambda: stub.asked["太差"])
        for model in (SENTIMENT, "stub-model"):
            with pytest.raises(openai.RateLimitError) as caught:
                service.ask("一般", model=model)
            assert int(caught.value.response.headers["retry-after"]) > 0
        slow.join()


def test_a_slow_stream_begins_and_its_failure_is_an_event(tmp_path, stub, monkeypatch) -> None:
    monkeypatch.setattr("reviewmill.server.routes.chat._PATIENCE_S", 0.1)
    monkeypatch.setattr("reviewmill.server.routes.chat._WAITING_EVERY_S", 0.1)
    stub.fail_texts = {"坏": 500}
    with serving(tmp_path, stub) as service:
        service.text("很好")
        stub.latency = 0.5
        chunks = list(service.ask("太差", stream=True))
        assert "负面" in "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        with pytest.raises(openai.APIError, match="makes me fail") as caught:
            list(service.ask("坏", stream=True))
        assert caught.value.type == "server_error"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", [SENTIMENT, "stub-model"])
def test_who_leaves_has_the_work_cancelled(tmp_path, stub, model, stream, monkeypatch) -> None:
    monkeypatch.setattr("reviewmill.server.routes.chat._PATIENCE_S", 0.1)
    with serving(tmp_path, stub) as service:
        service.text("很好")
        stub.latency = 60
        before = stub.total
        body = {"model": model, "messages": [{"role": "user", "content": "太差"}], "stream": stream}
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(f"{service.url}/v1/chat/completions", json=body, timeout=0.5)
        assert stub.total == before + 1
        eventually(service.is_idle)
        stub.latency = 0
        assert "负面" in service.text("差")


# --- the raw model ----------------------------------------------------------------------------------------------------


def test_the_raw_model_under_its_own_name(service) -> None:
    body = {"model": "stub-model", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.5, "top_k": 3}
    answer = httpx2.post(f"{service.url}/v1/chat/completions", json=body).json()
    assert answer["choices"][0]["message"]["content"] == "Hello!"
    assert service.stub.requests[-1] == body
    assert service.text("Hi", model="stub-model") == "Hello!"


@pytest.mark.clock
def test_the_raw_model_streams(service) -> None:
    service.stub.event_latency = 0.1
    began = time.monotonic()
    arrived = []
    chunks = []
    for chunk in service.ask("Hi", model="stub-model", stream=True, stream_options={"include_usage": True}):
        arrived.append(time.monotonic() - began)
        chunks.append(chunk)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello!"
    assert chunks[-1].usage.completion_tokens > 0
    assert arrived[-1] - arrived[0] > 0.2
    eventually(service.is_idle)


def test_the_raw_models_refusals_are_passed_on(service) -> None:
    service.text("很好")
    for status, kind in (
        (400, openai.BadRequestError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ):
        service.stub.fail_next = [status]
        with pytest.raises(kind, match="as told"):
            service.ask("Hi", model="stub-model")
    service.stub.fail_next = [(429, "7")]
    with pytest.raises(openai.RateLimitError) as caught:
        service.ask("Hi", model="stub-model", stream=True)
    assert caught.value.response.headers["retry-after"] == "7"
    service.stub.nonsense = "html"
    with pytest.raises(openai.InternalServerError, match="not a chat completion"):
        service.ask("Hi", model="stub-model")
    eventually(service.is_idle)


def test_our_key_is_the_services_own_affair(tmp_path) -> None:
    secret = "sk-very-secret-0123456789"
    with StubEndpoint(api_key=secret) as stub, serving(tmp_path, stub, api_key=secret) as service:
        assert service.text("Hi", model="stub-model") == "Hello!"
        stub.api_key = "changed"
        with pytest.raises(openai.APIStatusError) as caught:
            service.ask("Hi", model="stub-model")
        assert caught.value.status_code >= 500
        assert secret not in str(caught.value)


def test_a_raw_stream_that_breaks_says_so(service) -> None:
    service.stub.cut_stream_after = 2
    with pytest.raises(openai.APIError, match="cannot be reached"):
        list(service.ask("Hi", model="stub-model", stream=True))
    eventually(service.is_idle)


def test_who_leaves_a_raw_stream_ends_it(service) -> None:
    service.stub.event_latency = 0.3
    stream = service.ask("Hi", model="stub-model", stream=True)
    next(stream)
    stream.close()
    eventually(lambda: service.stub.hung_up == 1)
    eventually(service.is_idle)


def test_the_raw_model_is_not_asked_where_texts_must_be_masked(tmp_path, stub) -> None:
    with serving(tmp_path, stub, redact=True) as service:
        assert "正面" in service.text("很好，电话 13812345678")
        assert not any("13812345678" in json.dumps(request) for request in stub.requests)
        before = stub.total
        with pytest.raises(openai.PermissionDeniedError, match="masks"):
            service.ask("电话 13812345678", model="stub-model")
        assert stub.total == before
