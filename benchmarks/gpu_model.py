"""A Qwen2.5 with random weights on a GPU, and the first tokens that it would answer with; used by `gpu_engine.py`.

It runs in a process of its own: launching thousands of small kernels and serving HTTP would fight for one interpreter.
"""

from __future__ import annotations

import functools
import time
from collections import OrderedDict
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

TOP: Final = 20
"""Alternatives listed at a token: the OpenAI protocol's limit."""

_LIFT: Final = 30.0
"""Added to the logits of the tokens that are allowed. It decides as a mask would, and leaves others to be listed, so
that a client has as much to read as from a model that learned something."""

_PREFIXES: Final = 4
_POLL_S: Final = 0.0005

# hidden size, intermediate size, layers, heads, key/value heads, vocabulary, whether input and output embeddings are
# the same: what config.json of Qwen2.5-…-Instruct says. `tiny` is for trying the program without a GPU.
SIZES: Final[dict[str, tuple[int, int, int, int, int, int, bool]]] = {
    "tiny": (64, 128, 2, 4, 2, 151936, True),
    "0.5b": (896, 4864, 24, 14, 2, 151936, True),
    "1.5b": (1536, 8960, 28, 12, 2, 151936, True),
    "7b": (3584, 18944, 28, 28, 4, 152064, False),
    "14b": (5120, 13824, 48, 40, 8, 152064, False),
    "32b": (5120, 27648, 64, 40, 8, 152064, False),
    "72b": (8192, 29568, 80, 64, 8, 152064, False),
}


@dataclass(frozen=True, slots=True)
class Work:
    """One batch: prompts that begin alike and may be answered alike.

    Attributes:
        number: names the batch.
        prefix: the tokens with which all of them begin.
        tokens: what follows, one row a prompt, filled up on the right.
        lengths: tokens of each row.
        allowed: the tokens one of which has to be the answer; none: any.
    """

    number: int
    prefix: tuple[int, ...]
    tokens: Ints
    lengths: Ints
    allowed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The most probable next tokens of each prompt, the best first; or why there are none."""

    number: int
    ids: Ints | None = None
    logprobs: Floats | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is there.

    Attributes:
        device: the device's name.
        parameters: weights of the model.
        gigabytes: memory that they take on the device.
        seconds: how long it took, imports included.
        versions: torch and transformers.
    """

    device: str
    parameters: int
    gigabytes: float
    seconds: float
    versions: str


@dataclass(frozen=True, slots=True)
class Running:
    """A batch that the device works on; `event` tells when it is done (None: it is)."""

    number: int
    ids: Any
    logprobs: Any
    event: Any

    def is_done(self) -> bool:
        """Whether there is nothing to wait for."""
        return self.event is None or bool(self.event.query())

    def done(self) -> Done:
        """Wait for what comes out."""
        try:
            if self.event is not None:
                self.event.synchronize()
            return Done(self.number, self.ids.numpy(), self.logprobs.numpy())
        except RuntimeError as error:
            return Done(self.number, error=str(error))


class Model:
    """The model; its weights are random.

    Args:
        size: one of `SIZES`.
        words: tokens that the tokenizer knows; the others of the vocabulary are never given.
        device: as torch names it; None: the GPU if there is one.
    """

    def __init__(self, size: str, words: int, device: str | None) -> None:
        import torch
        from transformers import Qwen2ForCausalLM

        self._torch = torch
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._words = words
        self._is_gpu = self.device.type == "cuda"
        self._prefixes: OrderedDict[tuple[int, ...], Any] = OrderedDict()
        self._allowed: dict[tuple[int, ...], Any] = {}
        # Made where it is to be, in the type it is to have: 64 GB take no detour through the host.
        torch.set_default_dtype(torch.bfloat16)
        with self.device:
            self._model = Qwen2ForCausalLM(_config(size)).eval().requires_grad_(False)
        torch.set_default_dtype(torch.float32)

    def parameters(self) -> tuple[int, float]:
        """How many weights there are, and the gigabytes that they take."""
        kept = list(self._model.parameters())
        return sum(one.numel() for one in kept), sum(one.numel() * one.element_size() for one in kept) / 1e9

    def launch(self, work: Work) -> Running:
        """Put a batch, and the copy of what comes out, on the device's queue. Nothing here waits for the device."""
        torch = self._torch
        with torch.inference_mode():
            tokens, lengths = self._sent(work.tokens), self._sent(work.lengths)
            # Filled up on the right: causal attention keeps the filling out of what the prompts see.
            seen = self._model.model(input_ids=tokens, past_key_values=self._prefix(work.prefix), use_cache=True)
            rows = torch.arange(len(work.tokens), device=self.device)
            logits = self._model.lm_head(seen.last_hidden_state[rows, lengths - 1]).float()
            logits[:, self._words :] = -torch.inf
            if work.allowed:
                logits[:, self._indices(work.allowed)] += _LIFT
            top = torch.log_softmax(logits, dim=-1).topk(TOP, dim=-1)
            ids, logprobs = (one.to("cpu", non_blocking=True) for one in (top.indices, top.values))
        return Running(work.number, ids, logprobs, self._mark())

    def _sent(self, array: Ints) -> Any:
        tensor = self._torch.from_numpy(array)
        # From memory that may be paged out, a copy would wait for the batch that is being worked on.
        return tensor.pin_memory().to(self.device, non_blocking=True) if self._is_gpu else tensor

    def _indices(self, allowed: tuple[int, ...]) -> Any:
        if allowed not in self._allowed:
            self._allowed[allowed] = self._torch.tensor(allowed, device=self.device)
        return self._allowed[allowed]

    def _mark(self) -> Any:
        if not self._is_gpu:
            return None
        event = self._torch.cuda.Event()
        event.record()
        return event

    def _prefix(self, prefix: tuple[int, ...]) -> Any:
        """The keys and values of what all prompts begin with: computed once, given to every batch, never changed."""
        from transformers import DynamicCache

        cache = self._prefixes.pop(prefix, None)
        if cache is None:
            cache = DynamicCache()
            tokens = self._torch.tensor([prefix], device=self.device)
            self._model.model(input_ids=tokens, past_key_values=cache, use_cache=True)
            for layer in cache.layers:
                # A layer of a batch is joined to its prefix when it is computed, and forgotten: kept for all layers,
                # copies of the prefix for each prompt would not fit beside a large model.
                layer.update = functools.partial(self._joined, layer.keys, layer.values)
        self._prefixes[prefix] = cache
        if len(self._prefixes) > _PREFIXES:
            self._prefixes.popitem(last=False)
        return cache

    def _joined(self, keys: Any, values: Any, new_keys: Any, new_values: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        cat, rows = self._torch.cat, len(new_keys)
        return (
            cat([keys.expand(rows, -1, -1, -1), new_keys], dim=-2),
            cat([values.expand(rows, -1, -1, -1), new_values], dim=-2),
        )


def _config(size: str) -> Any:
    from transformers import Qwen2Config

    hidden, intermediate, layers, heads, key_heads, vocabulary, tied = SIZES[size]
    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=32768,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    config._attn_implementation = "sdpa"  # noqa: SLF001 - the public argument works for loaded models only
    return config


def work(connection: Connection, size: str, words: int, device: str | None) -> None:
    """Make the model, say `Ready`, then answer each `Work` with a `Done`, in order, until the other side is gone."""
    began = time.perf_counter()
    import torch
    import transformers

    model = Model(size, words, device)
    model.launch(_trial(words)).done()
    name = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "cpu"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    connection.send(Ready(name, *model.parameters(), time.perf_counter() - began, versions))
    try:
        _answer(connection, model)
    except (EOFError, BrokenPipeError):
        return


def _trial(words: int) -> Work:
    """Something to compute, so that the first request does not pay for libraries that are loaded on first use."""
    tokens = np.arange(64 * 32, dtype=np.int64).reshape(64, 32) % words
    return Work(0, tuple(range(64)), tokens, np.full(64, 32, dtype=np.int64), (1, 2))


def _answer(connection: Connection, model: Model) -> None:
    """Queue the next batch while the device works on one: it never waits for the host to prepare it."""
    running: Running | None = None
    while True:
        following = _launched(connection, model) if running is None or _comes_first(connection, running) else None
        if running is not None:
            connection.send(running.done())
        running = following


def _comes_first(connection: Connection, running: Running) -> bool:
    """Wait until there is more to do, or the device is done; whether it was the former."""
    while not running.is_done():
        if connection.poll(_POLL_S):
            return True
    return False


def _launched(connection: Connection, model: Model) -> Running | None:
    asked: Work = connection.recv()
    try:
        return model.launch(asked)
    except RuntimeError as error:  # out of memory, most likely
        connection.send(Done(asked.number, error=str(error)))
        return None
