"""Mask personal data in a cleaned comment, so that no model, cache or file sees it.

What is looked for has a form that can be told from other numbers: e-mail addresses; telephone numbers (Chinese mobile
and landline, international, and what is called a telephone number); Chinese ID-card numbers (18 digits with a right
check digit, 15 with a right date and province); bank cards (13 to 19 digits, Luhn); house numbers in Chinese and
English addresses. Prices, dates, sizes, versions and numbers of orders stay. A number that could be an order's or a
person's is masked, unless the comment itself calls it an order's; a mobile or ID-card number is masked in any case.

Names, and numbers that are spelled out in words, are not found.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from datetime import date
from typing import Final, Literal, NamedTuple

from reviewmill.text.clean import CleanText, hide
from reviewmill.text.language import detect_language

Kind = Literal["phone", "id", "email", "card", "house"]

_CHINESE: Final[dict[Kind, str]] = {
    "phone": "[电话]",
    "id": "[身份证]",
    "email": "[邮箱]",
    "card": "[卡号]",
    "house": "[门牌]",
}
_OTHERS: Final[dict[Kind, str]] = {
    "phone": "[phone]",
    "id": "[ID]",
    "email": "[email]",
    "card": "[card]",
    "house": "[number]",
}
PLACEHOLDERS: Final = (*_CHINESE.values(), *_OTHERS.values())
"""What stands for personal data. Brackets are how platforms write "not words"; the model reads what was there."""

FLAG: Final = "redacted"


class _Place(NamedTuple):
    start: int
    end: int
    kind: Kind


def redact(cleaned: CleanText) -> CleanText:
    """Put placeholders in the place of personal data.

    Args:
        cleaned: what `clean` returned; before `shorten`, which could cut a number in two.

    Returns:
        `cleaned` itself if there is nothing to mask; else a text with placeholders (Chinese ones in Chinese comments),
        their places in `masked`, and the flag `redacted`. Slices of it still lead back to the original.
        `redact(redact(c)) == redact(c)`, and the time is linear in the length of the text.
    """
    names: dict[Kind, str] | None = None
    # A mask ends what stood beside it too, so that a number may stand alone only after the first round.
    while _SUSPECT.search(cleaned.text) and (places := _places(cleaned.text)):
        if names is None:
            names = _CHINESE if (detect_language(cleaned.text) or "").startswith("zh") else _OTHERS
        cleaned = hide(cleaned, [(place.start, place.end, names[place.kind]) for place in places], FLAG)
    return cleaned


_SUSPECT: Final = re.compile(r"\d|[@＠]")


def _places(text: str) -> list[_Place]:
    """Where personal data stand: in order, without overlaps; the surer kind wins."""
    taken = bytearray(len(text))
    places: list[_Place] = []
    for find in (_emails, _long_numbers, _phones, _houses):
        for place in find(text):
            if not any(taken[place.start : place.end]):
                taken[place.start : place.end] = b"\1" * (place.end - place.start)
                places.append(place)
    return sorted(places)


# --- E-mail ---

# Letters, digits and _ of any script but the East Asian ones, which run into the sentence.
_LETTER: Final = r"[^\W\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
_EMAIL: Final = re.compile(
    rf"(?<!{_LETTER}){_LETTER}(?:{_LETTER}|[.%+-]){{0,63}}+[@＠]"
    rf"(?:{_LETTER}(?:{_LETTER}|-){{0,62}}+\.){{1,8}}[^\W\d_\u2e80-\u9fff\uac00-\ud7af]{{2,24}}"
)


def _emails(text: str) -> Iterator[_Place]:
    return (_Place(*match.span(), "email") for match in _EMAIL.finditer(text))


# --- ID cards and bank cards ---

_DIGITS: Final = re.compile(r"\d+")
_RUN: Final = re.compile(r"\d+(?:[ -]\d+)*")
_LONGEST: Final = 19
_CARDS: Final = {
    13: re.compile("4"),
    14: re.compile("3[0689]"),
    15: re.compile("3[47]"),
    16: re.compile("2[2-7]|35|[456]|955"),
    17: re.compile("[456]|955"),
    18: re.compile("[456]|955"),
    19: re.compile("[456]|955"),
}
"""What card numbers of each length begin with (ISO/IEC 7812, and the Chinese banks' older 955...)."""
_PROVINCE: Final = re.compile("1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3]")
_REFERENCE: Final = re.compile(
    r"(?:订单|訂單|单号|單號|运单|運單|快递单|流水|编号|編號|货号|型号|条码|(?<![A-Za-z])(?:order|tracking|invoice|serial|isbn|sku|item))"
    r"(?: ?(?:编?号码?|編?號碼?|number|no\.?|id))?[ :：#是为為=]{0,3}\Z",
    re.IGNORECASE,
)
_LOOK_BACK: Final = 24


def _is_reference(text: str, start: int) -> bool:
    """Whether the comment says that the number which begins here is an order's or a thing's."""
    return bool(_REFERENCE.search(text[max(0, start - _LOOK_BACK) : start]))


def _long_numbers(text: str) -> Iterator[_Place]:
    """ID cards and bank cards: what neighbouring groups of digits make together."""
    for run in _RUN.finditer(text):
        if run.end() - run.start() < min(_CARDS):
            continue
        groups = [match.span() for match in _DIGITS.finditer(text, *run.span())]
        first = 0
        while first < len(groups):
            place, after = _longest_number(text, groups, first)
            if place is not None:
                yield place
            first = after


def _longest_number(text: str, groups: list[tuple[int, int]], first: int) -> tuple[_Place | None, int]:
    """The longest number that begins with this group, if there is one, and the group to go on with."""
    digits = ""
    found, after = None, first + 1
    for last in range(first, len(groups)):
        start, end = groups[last]
        if len(digits) + end - start > _LONGEST or (last > first and _is_short(groups[last - 1])):
            break
        digits += "".join(str(unicodedata.decimal(character)) for character in text[start:end])
        if place := _number(text, groups[first][0], end, digits):
            found, after = place, last + 1
    return found, after


def _is_short(group: tuple[int, int]) -> bool:
    """Whether a group is too short to be followed by more of the same number: sizes and dates are written so."""
    return group[1] - group[0] < 4


def _number(text: str, start: int, end: int, digits: str) -> _Place | None:
    if len(digits) == 17 and re.match(r"[Xx](?!\d)", text[end : end + 2]) and _is_id(digits + "X"):
        return _Place(start, end + 1, "id")
    if len(digits) == 18 and _is_id(digits):
        return _Place(start, end, "id")
    if len(digits) not in _CARDS or _is_reference(text, start):
        return None
    if len(digits) == 15 and _PROVINCE.match(digits) and _is_date("19" + digits[6:12]):
        return _Place(start, end, "id")
    return _Place(start, end, "card") if _CARDS[len(digits)].match(digits) and _passes_luhn(digits) else None


def _is_id(number: str) -> bool:
    """GB 11643-1999: a date of birth, and a check digit by ISO 7064 MOD 11-2."""
    remainder = sum(int(digit) * 2 ** (17 - place) for place, digit in enumerate(number[:17])) % 11
    return number[0] != "0" and number[17] == "10X98765432"[remainder] and _is_date(number[6:14])


def _is_date(digits: str) -> bool:
    year, month, day = int(digits[:4]), int(digits[4:6]), int(digits[6:])
    try:
        date(year, month, day)
    except ValueError:
        return False
    return 1850 <= year < 2100


def _passes_luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return sum(number - 9 if number > 9 else number for number in doubled) % 10 == 0


# --- Telephone numbers ---

_SEP: Final = r"[ ._·—–-]?"
_BETWEEN: Final = r"[ .()（）-]{0,2}"
_CHINA: Final = rf"(?:[(（]?(?:\+|00)?86[)）]?{_SEP})"
_MONEY: Final = r"(?! ?[元块塊圆円万亿¥￥])"

_PERSONAL: Final = re.compile(
    rf"(?<!\d)(?:{_CHINA}|0|[(（])?1[3-9]\d[)）]?"
    rf"(?:{_SEP}\d{{4}}{_SEP}\d{{4}}|\d{_SEP}\d{{3}}{_SEP}\d{{4}}|\d\d{_SEP}\d{{6}}|{_SEP}\d{{3}}{_SEP}\d{{5}})(?!\d)"
    # +1 and +7 have eleven digits in all; the others ten to fifteen (ITU-T E.164).
    rf"|(?<![\d+])\+ ?(?:[17](?:{_BETWEEN}\d){{10}}|[2-689](?:{_BETWEEN}\d){{9,14}})(?!\d)"
    rf"|(?<!\d)00 ?[1-9]\d{{0,2}}[ -](?:{_BETWEEN}\d){{7,12}}(?!\d)"
)
"""Mobile numbers of China, and numbers with a country code: masked wherever they stand."""

_LANDLINES: Final = re.compile(
    rf"(?<!\d){_CHINA}?[(（]?0(?:10|2\d|[3-9]\d\d)[)）]?{_SEP}[2-8]\d{{2,3}}{_SEP}\d{{4}}"
    r"(?: ?(?:转|轉|-|ext\.?|#) ?\d{1,6})?(?!\d)"
    rf"|(?<![\d.])[48]00-?(?:\d{{3}}-?\d{{4}}|\d{{4}}-?\d{{3}})(?!\d){_MONEY}"
    r"|(?<![\d.-])(?:1[-. ])?(?:[(（][2-9]\d\d[)）] ?|[2-9]\d\d[-.])[2-9]\d\d[-. ]\d{4}(?!\d)"  # North America
    r"|(?<!\d)0[1-9](?:[ .-]\d\d){4}(?!\d)"  # France
    r"|(?<!\d)0(?:7\d{9}|9\d\d-?\d{3}-?\d{3})(?!\d)"  # mobile numbers of Britain and Taiwan
    r"|(?<!\d)0\d{1,4}[ -]\d{3,4}[ -]\d{3,4}(?!\d)"
)
_CALLED: Final = re.compile(
    r"(?:电话|電話|手机号|手機號|座机|固话|热线|熱線|致电|拨打|联系方式|传真|微信号?"
    r"|(?<![A-Za-z])(?:tel|phone|mobile|call|whatsapp|fax)(?![A-Za-z])\.?)"
    r"(?:号码?|號碼?|(?: ?(?:number|no\.?|me|us|at|on|is)\b){0,3})?[ :：#是为為]{0,3}"
    # No date: the call was then.
    rf"(?P<number>(?!(?:19|20)\d\d[-./年])[(（]?\d(?:{_BETWEEN}\d){{6,14}})(?!\d){_MONEY}",
    re.IGNORECASE,
)


def _phones(text: str) -> Iterator[_Place]:
    for match in _PERSONAL.finditer(text):
        yield _Place(*match.span(), "phone")
    for match in _LANDLINES.finditer(text):
        if not _is_reference(text, match.start()):
            yield _Place(*match.span(), "phone")
    for match in _CALLED.finditer(text):
        yield _Place(*match.span("number"), "phone")


# --- House numbers ---

_NUMBER: Final = r"[甲乙丙丁附]?[A-Za-z]?\d{1,5}(?:[A-Za-z](?![A-Za-z]))?(?:[—－-][A-Za-z]?\d{1,5}){0,3}"
_THING: Final = r"(?!\d|[.,]\d| ?[元块塊¥￥%度平米个個件款人天年月日次分秒])"
_PARTS: Final = rf"(?:[院内內]? ?{_NUMBER} ?(?:号[楼院]|[号號弄栋棟幢座层層楼樓室房户戶]|[单單]元))"
_FLAT: Final = rf"(?:(?<=[元栋棟幢座楼樓])\d{{3,5}}{_THING})"
_INSIDE: Final = rf"(?:{_PARTS}*{_FLAT}?)"
"""Building, staircase, floor and flat, as they follow a house's number."""

_HOUSES: Final = re.compile(
    # 中山路12号3栋502室. "知道3号到" is a date, hence no 道 alone; "路2号线" is a metro.
    rf"(?:(?<=[路街巷])|(?<=大道)|(?<=胡同)|(?<=新村)) ?{_NUMBER} ?(?:号[楼院]?|號|弄)(?![线線码碼口]){_INSIDE}"
    # A building alone is where a hotel put somebody; with a flat, or after an estate's name, it is an address.
    rf"|(?<![A-Za-z\d.第]){_NUMBER} ?(?:号[楼院]|[栋棟幢])(?:{_PARTS}+{_FLAT}?|{_FLAT})"
    rf"|(?<=[园園苑区區厦府城寓]){_NUMBER} ?(?:号[楼院]|[栋棟幢])"
    rf"|(?<![A-Za-z\d.第]){_NUMBER} ?[单單]元 ?\d{{2,5}}{_THING}[室房号號]?"
    rf"|(?<![A-Za-z\d.])(?:[A-Za-z]座 ?\d{{3,5}}{_THING}[室房号號]?|\d{{1,3}}座 ?\d{{3,5}}[室房号號])"
    r"|(?<![\d.])\d{3,5}室(?![内內外温溫])"
    r"|(?:(?<=小区)|(?<=小區)|(?<=公寓)|(?<=[园園苑城府])) ?\d{1,3}-(?:\d{1,3}-)?\d{3,4}(?![\d-])"
)
_STREET_WORD: Final = r"(?:[A-Z][A-Za-z'’.-]*|\d{1,3}(?:st|nd|rd|th))"
_STREET: Final = (
    r"(?:Street|STREET|St|Avenue|AVENUE|Ave|Road|ROAD|Rd|Boulevard|Blvd|Lane|LANE|Ln|Drive|DRIVE|Dr|Court|Place|Square"
    r"|Terrace|Parkway|Pkwy|Highway|Hwy|Crescent|Close|Way)"
)
_ENGLISH_HOUSES: Final = re.compile(
    rf"(?<![A-Za-z\d.,#$£€/-])\d{{1,5}}[A-Za-z]?(?= (?:{_STREET_WORD} ){{1,4}}{_STREET}(?![A-Za-z]))"
    r"|(?:(?<=Apt )|(?<=Apt\. )|(?<=Apartment )|(?<=Suite ))#?\d{1,5}(?:[A-Za-z](?![A-Za-z]))?(?!\d)"
)


def _houses(text: str) -> Iterator[_Place]:
    for pattern in (_HOUSES, _ENGLISH_HOUSES):
        for match in pattern.finditer(text):
            yield _Place(*match.span(), "house")
