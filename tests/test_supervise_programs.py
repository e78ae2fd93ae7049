"""Supervised programs: real processes that really die, hang, fork, talk and are killed."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from conftest import free_port
from reviewmill.errors import ProcessError
from reviewmill.supervise import Spec, log_tail, start, status, stop
from reviewmill.supervise.control import wait_until
from reviewmill.supervise.identity import Identity, alive, identify, send
from reviewmill.supervise.log import RotatingLog
from reviewmill.supervise.spec import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

READY = frozenset({"ready"})

# Answers on /health as a file beside it says, which a test can change while it runs.
SERVER = """
import http.server, pathlib, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(int(pathlib.Path("code").read_text()))
        self.end_headers()
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose program is ended after the test, whatever happens."""
    place = tmp_path / "engine"
    yield place
    stop(place, seconds=2)


def spec(code: str, *arguments: object, **fields: object) -> Spec:
    """A Python program; everything about it quick, unless the test says otherwise."""
    quick = {"first_pause": 0.1, "health_every": 0.2, "health_timeout": 1.0, "grace_seconds": 3.0, "most_failures": 50}
    return Spec("the program", (sys.executable, "-c", code, *map(str, arguments)), **(quick | fields))  # type: ignore[arg-type]


def until(what: Callable[[], object], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def running(folder: Path) -> Status:
    now = status(folder)
    assert now is not None
    return now


SLEEP = "import time; time.sleep(600)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); " + SLEEP
DETACH = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]], start_new_session=True)"


def test_it_outlives_whoever_started_it(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from reviewmill.supervise import Spec, start\n"
        f"start(Path(sys.argv[1]), Spec('x', (sys.executable, '-c', {SLEEP!r})))"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, folder], check=True, env=env, timeout=30)
    now = wait_until(folder, READY, seconds=10)
    assert now.program is not None
    assert now.supervisor is not None
    assert psutil.Process(now.supervisor.pid).ppid() != os.getpid()
    stop(folder)
    assert not alive(now.program)
    assert not alive(now.supervisor)
    assert running(folder).state == "stopped"


def test_a_program_that_dies_is_started_again_and_one_that_keeps_dying_is_given_up(folder: Path) -> None:
    start(folder, spec("import sys; print('no good', flush=True); sys.exit(3)", most_failures=3))
    until(lambda: running(folder).state == "failed")
    now = running(folder)
    assert now.restarts == 2
    assert now.last_end == "it ended with status 3"
    said = log_tail(folder, 20)
    assert said.count("no good") == 3
    assert "given up after 3 failures" in said[-1]
    pauses = [line.rpartition("again in ")[2] for line in said if "again in" in line]
    assert pauses == ["0.1 s", "0.2 s"]
    with pytest.raises(ProcessError, match="is failed"):
        wait_until(folder, READY, seconds=5)


def test_a_killed_program_comes_back_as_another_process(folder: Path) -> None:
    start(folder, spec(SLEEP))
    first = wait_until(folder, READY, seconds=10).program
    assert first is not None
    send(first, signal.SIGKILL)
    until(lambda: running(folder).restarts == 1 and running(folder).state == "ready")
    second = running(folder).program
    assert second is not None
    assert second != first
    assert running(folder).last_end == "it was ended by SIGKILL"


def test_starting_it_twice_is_refused(folder: Path) -> None:
    start(folder, spec(SLEEP))
    with pytest.raises(ProcessError, match="runs already"):
        start(folder, spec(SLEEP))


def test_a_program_that_cannot_be_started_says_why(folder: Path) -> None:
    start(folder, Spec("x", ("/nowhere/vllm",), first_pause=0.05, most_failures=2))
    until(lambda: running(folder).state == "failed")
    assert running(folder).last_end == "/nowhere/vllm cannot be started: No such file or directory"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives orphans to the supervisor")
def test_nothing_of_the_program_is_left_whatever_it_detached(folder: Path) -> None:
    """A grandchild in a session of its own, whose parent is gone, and which will not listen to SIGTERM."""
    code = (
        f"import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', {DETACH!r}, {DEAF!r}])\ntime.sleep(600)"
    )
    start(folder, spec(code, grace_seconds=1.0))
    until(lambda: "up" in log_tail(folder, 5) if (folder / "log").exists() else False)
    supervisor = running(folder).supervisor
    assert supervisor is not None
    family = psutil.Process(supervisor.pid).children(recursive=True)
    assert len(family) == 2
    stop(folder, seconds=5)
    assert [process for process in family if process.is_running() and process.status() != "zombie"] == []
    assert "was killed" in "\n".join(log_tail(folder, 5))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends the program with its supervisor")
def test_a_killed_supervisor_leaves_no_program_behind(folder: Path) -> None:
    start(folder, spec(SLEEP))
    now = wait_until(folder, READY, seconds=10)
    assert now.supervisor is not None
    send(now.supervisor, signal.SIGKILL)
    until(lambda: not alive(now.program))
    after = running(folder)
    assert after.state == "failed"
    assert after.last_end == "its supervisor was killed, or the machine was restarted"
    start(folder, spec(SLEEP))  # nothing is in the way of another


def test_stop_ends_what_a_killed_supervisor_left(folder: Path) -> None:
    """A program that ignores SIGTERM survives its supervisor; the next `stop` finds it by the status file."""
    start(folder, spec(DEAF))
    until(lambda: (folder / "log").exists() and "up" in log_tail(folder, 5))
    now = running(folder)
    assert now.supervisor is not None
    assert now.program is not None
    send(now.supervisor, signal.SIGKILL)
    until(lambda: not alive(now.supervisor))
    assert alive(now.program)
    stop(folder, seconds=1)
    assert not alive(now.program)


def test_a_number_that_was_given_out_again_is_never_signalled(folder: Path) -> None:
    """The status file names a process that is gone; its number belongs to a stranger now."""
    folder.mkdir()
    stranger = subprocess.Popen([sys.executable, "-c", SLEEP])
    try:
        claimed = Identity(stranger.pid, "another boot 12345")
        Status("x", "ready", claimed, claimed, [claimed]).write(folder)
        assert running(folder).state == "failed"
        stop(folder, seconds=1)
        assert stranger.poll() is None
        assert not send(claimed, signal.SIGKILL)
        assert stranger.poll() is None
        assert alive(identify(stranger.pid))
    finally:
        stranger.kill()
        stranger.wait()


def test_health_decides_what_is_ready_and_what_is_started_again(folder: Path) -> None:
    folder.mkdir()
    code = folder / "code"
    code.write_text("503")
    port = free_port()
    url = f"http://127.0.0.1:{port}/health"
    start(folder, spec(SERVER, port, health_url=url, unhealthy_limit=3))
    time.sleep(1.5)
    assert running(folder).state == "starting"
    code.write_text("200")
    first = wait_until(folder, READY, seconds=10).program
    code.write_text("500")
    until(lambda: running(folder).restarts == 1)
    assert f"it did not answer {url} 3 times" in str(running(folder).last_end)
    code.write_text("200")
    until(lambda: running(folder).state == "ready")
    assert running(folder).program != first


def test_a_program_that_is_never_ready_is_given_up(folder: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/health"
    start(folder, spec(SLEEP, health_url=url, start_seconds=0.5, most_failures=1))
    until(lambda: running(folder).state == "failed")
    assert running(folder).last_end == "it was not ready after 0.5 s"


def test_the_health_check_does_not_go_through_a_proxy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    (folder / "code").write_text("200")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    port = free_port()
    start(folder, spec(SERVER, port, health_url=f"http://127.0.0.1:{port}/"))
    wait_until(folder, READY, seconds=10)


def test_secrets_show_neither_in_the_log_nor_in_any_file_nor_in_arguments(folder: Path) -> None:
    key = "k3y-" + "a1b2" * 8
    code = "import os, time; print('key is ' + os.environ['KEY'], flush=True); time.sleep(600)"
    start(folder, spec(code, env={"KEY": key}, secrets=(key,)))
    until(lambda: (folder / "log").exists() and log_tail(folder, 5))
    assert log_tail(folder, 1) == ["key is ***"]
    files = [path for path in folder.iterdir() if path.is_file()]
    assert not [path for path in files if key.encode() in path.read_bytes()]
    now = running(folder)
    assert now.supervisor is not None
    family = [psutil.Process(now.supervisor.pid), *psutil.Process(now.supervisor.pid).children(recursive=True)]
    assert not [process for process in family if key in " ".join(process.cmdline())]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "status.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "log").stat().st_mode) == 0o600


def test_the_program_gets_the_environment_of_whoever_started_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor's own search path must not reach a program that has another Python."""
    monkeypatch.setenv("PYTHONPATH", "/of/the/user")
    monkeypatch.setenv("PROXY_OF_MINE", "secret")
    code = "import os, time; print(os.environ.get('PYTHONPATH'), 'PROXY_OF_MINE' in os.environ, flush=True); " + SLEEP
    start(folder, spec(code, without=("PROXY_OF_MINE",)))
    until(lambda: (folder / "log").exists() and log_tail(folder, 5))
    assert log_tail(folder, 1) == ["/of/the/user False"]


def test_the_log_does_not_grow_for_ever(tmp_path: Path) -> None:
    log = RotatingLog(tmp_path / "log", limit=1000, keep=2, secrets=["secret"])
    for number in range(100):
        log.write(f"line {number} {'x' * 50}\n".encode())
    log.write(b"a sec")
    log.write(b"ret\nrest")
    log.note("done")
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["log", "log.1", "log.2"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[-3:-1] == ["a ***", "rest"]
    assert lines[-1].endswith("done")
    assert (tmp_path / "log.1").read_text().splitlines()[-1].startswith("line 9") or "line" in lines[0]


def test_a_damaged_status_file_is_named(folder: Path) -> None:
    folder.mkdir()
    (folder / "status.json").write_text("{")
    with pytest.raises(ProcessError, match=r"status\.json cannot be read"):
        status(folder)
    (folder / "status.json").unlink()
    assert status(folder) is None
    with pytest.raises(ProcessError, match="There is no log"):
        log_tail(folder, 5)


@pytest.mark.parametrize("code", [SLEEP, "import sys; sys.exit(1)"], ids=["running", "waiting to be started again"])
def test_it_ends_with_its_owner(folder: Path, code: str) -> None:
    owner = subprocess.Popen([sys.executable, "-c", SLEEP])
    start(folder, spec(code, owner=identify(owner.pid), first_pause=30.0))
    until(lambda: running(folder).state in {"ready", "waiting"})
    program, supervisor = running(folder).program, running(folder).supervisor
    owner.kill()
    owner.wait()
    until(lambda: running(folder).state == "stopped", seconds=5)
    until(lambda: not alive(program) and not alive(supervisor), seconds=5)
    assert "is gone" in "\n".join(log_tail(folder, 3))
