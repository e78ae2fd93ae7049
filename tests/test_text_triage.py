"""Triage: which comments say nothing, and which short ones do say something."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewmill.text import clean, triage


@pytest.mark.parametrize("text", ["", "   ", "\u200b", "<br/>", "\x00\n"])
def test_empty(text) -> None:
    assert triage(clean(text).text) == "empty"


@pytest.mark.parametrize(
    "text",
    [
        "???",
        "！！！！！！",
        "。",
        "……",
        "12345",
        "1",
        "11111111111111111111",
        "-",
        "https://shop.cn/item?id=3",
        "@tom",
        "@tom http://a.cn !!!",
        "①",
        "/",
        "1、2、3",
    ],
)
def test_no_words(text) -> None:
    assert triage(clean(text).text) == "no_words"


@pytest.mark.parametrize(
    "text",
    [
        "此用户没有填写评价。",
        "系统默认好评",
        "系统默认好评！！！",
        "用户未填写评价内容",
        "该用户未填写评价",
        "默认好评",
        "买家未及时做出评价,系统默认好评!",
        "评价方未及时做出评价，系统默认好评！",
        "此用户未及时评价，系统默认好评。",
        "此用户未填写文字评论",
        "用户未点评，系统默认好评。",
        "此用戶沒有填寫評價。",
        "系統默認好評",
        "系統預設好評",
        "買家未及時做出評價，系統默認好評！",
        "The user did not leave a comment.",
        "This user didn’t leave a comment",
        "&nbsp;此用户没有填写评价。",
    ],
)
def test_default_texts_of_platforms(text) -> None:
    assert triage(clean(text).text) == "default_text"


@pytest.mark.parametrize(
    "text",
    [
        *("好评", "好評！", "差评", "默认好评是不可能的", "系统默认好评？差得要死", "没评价", "无语"),
        *(
            "👍",
            "❤️",
            "😡😡😡",
            "⭐⭐⭐⭐⭐",
            "★☆☆☆☆",
            "[微笑]",
            "[怒][怒]",
            ":)",
            ":-(",
            "^_^",
            "T_T",
            "-_-||",
            "<3",
            "(╯°□°)╯︵ ┻━┻",
        ),
        *(
            "666",
            "6666666",
            "233333",
            "520",
            "5201314",
            "88",
            "886",
            "995",
            "250",
            "555555",
            "9494",
            "7456",
            "748",
            "+1",
            "666！！！",
        ),
        *("10/10", "0/10", "4.5/5", "yyds", "ok", "嗯", "ㅋㅋㅋ", "@tom 好用", "https://a.cn 很差"),
    ],
)
def test_these_say_something(text) -> None:
    assert triage(clean(text).text) is None


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_a_comment_with_letters_is_never_without_words(text) -> None:
    reason = triage(text)
    assert reason in (None, "empty", "no_words", "default_text")
    if any(character.isalpha() and character not in "URLuser" for character in text):
        assert reason != "no_words"
