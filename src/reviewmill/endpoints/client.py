"""The one client: chat completions on any OpenAI-compatible server, with retries and errors that say what to do.

This is the only layer that retries: the openai package is told not to. Completions go over a thin path of their own
(`http1`), because the package takes longer for a request than a fast engine for a comment; it still judges what is no
success, and does what the thin path does not know (proxies).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, overload

import httpx2
import openai
import stamina
from pydantic_core import from_json, to_json

from reviewmill.endpoints.http1 import HttpPool
from reviewmill.endpoints.limiter import Limiter
from reviewmill.endpoints.load import slots_of, watch_line
from reviewmill.endpoints.names import WEIGHTS_MARK
from reviewmill.errors import (
    AnswerError,
    ContextOverflowError,
    EndpointError,
    EndpointRefusedError,
    EndpointTimeoutError,
    EndpointUnreachableError,
    SettingsError,
)
from reviewmill.outbound import checked_key, is_this_machine, retry_after_seconds, way_to
from reviewmill.scoring import TokenStep

_CONNECT_TIMEOUT: Final = 10.0
_MODELS_TIMEOUT: Final = 10.0
_LONGEST_WAIT: Final = 30.0
_MOST_TIMEOUTS: Final = 2

# What changes while the model stays the same: clocks, vLLM's random permission ids, llama.cpp's and others' load state.
_VOLATILE: Final = frozenset({"created", "permission", "status", "state", "loaded", "in_cache", "last_used"})

# What llama.cpp, vLLM (two wordings), OpenAI and SGLang say when a prompt does not fit.
_OVERFLOW_SIGNS: Final = (
    "exceed_context_size_error",
    "available context size",
    "maximum context length",
    "model's context length",
    "context_length_exceeded",
)

# stamina logs each retry as a warning; without a handler Python would print its bare name over the progress bar.
logging.getLogger("stamina").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Completion:
    """What one request brought back.

    Attributes:
        text: the generated text.
        steps: the tokens with their log-probabilities, or None where the server gave none.
        finish_reason: `stop`, `length`, ...
        tokens_in, tokens_out: prompt and generated tokens as the server counted them (0 if it did not).
        latency_ms: wall time of the request that succeeded.
    """

    text: str
    steps: Sequence[TokenStep] | None
    finish_reason: str
    tokens_in: int
    tokens_out: int
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A server's own answer to a request that was forwarded.

    Attributes:
        status: HTTP status.
        kind: media type, without parameters.
        retry_after: what the server says of when to try again, or None.
        pieces: the body, as it arrives.
    """

    status: int
    kind: str
    retry_after: str | None
    pieces: AsyncGenerator[bytes]


class EndpointClient:
    """A connection to one model on one server.

    Args:
        url: base URL; `http://host:8000`, `…/v1` and `…/v1/chat/completions` all name the same server.
        model: the model's name on that server; None takes the only one it serves.
        api_key: key, where the server wants one.
        timeout: seconds that one request may take.
        attempts: tries of one request, the first included.

    Attributes:
        on_overload: called whenever the server refuses a request for its load (429, 503), or is silent, before the
            request is tried again.

    Raises:
        SettingsError: the URL is not an http(s) URL, or the key cannot stand in an HTTP header.
    """

    def __init__(
        self, url: str, model: str | None, *, api_key: str | None = None, timeout: float = 300.0, attempts: int = 4
    ) -> None:
        self.url = base_url(url)
        self.model = model
        self.timeout = timeout
        self.attempts = attempts
        self.on_overload: Callable[[], None] | None = None
        self._api_key = checked_key(api_key)
        self._http: httpx2.AsyncClient | None = None
        self._openai: openai.AsyncOpenAI | None = None
        self._thin: HttpPool | None = None

    async def __aenter__(self) -> EndpointClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections, those in use too; a later request opens new ones."""
        http, self._http, self._openai = self._http, None, None
        thin, self._thin = self._thin, None
        if thin is not None:
            await thin.aclose()
        if http is not None:
            await http.aclose()

    def _connections(self) -> httpx2.AsyncClient:
        if self._http is None:
            # Requests are timed as a whole (`asyncio.timeout`): these timeouts would count silence only.
            timeout = httpx2.Timeout(None, connect=min(_CONNECT_TIMEOUT, self.timeout))
            # One connection a request in flight; the default pool of 100 would queue without saying so.
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
            self._http = httpx2.AsyncClient(
                timeout=timeout,
                limits=limits,
                headers={"Authorization": f"Bearer {self._api_key or 'none'}"},
                **way_to(self.url),
            )
        return self._http

    def _server(self) -> openai.AsyncOpenAI:
        if self._openai is None:
            http = self._connections()
            self._openai = openai.AsyncOpenAI(
                base_url=self.url,
                api_key=self._api_key or "none",
                max_retries=0,
                timeout=http.timeout,
                http_client=http,
            )
            # It reads these from the environment; an OpenAI account is no business of another server.
            self._openai.organization = self._openai.project = None
        return self._openai

    async def models(self) -> list[dict[str, Any]]:
        """What the server says it serves (`GET /v1/models`), one attempt.

        Raises:
            EndpointError: it cannot be reached or refuses.
        """
        seconds = min(self.timeout, _MODELS_TIMEOUT)
        try:
            async with asyncio.timeout(seconds):
                # Raw, because the package trips over an answer that is not what it expects.
                raw = await self._server().models.with_raw_response.list()
            listed = json.loads(raw.content)["data"]
            return [dict(model) | {"id": str(model["id"])} for model in listed]
        except (openai.OpenAIError, TimeoutError) as error:
            raise self._failure(error, seconds) from error
        except (KeyError, TypeError, ValueError) as error:
            raise AnswerError(
                f"{self.url}/models does not list models.", hint="Is that the address of an OpenAI-compatible server?"
            ) from error

    async def identify(self) -> str:
        """Settle the model's name and return the model's fingerprint on this server.

        The fingerprint is the name and a digest of what the server says about the model (file, size, length, ...);
        it does not hold the address, so that a server that moved still finds its cached answers. Where the server also
        lists NAME@weights-DIGEST (as the vLLM that we launch does), that is the fingerprint.

        Raises:
            EndpointRefusedError: the server does not serve that model, or several and none was named.
            EndpointError: it cannot be reached.
        """
        try:
            served = {model["id"]: model for model in await self.models()}
        except EndpointRefusedError:
            if self.model is None:
                raise
            served = {}  # some gateways list nothing; the first question tells whether the name is right
        digests: dict[str, str] = {name.partition(WEIGHTS_MARK)[0]: name for name in served if WEIGHTS_MARK in name}
        served = {name: about for name, about in served.items() if WEIGHTS_MARK not in name}
        if self.model is None and len(served) == 1:
            self.model = next(iter(served))
        if self.model is None or (served and self.model not in served):
            wanted = f"does not serve {self.model!r}" if self.model else "serves several models and none was named"
            raise EndpointRefusedError(
                f"{self.url} {wanted}; it serves: {', '.join(served) or 'nothing'}.",
                hint="Name one of them with --model (or `model` in the settings).",
            )
        if self.model in digests:
            return digests[self.model]
        about = {key: value for key, value in served.get(self.model, {}).items() if key not in _VOLATILE}
        digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:12]
        return f"{self.model}@{digest}"

    async def watch(self, limiter: Limiter) -> None:
        """Tell the limiter of the engine's own line, once a second, if it shows one; until cancelled."""
        await watch_line(self._connections(), self.url, limiter)

    async def slots(self) -> int | None:
        """How many requests the engine works on at once, where it says so (llama.cpp)."""
        return await slots_of(self._connections(), self.url)

    async def complete(
        self,
        messages: list[dict[str, str]],
        *,
        max_tokens: int,
        top_logprobs: int = 0,
        constraint: Mapping[str, Any] | None = None,
    ) -> Completion:
        """Ask for one completion at temperature 0, with retries.

        Args:
            messages: the conversation (`role`, `content`).
            max_tokens: bound on generated tokens.
            top_logprobs: how many alternatives to list at each token; 0 asks for no log-probabilities.
            constraint: further request fields that make the server enforce a format.

        Raises:
            EndpointError: after all attempts; the subclass says which kind.
        """
        body = self.body(messages, max_tokens=max_tokens, top_logprobs=top_logprobs, constraint=constraint)
        failed: Exception | None = None
        try:
            # The library that counts retries costs more than the rest of the request: most need none.
            return await self._once(body)
        except (openai.OpenAIError, TimeoutError) as error:
            failed = error
        try:
            async for attempt in stamina.retry_context(
                on=_Retries(self.on_overload),
                attempts=self.attempts,
                timeout=None,
                wait_initial=0.5,
                wait_max=_LONGEST_WAIT,
            ):
                with attempt:
                    if failed is not None:
                        first, failed = failed, None
                        raise first
                    return await self._once(body)
        except (openai.OpenAIError, TimeoutError) as error:
            raise self._failure(error, self.timeout) from error
        raise AssertionError("unreachable: the retry loop returns or raises")

    def body(
        self,
        messages: list[dict[str, str]],
        *,
        max_tokens: int,
        top_logprobs: int = 0,
        constraint: Mapping[str, Any] | None = None,
    ) -> bytes:
        """The request that `complete` sends, as JSON; the arguments are the same."""
        fields: dict[str, Any] = {"model": self.model or "", "temperature": 0, "max_tokens": max_tokens}
        if top_logprobs:
            fields |= {"logprobs": True, "top_logprobs": top_logprobs}
        fields |= constraint or {}
        before = _encoded(tuple((message["role"], message["content"]) for message in messages[:-1]))
        last = f'{{"role": {json.dumps(messages[-1]["role"])}, "content": {json.dumps(messages[-1]["content"])}}}'
        return f'{{"messages": [{before}{last}], '.encode() + to_json(fields)[1:]

    async def send(self, body: bytes) -> bytes:
        """Send a ready request, once, and return the answer unread: what the engine does without our work.

        Raises:
            EndpointError: it failed.
        """
        try:
            async with asyncio.timeout(self.timeout):
                return await self._post("/chat/completions", body)
        except (openai.OpenAIError, TimeoutError) as error:
            raise self._failure(error, self.timeout) from error

    async def _once(self, body: bytes) -> Completion:
        began = time.perf_counter()
        async with asyncio.timeout(self.timeout):
            content = await self._post("/chat/completions", body)
        return _completion(content, (time.perf_counter() - began) * 1000)

    async def _post(self, path: str, body: bytes) -> bytes:
        """Send JSON, one attempt; the body of the answer.

        Raises:
            openai.OpenAIError: it is not a success, or none came.
        """
        url = self.url + path
        if _has_proxy(self.url):
            headers = {"Content-Type": "application/json"}
            try:
                reply = await self._connections().post(url, content=body, headers=headers)
            except httpx2.TransportError as error:
                raise openai.APIConnectionError(request=httpx2.Request("POST", url)) from error
            status, content, headers = reply.status_code, reply.content, dict(reply.headers)
        else:
            if self._thin is None:
                key = {"Authorization": f"Bearer {self._api_key or 'none'}"}
                self._thin = HttpPool(self.url, key, connect_timeout=min(_CONNECT_TIMEOUT, self.timeout))
            try:
                thin = await self._thin.post(path, body)
            except OSError as error:
                raise openai.APIConnectionError(request=httpx2.Request("POST", url)) from error
            status, content, headers = thin.status, thin.body, thin.headers
        if 200 <= status < 300:
            return content
        raise _status_error(url, status, headers, content)

    @asynccontextmanager
    async def forward(self, body: Mapping[str, Any]) -> AsyncIterator[Forwarded]:
        """Send a chat completion as it is, but for the model's name, and hand back what is answered as it arrives.

        There is one attempt. Leaving the context ends the request, wherever it is.

        Raises:
            EndpointRefusedError: the server wants another key than ours.
            EndpointError: it cannot be reached, or is silent for longer than the time limit; also while its answer is
                read.
        """
        request = self._connections().build_request(
            "POST",
            f"{self.url}/chat/completions",
            content=json.dumps({**body, "model": self.model}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with self._explained(request):
            async with asyncio.timeout(self.timeout):
                response = await self._connections().send(request, stream=True)
        try:
            if response.status_code in {401, 403}:  # ours, not the caller's
                raise EndpointRefusedError(
                    f"{self.url} does not take this service's key ({response.status_code}).",
                    hint="Set REVIEWMILL_API_KEY for the service.",
                )
            kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
            again = response.headers.get("retry-after")
            yield Forwarded(response.status_code, kind, again, self._arriving(request, response))
        finally:
            await response.aclose()

    async def _arriving(self, request: httpx2.Request, response: httpx2.Response) -> AsyncGenerator[bytes]:
        key = self._api_key.encode() if self._api_key and response.is_error else None
        pieces = response.aiter_bytes()
        with self._explained(request):
            while True:
                async with asyncio.timeout(self.timeout):
                    piece = await anext(pieces, None)
                if piece is None:
                    return
                yield piece.replace(key, b"***") if key else piece  # some servers repeat a key in their errors

    @contextmanager
    def _explained(self, request: httpx2.Request) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise self._failure(error, self.timeout) from error
        except httpx2.TransportError as error:
            lost = openai.APIConnectionError(request=request)
            lost.__cause__ = error
            raise self._failure(lost, self.timeout) from error

    def _failure(self, error: Exception, seconds: float) -> EndpointError:
        failure = translate(error, self.url, self.model, seconds=seconds)
        if self._api_key:  # some servers repeat the key that they refuse
            failure.message = failure.message.replace(self._api_key, "***")
            failure.args = (failure.message,)
        return failure


def base_url(url: str) -> str:
    """The base that the openai package wants, from any of the forms in which people write a server's address.

    Raises:
        SettingsError: it is not an http(s) URL, or holds more than an address (user, password, query).
    """
    trimmed = url.strip().rstrip("/").removesuffix("/chat/completions").rstrip("/")
    try:
        parsed = httpx2.URL(trimmed)
    except httpx2.InvalidURL:
        parsed = httpx2.URL("")
    if parsed.userinfo or parsed.query or parsed.fragment:
        # Not shown: it may hold a password, and addresses are written into messages and manifests.
        raise SettingsError(
            f"The endpoint's address on {parsed.host!r} holds a user, a query or a fragment.",
            hint="Write it like http://127.0.0.1:8000/v1, and a key as REVIEWMILL_API_KEY.",
        )
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise SettingsError(
            f"{url!r} is not the address of an endpoint.", hint="Write it like http://127.0.0.1:8000/v1."
        )
    return trimmed if parsed.path.rstrip("/") else f"{trimmed}/v1"


def _status_error(url: str, status: int, headers: Mapping[str, str], content: bytes) -> openai.APIStatusError:
    """The package's own error for an answer that is no success."""
    kept = [
        (name.encode(), headers[name].encode("latin-1", "replace"))
        for name in ("retry-after", "location")
        if name in headers
    ]
    response = httpx2.Response(status, headers=kept, content=content, request=httpx2.Request("POST", url))
    try:
        body = json.loads(content)
        body = body.get("error", body) if isinstance(body, dict) else body
    except ValueError:
        body = content.decode(errors="replace")
    kind = openai.APIStatusError
    if status == 429:
        kind = openai.RateLimitError
    elif status >= 500:
        kind = openai.InternalServerError
    return kind(f"Error code: {status} - {body}", response=response, body=body)


@lru_cache
def _has_proxy(url: str) -> bool:
    """Whether the environment puts a proxy between us and this server."""
    parsed = httpx2.URL(url)
    if is_this_machine(parsed.host):
        return False
    proxies = urllib.request.getproxies()
    return bool(proxies.get(parsed.scheme) or proxies.get("all")) and not urllib.request.proxy_bypass(parsed.host)


class _Retries:
    """Decides, for one request, whether to try again and after how long.

    Cancellation is none of these errors, so Ctrl-C ends a request at once.
    """

    def __init__(self, on_overload: Callable[[], None] | None) -> None:
        self.timeouts = 0
        self._on_overload = on_overload

    def __call__(self, error: Exception) -> bool | float:
        if self._on_overload is not None and (
            isinstance(error, TimeoutError)
            or (isinstance(error, openai.APIStatusError) and error.status_code in {429, 503})
        ):
            self._on_overload()
        if isinstance(error, openai.RateLimitError | openai.InternalServerError):
            seconds = retry_after_seconds(error.response.headers.get("retry-after", ""))
            return True if seconds is None else min(seconds, _LONGEST_WAIT)
        if isinstance(error, TimeoutError):
            # Each costs the whole `timeout`, and a server that hung twice is not helped by a third request.
            self.timeouts += 1
            return self.timeouts < _MOST_TIMEOUTS
        return isinstance(error, openai.APIConnectionError)


def translate(error: Exception, url: str, model: str | None, *, seconds: float | None = None) -> EndpointError:
    """Turn the openai package's error into ours, with what to do about it.

    Args:
        error: what it raised, or the built-in TimeoutError.
        url: the server's address.
        model: the model's name there.
        seconds: the time limit that the request ran under.
    """
    if isinstance(error, openai.APIStatusError):
        refusal = _refusal(error, url, model)
        refusal.status = error.status_code
        refusal.retry_after = retry_after_seconds(error.response.headers.get("retry-after", ""))
        return refusal
    cause = error.__cause__ or error
    # A packet filter that drops connections looks like a timeout, and is none of the model.
    connected = not isinstance(cause, httpx2.ConnectTimeout)
    if isinstance(error, openai.APITimeoutError | TimeoutError) and connected:
        within = f" within {seconds:g} s" if seconds else " in time"
        return EndpointTimeoutError(
            f"{url} did not answer{within}.",
            hint="Raise `timeout` in the settings, lower `concurrency`, or look at the server's load.",
        )
    if isinstance(error, openai.APIConnectionError):
        why = str(cause) or type(cause).__name__
        return EndpointUnreachableError(
            f"{url} cannot be reached: {why}.", hint="Is the server running, and is that its address?"
        )
    return AnswerError(
        f"{url} answered something that is not a chat completion: {str(error)[:200]}",
        hint="Is that the address of an OpenAI-compatible server?",
    )


def _refusal(error: openai.APIStatusError, url: str, model: str | None) -> EndpointError:
    status, said = error.status_code, _said(error)
    if status >= 500:
        return EndpointError(f"{url} failed with status {status}: {said}", hint="The server's own log says why.")
    if status == 429:
        return EndpointError(f"{url} asks for fewer requests (429): {said}", hint="Lower `concurrency`.")
    if any(sign in f"{error.type} {error.code} {said}".lower() for sign in _OVERFLOW_SIGNS):
        return ContextOverflowError(
            f"{url} cannot take a text this long ({status}): {said}",
            hint="Lower `max_comment_chars`, or start the server with a longer context.",
        )
    if "chat template" in said.lower():
        return EndpointRefusedError(
            f"{url} has no chat template for {model!r} ({status}): {said}",
            hint="Serve the instruct (chat) model, or start the server with --chat-template.",
        )
    hints = {
        401: "It wants a key: set REVIEWMILL_API_KEY.",
        403: "The key is not allowed to do this.",
        404: f"Is {model!r} the model's name there, and the address right?",
    }
    location = error.response.headers.get("location")
    hint = f"It redirects to {location}; use that address." if location else hints.get(status)
    return EndpointRefusedError(f"{url} refused the request ({status}): {said}", hint=hint)


def _said(error: openai.APIStatusError) -> str:
    """The server's own words, on one line; each engine keeps them elsewhere."""
    body = error.body
    words = (body.get("message") or body.get("detail")) if isinstance(body, dict) else body
    return " ".join(str(words or error.message).split())[:300]


def _completion(content: bytes, latency_ms: float) -> Completion:
    """Read a reply; servers differ in what they leave out, so only the text is taken for granted."""
    try:
        reply = from_json(content)
        choice = reply["choices"][0]
        usage = reply.get("usage") or {}
        return Completion(
            text=(choice["message"].get("content") or "") + "",  # TypeError if it is not text
            steps=_steps(choice.get("logprobs")),
            finish_reason=choice.get("finish_reason") or "",
            tokens_in=usage.get("prompt_tokens") or 0,
            tokens_out=usage.get("completion_tokens") or 0,
            latency_ms=latency_ms,
        )
    except (AnswerError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise openai.OpenAIError(repr(content[:200].decode(errors="replace"))) from error


class _Steps(Sequence[TokenStep]):
    """Tokens that are read when they are looked at: of an answer's twenty times ten, scoring looks at the first few."""

    def __init__(self, content: list[dict[str, Any]]) -> None:
        self._content = content
        self._first = self._read(content[0])  # a server that lists nonsense is found out at once

    def __len__(self) -> int:
        return len(self._content)

    @overload
    def __getitem__(self, at: int) -> TokenStep: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[TokenStep]: ...
    def __getitem__(self, at: int | slice) -> TokenStep | Sequence[TokenStep]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        return self._first if at == 0 else self._read(self._content[at])

    @staticmethod
    def _read(item: dict[str, Any]) -> TokenStep:
        try:
            top = tuple([(_bytes(each), float(each["logprob"])) for each in item.get("top_logprobs") or ()])
            return TokenStep(_bytes(item), float(item["logprob"]), top)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise AnswerError(
                f"The endpoint lists log-probabilities that cannot be read: {str(item)[:80]!r}.",
                hint="Is it an OpenAI-compatible server?",
            ) from error


def _steps(logprobs: dict[str, Any] | None) -> Sequence[TokenStep] | None:
    content = (logprobs or {}).get("content")
    return _Steps(content) if content else None


@lru_cache(64)
def _encoded(messages: tuple[tuple[str, str], ...]) -> str:
    """The beginning of a conversation as JSON: it is the same for every comment."""
    return "".join(json.dumps({"role": role, "content": content}) + ", " for role, content in messages)


def _bytes(item: dict[str, Any]) -> bytes:
    # `bytes` is optional in the protocol; the decoded token is the next best thing.
    listed = item.get("bytes")
    return bytes(listed) if listed is not None else str(item["token"]).encode(errors="replace")
