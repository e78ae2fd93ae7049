"""Slices and the signs that make some of them."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from scipy import stats

from reviewmill.evaluate.metrics import Judgements
from reviewmill.evaluate.slices import Facets, column_facets, slices
from reviewmill.evaluate.tags import TAGS, length_of, tags_of


def judged(right: np.ndarray) -> Judgements:
    gold = np.arange(right.size) % 2
    return Judgements(("a", "b"), gold, np.where(right, gold, 1 - gold), None, np.full(right.size, 0.9))


def test_a_part_that_is_worse_stands_out() -> None:
    right = np.array([True] * 300 + [False] * 60 + [True] * 60)
    facets = [
        Facets({"length": ["long" if n >= 300 else "short"], "tag": ["negation"] if n % 2 else []}) for n in range(420)
    ]
    found = {(one.by, one.value): one for one in slices(judged(right), facets)}
    long = found["length", "long"]
    assert long.accuracy.value == pytest.approx(0.5)
    assert long.stands_out == "worse"
    assert found["length", "short"].stands_out == "better"
    assert found["tag", "negation"].stands_out is None
    assert long.ece == pytest.approx(0.4)


def test_parts_of_chance_rarely_stand_out() -> None:
    generator = np.random.default_rng(1)
    cried = 0
    for _ in range(40):
        right = generator.random(400) < 0.85
        facets = [Facets({f"c{k}": [str(generator.integers(4))] for k in range(5)}) for _ in range(400)]
        cried += any(one.stands_out for one in slices(judged(right), facets))
    assert stats.binomtest(cried, 40, 0.05, alternative="greater").pvalue > 0.001


def test_small_parts_and_dimensions_of_one_value_are_left_out() -> None:
    facets = [Facets({"language": ["zh"], "length": ["a" if n < 19 else "b"]}) for n in range(100)]
    assert [(one.by, one.value) for one in slices(judged(np.ones(100, dtype=bool)), facets)] == [("length", "b")]


def test_columns_that_part_rows_and_columns_that_do_not() -> None:
    rows = [
        {
            "stars": n % 5,
            "price": 10.0 * n,
            "day": date(2024, 1, 1).replace(day=1 + n % 28),
            "tags": ["x", "y"] if n % 2 else ["x"],
            "comment_id": f"id-{n}",
            "note": f"自由文本 {n}",
            "where": {"a": n},
            "empty": None,
        }
        for n in range(200)
    ]
    facets = column_facets(rows, leave_out=["note"])
    assert {name for facet in facets for name in facet} == {"stars", "price", "day", "tags"}
    assert facets[3]["stars"] == ["3"]
    assert facets[1]["tags"] == ["x", "y"]
    assert facets[0]["price"] == ["≤ 497.5"]
    assert facets[199]["price"] == ["> 1492.5"]
    assert len({facet["price"][0] for facet in facets}) == 4
    assert facets[0]["day"][0].startswith("≤ 2024-01-")


def test_a_column_of_numbers_with_words_between_is_no_number() -> None:
    rows = [{"price": "n/a" if n % 7 == 0 else n} for n in range(100)]
    assert all(not facet for facet in column_facets(rows))


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("差点没买到", "double_negation"),
        ("不得不说好用", "double_negation"),
        ("一点都不好", "negation"),
        ("not good at all", "negation"),
        ("味道还行，但是里面有虫", "contrast"),
        ("慢是慢，味道真好", "contrast"),
        ("真棒，等了两小时", "irony_cue"),
        ("呵呵", "irony_cue"),
        ("yyds", "slang"),
        ("好吃😋", "emoji"),
        ("好吃[哈哈]", "emoji"),
        ("比上次好", "comparison"),
        ("一般", "faint"),
        ("希望改进", "conditional"),
        ("这也叫新鲜？", "question"),
        ("屏幕display很亮", "code_mix"),
    ],
)
def test_signs(text: str, sign: str) -> None:
    assert sign in tags_of(text)
    assert sign in TAGS


@pytest.mark.parametrize("text", ["质量很好", "不错，会回购", "物流很快", "It is great."])
def test_no_negation_where_nothing_is_denied(text: str) -> None:
    assert "negation" not in tags_of(text)


def test_lengths() -> None:
    assert [length_of("字" * n) for n in (1, 9, 10, 29, 30, 99, 100, 299, 300)] == [
        *("1-9", "1-9", "10-29", "10-29", "30-99", "30-99", "100-299", "100-299", "300+")
    ]
    assert "very_short" in tags_of("好" * 6)
    assert "very_long" in tags_of("好" * 201)
