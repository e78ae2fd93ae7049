"""`reviewmill.Client` against a server that misbehaves: what is sent again, what is not, and what is said about it."""

from __future__ import annotations

import json
import os
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import stamina

from conftest import free_port
from reviewmill import Client
from reviewmill.errors import ServiceError, ServiceUnreachableError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

SECRET = "rm_aaaaaaaa_very-secret-0123456789"
ANALYSIS = {
    "sentiment": "positive", "confidence": 0.9, "keywords": [], "original_text": "很好", "id": None, "status": "ok",
    "probabilities": {"positive": 0.9}, "spans": [], "language": "zh", "flags": [], "route": "model",
    "needs_review": False, "error": None, "provenance": {
        "model": "m", "task": "sentiment", "prompt": "p", "endpoint": "e", "calibration": None, "latency_ms": 1.0,
    },
}  # fmt: skip
JOB = {
    "id": "j1", "state": "done", "owner": "local", "task": "sentiment", "filename": "a.csv", "format": "csv",
    "text_column": "评论", "id_column": None, "size": 1, "sha256": "0" * 64, "rows": 1, "progress": {},
    "summary": None, "error": None, "created_at": "2026-01-01T00:00:00Z", "started_at": None, "finished_at": None,
    "links": {}, "added_in_a_later_version": 1,
}  # fmt: skip
RESULTS = {"task": "sentiment", "results": [ANALYSIS]}


def problem(status: int, kind: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    body = {"type": f"urn:reviewmill:problem:{kind}", "title": "T", "status": status, "detail": "D", "request_id": "r"}
    return status, {"Content-Type": "application/problem+json", **headers}, json.dumps(body).encode()


def good(body: Any, status: int = 200) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps(body).encode()


def events(*lines: str) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "text/event-stream"}, "".join(f"{line}\n" for line in lines).encode()


class Scripted:
    """A server that answers one request after another as it is told; `drop` cuts the connection, `hang` says nothing.

    Attributes:
        requests: method, path, headers and body of what came.
    """

    def __init__(self, replies: list[Any]) -> None:
        self.replies = replies
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.released = threading.Event()
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                scripted.requests.append((self.command, self.path, dict(self.headers), body))
                reply = scripted.replies.pop(0) if scripted.replies else problem(500, "unexpected")
                if reply == "hang":
                    scripted.released.wait(20)
                if isinstance(reply, str):
                    return
                status, headers, content = reply
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(content))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_DELETE = do_GET  # noqa: N815 -- the base class's names

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server() -> Iterator[Scripted]:
    scripted = Scripted([])
    yield scripted
    scripted.close()


@pytest.fixture
def no_waits() -> Iterator[None]:
    """Retries as configured, without the waits between them."""
    with stamina.set_testing(True, attempts=1000, cap=True):
        yield


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize(
    "fault",
    ["drop", problem(503, "unavailable"), problem(429, "busy", **{"Retry-After": "1"}), (502, {}, b"<html>"),
     problem(503, "x", **{"Retry-After": "nonsense"})],
)  # fmt: skip
async def test_what_passes_is_tried_again_where_it_is_safe(server: Scripted, fault: Any) -> None:
    async with Client(server.url) as client:
        server.replies = [fault, fault, good(RESULTS)]
        assert (await client.analyze("很好")).label == "positive"
        server.replies = [fault, fault, good({"tasks": []})]
        assert await client.tasks() == []
        server.replies = [fault, fault, good(JOB)]
        await client.submit(b"x" * 600_000, filename="a.csv")
        uploads = [request for request in server.requests if request[1].startswith("/v1/jobs")]
        assert len({request[2]["Idempotency-Key"] for request in uploads}) == 1
        assert [len(request[3]) for request in uploads] == [600_000] * 3
        await self_is_new(client, server, uploads[0][2]["Idempotency-Key"])


async def self_is_new(client: Client, server: Scripted, key: str) -> None:
    server.replies = [good(JOB)]
    await client.submit(b"x", filename="a.csv")
    assert server.requests[-1][2]["Idempotency-Key"] != key


@pytest.mark.usefixtures("no_waits")
async def test_what_changes_something_is_sent_once(server: Scripted) -> None:
    calls = [
        lambda client: client.cancel("j1"),
        lambda client: client.delete("j1"),
        lambda client: client.correct("很好", "positive"),
        lambda client: client.delete_comments(text="很好"),
    ]
    async with Client(server.url) as client:
        for number, call in enumerate(calls, 1):
            server.replies = [problem(503, "unavailable", **{"Retry-After": "0"})]
            with pytest.raises(ServiceError):
                await call(client)
            assert len(server.requests) == number


@pytest.mark.usefixtures("no_waits")
@pytest.mark.parametrize("fault", [problem(422, "x"), problem(500, "x"), problem(504, "endpoint-timeout")])
async def test_what_does_not_pass_is_not_tried_again(server: Scripted, fault: Any) -> None:
    server.replies = [fault, good(RESULTS)]
    async with Client(server.url) as client:
        with pytest.raises(ServiceError):
            await client.analyze("很好")
    assert len(server.requests) == 1


@pytest.mark.usefixtures("no_waits")
async def test_attempts_end(server: Scripted) -> None:
    server.replies = ["drop"] * 10
    async with Client(server.url) as client:
        with pytest.raises(ServiceUnreachableError, match="cannot be reached"):
            await client.analyze("很好")
    assert len(server.requests) == 4


async def test_retry_after_is_waited_for(server: Scripted) -> None:
    server.replies = [problem(429, "busy", **{"Retry-After": "1"}), good(RESULTS)]
    began = time.monotonic()
    async with Client(server.url) as client:
        await client.analyze("很好")
    assert time.monotonic() - began >= 1


async def test_nobody_waits_for_tomorrow(server: Scripted) -> None:
    server.replies = [problem(429, "quota-exceeded", **{"Retry-After": "36000"})]
    async with Client(server.url) as client:
        with pytest.raises(ServiceError) as caught:
            await client.analyze("很好")
    error = caught.value
    assert (error.status, error.type, error.retry_after, error.request_id) == (429, "quota-exceeded", 36000, "r")


async def test_a_service_that_hangs_is_given_up(server: Scripted) -> None:
    server.replies = ["hang"]
    async with Client(server.url, timeout=2) as client:
        with pytest.raises(ServiceUnreachableError, match="within 2 s"):
            await client.analyze("很好")
    assert len(server.requests) == 1


@pytest.mark.usefixtures("no_waits")
async def test_nothing_listens() -> None:
    async with Client(f"http://127.0.0.1:{free_port()}", SECRET) as client:
        with pytest.raises(ServiceUnreachableError, match="cannot be reached") as caught:
            await client.tasks()
    assert caught.value.status is None
    assert SECRET not in "".join(traceback.format_exception(caught.value)) + repr(client)


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b"[]", b'{"results": []}', b'{"results": [{"id": 1}]}'])
async def test_what_is_no_answer_of_ours(server: Scripted, body: bytes) -> None:
    server.replies = [(200, {}, body)]
    async with Client(server.url) as client:
        with pytest.raises(ServiceError, match="does not understand") as caught:
            await client.analyze("很好")
    assert caught.value.type == "unreadable"
    assert "Is that the address" in str(caught.value)


async def test_a_key_that_is_repeated_is_not_shown_and_goes_to_no_other_address(server: Scripted) -> None:
    document = json.dumps({"type": "about:blank", "title": "No", "detail": f"bad key {SECRET}", "hint": SECRET})
    elsewhere = {"Location": "http://127.0.0.1:9/"}
    server.replies = [(401, {"Content-Type": "application/problem+json"}, document.encode()), (302, elsewhere, b"")]
    async with Client(server.url, f"{SECRET}\n") as client:
        for status in (401, 302):
            with pytest.raises(ServiceError) as caught:
                await client.tasks()
            assert caught.value.status == status
            assert SECRET not in "".join(traceback.format_exception(caught.value)) + repr(vars(caught.value))
    assert "redirects" in str(caught.value)
    assert all(request[2]["Authorization"] == f"Bearer {SECRET}" for request in server.requests)


async def test_events_go_on_where_they_were(server: Scripted) -> None:
    server.replies = [
        events("retry: 10", "", "event: progress", "id: a", 'data: {"done": 1}', "", ": still here", ""),
        problem(503, "unavailable"),
        events("retry: 10", ""),
        "drop",
        events("event: progress", "id: b", 'data: {"done": 2}', "", "event: progress", "id: c", 'data: {"do'),
        events("event: state", "id: d", 'data: {"state": "done"}', "", "event: state", "data: {}", ""),
    ]
    async with Client(server.url) as client:
        seen = [event async for event in client.events("j1")]
    assert [(event.type, event.id, event.data) for event in seen] == [
        ("progress", "a", {"done": 1}),
        ("progress", "b", {"done": 2}),
        ("state", "d", {"state": "done"}),
    ]
    assert [request[2].get("Last-Event-ID") for request in server.requests] == [None, "a", "a", "a", "a", "b"]


async def test_events_of_a_job_that_has_ended_or_is_gone(server: Scripted) -> None:
    server.replies = [(204, {}, b""), problem(404, "not-found")]
    async with Client(server.url) as client:
        assert [event async for event in client.events("j1")] == []
        with pytest.raises(ServiceError) as caught:
            await client.wait("j1")
    assert caught.value.status == 404


@pytest.mark.usefixtures("no_waits")
async def test_a_result_is_there_as_a_whole_or_not_at_all(server: Scripted, tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("before", encoding="utf-8")
    cut = (200, {"Content-Length": "1000"}, b"half of it")
    async with Client(server.url) as client:
        server.replies = [cut] * 4
        with pytest.raises(ServiceUnreachableError):
            await client.result("j1", target)
        assert target.read_text(encoding="utf-8") == "before"
        server.replies = [cut, (200, {}, b"all of it")]
        await client.result("j1", target)
    assert target.read_text(encoding="utf-8") == "all of it"
    assert os.listdir(tmp_path) == ["out.csv"]  # noqa: PTH208


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8080", "ftp://x", "http://", "http://u:geheim@h", "http://h/?a=geheim", "http://h/#x"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Client(url)
    assert "geheim" not in str(caught.value)


def test_addresses_and_keys() -> None:
    assert {Client(f"http://h:1{end}").base_url for end in ("", "/", "/v1", "/v1/")} == {"http://h:1"}
    assert Client("https://h/below/").base_url == "https://h/below"
    with pytest.raises(SettingsError) as caught:
        Client("http://h", "geheim\nnis")
    assert "geheim" not in str(caught.value)
