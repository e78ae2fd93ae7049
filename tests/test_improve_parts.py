"""The three parts: disjoint, near-duplicates together, labels in proportion, the third sealed and fresh."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from improve_world import rows_of
from reviewmill.errors import InputError, OutputError
from reviewmill.evaluate.improve.ledger import Ledger
from reviewmill.evaluate.improve.parts import NEAR, SealedPart, near_duplicates, split, text_digest
from reviewmill.evaluate.labelled import LabelledRow

REVIEW = "这家店的牛肉面味道很好，汤也浓，下次还会带朋友来吃。"


def _split(rows, **options):
    return split(rows, [row.text for row in rows], **({"seed": 0, "most_judged": 10**6} | options))


def _numbers(parts):
    opened = []
    judged = parts.judge.open(opened.append)
    assert opened == [parts.judge]
    return [{row.number for row in part} for part in (parts.propose, parts.select, judged)]


# Near-duplicates


def test_finds_near_duplicates_whatever_their_punctuation_digits_and_script():
    other_script = "这家店的牛肉麵味道很好，湯也濃，下次還會帶朋友來吃"
    alike = [REVIEW, REVIEW.replace("，", " "), REVIEW + "!!!", REVIEW.replace("来吃", "来"), other_script]
    other = ["一百个人里没有一个说它不好", "包装破了"]
    groups = near_duplicates([*alike, *other]).tolist()
    assert len(set(groups[:5])) == 1
    assert len(set(groups)) == 3


def test_short_texts_are_alike_only_if_they_are_the_same():
    groups = near_duplicates(["好", "好!", "不好", "好的", "12", "34", "👍", "👎"]).tolist()
    assert groups[0] == groups[1]
    assert len(set(groups)) == 7


def _jaccard(one: str, other: str) -> float:
    a, b = ({text[n : n + 3] for n in range(len(text) - 2)} for text in (one, other))
    return len(a & b) / len(a | b)


@hypothesis_settings(max_examples=60)
@given(st.lists(st.text("天地玄黄", min_size=3, max_size=9), min_size=2, max_size=30, unique=True))
def test_pairs_are_grouped_exactly_where_their_pieces_overlap(texts):
    groups = near_duplicates(texts)
    reached = {n: {n} for n in range(len(texts))}
    for a in range(len(texts)):
        for b in range(a):
            if _jaccard(texts[a], texts[b]) >= NEAR:
                joined = reached[a] | reached[b]
                for n in joined:
                    reached[n] = joined
    for a in range(len(texts)):
        assert {b for b in range(len(texts)) if groups[b] == groups[a]} == reached[a]


# Splitting


@hypothesis_settings(max_examples=30)
@given(st.integers(60, 300), st.integers(0, 10**6))
def test_parts_are_disjoint_and_hold_everything(number, seed):
    rows = rows_of(seed, number).rows
    if len({row.label for row in rows}) < 2:
        return
    one, two, three = _numbers(_split(rows, seed=seed))
    assert one | two | three == {row.number for row in rows}
    assert len(one) + len(two) + len(three) == len(rows)


def test_near_duplicates_never_stand_in_two_parts():
    chance = random.Random(1)
    rows = rows_of(3, 200).rows
    copies = [
        LabelledRow(1000 + n, None, row.text + chance.choice(["!", "。。", "~1"]), row.label, {})
        for n, row in enumerate(chance.choices(rows, k=150))
    ]
    everything = [*rows, *copies]
    parts = _split(everything)
    text_of = {row.number: row.text for row in everything}
    bare = [{text_of[number][:12] for number in part} for part in _numbers(parts)]
    assert not bare[0] & bare[1]
    assert not bare[0] & bare[2]
    assert not bare[1] & bare[2]
    assert parts.grouped >= 150


def test_labels_are_spread_in_proportion():
    rows = [
        LabelledRow(n, None, row.text, "rare" if n % 20 == 0 else "common", {})
        for n, row in enumerate(rows_of(5, 1000).rows)
    ]
    parts = _split(rows)
    for part, share in ((parts.propose, 0.30), (parts.select, 0.35)):
        counts = Counter(row.label for row in part)
        assert counts["rare"] == pytest.approx(50 * share, abs=1.5)
        assert counts["common"] == pytest.approx(950 * share, abs=1.5)
    small = _split(rows, most_judged=100).judge
    assert small.size == 100
    assert small.labels["rare"] == 5


def test_the_seed_and_nothing_else_decides():
    rows = rows_of(7, 300).rows
    one, two, three = _numbers(_split(rows))
    assert _numbers(_split(rows)) == [one, two, three]
    assert _numbers(_split(rows, seed=1)) != [one, two, three]
    smaller = _numbers(_split(rows, most_judged=50))
    assert smaller[:2] == [one, two]
    assert smaller[2] < three


# What cannot be split


def test_too_few_rows():
    with pytest.raises(InputError, match="10 usable rows"):
        _split(rows_of(0, 10).rows)


def test_one_label():
    rows = [LabelledRow(row.number, None, row.text, "positive", {}) for row in rows_of(0, 100).rows]
    with pytest.raises(InputError, match=r"'positive'.*always says it"):
        _split(rows)


# The third part


def test_the_third_part_is_given_out_once_and_only_after_it_was_written_down():
    rows = rows_of(0, 10).rows
    part = SealedPart(rows, [row.text for row in rows])

    def fail(_part):
        raise OutputError("disk full")

    with pytest.raises(OutputError):
        part.open(fail)
    written = []
    assert part.open(written.append) == tuple(rows)
    assert written == [part]
    with pytest.raises(RuntimeError, match="twice"):
        part.open(written.append)


def test_rows_that_have_judged_judge_no_more():
    rows = rows_of(9, 200).rows
    judged = _numbers(_split(rows))[2]
    used = {text_digest(row.text) for row in rows if row.number in judged}
    same = _split(rows, used=used)
    assert same.judge.size == 0
    assert same.stale == len(judged)
    other = _split(rows, used=used, seed=1)
    assert 0 < other.judge.size < 70
    assert not _numbers(other)[2] & judged


def test_the_ledger_remembers_by_task_and_survives_a_cut_line(tmp_path):
    ledger = Ledger(tmp_path / "improve", "sentiment")
    assert ledger.used() == set()
    ledger.add(["a", "b"], source="file", winner="w")
    with (tmp_path / "improve" / "judged.jsonl").open("a") as file:
        file.write('{"task": "sentiment", "rows": ["c"')
    ledger.add(["d"], source="file", winner="w")
    assert ledger.used() == {"a", "b", "d"}
    assert ledger.times("file") == 2
    assert Ledger(tmp_path / "improve", "emotion").used() == set()
    assert (tmp_path / "improve" / "judged.jsonl").stat().st_mode & 0o77 == 0


def test_the_ledger_holds_no_text(tmp_path):
    ledger = Ledger(tmp_path, "sentiment")
    ledger.add([text_digest("我的电话是13800000000")], source="file", winner="w")
    assert "138" not in (tmp_path / "judged.jsonl").read_text()


def test_without_a_ledger_nothing_is_judged(tmp_path):
    (tmp_path / "improve").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="cannot be written"):
        Ledger(Path(tmp_path / "improve"), "sentiment").add(["a"], source="f", winner="w")
