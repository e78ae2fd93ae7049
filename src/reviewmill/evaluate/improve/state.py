"""The state file of a search: what it is bound to, how far it is, and which rows have judged."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from filelock import FileLock, Timeout

from reviewmill._version import __version__
from reviewmill.batch.manifest import write_json
from reviewmill.errors import InputError, OutputError
from reviewmill.tasks import parse_task

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from reviewmill.tasks import Task

FORMAT: Final = 1

Phase = Literal["search", "judging", "done"]


@dataclass
class State:
    """A search's state file, which in the end is its report.

    Answers are not here: they lie in the cache, so that a search that was stopped asks nothing twice.

    Attributes:
        path: the file.
        binding: what decides the search; the same command continues only the same search.
        phase: `search`, `judging` (the third part has been opened) or `done`.
        content: everything else that is written: plan, prompts tried, the best one, the report.
        judged: one entry for each time that a third part was opened from this file, with the digests of its texts.
    """

    path: Path
    binding: dict[str, Any]
    phase: Phase = "search"
    content: dict[str, Any] = field(default_factory=dict)
    judged: list[dict[str, Any]] = field(default_factory=list)
    continued: bool = False

    @staticmethod
    def path_for(output: Path) -> Path:
        """Where the state of a search that writes `output` lies."""
        return output.with_name(output.name + ".improve.json")

    @staticmethod
    def lock(output: Path, folder: Path) -> FileLock:
        """Take the search for this process alone; released with the process, however it ends.

        Args:
            output: what the search writes.
            folder: where locks lie.

        Raises:
            InputError: another process has it.
            OutputError: the folder cannot be written.
        """
        name = hashlib.sha256(str(output.resolve()).encode()).hexdigest()[:16]
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = FileLock(folder / f"{name}.lock", mode=0o600)
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"Another process is searching for {output}.", hint="Wait for it or end it, or choose another -o."
            ) from None
        except OSError as error:
            raise OutputError(
                f"{folder} cannot be written: {error.strerror}.", hint="Set REVIEWMILL_STATE_DIR to your folder."
            ) from error
        return lock

    @classmethod
    def open(cls, output: Path, binding: Mapping[str, Any]) -> State:
        """Continue the search that the file holds, or begin a new one; which rows have judged is kept.

        Raises:
            InputError: the file is something else.
        """
        path = cls.path_for(output)
        bound = json.loads(json.dumps(binding))
        try:
            written = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls(path, bound)
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path} cannot be read as the state of a search: {error}.", hint="Choose another -o, or remove it."
            ) from error
        if not isinstance(written, dict) or written.get("kind") != "improve":
            raise InputError(f"{path} is not the state of a search.", hint="Choose another -o, or remove it.")
        judged = list(written.get("judged", ()))
        if written.get("format") != FORMAT or written.get("search") != bound:
            return cls(path, bound, judged=judged)
        return cls(path, bound, written["phase"], dict(written["content"]), judged, continued=True)

    def save(self) -> None:
        """Write the file, atomically.

        Raises:
            OutputError: it cannot be written.
        """
        write_json(
            self.path,
            {
                "reviewmill": __version__,
                "kind": "improve",
                "format": FORMAT,
                "search": self.binding,
                "phase": self.phase,
                "content": self.content,
                "judged": self.judged,
            },
        )

    def used(self) -> set[str]:
        """The digests of texts that judged an earlier search; those that judge now are not among them."""
        over = self.judged[:-1] if self.phase == "judging" else self.judged
        return {digest for entry in over for digest in entry["rows"]}

    def judging(self) -> frozenset[str]:
        """The digests of the texts that judge now, where a verdict was begun and not finished."""
        return frozenset(self.judged[-1]["rows"]) if self.phase == "judging" else frozenset()

    @property
    def report(self) -> dict[str, Any] | None:
        """The report of a search that is done."""
        return dict(self.content["report"]) if self.phase == "done" else None

    def winner(self) -> Task:
        """The task that is or was judged, whatever the verdict.

        Raises:
            KeyError: none has been.
        """
        return parse_task(self.content["winner"]["task"], str(self.path))
