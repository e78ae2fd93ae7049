"""What the service refuses: bodies and heads that are too large or too slow, and what is no request at all."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING

import pytest

from service import RunningService, assert_problem, running_service, wait_until
from stub_endpoint import StubEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = b"POST /v1/analyze HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
LIMITS = {"no_auth": True, "max_body_bytes": 10_000, "header_timeout_s": 1.0, "body_timeout_s": 1.5}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with StubEndpoint() as stub, running_service(tmp_path_factory.mktemp("service"), stub, service=LIMITS) as running:
        yield running


@pytest.fixture
def raw(running: RunningService) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as client:
        yield client


def read_answer(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Everything until the connection is closed: status, headers, body."""
    content = b""
    while part := client.recv(65536):
        content += part
    head, _, body = content.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(status.split()[1]), headers, body


def assert_raw_problem(client: socket.socket, status: int, kind: str) -> None:
    got, headers, body = read_answer(client)
    assert (got, headers["content-type"]) == (status, "application/problem+json")
    document = json.loads(body)
    assert (document["type"], document["status"]) == (f"urn:reviewmill:problem:{kind}", status)


def send_for_ever(client: socket.socket, part: bytes) -> None:
    """Send until the other side has had enough, or 50 MB."""
    for _ in range(50_000_000 // len(part)):
        client.sendall(part)


def test_large_body_is_413(running: RunningService) -> None:
    assert_problem(running.http.post("/v1/analyze", json={"text": "x" * 10_000}), 413, "body-too-large")
    assert running.http.post("/v1/analyze", json={"text": "x" * 9_000}).status_code == 200


def test_large_body_in_chunks_is_413(running: RunningService) -> None:
    chunks = (b"x" * 1000 for _ in range(11))
    response = running.http.post("/v1/analyze", content=chunks, headers={"content-type": "application/json"})
    assert_problem(response, 413, "body-too-large")


def test_huge_announced_body_is_refused_unread(raw: socket.socket) -> None:
    raw.sendall(b"POST /v1/analyze HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
    assert_raw_problem(raw, 413, "body-too-large")


def test_endless_chunks_are_cut(running: RunningService, raw: socket.socket) -> None:
    raw.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
        send_for_ever(raw, b"3e8\r\n" + b"x" * 1000 + b"\r\n")


@pytest.mark.clock
def test_slow_body_is_408(raw: socket.socket) -> None:
    raw.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    began = time.monotonic()
    assert_raw_problem(raw, 408, "body-too-slow")
    assert 1 < time.monotonic() - began < 4


def test_dripping_body_is_408(raw: socket.socket) -> None:
    raw.sendall(HEAD + b"Content-Length: 100\r\n\r\n")
    for _ in range(10):
        raw.sendall(b" ")
        time.sleep(0.1)
    assert_raw_problem(raw, 408, "body-too-slow")


@pytest.mark.clock
def test_dripping_head_is_408(raw: socket.socket) -> None:
    began = time.monotonic()
    raw.sendall(b"GET /healthz HTTP/1.1\r\n")
    for number in range(8):
        raw.sendall(b"X-%d: y\r\n" % number)
        time.sleep(0.1)
    assert_raw_problem(raw, 408, "head-too-slow")
    assert time.monotonic() - began < 3


def test_dripping_head_of_a_second_request_is_408(raw: socket.socket) -> None:
    raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert raw.recv(65536).startswith(b"HTTP/1.1 200")
    raw.sendall(b"GET /healthz HTTP/1.1\r\nX-Slow: ")
    assert_raw_problem(raw, 408, "head-too-slow")


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"\r\n\r\n\r\n"])
@pytest.mark.clock
def test_connection_that_asks_nothing_is_closed(raw: socket.socket, sent: bytes) -> None:
    began = time.monotonic()
    raw.sendall(sent)
    assert raw.recv(10) == b""
    assert time.monotonic() - began < 4


def test_many_headers_are_431(raw: socket.socket) -> None:
    raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-Filler: " + b"y" * 40_000 + b"\r\n\r\n")
    assert_raw_problem(raw, 431, "head-too-large")


def test_endless_head_is_431(raw: socket.socket) -> None:
    raw.sendall(b"GET /healthz HTTP/1.1\r\n")
    line = b"X-Filler: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n"
    with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):
        send_for_ever(raw, line * 100)


def test_long_address_is_431(raw: socket.socket) -> None:
    raw.sendall(b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert_raw_problem(raw, 431, "head-too-large")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/analyze HTTP/1.1\r\nHost: l\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nBad Name: x\r\n\r\n",
    ],
)
def test_what_is_no_request_is_400(raw: socket.socket, sent: bytes) -> None:
    raw.sendall(sent)
    assert_raw_problem(raw, 400, "malformed")


def test_kind_of_body(running: RunningService) -> None:
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "application/xml",
    ):
        response = running.http.post("/v1/analyze", content=b'{"text": "x"}', headers={"content-type": kind})
        assert_problem(response, 415, "not-json")
    zipped = {"content-type": "application/json", "content-encoding": "gzip"}
    assert_problem(running.http.post("/v1/analyze", content=b"x", headers=zipped), 415, "not-json")
    charset = {"content-type": "application/json; charset=utf-8"}
    assert running.http.post("/v1/analyze", content=b'{"text": "x"}', headers=charset).status_code == 200


def test_addresses_and_methods(running: RunningService) -> None:
    assert_problem(running.http.get("/nothing"), 404, "not-found")
    assert_problem(running.http.get("/v1/tasks/"), 404, "not-found")
    assert_problem(running.http.get("/v1/tasks/nothing"), 404, "not-found")
    assert_problem(running.http.get("/v1/models/nothing"), 404, "not-found")
    for path in ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/v1/tasks/..%2f..%2fetc%2fpasswd"):
        assert_problem(running.http.get(path), 404, "not-found")
    refused = running.http.get("/v1/analyze")
    assert_problem(refused, 405, "method-not-allowed")
    assert refused.headers["allow"] == "POST"


def test_unknown_addresses_share_one_label(running: RunningService) -> None:
    for number in range(20):
        running.http.get(f"/no/{number}")
        running.http.request(f"M{number}", "/healthz")
    labels = [line for line in running.http.get("/metrics").text.splitlines() if "requests_total{" in line]
    assert not [line for line in labels if "/no/" in line or 'method="M' in line]


def test_many_connections_that_ask_nothing_hold_nothing(running: RunningService) -> None:
    clients = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(200)]
    assert running.http.get("/healthz").status_code == 200
    connections = running._server.server_state.connections
    wait_until(lambda: len(connections) <= 2, seconds=5)
    for client in clients:
        client.close()


def test_an_error_that_nobody_expected_says_nothing(
    running: RunningService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(running.service.room, "tasks", broken)
    response = running.http.get("/v1/tasks")
    document = assert_problem(response, 500, "unexpected")
    assert "secret" not in response.text
    assert [record.exc_info for record in caplog.records if record.name == "reviewmill.server"]
    assert document["request_id"] == response.headers["x-request-id"]
