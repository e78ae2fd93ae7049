"""What goes wrong with vLLM in practice, one test a trap, against a server that behaves as vLLM 0.32 was seen to.

`test_vllm_real.py` meets the same traps in the real one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx2
import openai
import pytest

from reviewmill import AsyncSentimentAnalyzer
from reviewmill.endpoints.client import EndpointClient, translate
from reviewmill.errors import AnswerCutError, ContextOverflowError, EndpointRefusedError
from reviewmill.tasks import JsonWire, load_task, parse_task
from stub_endpoint import VLLM, StubEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def vllm() -> Iterator[StubEndpoint]:
    with StubEndpoint(capabilities=VLLM, models=("qwen", "qwen@weights-0123456789abcdef")) as stub:
        yield stub


@pytest.fixture
def analyzer(vllm: StubEndpoint, tmp_path: Path) -> Any:
    def make(**more: Any) -> AsyncSentimentAnalyzer:
        return AsyncSentimentAnalyzer(vllm.url, cache="none", cache_dir=tmp_path / "cache", **more)

    return make


@pytest.mark.parametrize("keywords", [True, False])
async def test_json_is_asked_for_in_a_form_without_white_space(
    vllm: StubEndpoint, analyzer: Any, keywords: bool
) -> None:
    """A schema lets a small model write tabs until the limit (vLLM issue 38696); per request that cannot be forbidden.

    vLLM 0.32 takes `disable_any_whitespace` in a request and does not look at it: only the server's own option counts.
    """
    async with analyzer(wire="json", keywords=keywords) as mill:
        await mill.about()  # probes
        vllm.requests.clear()
        result = await mill.analyze("拍照太差")
    assert result["sentiment"] == "negative"
    (request,) = vllm.requests
    assert "response_format" not in request
    regex = request["structured_outputs"]["regex"]
    assert regex == JsonWire(load_task("sentiment"), keywords).regex
    assert r"\s" not in regex


async def test_an_answer_that_was_cut_is_an_error_and_never_neutral(vllm: StubEndpoint, analyzer: Any) -> None:
    """`finish_reason == "length"`."""
    async with analyzer(wire="json") as mill:
        await mill.about()
        vllm.max_answer_tokens = 1
        (row,) = await mill.analyze_batch(["拍照太差"])
        with pytest.raises(AnswerCutError, match="was cut before it held a label"):
            await mill.analyze("拍照太差")
    assert (row["status"], row["sentiment"], row["error"]["type"]) == ("error", None, "answer_cut")


@pytest.mark.parametrize(("wire", "keywords"), [("auto", True), ("auto", False), ("json", True), ("compact", False)])
async def test_removed_parameters_are_never_sent(vllm: StubEndpoint, analyzer: Any, wire: str, keywords: bool) -> None:
    """`guided_json` and its family went in vLLM 0.12, and are ignored in silence."""
    async with analyzer(wire=wire, keywords=keywords) as mill:
        await mill.analyze("拍照太差")
    sent = {key for request in vllm.requests for key in request}
    assert not [key for key in sent if key.startswith("guided")]
    assert "structured_outputs" in sent


async def test_probabilities_are_the_same_before_and_after_the_mask(vllm: StubEndpoint, analyzer: Any) -> None:
    """`--logprobs-mode`: the labels hold all of the distribution after the mask, and part of it before."""
    seen = []
    for mass in (1.0, 0.6):
        vllm.label_mass = mass
        async with analyzer(keywords=False) as mill:
            seen.append((await mill.analyze("拍照太差"))["probabilities"])
    assert seen[0] == pytest.approx(seen[1], abs=1e-6)
    assert sum(seen[0].values()) == pytest.approx(1, abs=1e-5)


async def test_labels_that_begin_with_the_same_token(vllm: StubEndpoint, analyzer: Any) -> None:
    lines = ['name = "verdict"', 'description = "What?"', 'language = "zh"']
    lines += [f'[[labels]]\nname = "{name}"\ndefinition = "是{name}"' for name in ("好评", "好评如潮", "差评")]
    vllm.token_bytes = 3  # one Chinese character a token
    async with analyzer(task=parse_task("\n".join(lines), "a test's task"), keywords=False) as mill:
        for text, label in {"就是好评如潮": "好评如潮", "算好评吧": "好评", "给差评": "差评"}.items():
            result = await mill.analyze(text)
            assert result["verdict"] == label
            assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("keywords", [("差",), ("拍照", "不清晰")])
def test_chinese_that_was_written_in_escapes_is_read(keywords: tuple[str, ...]) -> None:
    wire = JsonWire(load_task("sentiment"), keywords=True)
    escaped = json.dumps({"sentiment": "negative", "keywords": keywords})
    assert "\\u" in escaped
    parsed = wire.parse(escaped)
    assert (parsed.label, parsed.keywords, parsed.complete) == ("negative", keywords, True)


async def test_a_model_without_a_chat_template_is_named_as_such(vllm: StubEndpoint, analyzer: Any) -> None:
    vllm.has_template = False
    async with analyzer() as mill:
        with pytest.raises(EndpointRefusedError, match="has no chat template for 'qwen'") as refusal:
            await mill.analyze("拍照太差")
    assert "--chat-template" in str(refusal.value.hint)


async def test_another_name_is_refused_with_the_names_that_are_served(vllm: StubEndpoint, analyzer: Any) -> None:
    async with analyzer(model="Qwen/Qwen2.5-7B-Instruct") as mill:
        with pytest.raises(EndpointRefusedError, match=r"does not serve .*; it serves: qwen\."):
            await mill.analyze("拍照太差")


async def test_the_second_name_is_the_fingerprint_and_not_another_model(vllm: StubEndpoint) -> None:
    """Whatever else the server says of itself (its folder, its window), equal weights have equal cached answers."""
    for fields in ({"root": "/a", "max_model_len": 8192}, {"root": "/b", "max_model_len": 4096}):
        vllm.model_fields = fields
        async with EndpointClient(vllm.url, None) as client:
            assert await client.identify() == "qwen@weights-0123456789abcdef"
            assert client.model == "qwen"


# Word for word, from vLLM 0.32.
OVERFLOWS = [
    "This model's maximum context length is 8192 tokens. However, your prompt contains at least 8193 input tokens, "
    "which exceeds this limit even without any output tokens. Please reduce the length of the input prompt. "
    "(parameter=input_tokens, value=8193)",
    "This model's maximum context length is 2048 tokens. However, your prompt contains 90000 characters (more than "
    "40960 characters, which is the upper bound for 1699 input tokens). Please reduce the length of the input prompt.",
]


@pytest.mark.parametrize("said", OVERFLOWS)
def test_a_prompt_that_does_not_fit_is_known_by_vllm_s_words(said: str) -> None:
    request = httpx2.Request("POST", "http://127.0.0.1/v1/chat/completions")
    error = {"message": said, "type": "BadRequestError", "param": "input_tokens", "code": 400}
    response = httpx2.Response(400, request=request, json={"error": error})
    refusal = openai.BadRequestError(said, response=response, body=error)
    assert isinstance(translate(refusal, "http://127.0.0.1/v1", "qwen"), ContextOverflowError)


async def test_a_comment_that_does_not_fit_is_shortened_from_the_middle_and_flagged(
    vllm: StubEndpoint, analyzer: Any
) -> None:
    vllm.overflow, vllm.context_chars = "vllm", 100
    async with analyzer() as mill:
        result = await mill.analyze(
            "开头很差。" + "".join(f"第{n}天去了{n * 7}号店，" for n in range(60)) + "结尾很糟。"
        )
    assert result["status"] == "ok"
    assert "shortened" in result["flags"]
    assert result["needs_review"]
    asked = max((comment for comment in vllm.asked if len(comment) <= 100), key=len)
    assert asked.startswith("开头很差")
    assert asked.endswith("结尾很糟。")
