"""Redaction: what is masked, what stays, and that the way back to the original holds."""

from __future__ import annotations

import re
import time
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from growth import grows_linearly
from personal import cards, emails, houses, id_cards, landlines, mobiles, numbers, old_id_cards
from reviewmill.text import CleanText, clean, locate, redact, shorten, triage
from reviewmill.text.redact import PLACEHOLDERS

PROSE = "好差的，。！？买了客服态度一般不回复 \nabcXYZ：/…😀"
prose = st.text(PROSE, max_size=12)


def masked(text: str) -> str:
    return redact(clean(text)).text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("客服让我打13800138000，没人接", "客服让我打[电话]，没人接"),
        ("加V13800138000退款", "加V[电话]退款"),
        ("打 138 0013 8000 投诉", "打 [电话] 投诉"),
        ("电话(010)6234 5678转123无人", "电话[电话]无人"),
        ("拨打4008208820没用", "拨打[电话]没用"),
        ("电话62345678打不通", "电话[电话]打不通"),
        ("Call me at 555 123 4567 please", "Call me at [phone] please"),
        ("My number is +1 (415) 555-2671, call", "My number is [phone], call"),
        ("身份证11010519491231002X被泄露", "身份证[身份证]被泄露"),
        ("身份证110105 19491231 002x被泄露", "身份证[身份证]被泄露"),
        ("老身份证110105491231002", "老身份证[身份证]"),
        ("写信到abc.d+e@mail.qq.com.cn谢谢", "写信到[邮箱]谢谢"),
        ("mail me: john_smith@example.co.uk!", "mail me: [email]!"),
        ("卡号6222 0210 0111 6245 702扣了两次", "卡号[卡号]扣了两次"),
        ("They charged 4532015112830366 twice", "They charged [card] twice"),
        ("送到中山路12号，慢", "送到中山路[门牌]，慢"),
        ("建国路88号院5号楼2单元1203收", "建国路[门牌]收"),
        ("放在3栋502室门口", "放在[门牌]门口"),
        ("朝阳大街甲3号A座1203很难找", "朝阳大街[门牌][门牌]很难找"),
        ("我住花园12-3-502", "我住花园[门牌]"),
        ("送到阳光小区8号楼，没送到", "送到阳光小区[门牌]，没送到"),
        ("Delivered to 12 Main Street, Apt 5B, late", "Delivered to [number] Main Street, Apt [number], late"),
        ("ｔｅｌ：１３８００１３８０００", "tel：[phone]"),
        ("1<b>38</b>0013\u200b8000是我", "[电话]是我"),
        ("13800138000@qq.com和13800138000", "[邮箱]和[电话]"),
    ],
)
def test_what_is_masked(text, expected) -> None:
    redacted = redact(clean(text))
    assert redacted.text == expected
    assert "redacted" in redacted.flags


@pytest.mark.parametrize(
    "text",
    [
        "12.99元买的，原价￥1399.00",
        "2024-01-02下单，2024年1月5日才到，08-15-2024",
        "2024-01-02 12:34:56",
        "iPhone 15 Pro 256GB比华为Mate 60好",
        "订单号6222021001116245702还没发",
        "订单 20240102123456 还没发",
        "order no. 4532015112830366 never came",
        "物流单号：110105491231002",
        "条码6901234567892，ISBN 978-7-111-54742-6",
        "尺码180/100A，40×60厘米，腰围 175 92 100 120",
        "128 256 512三种内存，价格299 399 1299",
        "2019 2020 2021 2022年都买过",
        "5号发货，知道3号到就不买了",
        "7座2023款，3室2厅，第2单元",
        "地铁2号线，这条路3公里，长寿路5号口出来",
        "酒店8号楼很破，我们住6号楼，一共10栋",
        "at 8 PM CT on Sunday, Legion Post 80, Main St.",
        "10000000个赞 +1，2024-01-02",
        "时间戳1700000000000",
        "电话2024-01-02打的，手机 128 256 512",
        "5 star street food, 2 great shoes, call 911",
        "version 1.2.3.4, 1920x1080, 100%",
        "110105194912310021",  # the check digit is wrong, and no card begins with 1
        "4532015112830367",  # Luhn says no
        "@张三 好 a@b",
    ],
)
def test_what_stays(text) -> None:
    cleaned = clean(text)
    assert redact(cleaned) is cleaned


@pytest.mark.parametrize("text", ["13800138000", "电话 13800138000!!!"[3:], "abc@qq.com", "[电话][邮箱]"])
def test_a_comment_of_nothing_but_personal_data_says_nothing(text) -> None:
    assert triage(masked(text)) == "no_words"


@given(before=prose, number=st.one_of(mobiles, landlines, id_cards, old_id_cards, cards), after=prose)
@example("", "+86-571-62345678", "")
def test_no_digit_of_a_number_survives(before, number, after) -> None:
    assert not re.search(r"\d", masked(before + number + after))


@given(before=prose, address=emails, after=prose)
def test_no_address_survives(before, address, after) -> None:
    text = masked(before + address + after)
    assert "@" not in text
    assert "＠" not in text
    assert not re.search(r"\d", text)


@given(before=prose.map(lambda text: text + "，"), house=houses, after=prose.map("，".__add__))
def test_no_house_number_survives(before, house, after) -> None:
    text = masked(before + house + after)
    assert not re.search(r"\d(?!th)", text)
    assert "Street" not in house or "Street" in text


DECIDING: Final = (
    "路 街 号 栋 室 座 单元 楼 订单号 电话 手机号 order tel 转 元 + - . @ ( ) ， # 86 00 138 0013 8000 Main Street Apt"
)
# Texts in which numbers stand close together, and halves of them, and the words that decide about them
bits = st.one_of(
    numbers,
    emails,
    houses,
    prose,
    st.sampled_from(DECIDING.split()),
    st.text("0123456789 -+.@()Xx", max_size=25),
)
crowded = st.lists(bits, max_size=8).map("".join) | st.lists(bits, max_size=8).map(" ".join)


@given(crowded)
def test_redacting_again_changes_nothing(text) -> None:
    once = redact(clean(text))
    assert redact(once) is once
    afresh = CleanText(once.text, once.text)
    assert redact(afresh) is afresh


@given(crowded)
def test_what_is_masked_leads_back_to_what_it_stands_for(text) -> None:
    cleaned = clean(text)
    redacted = redact(cleaned)
    rebuilt, at = "", 0
    for start, end in redacted.masked:
        assert redacted.text[start:end] in PLACEHOLDERS
        first, after = redacted.to_original(start, end)
        assert redacted.to_original(start, start + 1) == (first, after)
        assert re.search(r"[\d@＠]", text[first:after])
        rebuilt += redacted.text[at:start] + "\0"
        at = end
    rebuilt += redacted.text[at:]
    # What is not masked is what was there, in its order.
    assert re.fullmatch(".+".join(map(re.escape, rebuilt.split("\0"))), cleaned.text, re.DOTALL)


@given(crowded, st.data(), st.integers(8, 60))
def test_keywords_are_slices_of_the_original_and_never_personal(text, data, limit) -> None:
    redacted = shorten(redact(clean(text)), limit)
    length = len(redacted.text)
    cuts = data.draw(st.lists(st.tuples(st.integers(0, length), st.integers(0, length)), max_size=6))
    keywords = [redacted.text[min(cut) : max(cut)] for cut in cuts] + list(PLACEHOLDERS) + ["电话", "phone", "[", "卡"]
    hidden = [redacted.to_original(*place) for place in redacted.masked]
    for span in locate(keywords, redacted):
        assert text[span["start"] : span["end"]] == span["text"] != ""
        assert all(span["end"] <= start or end <= span["start"] for start, end in hidden)


@given(crowded, st.integers(8, 60))
def test_shortening_keeps_placeholders_whole_and_knows_where_they_are(text, limit) -> None:
    redacted = redact(clean(text))
    shorter = shorten(redacted, limit)
    assert len(shorter.text) <= max(limit, 8)
    assert all(shorter.text[start:end] in PLACEHOLDERS for start, end in shorter.masked)
    places = {redacted.to_original(*place) for place in redacted.masked}
    assert {shorter.to_original(*place) for place in shorter.masked} <= places
    again = redact(shorter)
    assert again.joint is None or again.text[slice(*again.joint)] == " … "


def test_a_keyword_beside_a_placeholder_is_found() -> None:
    redacted = redact(clean("打13800138000，电话打不通"))
    assert [span["text"] for span in locate(["电话", "[电话]", "打不通"], redacted)] == ["电话", "打不通"]


@pytest.mark.parametrize(
    "unit",
    ["1", "1 ", "138", "1-", "a.", "a@", "a.b@c.", "路1号", "1栋", "12345-", "+1 ", "0 ", "1380013800 ", "5 A ",
     "电话1 ", "6222 ", "13800138000，", "Apt 5 ", "00 1", "(1)"],
)  # fmt: skip
def test_time_is_linear_on_hostile_input(unit) -> None:
    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        cleaned = CleanText(text, text)
        begin = time.process_time()
        redact(cleaned)
        return time.process_time() - begin

    assert grows_linearly(seconds, 5_000, 80_000)
