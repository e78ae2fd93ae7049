from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
import traceback
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest
import stamina

from reviewmill.endpoints.client import EndpointClient
from reviewmill.errors import (
    ROW_ERROR_TYPES,
    AnswerError,
    ContextOverflowError,
    EndpointError,
    EndpointRefusedError,
    EndpointTimeoutError,
    EndpointUnreachableError,
    SettingsError,
)
from stub_endpoint import BARE, StubEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stamina.instrumentation import RetryDetails

pytestmark = pytest.mark.anyio

QUESTION = [{"role": "system", "content": "- positive: x\n- negative: y"}, {"role": "user", "content": "<<<很好>>>"}]
SECRET = "sk-very-secret-0123456789"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def stub() -> Iterator[StubEndpoint]:
    with StubEndpoint() as running:
        yield running


@pytest.fixture
def no_waits() -> Iterator[None]:
    """Retries as configured, without the waits between them."""
    with stamina.set_testing(True, attempts=1000, cap=True):
        yield


def client_of(stub: StubEndpoint, **changes: Any) -> EndpointClient:
    return EndpointClient(**{"url": stub.url, "model": "stub-model", "timeout": 20, "attempts": 3, **changes})


def unused_url() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}/v1"


async def failure(client: EndpointClient) -> EndpointError:
    async with client:
        with pytest.raises(EndpointError) as raised:
            await client.complete(QUESTION, max_tokens=8)
    assert raised.value.type in ROW_ERROR_TYPES
    return raised.value


# Addresses and keys


@pytest.mark.parametrize(
    ("written", "base"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/", "http://host:8000/v1"),
        (" http://host:8000/v1/ ", "http://host:8000/v1"),
        ("http://host:8000/v1/chat/completions", "http://host:8000/v1"),
        ("https://host/api/openai/v1", "https://host/api/openai/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_an_address_may_be_written_in_any_of_the_usual_forms(written: str, base: str) -> None:
    assert EndpointClient(written, "m").url == base


@pytest.mark.parametrize("written", ["", "host:8000", "ftp://host", "http://", "http://host:port", "just words", "/v1"])
def test_what_is_not_an_address_is_named(written: str) -> None:
    with pytest.raises(SettingsError, match="not the address of an endpoint") as raised:
        EndpointClient(written, "m")
    assert raised.value.hint


@pytest.mark.parametrize("written", [f"http://me:{SECRET}@host/v1", f"http://host/v1?key={SECRET}"])
def test_an_address_with_a_secret_in_it_is_refused_without_showing_it(written: str) -> None:
    with pytest.raises(SettingsError) as raised:
        EndpointClient(written, "m")
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("key", [f"{SECRET}\nX-Other: 1", f"{SECRET}密"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(SettingsError, match="API key") as raised:
        EndpointClient("http://host", "m", api_key=key)
    assert SECRET not in str(raised.value)


async def test_the_key_is_sent_and_white_space_around_it_is_not(stub: StubEndpoint) -> None:
    stub.api_key = SECRET
    async with client_of(stub, api_key=f"{SECRET}\n") as client:
        assert (await client.complete(QUESTION, max_tokens=8)).text == "positive"


async def test_a_wrong_key_is_explained_and_never_shown(stub: StubEndpoint) -> None:
    stub.api_key = "another"
    client = client_of(stub, api_key=SECRET)
    error = await failure(client)
    assert isinstance(error, EndpointRefusedError)
    assert "401" in error.message
    assert "Incorrect API key provided: ***" in error.message  # the stub repeats the key, as some servers do
    assert "REVIEWMILL_API_KEY" in str(error.hint)
    with pytest.raises(EndpointRefusedError) as listed:
        await client.models()
    shown = "".join(traceback.format_exception_only(error)) + repr(error) + repr(client)
    assert SECRET not in shown + str(listed.value) + repr(listed.value)


# What a request carries and brings back


async def test_a_completion_carries_the_text_the_tokens_and_the_counts(stub: StubEndpoint) -> None:
    async with client_of(stub) as client:
        reply = await client.complete(
            QUESTION, max_tokens=30, top_logprobs=5, constraint={"grammar": 'root ::= ("好评" | "差评")'}
        )
    assert reply.text in {"好评", "差评"}
    assert reply.steps is not None
    assert b"".join(step.token for step in reply.steps).decode() == reply.text
    assert len(reply.steps[0].top) == 5
    assert max(reply.steps[0].top, key=lambda item: item[1])[0] == reply.text.encode()
    assert (reply.finish_reason, reply.tokens_out) == ("stop", 1)
    assert reply.tokens_in > 0
    assert reply.latency_ms > 0
    sent = stub.requests[0]
    assert (sent["temperature"], sent["max_tokens"], sent["logprobs"], sent["top_logprobs"]) == (0, 30, True, 5)


async def test_tokens_without_bytes_are_read_from_their_text(stub: StubEndpoint) -> None:
    stub.give_bytes = False
    async with client_of(stub) as client:
        reply = await client.complete(QUESTION, max_tokens=8, top_logprobs=2)
    assert reply.steps is not None
    assert reply.steps[0].token == b"positive"


async def test_no_logprobs_is_none_and_not_an_empty_list(stub: StubEndpoint) -> None:
    stub.capabilities = BARE
    async with client_of(stub) as client:
        assert (await client.complete(QUESTION, max_tokens=8, top_logprobs=5)).steps is None


async def test_an_openai_account_in_the_environment_is_not_told_to_another_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-environment")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-environment")
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    async with server, EndpointClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "m", attempts=1) as c:
        with pytest.raises(EndpointUnreachableError):
            await c.complete(QUESTION, max_tokens=1)
    assert b"POST /v1/chat/completions" in heard
    assert b"environment" not in heard


async def test_a_proxy_in_the_environment_does_not_stand_before_this_machine(
    stub: StubEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", unused_url())
    monkeypatch.setenv("NO_PROXY", "")
    async with client_of(stub, attempts=1) as client:
        assert (await client.complete(QUESTION, max_tokens=8)).text


async def test_a_closed_client_opens_again_on_the_next_request(stub: StubEndpoint) -> None:
    client = client_of(stub)
    for _ in range(2):
        assert (await client.complete(QUESTION, max_tokens=8)).text
        await client.aclose()
        await client.aclose()
    assert stub.total == 2


def test_one_client_serves_one_event_loop_after_another(stub: StubEndpoint) -> None:
    client = client_of(stub, attempts=1)

    async def ask() -> str:
        async with client:
            return (await client.complete(QUESTION, max_tokens=8)).text

    assert asyncio.run(ask()) == asyncio.run(ask())


# Retries


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("status", [429, 500, 502, 503])
async def test_a_busy_or_failing_server_is_asked_again(stub: StubEndpoint, status: int) -> None:
    stub.fail_next = [status, status]
    async with client_of(stub) as client:
        assert (await client.complete(QUESTION, max_tokens=8)).text == "positive"
    assert stub.total == 3


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("attempts", [1, 3, 5])
@pytest.mark.parametrize("status", [429, 503])
async def test_a_request_is_tried_as_often_as_attempts_says(stub: StubEndpoint, attempts: int, status: int) -> None:
    stub.fail_next = [status] * 50
    error = await failure(client_of(stub, attempts=attempts))
    assert stub.total == attempts
    assert error.type == "endpoint_error"
    assert str(status) in error.message
    assert error.hint


@pytest.mark.usefixtures("no_waits")
async def test_a_lost_connection_is_tried_again(stub: StubEndpoint) -> None:
    stub.drop_next = 2
    async with client_of(stub) as client:
        assert (await client.complete(QUESTION, max_tokens=8)).text == "positive"
    assert stub.total == 3


@pytest.mark.usefixtures("no_waits")
async def test_a_connection_that_is_always_lost_is_an_error_after_all_attempts(stub: StubEndpoint) -> None:
    stub.drop_next = 50
    error = await failure(client_of(stub))
    assert stub.total == 3
    assert isinstance(error, EndpointUnreachableError)
    assert not error.message.endswith(": .")  # httpx's own message can be empty


@pytest.mark.usefixtures("no_waits")
async def test_a_refused_connection_is_tried_as_often_as_attempts_says() -> None:
    waits: list[RetryDetails] = []
    stamina.instrumentation.set_on_retry_hooks([lambda details: waits.append(details)])
    try:
        error = await failure(EndpointClient(unused_url(), "m", attempts=3))
    finally:
        stamina.instrumentation.set_on_retry_hooks(None)
    assert isinstance(error, EndpointUnreachableError)
    assert "cannot be reached" in error.message
    assert len(waits) == 2  # one between each two of three tries


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 307])
async def test_a_refusal_is_not_asked_again(stub: StubEndpoint, status: int) -> None:
    stub.fail_next = [status] * 50
    error = await failure(client_of(stub))
    assert stub.total == 1
    assert isinstance(error, EndpointRefusedError)
    assert f"({status})" in error.message
    assert f"Failing with {status} as told." in error.message


async def test_hints_for_refusals(stub: StubEndpoint) -> None:
    assert "'another'" in str((await failure(client_of(stub, model="another"))).hint)
    stub.fail_next = [403, 301]
    assert "not allowed" in str((await failure(client_of(stub))).hint)
    assert "https://elsewhere.example/v1" in str((await failure(client_of(stub))).hint)
    wrong_path = await failure(client_of(stub, url=stub.url.replace("/v1", "/api")))
    assert "Not Found" in wrong_path.message


async def test_the_server_says_how_long_to_wait(stub: StubEndpoint) -> None:
    stub.fail_next = [(429, "2"), (503, "0")]
    async with client_of(stub) as client:
        await client.complete(QUESTION, max_tokens=8)
    first, second, third = stub.arrivals
    assert 2 <= second - first < 4  # by itself the client waits 1.5 s at most before its second try
    assert third - second < 0.5  # and at least 1 s before its third


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("words", ["", "soon", "nan", "-3", "²", "1e999", formatdate(0), formatdate(9, usegmt=True)])
async def test_whatever_retry_after_holds_the_request_is_tried_again(stub: StubEndpoint, words: str) -> None:
    stub.fail_next = [(429, words)]
    async with client_of(stub) as client:
        assert (await client.complete(QUESTION, max_tokens=8)).text == "positive"
    assert stub.total == 2


async def test_retries_print_nothing(stub: StubEndpoint, capfd: pytest.CaptureFixture[str]) -> None:
    stub.fail_next = [(429, "0")]
    async with client_of(stub) as client:
        await client.complete(QUESTION, max_tokens=8)
    assert capfd.readouterr() == ("", "")


@pytest.mark.clock
async def test_cancellation_ends_a_request_at_once_and_is_not_tried_again(stub: StubEndpoint) -> None:
    stub.hang = True
    async with client_of(stub) as client:
        asking = asyncio.create_task(client.complete(QUESTION, max_tokens=8))
        await asyncio.to_thread(stub.wait_for_requests, 1)
        began = time.monotonic()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert asking.cancelled()
        assert time.monotonic() - began < 1
        await asyncio.sleep(0.3)
    assert stub.total == 1


async def test_cancellation_ends_the_wait_between_two_tries(stub: StubEndpoint) -> None:
    stub.fail_next = [(429, "25")]
    async with client_of(stub) as client:
        with pytest.raises(TimeoutError):  # the caller's own limit stays the caller's own error
            await asyncio.wait_for(client.complete(QUESTION, max_tokens=8), timeout=0.5)
    assert stub.total == 1


# Time limits


@pytest.mark.usefixtures("no_waits")
@pytest.mark.clock
async def test_a_hanging_server_is_an_error_within_bounds(stub: StubEndpoint) -> None:
    stub.hang = True
    began = time.monotonic()
    error = await failure(client_of(stub, timeout=0.5, attempts=10))
    assert isinstance(error, EndpointTimeoutError)
    assert "within 0.5 s" in error.message
    assert stub.total == 2  # each costs the whole limit, so a third is not tried
    assert 1.0 <= time.monotonic() - began < 2.5


@pytest.mark.usefixtures("no_waits")
@pytest.mark.clock
async def test_an_answer_that_trickles_counts_as_a_whole() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n")
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    began = time.monotonic()
    for ask in ("complete", "models"):
        async with EndpointClient(url, "m", timeout=0.4, attempts=1) as client:
            with pytest.raises(EndpointTimeoutError):
                await (client.models() if ask == "models" else client.complete(QUESTION, max_tokens=1))
    assert time.monotonic() - began < 2
    server.close()


@pytest.mark.clock
async def test_a_server_that_takes_no_connection_is_unreachable_long_before_the_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reviewmill.endpoints.client._CONNECT_TIMEOUT", 0.3)
    # A full backlog on loopback drops connections without a word, as a packet filter does.
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        await asyncio.sleep(0.05)
        began = time.monotonic()
        error = await failure(
            EndpointClient(f"http://127.0.0.1:{listener.getsockname()[1]}", "m", timeout=60, attempts=1)
        )
    assert isinstance(error, EndpointUnreachableError)
    assert time.monotonic() - began < 5


# Nonsense


@pytest.mark.parametrize("nonsense", ["html", "broken_json", "list", "no_choices", "no_message", "odd_logprobs"])
async def test_what_is_no_chat_completion_is_an_error_and_not_asked_again(stub: StubEndpoint, nonsense: Any) -> None:
    stub.nonsense = nonsense
    error = await failure(client_of(stub))
    assert type(error) is AnswerError
    assert stub.url in error.message
    assert error.hint
    assert stub.total == 1


async def test_an_empty_message_is_an_empty_text(stub: StubEndpoint) -> None:
    stub.nonsense = "null_content"
    async with client_of(stub) as client:
        assert (await client.complete(QUESTION, max_tokens=8)).text == ""


# A text too long for the context


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("engine", ["llama.cpp", "vllm", "openai"])
async def test_a_text_too_long_for_the_context_is_recognised(stub: StubEndpoint, engine: Any) -> None:
    stub.context_chars, stub.overflow = 1, engine
    error = await failure(client_of(stub))
    assert isinstance(error, ContextOverflowError)
    assert error.type == "context_overflow"
    assert "max_comment_chars" in str(error.hint)
    assert stub.total == 1


# Which model


async def test_the_only_model_needs_no_name_and_names_the_fingerprint(stub: StubEndpoint) -> None:
    async with client_of(stub, model=None) as client:
        fingerprint = await client.identify()
        assert client.model == "stub-model"
    assert fingerprint.startswith("stub-model@")


async def test_the_fingerprint_is_the_models_and_not_the_address_or_the_time(stub: StubEndpoint) -> None:
    stub.model_fields = {"meta": {"size": 1}, "permission": [{"id": "modelperm-1"}], "status": {"value": "unloaded"}}
    async with client_of(stub) as client:
        first = await client.identify()
    with StubEndpoint(model_fields={"meta": {"size": 1}, "permission": [{"id": "modelperm-2"}]}) as moved:
        async with client_of(moved) as client:
            assert await client.identify() == first
        moved.model_fields = {"meta": {"size": 2}}
        async with client_of(moved) as client:
            assert await client.identify() != first


async def test_a_model_that_is_not_served_is_refused_with_those_that_are(stub: StubEndpoint) -> None:
    stub.models = ["small", "large"]
    for name, said in [("medium", "does not serve 'medium'"), (None, "none was named")]:
        async with client_of(stub, model=name) as client:
            with pytest.raises(EndpointRefusedError, match="small, large") as raised:
                await client.identify()
        assert said in raised.value.message
        assert "--model" in str(raised.value.hint)


async def test_a_server_that_lists_no_models_is_asked_for_the_one_that_was_named(stub: StubEndpoint) -> None:
    stub.models_failure = 404
    async with client_of(stub) as client:
        assert (await client.identify()).startswith("stub-model@")
    async with client_of(stub, model=None) as client:
        with pytest.raises(EndpointRefusedError):
            await client.identify()


@pytest.mark.parametrize(("misbehaviour", "kind"), [("html", AnswerError), ("hang", EndpointTimeoutError)])
async def test_a_list_of_models_that_is_none(stub: StubEndpoint, misbehaviour: Any, kind: type[EndpointError]) -> None:
    stub.models_failure = misbehaviour
    async with client_of(stub, timeout=0.3) as client:
        with pytest.raises(kind):
            await client.identify()


# Many at once


async def test_two_hundred_requests_at_once_are_all_answered(stub: StubEndpoint) -> None:
    stub.together = 101  # the default pool would queue the second hundred
    async with client_of(stub) as client:
        questions = [[*QUESTION[:1], {"role": "user", "content": f"<<<好 {number}>>>"}] for number in range(200)]
        replies = await asyncio.gather(*(client.complete(question, max_tokens=8) for question in questions))
    assert {reply.text for reply in replies} == {"positive"}
    assert set(stub.asked.values()) == {1}
    assert stub.max_in_flight > 100


# --- requests that are forwarded as they are --------------------------------------------------------------------------

ASKED = {"model": "whatever", "messages": [{"role": "user", "content": "Hi"}], "top_k": 7}


async def test_a_request_is_forwarded_as_it_is_but_for_the_models_name(stub) -> None:
    async with client_of(stub) as client, client.forward(ASKED) as answer:
        reply = json.loads(b"".join([piece async for piece in answer.pieces]))
    assert stub.requests == [ASKED | {"model": "stub-model"}]
    assert (answer.status, answer.kind) == (200, "application/json")
    assert reply["choices"][0]["message"]["content"] == "Hello!"


@pytest.mark.clock
async def test_a_streamed_answer_is_handed_back_as_it_arrives(stub) -> None:
    stub.event_latency = 0.1
    began = time.monotonic()
    async with client_of(stub) as client, client.forward(ASKED | {"stream": True}) as answer:
        arrived = [(time.monotonic() - began, piece) async for piece in answer.pieces]
    assert answer.kind == "text/event-stream"
    assert b"".join(piece for _, piece in arrived).endswith(b"data: [DONE]\n\n")
    assert arrived[-1][0] - arrived[0][0] > 0.15


async def test_leaving_ends_a_forwarded_request(stub) -> None:
    stub.event_latency = 0.02
    async with client_of(stub) as client:
        async with client.forward(ASKED | {"stream": True}) as answer:
            await anext(answer.pieces)
        for _ in range(200):
            if stub.hung_up and not stub.in_flight:
                break
            await asyncio.sleep(0.02)
    assert stub.hung_up == 1
    assert stub.in_flight == 0


async def test_a_refusal_is_handed_back_without_our_key(stub) -> None:
    stub.api_key = SECRET
    stub.fail_next = [429]
    async with client_of(stub, api_key=SECRET) as client:
        async with client.forward(ASKED) as answer:
            said = b"".join([piece async for piece in answer.pieces])
        assert (answer.status, b"as told" in said) == (429, True)
        stub.fail_texts = {SECRET: 400}
        async with client.forward({"messages": [{"content": f"<<<{SECRET}>>>"}]}) as answer:
            said = b"".join([piece async for piece in answer.pieces])
        assert answer.status == 400
        assert b"***" in said
        assert SECRET.encode() not in said
    assert stub.total == 2


async def test_a_key_that_is_refused_is_ours(stub) -> None:
    stub.api_key = "another"
    async with client_of(stub, api_key=SECRET) as client:
        with pytest.raises(EndpointRefusedError, match="this service's key") as caught:
            async with client.forward(ASKED):
                pass
    assert SECRET not in str(caught.value)


async def test_a_forwarded_request_that_fails_says_how(stub) -> None:
    async with client_of(stub, url=unused_url()) as client:
        with pytest.raises(EndpointUnreachableError, match="cannot be reached"):
            async with client.forward(ASKED):
                pass
    stub.cut_stream_after = 2
    async with client_of(stub) as client, client.forward(ASKED | {"stream": True}) as answer:
        with pytest.raises(EndpointUnreachableError):
            assert [piece async for piece in answer.pieces] == "never"
    stub.cut_stream_after, stub.event_latency = None, 5
    async with client_of(stub, timeout=0.2) as client, client.forward(ASKED | {"stream": True}) as answer:
        with pytest.raises(EndpointTimeoutError, match=r"0\.2 s"):
            await anext(answer.pieces)
    stub.hang = True
    async with client_of(stub, timeout=0.2) as client:
        with pytest.raises(EndpointTimeoutError):
            async with client.forward(ASKED):
                pass
