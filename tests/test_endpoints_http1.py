"""The thin HTTP client: every legal response in every cut, and nothing illegal."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewmill.endpoints.http1 import HttpError, HttpPool, Response, _Reader

BODY = '{"ok": "很好"}'.encode()


def response(head: str, body: bytes) -> bytes:
    return head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body


def chunked(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x;a=b\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\nX-Trailer: 1\r\n\r\n"


FORMS = {
    "length": response(f"HTTP/1.1 200 OK\nContent-Type: a/b\nContent-Length: {len(BODY)}", BODY),
    "chunks": response("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", chunked(BODY, 3)),
    "interim": b"HTTP/1.1 100 Continue\r\n\r\n" + response(f"HTTP/1.1 200 OK\ncontent-length:{len(BODY)}", BODY),
    "no reason": response(f"HTTP/1.1 200 \nCONTENT-LENGTH:  {len(BODY)} ", BODY),
}


def feed(pieces: list[bytes]) -> Response | None:
    reader, found = _Reader(), None
    for piece in pieces:
        assert found is None, "more was asked for than there is"
        found = reader.feed(piece)
    return found


@given(st.sampled_from(list(FORMS)), st.lists(st.integers(0, 200), max_size=8))
def test_a_response_is_the_same_however_it_is_cut(form: str, cuts: list[int]) -> None:
    whole = FORMS[form]
    at = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    found = feed([whole[start:end] for start, end in pairwise(at)])
    assert found is not None
    assert (found.status, found.body) == (200, BODY)


@given(st.binary(max_size=300))
def test_no_bytes_at_all_end_in_anything_but_a_response_or_a_refusal(data: bytes) -> None:
    with suppress(ValueError):
        _Reader().feed(data)


@pytest.mark.parametrize(
    "wrong",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        response("HTTP/1.1 200 OK\nContent-Length: -5", b""),
        response("HTTP/1.1 200 OK\nContent-Length: 1_0", b"0123456789"),
        response("HTTP/1.1 200 OK\nContent-Length: 99999999999", b""),
        response("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"0x5\r\nhello\r\n0\r\n\r\n"),
        response("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"-5\r\nhello\r\n0\r\n\r\n"),
        response("HTTP/1.1 200 OK\nTransfer-Encoding: chunked", b"2\r\nhello\r\n0\r\n\r\n"),
        response("HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 2", b"xx"),
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
        response("HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: upgrade", b"\x81\x05hello"),
    ],
)
def test_what_is_no_response_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match=r"its body is|it is too long| at b'"):
        _Reader().feed(wrong)


def test_what_follows_unasked_ends_the_connection_and_not_the_answer() -> None:
    for more in (FORMS["length"], b"words"):
        reader = _Reader()
        found = reader.feed(FORMS["chunks"] + more)
        assert found is not None
        assert found.body == BODY
        assert reader.closes


def test_one_reader_reads_one_response_after_another() -> None:
    reader = _Reader()
    for form in [*FORMS.values(), *FORMS.values()]:
        assert not reader.begun
        assert reader.feed(form[:30]) is None
        assert reader.begun
        found = reader.feed(form[30:])
        assert found is not None
        assert found.body == BODY


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler):
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = HttpPool(f"http://127.0.0.1:{port}/v1", {"Authorization": "Bearer k"}, connect_timeout=2)
    try:
        yield pool
    finally:
        await pool.aclose()
        server.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    assert length is not None
    return head + await reader.readexactly(int(length[1]))


def test_connections_are_kept_and_used_again() -> None:
    connections = 0
    seen: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            seen.append(await read_request(reader))
            writer.write(FORMS["length"])

    async def scenario() -> None:
        async with serving(handler) as pool:
            for _ in range(5):
                assert (await pool.post("/chat", b'{"a": 1}')).body == BODY

    asyncio.run(scenario())
    assert connections == 1
    assert seen[0].startswith(b"POST /v1/chat HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"Authorization: Bearer k\r\n" in seen[0]
    assert seen[0].endswith(b'{"a": 1}')


def test_a_connection_that_was_closed_while_it_idled_is_no_failure() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(FORMS["length"])
        await writer.drain()
        await read_request(reader)
        writer.close()

    async def scenario() -> None:
        async with serving(handler) as pool:
            assert (await pool.post("/", b"{}")).status == 200
            assert (await pool.post("/", b"{}")).status == 200

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", FORMS["chunks"][:-8], b"HTTP/1.1 200 OK\r\n"],
)
def test_an_answer_that_breaks_off_is_an_error(answer: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()
        writer.close()

    async def scenario() -> None:
        async with serving(handler) as pool:
            with pytest.raises(HttpError):
                await pool.post("/", b"{}")

    asyncio.run(scenario())


def test_a_body_may_end_where_the_connection_does() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.0 503 Busy\r\nRetry-After: 7\r\n\r\n" + BODY)
        await writer.drain()
        writer.close()

    async def scenario() -> None:
        async with serving(handler) as pool:
            found = await pool.post("/", b"{}")
        assert (found.status, found.body, found.headers["retry-after"]) == (503, BODY, "7")

    asyncio.run(scenario())


def test_a_cancelled_request_closes_its_connection_and_spoils_none() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_request(reader)
            if b"slow" in request:
                await asyncio.sleep(0.2)
            writer.write(FORMS["length"])

    async def scenario() -> None:
        async with serving(handler) as pool:
            slow = asyncio.create_task(pool.post("/", b'"slow"'))
            await asyncio.sleep(0.05)
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            assert (await pool.post("/", b"{}")).body == BODY

    asyncio.run(scenario())


def test_closing_ends_what_is_in_flight_and_leaves_no_socket() -> None:
    """Also on a connection that was used before, whose loss is otherwise a reason to ask again."""
    asked = 0

    async def run() -> None:
        all_gone = asyncio.Event()

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            while not reader.at_eof():
                with suppress(asyncio.IncompleteReadError):
                    await read_request(reader)
                    asked += 1
                    if asked == 1:
                        writer.write(response("HTTP/1.1 200 OK\nContent-Length: 2", b"ok"))
            all_gone.set()
            writer.close()

        async with serving(handler) as pool:
            await pool.post("/x", b"{}")
            asking = asyncio.create_task(pool.post("/x", b"{}"))
            while asked < 2:  # noqa: ASYNC110 - the handler has no event to tell
                await asyncio.sleep(0.01)
            async with asyncio.timeout(5):
                await pool.aclose()
                with pytest.raises(HttpError):
                    await asking
                await all_gone.wait()
        assert asked == 2

    asyncio.run(run())


def test_nothing_is_asked_after_closing() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def run() -> None:
        async with serving(handler) as pool:
            asking = asyncio.create_task(pool.post("/x", b"{}"))
            await asyncio.sleep(0)  # it is connecting
            await pool.aclose()
            async with asyncio.timeout(5):
                with pytest.raises(HttpError):
                    await asking

    asyncio.run(run())
