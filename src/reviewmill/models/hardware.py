"""What this machine can do: what an engine may really use, not what is built in.

Containers see the host's processors and memory; the limits of their control group (cgroup version 1 or 2) and the
process's CPU affinity are what counts.
"""

from __future__ import annotations

import math
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FLAGS: Final = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx512_bf16": "avx512-bf16",
    "amx_tile": "amx",
    "asimd": "neon",
    "neon": "neon",
}
_NVIDIA_SECONDS: Final = 2.0
_GPU_LINE: Final = re.compile(r"(.+?)\s*,\s*(\d+)\s*,\s*(\d+)(?:\s*,\s*(?:(\d+)\.(\d+)|\[.*\]))?")
_NO_LIMIT: Final = 1 << 60


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; memory in bytes. `capability`: CUDA's (major, minor), None if its driver is too old to tell."""

    name: str
    memory_total: int
    memory_free: int
    capability: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Hardware:
    """What is usable on this machine.

    Attributes:
        cpu: name of the processor.
        physical_cores, logical_cores: usable by this process.
        memory_total, memory_available: in bytes, within the limits of the control group.
        features: of `avx2`, `avx512`, `avx512-bf16`, `amx`, `neon`.
        gpus: NVIDIA's; empty without `nvidia-smi` or if it does not answer within two seconds.
        disk_free: bytes free where models are kept; None if no folder was named.
    """

    cpu: str
    physical_cores: int
    logical_cores: int
    memory_total: int
    memory_available: int
    features: tuple[str, ...]
    gpus: tuple[Gpu, ...]
    disk_free: int | None


def detect(models_dir: Path | None = None) -> Hardware:
    """Look at this machine.

    Args:
        models_dir: folder for which the free disk space is wanted; it need not exist.
    """
    # Here and below, because importing it takes longer than most of this package, and few runs need it.
    import psutil

    group = control_group()
    logical = _logical_cores(group)
    total, available = _memory(group)
    name, flags = _processor()
    return Hardware(
        cpu=name,
        physical_cores=max(1, min(psutil.cpu_count(logical=False) or logical, logical)),
        logical_cores=logical,
        memory_total=total,
        memory_available=available,
        features=tuple(sorted({_FLAGS[flag] for flag in flags if flag in _FLAGS})),
        gpus=_gpus(),
        disk_free=_disk_free(models_dir) if models_dir else None,
    )


def available_memory() -> int:
    """Bytes that programs can still take, within the limits of the control group."""
    return _memory(control_group())[1]


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """Limits of a control group; None where there is none. Memory in bytes."""

    cores: float | None
    memory: int | None
    memory_used: int | None


def control_group(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> ControlGroup:
    """The limits that hold for this process: the tightest of its control group and those above it.

    Args:
        root: where the control groups are mounted.
        membership: file that names the process's groups (`man 7 cgroups`).
    """
    folders = _groups(root, membership)
    cores = [limit for folder in folders if (limit := _cores(folder)) is not None]
    limits = [(limit, folder) for folder in folders if (limit := _memory_limit(folder)) is not None]
    memory, holder = min(limits, default=(None, root), key=lambda pair: pair[0])
    used = _number(holder / "memory.current") or _number(holder / "memory.usage_in_bytes") if limits else None
    return ControlGroup(min(cores, default=None), memory, used)


def _groups(root: Path, membership: Path) -> list[Path]:
    """The folders of the process's groups and all above, version 2 (`0::/path`) and 1 (`4:memory:/path`)."""
    folders: list[Path] = []
    for line in _text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(",") if controllers else [""]:
            if controller not in {"", "cpu", "memory"}:
                continue
            base = root / controller
            here = base / path.lstrip("/")
            folders += [folder for folder in (here, *here.parents) if folder.is_relative_to(base) and folder.is_dir()]
    return folders


def _cores(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    if not quota.isdigit() or not period.strip().isdigit():
        return None
    return int(quota) / int(period)


def _memory_limit(folder: Path) -> int | None:
    limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
    return limit if limit is not None and limit < _NO_LIMIT else None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    """Content of a small system file; empty where this system has no such file."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def _logical_cores(group: ControlGroup) -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, math.ceil(group.cores))) if group.cores else usable


def _memory(group: ControlGroup) -> tuple[int, int]:
    import psutil

    memory = psutil.virtual_memory()
    if group.memory is None or group.memory >= memory.total:
        return memory.total, memory.available
    return group.memory, min(memory.available, max(0, group.memory - (group.memory_used or 0)))


def _processor() -> tuple[str, set[str]]:
    """Name and feature flags."""
    fields: dict[str, str] = {}
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    flags = set((fields.get("flags") or fields.get("features") or "").split())
    if platform.machine().lower() in {"arm64", "aarch64"}:
        flags.add("neon")
    return fields.get("model name") or platform.processor() or platform.machine() or "unknown", flags


def _gpus() -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    # Drivers before 2021 do not know compute_cap, and refuse the whole query.
    for fields in ("name,memory.total,memory.free,compute_cap", "name,memory.total,memory.free"):
        command = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
        try:
            answer = subprocess.run(  # noqa: S603 - a fixed command
                command, capture_output=True, text=True, timeout=_NVIDIA_SECONDS, check=True
            )
        except subprocess.CalledProcessError:
            continue
        except (OSError, subprocess.SubprocessError):
            return ()
        return tuple(gpu for line in answer.stdout.splitlines() if (gpu := _gpu(line)) is not None)
    return ()


def _gpu(line: str) -> Gpu | None:
    """One line of nvidia-smi's table (memory in MiB); None for a card that does not tell (`[N/A]`)."""
    match = _GPU_LINE.fullmatch(line.strip())
    if match is None:
        return None
    total, free = int(match[2]) << 20, int(match[3]) << 20
    return Gpu(match[1], total, free, (int(match[4]), int(match[5])) if match[4] else None)


def _disk_free(folder: Path) -> int:
    folder = folder.absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.is_dir())).free
