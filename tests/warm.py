"""`reviewmill`, or a program of these tests, in a process of its own, without the seconds that its imports take.

`subprocess.run(warm_reviewmill("analyze", …))` is used as `subprocess.run([sys.executable, "-m", "reviewmill", …])` is,
and `warm_program(file, …)` as `[sys.executable, file, …]`.
One process per session of tests imports everything once. What is started here is a small client: it hands its
arguments, environment, working directory and standard streams to a fork of that process, passes SIGINT and SIGTERM on,
and ends as the fork ends. What differs: a client that is killed takes its fork with it, but a moment later (`kill`
waits for that); SIGSTOP stops the client alone; the fork's pid is not the client's; and PYTHON… variables have no
effect.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

STREAMS = (0, 1, 2)
LENGTH = struct.Struct("!I")
STATUS = struct.Struct("!i")
PASSED_ON = (signal.SIGINT, signal.SIGTERM)


def warm_reviewmill(*arguments: object) -> list[str]:
    """The command that runs `reviewmill` with these arguments."""
    return _command(["-m", "reviewmill"], arguments)


def warm_program(file: Path, *arguments: object) -> list[str]:
    """The command that runs a Python program with these arguments."""
    return _command([str(file)], arguments)


def kill(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    """Kill it, and wait until it is dead: until nobody could write to its output, which must be a pipe, any more."""
    process.kill()
    process.communicate()


def _command(program: list[str], arguments: Sequence[object]) -> list[str]:
    words = [*program, *map(str, arguments)]
    if not hasattr(os, "pidfd_open"):  # not Linux
        return [sys.executable, *words]
    return [sys.executable, "-I", "-S", __file__, "client", _socket(), *words]


@functools.cache
def _socket() -> str:
    folder = Path(tempfile.mkdtemp(prefix="reviewmill-warm-"))
    path = folder / "socket"
    command = [sys.executable, __file__, "serve", str(path)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin
    assert server.stdout
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.wait)
    atexit.register(server.stdin.close)  # first: it ends when nobody can ask any more
    assert server.stdout.readline() == "ready\n"
    return str(path)


def client(path: str, arguments: list[str]) -> None:
    """Ends as the fork ends, by the same signal if it was one."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        request = json.dumps(
            {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd())}
        ).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", STREAMS))]
        server.sendmsg([LENGTH.pack(len(request))], rights)
        server.sendall(request)
        for number in PASSED_ON:
            signal.signal(number, lambda number, _: server.sendall(bytes([number])))
        (status,) = STATUS.unpack(_received(server, STATUS.size))
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def serve(path: str) -> None:
    """Fork for every client. Returns in the forks, where all is as the client asked; the caller runs the command."""
    import reviewmill

    for module in pkgutil.walk_packages(reviewmill.__path__, "reviewmill."):
        if "__main__" not in module.name and ".migrations." not in module.name:  # those run when they are imported
            importlib.import_module(module.name)
    gc.freeze()  # a fork that never looks at it shares its memory
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's reaches everybody
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for who looks after a fork
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(64)
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listening, sys.stdin], [], [])
            if sys.stdin in ready:
                os._exit(0)
            connection, _ = listening.accept()
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _look_after(connection)


def _look_after(connection: socket.socket) -> None:
    """Fork once more, and return in the fork; here, pass on its signals, and its end."""
    head, rights, _, _ = connection.recvmsg(LENGTH.size, socket.CMSG_SPACE(len(STREAMS) * 4))
    streams = array.array("i", rights[0][2])
    if not rights:  # it was killed before it could say anything
        os._exit(0)
    request = json.loads(_received(connection, *LENGTH.unpack(head)))
    fork = os.fork()
    if fork == 0:
        connection.close()
        _become(request, streams)
        return
    for stream in (*STREAMS, *streams):  # whoever reads them waits for the last who could write
        os.close(stream)
    ended = os.pidfd_open(fork)
    while True:
        ready, _, _ = select.select([connection, ended], [], [])
        if ended in ready:
            break
        asked = connection.recv(1)
        os.kill(fork, asked[0] if asked else signal.SIGKILL)
        if not asked:
            os._exit(0)
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(STATUS.pack(os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])))
    os._exit(0)


def _become(request: dict, streams: array.array) -> None:
    for stream, place in zip(streams, STREAMS, strict=True):
        os.dup2(stream, place)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = request["arguments"]
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0)), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w")), encoding="utf-8")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "w")), "utf-8", "backslashreplace", line_buffering=True
    )


def _run_and_end() -> None:
    """As the interpreter would end, but for tearing everything down, which takes longer than most commands."""
    status = 0
    try:
        if sys.argv[0] == "-m":
            del sys.argv[0]
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        kind, error, trace = sys.exc_info()
        if kind and error:
            sys.excepthook(kind, error, trace)
            status = 1
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _received(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise SystemExit("the process that starts commands is gone")
        data += piece
    return data


if __name__ == "__main__":
    what, where, *words = sys.argv[1:]
    if what == "client":
        client(where, words)
    serve(where)
    _run_and_end()
