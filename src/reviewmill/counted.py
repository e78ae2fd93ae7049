"""Numbers of things in messages: "1 row", "2,000 rows"."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with what it counts.

    Args:
        number: how many.
        one: what follows a 1: `row`, or `row has no label`.
        many: what follows every other number; None: `one` with an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"
