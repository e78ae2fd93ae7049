"""What `reviewmill engine` does with its arguments."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from reviewmill import supervise
from reviewmill.endpoints.vllm import advice, environment, launch, metrics
from reviewmill.endpoints.vllm.asked import Asked
from reviewmill.endpoints.vllm.gpus import find
from reviewmill.endpoints.vllm.lengths import CommentLengths, TaskLengths, task_lengths
from reviewmill.endpoints.vllm.plan import Plan
from reviewmill.endpoints.vllm.ready import Check
from reviewmill.endpoints.vllm.running import Running, find_running, key_file, read_key, run_folder
from reviewmill.endpoints.vllm.shape import Subject, find_subject
from reviewmill.errors import EndpointError, ProcessError
from reviewmill.models import detect
from reviewmill.settings import Settings
from reviewmill.supervise.control import wait_until
from reviewmill.tasks import load_task

__all__ = ["key_file"]

_READY_SECONDS: Final = 1900.0
_SAY_EVERY: Final = 10.0
_FOLLOW_EVERY: Final = 0.5
_SAMPLE: Final = 20_000


def make(settings: Settings, model: str | None, gpu: str, comments: Path | None, asked: Asked) -> tuple[Subject, Plan]:
    """Plan a model on a device.

    Raises:
        ReviewmillError: it does not fit, or something named does not exist.
    """
    device = find(gpu)
    task = load_task(settings.task)
    lengths = _comment_lengths(settings, comments)

    def lengths_of(kind: str) -> TaskLengths:
        return task_lengths(task, kind, lengths, keywords=settings.keywords)

    models_dir = settings.models_dir
    if model is None:
        plan = advice.first_that_fits(device, lengths_of, asked, models_dir=models_dir)
        return find_subject(plan.model, models_dir), plan
    subject = find_subject(model, models_dir)
    return subject, advice.plan_or_advise(subject, device, lengths_of, asked, models_dir=models_dir)


def _comment_lengths(settings: Settings, comments: Path | None) -> CommentLengths:
    if comments is None:
        return CommentLengths(longest=settings.max_comment_chars)
    from reviewmill.batch.read import open_source

    source = open_source(comments)
    texts = (row.text for _, row in zip(range(_SAMPLE), source.rows(), strict=False) if isinstance(row.text, str))
    return CommentLengths.of(texts, longest=settings.max_comment_chars, source=str(comments))


def folder_of(settings: Settings, name: str, asked: str | None) -> Path:
    """Where a model's files are, or would be."""
    if asked is not None and Path(asked).expanduser().is_dir():
        return Path(asked).expanduser().resolve()
    return settings.models_dir / name


def install(settings: Settings, kind: str, on_line: Callable[[str], None] | None) -> environment.Environment:
    """Install vLLM.

    Raises:
        ProcessError: it cannot be installed.
    """
    return environment.install(settings.engine_dir, _kind(kind), on_line=on_line)


def _kind(kind: str) -> environment.Kind:
    if kind == "auto":
        return "cuda" if detect().gpus else "cpu"
    return "cuda" if kind == "cuda" else "cpu"


def interpreter(settings: Settings, kind: str) -> Path:
    """The Python of the installed vLLM.

    Raises:
        ProcessError: none is installed.
    """
    return _installed(settings, _kind(kind)).python


def _installed(settings: Settings, kind: environment.Kind) -> environment.Environment:
    found = environment.installed(settings.engine_dir, kind)
    if found is None:
        raise ProcessError(f"vLLM for {kind} is not installed.", hint=f"reviewmill engine install --kind {kind}")
    return found


def start(settings: Settings, model: str | None, gpu: str, comments: Path | None, asked: Asked) -> str:
    """Start vLLM; return its URL.

    Raises:
        ReviewmillError: it does not fit, is not installed, its weights are not here, or it runs already.
    """
    subject, plan = make(settings, model, gpu, comments, replace(asked, port=asked.port or launch.free_port()))
    found = environment.installed(settings.engine_dir, plan.device.kind)
    if found is None:
        raise ProcessError(
            f"vLLM for {plan.device.kind} is not installed.",
            hint=f"reviewmill engine install --kind {plan.device.kind}",
        )
    return str(launch.start(settings, subject, plan, found).about["url"])


def wait_ready(settings: Settings, say: Callable[[str], None]) -> None:
    """Wait until it answers.

    Raises:
        ProcessError: it was given up, or takes too long.
    """
    last = time.monotonic()

    def look(now: supervise.Status) -> None:
        nonlocal last
        if now.state == "waiting":
            raise ProcessError(
                f"vLLM does not come up: {now.last_end}.",
                hint="It is tried again; `reviewmill engine logs` shows why, `reviewmill engine stop` ends it.",
            )
        if time.monotonic() - last >= _SAY_EVERY:
            last = time.monotonic()
            tail = [line for line in supervise.log_tail(run_folder(settings), 1) if line.strip()]
            say(tail[-1][:160] if tail else f"{now.state} …")

    wait_until(run_folder(settings), frozenset({"ready"}), seconds=_READY_SECONDS, on_look=look)


def stop(settings: Settings) -> bool:
    """Stop it; return whether it ran.

    Raises:
        ProcessError: something of it cannot be ended.
    """
    before = supervise.status(run_folder(settings))
    supervise.stop(run_folder(settings))
    return before is not None and before.running


def look(settings: Settings) -> dict[str, Any]:
    """What is known of the engine, for people and programs."""
    now = supervise.status(run_folder(settings))
    if now is None:
        return {"state": "stopped", "never_started": True}
    seen: dict[str, Any] = {
        "state": now.state,
        "since": now.since,
        "started": now.started,
        "restarts": now.restarts,
        "last_end": now.last_end,
        "url": now.about.get("url"),
        "model": now.about.get("model"),
        "vllm": now.about.get("vllm"),
        "device": _planned(now.about),
        "metrics": None,
    }
    running = find_running(settings)
    if running is not None and now.state in {"ready", "unhealthy"}:
        try:
            measured = asyncio.run(metrics.read_metrics(running.url))
        except EndpointError as error:
            seen["last_end"] = error.message
        else:
            seen["metrics"] = asdict(measured) | {"hit_rate": measured.hit_rate} if measured else None
            seen["planned_kv_tokens"] = running.plan["budget"]["tokens"] * running.plan["data_parallel"]
            seen["max_num_seqs"] = running.sequences
    return seen


def _planned(about: dict[str, Any]) -> str | None:
    device = about.get("plan", {}).get("device")
    return f"{device['count']}x {device['name']}" if device else None


def log_lines(settings: Settings, lines: int, *, follow: bool) -> Iterator[str]:
    """The end of its log, and what comes after if asked to follow."""
    yield from supervise.log_tail(run_folder(settings), lines)
    if not follow:
        return
    path = run_folder(settings) / "log"
    place = path.stat()
    at = place.st_size
    while True:
        time.sleep(_FOLLOW_EVERY)
        now = path.stat()
        if now.st_ino != place.st_ino or now.st_size < at:  # it was begun anew
            place, at = now, 0
        if now.st_size > at:
            with path.open("rb") as file:
                file.seek(at)
                data = file.read()
            at += len(data)
            yield from data.decode("utf-8", "replace").splitlines()


def checks(settings: Settings) -> Iterator[Check]:
    """Try the running engine with real questions.

    Raises:
        ProcessError: it does not run.
    """
    running = find_running(settings)
    if running is None:
        raise ProcessError("vLLM does not run.", hint="reviewmill engine start")
    yield from asyncio.run(_checks(settings, running))


async def _checks(settings: Settings, running: Running) -> list[Check]:
    from reviewmill.endpoints.client import EndpointClient
    from reviewmill.endpoints.vllm.ready import check_engine

    client = EndpointClient(
        running.url, running.model, api_key=read_key(settings), timeout=settings.timeout, attempts=settings.attempts
    )
    async with client:
        return [check async for check in check_engine(client, load_task("sentiment"))]
