"""Questions about what was analysed before: a small grammar in Chinese and English. Pure; no model is asked.

A message is a follow-up if *every* word of it belongs to the vocabulary, and together they say what is wanted:
"只看差评", "show me the negative ones", "why is row 3 negative?", "把差评导出成Excel". One foreign word, and it is
none: "下载太慢了" is a comment, "下载" a question. A label alone ("差评") is a comment, because people write that.
The one free word is what comments should be about: "只看提到电池的", "show comments about the battery".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, TypedDict

from reviewmill.server.face.vocabulary import LABELS, LOOSE, WORDS

Kind = Literal["show", "why", "row", "export", "summarise", "uncertain", "stats", "keywords", "help"]
FileFormat = Literal["csv", "xlsx", "jsonl", "json", "parquet"]
Only = Literal["review", "error", "insufficient"]

MOST_CHARS: Final = 80
"""A longer message is none."""


@dataclass(frozen=True, slots=True)
class FollowUp:
    """What somebody wants to know about what was analysed.

    Attributes:
        kind: what.
        labels: labels of the task that it is about; empty: all.
        missing: a label was named that the task does not have.
        only: rows of this kind alone.
        about: what the comments must hold.
        row: a row's number.
        count: how many rows.
        format: a file's format.
    """

    kind: Kind
    labels: tuple[str, ...] = ()
    missing: bool = False
    only: Only | None = None
    about: str | None = None
    row: int | None = None
    count: int | None = None
    format: FileFormat | None = None


_ROW: Final = re.compile(
    r"第\s*(?P<zh>[0-9]{1,7}|[零一二两三四五六七八九十百千]{1,9})\s*(?:条|行|个|号)|"
    r"(?:\b(?:row|comment|review|number|no\.?)\s*#?\s*|#\s*)(?P<en>[0-9]{1,7})\b"
)
_NUMBER: Final = re.compile(r"(?P<n>[0-9]{1,4})(?:\s*(?:条|个))?")
_DIGITS: Final = {char: value for value, char in enumerate("零一二三四五六七八九")} | {"两": 2}
_UNITS: Final = {"十": 10, "百": 100, "千": 1000}

_ABOUT_CHINESE: Final = re.compile(
    r"(?:请|帮我)?(?:只看|仅看|只显示|看看|查看|显示|列出|找出|筛选出?|看)(?:一下)?(?:所有|全部)?"
    r"(?:提到|提及|包含|含有|关于|说到)了?[“\"「']?(?P<about>[^“”\"「」'，,。]{1,20}?)[”\"」']?的(?P<rest>[^，。]{0,8})"
)
_ABOUT_ENGLISH: Final = re.compile(
    r"(?:please )?(?:show|list|find|see|display|only)(?: me)?(?: only)?(?: all)?(?: the)? ?(?P<rest>[a-z ]{0,30}?) ?"
    r"(?:ones|comments|reviews|rows)?(?: that| which)? ?(?:about|mentioning|mention|containing|contain) (?:the )?"
    r"[\"']?(?P<about>[^\"'?.!]{1,30}?)[\"']?"
)
_EDGES: Final = " \t。.！!？?~～…,，;；:：\"'“”「」()（）"
_BETWEEN: Final = re.compile(r"[\s,，。.!！?？、:：;；'’\"“”()（）-]+")


def follow_up(text: str, labels: Sequence[str]) -> FollowUp | None:
    """What a message asks about what was analysed before; None if it asks nothing, and so is a comment.

    Args:
        text: the message.
        labels: the names of the task's labels.
    """
    plain = unicodedata.normalize("NFKC", text).casefold().strip(_EDGES)
    if not plain or len(plain) > MOST_CHARS or "\n" in plain:
        return None
    return _about(plain, labels) or _of_words(_Found(plain, tuple(labels)))


def _about(plain: str, labels: Sequence[str]) -> FollowUp | None:
    match = _ABOUT_CHINESE.fullmatch(plain) or _ABOUT_ENGLISH.fullmatch(plain)
    if match is None:
        return None
    rest = _Found(match["rest"].strip(), tuple(labels))
    if not rest.known:
        return None
    return FollowUp("show", labels=rest.chosen(), missing=rest.missing, about=match["about"].strip())


class _Whose(TypedDict):
    labels: tuple[str, ...]
    missing: bool


def _of_words(found: _Found) -> FollowUp | None:
    kind = found.kind if found.known else None
    if kind is None:
        return None
    whose: _Whose = {"labels": found.chosen(), "missing": found.missing}
    match kind:
        case "why":
            return FollowUp("why", row=found.row or found.number, **whose)
        case "export":
            return FollowUp("export", format=found.format, **whose)
        case "uncertain":
            return FollowUp("uncertain", count=found.number, **whose)
        case "row":
            return FollowUp("row", row=found.row)
        case "show":
            return FollowUp("show", only=found.only, **whose)
        case _:
            return FollowUp(kind, **whose)


class _Found:
    """The words of a message.

    Attributes:
        known: whether all of it is of the vocabulary, and there is something.
        kinds: the kinds of its words.
        missing: whether a label was named that the task does not have.
        row: a row's number.
        number: another number.
    """

    def __init__(self, plain: str, labels: tuple[str, ...]) -> None:
        self._all = labels
        self._named: list[str] = []
        self.kinds: set[str] = set()
        self.missing = False
        self.row: int | None = None
        self.number: int | None = None
        loose: list[str] = []
        self.known = True
        for kind, value in _words(plain, labels):
            if kind == "unknown":
                self.known = False
                return
            if kind == "row":
                self.row = _number(value)
            elif kind == "number":
                self.number = int(value)
            elif kind == "loose":
                loose.append(value)
            elif kind == "label":
                self._name(value)
            else:
                self.kinds |= set(kind.split())
        if loose and "noun" in self.kinds:
            for label in loose:
                self._name(label)
        elif loose:
            self.known = False

    def _name(self, label: str) -> None:
        if label in self._all:
            self._named.append(label)
        else:
            self.missing = True

    def chosen(self) -> tuple[str, ...]:
        """The labels that are meant."""
        named = tuple(dict.fromkeys(self._named))
        if self.kinds & {"not", "except"} and named:
            return tuple(label for label in self._all if label not in named)
        return named

    @property
    def kind(self) -> Kind | None:
        """What is asked, if anything: the first of these that the words say."""
        has, named = self.kinds, bool(self._named) or self.missing
        said: dict[Kind, bool] = {
            "why": "why" in has or (self.row is not None and named),
            "export": "export" in has,
            "uncertain": "uncertain" in has or {"least", "sure"} <= has,
            "summarise": "summarise" in has or {"what", "say"} <= has,
            "keywords": "keywords" in has,
            "row": self.row is not None,
            "stats": not has.isdisjoint({"stats", "status"}) or {"how", "many"} <= has,
            "help": "help" in has,
            "show": not has.isdisjoint({"show", "which", "except"}) and (named or self.only is not None),
        }
        return next((kind for kind, is_said in said.items() if is_said), None)

    @property
    def format(self) -> FileFormat | None:
        """A file's format."""
        formats: tuple[FileFormat, ...] = ("csv", "xlsx", "jsonl", "json", "parquet")
        return next((each for each in formats if each in self.kinds), None)

    @property
    def only(self) -> Only | None:
        """Which rows beside those of labels."""
        kinds: Mapping[str, Only] = {"review": "review", "failed": "error", "empty": "insufficient"}
        return next((kinds[kind] for kind in kinds if kind in self.kinds), None)


def _words(plain: str, labels: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """The words of a text with their kinds; `unknown` where one is not of the vocabulary."""
    table, pattern = _vocabulary(labels)
    at = 0
    while at < len(plain):
        if gap := _BETWEEN.match(plain, at):
            at = gap.end()
            continue
        if match := _ROW.match(plain, at):
            yield "row", match["zh"] or match["en"]
        elif (match := pattern.match(plain, at)) is not None:
            yield from table[match[0]]
        elif match := _NUMBER.match(plain, at):
            yield "number", match["n"]
        else:
            yield "unknown", ""
            return
        at = match.end()


@lru_cache(maxsize=64)
def _vocabulary(labels: tuple[str, ...]) -> tuple[dict[str, list[tuple[str, str]]], re.Pattern[str]]:
    """All words with what they are, and a pattern that finds the longest one."""
    table: dict[str, list[tuple[str, str]]] = {}

    def add(kind: str, value: str, words: Iterable[str]) -> None:
        for word in words:
            table.setdefault(word, []).append((kind, value))

    for kind, words in WORDS.items():
        add(kind, "", words.split())
    for label, words in LABELS.items():
        add("label", label, words.split())
    for label, words in LOOSE.items():
        add("loose", label, words.split())
    for label in labels:
        name = unicodedata.normalize("NFKC", label).casefold()
        if ("label", label) not in table.get(name, []):
            add("label", label, [name])
    longest_first = sorted(table, key=lambda word: -len(word))
    # An English word ends where its letters end; Chinese has no such place.
    parts = [rf"{re.escape(word)}(?![a-z0-9])" if word.isascii() else re.escape(word) for word in longest_first]
    return table, re.compile("|".join(parts))


def _number(word: str) -> int:
    """A number in digits, or in Chinese characters up to 9,999."""
    if word.isascii():
        return int(word)
    total = digit = 0
    for char in word:
        if char in _UNITS:
            total += max(digit, 1) * _UNITS[char]
            digit = 0
        else:
            digit = digit * 10 + _DIGITS[char] if digit else _DIGITS[char]
    return total + digit


# --- questions that are not understood --------------------------------------------------------------------------------

_COMMENTS: Final = r"(?:评论|评价|差评|好评|负面|正面)"
_ASKING: Final = re.compile(
    # "评论里有哪些…", "差评中谁…"
    r"(?:评论|评价|差评|好评|文件|表格|数据)(?:里|中|当中|里面|内)[^，。！,!]{0,10}(?:哪些|多少|有没有|几[条个]|谁|什么)"
    # "把差评按日期排序"
    r"|(?:把|将)[^，。！,!]{0,6}(?:评论|评价|差评|好评|表格|文件)[^，。！,!]{0,10}"
    r"(?:排序|翻译|导出|列出|筛选|分组|归类)"
    # "which comments mention…"
    r"|^(?:what|which|how|who|can you|could you|show|list|give me|tell me|find|please|compare|sort|group|count|"
    r"translate|are there|is there|do any|does any)\b"
    r".*\b(?:comments|reviews|rows?|negatives?|positives?|table|file|dataset)\b"
)
_ALL_OF_THEM: Final = re.compile(
    r"(?:这些|这批|上面|以上|所有|全部|哪些|哪条|多少|几条|列出|显示|筛选|统计|总结|概括|对比|比较|翻译|排序|按)"
    rf"[^，。！,!]{{0,8}}{_COMMENTS}"
)
_IS_QUESTION: Final = re.compile(
    r"^(?:请|帮我|列出|显示|筛选|统计|总结|概括|对比|比较|翻译|给我|告诉我|哪些|有多少|有没有|按).*|.*(?:[?？]|吗|呢)$"
)
_QUOTED: Final = (">", '"', "“", "「", "『", "`")


def asks_about_set(text: str) -> bool:
    """Whether a message that is no follow-up speaks of the comments as comments, and so is none itself."""
    plain = unicodedata.normalize("NFKC", text).casefold().strip()
    if "\n" in plain or len(plain) > MOST_CHARS or plain.startswith(_QUOTED):
        return False
    return bool(_ASKING.search(plain) or (_ALL_OF_THEM.search(plain) and _IS_QUESTION.fullmatch(plain)))
