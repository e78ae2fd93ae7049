"""Numbers of things in messages."""

from __future__ import annotations

import pytest

from reviewmill.counted import counted


@pytest.mark.parametrize(
    ("number", "words", "shown"),
    [
        (0, ("row",), "0 rows"),
        (1, ("row",), "1 row"),
        (2, ("row",), "2 rows"),
        (1, ("row has", "rows have"), "1 row has"),
        (12_345, ("search", "searches"), "12,345 searches"),
    ],
)
def test_one_is_one(number: int, words: tuple[str, ...], shown: str) -> None:
    assert counted(number, *words) == shown
