"""`reviewmill chat` as a process, for tests: with the real Open WebUI or with what stands for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import platformdirs
import psutil

from conftest import free_port
from outbound_watch import OutboundWatch
from reviewmill.chat.webui import WebUI
from reviewmill.outbound import way_to
from stub_endpoint import StubEndpoint
from warm import warm_reviewmill

INSTALLS = platformdirs.user_data_path("reviewmill") / "chat" / "open-webui"
"""Where `make chat` installs Open WebUI, once for all working copies."""

FAKE = Path(__file__).with_name("fake_webui.py")
READY = "Ctrl-C ends it."


class ChatProcess:
    """A chat in a folder of its own; `start` it, and `kill` it in the end.

    Attributes:
        port: of Open WebUI.
        service_port: of our service.
        place: the chat's folder.
    """

    def __init__(self, folder: Path, stub: StubEndpoint, *, installs: Path | None = None) -> None:
        self.folder = folder
        self.place = folder / "chat"
        self.place.mkdir(parents=True)
        self.port, self.service_port = free_port(), free_port()
        self.env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "REVIEWMILL_CHAT__DATA_DIR": str(self.place),
            "REVIEWMILL_CHAT__PORT": str(self.port),
            "REVIEWMILL_CHAT__THUMBS_S": "1",
            "REVIEWMILL_SERVICE__PORT": str(self.service_port),
            "REVIEWMILL_SERVICE__DATA_DIR": str(folder / "service"),
            "REVIEWMILL_ENDPOINT": stub.url,
            "REVIEWMILL_CACHE": f"sqlite:{folder / 'answers.sqlite3'}",
            "REVIEWMILL_CACHE_DIR": str(folder / "cache"),
            # What a user's environment may hold, and must not reach Open WebUI.
            "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
            "HTTP_PROXY": "http://127.0.0.1:1",
        }
        if installs is None:
            binary = self.place / "open-webui" / "0.12.4-slim" / "bin" / "python"
            binary.parent.mkdir(parents=True)
            binary.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
            binary.chmod(0o755)
        else:
            (self.place / "open-webui").symlink_to(installs)
        self.said = folder / "said"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a `reviewmill chat …` to its end."""
        return subprocess.run(
            warm_reviewmill("chat", *arguments),
            env=self.env | env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def start(self, *arguments: str, wait: float | None = 60, **env: str) -> None:
        """Start it, and wait until people can sign in."""
        command = [sys.executable, "-m", "reviewmill", "chat", *arguments]
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                command,
                env=self.env | env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        if wait is not None:
            self.until(READY, wait)

    def times(self, text: str) -> int:
        """How often it has said something."""
        return self.said.read_text("utf-8").count(text)

    def until(self, text: str, seconds: float = 30, *, more_than: int = 0) -> str:
        """Wait until it has said something, more often than so; return all that it said."""
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while (said := self.said.read_text("utf-8")).count(text) <= more_than:
            assert self.process.poll() is None, said
            assert time.monotonic() < deadline, f"it did not say {text!r}:\n{said}"
            time.sleep(0.1)
        return said

    def ended(self, number: signal.Signals | None = None, seconds: float = 60) -> int:
        """Send it a signal, wait for its end, and return its status."""
        assert self.process is not None
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(seconds)

    def status(self, name: str) -> dict[str, Any]:
        """What the supervisor of a program wrote down."""
        found: dict[str, Any] = json.loads((self.place / "run" / name / "status.json").read_text("utf-8"))
        return found

    def pid(self, name: str) -> int:
        """The process of a program."""
        return int(self.status(name)["program"]["pid"])

    def family(self) -> list[psutil.Process]:
        """All processes that belong to it, whoever their parent is: they name its folder or its ports."""
        marks = (str(self.place), f"--port\0{self.port}\0", f"--port\0{self.service_port}\0")
        found = []
        for process in psutil.process_iter():
            try:
                line = "\0".join(process.cmdline()) + "\0"
                if any(mark in line for mark in marks) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def state(self) -> dict[str, Any]:
        """What the stand-in for Open WebUI was told."""
        found: dict[str, Any] = json.loads((self.place / "data" / "state.json").read_text("utf-8"))
        return found

    def service(self) -> httpx2.Client:
        """A client of the service, with the chat's key."""
        key = json.loads((self.place / "secrets.json").read_text("utf-8"))["service_key"]
        url = f"http://127.0.0.1:{self.service_port}"
        return httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30, **way_to(url))

    def kill(self) -> None:
        """End all of it, whatever state it is in."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                process.kill()


@dataclass(slots=True)
class RealChat:
    """The real Open WebUI, started once for all tests that use it.

    Attributes:
        process: the chat.
        stub: the model.
        watch: what left this machine.
        ready_s: seconds from its start to its page.
    """

    process: ChatProcess
    stub: StubEndpoint
    watch: OutboundWatch
    ready_s: float

    def account(self, email: str, *, admin: bool = False) -> str:
        """Make an account, and return its password."""
        made = self.process.run("users", "add", email, *(["--admin"] if admin else []))
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    def signed_in(self, email: str, password: str) -> WebUI:
        """Its API, as an account sees it."""
        ui = WebUI(self.process.url)
        ui.sign_in(email, password)
        return ui


def until(holds: Callable[[], object], seconds: float = 30) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.1)
