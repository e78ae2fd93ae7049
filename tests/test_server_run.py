"""The event loop under many new connections."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

import uvloop

from reviewmill.server.run import doors, listen

CLIENTS = 64


def test_many_who_come_at_once_are_let_in_within_a_few_turns_of_the_loop():
    # Found under load: one connection a turn, and turns of 18 ms, made the last of 64 clients wait for half a second.
    with ExitStack() as stack:
        listener = stack.enter_context(listen("127.0.0.1", 0))
        for _ in range(CLIENTS):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            turns = runner.run(_turns_until_all_are_in(doors(listener)))
    assert turns <= CLIENTS // 8


async def _turns_until_all_are_in(listeners: list[socket.socket]) -> int:
    loop = asyncio.get_running_loop()
    met: list[asyncio.BaseTransport] = []

    class Door(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            met.append(transport)

    servers = [await loop.create_server(Door, sock=each) for each in listeners]
    turns = 0
    while len(met) < CLIENTS:
        await asyncio.sleep(0)
        turns += 1
        assert turns < 1_000
    for transport in met:
        transport.abort()
    for server in servers:
        server.close()
        await server.wait_closed()
    return turns
