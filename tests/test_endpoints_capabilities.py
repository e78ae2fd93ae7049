from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
import stamina

from reviewmill.endpoints import Capabilities, connect
from reviewmill.endpoints.capabilities import CapabilityMemory, probe
from reviewmill.endpoints.client import EndpointClient
from reviewmill.errors import EndpointError, EndpointRefusedError, EndpointTimeoutError, EndpointUnreachableError
from reviewmill.settings import Settings, load_settings
from stub_endpoint import BARE, LLAMA_CPP, OLLAMA, VLLM, StubEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

LLAMA_CPP_CAN = Capabilities(grammar=True, json_schema=True, top_logprobs=20)
VLLM_CAN = Capabilities(regex=True, choice=True, json_schema=True, top_logprobs=20)
OLLAMA_CAN = Capabilities(json_schema=True)


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


def settings_for(stub: StubEndpoint, folder: Path, **changes: Any) -> Settings:
    return load_settings(**{"endpoint": stub.url, "cache_dir": folder, "attempts": 2, "timeout": 20, **changes})


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def probed(stub: StubEndpoint, **changes: Any) -> Capabilities:
    async with EndpointClient(**{"url": stub.url, "model": "stub-model", "attempts": 2, **changes}) as client:
        return await probe(client)


# What a server can do


@pytest.mark.parametrize("refuse", [None, 400, 422, 500])
@pytest.mark.parametrize(
    ("able", "expected"),
    [(LLAMA_CPP, LLAMA_CPP_CAN), (VLLM, VLLM_CAN), (OLLAMA, OLLAMA_CAN), (BARE, Capabilities())],
    ids=["llama.cpp", "vllm", "ollama", "bare"],
)
async def test_each_kind_of_server_is_seen_for_what_it_is(
    stub: StubEndpoint, able: frozenset[str], expected: Capabilities, refuse: int | None
) -> None:
    stub.capabilities, stub.refuse_unknown = able, refuse
    assert await probed(stub) == expected


async def test_a_server_that_lists_few_alternatives_is_asked_for_few(stub: StubEndpoint) -> None:
    stub.top_logprobs = 5  # it refuses more
    assert (await probed(stub)).top_logprobs == 5


async def test_a_server_that_refuses_logprobs_has_none(stub: StubEndpoint) -> None:
    stub.top_logprobs = 0
    assert await probed(stub) == LLAMA_CPP_CAN.model_copy(update={"top_logprobs": 0})


async def test_a_bad_moment_is_not_taken_for_an_inability(stub: StubEndpoint) -> None:
    # One plain request is answered; then the server fails on everything, as one that is restarted does.
    stub.fail_next = [None, *[503] * 50]
    with pytest.raises(EndpointError, match="503"):
        await probed(stub)
    assert stub.total > 2


async def test_probes_go_one_after_the_other(stub: StubEndpoint) -> None:
    await probed(stub)
    assert stub.max_in_flight == 1


async def test_a_hanging_server_cannot_be_probed(stub: StubEndpoint) -> None:
    stub.hang = True
    with pytest.raises(EndpointTimeoutError):
        await probed(stub, timeout=0.2)


async def test_a_server_that_wants_a_key_cannot_be_probed_without(stub: StubEndpoint) -> None:
    stub.api_key = "secret"
    with pytest.raises(EndpointRefusedError, match="401"):
        await probed(stub)


def test_what_is_missing_has_a_stated_fallback() -> None:
    assert LLAMA_CPP_CAN.fallbacks() == VLLM_CAN.fallbacks() == []
    assert ["log-probabilities" in note for note in OLLAMA_CAN.fallbacks()] == [True]
    assert len(Capabilities().fallbacks()) == 2


# Memory


async def test_a_server_is_probed_once_and_remembered_on_disk(stub: StubEndpoint, tmp_path: Path) -> None:
    first = await connect(settings_for(stub, tmp_path))
    await first.aclose()
    asked = stub.total
    assert asked >= 5
    second = await connect(settings_for(stub, tmp_path))
    await second.aclose()
    assert stub.total == asked
    assert first.capabilities == second.capabilities == LLAMA_CPP_CAN
    assert second.about.model == "stub-model"
    assert names(tmp_path) == ["endpoints.json"]


async def test_another_model_at_the_same_address_is_probed_anew(stub: StubEndpoint, tmp_path: Path) -> None:
    await (await connect(settings_for(stub, tmp_path))).aclose()
    stub.models, stub.capabilities = ["other-model"], OLLAMA
    other = await connect(settings_for(stub, tmp_path))
    await other.aclose()
    assert other.capabilities == OLLAMA_CAN


async def test_a_failed_probe_is_not_remembered(stub: StubEndpoint, tmp_path: Path) -> None:
    stub.fail_next = [503] * 50
    with pytest.raises(EndpointError, match="503"):
        await connect(settings_for(stub, tmp_path))
    assert names(tmp_path) == []
    stub.fail_next = []
    connection = await connect(settings_for(stub, tmp_path))
    await connection.aclose()
    assert connection.capabilities == LLAMA_CPP_CAN


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"other": 1}', b'{"URL": null}', b'{"URL": {"grammar": "what"}}'],
)
async def test_a_damaged_memory_is_read_as_empty_and_mended(stub: StubEndpoint, tmp_path: Path, content: bytes) -> None:
    async with EndpointClient(stub.url, "stub-model") as client:
        key = f"{stub.url} {await client.identify()}"
    file = tmp_path / "endpoints.json"
    file.write_bytes(content.replace(b"URL", key.encode()))
    connection = await connect(settings_for(stub, tmp_path))
    await connection.aclose()
    assert connection.capabilities == LLAMA_CPP_CAN
    assert key in json.loads(file.read_text(encoding="utf-8"))


async def test_a_memory_that_cannot_be_written_only_costs_the_next_probe(stub: StubEndpoint, tmp_path: Path) -> None:
    blocked = tmp_path / "a-file"
    blocked.write_text("in the way")  # root may write into read-only folders, but not into a file
    for _ in range(2):
        asked = stub.total
        connection = await connect(settings_for(stub, blocked / "cache"))
        await connection.aclose()
        assert connection.capabilities == LLAMA_CPP_CAN
        assert stub.total > asked


def test_one_server_is_kept_beside_another(tmp_path: Path) -> None:
    memory = CapabilityMemory(tmp_path / "deep" / "endpoints.json")
    memory.put("http://a/v1", "m@1", LLAMA_CPP_CAN)
    memory.put("http://b/v1", "m@1", VLLM_CAN)
    assert memory.get("http://a/v1", "m@1") == LLAMA_CPP_CAN
    assert memory.get("http://b/v1", "m@1") == VLLM_CAN
    assert memory.get("http://a/v1", "m@2") is None


def test_after_a_week_a_server_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = CapabilityMemory(tmp_path / "endpoints.json")
    memory.put("http://a/v1", "m@1", LLAMA_CPP_CAN)
    now = time.time()
    for days, remembered in [(6, True), (8, False), (-1, False)]:
        monkeypatch.setattr("reviewmill.endpoints.capabilities.time.time", lambda days=days: now + days * 86400)
        assert (memory.get("http://a/v1", "m@1") is not None) is remembered


def test_a_failed_write_leaves_the_old_memory_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = CapabilityMemory(tmp_path / "endpoints.json")
    memory.put("http://a/v1", "m@1", LLAMA_CPP_CAN)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as disk:
        disk.setattr("pathlib.Path.write_text", full)
        memory.put("http://a/v1", "m@1", VLLM_CAN)
    assert memory.get("http://a/v1", "m@1") == LLAMA_CPP_CAN
    assert names(tmp_path) == ["endpoints.json"]


# Connecting


async def test_no_server_there(tmp_path: Path) -> None:
    with StubEndpoint() as gone:
        settings = settings_for(gone, tmp_path)
    with pytest.raises(EndpointUnreachableError, match="cannot be reached"):
        await connect(settings)


async def test_the_key_from_the_settings_is_used_and_not_shown(stub: StubEndpoint, tmp_path: Path) -> None:
    stub.api_key = "sk-from-the-settings"
    settings = settings_for(stub, tmp_path, api_key=stub.api_key)
    connection = await connect(settings)
    await connection.aclose()
    written = (tmp_path / "endpoints.json").read_text(encoding="utf-8")
    assert stub.api_key not in repr(settings) + repr(connection) + repr(connection.about) + written


async def test_concurrency_from_the_settings(stub: StubEndpoint, tmp_path: Path) -> None:
    connection = await connect(settings_for(stub, tmp_path, concurrency=3))
    await connection.aclose()
    assert connection.concurrency == 3
