"""The embedded endpoint: llama.cpp in this process, as an OpenAI-compatible server on loopback with a random key.

Each slot keeps a prompt's prefix in its KV cache. The prefix is computed once, in one slot; its state is saved and
restored into the others, and kept on disk, so that neither the other slots nor the next process compute it again. Where
several prompts are in use, a question gets a slot of its own (`slots.py`), and the prefix if the slot held another.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import os
import secrets
import threading
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx2

from reviewmill.endpoints.slots import Slots
from reviewmill.errors import ModelError
from reviewmill.models import detect
from reviewmill.outbound import way_to

if TYPE_CHECKING:
    from reviewmill.endpoints.client import EndpointClient
    from reviewmill.endpoints.room import Room
    from reviewmill.tasks import Prompt

CONTEXT_PER_SLOT: Final = 4608
"""Tokens: up to 1,200 for the task, the rest for a comment of 3,000 Chinese characters and its answer."""

_KEPT_PREFIXES: Final = 24
"""As many as a search for a better prompt tries in turn; 15 MB each with the default model."""
_FIRST_SIGN_S: Final = 120.0


class EmbeddedEngine:
    """A llama.cpp server in this process.

    Args:
        path: the GGUF file.
        digest: its SHA-256; names the saved prefixes.
        threads: CPU threads.
        room: how many comments are worked on at once, and how the file is read.
        prefix_dir: where prefixes are kept.
        context: tokens of one question with its answer.
        gpu_layers: layers that a GPU computes; None: as many as fit, if this llama.cpp has a GPU.

    Raises:
        ModelError: llama.cpp cannot load the file, or layers are wanted on a GPU that it does not have.
    """

    def __init__(
        self,
        path: Path,
        *,
        digest: str,
        threads: int,
        room: Room,
        prefix_dir: Path,
        gpu_layers: int | None = None,
        context: int = CONTEXT_PER_SLOT,
    ) -> None:
        # Loading the library takes part of a second that a fully cached run need not pay.
        import xllamacpp

        prefix_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.room, self.slots = room, room.slots
        self.api_key = secrets.token_hex(16)
        self._digest = digest
        self._prefix_dir = prefix_dir
        self._prompts: set[str] = set()  # ids of all that were ever asked with
        self._ready: set[str] = set()  # those whose prefix was computed
        self._claims = threading.Lock()
        self._book = Slots(room.slots)
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_parallel = room.slots
        params.n_ctx = room.slots * context
        if not room.mapped:
            params.load_mode = xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_NONE
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        on_gpu = _on_gpu(xllamacpp, gpu_layers)
        params.n_gpu_layers = gpu_layers if gpu_layers is not None else (-1 if on_gpu else 0)
        if not on_gpu:
            # On a CPU the plain attention is faster over a long cached prefix.
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
            # What fits is known (`room`), and only a GPU needs a first empty pass: each takes a second.
            params.fit_params = params.warmup = False
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        params.api_keys = [self.api_key]
        params.slot_save_path = f"{prefix_dir}/"
        params.cache_ram_mib = 0  # whole prompts never come back; the prefix stays in the slots
        params.ui = False
        params.verbosity = -1
        try:
            self._server: Any = xllamacpp.Server(params)
        except (RuntimeError, ValueError) as error:
            raise ModelError(
                f"llama.cpp cannot load {path}: {error}.",
                hint="Is it a whole GGUF file of a chat model? `reviewmill models verify` checks those of the catalog.",
            ) from error
        self.url: str = self._server.listening_address
        self._await_work(path)

    def _await_work(self, path: Path) -> None:
        """Wait until the server works on what it is asked.

        It listens a moment before. Stopped in that moment, it never notices, and waits for itself with Python's lock.
        """
        headers = {"Authorization": f"Bearer {self.api_key}", "Connection": "close"}
        try:
            # The state of its slots is told by the loop that does the work.
            httpx2.get(f"{self.url}/slots", headers=headers, timeout=_FIRST_SIGN_S, **way_to(self.url))
        except httpx2.RequestError as error:
            raise ModelError(
                f"llama.cpp loaded {path}, and does not answer: {error or type(error).__name__}.",
                hint="The machine may be too busy; try again.",
            ) from error

    def close(self) -> None:
        """Stop the server and free the model's memory."""
        self._server = None

    async def warm(self, client: EndpointClient, prompt: Prompt) -> None:
        """Have the prompt's beginning computed, unless it lies on disk; the first prompt's is put into every slot."""
        if prompt.id in self._ready:
            return
        first = self._is_first(prompt)
        if not (self._prefix_dir / self._prefix_name(prompt)).exists():
            await self._compute(client, prompt)
        if first and not await self._fill(prompt):  # damaged on disk
            await self._compute(client, prompt)
            await self._fill(prompt)
        self._ready.add(prompt.id)
        self._prune()

    @asynccontextmanager
    async def placed(self, prompt: Prompt) -> AsyncIterator[Mapping[str, Any]]:
        """A slot that holds the prompt's beginning, for one question: what to add to the request, until it is answered.

        As long as there is one prompt, every slot holds it, and llama.cpp chooses. Then it may have more questions
        than slots, so that one that gets free finds its next question waiting.
        """
        if len(self._prompts) <= 1:
            yield {}
            return
        slot, holds = await self._book.take(prompt.id)
        try:
            if not holds and not await self._restore(slot, prompt):
                self._ready.discard(prompt.id)  # the next question has it computed and kept again
            yield {"id_slot": slot}
        finally:
            self._book.give(slot, prompt.id)

    def _is_first(self, prompt: Prompt) -> bool:
        """Whether nobody has asked this engine before; true once, for whoever comes first of several threads."""
        with self._claims:
            first = not self._prompts
            self._prompts.add(prompt.id)
            return first

    async def _fill(self, prompt: Prompt) -> bool:
        """Put a prompt's beginning into all slots, which are taken one after another: nobody else may do so."""
        taken: dict[int, bool] = {}
        try:
            for _ in range(self.slots):
                slot, holds = await self._book.take(prompt.id)
                taken[slot] = False
                taken[slot] = holds or await self._restore(slot, prompt)
                if not taken[slot]:
                    return False
        finally:
            for slot, holds in taken.items():
                self._book.give(slot, prompt.id if holds else None)
        return True

    async def _compute(self, client: EndpointClient, prompt: Prompt) -> None:
        """Compute a prompt's beginning and keep it on disk; if that fails, slots compute it: slower, never wrong."""
        slot, _ = await self._book.take(prompt.id)
        try:
            constraint = {"id_slot": slot, "cache_prompt": True}
            await client.complete(prompt.messages(""), max_tokens=1, constraint=constraint)
            name = self._prefix_name(prompt)
            saving = f"{name}.{secrets.token_hex(4)}"
            if await self._act(slot, "save", saving):
                (self._prefix_dir / saving).replace(self._prefix_dir / name)
        finally:
            self._book.give(slot, prompt.id)

    async def _restore(self, slot: int, prompt: Prompt) -> bool:
        """Put a prompt's beginning into a slot; False if that failed, and then the slot computes it."""
        kept = self._prefix_dir / self._prefix_name(prompt)
        if await self._act(slot, "restore", kept.name):
            with contextlib.suppress(OSError):
                os.utime(kept)  # those used last are kept
            return True
        kept.unlink(missing_ok=True)  # damaged: to be computed anew
        return False

    async def _act(self, slot: int, action: str, name: str) -> bool:
        headers = {"Authorization": f"Bearer {self.api_key}"}
        async with httpx2.AsyncClient(headers=headers, timeout=600, **way_to(self.url)) as http:
            try:
                reply = await http.post(f"{self.url}/slots/{slot}?action={action}", json={"filename": name})
            except httpx2.RequestError:  # the question that comes next finds out why, and says it
                return False
            return not reply.is_error

    def _prefix_name(self, prompt: Prompt) -> str:
        version = importlib.metadata.version("xllamacpp")
        # An engine with another number of slots cannot read it (llama.cpp: as many streams as slots).
        what = f"{self._digest} {prompt.id} {version} {self.slots}"
        return hashlib.sha256(what.encode()).hexdigest()[:32] + ".kv"

    def _prune(self) -> None:
        kept = sorted(self._prefix_dir.glob("*.kv"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in kept[_KEPT_PREFIXES:]:
            with contextlib.suppress(OSError):  # another process was faster
                file.unlink()


def _on_gpu(library: Any, layers: int | None) -> bool:
    """Whether a GPU computes.

    Raises:
        ModelError: it is to compute some layers, and there is none that this llama.cpp can use: it would not say so,
            and compute them on the processor.
    """
    cpu = library.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
    devices = [device for device in library.get_device_info() if device["type"] != cpu]
    if layers and not devices:
        raise ModelError(
            f"{layers} layers are to be computed on a GPU, and this llama.cpp has none.",
            hint="Install a build of xllamacpp for the GPU (docs/serving.md), or set `gpu_layers` to 0.",
        )
    return bool(devices) and layers != 0


_starter = ThreadPoolExecutor(1, "embedded")
_lock = threading.Lock()
_engines: dict[Wish, tuple[EmbeddedEngine, int]] = {}


@dataclass(frozen=True, slots=True)
class Wish:
    """What decides whether two users can share an engine.

    Attributes:
        digest: SHA-256 of the GGUF file; names the saved prefixes.
        threads: CPU threads; None: one for each core.
        slots: comments worked on at once, if there is room.
        gpu_layers: layers that a GPU computes; None: as many as fit.
        context: tokens of one question with its answer.
    """

    digest: str
    threads: int | None
    slots: int
    gpu_layers: int | None = None
    context: int = CONTEXT_PER_SLOT


def room_of_running(wish: Wish) -> Room | None:
    """The room of the engine that this process runs already for such a wish."""
    # Without the lock, which is held while a model is loaded.
    engine, _ = _engines.get(wish, (None, 0))
    return engine.room if engine else None


async def acquire(path: Path, wish: Wish, room: Room, *, prefix_dir: Path) -> EmbeddedEngine:
    """Return the running engine for this file, or start it in this room; one process holds a model once.

    Raises:
        ModelError: the file cannot be loaded.
    """
    starting = _starter.submit(_acquire, path, wish, room, prefix_dir)
    try:
        return await asyncio.wrap_future(starting)
    except asyncio.CancelledError:
        # Loading cannot be interrupted; whoever waited for it will not give the engine back.
        starting.add_done_callback(_release_unwanted)
        raise


def _release_unwanted(started: Future[EmbeddedEngine]) -> None:
    if not started.cancelled() and started.exception() is None:
        release(started.result())


def _acquire(path: Path, wish: Wish, room: Room, prefix_dir: Path) -> EmbeddedEngine:
    with _lock:
        engine, users = _engines.get(wish, (None, 0))
        if engine is None:
            engine = EmbeddedEngine(
                path,
                digest=wish.digest,
                threads=wish.threads or detect().physical_cores,
                room=room,
                prefix_dir=prefix_dir,
                gpu_layers=wish.gpu_layers,
                context=wish.context,
            )
        _engines[wish] = (engine, users + 1)
        return engine


def release(engine: EmbeddedEngine) -> None:
    """Give an engine back; the last user stops it."""
    with _lock:
        for wish, (held, users) in list(_engines.items()):
            if held is engine:
                if users > 1:
                    _engines[wish] = (held, users - 1)
                else:
                    del _engines[wish]
                    engine.close()
