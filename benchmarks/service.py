"""The service under load: cached comments, the embedded model behind it, and a long soak.

    python benchmarks/service.py [FILE] [--seconds 10] [--connections 64] [--endpoint URL]
    python benchmarks/service.py [FILE] --embedded [--rows 60] [--rounds 1] [--model NAME]
    python benchmarks/service.py [FILE] --soak 600 [--concurrent 500] [--opened 10000]

Each starts `reviewmill serve` as a process of its own, with an empty folder for everything that it keeps, and asks it
with an API key. FILE (default: `examples/comments.csv`) gives the comments. They are answered by a stub (a real HTTP
server that answers by rule at once: `tests/stub_endpoint.py`) unless `--endpoint` names a model's server.

Without a mode, the cache is filled and `wrk`, a process of its own, asks `POST /v1/analyze` about one comment a
request; and `GET /healthz`, which does nothing, on the same server: no route can be faster on this machine.

`--embedded` measures comments a second of the embedded model, once straight through `AsyncSentimentAnalyzer` and once
through the service (one comment a request), in turns; nothing is cached. One after the other has the model loaded.

`--soak` keeps a number of requests under way all the time, over connections that are closed and opened anew. Some
comments are new, some come in batches, so that the line is full at times and the service turns requests away. Every
request must be answered with a result or a 429 that says when to come again, and the server's memory must stay within
5% of its median after the first tenth of the time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
import psutil

from main_job import distinct_comments
from reviewmill import AsyncSentimentAnalyzer, Client
from reviewmill.models import detect
from reviewmill.settings import DEFAULT_MODEL, ServiceSettings
from reviewmill.store import Store, database_url

ROOT: Final = Path(__file__).parent.parent
COMMENTS: Final = 1_000
SOAK_COMMENTS: Final = 12_000
"""More than the service keeps in memory, so that its memory is as full as it ever gets before the soak begins."""

NEW: Final = 0.05
"""Share of a soak's requests whose comment nobody asked about before."""

BATCHES: Final = 0.005
"""Share of a soak's requests with a batch of new comments."""

PATIENCE_S: Final = 60.0
FLAT: Final = 0.05
WRK_MISSING: Final = (
    "wrk is not installed, which makes the load. Debian, Ubuntu: apt-get install wrk; macOS: brew install wrk; "
    "source: https://github.com/wg/wrk"
)


@dataclass
class Load:
    """What wrk says about one kind of request; times in milliseconds."""

    request: str
    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


@dataclass
class Served:
    """A service that runs: its address, a key for it, and its process."""

    url: str
    key: str
    process: psutil.Process


@dataclass
class Soak:
    """What became of a soak's requests; memory in MiB, as seconds since the start and resident size."""

    seconds: float = 0.0
    opened: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    memory: list[tuple[float, float]] = field(default_factory=list)

    def spread(self) -> float:
        """The largest distance of the memory from its median, as a share of it, after the first tenth of the time."""
        settled = [size for at, size in self.memory if at >= self.seconds / 10] or [size for _, size in self.memory]
        middle = statistics.median(settled)
        return max(abs(size - middle) for size in settled) / middle

    def unanswered(self) -> int:
        """Requests that got neither a result nor a clear 429."""
        return sum(self.answers.values()) - self.answers["result"] - self.answers["429"]


# --- processes --------------------------------------------------------------------------------------------------------


@contextmanager
def endpoint(url: str | None) -> Iterator[str]:
    """The address of the model's server: the one that was given, or a stub's, in a process of its own."""
    if url is not None:
        yield url
        return
    program = [sys.executable, str(ROOT / "tests" / "stub_endpoint.py")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 -- our own program
        try:
            if process.stdout is None or not (line := process.stdout.readline()):
                raise SystemExit("The stub did not start.")
            yield line.strip()
        finally:
            process.kill()


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Served]:
    """`reviewmill serve` in a process of its own, ready to answer."""
    with Store.open(database_url(ServiceSettings(data_dir=folder / "service"))) as store:
        _, key = store.keys.create("benchmark", ("analyse", "admin"))
    named = ["--port", "0", "--data-dir", str(folder / "service"), *options]
    # Only what is given here counts: another folder, so that no reviewmill.toml is found.
    environment = os.environ | {"REVIEWMILL_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": _python_path()}
    log = folder / "serve.log"
    with log.open("w") as written:
        process = subprocess.Popen(  # noqa: S603 -- our own program
            [sys.executable, "-m", "reviewmill", "serve", *named], stderr=written, cwd=folder, env=environment
        )
        try:
            url = _address(process, log)
            _wait_until_ready(process, url, log)
            yield Served(url, key, psutil.Process(process.pid))
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _python_path() -> str:
    return os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path if entry)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text(encoding="utf-8").splitlines():
            if line.startswith("reviewmill serves "):
                return line.split()[2].rstrip(";")
        time.sleep(0.05)
    raise SystemExit(f"The service did not start:\n{log.read_text(encoding='utf-8')}")


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 600  # a large model takes minutes to load
    with httpx2.Client(base_url=url, timeout=30, trust_env=False) as http:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if http.get("/readyz").is_success:
                    return
            except httpx2.TransportError:
                pass  # it said its address, and opens its door a moment later
            time.sleep(0.2)
    raise SystemExit(f"The service is not ready:\n{log.read_text(encoding='utf-8')}")


# --- cached load ------------------------------------------------------------------------------------------------------


def numbered(path: Path, number: int) -> list[str]:
    """So many different comments: those of the file, and the same again with a number after them."""
    texts = distinct_comments(path, number)
    return [text if at < len(texts) else f"{text} {at}" for at, text in _around(texts, number)]


def _around(texts: Sequence[str], number: int) -> Iterator[tuple[int, str]]:
    return ((at, texts[at % len(texts)]) for at in range(number))


async def fill(served: Served, texts: Sequence[str]) -> None:
    """Have every comment answered, and look whether all of them are cached then."""
    async with Client(served.url, served.key, timeout=PATIENCE_S, concurrency=1) as client:
        await client.analyze_batch(texts)
        again = await client.analyze_batch(texts)
    others = [analysis for analysis in again if analysis.status == "error" or analysis.route == "model"]
    if others:
        raise SystemExit(f"{len(others)} of {len(texts)} comments are not cached: {others[0]}")


def wrk_script(key: str, texts: Sequence[str]) -> str:
    """Lua that has wrk ask about one comment after another, and say what it found in one line of JSON."""
    bodies = ",\n".join(f"[==[{json.dumps({'text': text}, ensure_ascii=False)}]==]" for text in texts)
    return f"""
local bodies = {{ {bodies} }}
local requests, at = {{}}, 0
function init(args)
  wrk.headers["Authorization"], wrk.headers["Content-Type"] = "Bearer {key}", "application/json"
  for n, body in ipairs(bodies) do requests[n] = wrk.format("POST", nil, nil, body) end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
{WRK_DONE}"""


WRK_DONE: Final = """
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\n{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "errors": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


def wrk(url: str, script: str, folder: Path, *, seconds: int, connections: int) -> Load:
    """Run wrk, one thread, against an address."""
    path = folder / "load.lua"
    path.write_text(script, encoding="utf-8")
    program = [shutil.which("wrk") or "wrk", "--threads", "1", "--connections", str(connections)]
    program += ["--duration", f"{seconds}s", "--timeout", "30s", "--script", str(path), url]
    done = subprocess.run(program, capture_output=True, text=True, check=False)  # noqa: S603 -- what is asked for
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise SystemExit(f"wrk failed:\n{done.stdout}{done.stderr}")
    return Load(urlsplit(url).path, **json.loads(lines[-1]))


def cached_load(options: argparse.Namespace, folder: Path) -> list[Load]:
    """One comment a request, all cached; and the same of what does nothing."""
    if shutil.which("wrk") is None:
        raise SystemExit(WRK_MISSING)
    texts = numbered(options.file, COMMENTS)
    how = {"seconds": options.seconds, "connections": options.connections}
    with endpoint(options.endpoint) as url, serving(folder, "--endpoint", url) as served:
        asyncio.run(fill(served, texts))
        warm = wrk_script(served.key, texts)
        wrk(f"{served.url}/v1/analyze", warm, folder, seconds=1, connections=options.connections)
        return [
            wrk(f"{served.url}/v1/analyze", warm, folder, **how),
            wrk(f"{served.url}/healthz", WRK_DONE, folder, **how),
        ]


def show_load(loads: list[Load], options: argparse.Namespace) -> None:
    """The table."""
    print(f"{COMMENTS} different comments, all cached; {options.connections} connections, {options.seconds} s each\n")
    print(f"{'request':<16}{'requests':>10}{'per s':>10}{'p50 ms':>9}{'p99 ms':>9}{'errors':>8}")
    for load in loads:
        print(
            f"{load.request:<16}{load.requests:>10,}{load.rate:>10,.0f}{load.p50_ms:>9.1f}{load.p99_ms:>9.1f}"
            f"{load.errors:>8}"
        )


# --- embedded ---------------------------------------------------------------------------------------------------------


async def straight(texts: Sequence[str], model: str, folder: Path) -> float:
    """Comments a second of `AsyncSentimentAnalyzer`, the model loaded before."""
    async with AsyncSentimentAnalyzer(model=model, cache="none", cache_dir=folder / "cache") as analyzer:
        labeller = (await analyzer.pipeline()).labeller
        await labeller.connection.open(labeller.prompt)
        began = time.perf_counter()
        analyses = await analyzer.analyze_batch(texts)
        seconds = time.perf_counter() - began
    _check(analyses)
    return len(texts) / seconds


async def through_service(texts: Sequence[str], served: Served, at_once: int) -> float:
    """Comments a second of the service, one comment a request, so many requests at once."""
    places = asyncio.Semaphore(at_once)
    async with Client(served.url, served.key, timeout=3600) as client:

        async def one(text: str) -> Any:
            async with places:
                return await client.analyze(text)

        began = time.perf_counter()
        analyses = await asyncio.gather(*(one(text) for text in texts))
        seconds = time.perf_counter() - began
    _check(analyses)
    return len(texts) / seconds


def _check(analyses: Sequence[Any]) -> None:
    others = [analysis for analysis in analyses if analysis.route != "model"]
    if others:
        raise SystemExit(f"{len(others)} comments were not answered by the model: {others[0]}")


def embedded(options: argparse.Namespace, folder: Path) -> dict[str, list[float]]:
    """Both ways in turns, first the one and then the other, so that what else the machine does hits both."""
    texts = distinct_comments(options.file, options.rows)
    found: dict[str, list[float]] = {"straight": [], "service": []}
    for number in range(options.rounds):
        for way in ("straight", "service") if number % 2 == 0 else ("service", "straight"):
            if way == "straight":
                rate = asyncio.run(straight(texts, options.model, folder))
            else:
                with serving(folder, "--cache", "none", "--model", options.model) as served:
                    rate = asyncio.run(through_service(texts, served, options.at_once))
            found[way].append(rate)
            print(f"round {number + 1}, {way:<10}{len(texts):>6} comments{rate:>10.3f} per s", flush=True)
    return found


def show_embedded(found: dict[str, list[float]]) -> None:
    """What the service adds to the time of a comment."""
    time_of = {way: statistics.fmean(1 / rate for rate in rates) for way, rates in found.items()}
    print(f"\nthe service adds {time_of['service'] / time_of['straight'] - 1:+.2%} to the model's own time")


# --- soak -------------------------------------------------------------------------------------------------------------


class Soaker:
    """Keeps requests under way.

    Args:
        served: the service.
        texts: comments that are cached.
        seconds: for how long.
        concurrent: how many at once.
        opened: how many connections are opened over the whole time, at least.
    """

    def __init__(self, served: Served, texts: Sequence[str], *, seconds: float, concurrent: int, opened: int) -> None:
        self.found = Soak(seconds=seconds)
        self._served = served
        self._texts = texts
        self._concurrent = concurrent
        self._life = seconds * concurrent / opened * 0.9
        self._random = random.Random(0)
        self._new = 0
        self._began = 0.0

    async def run(self) -> Soak:
        """Do it."""
        self._began = time.monotonic()
        watching = asyncio.create_task(self._watch())
        await asyncio.gather(*(self._worker() for _ in range(self._concurrent)))
        watching.cancel()
        await asyncio.wait([watching])
        return self.found

    def _left(self) -> float:
        return self.found.seconds - (time.monotonic() - self._began)

    async def _watch(self) -> None:
        every = min(5.0, max(0.5, self.found.seconds / 60))
        while True:
            at = time.monotonic() - self._began
            processes = [self._served.process, *self._served.process.children(recursive=True)]
            size = sum(process.memory_info().rss for process in processes) / 2**20
            self.found.memory.append((at, size))
            if len(self.found.memory) % 12 == 0:
                print(f"{at:>6.0f} s  {size:>7.1f} MiB  {dict(self.found.answers)}", flush=True)
            await asyncio.sleep(every)

    async def _worker(self) -> None:
        """One connection after another, each for a part of the time, and on each one request after another."""
        await asyncio.sleep(self._random.random() * min(self._life, self.found.seconds / 10))
        address = urlsplit(self._served.url)
        while self._left() > 0:
            try:
                reader, writer = await asyncio.open_connection(address.hostname, address.port)
            except OSError as error:
                self.found.answers[f"not connected: {error.strerror}"] += 1
                await asyncio.sleep(0.1)
                continue
            self.found.opened += 1
            try:
                await self._talk(reader, writer)
            except (OSError, EOFError, TimeoutError, ValueError) as error:
                self.found.answers[f"lost: {type(error).__name__}"] += 1
            finally:
                writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        until = min(time.monotonic() + self._life * self._random.uniform(0.8, 1.2), self._began + self.found.seconds)
        while True:
            body = self._body()
            began = time.monotonic()
            async with asyncio.timeout(PATIENCE_S):
                writer.write(self._head(len(body)) + body)
                await writer.drain()
                status, headers, answer = await _response(reader)
            self.found.latencies_ms.append((time.monotonic() - began) * 1000)
            self.found.answers[_kind(status, headers, answer)] += 1
            if time.monotonic() >= until:
                return

    def _head(self, length: int) -> bytes:
        return (
            f"POST /v1/analyze HTTP/1.1\r\nHost: {urlsplit(self._served.url).netloc}\r\n"
            f"Authorization: Bearer {self._served.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        ).encode()

    def _body(self) -> bytes:
        drawn = self._random.random()
        if drawn < BATCHES:
            return json.dumps({"comments": [{"text": self._fresh()} for _ in range(256)]}).encode()
        text = self._fresh() if drawn < BATCHES + NEW else self._random.choice(self._texts)
        return json.dumps({"text": text}).encode()

    def _fresh(self) -> str:
        self._new += 1
        return f"{self._texts[self._new % len(self._texts)]} new {self._new}"


async def _response(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    return int(first.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


def _kind(status: int, headers: dict[str, str], answer: bytes) -> str:
    """`result`, `429`, or what else it was."""
    if status == 200:
        results = json.loads(answer)["results"]
        failed = [result["error"]["type"] for result in results if result["status"] == "error"]
        return f"result with {failed[0]}" if failed else "result"
    if status == 429 and headers.get("retry-after", "").isdigit():
        return "429"
    return f"status {status}"


def soak(options: argparse.Namespace, folder: Path) -> Soak:
    """Fill the service's memory, then soak it."""
    texts = numbered(options.file, options.comments)
    with endpoint(options.endpoint) as url, serving(folder, "--endpoint", url, "--queue", "64") as served:
        asyncio.run(fill(served, texts))
        soaker = Soaker(served, texts, seconds=options.soak, concurrent=options.concurrent, opened=options.opened)
        return asyncio.run(soaker.run())


def show_soak(found: Soak, options: argparse.Namespace) -> None:
    """The counts."""
    asked, ordered = sum(found.answers.values()), sorted(found.latencies_ms)
    sizes = [size for _, size in found.memory]
    print(f"\n{options.soak:g} s, {options.concurrent} requests at once, {found.opened:,} connections opened")
    print(f"{asked:,} requests, {asked / options.soak:,.0f} per s")
    for kind, number in found.answers.most_common():
        print(f"  {kind:<30}{number:>10,}")
    print(f"neither a result nor a clear 429: {found.unanswered()}")
    if ordered:
        middle, late = ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]
        print(f"latency: p50 {middle:.0f} ms, p99 {late:.0f} ms, longest {ordered[-1]:.0f} ms")
    print(
        f"memory: {sizes[0]:.1f} MiB at first, {statistics.median(sizes):.1f} in the middle, {sizes[-1]:.1f} at last; "
        f"within {found.spread():.1%} of the median after the first tenth (wanted: {FLAT:.0%})"
    )


# --- command line -----------------------------------------------------------------------------------------------------


def main() -> int:
    """Measure and print; 1 if a soak's request was lost or its memory grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", default=ROOT / "examples" / "comments.csv")
    parser.add_argument("--endpoint", help="a model's server; without it, a stub")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--embedded", action="store_true")
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--at-once", type=int, default=32, help="requests at once, with --embedded")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--soak", type=float, metavar="SECONDS")
    parser.add_argument("--concurrent", type=int, default=500)
    parser.add_argument("--opened", type=int, default=10_000)
    parser.add_argument("--comments", type=int, default=SOAK_COMMENTS, help="cached ones, with --soak")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started, too
    hardware = detect()
    answered_by = options.model if options.embedded else options.endpoint or "a stub"
    print(
        f"{options.file.name}, {hardware.cpu}, {hardware.physical_cores} cores "
        f"(load before: {os.getloadavg()[0]:.1f}), answered by {answered_by}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        result, failed = _measure(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2), encoding="utf-8")
    return int(failed)


def _measure(options: argparse.Namespace, folder: Path) -> tuple[Any, bool]:
    if options.embedded:
        rates = embedded(options, folder)
        show_embedded(rates)
        return rates, False
    if options.soak:
        found = soak(options, folder)
        show_soak(found, options)
        summary = asdict(found) | {"answers": dict(found.answers), "latencies_ms": None, "spread": found.spread()}
        return summary, bool(found.unanswered()) or found.spread() > FLAT
    loads = cached_load(options, folder)
    show_load(loads, options)
    return [asdict(load) | {"rate": load.rate} for load in loads], False


if __name__ == "__main__":
    sys.exit(main())
