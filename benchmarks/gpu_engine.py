"""An engine on a GPU to measure the client with: OpenAI's protocol around a Qwen2.5 with RANDOM weights.

    python benchmarks/gpu_engine.py --size 7b --tokenizer tokenizer.json [--port 8000] [--raw comments.jsonl]
    reviewmill bench comments.jsonl --endpoint http://127.0.0.1:8000/v1 --no-keywords --concurrency 64,256,1024

Its labels mean nothing: it is for machines that have a GPU and torch, and neither vLLM nor weights. What it takes for a
comment is what the real model of that size would take, so it shows whether the client keeps such an engine busy. It
answers the questions that reviewmill asks without keywords, one token each, chosen from a list
(`structured_outputs.choice`), with log-probabilities; everything else is refused, as OpenAI's servers refuse, and
reviewmill's probe finds out. The prompts' common beginning is computed once; comments are computed in batches, of
whatever has come while the GPU was busy. Log-probabilities are of what is left when a choice is enforced.

`--raw` measures the engine without HTTP first: the same prompts, the same batches, so many in flight, in this process.

Needs torch, transformers, tokenizers, aiohttp, and with `--raw` reviewmill. `--size tiny` runs anywhere.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Final

import numpy as np
from aiohttp import web
from tokenizers import Tokenizer

from gpu_model import SIZES, TOP, Done, Ready, Work, work

CONTEXT: Final = 4096
AHEAD: Final = 2
"""Batches that the GPU has: the one that it works on, and the next."""

# Where messages that are told apart by role begin and end (ChatML).
_BEGIN: Final = "<|im_start|>"
_ANSWER: Final = "<|im_end|>\n<|im_start|>assistant\n"


class RefusedError(Exception):
    """What this engine does not do, or what cannot be done; `status` as HTTP names it."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Question:
    """What a request asks.

    Attributes:
        begin: the conversation before the last message, as the model reads it.
        end: the last message, likewise.
        choices: what may be answered; none: any token.
        max_tokens: the most tokens to answer with.
        top: alternatives to list; None: no log-probabilities.
    """

    begin: str
    end: str
    choices: tuple[str, ...]
    max_tokens: int
    top: int | None


@dataclass(frozen=True, slots=True)
class Reply:
    """The most probable next tokens, the best first, and how long the prompt is."""

    ids: Sequence[int]
    logprobs: Sequence[float]
    prompt_tokens: int


def read(request: Any) -> Question:
    """Understand a chat completion request.

    Raises:
        RefusedError: it asks for something else.
    """
    if not isinstance(request, dict) or not isinstance(request.get("messages"), list) or not request["messages"]:
        raise RefusedError("`messages` must be a list of messages.")
    for name in ("grammar", "response_format", "tools", "stream"):
        if request.get(name):
            raise RefusedError(f"`{name}` is not supported.")
    structured = request.get("structured_outputs") or {}
    if not isinstance(structured, dict) or structured.keys() - {"choice"}:
        raise RefusedError("Of `structured_outputs`, only `choice` is supported.")
    choices, most = tuple(map(str, structured.get("choice") or ())), request.get("max_tokens")
    if not choices and most != 1:
        raise RefusedError("Without a choice, only one token can be asked for (`max_tokens` 1).")
    top = request.get("top_logprobs", 0) if request.get("logprobs") else None
    if not isinstance(top, int | None) or not 0 <= (top or 0) <= TOP:
        raise RefusedError(f"`top_logprobs` must be at most {TOP}.")
    try:
        messages = tuple((str(one["role"]), str(one["content"])) for one in request["messages"])
    except (KeyError, TypeError):
        raise RefusedError("A message has a `role` and a `content`.") from None
    return Question(_chat(messages[:-1]), "{}\n{}".format(*messages[-1]) + _ANSWER, choices, most or CONTEXT, top)


@lru_cache(64)
def _chat(messages: tuple[tuple[str, str], ...]) -> str:
    # It ends where the next message begins: behind a control token, tokens cannot run across the cut.
    return "".join(f"{_BEGIN}{role}\n{content}<|im_end|>\n" for role, content in messages) + _BEGIN


class Words:
    """The tokenizer: text to tokens, and tokens to the bytes that they stand for."""

    def __init__(self, path: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self.count: int = self._tokenizer.get_vocab_size()
        self._bytes = _byte_of()
        self.begin = lru_cache(16)(self._begin)
        self.choices = lru_cache(256)(self._choices)
        self.listed = lru_cache(100_000)(self._listed)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text; on all processors at once."""
        return [one.ids for one in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def _begin(self, text: str) -> tuple[int, ...]:
        return tuple(self.encode([text])[0])

    def _choices(self, choices: tuple[str, ...]) -> dict[int, tuple[int, ...]]:
        """The tokens of each choice, by the first of them.

        Raises:
            RefusedError: two begin with the same token: one step cannot tell them apart.
        """
        encoded = [tuple(ids) for ids in self.encode(choices)]
        by_first = {ids[0]: ids for ids in encoded if ids}
        if len(by_first) < len(choices):
            raise RefusedError("Two choices begin with the same token, or one is empty: that is not supported.")
        return by_first

    def text(self, ids: Sequence[int]) -> bytes:
        """The bytes that these tokens stand for."""
        pieces = (self._tokenizer.id_to_token(int(one)) or "" for one in ids)
        return b"".join(bytes(self._bytes[sign] for sign in piece if sign in self._bytes) for piece in pieces)

    def _listed(self, token: int) -> str:
        """A token as an answer lists it: JSON that lacks the log-probability and the end."""
        stands_for = self.text([token])
        shown = json.dumps({"token": stands_for.decode(errors="replace"), "bytes": list(stands_for)})
        return shown[:-1] + ', "logprob": '


def _byte_of() -> dict[str, int]:
    """Which byte each sign of a byte-level vocabulary stands for: itself if printable, else from U+0100 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + at): byte for at, byte in enumerate(rest)}


@dataclass(slots=True)
class _Job:
    question: Question
    answer: asyncio.Future[Reply]
    length: int = 0


class Engine:
    """The model's process, and the line before it. It belongs to one event loop.

    Args:
        size: one of `SIZES`.
        words: the tokenizer.
        device: as torch names it; None: the GPU if there is one.
        most: the most comments of a batch.
        budget: the most tokens of a batch, filling included.
        filling: the most tokens of filling in a batch. It is what a further batch costs, in tokens: little for a large
            model, more for a small one, of which launching takes longer than computing.

    Attributes:
        ready: what the model's process said of itself.
        batches, rows, tokens, filling: what was computed so far, and how much of it was filling.
    """

    def __init__(self, size: str, words: Words, *, device: str | None, most: int, budget: int, filling: int) -> None:
        self.words = words
        self.batches = self.rows = self.tokens = self.filling = 0
        self._most, self._budget, self._filling = most, budget, filling
        self._line: OrderedDict[tuple[str, tuple[str, ...]], list[_Job]] = OrderedDict()
        self._running: dict[int, list[_Job]] = {}
        self._numbers = itertools.count()
        # Spawned, not forked: CUDA wants a process that has no threads from before.
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=work, args=(other, size, words.count, device), daemon=True)
        self._process.start()
        other.close()
        self._outbox: SimpleQueue[Work] = SimpleQueue()
        self.ready: Ready = self._connection.recv()

    def start(self) -> None:
        """Take questions, in the event loop that runs now."""
        self._loop = asyncio.get_running_loop()
        # Threads, because a pipe that is full, or empty, blocks, and HTTP has to go on.
        for end in (self._post, self._receive):
            Thread(target=end, daemon=True).start()

    def _post(self) -> None:
        with suppress(OSError):
            while True:
                self._connection.send(self._outbox.get())

    def _receive(self) -> None:
        while True:
            try:
                done: Done = self._connection.recv()
            except (EOFError, OSError):
                self._loop.call_soon_threadsafe(sys.exit, "The model's process has ended; what it printed says why.")
                return
            self._loop.call_soon_threadsafe(self._arrived, done)

    async def ask(self, question: Question) -> Reply:
        """Wait for the answer.

        Raises:
            RefusedError: it cannot be answered.
        """
        if question.choices:
            self.words.choices(question.choices)  # refused at once, not with all that are in its batch
        job = _Job(question, self._loop.create_future())
        waiting = self._line.setdefault((question.begin, question.choices), [])
        waiting.append(job)
        if len(waiting) == 1:
            # Later in this turn of the loop: all that came together goes together.
            self._loop.call_soon(self._send)
        return await job.answer

    def _send(self) -> None:
        """Give the GPU what it has not, as long as it needs more: one kind of question at a time, the oldest first."""
        while self._line and len(self._running) < AHEAD:
            kind, waiting = next(iter(self._line.items()))
            jobs, rest = waiting[: self._most], waiting[self._most :]
            del self._line[kind]
            if rest:
                self._line[kind] = rest
            self._send_these(jobs)

    def _send_these(self, jobs: list[_Job]) -> None:
        question = jobs[0].question
        prefix = self.words.begin(question.begin)
        allowed = tuple(self.words.choices(question.choices)) if question.choices else ()
        encoded = self.words.encode([job.question.end for job in jobs])
        kept = []
        for job, ids in zip(jobs, encoded, strict=True):
            job.length = len(prefix) + len(ids)
            if job.length < CONTEXT:
                kept.append((job, ids))
            elif not job.answer.done():
                said = f"This model's maximum context length is {CONTEXT} tokens. However, you requested {job.length} "
                job.answer.set_exception(RefusedError(said + "tokens."))
        for batch in self._batches(sorted(kept, key=lambda pair: len(pair[1]))):
            number = next(self._numbers)
            self._running[number] = [job for job, _ in batch]
            self._outbox.put(Work(number, prefix, *self._filled([ids for _, ids in batch]), allowed))

    def _batches(self, ordered: list[tuple[_Job, list[int]]]) -> Iterator[list[tuple[_Job, list[int]]]]:
        """Cut what is ordered by length into batches that fit the budget and hold little filling."""
        batch: list[tuple[_Job, list[int]]] = []
        held = 0
        for pair in ordered:
            length = len(pair[1])
            size = length * (len(batch) + 1)
            if batch and (size > self._budget or size - held - length > self._filling):
                yield batch
                batch, held = [], 0
            batch.append(pair)
            held += length
        if batch:
            yield batch

    def _filled(self, rows: list[list[int]]) -> tuple[Any, Any]:
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        width = -(-int(lengths.max()) // 8) * 8  # few widths: a new one costs the GPU's libraries a choice of kernels
        tokens = np.zeros((len(rows), width), dtype=np.int64)
        for at, row in enumerate(rows):
            tokens[at, : len(row)] = row
        self.batches, self.rows = self.batches + 1, self.rows + len(rows)
        self.tokens, self.filling = self.tokens + tokens.size, self.filling + tokens.size - int(lengths.sum())
        return tokens, lengths

    def _arrived(self, done: Done) -> None:
        jobs = self._running.pop(done.number)
        self._send()  # before the answers are written: the GPU comes first
        for at, job in enumerate(jobs):
            if job.answer.done():  # whoever asked went away
                continue
            if done.ids is None or done.logprobs is None:
                job.answer.set_exception(RefusedError(done.error, 500))
            else:
                job.answer.set_result(Reply(done.ids[at].tolist(), done.logprobs[at].tolist(), job.length))


class Server:
    """OpenAI's protocol before an engine.

    Args:
        engine: what answers.
        model: the model's name.
    """

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine, self._model = engine, model
        self.app = web.Application(client_max_size=4 * 1024 * 1024)
        self.app.router.add_post("/v1/chat/completions", self._complete)
        self.app.router.add_get("/v1/models", self._models)
        self.app.router.add_get("/health", self._health)

    async def _complete(self, request: web.Request) -> web.Response:
        try:
            asked = json.loads(await request.read())
            question = read(asked)
            if (named := asked.get("model")) != self._model:
                return _refusal(f"The model `{named}` does not exist.", 404)
            reply = await self._engine.ask(question)
        except RefusedError as error:
            return _refusal(str(error), error.status)
        except ValueError as error:
            return _refusal(f"The request is no JSON: {error}", 400)
        return web.Response(body=self._answer(question, reply), content_type="application/json")

    def _answer(self, question: Question, reply: Reply) -> bytes:
        """A chat completion, put together from pieces that are kept: it is made for every comment."""
        words, first = self._engine.words, reply.ids[0]
        whole = words.choices(question.choices)[first] if question.choices else (first,)
        given = whole[: question.max_tokens]
        logprobs = "null"
        if question.top is not None:
            shown = [f"{words.listed(one)}{each:.6g}" for one, each in zip(reply.ids, reply.logprobs, strict=True)]
            steps = [f'{shown[0]}, "top_logprobs": [{", ".join(f"{one}}}" for one in shown[: question.top])}]}}']
            # Behind its first token, a choice is all that may follow.
            steps += [f'{words.listed(one)}0.0, "top_logprobs": []}}' for one in given[1:]]
            logprobs = f'{{"content": [{", ".join(steps)}]}}'
        content = json.dumps(words.text(given).decode(errors="replace"))
        # The end of an answer is a token too.
        reason = "stop" if len(whole) < question.max_tokens else "length"
        return (
            f'{{"id": "x", "object": "chat.completion", "created": {int(time.time())}, "model": "{self._model}", '
            f'"choices": [{{"index": 0, "message": {{"role": "assistant", "content": {content}}}, '
            f'"finish_reason": "{reason}", "logprobs": {logprobs}}}], '
            f'"usage": {{"prompt_tokens": {reply.prompt_tokens}, "completion_tokens": {len(given)}, '
            f'"total_tokens": {reply.prompt_tokens + len(given)}}}}}'
        ).encode()

    async def _models(self, _: web.Request) -> web.Response:
        about = {"id": self._model, "object": "model", "created": 0, "owned_by": "nobody", "max_model_len": CONTEXT}
        return web.json_response({"object": "list", "data": [about]})

    async def _health(self, _: web.Request) -> web.Response:
        engine = self._engine
        counts = {"batches": engine.batches, "rows": engine.rows, "tokens": engine.tokens, "filling": engine.filling}
        return web.json_response({"status": "ok", **counts})


def _refusal(message: str, status: int) -> web.Response:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return web.json_response({"error": {"message": message, "type": kind, "code": None}}, status=status)


async def raw(engine: Engine, questions: Sequence[Question], in_flight: int) -> dict[str, Any]:
    """Comments a second without HTTP, with so many in flight."""
    rows, tokens, batches = engine.rows, engine.tokens, engine.batches
    waiting = iter(questions)

    async def some() -> None:
        for question in waiting:
            await engine.ask(question)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(in_flight, len(questions))):
            group.create_task(some())
    seconds = time.perf_counter() - began
    rows, tokens, batches = engine.rows - rows, engine.tokens - tokens, engine.batches - batches
    return {
        "in_flight": in_flight,
        "comments": len(questions),
        "raw_per_second": round(len(questions) / seconds, 2),
        "comments_of_a_batch": round(rows / batches, 1),
        "tokens_of_a_comment": round(tokens / rows, 1),
    }


def questions_of(file: Path) -> list[Question]:
    """What reviewmill asks about the comments of a JSONL file (`text`), with the built-in task and without keywords."""
    from reviewmill.pipeline import prepare
    from reviewmill.schema import Comment
    from reviewmill.settings import load_settings
    from reviewmill.tasks import CompactWire, drop_orders, load_task, render

    limits, task = load_settings(), load_task("sentiment")
    prompt = render(task, CompactWire(task, False), keywords=False)
    fields = {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP}
    constraint = {"structured_outputs": {"choice": list(task.label_names)}}
    texts = (str(json.loads(line)["text"]) for line in file.read_text("utf-8").splitlines())
    most, raw_most = limits.max_comment_chars, limits.max_raw_chars
    cleaned = (prepare(Comment(text), max_chars=most, max_raw_chars=raw_most).text for text in texts)
    distinct = dict.fromkeys(text for text in cleaned if text is not None)
    asked = (prompt.messages(drop_orders(text, task)[0]) for text in distinct)
    return [read({"messages": messages, **fields, **constraint}) for messages in asked]


async def serve(arguments: argparse.Namespace) -> None:
    """Make the model, measure it if that is wanted, and serve until the process is ended."""
    questions = questions_of(arguments.raw) if arguments.raw is not None else []
    words = Words(arguments.tokenizer)
    limits = {"most": arguments.most, "budget": arguments.budget, "filling": arguments.filling}
    engine = Engine(arguments.size, words, device=arguments.device, **limits)
    model, ready = f"random-qwen2.5-{arguments.size}", engine.ready
    print(
        f"{model}: RANDOM weights, its labels mean nothing. {ready.parameters / 1e9:.2f} billion, "
        f"{ready.gigabytes:.1f} GB, on {ready.device}, in {ready.seconds:.1f} s ({ready.versions})",
        flush=True,
    )
    engine.start()
    for in_flight in arguments.in_flight if questions else ():
        measured = await raw(engine, questions[: max(24, 8 * in_flight)], in_flight)
        print(json.dumps({"model": model, **measured}), flush=True)
    runner = web.AppRunner(Server(engine, model).app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", arguments.port, backlog=4096).start()
    print(f"ready: http://127.0.0.1:{arguments.port}/v1", flush=True)
    await asyncio.Event().wait()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where it is installed: this end of HTTP should not be the slower one."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _numbers(said: str) -> list[int]:
    return [int(number) for number in said.split(",")]


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="7b", help="which Qwen2.5-Instruct it has the form of")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the tokenizer.json of any Qwen2.5")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", help="as torch names it; without, the GPU if there is one")
    parser.add_argument("--most", type=int, default=256, help="the most comments of a batch")
    parser.add_argument("--budget", type=int, default=16384, help="the most tokens of a batch")
    parser.add_argument("--filling", type=int, default=512, help="the most tokens of filling in a batch")
    parser.add_argument("--raw", type=Path, help="JSONL of comments: measure without HTTP first")
    parser.add_argument("--in-flight", type=_numbers, default=[64, 256, 1024], help="for --raw, by commas")
    with suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
