"""Keywords are found in the original, or dropped."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reviewmill.text import JOINT, clean, locate, shorten

PIECES = st.lists(
    st.sampled_from(
        [
            *("好", "好评", "差差差差差", "<b>", "&hellip;", "&amp;", "ＯＫ", "Good", "goods ", " ", "\n", "å¥½è¯„"),
            *("👨\u200d👩", "e\u0301", "http://a.cn/b", "@tom ", "İ", "ß", "\ud800", "\x00", "，", "\u200b", "!!!!!"),
            "物流很快，包装也很好！" * 3,
        ]
    ),
    max_size=30,
).map("".join)


@given(PIECES, st.integers(0, 2**32), st.lists(st.text(max_size=4), max_size=3), st.integers(8, 40))
@settings(max_examples=500)
def test_every_span_is_a_slice_of_the_original(text, seed, others, limit) -> None:
    pick = random.Random(seed)
    for comment in (clean(text), shorten(clean(text), limit)):
        cut = [pick.randrange(len(comment.text) + 1) for _ in range(5)]
        taken = [comment.text[at : at + pick.randint(1, 5)] for at in cut]
        keywords = [*taken, *(word.upper() for word in taken), *others]
        spans = locate(keywords, comment)
        assert len(spans) <= len(keywords)
        assert len({span["text"] for span in spans}) == len(spans)
        for span in spans:
            assert span["text"] != ""
            assert text[span["start"] : span["end"]] == span["text"]


@given(PIECES, st.integers(8, 40))
def test_no_span_crosses_the_cut(text, limit) -> None:
    shorter = shorten(clean(text), limit)
    if shorter.joint is None:
        return
    head_end = shorter.to_original(shorter.joint[0] - 1, shorter.joint[0])[1] if shorter.joint[0] else 0
    tail = (shorter.joint[1], shorter.joint[1] + 1)
    tail_start = shorter.to_original(*tail)[0] if tail[1] <= len(shorter.text) else len(text)
    windows = [shorter.text[i : i + n] for i in range(len(shorter.text)) for n in (1, 4, 7)]
    for span in locate(windows, shorter):
        assert span["end"] <= head_end or span["start"] >= tail_start


@pytest.mark.parametrize(
    ("text", "keywords", "expected"),
    [
        ("这个手机拍照太差了", ["拍照", "差"], ["拍照", "差"]),
        ("这个手机拍照太差了", ["差", "拍照", "屏幕"], ["差", "拍照"]),
        ("很<b>好</b>吃", ["很好吃"], ["很<b>好</b>吃"]),
        ("太太太太太好", ["太太太好"], ["太太太太太好"]),
        ("Battery is BAD", ["battery", " bad ", "Bad"], ["Battery", "BAD"]),
        ("ＧＯＯＤ！", ["good!"], ["ＧＯＯＤ！"]),
        ("smart and art", ["art"], ["art"]),
        ("I recommended it", ["recommend"], ["recommend"]),
        ("质量å¥½è¯„啊", ["好评"], ["å¥½è¯„"]),
        ("好 好", ["好", "好", ""], ["好"]),
        ("差", ["", "  ", "好"], []),
        ("", ["好"], []),
        ("İSTANBUL güzel", ["istanbul", "GÜZEL"], ["güzel"]),
    ],
)
def test_locate(text, keywords, expected) -> None:
    spans = locate(keywords, clean(text))
    assert [span["text"] for span in spans] == expected
    for span in spans:
        assert text[span["start"] : span["end"]] == span["text"]
    json.dumps(spans)


def test_a_whole_word_is_preferred_to_a_part_of_one() -> None:
    assert locate(["art"], clean("smart and art")) == [{"text": "art", "start": 10, "end": 13}]


def test_the_joint_is_no_keyword_and_the_tail_is_found() -> None:
    text = "开头很好。" + "".join(chr(0x5000 + i) for i in range(300)) + "结尾很差"
    shorter = shorten(clean(text), 40)
    assert locate([JOINT, "…"], shorter) == []
    assert locate(["很差"], shorter) == [{"text": "很差", "start": len(text) - 2, "end": len(text)}]
