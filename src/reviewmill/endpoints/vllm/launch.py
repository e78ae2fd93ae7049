"""Starting vLLM as planned, under a supervisor, with its key in the environment and its weights named by digest."""

from __future__ import annotations

import hashlib
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Final

from reviewmill import supervise
from reviewmill.endpoints.names import WEIGHTS_MARK
from reviewmill.endpoints.vllm.environment import Environment
from reviewmill.endpoints.vllm.flags import KEY
from reviewmill.endpoints.vllm.plan import Plan
from reviewmill.endpoints.vllm.running import ensure_key, run_folder
from reviewmill.endpoints.vllm.shape import Subject
from reviewmill.errors import ModelError, ProcessError
from reviewmill.models import resolve
from reviewmill.models.digests import Digests
from reviewmill.settings import Settings

_START_SECONDS: Final = 1800.0  # compiling and loading 15 GB from a slow disk
_GRACE_SECONDS: Final = 30.0
_DIGEST_DIGITS: Final = 16
_DESCRIBING: Final = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json")


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def check_port(port: int) -> None:
    """Refuse a port that is taken.

    Raises:
        ProcessError: something listens there.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise ProcessError(
                f"Port {port} cannot be used: {error.strerror}.", hint="Give another --port; 0 takes any free one."
            ) from error


def weights_digest(subject: Subject, plan: Plan, models_dir: Path) -> str:
    """A digest of everything that decides the model's answers: its files, and how they are computed.

    Raises:
        ModelError: the weights are not on this machine, or are not what they must be.
    """
    if subject.folder is None:
        raise ModelError(f"The weights of {subject.name} are not here.", hint=f"reviewmill models pull {subject.name}")
    computing = [plan.dtype, plan.weights, *(flag.value for flag in plan.flags if flag.name in _DECIDING)]
    if subject.catalog is not None:
        files = resolve(subject.name, models_dir=models_dir).sha256
    else:
        digests = Digests(models_dir)
        paths = [*sorted(subject.folder.glob("*.safetensors"))]
        paths += [subject.folder / name for name in _DESCRIBING if (subject.folder / name).is_file()]
        files = json.dumps([[path.name, digests.of(path)] for path in paths])
    return hashlib.sha256(json.dumps([files, computing]).encode()).hexdigest()[:_DIGEST_DIGITS]


_DECIDING: Final = frozenset({"--kv-cache-dtype", "--hf-overrides", "--chat-template"})


def start(settings: Settings, subject: Subject, plan: Plan, environment: Environment) -> supervise.Status:
    """Start vLLM; returns at once, before it is ready.

    Raises:
        ModelError: the weights are not on this machine.
        ProcessError: it runs already, its port is taken, or it cannot be started.
    """
    if environment.kind != plan.device.kind:
        raise ProcessError(
            f"The installed vLLM is for {environment.kind}, and the plan is for {plan.device}.",
            hint=f"reviewmill engine install --kind {plan.device.kind}",
        )
    port = int(next(flag.value or "" for flag in plan.flags if flag.name == "--port"))
    check_port(port)
    digest = weights_digest(subject, plan, settings.models_dir)
    key = ensure_key(settings)
    arguments = plan.arguments()
    arguments.insert(arguments.index("--served-model-name") + 2, f"{subject.name}{WEIGHTS_MARK}{digest}")
    variables = {flag.name: flag.value for flag in plan.environment if flag.value is not None}
    spec = supervise.Spec(
        "vLLM",
        (*plan.program(str(environment.python)), str(subject.folder), *arguments),
        env=variables | {KEY: key},
        without=("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"),
        secrets=(key,),
        health_url=f"http://127.0.0.1:{port}/health",
        start_seconds=_START_SECONDS,
        grace_seconds=_GRACE_SECONDS,
        about={
            "url": f"http://127.0.0.1:{port}/v1",
            "model": subject.name,
            "sequences": plan.load.sequences * plan.data_parallel,
            "plan": plan.as_json(),
            "vllm": environment.vllm,
        },
    )
    return supervise.start(run_folder(settings), spec)


def with_port(plan: Plan, port: int) -> Plan:
    """The same plan on another port."""
    flags = tuple(replace(flag, value=str(port)) if flag.name == "--port" else flag for flag in plan.flags)
    return replace(plan, flags=flags)
