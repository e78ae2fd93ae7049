"""The verdict on a whole text from those on its parts."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewmill.scoring.parts import overall, vote

LABELS = ("positive", "neutral", "negative")


def sure(label: str, certainty: float) -> dict[str, float]:
    return {each: certainty if each == label else (1 - certainty) / 2 for each in LABELS}


shares = st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda values: sum(values) > 0)
parts = st.lists(
    st.tuples(
        shares.map(lambda v: {label: x / sum(v) for label, x in zip(LABELS, v, strict=True)}), st.integers(1, 9999)
    ),
    min_size=1,
    max_size=30,
)


@given(parts)
def test_it_is_a_distribution_between_its_parts_whatever_their_order(given_parts) -> None:
    whole = overall(given_parts)
    assert math.isclose(sum(whole.values()), 1)
    assert all(p > 0 for p in whole.values())
    again = overall(given_parts[::-1])
    assert all(math.isclose(again[label], whole[label], rel_tol=1e-9) for label in LABELS)


@given(parts)
def test_a_text_twice_as_long_of_the_same_parts_has_the_same_verdict(given_parts) -> None:
    once, twice = overall(given_parts), overall(given_parts * 2)
    assert all(math.isclose(once[label], twice[label], rel_tol=1e-9) for label in LABELS)


def test_a_sure_part_counts_for_more_than_an_unsure_one() -> None:
    whole = overall([(sure("negative", 0.98), 100), (sure("positive", 0.5), 100)])
    assert whole["negative"] > 0.6


def test_a_long_part_counts_for_more_than_a_short_one() -> None:
    whole = overall([(sure("negative", 0.9), 300), (sure("positive", 0.9), 100)])
    assert whole["negative"] > 0.7


def test_one_overconfident_part_vetoes_nothing() -> None:
    certain = {"positive": 0.0, "neutral": 0.0, "negative": 1.0}
    whole = overall([(certain, 100), *[(sure("positive", 0.95), 100)] * 4])
    assert max(whole, key=whole.__getitem__) == "positive"


def test_many_parts_that_say_the_same_are_no_surer_than_one() -> None:
    assert math.isclose(
        overall([(sure("positive", 0.8), 10)] * 50)["positive"], overall([(sure("positive", 0.8), 1)])["positive"]
    )


def test_nothing_has_no_verdict() -> None:
    with pytest.raises(ValueError, match="nothing"):
        overall([])


def test_without_probabilities_most_of_the_text_decides() -> None:
    assert vote([("positive", 10), ("negative", 15), ("positive", 6)]) == "positive"
