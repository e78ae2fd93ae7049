"""Cleaning: what changes, what stays, where it came from, and what hostile input can do (nothing)."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from growth import grows_linearly
from reviewmill.text import JOINT, MENTION_PLACEHOLDER, URL_PLACEHOLDER, clean, shorten

FRAGMENTS = st.sampled_from(
    [
        *(
            "好评",
            "太",
            "差差差差差",
            "物流很快，包装也很好，下次再来！",
            "這家店真的很讚",
            "不是不好",
            "哈哈哈哈哈",
            "666",
            "10000000",
        ),
        *("very good ", "goooood", "!!!!!!", "。。。。。", "……", "，", " ", "　", "\n", "\r\n", "\u00a0", "\t\t"),
        *(
            "<b>",
            "</b>",
            "<br/>",
            "<",
            ">",
            "<3",
            "a<b",
            "&amp;",
            "&",
            ";",
            "amp;",
            "lt;",
            "&lt;",
            "&gt;",
            "&#",
            "&#128514;",
        ),
        *(
            "<img src='x' alt=\"[怒]\">",
            "&nbsp;",
            "&hellip;",
            "&#55357;&#56832;",
            "&zwj;",
            "&#8203;",
            "b>",
            "<!-- x -->",
        ),
        *("å¥½è¯„", "â€™", "â€‹", "å", "¥½", "\x84", "Ã©", "é…"),
        *(
            "👍",
            "👨\u200d👩\u200d👧",
            "❤\ufe0f",
            "🤷🏻\u200d♀\ufe0f",
            "🇨🇳",
            "1\ufe0f\u20e3",
            "[微笑]",
            "\u200d",
            "\ufe0f",
            "\U000e0041",
        ),
        *("\ud83d", "\ude00", "\ud800", "\x00", "\u200b", "\ufeff", "\u202e", "\x07", "\x85", "\ue411", "\ufffe"),
        *(
            "http://a.cn/b?c=1",
            "https://x.com",
            "www.shop.com",
            "@tom",
            "@user",
            "@声音小",
            "//@张三:",
            "回复@李四：",
            "@",
            "/",
        ),
        *(
            "ＡＢＣ",
            "１２３",
            "％",
            "e\u0301",
            "\u0301",
            "\u0327",
            "ｶﾞ",
            "\u1112\u1161\u11ab",
            "か\u3099",
            "ﬁ",
            "⼈",
            "𝓰",
            "™①²",
        ),
    ]
)
MIXED = st.lists(FRAGMENTS, max_size=14).map("".join)
REPEATED = st.tuples(MIXED, st.integers(1, 9), MIXED).map(lambda parts: parts[0] * parts[1] + parts[2])
CODE_POINTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
SMALL_ALPHABET = st.text("ab<>&;@ 好1\u0301\u200d👨\ufe0f", max_size=60)
ANY_TEXT = st.one_of(MIXED, REPEATED, CODE_POINTS, SMALL_ALPHABET)


@given(ANY_TEXT)
@settings(max_examples=600)
def test_cleaning_twice_is_cleaning_once(text) -> None:
    once = clean(text)
    assert once.original == text
    assert clean(once.text).text == once.text


@given(ANY_TEXT)
@settings(max_examples=400)
def test_offsets_run_forward_inside_the_original(text) -> None:
    cleaned = clean(text)
    before = (0, 0)
    for position in range(len(cleaned.text)):
        start, end = cleaned.to_original(position, position + 1)
        assert 0 <= start < end <= len(text)
        assert start >= before[0]
        assert end >= before[1]
        before = (start, end)
    assert cleaned.to_original(0, 0)[0] == cleaned.to_original(0, 0)[1]


@given(ANY_TEXT)
def test_a_slice_maps_to_the_hull_of_its_characters(text) -> None:
    cleaned = clean(text)
    if cleaned.text:
        middle = len(cleaned.text) // 2
        first, last = cleaned.to_original(0, 1), cleaned.to_original(middle, middle + 1)
        assert cleaned.to_original(0, middle + 1) == (first[0], last[1])


@given(ANY_TEXT)
def test_the_result_can_be_encoded_and_is_trimmed(text) -> None:
    result = clean(text).text
    result.encode("utf-8")
    assert result == result.strip()
    assert "\x00" not in result
    assert "\n" not in result
    assert "  " not in result


@given(ANY_TEXT, st.integers(8, 60))
def test_shortening_keeps_offsets_and_never_maps_across_the_cut(text, limit) -> None:
    cleaned = clean(text)
    shorter = shorten(cleaned, limit)
    assert len(shorter.text) <= limit
    if len(cleaned.text) <= limit:
        assert shorter is cleaned
        return
    assert "shortened" in shorter.flags
    assert shorter.joint is not None
    start, end = shorter.joint
    assert shorter.text[start:end] == JOINT
    assert cleaned.text.startswith(shorter.text[:start])
    assert cleaned.text.endswith(shorter.text[end:])
    for position in range(start):
        assert shorter.to_original(position, position + 1) == cleaned.to_original(position, position + 1)
    shift = len(cleaned.text) - len(shorter.text)
    for position in range(end, len(shorter.text)):
        same = position + shift
        assert shorter.to_original(position, position + 1) == cleaned.to_original(same, same + 1)


@pytest.mark.parametrize(
    "text",
    [
        "这个手机拍照太差了，根本不像宣传那样清晰。",
        "這家店的服務真的很讚，下次還會再來！",
        "Great phone, but the battery sucks…",
        "爱你 <3 价格<100 a<b and c>d",
        "<推荐>大家买，3>2",
        "R&D做得好；A&B",
        "，。！？：；（）“”～……——、《》",
        "好吃™ ①②③ x² ½ 60㎡ 25℃ Ⅱ代",
        "👍👨‍👩‍👧🤷🏻‍♀️❤️‍🔥 1️⃣ 🇨🇳",
        "[微笑][怒] 呵呵",
        "哈哈哈，666，花了10000000元",
        "9、@声音小。 @有破音，退货",
        "邮箱 a.b@shop.com",
        "café… déjà vu, São Paulo",
        "超级超级好，非常非常非常满意",
        "สวัสดี مرحبا привет 안녕 こんにちは नमस्ते",
        "می‌خواهم",
        "",
    ],
)
def test_these_stay_as_they_are(text) -> None:
    cleaned = clean(text)
    assert cleaned.text == text
    assert cleaned.flags == ()
    assert cleaned.to_original(0, len(text)) == (0, len(text))


@pytest.mark.parametrize(
    ("text", "expected", "flags"),
    [
        ("太太太太太好", "太太太好", ("squeezed",)),
        ("差差差差差", "差差差", ("squeezed",)),
        ("好用!!!!!!", "好用!!!", ("squeezed",)),
        ("哈哈哈哈哈哈哈", "哈哈哈", ("squeezed",)),
        ("垃圾垃圾垃圾垃圾垃圾", "垃圾垃圾垃圾", ("squeezed",)),
        ("very very very very very good", "very very very good", ("squeezed",)),
        ("❤️❤️❤️❤️❤️", "❤️❤️❤️", ("squeezed",)),
        ("质量好，服务也不错，推荐。" * 6, "质量好，服务也不错，推荐。", ("squeezed",)),
        ("1" * 40, "111", ("squeezed",)),
        ("<p>很<b>好</b>吃<br/>真的</p>", "很好吃 真的", ("html",)),
        ("不错&hellip;&hellip;推荐&nbsp;&nbsp;买", "不错……推荐 买", ("html",)),
        ("&amp;amp;lt;3 爱你", "<3 爱你", ("html",)),
        ("&lt;b&gt;好&lt;/b&gt;", "好", ("html",)),
        ("&#22909;&#x8bc4;", "好评", ("html",)),
        ("客服<img class='e' alt=\"[怒]\" src=x>差", "客服[怒]差", ("html",)),
        ("<!-- note -->好", "好", ("html",)),
        ("&unknown; &ampx;", "&unknown; &ampx;", ()),
        ("质量å¥½è¯„ï¼Œå¾ˆå¥½", "质量好评，很好", ("mojibake_fixed",)),
        ("donâ€™t buy", "don’t buy", ("mojibake_fixed",)),
        ("ðŸ˜‚", "😂", ("mojibake_fixed",)),
        ("ｉＰｈｏｎｅ１５，１００％好！", "iPhone15，100%好！", ()),
        ("cafe\u0301 か\u3099 \u1112\u1161\u11ab ｶﾞ ⼈ 𝓰𝓸𝓸𝓭", "café が 한 ガ 人 good", ()),
        ("好\u0301\u0302\u0303\u0304\u0305", "好\u0301\u0302\u0303", ()),
        ("好\u200b吃\ufeff\u202e\x07", "好吃", ()),
        ("好\U000e0049\U000e0067吃", "好吃", ()),
        ("好\u200d吃\ufe0f", "好吃", ()),
        ("a\x00b\ud800c", "abc", ("invalid_characters",)),
        ("\ud83d\ude00好", "😀好", ("invalid_characters",)),
        ("&#55357;&#56832;好", "😀好", ("invalid_characters", "html")),
        ("旧手机\ue411", "旧手机😭", ()),
        ("  很好\r\n\r\n　吃\u00a0啊\t", "很好 吃 啊", ()),
        ("看 https://a.cn/b?c=1，很好", f"看 {URL_PLACEHOLDER}，很好", ()),
        ("Www.shop.com不行", f"{URL_PLACEHOLDER}不行", ()),
        ("@tom_1 看看", f"{MENTION_PLACEHOLDER} 看看", ()),
        ("垃圾//@张三:同意 回复@李四：对", f"垃圾//{MENTION_PLACEHOLDER}:同意 回复{MENTION_PLACEHOLDER}：对", ()),
        (" \n\t", "", ()),
    ],
)
def test_these_change(text, expected, flags) -> None:
    cleaned = clean(text)
    assert cleaned.text == expected
    assert cleaned.flags == flags


@pytest.mark.parametrize(
    ("text", "part", "origin"),
    [
        ("<b>很</b> 好", "很", "很"),
        ("<b>很</b>好吃", "很好", "很</b>好"),
        ("不错&hellip;好", "…", "&hellip;"),
        ("太太太太太好", "太好", "太太太好"),
        ("质量å¥½è¯„啊", "评", "è¯„"),
        ("cafe\u0301", "é", "e\u0301"),
        ("ＡＢＣ好", "BC", "ＢＣ"),
        ("看 https://a.cn/b 好", URL_PLACEHOLDER, "https://a.cn/b"),
        ("@abcd 好", "@u", "@abcd"),
        ("  &amp;lt;<b>x", "<", "&amp;lt;"),
    ],
)
def test_offsets_lead_to_the_smallest_slice(text, part, origin) -> None:
    cleaned = clean(text)
    at = cleaned.text.index(part)
    start, end = cleaned.to_original(at, at + len(part))
    assert text[start:end] == origin


def test_a_slice_outside_the_text_is_refused() -> None:
    cleaned = clean("很好")
    for start, end in [(-1, 1), (0, 3), (2, 1)]:
        with pytest.raises(ValueError, match="not inside"):
            cleaned.to_original(start, end)


def test_shorten_keeps_head_and_tail_and_whole_emoji() -> None:
    comment = clean("".join(chr(0x4E00 + i) for i in range(500)))
    shorter = shorten(comment, 103)
    assert shorter.text == comment.text[:60] + JOINT + comment.text[-40:]
    assert shorter.to_original(99, 103) == (496, 500)
    family = "👨\u200d👩\u200d👧"
    emoji = shorten(clean("啊" + "一二三四五六七八九" + family + "甲乙丙丁戊己庚辛壬癸" * 2 + family + "好"), 20)
    assert emoji.text.replace(family, "").count("\u200d") == 0
    again = shorten(shorter, 53)
    assert again.text == comment.text[:30] + JOINT + comment.text[-20:]
    assert again.flags == ("shortened",)


def test_shorten_refuses_a_limit_without_room() -> None:
    with pytest.raises(ValueError, match="max_chars is 7"):
        shorten(clean("很好"), 7)


def test_encodings_nested_without_end_are_unreadable_not_slow() -> None:
    levels = range(2000)
    nested = clean("".join(f"<b a{i}=1 " for i in levels) + "".join(f" c{i}=2>" for i in levels))
    assert (nested.text, nested.flags) == ("", ("unreadable",))
    assert nested.to_original(0, 0)[0] <= len(nested.original)
    assert clean("&" + "amp;" * 200_000 + "lt;3").text == "<3"


@pytest.mark.parametrize(
    "unit",
    [
        "a<",
        "好评",
        "\u0301",
        "\u0301\u0327",
        "<b><i>",
        "&amp;",
        "&#60;b",
        '<b a="',
        "www.a.!!",
        "👨\u200d",
        " \u3000",
        "å¥½è¯„",
        "\ud83d",
    ],
)
def test_time_is_linear_on_hostile_input(unit) -> None:
    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        begin = time.process_time()
        clean(text)
        return time.process_time() - begin

    assert grows_linearly(seconds, 15_000, 240_000)
