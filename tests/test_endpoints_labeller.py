from __future__ import annotations

import asyncio
import hashlib
import json
import math
import subprocess
import sys
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import stamina

import stub_endpoint
from reviewmill.endpoints import Labeller, connect
from reviewmill.errors import (
    AnswerCutError,
    AnswerError,
    ContextOverflowError,
    EndpointError,
    EndpointRefusedError,
)
from reviewmill.settings import load_settings
from reviewmill.tasks import Task, load_task, parse_task
from stub_endpoint import BARE, LLAMA_CPP, OLLAMA, VLLM, StubEndpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.anyio

TEXTS = {"手机很好用": "positive", "屏幕太差了": "negative", "已经收到": "neutral", "I love it": "positive"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_waits() -> Iterator[None]:
    """Retries as configured, without the waits between them."""
    with stamina.set_testing(True, attempts=1000, cap=True):
        yield


@pytest.fixture
def stub() -> Iterator[StubEndpoint]:
    with StubEndpoint() as running:
        yield running


@asynccontextmanager
async def labelling(
    stub: StubEndpoint, folder: Path, *, task: Task | None = None, keywords: bool = True, wire: Any = "auto"
) -> AsyncIterator[Labeller]:
    """A labeller on the stub; what the stub counted while it was probed is forgotten."""
    connection = await connect(load_settings(endpoint=stub.url, cache_dir=folder, attempts=4, timeout=20))
    stub.requests.clear()
    try:
        yield Labeller(connection, task=task or load_task("sentiment"), keywords=keywords, wire=wire)
    finally:
        await connection.aclose()


def task_of(*labels: str, name: str = "verdict") -> Task:
    lines = [f'name = "{name}"', 'description = "What is it?"', 'language = "en"']
    lines += [f'[[labels]]\nname = "{label}"\ndefinition = "it is {label}"' for label in labels]
    return parse_task("\n".join(lines), "a test's task")


# The wire follows from what the server can do


@pytest.mark.parametrize("keywords", [True, False])
@pytest.mark.parametrize(
    ("able", "wanted", "wire", "constraints"),
    [
        (LLAMA_CPP, "auto", "compact", {"grammar"}),
        (VLLM, "auto", "compact", {"structured_outputs"}),
        (OLLAMA, "auto", "json", {"response_format"}),
        (BARE, "auto", "json", set()),
        (LLAMA_CPP, "json", "json", {"response_format"}),
        (VLLM, "json", "json", {"structured_outputs"}),
        (LLAMA_CPP, "free", "json", set()),
        (BARE, "compact", "compact", set()),
    ],
)
async def test_the_shortest_format_that_the_server_enforces(
    stub: StubEndpoint,
    tmp_path: Path,
    able: frozenset[str],
    wanted: str,
    wire: str,
    constraints: set[str],
    keywords: bool,
) -> None:
    stub.capabilities = able
    async with labelling(stub, tmp_path, keywords=keywords, wire=wanted) as labeller:
        assert labeller.wire.name == wire
        for text, label in TEXTS.items():
            answer = await labeller.label(text)
            assert answer.label == label
            assert bool(answer.keywords) is keywords
            assert all(keyword in text for keyword in answer.keywords)
            assert answer.flags == ()
            assert answer.tokens_in > 0
            assert answer.tokens_out > 0
    assert len(stub.requests) == len(TEXTS)
    for request in stub.requests:
        assert request.keys() & {"grammar", "structured_outputs", "response_format"} == constraints


async def test_vllm_gets_a_choice_for_the_label_alone_and_a_regex_for_keywords(
    stub: StubEndpoint, tmp_path: Path
) -> None:
    stub.capabilities = VLLM
    for keywords, kind in [(True, "regex"), (False, "choice")]:
        async with labelling(stub, tmp_path, keywords=keywords) as labeller:
            await labeller.label("很好")
        assert list(stub.requests[-1]["structured_outputs"]) == [kind]


async def test_the_system_part_and_the_examples_are_the_same_for_every_comment(
    stub: StubEndpoint, tmp_path: Path
) -> None:
    async with labelling(stub, tmp_path) as labeller:
        for text in TEXTS:
            await labeller.label(text)
    prefixes = {json.dumps(request["messages"][:-1]) for request in stub.requests}
    assert len(prefixes) == 1
    assert stub.requests[0]["messages"][0]["role"] == "system"
    assert set(stub.asked) == set(TEXTS)


# Probabilities


@pytest.mark.parametrize("wire", ["compact", "json"])
async def test_probabilities_come_from_the_logprobs_at_the_label(stub: StubEndpoint, tmp_path: Path, wire: str) -> None:
    stub.confidence = 0.8
    async with labelling(stub, tmp_path, wire=wire) as labeller:
        answer = await labeller.label("屏幕太差了")
    assert answer.logprobs is not None
    shares = {label: math.exp(logprob) for label, logprob in answer.logprobs.items()}
    # The stub gives the label 0.8, and 0.2 * 0.9 to the two others together.
    assert shares == pytest.approx({"negative": 0.8 / 0.98, "positive": 0.09 / 0.98, "neutral": 0.09 / 0.98}, rel=1e-3)
    assert answer.mass == pytest.approx(0.98, rel=1e-3)


async def test_without_logprobs_there_is_no_confidence(stub: StubEndpoint, tmp_path: Path) -> None:
    stub.capabilities = OLLAMA
    async with labelling(stub, tmp_path) as labeller:
        answer = await labeller.label("屏幕太差了")
    assert (answer.label, answer.logprobs, answer.mass) == ("negative", None, None)
    assert "top_logprobs" not in stub.requests[0]


async def test_a_log_probability_without_alternatives_is_no_confidence(stub: StubEndpoint, tmp_path: Path) -> None:
    stub.capabilities, stub.unasked_logprobs = OLLAMA, True
    async with labelling(stub, tmp_path) as labeller:
        assert labeller.capabilities.top_logprobs == 0
        assert (await labeller.label("屏幕太差了")).logprobs is None


@pytest.mark.parametrize(("mass", "flags"), [(0.6, ()), (0.4, ("low_label_mass",))])
async def test_a_label_that_the_model_hardly_meant_is_flagged(
    stub: StubEndpoint, tmp_path: Path, mass: float, flags: tuple[str, ...]
) -> None:
    stub.label_mass = mass
    async with labelling(stub, tmp_path) as labeller:
        answer = await labeller.label("很好")
    assert answer.flags == flags
    assert answer.mass == pytest.approx(mass * 0.99, rel=1e-3)


# The label alone


@pytest.mark.parametrize("able", [LLAMA_CPP, VLLM], ids=["llama.cpp", "vllm"])
async def test_one_token_tells_the_label(stub: StubEndpoint, tmp_path: Path, able: frozenset[str]) -> None:
    stub.capabilities = able
    async with labelling(stub, tmp_path, keywords=False) as labeller:
        answers = [await labeller.label(text) for text in TEXTS]
    assert [answer.label for answer in answers] == list(TEXTS.values())
    assert [request["max_tokens"] for request in stub.requests] == [1] * len(TEXTS)
    assert {answer.tokens_out for answer in answers} == {1}
    assert {answer.flags for answer in answers} == {()}
    assert all(answer.logprobs for answer in answers)


async def test_the_beginning_of_only_one_label_tells_it_too(stub: StubEndpoint, tmp_path: Path) -> None:
    stub.token_bytes = 3  # "pos", "neu", "neg"
    async with labelling(stub, tmp_path, keywords=False) as labeller:
        assert (await labeller.label("屏幕太差了")).label == "negative"
    assert [request["max_tokens"] for request in stub.requests] == [1]


async def test_the_beginning_of_two_labels_is_asked_for_again_and_from_then_on_whole(
    stub: StubEndpoint, tmp_path: Path
) -> None:
    stub.token_bytes = 2  # "po", "ne", "ne"
    async with labelling(stub, tmp_path, keywords=False) as labeller:
        assert (await labeller.label("很好")).label == "positive"
        assert (await labeller.label("太差")).label == "negative"
        assert (await labeller.label("收到")).label == "neutral"
    first, second, third, fourth = (request["max_tokens"] for request in stub.requests)
    assert (first, second) == (1, 1)
    assert third == fourth > 1


@pytest.mark.parametrize("token_bytes", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("text", ["好", "好评", "差评", "好评如潮"])
async def test_a_label_that_begins_another_is_never_taken_for_it(
    stub: StubEndpoint, tmp_path: Path, token_bytes: int | None, text: str
) -> None:
    # Tokens of one or two bytes cut the Chinese characters themselves.
    stub.token_bytes = token_bytes
    task = task_of("好", "好评", "好评如潮", "差评")
    async with labelling(stub, tmp_path, task=task, keywords=False) as labeller:
        answer = await labeller.label(text)
    assert answer.label == text
    assert answer.logprobs is not None
    assert sum(map(math.exp, answer.logprobs.values())) == pytest.approx(1)


async def test_fifty_at_once_with_labels_that_share_a_beginning(stub: StubEndpoint, tmp_path: Path) -> None:
    # The first ambiguous answer changes how the next ones are asked, while others are on their way.
    stub.token_bytes, stub.latency = 3, 0.05
    task = task_of("好", "好评", "好评如潮", "差评")
    texts = [f"{number} {label}" for number, label in zip(range(50), task.label_names * 13, strict=False)]
    async with labelling(stub, tmp_path, task=task, keywords=False) as labeller:
        answers = await asyncio.gather(*(labeller.label(text) for text in texts))
    assert [f"{text.split()[0]} {answer.label}" for text, answer in zip(texts, answers, strict=True)] == texts


# Answers that are none


@pytest.mark.parametrize("able", [LLAMA_CPP, OLLAMA, BARE], ids=["llama.cpp", "ollama", "bare"])
async def test_an_answer_without_a_label(stub: StubEndpoint, tmp_path: Path, able: frozenset[str]) -> None:
    stub.capabilities = able
    async with labelling(stub, tmp_path) as labeller:
        stub.nonsense = "no_label"
        with pytest.raises(AnswerError) as raised:
            await labeller.label("很好")
    assert type(raised.value) is AnswerError
    assert ", ".join(labeller.task.label_names) in raised.value.message
    assert "talk about the weather" in raised.value.message
    assert stub.url in raised.value.message
    assert ("enforces no" in str(raised.value.hint)) is (able == BARE)
    assert len(stub.requests) == 1


@pytest.mark.parametrize("wire", ["compact", "json"])
async def test_an_answer_that_is_cut_before_the_label(stub: StubEndpoint, tmp_path: Path, wire: str) -> None:
    async with labelling(stub, tmp_path, wire=wire) as labeller:
        stub.token_bytes, stub.max_answer_tokens = 1, 3
        with pytest.raises(AnswerCutError) as raised:
            await labeller.label("屏幕太差了")
    assert raised.value.type == "answer_cut"
    assert raised.value.hint


@pytest.mark.parametrize(("wire", "tokens"), [("compact", 3), ("json", 7)])
async def test_an_answer_that_is_cut_after_the_label_keeps_it(
    stub: StubEndpoint, tmp_path: Path, wire: str, tokens: int
) -> None:
    async with labelling(stub, tmp_path, wire=wire) as labeller:
        stub.max_answer_tokens = tokens
        answer = await labeller.label("屏幕太差了 电池也差")
    assert answer.label == "negative"
    assert answer.flags == ("keywords_cut",)


async def test_one_bad_text_fails_alone(stub: StubEndpoint, tmp_path: Path) -> None:
    stub.fail_texts = {"毒": 400}
    async with labelling(stub, tmp_path) as labeller:
        texts = ["很好", "毒药", "太差"]
        answers = await asyncio.gather(*(labeller.label(text) for text in texts), return_exceptions=True)
    assert [getattr(answer, "label", type(answer)) for answer in answers] == [
        "positive",
        EndpointRefusedError,
        "negative",
    ]


# A text too long for the context


@pytest.mark.parametrize("engine", ["llama.cpp", "vllm", "openai"])
async def test_a_text_too_long_for_the_context_loses_its_middle(
    stub: StubEndpoint, tmp_path: Path, engine: Any
) -> None:
    text = "开" * 600 + "中" * 800 + "尾" * 599 + "差"
    async with labelling(stub, tmp_path) as labeller:
        stub.context_chars, stub.overflow = 600, engine
        answer = await labeller.label(text)
    assert answer.label == "negative"  # the word that decides stands at the end
    assert answer.flags == ("shortened",)
    whole, *shorter = stub.asked
    assert whole == text
    if engine == "openai":  # it says neither how long the text is nor how long it may be
        half, quarter = shorter
        assert half == "开" * 600 + " … " + "尾" * 399 + "差"
        assert quarter == half[:300] + " … " + half[-201:]
    else:
        assert shorter == ["开" * 324 + " … " + "尾" * 215 + "差"], "as much as fits, with a margin for the prompt"
    assert set(stub.asked.values()) == {1}


async def test_a_text_that_fits_is_not_flagged(stub: StubEndpoint, tmp_path: Path) -> None:
    async with labelling(stub, tmp_path) as labeller:
        stub.context_chars = 5
        assert (await labeller.label("屏幕太差了")).flags == ()


async def test_shortening_ends(stub: StubEndpoint, tmp_path: Path) -> None:
    async with labelling(stub, tmp_path) as labeller:
        stub.context_chars = 0  # as where the prompt alone is too long
        with pytest.raises(ContextOverflowError):
            await labeller.label("很" * 3000)
        assert len(stub.requests) == 7
        stub.requests.clear()
        for tiny in ("好", "很好", "很好很好很"):
            with pytest.raises(ContextOverflowError):
                await labeller.label(tiny)
        assert len(stub.requests) == 3  # nothing is left to take away


# Keys


async def test_keys_are_equal_where_the_answer_must_be(stub: StubEndpoint, tmp_path: Path) -> None:
    async with labelling(stub, tmp_path) as one, labelling(stub, tmp_path / "elsewhere") as two:
        assert one.key("很好") == two.key("很好")
        assert len(one.key("很好")) == 32
        assert len(one.key("\ud800")) == 32
    with StubEndpoint() as moved:
        async with labelling(moved, tmp_path) as three:
            assert three.connection.about.endpoint != one.connection.about.endpoint
            assert three.key("很好") == one.key("很好")


async def test_keys_differ_where_anything_that_decides_an_answer_does(stub: StubEndpoint, tmp_path: Path) -> None:
    sentiment = load_task("sentiment")
    reworded = sentiment.model_copy(update={"description": sentiment.description + "！"})
    keys: dict[str, bytes] = {}
    async with labelling(stub, tmp_path) as labeller:
        keys |= {"plain": labeller.key("很好"), "text": labeller.key("不好"), "space": labeller.key("很好 ")}
    options: dict[str, dict[str, Any]] = {
        "task": {"task": load_task("emotion")},
        "prompt": {"task": reworded},
        "keywords": {"keywords": False},
        "json": {"wire": "json"},
        "free": {"wire": "free"},
    }
    for name, option in options.items():
        async with labelling(stub, tmp_path, **option) as labeller:
            keys[name] = labeller.key("很好")
    servers: dict[str, dict[str, Any]] = {
        "model": {"models": ["another-model"]},
        "weights": {"model_fields": {"meta": {"size": 7}}},
        "constraint": {"capabilities": VLLM},
        "no logprobs": {"capabilities": LLAMA_CPP - {"logprobs"}},
    }
    for name, knobs in servers.items():
        with StubEndpoint(**knobs) as other:
            async with labelling(other, tmp_path / name) as labeller:
                keys[name] = labeller.key("很好")
    assert len(set(keys.values())) == len(keys)
    assert {key[:16] for key in keys.values()} == {Labeller.text_prefix(text) for text in ("很好", "不好", "很好 ")}


def test_a_text_is_named_by_the_beginning_of_its_digest() -> None:
    assert Labeller.text_prefix("很好") == hashlib.sha256("很好".encode()).digest()[:16]
    assert len(Labeller.text_prefix("\ud800")) == 16


# Many, and in another process


@pytest.mark.parametrize("able", [LLAMA_CPP, VLLM, OLLAMA, BARE], ids=["llama.cpp", "vllm", "ollama", "bare"])
async def test_fifty_at_once_are_each_answered_for_themselves(
    stub: StubEndpoint, tmp_path: Path, able: frozenset[str]
) -> None:
    stub.capabilities = able
    words = ["很好", "太差", "收到"]
    texts = [f"第{number}条 {words[number % 3]}" for number in range(50)]
    async with labelling(stub, tmp_path) as labeller:
        stub.fail_next, stub.together = [503, 429, 500], 11
        answers = await asyncio.gather(*(labeller.label(text) for text in texts))
    assert [answer.label for answer in answers] == (["positive", "negative", "neutral"] * 17)[:50]
    assert all(keyword in text for text, answer in zip(texts, answers, strict=True) for keyword in answer.keywords)
    assert stub.max_in_flight > 10


async def test_no_error_shows_the_key(stub: StubEndpoint, tmp_path: Path) -> None:
    stub.api_key = "sk-0123456789abcdef"
    settings = load_settings(endpoint=stub.url, cache_dir=tmp_path, attempts=1, api_key=stub.api_key)
    connection = await connect(settings)
    labeller = Labeller(connection, task=load_task("sentiment"), keywords=True)
    seen = repr(labeller) + repr(connection)
    for knobs in ({"nonsense": "html"}, {"fail_texts": {"好": 400}}, {"fail_texts": {"好": 500}}, {"api_key": "new"}):
        for knob, value in knobs.items():
            setattr(stub, knob, value)
        with pytest.raises(EndpointError) as raised:
            await labeller.label("很好")
        seen += str(raised.value) + repr(raised.value) + repr(vars(raised.value))
        stub.nonsense, stub.fail_texts = None, {}
    await connection.aclose()
    assert "sk-0123456789abcdef" not in seen
    assert "***" in seen


def test_the_stub_in_a_process_of_its_own_counts_what_it_was_asked(tmp_path: Path) -> None:
    async def ask(url: str) -> list[str]:
        connection = await connect(load_settings(endpoint=url, cache_dir=tmp_path))
        labeller = Labeller(connection, task=load_task("sentiment"), keywords=True)
        labels = [(await labeller.label(text)).label for text in ("很好", "太差", "很好")]
        await connection.aclose()
        return labels

    command = [sys.executable, stub_endpoint.__file__, "--capabilities", "json_schema", "--model", "m"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            labels = asyncio.run(ask(url))
            with urllib.request.urlopen(url.removesuffix("/v1") + "/stub/counts", timeout=10) as reply:
                counts = json.loads(reply.read())
        finally:
            process.kill()
    assert labels == ["positive", "negative", "positive"]
    assert counts["asked"] == {"很好": 2, "太差": 1}
    assert counts["total"] > 3  # the probes
    assert (counts["in_flight"], counts["max_in_flight"]) == (0, 1)
