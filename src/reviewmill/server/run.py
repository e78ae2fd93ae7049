"""Serving: one process, one event loop, until a signal ends it."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Final

import uvicorn

from reviewmill.errors import SettingsError
from reviewmill.server import logs
from reviewmill.server.app import create_app
from reviewmill.server.protocol import guarded
from reviewmill.server.shield import UNMATCHED
from reviewmill.server.state import Service, check_address

if TYPE_CHECKING:
    from reviewmill.settings import Settings

GRACE_S: Final = 30
"""Seconds that requests have to be answered after the service was told to end."""
_BACKLOG: Final = 2048
_DOORS: Final = 32
"""New connections that one turn of the event loop lets in.

libuv accepts one a turn for each listening socket, and a turn under load takes as long as all requests in it: the last
of 64 clients that came at once waited for half a second.
"""
_MOST_FILES: Final = 65_536


class Serving(uvicorn.Server):
    """A server that tells its service when it begins to end, so that endless answers end too."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self.ended_by: list[int] = []

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Remember the signals that end it; uvicorn would raise them again before the service is closed."""
        with super().capture_signals():
            try:
                yield
            finally:
                self.ended_by, self._captured_signals = self._captured_signals, []

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End: no new requests, then those that are being answered, then everything else."""
        self._service.closing.set()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """Open the socket, before anything else is opened.

    Raises:
        SettingsError: nobody can listen there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"The service cannot listen on {host}, port {port}: {error.strerror or error}.",
            hint="Another program may use that port; choose another with --port.",
        ) from error
    return listener


def doors(listener: socket.socket) -> list[socket.socket]:
    """Copies of a listening socket, all with the same line of new connections; whoever serves closes them."""
    return [listener.dup() for _ in range(_DOORS)]


def make_server(settings: Settings, service: Service) -> Serving:
    """The server of a service; `await server.serve(sockets=[…])` serves."""

    def refused(status: int) -> None:
        service.metrics.answered("other", UNMATCHED, status, 0.0)

    config = uvicorn.Config(
        create_app(settings, service),
        http=guarded(settings.service, refused),
        loop="uvloop",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
        backlog=_BACKLOG,
    )
    return Serving(config, service)


async def _serve(settings: Settings, listener: socket.socket, on_ready: Callable[[str], None]) -> None:
    service = await Service.open(settings)
    server = make_server(settings, service)
    # A second of imports, which the first requests would otherwise wait for.
    await asyncio.to_thread(import_module, "reviewmill.endpoints.client")
    # What is there now stays: looking through all of it for garbage would stop every request for a tenth of a second.
    gc.collect()
    gc.freeze()
    try:
        host, port = listener.getsockname()[:2]
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await server.serve(sockets=doors(listener))
    finally:
        await service.aclose()
    if signal.SIGINT in server.ended_by:
        raise KeyboardInterrupt


def _allow_many_connections() -> None:
    """Each connection is an open file, of which most systems allow a process 1,024 until it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def serve(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: all settings.
        on_ready: told the address, when requests can come.

    Raises:
        ReviewmillError: the service cannot start.
    """
    import uvloop

    check_address(settings.service)
    _allow_many_connections()
    with listen(settings.service.host, settings.service.port) as listener:
        logs.set_up()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(settings, listener, on_ready))
