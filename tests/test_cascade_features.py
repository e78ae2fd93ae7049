"""Features: what a comment's features are does not depend on its neighbours, and nothing crosses a boundary."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewmill.cascade.features import _SCRIPTS_WITHOUT_SPACES, Hasher, frequencies, matrix, products

COMMENTS = st.lists(st.text(max_size=30), min_size=1, max_size=12)


def counted(hasher: Hasher, text: str) -> dict[int, float]:
    """The features of one text, alone."""
    row = matrix(hasher.blocks([text]), hasher.size)
    return {int(i): float(n) for i, n in zip(row.indices, row.data, strict=True) if i != hasher.size - 1}


@given(COMMENTS)
def test_a_comments_features_do_not_depend_on_its_neighbours(texts: list[str]) -> None:
    hasher = Hasher(bits=14)
    together = matrix(hasher.blocks(texts), hasher.size)
    for number, text in enumerate(texts):
        row = together[[number], :]
        found = {int(i): float(n) for i, n in zip(row.indices, row.data, strict=True) if i != hasher.size - 1}
        assert found == counted(hasher, text)


@given(st.text(max_size=40))
def test_as_many_ngrams_as_the_comment_and_its_two_boundaries_have(text: str) -> None:
    length = len(text)
    # With the boundaries there are length + 2 places; an n-gram is one feature if it is not a boundary alone.
    expected = length + sum(max(0, length + 2 - order + 1) for order in (2, 3, 4))
    grams, *_ = Hasher(bits=20, orders=4).blocks([text])
    assert int(np.sum(grams.indices != 1 << 20)) == expected


@given(
    st.lists(st.sampled_from(["good", "bad", "a", "x1", "好", "，", "très"]), max_size=8),
    st.sampled_from([" ", "  ", "，"]),
)
def test_words_and_pairs_of_words(words: list[str], between: str) -> None:
    text = between.join(words)
    hasher = Hasher(bits=20)
    blocks = hasher.blocks([text])
    tokens = re.findall(r"[a-z0-9à-ÿ]+", text)
    pairs = len(re.findall(r"(?=(?<![a-z0-9à-ÿ])[a-z0-9à-ÿ]+[^a-z0-9à-ÿ][a-z0-9à-ÿ])", text))
    found = int(np.sum(blocks[1].indices != 1 << 20)) if len(blocks) > 1 else 0
    assert found == len(tokens) + pairs


def test_order_of_letters_and_of_words_matters_and_neighbours_of_a_word_do_not() -> None:
    hasher = Hasher(bits=22, orders=1)
    word = {
        text: set(hasher.blocks([text])[1].indices.tolist()) - {1 << 22}
        for text in ("stop", "pots", "a stop!", "好stop")
    }
    assert not word["stop"] & word["pots"]
    assert word["stop"] < word["a stop!"]
    assert word["stop"] == word["好stop"]
    assert counted(hasher, "not good") != counted(hasher, "good not")


def test_case_and_width_do_not_count_and_hostile_characters_do_no_harm() -> None:
    hasher = Hasher()
    assert counted(hasher, "ＧＯＯＤ") == counted(hasher, "good") == counted(hasher, "GooD")
    assert counted(hasher, "a\0b") == counted(hasher, "a b")
    assert counted(hasher, "\ud800好") != counted(hasher, "好")
    assert len(hasher.blocks([])[0].indices) == 0
    assert counted(hasher, "") == dict.fromkeys(counted(hasher, ""), 1.0)


def test_places_of_an_ngram_are_told_apart_at_the_boundary() -> None:
    hasher = Hasher(bits=22)
    assert set(counted(hasher, "不好")) < set(counted(hasher, "不好")) | set(counted(hasher, "这个不好用"))
    assert not set(counted(hasher, "不好")) <= set(counted(hasher, "这个不好用"))


@pytest.mark.parametrize("threads", [1, 2])
def test_products_are_those_of_the_matrix(threads: int) -> None:
    chance = np.random.default_rng(0)
    texts = [
        "".join(map(chr, chance.integers(0x4E00, 0x4E40, size=length))) + " ok"
        for length in chance.integers(0, 60, 5000)
    ]
    hasher = Hasher(bits=12)
    table = chance.normal(size=(hasher.size, 3)).astype(np.float32)
    table[-1] = 0
    whole = matrix(hasher.blocks(texts), hasher.size)
    np.testing.assert_allclose(products(hasher, texts, table, threads=threads), whole @ table, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(
        frequencies(hasher, texts, threads=threads), np.asarray(whole.sum(axis=0)).reshape(-1)
    )


@pytest.mark.clock
def test_a_hundred_thousand_comments_a_second_on_two_cores() -> None:
    """In processor time, because what else the machine does is not this code's fault."""
    chance = np.random.default_rng(1)
    texts = ["".join(map(chr, row)) for row in chance.integers(0x4E00, 0x5200, size=(20_000, 30))]
    hasher = Hasher()
    table = np.ones((hasher.size, 4), dtype=np.float32)
    products(hasher, texts[:100], table)
    began = time.process_time()
    products(hasher, texts, table)
    assert 20_000 / (time.process_time() - began) > 50_000


@given(st.text(st.characters(categories=["Lo", "So", "Po"], max_codepoint=0x9FFF), max_size=5), st.text(max_size=5))
def test_the_feature_of_a_whole_text_is_in_every_comment_that_holds_it(word: str, around: str) -> None:
    hasher = Hasher(bits=20)
    (feature,) = hasher.wholes([word])
    kinds = {bool(re.fullmatch(r"[^\W_]", each)) and not _without_spaces(each) for each in word}
    if not word or len(kinds) > 1 or (kinds == {False} and len(word) > hasher.orders):
        assert feature == -1
    else:
        assert feature in counted(hasher, f"{around} {word} {around}")


def _without_spaces(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _SCRIPTS_WITHOUT_SPACES)


def test_whole_words_are_found_in_any_case_and_each_by_itself() -> None:
    hasher = Hasher(bits=20)
    found = hasher.wholes(["Great", "好评", "", "not good", "好 评", "great", "质量很好"])
    assert found.tolist() == [found[5], found[1], -1, -1, found[4], found[5], -1]
    assert found[5] in counted(hasher, "a great phone")
    assert found[1] in counted(hasher, "给个好评吧")
    assert len({found[1], found[4], found[5]}) == 3
    assert hasher.wholes([]).tolist() == []
    assert Hasher(bits=20, words=False).wholes(["great"]).tolist() == [-1]
