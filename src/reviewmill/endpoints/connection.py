"""Where answers come from: the embedded engine or a server at a URL, behind one face.

A connection knows at once what decides its answers (so that a fully cached run starts nothing), and opens on first
use.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from reviewmill.endpoints import embedded
from reviewmill.endpoints.capabilities import TOP_LOGPROBS, Capabilities, CapabilityMemory, probe
from reviewmill.endpoints.limiter import MOST, START, Limiter
from reviewmill.endpoints.room import Room, bytes_per_token, fit
from reviewmill.endpoints.vllm.running import Running, find_running, read_key
from reviewmill.errors import ProcessError, SettingsError
from reviewmill.models import LocalModel, available_memory, read_header, resolve
from reviewmill.settings import DEFAULT_MODEL, Settings
from reviewmill.tasks import Prompt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from reviewmill.endpoints.client import EndpointClient

EMBEDDED: Final = "embedded"
"""What people write in place of a URL, and what results say, where the embedded engine answers."""

MOST_CONCURRENCY: Final = 1024

_GIB: Final = 1024**3
_TAKEN: Final = 0.9
"""Share of the free memory that the embedded engine takes if nothing is said."""

# llama.cpp's own server; tests/test_endpoints_real.py probes it and compares.
EMBEDDED_CAPABILITIES: Final = Capabilities(grammar=True, json_schema=True, top_logprobs=TOP_LOGPROBS)


@dataclass(frozen=True, slots=True)
class About:
    """What the manifest and every analysis say of a connection.

    Attributes:
        model: the model's name.
        fingerprint: names its weights; part of every cache key.
        endpoint: `embedded`, or the server's URL.
        digest: SHA-256 of the model file, where there is one.
    """

    model: str
    fingerprint: str
    endpoint: str
    digest: str | None = None


class Connection(Protocol):
    """One model on one endpoint, or on several.

    Attributes:
        about: what answers.
        capabilities: what can be asked of it.
        model_file: the model's GGUF file, where it is on this machine.
    """

    about: About
    capabilities: Capabilities
    model_file: Path | None

    @property
    def concurrency(self) -> int:
        """Requests that it may ever have at once."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What its user should know."""

    @property
    def limit(self) -> int:
        """Requests that it takes at once now; it moves, up to `concurrency`, with what the engine can do."""

    def on_limit(self, listener: Callable[[], None]) -> None:
        """Call this whenever `limit` has changed."""

    async def open(self, prompt: Prompt) -> EndpointClient:
        """Return a client that is ready for this prompt, starting what must be started.

        Raises:
            ReviewmillError: it cannot be started or reached.
        """

    def placed(self, prompt: Prompt) -> AbstractAsyncContextManager[Mapping[str, Any]]:
        """Where a question with this prompt is answered: what to add to its request. Open the connection first."""

    async def aclose(self) -> None:
        """Give everything back; the connection can be opened again."""


class OneEndpoint:
    """What all connections to one endpoint have: a limiter."""

    limiter: Limiter
    model_file: Path | None = None

    @property
    def limit(self) -> int:
        """Requests that it takes at once now."""
        return self.limiter.limit

    def on_limit(self, listener: Callable[[], None]) -> None:
        """Call this whenever `limit` has changed."""
        self.limiter.listeners.append(listener)

    def placed(self, prompt: Prompt) -> AbstractAsyncContextManager[Mapping[str, Any]]:
        """A server chooses itself."""
        return nullcontext({})


def _wish(settings: Settings, model: LocalModel) -> embedded.Wish:
    """The engine that there would be if memory were no question."""
    slots, context = settings.slots, embedded.CONTEXT_PER_SLOT
    if settings.long == "whole":
        # The same memory in fewer, longer slots: as long as the model was trained for, if there is that much.
        memory = slots * context
        context = min(model.context or memory, memory)
        slots = max(1, memory // context)
    return embedded.Wish(model.sha256, settings.threads, slots, settings.gpu_layers, context)


def _room(settings: Settings, model: LocalModel, wish: embedded.Wish) -> tuple[Room, tuple[str, ...]]:
    """What of that fits into memory, and a note where it is less."""
    token = bytes_per_token(read_header(model.path))
    if token is None:  # the file does not say what it will take
        return Room(wish.slots, mapped=True), ()
    if (running := embedded.room_of_running(wish)) is not None:
        room = running
    else:
        memory = int(settings.memory_gb * _GIB if settings.memory_gb else available_memory() * _TAKEN)
        weights = sum(path.stat().st_size for path in model.paths)
        room = fit(weights=weights, per_slot=token * wish.context, slots=wish.slots, memory=memory)
    if room.slots == wish.slots:
        return room, ()
    which = f"`memory_gb` is {settings.memory_gb:g}" if settings.memory_gb else "memory is short"
    return room, (f"The embedded engine works on {room.slots} comments at once instead of {wish.slots}: {which}.",)


class EmbeddedConnection(OneEndpoint):
    """The embedded engine with one GGUF file."""

    def __init__(self, settings: Settings, model: LocalModel) -> None:
        self.about = About(model.name, f"gguf:{model.sha256}", EMBEDDED, model.sha256)
        self.model_file = model.path
        self.capabilities = EMBEDDED_CAPABILITIES
        self.wish = _wish(settings, model)
        self.room, self.notes = _room(settings, model, self.wish)
        # More in flight than slots: a slot that gets free finds its next comment waiting, tokenized.
        self.concurrency = settings.concurrency or max(self.room.slots + 1, self.room.slots * 3 // 2)
        self.limiter = Limiter(self.concurrency, fixed=True)
        self._settings = settings
        self._model = model
        self._engine: embedded.EmbeddedEngine | None = None
        self._client: EndpointClient | None = None
        self._opening = asyncio.Lock()

    async def open(self, prompt: Prompt) -> EndpointClient:
        """Load the model on first use, and put the prompt's prefix into its slots."""
        async with self._opening:
            if self._engine is None:
                self._engine = await embedded.acquire(
                    self._model.path, self.wish, self.room, prefix_dir=self._settings.cache_dir / "prefixes"
                )
            if self._client is None:
                # Importing the openai package takes a second that a fully cached run need not pay.
                from reviewmill.endpoints.client import EndpointClient

                self._client = EndpointClient(
                    self._engine.url,
                    self._model.name,
                    api_key=self._engine.api_key,
                    timeout=self._settings.timeout,
                    attempts=self._settings.attempts,
                )
            await self._engine.warm(self._client, prompt)
            return self._client

    def placed(self, prompt: Prompt) -> AbstractAsyncContextManager[Mapping[str, Any]]:
        """A slot that holds the prompt's beginning."""
        return self._engine.placed(prompt) if self._engine is not None else nullcontext({})

    async def aclose(self) -> None:
        """Close the client, and stop the engine if nobody else uses it. Requests in flight fail.

        In this order: llama.cpp waits for its clients when it stops, and all of Python with it.
        """
        async with self._opening:
            if self._client is not None:
                await self._client.aclose()
                self._client = None
            if self._engine is not None:
                await asyncio.to_thread(embedded.release, self._engine)
                self._engine = None


class RemoteConnection(OneEndpoint):
    """Any OpenAI-compatible server."""

    def __init__(
        self,
        client: EndpointClient,
        about: About,
        capabilities: Capabilities,
        limiter: Limiter,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.about = about
        self.notes = notes
        self.capabilities = capabilities
        self.limiter = limiter
        self.concurrency = limiter.most
        self._client = client
        self._watching: asyncio.Task[None] | None = None
        client.on_overload = limiter.overloaded

    async def open(self, prompt: Prompt) -> EndpointClient:
        """Return the client; from the first time on, the engine's line is watched."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._client.watch(self.limiter))
        return self._client

    async def identify(self) -> str:
        """Ask the server for the model's fingerprint, which is also a look whether it is there.

        Raises:
            EndpointError: it is not there, or serves another model.
        """
        return await self._client.identify()

    async def aclose(self) -> None:
        """Close the client's connections."""
        watching, self._watching = self._watching, None
        if watching is not None:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.wait({watching})
        await self._client.aclose()


async def connect(settings: Settings) -> Connection:
    """Find out what will answer, without starting it.

    Raises:
        ModelError: the embedded model is not on this machine.
        EndpointError: the server cannot be reached, or does not serve the model.
        ProcessError: the vLLM that was asked for does not run.
        SettingsError: an endpoint and an engine were asked for.
    """
    if settings.endpoints:
        from reviewmill.endpoints.pool import connect_pool

        if settings.engine != "auto":
            raise SettingsError(f"There are endpoints and an engine ({settings.engine}).", hint="Give one of the two.")
        return await connect_pool(settings)
    key = settings.api_key.get_secret_value() if settings.api_key else None
    if settings.endpoint == EMBEDDED:
        return EmbeddedConnection(settings, await asyncio.to_thread(_embedded_model, settings))
    if settings.endpoint is not None:
        if settings.engine != "auto":
            raise SettingsError(
                f"There is an endpoint ({settings.endpoint}) and an engine ({settings.engine}).",
                hint="Give one of the two.",
            )
        # The default names the embedded model; a server that serves one model needs no name.
        named = None if settings.model == DEFAULT_MODEL else settings.model
        return await _remote(settings, settings.endpoint, named, key)
    running = await asyncio.to_thread(_running_engine, settings)
    if running is None:
        return EmbeddedConnection(settings, await asyncio.to_thread(_embedded_model, settings))
    key = await asyncio.to_thread(read_key, settings)
    # A quarter more than it works on, so that the next question is there when a place gets free.
    most = min(running.sequences * 5 // 4, MOST_CONCURRENCY)
    named = settings.model if _names_model(settings) else running.model
    note = f"Answers come from the vLLM that `reviewmill engine` runs: {running.model} at {running.url}."
    notes = () if settings.engine == "vllm" else (f"{note} --engine embedded uses llama.cpp instead.",)
    return await _remote(settings, running.url, named, key, most, notes)


def _names_model(settings: Settings) -> bool:
    """Whether somebody named a model, be it the default one."""
    return "model" in settings.model_fields_set


def _running_engine(settings: Settings) -> Running | None:
    """The vLLM of ours that is to answer; None: the embedded engine is.

    Raises:
        ProcessError: it was asked for, and is not ready.
    """
    if settings.engine == "embedded":
        return None
    wanted = settings.engine == "vllm"
    running = find_running(settings)
    if running is None or running.state not in {"ready", "unhealthy"}:
        if not wanted:
            return None
        state = f"is {running.state}" if running else "does not run"
        hint = "reviewmill engine status" if running else "reviewmill engine start"
        raise ProcessError(f"The vLLM of `reviewmill engine` {state}.", hint=hint)
    if not wanted and _names_model(settings) and settings.model != running.model:
        return None
    return running


def _embedded_model(settings: Settings) -> LocalModel:
    return resolve(settings.model, models_dir=settings.models_dir)


async def _remote(
    settings: Settings, url: str, model: str | None, key: str | None, most: int = MOST, notes: tuple[str, ...] = ()
) -> RemoteConnection:
    from reviewmill.endpoints.client import EndpointClient

    client = EndpointClient(url, model, api_key=key, timeout=settings.timeout, attempts=settings.attempts)
    try:
        fingerprint = await client.identify()
        memory = CapabilityMemory(settings.cache_dir / "endpoints.json")
        capabilities = memory.get(client.url, fingerprint)
        if capabilities is None:
            capabilities = await probe(client)
            memory.put(client.url, fingerprint, capabilities)
        limiter = await _limiter(settings, client, most)
    except BaseException:
        await client.aclose()
        raise
    about = About(str(client.model), fingerprint, client.url)
    return RemoteConnection(client, about, capabilities, limiter, notes)


async def _limiter(settings: Settings, client: EndpointClient, most: int) -> Limiter:
    if settings.concurrency:
        return Limiter(settings.concurrency, fixed=True)
    slots = await client.slots()
    # llama.cpp says how much it works on at once; half as much again stands ready for the slot that gets free.
    return Limiter(START, most) if slots is None else Limiter(slots * 3 // 2, min(4 * slots, most))
