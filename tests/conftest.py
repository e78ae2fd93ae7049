"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import functools
import itertools
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import psycopg
import pytest
import typer.testing
from hypothesis import settings

from empty_store import put_empty_store
from jobs_bench import Bench
from reviewmill.store import Store
from sharing import Sharing, in_order, leave_room

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chat_process import RealChat

# How long one example takes depends on what else the machine does.
settings.register_profile("reviewmill", deadline=None, print_blob=True)
settings.load_profile("reviewmill")


# Each `CliRunner().invoke` would look at every parameter of every command again, which takes a tenth of a second.
typer.testing._get_command = functools.cache(typer.testing._get_command)

# Calibrations of whoever runs the tests must not decide their results; what a test fits lies in a folder of its own.
os.environ["REVIEWMILL_CALIBRATIONS_DIR"] = tempfile.mkdtemp(prefix="rm-calibrations-")


def pytest_configure(config: pytest.Config) -> None:
    """Before there are processes that share the tests."""
    if config.getoption("numprocesses", default=None):
        leave_room()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Sharing:
    """See `sharing`."""
    return Sharing(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """More tries for what has a limit on the clock; and where this is one of several processes, see `sharing`."""
    for item in items:
        if item.get_closest_marker("clock"):
            item.add_marker(pytest.mark.flaky(reruns=2))
    if hasattr(config, "workerinput"):
        in_order(items)


@pytest.fixture(scope="session")
def prefixes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all tests with the embedded model keep the beginnings of prompts: each takes half a minute to compute."""
    return tmp_path_factory.mktemp("prefixes")


class RedisServer:
    """A real redis-server on a free loopback port, without persistence, its files in a folder of its own."""

    def __init__(self, binary: str, folder: Path) -> None:
        self.binary = binary
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self, *options: str) -> None:
        """Start it, empty, and wait until it answers; does nothing if it runs."""
        if self.process is not None:
            return
        fixed = f"--bind 127.0.0.1 --port {self.port} --unixsocket {self.socket} --dir {self.folder} --appendonly no"
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.binary, *fixed.split(), "--save", "", *options], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 10
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"redis-server did not start:\n{(self.folder / 'redis.log').read_text()}")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it with SIGKILL; what it held is lost. Does nothing if it does not run."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """Stop the process without ending it: connections are accepted by the kernel, and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


class PostgresServer:
    """A real PostgreSQL on a free loopback port, its files in a folder of its own; what it committed outlives a kill.

    Root runs it as another user, because PostgreSQL refuses to run as root.
    """

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries = binaries
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            user = _unprivileged_user()
            os.chown(folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://reviewmill@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """Make an empty database, and give its URL."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def create_schema(self) -> str:
        """Make an empty schema, and give a URL whose connections work in it: much cheaper than a database."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{self.url()}?options=-csearch_path%3D{name}"

    def start(self) -> None:
        """Start it, with what it held before, and wait until it answers; does nothing if it runs."""
        if self.process is not None:
            return
        data = self.folder / "data"
        if not data.exists():
            options = "--username reviewmill --auth trust --encoding UTF8 --locale C --no-sync"
            self._run(self.binaries / "initdb", "--pgdata", data, *options.split()).wait()
        # No fsync: what a killed server has written, the kernel still has.
        options = "-c listen_addresses=127.0.0.1 -c fsync=off -c full_page_writes=off -c shared_buffers=16MB"
        where = ("-D", data, "-p", self.port, "-k", self.folder)
        deadline = time.monotonic() + 30
        self.process = self._run(self.binaries / "postgres", *where, *options.split())
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"PostgreSQL did not start:\n{(self.folder / 'postgres.log').read_text()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End all its processes with SIGKILL. Does nothing if it does not run."""
        if self.process is not None:
            processes = self._processes()
            for each in processes:
                with suppress(psutil.NoSuchProcess):  # a child may end in the same moment by itself
                    each.kill()
            self.process.wait()
            psutil.wait_procs(processes, timeout=10)
            self.process = None

    def freeze(self) -> None:
        """Stop its processes without ending them: connections are accepted by the kernel, and nothing answers."""
        for each in self._processes():
            each.suspend()

    def thaw(self) -> None:
        """Let a frozen server go on."""
        for each in self._processes():
            each.resume()

    def _processes(self) -> list[psutil.Process]:
        """The server's process first, so that it starts no more while the others are dealt with."""
        assert self.process is not None
        try:
            server = psutil.Process(self.process.pid)
            return [server, *server.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _run(self, *command: object) -> subprocess.Popen[bytes]:
        with (self.folder / "postgres.log").open("ab") as log:
            return subprocess.Popen([*map(str, command)], stdout=log, stderr=log, cwd=self.folder, **self._as)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


def _unprivileged_user() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody on this machine")


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis for the whole session; `url`, `socket`. Use keys of your own, and leave it running."""
    with _server() as server:
        server.start()
        yield server


@pytest.fixture
def own_redis_server() -> Iterator[RedisServer]:
    """A Redis for one test, not started, which it may `start`, `kill`, `freeze` and `thaw`."""
    with _server() as server:
        yield server


@contextmanager
def _server() -> Iterator[RedisServer]:
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server binary on this machine (Debian: apt-get install redis-server)")
    # Not pytest's folder: a Unix socket's path has at most about 100 bytes.
    with tempfile.TemporaryDirectory(prefix="rm-redis-") as folder:
        server = RedisServer(binary, Path(folder))
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL for the whole session. Use databases of your own (`create_database`), and leave it running."""
    with _postgres() as server:
        server.start()
        yield server


@pytest.fixture
def own_postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL for one test, not started, which it may `start`, `kill`, `freeze` and `thaw`."""
    with _postgres() as server:
        yield server


@contextmanager
def _postgres() -> Iterator[PostgresServer]:
    found = shutil.which("postgres")
    places = (
        [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    )
    binaries = next((place for place in places if (place / "postgres").exists() and (place / "initdb").exists()), None)
    if binaries is None:
        pytest.skip("no PostgreSQL server on this machine (Debian: apt-get install postgresql)")
    # Not pytest's folder: a Unix socket's path has at most about 100 bytes, and root's folders are closed to others.
    with tempfile.TemporaryDirectory(prefix="rm-postgres-") as folder:
        server = PostgresServer(binaries, Path(folder))
        try:
            yield server
        finally:
            server.kill()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database; each test that asks for it runs once on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.sqlite'}"
    url: str = request.getfixturevalue("postgres_server").create_schema()
    return url


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """A store on an empty database, once on each kind."""
    if store_url.startswith("sqlite"):
        put_empty_store(Path(store_url.removeprefix("sqlite:///")))
    with Store.open(store_url) as opened:
        yield opened


@pytest.fixture(scope="session")
def real_chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealChat]:
    """`reviewmill chat` with the real Open WebUI and a stub for the model, started once."""
    from chat_process import INSTALLS, ChatProcess, RealChat
    from outbound_watch import OutboundWatch
    from reviewmill.chat.install import VERSION
    from stub_endpoint import StubEndpoint

    if not (INSTALLS / f"{VERSION}-slim").is_dir():
        pytest.skip(f"Open WebUI is not installed in {INSTALLS} (make chat, or reviewmill chat --install-only)")
    folder = tmp_path_factory.mktemp("chat")
    with StubEndpoint() as stub:
        watch = OutboundWatch()
        process = ChatProcess(folder, stub, installs=INSTALLS)
        process.env["REVIEWMILL_CHAT__ENVIRONMENT"] = json.dumps(
            dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"), watch.proxy)
        )
        try:
            watch.watch(process.family)
            began = time.monotonic()
            process.start(wait=280)
            yield RealChat(process, stub, watch, time.monotonic() - began)
        finally:
            process.kill()
            watch.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Jobs and their workers, on SQLite."""
    bench = Bench(tmp_path / "data")
    yield bench
    bench.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def either_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """On SQLite and on PostgreSQL."""
    database = request.param
    if database == "postgresql":
        database = request.getfixturevalue("postgres_server").create_database()
    bench = Bench(tmp_path / "data", database)
    yield bench
    bench.close()
