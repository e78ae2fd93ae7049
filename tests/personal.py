"""Made-up personal data in all the forms that are masked. No number here was given to anybody on purpose."""

from __future__ import annotations

from datetime import date

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy


def digits(least: int, most: int | None = None) -> SearchStrategy[str]:
    return st.text("0123456789", min_size=least, max_size=most or least)


def check_digit(seventeen: str) -> str:
    """The last character of an ID-card number, by the table in the standard."""
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return "10X98765432"[sum(int(digit) * weight for digit, weight in zip(seventeen, weights, strict=True)) % 11]


def with_luhn(digits: str) -> str:
    """The number with the last digit that makes it a card's."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        number = int(digit) * 2 if place % 2 == 0 else int(digit)
        total += number // 10 + number % 10
    return digits + str(-total % 10)


def grouped(number: str, *sizes: int, by: str) -> str:
    parts, at = [], 0
    for size in sizes:
        parts.append(number[at : at + size])
        at += size
    return by.join(filter(None, (*parts, number[at:])))


SEPARATORS = st.sampled_from(["", " ", "-"])
PREFIXES = st.sampled_from(["", "", "+86", "+86 ", "86-", "0086", "(+86)", "（86）"])

mobiles = st.builds(
    lambda prefix, second, rest, sizes, by: prefix + grouped(f"1{second}{rest}", *sizes, by=by),
    PREFIXES,
    st.sampled_from("3456789"),
    digits(9),
    st.sampled_from([(3, 4, 4), (3, 8), (7, 4), (4, 3, 4), (5, 6)]),
    SEPARATORS,
)
landlines = st.builds(
    lambda area, by, first, rest: f"{area}{by}{first}{rest}",
    st.sampled_from(["010", "021", "0571", "(020)", "（0755）", "+86 10", "+86-571-"]),
    SEPARATORS,
    st.sampled_from("2345678"),
    digits(7),
)
abroad = st.sampled_from(
    ["+1 415 555 2671", "+1 (212) 555-0199", "+14155550123", "+44 20 7946 0958", "+49 (30) 901820-13",
     "+81-90-1234-5678", "+852 2345 6789", "+6591234567", "0044 20 7946 0958",
     "415-555-2671", "(415) 555-2671", "0912-345-678"]
)  # fmt: skip
id_cards = st.builds(
    lambda area, born, number, lower: (
        area + f"{born:%Y%m%d}" + number + check_digit(area + f"{born:%Y%m%d}" + number)
    ).replace("X", "x" if lower else "X"),
    st.sampled_from(["110105", "310104", "440524", "510107", "653201"]),
    st.dates(date(1900, 1, 1), date(2025, 12, 31)),
    digits(3),
    st.booleans(),
)
old_id_cards = st.builds(
    lambda area, born, number: area + f"{born:%y%m%d}" + number,
    st.sampled_from(["110105", "310104", "440524", "510107"]),
    st.dates(date(1920, 1, 1), date(1999, 12, 31)).filter(lambda born: (born.month, born.day) != (2, 29)),
    digits(3),
)
cards = st.builds(
    lambda start, rest, by: grouped(with_luhn(start + rest), 4, 4, 4, 4, by=by),
    st.sampled_from(["622202", "621700", "436742", "955880", "601428", "453242", "510510"]),
    st.one_of(digits(9), digits(11), digits(12)),
    SEPARATORS,
).filter(lambda card: not any(digit * 4 in card for digit in "0123456789"))
"""Longer runs of one digit are squeezed by cleaning, before anybody looks for numbers."""

words = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=12)
emails = st.builds(
    lambda local, dot, at, domain, top: f"{local}{dot}{at}{domain}{top}",
    words,
    st.sampled_from(["", ".x", "_1", "+tag"]),
    st.sampled_from(["@", "@", "＠"]),
    words,
    st.sampled_from([".com", ".cn", ".com.cn", ".co.uk", ".museum"]),
)
numbers = st.one_of(mobiles, landlines, abroad, id_cards, old_id_cards, cards)
houses = st.sampled_from(
    ["中山路12号", "建国路88号院5号楼2单元1203", "人民大道甲3号", "3栋502室", "A座1203", "小区12-3-502",
     "南京路300弄5号", "12 Main Street", "221B Baker Street", "350 5th Avenue"]
)  # fmt: skip
