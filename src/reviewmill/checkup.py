"""What `reviewmill doctor` finds: the machine, the model, the cache, the endpoint, and a measured speed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from reviewmill.cache import open_cache
from reviewmill.endpoints import Connection, connect, labeller_on
from reviewmill.errors import ReviewmillError
from reviewmill.models import Hardware, detect
from reviewmill.pipeline import choose_calibration
from reviewmill.settings import Settings, config_file
from reviewmill.tasks import load_task

_GIB: Final = 1024**3
_NEEDED_MEMORY: Final = 4 * _GIB  # the embedded default, its KV cache and the process, as `docs/benchmarks.md` measures

# Written for this measurement; of the length of ordinary shop reviews.
_PROBES: Final = (
    "杯子收到了，密封很好，倒过来也不漏水，颜色和图片一样。",
    "等了快两个星期才发货，打开一看还少了一个配件，客服只会说抱歉。",
    "面料摸着还行，尺码标准，价格比实体店便宜一点。",
    "第二次买了，家里老人用着很顺手，字大声音也大。",
    "屏幕右下角有个亮点，申请换货被拒了三次，太失望了。",
    "请问这款充电宝能带上飞机吗？",
    "The zip broke on the second day and nobody answers my emails.",
    "Good value, arrived a day early, the kids love it.",
)

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the check-up: what was looked at, what was found, and what to do about it."""

    state: State
    what: str
    said: str
    hint: str | None = None


def examine(settings: Settings, *, measure: bool) -> Iterator[Finding]:
    """Look at everything that a run needs, one finding at a time.

    Args:
        settings: as a run would use them.
        measure: whether to load the model and time real answers.
    """
    where = config_file()
    yield Finding("ok", "settings", str(where) if where else "built-in defaults, environment and arguments")
    hardware = detect(settings.models_dir)
    yield from _machine(hardware, embedded=settings.endpoint is None and settings.engine != "vllm")
    yield _cache(settings)
    yield from asyncio.run(_endpoint(settings, measure=measure))


def _machine(hardware: Hardware, *, embedded: bool) -> Iterator[Finding]:
    features = ", ".join(hardware.features) or "no vector extensions known"
    cores = f"{hardware.physical_cores} cores ({hardware.logical_cores} logical)"
    yield Finding("ok", "processor", f"{hardware.cpu}, {cores}, {features}")
    free, total = hardware.memory_available / _GIB, hardware.memory_total / _GIB
    enough = not embedded or hardware.memory_available >= _NEEDED_MEMORY
    yield Finding(
        "ok" if enough else "warn",
        "memory",
        f"{free:.1f} GiB of {total:.1f} GiB available",
        None if enough else "With less than 4 GiB the embedded model works on fewer comments at once. Close something.",
    )
    if hardware.gpus:
        for gpu in hardware.gpus:
            memory = f"{gpu.memory_free / _GIB:.1f} GiB of {gpu.memory_total / _GIB:.1f} GiB free"
            yield Finding("ok", "GPU", f"{gpu.name}, {memory}")
    else:
        yield Finding("ok", "GPU", "none found; the embedded engine runs on the processor")


def _cache(settings: Settings) -> Finding:
    try:
        cache = open_cache(settings.cache, cache_dir=settings.cache_dir, ttl=settings.cache_ttl)
    except ReviewmillError as error:
        return Finding("fail", "cache", error.message, error.hint)
    if cache is None:
        return Finding("warn", "cache", "none: repeated comments are inferred again in the next run")
    with cache:
        return Finding("ok", "cache", cache.describe())


async def _endpoint(settings: Settings, *, measure: bool) -> list[Finding]:
    try:
        connection = await connect(settings)
    except ReviewmillError as error:
        return [Finding("fail", "model", error.message, error.hint)]
    try:
        about = connection.about
        findings = [Finding("ok", "model", f"{about.model} on {about.endpoint}, {connection.concurrency} at once")]
        findings += [Finding("ok", "engine", note) for note in connection.notes]
        findings += [Finding("warn", "endpoint", note) for note in connection.capabilities.fallbacks()]
        findings += _calibration(settings, connection)
        if measure:
            findings += await _speed(settings, connection)
    except ReviewmillError as error:
        findings.append(Finding("fail", "model", error.message, error.hint))
    finally:
        await connection.aclose()
    return findings


def _calibration(settings: Settings, connection: Connection) -> list[Finding]:
    if not connection.capabilities.top_logprobs:
        return []  # there is no confidence to calibrate, which the endpoint's findings say
    labeller = labeller_on(connection, task=load_task(settings.task), keywords=settings.keywords, wire=settings.wire)
    chosen = choose_calibration(settings, labeller)
    notes = [Finding("warn", "calibration", note) for note in chosen.notes]
    if chosen.calibration is not None:
        return [Finding("ok", "calibration", chosen.calibration.describe()), *notes]
    hint = "With 60 or more labelled comments: reviewmill calibrate LABELLED --label COLUMN"
    return [Finding("warn", "calibration", "none: confidence is the model's own probability", hint), *notes]


async def _speed(settings: Settings, connection: Connection) -> list[Finding]:
    labeller = labeller_on(connection, task=load_task(settings.task), keywords=settings.keywords, wire=settings.wire)
    began = time.perf_counter()
    await connection.open(labeller.prompt)
    ready = time.perf_counter()
    await asyncio.gather(*(labeller.label(text) for text in _PROBES))
    seconds = time.perf_counter() - ready
    rate = len(_PROBES) / seconds
    return [
        Finding("ok", "start", f"the model was ready after {ready - began:.1f} s"),
        Finding(
            "ok",
            "speed",
            f"{rate:.2f} comments a second ({len(_PROBES)} answered in {seconds:.1f} s): "
            f"1,000 take about {1000 / rate / 60:.0f} minutes",
        ),
    ]
