"""What every cache can do, and how an answer is written in it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol, Self

from reviewmill.schema import TEXT_PREFIX_BYTES, Answer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType


class AnswerCache(Protocol):
    """Answers by exact key: 32 bytes that name the cleaned text (the first 16) and all that decided the answer.

    Any thread may use it, several at once too. It is not carried across a fork.

    Attributes:
        warnings: what went wrong without stopping the run, in order; for the manifest.
    """

    warnings: list[str]

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Answer]:
        """Look up answers; keys that are not stored, or whose value is not an answer, are absent from the result."""
        ...

    def put_many(self, items: Mapping[bytes, Answer]) -> None:
        """Store answers, replacing those with the same key."""
        ...

    def delete_many(self, keys: Sequence[bytes]) -> None:
        """Remove answers; keys that are not stored are skipped."""
        ...

    def delete_text(self, prefix: bytes) -> int:
        """Remove every answer about one text, and say how many there were.

        Args:
            prefix: the first 16 bytes of its keys (`Labeller.text_prefix`).

        Raises:
            CacheError: the cache cannot be reached or written; nothing may be taken for deleted.
            ValueError: `prefix` has another length, and might name more than one text.
        """
        ...

    def describe(self) -> str:
        """Where the answers are kept, for the manifest; never with a password."""
        ...

    def close(self) -> None:
        """Release the cache; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def encode_answer(answer: Answer) -> bytes:
    r"""Write an answer as compact JSON in UTF-8.

    A lone surrogate, which UTF-8 cannot hold, becomes its JSON escape (`\ud800`), so any text survives.
    """
    text = json.dumps(answer.model_dump(), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")


def decode_answer(value: bytes | str) -> Answer | None:
    """Read what `encode_answer` wrote; None if the value is anything else (another program's, an older schema's)."""
    try:
        return Answer.model_validate(json.loads(value))
    except (ValueError, RecursionError):
        return None


def check_prefix(prefix: bytes) -> None:
    """Refuse what does not name exactly one text.

    Raises:
        ValueError: it is shorter or longer than such a name.
    """
    if len(prefix) != TEXT_PREFIX_BYTES:
        raise ValueError(f"a text is named by {TEXT_PREFIX_BYTES} bytes, not by {len(prefix)}")


def chunks(keys: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    """Cut keys into runs of at most `size`, in order."""
    return (keys[start : start + size] for start in range(0, len(keys), size))
