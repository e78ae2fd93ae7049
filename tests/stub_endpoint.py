"""An OpenAI-compatible server that answers by rule, for tests: it counts what it is asked, and misbehaves on demand.

In a test: `with StubEndpoint(latency=0.05) as stub: ... stub.url ... stub.asked["…"]`. Every knob is also an attribute
that can be changed while it runs. As a program, in a process of its own: `python tests/stub_endpoint.py --latency 0.05`
prints its URL; `GET /stub/counts` tells what it was asked.

The comment is what stands between `<<<` and `>>>` in the last message. The label follows from words in it (see
`POSITIVE`, `NEGATIVE`); the task's labels are read from the grammar, schema, regex or choice that the request carries
(if the server obeys such), else from the prompt, as a model would.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import re
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic_core import to_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

LLAMA_CPP: Final = frozenset({"grammar", "json_schema", "logprobs"})
VLLM: Final = frozenset({"regex", "choice", "json_schema", "logprobs"})
OLLAMA: Final = frozenset({"json_schema"})
BARE: Final[frozenset[str]] = frozenset()

POSITIVE: Final = ("好", "满意", "喜欢", "香", "good", "great", "love")
NEGATIVE: Final = ("差", "不", "慢", "烂", "bad", "poor", "slow", "hate")

Nonsense = Literal[
    "html", "broken_json", "list", "no_choices", "no_message", "no_label", "null_content", "odd_logprobs"
]
Overflow = Literal["llama.cpp", "vllm", "openai"]
Failure = int | tuple[int, str | None] | None
"""A status, or a status and what `Retry-After` says, or None: this one is answered."""


@dataclass
class Knobs:
    """What the server does; see `StubEndpoint` for how to set them."""

    capabilities: frozenset[str] = LLAMA_CPP
    refuse_unknown: int | None = None
    """Status for a format that it cannot enforce; None ignores it silently, as most servers do."""
    latency: float = 0.0
    together: int = 0
    """Answer nobody before so many were asking at the same time (a minute at most)."""
    models: Sequence[str] = ("stub-model",)
    model_fields: Mapping[str, Any] = field(default_factory=dict)
    models_failure: int | Literal["html", "hang"] | None = None
    api_key: str | None = None
    top_logprobs: int = 20
    """The most alternatives that it lists; more are refused, as OpenAI and vLLM do."""
    unasked_logprobs: bool = False
    """Give each token's own log-probability, without alternatives, whether it was asked for or not."""
    give_bytes: bool = True
    confidence: float = 0.9
    """The share of each generated token; the other labels share most of the rest where a label begins."""
    label_mass: float = 1.0
    """Scales what all labels together hold where a label begins."""
    token_bytes: int | None = None
    """Cut the answer into tokens of so many bytes; None: words."""
    max_answer_tokens: int | None = None
    """Cut every answer after so many tokens, whatever the request allows."""
    has_template: bool = True
    """Without, every question is refused in vLLM's words."""
    context_chars: int | None = None
    overflow: Overflow = "llama.cpp"
    fail_next: list[Failure] = field(default_factory=list)
    fail_texts: Mapping[str, int] = field(default_factory=dict)
    drop_next: int = 0
    hang: bool = False
    nonsense: Nonsense | None = None
    says: str = "Hello!"
    """What it answers where no comment is asked about and no format is wanted."""
    event_latency: float = 0.0
    """Seconds before each event of a streamed answer."""
    cut_stream_after: int | None = None
    """Drop the connection after so many events of a streamed answer."""


class StubEndpoint(Knobs):
    """A running server; also a context manager. Keyword arguments are `Knobs`, and `port` (0: any free one).

    Attributes:
        url: base URL, with `/v1`.
        asked: times each comment was asked, counted when the request arrives.
        requests: bodies of all chat completion requests, in order of arrival.
        arrivals: when each arrived (`time.monotonic`).
        in_flight, max_in_flight: chat completions being worked on, now and at most so far.
        hung_up: clients that left in the middle of a streamed answer.
    """

    def __init__(self, *, port: int = 0, **knobs: Any) -> None:
        super().__init__(**knobs)
        self.asked: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []
        self.arrivals: list[float] = []
        self.in_flight = 0
        self.max_in_flight = 0
        self.hung_up = 0
        self._lock = threading.Lock()
        self._released = threading.Event()
        self._server = _Server(("127.0.0.1", port), self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def __enter__(self) -> StubEndpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop: new connections are refused, open ones are cut, hanging requests end."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._server.cut_connections()
        self._thread.join()

    @property
    def total(self) -> int:
        """How many chat completions were asked for, probes and refused ones included."""
        return len(self.requests)

    def counts(self) -> dict[str, Any]:
        """What `GET /stub/counts` returns."""
        with self._lock:
            return {
                "asked": dict(self.asked),
                "total": len(self.requests),
                "in_flight": self.in_flight,
                "max_in_flight": self.max_in_flight,
            }

    def wait_for_requests(self, number: int, *, seconds: float = 10) -> None:
        """Block until so many chat completions were asked for; AssertionError after so many seconds."""
        deadline = time.monotonic() + seconds
        while self.total < number:
            assert time.monotonic() < deadline, f"{self.total} of {number} requests in {seconds} s"
            time.sleep(0.005)

    # What follows is called by the handler, in a thread of each connection.

    def arrived(self, request: dict[str, Any]) -> None:
        """Count a request in."""
        comment = _comment(request)
        with self._lock:
            self.requests.append(request)
            self.arrivals.append(time.monotonic())
            self.in_flight += 1
            self.max_in_flight = max(self.max_in_flight, self.in_flight)
            if comment is not None:
                self.asked[comment] += 1

    def left(self) -> None:
        """Count a request out."""
        with self._lock:
            self.in_flight -= 1

    def next_failure(self) -> Failure | Literal["drop"]:
        """What the next request fails with, if anything."""
        with self._lock:
            if self.drop_next:
                self.drop_next -= 1
                return "drop"
            return self.fail_next.pop(0) if self.fail_next else None

    def wait(self, seconds: float) -> None:
        """Sleep; closing the server ends it."""
        self._released.wait(seconds)

    def hold(self) -> None:
        """Take the time that an answer takes."""
        self.wait(self.latency)
        deadline = time.monotonic() + 60
        while self.max_in_flight < self.together and time.monotonic() < deadline and not self._released.is_set():
            self.wait(0.01)

    def refusal(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """The status and body with which it refuses this request, if it does."""
        comment = _comment(request) or ""
        if request.get("model") not in self.models:
            return 404, _error(f"The model `{request.get('model')}` does not exist.", code="model_not_found")
        if not self.has_template:
            return 400, _error(
                "As of transformers v4.44, default chat template is no longer allowed, so you must provide a chat "
                "template if the tokenizer does not define one."
            )
        for part, status in self.fail_texts.items():
            if part in comment:
                return status, _error(f"This text makes me fail: {part}")
        if self.context_chars is not None and len(comment) > self.context_chars:
            return 400, _overflow(self.overflow, len(comment), self.context_chars)
        if request.get("top_logprobs", 0) > self.top_logprobs:
            return 400, _error(f"top_logprobs must be at most {self.top_logprobs}.")
        asked = _formats(request)
        if self.refuse_unknown and not asked.keys() <= self.capabilities:
            return self.refuse_unknown, _error(f"Unknown parameter among {sorted(asked)}.")
        return None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """A chat completion."""
        before, label, after, labels = self._decide(request)
        pieces = [(piece, False) for piece in self._tokens(before)]
        pieces += [(piece, number == 0) for number, piece in enumerate(self._tokens(label))]
        pieces += [(piece, False) for piece in self._tokens(after)]
        allowed = min(request.get("max_tokens") or 10**6, self.max_answer_tokens or 10**6)
        given = pieces[:allowed]
        message: dict[str, Any] = {"role": "assistant", "content": _text(piece for piece, _ in given)}
        choice: dict[str, Any] = {
            "index": 0,
            "message": message,
            # The end of the answer is a token too: an answer that fills its limit was cut, as far as the server knows.
            "finish_reason": "stop" if len(given) < allowed else "length",
            "logprobs": None,
        }
        if request.get("logprobs") and "logprobs" in self.capabilities:
            top = request.get("top_logprobs", 0)
            choice["logprobs"] = {"content": [self._logprob(piece, begins, labels, top) for piece, begins in given]}
        elif self.unasked_logprobs:
            choice["logprobs"] = {"content": [self._logprob(piece, begins, labels, 0) for piece, begins in given]}
        prompt_tokens = sum(len(message["content"]) for message in request["messages"])
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(given)}
        reply = {"id": "x", "object": "chat.completion", "created": int(time.time()), "model": request["model"]}
        return self._spoiled({**reply, "choices": [choice], "usage": usage})

    def _spoiled(self, reply: dict[str, Any]) -> dict[str, Any]:
        choice = reply["choices"][0]
        if self.nonsense == "no_choices":
            reply["choices"] = []
        elif self.nonsense == "no_message":
            del choice["message"]
        elif self.nonsense == "null_content":
            choice["message"]["content"] = None
        elif self.nonsense == "no_label":
            choice["message"]["content"] = "As an assistant I would rather talk about the weather."
            choice["logprobs"] = None
        elif self.nonsense == "odd_logprobs":
            choice["logprobs"] = {"content": [{"token": None}]}
        return reply

    def _decide(self, request: dict[str, Any]) -> tuple[str, str, str, list[str]]:
        """What stands before the label, the label, what stands after it, and all labels."""
        obeyed = {name: value for name, value in _formats(request).items() if name in self.capabilities}
        comment = _comment(request)
        if "json_schema" in obeyed:
            return _json_answer(obeyed["json_schema"], comment)
        if obeyed:
            name, value = next(iter(obeyed.items()))
            if name == "regex" and value.startswith(r"\{"):
                return _json_answer(_schema_of(value), comment)
            labels = _labels(name, value)
            label = decide(comment, labels)
            words = keywords(comment) if name in {"grammar", "regex"} and ("kw" in value or "{1," in value) else []
            return "", label, "|" + ",".join(words) if words else "", labels
        if comment is None:
            return self.says, "", "", []
        return _asked_in_words(request, comment)

    def _tokens(self, text: str) -> list[bytes]:
        if self.token_bytes is None:
            return [piece.encode() for piece in re.findall(r"\w+|\W+", text)]
        whole = text.encode()
        return [whole[at : at + self.token_bytes] for at in range(0, len(whole), self.token_bytes)]

    def _logprob(self, piece: bytes, begins: bool, labels: list[str], top: int) -> dict[str, Any]:
        """One token with the alternatives at its place: the labels' first tokens, then words that mean nothing."""
        shares: dict[bytes, float] = {piece: self.confidence}
        others = [tokens[0] for label in labels if (tokens := self._tokens(label))] if begins else []
        rest = [token for token in dict.fromkeys(others) if token != piece]
        shares |= {token: (1 - self.confidence) * 0.9 / len(rest) for token in rest}
        shares = {token: share * (self.label_mass if begins else 1) for token, share in shares.items()}
        shares |= _meaningless(top)
        listed = sorted(shares.items(), key=lambda item: -item[1])[:top]
        own = _item(piece, shares[piece], self.give_bytes)
        return own | {"top_logprobs": [_item(*pair, self.give_bytes) for pair in listed]}


@lru_cache
def _meaningless(number: int) -> dict[bytes, float]:
    return {f"~{each}".encode(): 1e-6 / (each + 1) for each in range(number)}


@lru_cache(10_000)
def _item(token: bytes, share: float, give_bytes: bool) -> dict[str, Any]:
    """One listed token; whoever gets it does not change it."""
    listed = list(token) if give_bytes else None
    return {"token": token.decode(errors="replace"), "bytes": listed, "logprob": math.log(share)}


def decide(comment: str | None, labels: Sequence[str]) -> str:
    """The label that the stub gives a comment; the same in every process."""
    text = comment or ""
    if set(labels) >= {"positive", "negative"}:
        if any(word in text for word in NEGATIVE):
            return "negative"
        if any(word in text for word in POSITIVE):
            return "positive"
        return "neutral" if "neutral" in labels else labels[0]
    named = [label for label in labels if label in text]
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return max(named, key=len) if named else labels[number % len(labels)]


def keywords(comment: str | None) -> list[str]:
    """One or two words of the comment, verbatim."""
    words = re.findall(r"[^\W_]+", comment or "")
    return list(dict.fromkeys(word[:4] for word in (words[:1] + words[-1:])))


def _comment(request: dict[str, Any]) -> str | None:
    # Between fences, or behind the plain baseline's last word.
    match = re.search("<<<(.*)>>>|\n(?:评论：|Comment: )(.*)", request["messages"][-1]["content"], re.DOTALL)
    return (match[1] or match[2] or "") if match else None


def _formats(request: dict[str, Any]) -> dict[str, Any]:
    """The formats that a request wants enforced, by the name of the capability."""
    asked: dict[str, Any] = {}
    if "grammar" in request:
        asked["grammar"] = request["grammar"]
    asked |= request.get("structured_outputs") or {}
    response_format = request.get("response_format") or {}
    if response_format.get("type") == "json_schema":
        asked["json_schema"] = response_format["json_schema"]["schema"]
    return asked


def _labels(name: str, value: Any) -> list[str]:
    if name == "choice":
        return list(value)
    if name == "grammar":
        root = value.split("\n")[0].split('"|"')[0]
        return [str(json.loads(literal)) for literal in re.findall(r'"(?:[^"\\]|\\.)+"', root)]
    head = re.match(r"\(([^)]*)\)", value)
    return [re.sub(r"\\(.)", r"\1", label) for label in (head[1] if head else value).split("|")]


def _schema_of(regex: str) -> dict[str, Any]:
    """The schema that a regular expression for JSON means."""
    match = re.match(r'\\\{"(.+?)":"\(([^)]*)\)"', regex)
    assert match, regex
    labels = [re.sub(r"\\(.)", r"\1", label) for label in match[2].split("|")]
    properties: dict[str, Any] = {match[1]: {"enum": labels}}
    return {"properties": properties | ({"keywords": {}} if '"keywords"' in regex else {})}


def _json_answer(schema: dict[str, Any], comment: str | None) -> tuple[str, str, str, list[str]]:
    properties = schema["properties"]
    name = next(iter(properties))
    labels = properties[name]["enum"]
    words = json.dumps(keywords(comment), ensure_ascii=False, separators=(",", ":"))
    stated = ',"confidence":0.95' if "confidence" in properties else ""
    after = f'"{stated},"keywords":{words}}}' if "keywords" in properties else f'"{stated}}}'
    return f'{{"{name}":"', decide(comment, labels), after, labels


def _asked_in_words(request: dict[str, Any], comment: str) -> tuple[str, str, str, list[str]]:
    """Nothing is enforced: read the prompt, as a model would."""
    system = request["messages"][0]["content"]
    labels = re.findall(r"^- ([^:：]+)[:：]", system, re.MULTILINE)
    label, words = decide(comment, labels), keywords(comment)
    example = re.search(r'\{"(\w+)":', system)
    if example:
        listed = json.dumps(words, ensure_ascii=False, separators=(",", ":"))
        return f'{{"{example[1]}":"', label, f'","keywords":{listed}}}' if '"keywords"' in system else '"}', labels
    return "", label, f"|{','.join(words)}" if "|" in system else "", labels


def _text(pieces: Iterable[bytes]) -> str:
    return b"".join(pieces).decode(errors="replace")


def _error(message: str, *, kind: str = "invalid_request_error", code: str | int | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "code": code}}


def _overflow(style: Overflow, length: int, limit: int) -> dict[str, Any]:
    """What each engine says when a prompt does not fit."""
    if style == "llama.cpp":
        said = f"request ({length} tokens) exceeds the available context size ({limit} tokens), try increasing it"
        return _error(said, kind="exceed_context_size_error", code=400)
    said = f"This model's maximum context length is {limit} tokens. However, you requested {length} tokens."
    if style == "vllm":
        return _error(said, kind="BadRequestError", code=400)
    return _error("The prompt is too long.", code="context_length_exceeded")


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True

    def __init__(self, address: tuple[str, int], stub: StubEndpoint) -> None:
        self.stub = stub
        self.open_sockets: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        accepted, address = super().get_request()
        self.open_sockets.add(accepted)
        return accepted, address

    def shutdown_request(self, request: Any) -> None:
        self.open_sockets.discard(request)
        super().shutdown_request(request)

    def cut_connections(self) -> None:
        for held in list(self.open_sockets):
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what some tests are about; its traceback would only hide others."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def do_GET(self) -> None:
        stub = self.server.stub
        if self.path == "/stub/counts":
            return self._send(200, stub.counts())
        if stub.models_failure == "hang":
            return stub.wait(60)
        if stub.models_failure == "html":
            return self._send(200, "<html>Welcome</html>")
        if stub.models_failure is not None:
            return self._send(stub.models_failure, _error("I do not list models."))
        if not self._authorised():
            return None
        if self.path != "/v1/models":
            return self._send(404, {"detail": "Not Found"})
        served = [
            {"id": name, "object": "model", "created": time.time_ns(), "owned_by": "stub", **stub.model_fields}
            for name in stub.models
        ]
        return self._send(200, {"object": "list", "data": served})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self._send(404, {"detail": "Not Found"})
        stub = self.server.stub
        stub.arrived(request)
        try:
            self._complete(stub, request)
        finally:
            stub.left()
        return None

    def _complete(self, stub: StubEndpoint, request: dict[str, Any]) -> None:
        failure = stub.next_failure()
        if failure == "drop":
            self.close_connection = True
            return None
        if stub.hang:
            stub.wait(60)
        stub.hold()
        if isinstance(failure, int | tuple):
            status, retry_after = failure if isinstance(failure, tuple) else (failure, None)
            return self._send(status, _error(f"Failing with {status} as told."), retry_after)
        if not self._authorised():
            return None
        refusal = stub.refusal(request)
        if refusal:
            return self._send(*refusal)
        if stub.nonsense == "html":
            return self._send(200, "<html>Please log in.</html>")
        if stub.nonsense == "broken_json":
            return self._send(200, '{"choices": [{"mess', kind="application/json")
        if request.get("stream"):
            return self._stream(stub, request)
        return self._send(200, ["nothing"] if stub.nonsense == "list" else stub.answer(request))

    def _stream(self, stub: StubEndpoint, request: dict[str, Any]) -> None:
        """The answer as server-sent events, one token each, then `[DONE]`."""
        reply = stub.answer(request)
        choice, usage = reply["choices"][0], reply.pop("usage")
        words = re.findall(r"\w+|\W+", choice["message"]["content"])
        deltas = [{"role": "assistant"}, *({"content": word} for word in words), {}]
        frame = reply | {"object": "chat.completion.chunk"}
        events = [frame | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        events[-1]["choices"][0]["finish_reason"] = choice["finish_reason"]
        if (request.get("stream_options") or {}).get("include_usage"):
            events.append(frame | {"choices": [], "usage": usage})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        try:
            for number, event in enumerate([*map(json.dumps, events), "[DONE]"]):
                if number == stub.cut_stream_after:
                    self.close_connection = True
                    return
                stub.wait(stub.event_latency)
                self._send_chunk(f"data: {event}\n\n".encode())
            self._send_chunk(b"")
        except OSError:
            stub.hung_up += 1
            self.close_connection = True

    def _send_chunk(self, content: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()

    def _authorised(self) -> bool:
        wanted, given = self.server.stub.api_key, self.headers.get("Authorization", "").removeprefix("Bearer ")
        if wanted is None or given == wanted:
            return True
        self._send(401, _error(f"Incorrect API key provided: {given}.", code="invalid_api_key"))
        return False

    def _send(self, status: int, body: Any, retry_after: str | None = None, *, kind: str | None = None) -> None:
        content = body.encode() if isinstance(body, str) else to_json(body)
        self.send_response(status)
        self.send_header("Content-Type", kind or ("text/html" if isinstance(body, str) else "application/json"))
        self.send_header("Content-Length", str(len(content)))
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        if 300 <= status < 400:
            self.send_header("Location", "https://elsewhere.example/v1")
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name for it
        """Say nothing: tests read what was asked from the counts."""


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that each answer takes")
    parser.add_argument("--capabilities", default=",".join(sorted(LLAMA_CPP)), help="separated by commas")
    parser.add_argument("--model", action="append", help="may be given more than once")
    parser.add_argument("--api-key")
    options = parser.parse_args()
    stub = StubEndpoint(
        port=options.port,
        latency=options.latency,
        capabilities=frozenset(filter(None, options.capabilities.split(","))),
        models=options.model or ["stub-model"],
        api_key=options.api_key,
    )
    print(stub.url, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


if __name__ == "__main__":
    main()
