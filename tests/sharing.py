"""How tests are shared out between processes (`pytest -n 3`): file by file, what takes longest first.

Three for two cores, since some tests wait. Files that make an engine compute share one process: two engines on two
cores take many times as long as one after the other. So do those that talk to one Open WebUI, which is then started
once.
"""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    import pytest

TOGETHER = {
    "engines": (
        "test_real_model.py",
        "test_examples_notebook.py",
        "test_vllm_real.py",
        "test_endpoints_embedded.py",
        "test_pool_llama.py",
    ),
    "chat": ("test_chat_browser.py", "test_chat_real.py"),
}
LONG = (
    "test_chat_run.py",
    "test_server_openapi.py",
    "test_cascade_run.py",
    "test_cascade_router.py",
    "test_batch_kill.py",
)

_PLACE = {name: kind for kind, names in TOGETHER.items() for name in names}
_FIRST = [*_PLACE, *LONG]


class Sharing(LoadScopeScheduling):
    """Whole files go to a process; some of them together."""

    def _split_scope(self, nodeid: str) -> str:
        name = PurePosixPath(nodeid.split("::", 1)[0]).name
        return _PLACE.get(name, name)


def in_order(items: list[pytest.Item]) -> None:
    """Put what takes longest at the beginning, so that no process waits for it at the end."""
    items.sort(key=lambda item: _FIRST.index(item.path.name) if item.path.name in _FIRST else len(_FIRST))


def leave_room() -> None:
    """Have llama.cpp and BLAS compute with one thread, in the processes to come.

    Their threads wait for each other, busily, and the other core has its own work.
    """
    os.environ["REVIEWMILL_THREADS"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
