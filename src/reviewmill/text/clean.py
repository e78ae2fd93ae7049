"""Clean a comment without losing what it feels, and remember where every character came from.

`clean` repeats one round of small rewriting stages until nothing changes any more, which makes it idempotent by
construction: the result is a text on which the round does nothing. Each stage is linear in the text, and the rounds
together may read only a fixed multiple of it, so hostile input cannot make it slow.

What is left alone on purpose: Chinese full-width punctuation, "…", emoji and their joiners, platform emoticons such as
"[微笑]", and the compatibility characters whose folding would change the meaning or the look (™, ①, ², ½, ㎡, ℃).
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import unescape
from typing import Final, NamedTuple

URL_PLACEHOLDER: Final = "[URL]"
"""Stands for every web address. Brackets are how platforms write "not words", and the letters carry no feeling."""

MENTION_PLACEHOLDER: Final = "@user"
"""Stands for every @-mention: the form used by the TweetEval and XLM-T corpora (Barbieri et al. 2020 and 2022)."""

JOINT: Final = " … "
"""What stands where the middle of a shortened comment was."""

_KEEP: Final = 3
"""Copies that are kept of a repeated character or short phrase: enough to be heard as emphasis."""

_SENTENCE: Final = 8
"""From this many characters on, a repeated unit is a copied sentence, not emphasis: one copy is kept."""

_NUMBER: Final = 12
"""Repeats made of digits alone are left alone up to this length, because they may be a number (10000000)."""

_ALLOWANCE: Final = 200_000
_READS: Final = 6
"""All rounds together may read `_READS` times the text, plus `_ALLOWANCE` characters."""


class _Edit(NamedTuple):
    """A replacement in one stage's input: `text[start:end]` becomes `new`."""

    start: int
    end: int
    new: str


class _Shift(NamedTuple):
    """The same replacement seen from the stage's output: `[start, end)` came from `[old_start, old_end)`."""

    start: int
    end: int
    old_start: int
    old_end: int


@dataclass(frozen=True, slots=True)
class CleanText:
    """A cleaned comment with its way back to the original.

    Attributes:
        original: the comment as it was written.
        text: the cleaned comment.
        flags: what is worth telling: `mojibake_fixed`, `invalid_characters` (NUL, lone surrogates), `html` (tags or
            entities), `squeezed` (repeats), `redacted`, `shortened`, and `unreadable` (encodings nested so deeply that
            cleaning gave up; `text` is then empty).
        joint: where in `text` the middle was cut out by `shorten` (half-open, code points); None if it was not.
        shifts: the offset map: the replacements of each stage, in the order in which they were made.
        masked: where in `text` placeholders stand for what nobody may see (`hide`), in order.
    """

    original: str
    text: str
    flags: tuple[str, ...] = ()
    joint: tuple[int, int] | None = None
    shifts: tuple[tuple[_Shift, ...], ...] = ()
    masked: tuple[tuple[int, int], ...] = ()

    def to_original(self, start: int, end: int) -> tuple[int, int]:
        """Map a slice of `text` to the smallest slice of `original` that it came from.

        Args:
            start: first code point of the slice in `text`.
            end: the code point after its last. An empty slice maps to an empty slice.

        Returns:
            Code points in `original`, half-open.

        Raises:
            ValueError: the slice is not inside `text`.
        """
        if not 0 <= start <= end <= len(self.text):
            raise ValueError(f"slice [{start}, {end}) is not inside a cleaned text of {len(self.text)} characters")
        first, last = start, end - 1
        for stage in reversed(self.shifts):
            first, after = _back(stage, first)[0], _back(stage, last)[1]
            last = after - 1
        return (first, last + 1) if start < end else (first, first)


def _back(stage: tuple[_Shift, ...], position: int) -> tuple[int, int]:
    """Where one character of a stage's output came from, in that stage's input."""
    index = bisect_right(stage, position, key=_shift_start) - 1
    if index < 0:
        return position, position + 1
    shift = stage[index]
    if position < shift.end:
        return shift.old_start, shift.old_end
    old = position - shift.end + shift.old_end
    return old, old + 1


def _shift_start(shift: _Shift) -> int:
    return shift.start


def _apply(text: str, edits: list[_Edit]) -> tuple[str, tuple[_Shift, ...]]:
    """Make the replacements (sorted, not overlapping); one character for one needs no entry in the map."""
    parts: list[str] = []
    shifts: list[_Shift] = []
    done = length = 0
    for start, end, new in edits:
        parts += (text[done:start], new)
        length += start - done
        if len(new) != 1 or end - start != 1:
            shifts.append(_Shift(length, length + len(new), start, end))
        length += len(new)
        done = end
    parts.append(text[done:])
    return "".join(parts), tuple(shifts)


# --- Mojibake: UTF-8 that was read as Latin-1 or Windows-1252 ("å¥½è¯„" is "好评") ---

_CP1252: Final = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_LEAD: Final = r"\u00c2-\u00f4"
_MISREAD: Final = rf"[{_LEAD}][\u0080-\u00bf{_CP1252}]"
_MISREAD_RUN: Final = re.compile(rf"[\x20-\x7e\u0080-\u00ff{_CP1252}]+")
_MISREAD_PAIR: Final = re.compile(_MISREAD)
_LONGEST_MISREAD: Final = 50_000
"""Code points; ftfy takes its time, and no comment in a wrong encoding is that long."""


def _mojibake(text: str) -> list[_Edit]:
    if len(text) > _LONGEST_MISREAD or not _MISREAD_PAIR.search(text):
        return []
    from ftfy import fix_encoding  # slow to import, and nearly no comment needs it

    edits: list[_Edit] = []
    for run in _MISREAD_RUN.finditer(text):
        if _MISREAD_PAIR.search(run[0]) and (fixed := fix_encoding(run[0])) != run[0]:
            edits += _aligned(run.start(), run[0], fixed)
    return edits


def _aligned(offset: int, broken: str, fixed: str) -> list[_Edit]:
    """One edit for each repaired character where every byte was one broken character, else one edit for the run."""
    widths = [len(character.encode("utf-8", "surrogatepass")) for character in fixed]
    if sum(widths) != len(broken):
        return [_Edit(offset, offset + len(broken), fixed)]
    edits = []
    for character, width in zip(fixed, widths, strict=True):
        if width > 1:
            edits.append(_Edit(offset, offset + width, character))
        offset += width
    return edits


# --- Characters ---

_MARKS: Final = r"\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20df\ufe20-\ufe2f"
_PICTURES: Final = (
    r"\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u23ff\u24c2\u25a0-\u27bf\u2900-\u297f\u2b00-\u2bff"
    r"\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
)
# Scripts in which a joiner or non-joiner between two letters changes what is read (Arabic, Indic, Khmer, ...).
_JOINING: Final = r"\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u17ff"
# Invisible, or no character at all. Tag characters (U+E0000 and on) are among them: they smuggle hidden instructions.
_NOTHING: Final = (
    r"\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    r"\ufdd0-\ufdef\ufe00-\ufe0d\ufeff\ufff9-\ufffc\ufffe\uffff\ud800-\udfff\U000e0000-\U000e0fff"
)
_PAIR: Final = r"[\ud800-\udbff][\udc00-\udfff]"
_JOINER: Final = (
    rf"(?<![{_PICTURES}\ufe0f{_JOINING}])\u200d|\u200d(?![{_PICTURES}{_JOINING}])"
    rf"|(?<![{_JOINING}])\u200c|\u200c(?![{_JOINING}])"
)
_VARIATION: Final = rf"(?<![{_PICTURES}0-9#*])[\ufe0e\ufe0f]"
_DROPPED: Final = rf"[{_NOTHING}]+|{_JOINER}|{_VARIATION}|(?<=[{_MARKS}]{{{_KEEP}}})[{_MARKS}]+"
_COMPOSED: Final = (
    r"[\uff66-\uff6f\uff71-\uff9d][\uff9e\uff9f]?|\uff70|[\ufb00-\ufb06]|[\u1100-\u1112][\u1161-\u1175][\u11a8-\u11c2]?"
    rf"|[\u3040-\u30ff][\u3099\u309a]|[^{_NOTHING}{_MARKS}\u200c\u200d\ufe0e\ufe0f][\u0300-\u036f]{{1,{_KEEP}}}(?![{_MARKS}])"
)
_CHARACTERS: Final = re.compile(rf"(?P<pair>{_PAIR})|(?P<composed>{_COMPOSED})|{_DROPPED}")
_ODD_CLASS: Final = rf"{_NOTHING}{_MARKS}\u200c\u200d\ufe0e\ufe0f\u1100-\u1112\u3099\u309a\uff66-\uff9d\ufb00-\ufb06"
_ODD: Final = re.compile(f"[{_ODD_CLASS}]")
_INVALID: Final = re.compile(r"[\x00\ud800-\udfff]")

# The faces and signs of the first iPhones' private emoji (SoftBank), still found in old Chinese reviews.
_SOFTBANK: Final = {
    0xE00D: "👊", 0xE00E: "👍", 0xE022: "❤", 0xE023: "💔", 0xE056: "😊", 0xE057: "😃", 0xE058: "😞", 0xE059: "😠",
    0xE105: "😜", 0xE106: "😍", 0xE107: "😱", 0xE108: "😓", 0xE401: "😥", 0xE402: "😏", 0xE403: "😔", 0xE404: "😁",
    0xE405: "😉", 0xE406: "😣", 0xE407: "😖", 0xE408: "😪", 0xE409: "😝", 0xE40A: "😌", 0xE40B: "😨", 0xE40C: "😷",
    0xE40D: "😳", 0xE40E: "😒", 0xE40F: "😰", 0xE410: "😲", 0xE411: "😭", 0xE412: "😂", 0xE413: "😢", 0xE414: "☺",
    0xE415: "😄", 0xE416: "😡", 0xE417: "😚", 0xE418: "😘", 0xE41D: "🙏", 0xE41F: "👏", 0xE420: "👌", 0xE421: "👎",
}  # fmt: skip


def _one_to_one() -> dict[int, str]:
    """Characters that become exactly one other character: their compatibility form means the same."""
    folded = [
        *range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B),  # fullwidth digits and letters
        *map(ord, "＃＄％＊＋－／＝"),
        *range(0x2F00, 0x2FD6), *range(0xF900, 0xFB00), *range(0x2F800, 0x2FA20),  # radicals, compatibility ideographs
        *range(0x1D400, 0x1D800),  # letters in mathematical fonts
    ]  # fmt: skip
    table = {code: unicodedata.normalize("NFKC", chr(code)) for code in folded}
    table = {code: new for code, new in table.items() if len(new) == 1 and new != chr(code)}
    blanks = dict.fromkeys((0x2800, 0x3164, 0xFFA0, 0xE5E5), " ")  # U+E5E5: GBK's second ideographic space
    return table | _SOFTBANK | blanks


def _as_ranges(codes: Iterable[int]) -> str:
    """The inside of a character class. Ranges, because a class of thousands of single characters is very slow."""
    ranges: list[list[int]] = []
    for code in sorted(codes):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"{re.escape(chr(first))}-{re.escape(chr(last))}" for first, last in ranges)


_FOLD: Final = _one_to_one()
_FOLDED: Final = _as_ranges(_FOLD)
_FOLDABLE: Final = re.compile(f"[{_FOLDED}]")


def _characters(text: str) -> list[_Edit]:
    if not _ODD.search(text):
        return []
    edits = []
    for match in _CHARACTERS.finditer(text):
        new = ""
        if match["pair"]:
            new = match[0].encode("utf-16", "surrogatepass").decode("utf-16")
        elif match["composed"]:
            new = unicodedata.normalize("NFKC" if match[0][0] >= "\ufb00" else "NFC", match[0])
        if new != match[0]:
            edits.append(_Edit(match.start(), match.end(), new))
    return edits


# --- HTML ---

_BLOCK_NAMES: Final = (
    "address article blockquote body br center dd details dialog dir div dl dt figure footer form frame frameset h1 h2"
    " h3 h4 h5 h6 head header hr html iframe legend li main menu nav ol optgroup option p pre section select summary"
    " table tbody td textarea tfoot th thead title tr ul"
)
_INLINE_NAMES: Final = (
    "a abbr acronym area audio b base bdi bdo big button canvas cite code col colgroup data del dfn em embed fieldset"
    " figcaption font i img input ins kbd label link map mark meta meter nobr noscript object output param picture"
    " progress q rp rt ruby s samp script small source span strike strong style sub sup svg template time track tt u"
    " var video wbr"
)
_BLOCK: Final = frozenset(_BLOCK_NAMES.split())
_INLINE: Final = frozenset(_INLINE_NAMES.split())
# A tag is a known element with nothing but name=value attributes, so that "a<b and c>d" and "<推荐>" are none.
# The quantifiers are possessive: a failed match does not go back.
_TAG: Final = (
    r"<(?:!(?P<declaration>(?:--|(?i:doctype|\[cdata\[))[^<>]*+)"
    r"|(?P<close>/?)(?P<name>[A-Za-z][A-Za-z0-9]*+)"
    r"(?P<attributes>(?:\s++[\w:.-]++\s*+=\s*+(?:\"[^\"<>]*+\"|'[^'<>]*+'|[^\s\"'<>=]++))*+)\s*+/?)>"
)
_ALT: Final = re.compile(r"""\balt\s*=\s*(?:"([^"<>]*)"|'([^'<>]*)')""", re.IGNORECASE)
# "&amp;amp;lt;" was escaped three times; the whole chain is one match, however long.
_NAMED: Final = r"(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});"
_ENTITY: Final = rf"(?P<escapes>&(?:amp;)++)(?P<inner>{_NAMED})?|&{_NAMED}"
_HTML: Final = re.compile(rf"{_TAG}|(?P<entity>{_ENTITY})")


def _tag_replacement(tag: re.Match[str]) -> str | None:
    """What stands for a tag: a space for block elements, an image's alternative text, else nothing; None: no tag."""
    name = (tag["name"] or "").lower()
    if name == "img" and (alt := _ALT.search(tag["attributes"])):
        return alt[1] or alt[2] or ""
    if name in _BLOCK:
        return " "
    return "" if name in _INLINE or tag["declaration"] else None


def _character(entity: str) -> str | None:
    """The character of an entity, by the rules of HTML; surrogates stay, to be joined; None: no entity."""
    if entity[1] == "#":
        number = int(entity[3:-1], 16) if entity[2] in "xX" else int(entity[2:-1])
        if 0xD800 <= number <= 0xDFFF:
            return chr(number)
    decoded = unescape(entity)
    # html.unescape also finds old names at the start of unknown longer ones ("&ampx;"); no entity has three characters.
    return decoded if len(decoded) <= 2 else None


def _entity_replacement(match: re.Match[str]) -> str | None:
    if not match["escapes"]:
        return _character(match[0])
    if not match["inner"]:
        return "&"
    inner = "&" + match["inner"]
    decoded = _character(inner)
    return inner if decoded is None else decoded


def _html(text: str) -> list[_Edit]:
    edits = []
    for match in _HTML.finditer(text):
        new = _entity_replacement(match) if match["entity"] else _tag_replacement(match)
        if new is not None:
            edits.append(_Edit(match.start(), match.end(), new))
    return edits


# --- Links and mentions ---

_URL: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:https?|ftp)://|www\.(?=[A-Za-z0-9-]+\.))"
    r"[A-Za-z0-9._~:/?#@!$&'*+,;=%()\[\]-]*[A-Za-z0-9/=#&_~-]",
    re.IGNORECASE,
)
# A name in Latin letters ends by itself. A Chinese one runs into the sentence ("@声音小" is a complaint with a typed
# bullet), so it is taken only in the forms that social networks write themselves: "//@名字:" and "回复@名字:".
_MENTION: Final = re.compile(
    r"(?<![\w.@%+-])@(?!user\b)[A-Za-z_][A-Za-z0-9_]{1,29}(?!\w|[@-]|\.\w)|(?:(?<=//)|(?<=回复))@(?!user\b)[\w·-]{1,30}(?=[:：])"
)


def _links(text: str) -> list[_Edit]:
    return [_Edit(match.start(), match.end(), URL_PLACEHOLDER) for match in _URL.finditer(text)]


def _mentions(text: str) -> list[_Edit]:
    return [_Edit(match.start(), match.end(), MENTION_PLACEHOLDER) for match in _MENTION.finditer(text)]


# --- Space and repeats ---

_SPACE: Final = re.compile(r"\s\s+|[^\S ]|\A\s|\s\Z")
_OTHER_SPACE: Final = r"\t-\r\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_RUN: Final = re.compile(rf"(.)\1{{{_KEEP},}}", re.DOTALL)
_GRAM: Final = 6
"""Any phrase that is squeezed contains the same six characters twice (2 characters x 4 copies; 8 x 2)."""
_SHORT: Final = 1000
"""Code points up to which looking ahead in the text is faster than a set of all that was seen."""


def _space(text: str) -> list[_Edit]:
    length = len(text)
    return [
        _Edit(match.start(), match.end(), " " if match.start() > 0 and match.end() < length else "")
        for match in _SPACE.finditer(text)
    ]


def _runs(text: str) -> list[_Edit]:
    return [
        _Edit(match.start() + _KEEP, match.end(), "")
        for match in _RUN.finditer(text)
        if not (match[1].isdecimal() and len(match[0]) <= _NUMBER)
    ]


def _may_repeat(text: str) -> bool:
    """Whether the same characters occur twice, as they do in every phrase that `_phrases` squeezes; else never."""
    if len(text) <= _SHORT:
        find = text.find
        # At least two neighbouring starts repeat five characters, so every other start is enough.
        return any(find(text[i : i + 5], i + 2) >= 0 for i in range(0, len(text) - 6, 2))
    count = len(text) - _GRAM + 1
    return len({text[i : i + _GRAM] for i in range(count)}) < count


def _phrases(text: str) -> list[_Edit]:
    """Find phrases that stand again and again, back to back.

    One pass: where six characters are seen again, the distance to the last time is the period, and it is followed for
    as long as each character equals the one a period before. If that lasts long enough, the surplus copies go.
    """
    if len(text) <= _SHORT and not _may_repeat(text):
        return []
    edits: list[_Edit] = []
    last: dict[str, int] = {}
    i = followed = 0
    while i <= len(text) - _GRAM:
        gram = text[i : i + _GRAM]
        if i >= followed and gram in last:
            period = i - last[gram]
            ahead = period * _KEEP if period < _SENTENCE else min(period, 16)
            if text[i : i + ahead] == text[i - period : i - period + ahead]:  # else it does not last long enough
                end = _end_of_period(text, i + ahead, period)
                followed = end - _GRAM + 1
                if edit := _surplus(text, i - period, end, period):
                    edits.append(edit)
                    last.clear()  # what comes next must not reach back into what was cut
                    i = followed
                    continue
        last[gram] = i
        i += 1
    return edits


def _end_of_period(text: str, start: int, period: int) -> int:
    """How far from `start` on each character equals the one a period before; compares ever longer pieces."""
    step = 16
    while step:
        piece = text[start : start + step]
        if piece and piece == text[start - period : start - period + len(piece)]:
            start += len(piece)
            step *= 2
        else:
            step = min(step, len(piece)) // 2
    return start


def _surplus(text: str, start: int, end: int, period: int) -> _Edit | None:
    """The copies to cut from `text[start:end]`, which repeats itself every `period` characters."""
    copies = (end - start) // period
    keep = _KEEP if period < _SENTENCE else 1
    if period == 1 or copies <= keep:
        return None
    if end - start <= _NUMBER and text[start : start + period].isdecimal():
        return None
    return _Edit(start + keep * period, start + copies * period, "")


# --- All together ---

_STAGES: Final[tuple[tuple[str | None, Callable[[str], list[_Edit]]], ...]] = (
    ("mojibake_fixed", _mojibake),
    (None, _characters),
    ("html", _html),
    (None, _links),
    (None, _mentions),
    (None, _space),
    ("squeezed", _runs),
    ("squeezed", _phrases),
)
# Flags in the order in which they are reported.
_FLAGS: Final = ("mojibake_fixed", "invalid_characters", "html", "squeezed")

# One look that tells whether a round could change anything, repeated phrases apart. It may say yes in vain, never no.
_SUSPECT: Final = re.compile(
    rf"[{_ODD_CLASS}{_FOLDED}{_OTHER_SPACE}{_LEAD}&<@]|  |\A | \Z|(.)\1{{{_KEEP}}}|://|[Ww]{{3}}\.", re.DOTALL
)


def _is_clean(text: str) -> bool:
    return not _SUSPECT.search(text) and not _may_repeat(text)


def _round(text: str, shifts: list[tuple[_Shift, ...]], flags: set[str]) -> str:
    if _INVALID.search(text):
        flags.add("invalid_characters")
    if _FOLDABLE.search(text):
        text = text.translate(_FOLD)  # one character for one: the map needs no entry
    for flag, stage in _STAGES:
        edits = stage(text)
        if not edits:
            continue
        text, moved = _apply(text, edits)
        if moved:
            shifts.append(moved)
        if flag:
            flags.add(flag)
    return text


def clean(text: str) -> CleanText:
    """Clean one comment.

    In this order, and again until nothing changes: mojibake (UTF-8 read as a Western encoding) is repaired; characters
    that look different and mean the same are folded (fullwidth letters and digits, mathematical fonts, decomposed
    accents, old private emoji); invisible, control and invalid characters are removed, except joiners and variation
    selectors inside emoji; HTML entities are decoded and tags removed ("<3" and "a<b" are none); web addresses and
    @-mentions become placeholders; white space becomes single spaces; repeats are squeezed: three of a character or a
    short phrase are kept ("太太太好"), one of a sentence that was copied to fill the page.

    Args:
        text: any string, lone surrogates included.

    Returns:
        The cleaned text; `clean(clean(text).text).text == clean(text).text`. Nothing is raised, and the time is linear
        in the length of the text.
    """
    shifts: list[tuple[_Shift, ...]] = []
    flags: set[str] = set()
    current, left = text, _READS * len(text) + _ALLOWANCE
    while not _is_clean(current):
        left -= len(current)
        before, current = current, _round(current, shifts, flags)
        if current == before:
            break
        if left < 0:
            # Encodings nested many deep are nobody's opinion. The empty text is clean, so this too is idempotent.
            return CleanText(text, "", ("unreadable",), None, ((_Shift(0, 0, 0, len(text)),),))
    return CleanText(text, current, tuple(filter(flags.__contains__, _FLAGS)), None, tuple(shifts))


def hide(cleaned: CleanText, places: Sequence[tuple[int, int, str]], flag: str) -> CleanText:
    """Put placeholders in the place of parts of the text.

    Args:
        cleaned: the comment.
        places: start and end in `cleaned.text`, and the placeholder; in order, not overlapping each other, the joint
            or what is masked already.
        flag: says why.

    Returns:
        The comment with its way back to the original, in which each placeholder stands for all that it replaced.
    """
    text, moved = _apply(cleaned.text, [_Edit(*place) for place in places])
    new = ((_forth(moved, start), _forth(moved, start) + len(name)) for start, _, name in places)
    old = ((_forth(moved, start), _forth(moved, end)) for start, end in cleaned.masked)
    joint = (_forth(moved, cleaned.joint[0]), _forth(moved, cleaned.joint[1])) if cleaned.joint else None
    flags = cleaned.flags if flag in cleaned.flags else (*cleaned.flags, flag)
    return CleanText(cleaned.original, text, flags, joint, (*cleaned.shifts, moved), tuple(sorted((*old, *new))))


def _forth(stage: tuple[_Shift, ...], position: int) -> int:
    """Where a position of a stage's input, not inside a replaced part, is in its output."""
    index = bisect_right(stage, position, key=_shift_old_end) - 1
    return position if index < 0 else position - stage[index].old_end + stage[index].end


def _shift_old_end(shift: _Shift) -> int:
    return shift.old_end


_CLINGING: Final = re.compile(rf"[{_MARKS}\u200c\u200d\ufe0e\ufe0f\u3099\u309a\U0001f3fb-\U0001f3ff]|(?<=\u200d)")
_LONGEST_CLUSTER: Final = 16
"""Code points; a longer chain of joined characters is no emoji that is in use, and may be cut."""


def shorten(cleaned: CleanText, max_chars: int) -> CleanText:
    """Cut the middle out of a long comment: people open with the matter and close with the verdict.

    About 60% of what stays is head and 40% is tail, joined by `JOINT`. A sequence of characters that forms one emoji or
    accented letter is not cut apart, nor is a placeholder that `hide` put in.

    Args:
        cleaned: what `clean` returned.
        max_chars: the most code points that the text may have; at least 8.

    Returns:
        `cleaned` itself if it is short enough; else a shorter one with `joint` set and the flag `shortened`.

    Raises:
        ValueError: `max_chars` is below 8.
    """
    if max_chars < 8:
        raise ValueError(f"max_chars is {max_chars}; a shortened comment needs at least 8 characters")
    text = cleaned.text
    if len(text) <= max_chars:
        return cleaned
    room = max_chars - len(JOINT)
    start = room * 3 // 5
    end = len(text) - (room - start)
    if cleaned.joint:
        start, end = min(start, cleaned.joint[0]), max(end, cleaned.joint[1])
    for _ in range(_LONGEST_CLUSTER):
        start -= 1 if start > 0 and _CLINGING.match(text, start) else 0
        end += 1 if end < len(text) and _CLINGING.match(text, end) else 0
    for first, after in cleaned.masked:
        start = first if first < start < after else start
        end = after if first < end < after else end
    start -= text[max(start - 1, 0) : start] == " "
    end += text[end : end + 1] == " "
    shorter, moved = _apply(text, [_Edit(start, end, JOINT)])
    flags = cleaned.flags if "shortened" in cleaned.flags else (*cleaned.flags, "shortened")
    moving = len(text) - len(shorter)
    masked = (
        *(place for place in cleaned.masked if place[1] <= start),
        *((first - moving, after - moving) for first, after in cleaned.masked if first >= end),
    )
    return CleanText(cleaned.original, shorter, flags, (start, start + len(JOINT)), (*cleaned.shifts, moved), masked)
