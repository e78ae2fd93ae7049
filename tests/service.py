"""A service for tests: the real server in a thread, on a free port, with a stub for the model."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import uvloop

from empty_store import put_empty_store
from reviewmill.outbound import way_to
from reviewmill.server.run import Serving, listen, make_server
from reviewmill.server.state import Service
from reviewmill.settings import Settings, load_settings
from reviewmill.store import KeyRecord, database_url
from reviewmill.store.engine import sqlite_url
from stub_endpoint import StubEndpoint


class RunningService:
    """A service that runs; `http` is a client without a key.

    Attributes:
        url: where it listens.
        service: what is behind it. Its parts belong to another thread: use `call` for what is async.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._listener = listen(settings.service.host, settings.service.port)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx2.Client(base_url=self.url, timeout=30, **way_to(self.url))
        self.service: Service
        self._server: Serving
        self._loop: asyncio.AbstractEventLoop
        self._opened = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._opened.wait(30)
        if self._error is not None:
            raise self._error
        wait_until(lambda: self._server.started)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                runner.run(self._serve())
            except BaseException as error:
                self._error = error
                raise
            finally:
                self._opened.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.service = await Service.open(self.settings)
        try:
            self._server = make_server(self.settings, self.service)
            self._opened.set()
            await self._server.serve(sockets=[self._listener])
        finally:
            await self.service.aclose()

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something in the service's own loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def key(self, *scopes: str, name: str = "test", **more: Any) -> str:
        """Make a key; by default one that may analyse."""
        return self.key_record(*scopes, name=name, **more)[1]

    def key_record(
        self, *scopes: str, name: str = "test", expires_at: datetime | None = None, **more: Any
    ) -> tuple[KeyRecord, str]:
        """Make a key, and show what is known about it."""
        return self.service.store.keys.create(name, scopes or ("analyse",), expires_at=expires_at, **more)

    def as_key(self, secret: str) -> httpx2.Client:
        """A client that shows this key."""
        return httpx2.Client(base_url=self.url, headers=bearer(secret), timeout=30, **way_to(self.url))

    def stop(self) -> None:
        """End it as a signal would, and wait."""
        self.http.close()
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()


@contextmanager
def running_service(folder: Path, stub: StubEndpoint | str, **settings: Any) -> Iterator[RunningService]:
    """A service with its files in a folder; `service={…}` sets the service's own settings."""
    service = {"data_dir": folder / "data", "host": "127.0.0.1", "port": 0, **settings.pop("service", {})}
    given = {
        "endpoint": stub if isinstance(stub, str) else stub.url,
        "cache": f"sqlite:{folder / 'answers.sqlite3'}",
        "cache_dir": folder / "cache",
        "attempts": 1,
        **settings,
    }
    known = load_settings(**given, service=service)
    if database_url(known.service) == sqlite_url(file := known.service.data_dir / "reviewmill.sqlite"):
        put_empty_store(file)
    running = RunningService(known)
    try:
        yield running
    finally:
        running.stop()


def bearer(secret: str) -> dict[str, str]:
    """The header that shows a key."""
    return {"Authorization": f"Bearer {secret}"}


def wait_until(holds: Callable[[], bool], seconds: float = 10) -> None:
    """Block until something holds; AssertionError if it does not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"it did not come to hold within {seconds} s"
        time.sleep(0.01)


def assert_problem(response: httpx2.Response, status: int, kind: str) -> dict[str, Any]:
    """The response is a problem document of this kind."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == f"urn:reviewmill:problem:{kind}"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert document["request_id"]
    return document
