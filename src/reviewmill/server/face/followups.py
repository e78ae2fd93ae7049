"""Questions about what was analysed before: a small grammar in Chinese and English. Pure; no model is asked.

A message is a follow-up if *every* word of it belongs to the vocabulary below and together they say what is wanted:
"只看差评", "show me the negative ones", "why is row 3 negative?", "把差评导出成Excel". One foreign word, and it is none:
"下载太慢了" is a comment, "下载" a question. A label alone ("差评", "negative") is a comment, because people write that.
The one free word is what comments should be about: "只看提到电池的", "show comments about the battery".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

Kind = Literal["show", "why", "row", "export", "summarise", "uncertain", "stats", "keywords", "help"]
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
    format: Literal["csv", "xlsx", "jsonl", "json", "parquet"] | None = None


# --- vocabulary -------------------------------------------------------------------------------------------------------

_LABELS: Final[dict[str, str]] = {
    "negative": "负面 负面的 差评 消极 不满 抱怨 投诉 吐槽 缺点 negative negatives complaint complaints complain complaining "
    "dislike hate",
    "positive": "正面 正面的 好评 积极 满意的 表扬 夸 优点 positive positives praise compliments love",
    "neutral": "中性 中性的 中立 中评 neutral neutrals",
    "joy": "喜悦 高兴 开心 快乐 joy joyful",
    "anger": "愤怒 生气 anger angry",
    "sadness": "悲伤 难过 伤心 sadness sad",
    "fear": "恐惧 害怕 fear fearful",
    "surprise": "惊讶 surprise surprised",
    "disgust": "厌恶 disgust disgusted",
    "none": "没有情绪 无情绪",
}
_LOOSE: Final[dict[str, str]] = {"negative": "bad unhappy critical", "positive": "good happy"}
"""Words that mean a label only beside a word such as "ones": "only good" may be a comment."""

_WORDS: Final[dict[str, str]] = {
    "show": "只看 仅看 只显示 只列出 看看 看一下 查看 显示 列出 列举 找出 筛选 筛选出 过滤 展示 看 show list see view display "
    "find filter only",
    "which": "哪些 哪几条 哪条 which",
    "why": "为什么 为何 为啥 凭什么 怎么会 怎么 原因 理由 解释 解释一下 why explain reason reasons",
    "export": "导出 导出来 下载 export download",
    "summarise": "总结 总结一下 概括 概括一下 归纳 概述 提炼 summarise summarize summarising summarizing",
    "say": "说 讲 提到 反映 抱怨 吐槽 夸 喜欢 不满 问题 优点 缺点 say saying complain complaining complaints like dislike love "
    "hate praise problems issues themes topics",
    "what": "什么 哪些 what",
    "uncertain": "不确定 没把握 没有把握 拿不准 置信度最低 信心最低 uncertain unsure",
    "least": "least lowest",
    "sure": "certain confident sure confidence",
    "stats": "统计 分布 占比 比例 概况 总览 总体情况 整体情况 多少 几条 情况 stats statistics distribution breakdown overview "
    "counts totals percentage percentages share shares",
    "status": "进度 状态 结果 继续 好了吗 好了没 完成了吗 分析完了吗 status progress continue summary results",
    "how": "how",
    "many": "many",
    "keywords": "关键词 关键字 高频词 热词 keywords keyword",
    "help": "帮助 怎么用 能问什么 可以问什么 你能做什么 help",
    "review": "需要复核 待复核 要复核 复核 人工复核 review",
    "needs": "needs need needing",
    "failed": "出错 失败 failed errors",
    "empty": "无可判断",
    "except": "除了 以外 之外 except",
    "not": "不是 not",
    "csv": "csv",
    "xlsx": "excel xlsx 表格",
    "jsonl": "jsonl",
    "json": "json",
    "parquet": "parquet",
    "noun": "评论 评价 的 那些 这些 部分 内容 反馈 意见 ones comments reviews rows feedback",
    "filler": "请 麻烦 帮我 帮忙 能不能 可不可以 可以 能 给我 我想 我要 想 要 再 然后 那 那么 现在 你 一下 下 吗 吧 呢 好吗 谢谢 啊 呗 "
    "全部 所有 完整 整个 数据 文件 格式 链接 把 成 为 到 出来 出 有 是 都 主要 最 最大 常见 大家 客户 用户 顾客 他们 在 些 这条 它 这个 "
    "个 条 几 被 判为 判成 算 会 属于 和 与 或 占 一共 总共 哪 其中 了 详情 情感 结果 "
    "please can could would you me us the a an all of and or to as in into it this that those these them is are was were "
    "be i want like to d s let now then just ok okay thanks thank for by on do does did with from file table data link "
    "spreadsheet sheet format result results whole full everything main most common top people customers customer users "
    "they their about labelled labeled classified marked rated considered called give get there have in short brief",
}
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


def _of_words(found: _Found) -> FollowUp | None:
    if not found.known:
        return None
    labels, missing, row, has = found.chosen(), found.missing, found.row, found.kinds
    named = bool(labels or missing)
    if "why" in has:
        return FollowUp("why", labels=labels, missing=missing, row=row or found.number)
    if "export" in has:
        kind = next((kind for kind in ("csv", "xlsx", "jsonl", "json", "parquet") if kind in has), None)
        return FollowUp("export", labels=labels, missing=missing, format=kind)  # type: ignore[arg-type]
    if "uncertain" in has or {"least", "sure"} <= has:
        return FollowUp("uncertain", labels=labels, missing=missing, count=found.number)
    if "summarise" in has or {"what", "say"} <= has:
        return FollowUp("summarise", labels=labels, missing=missing)
    if "keywords" in has:
        return FollowUp("keywords", labels=labels, missing=missing)
    if row is not None:
        return FollowUp("row", row=row) if not named else FollowUp("why", labels=labels, missing=missing, row=row)
    if "stats" in has or {"how", "many"} <= has or "status" in has:
        return FollowUp("stats", labels=labels, missing=missing)
    if "help" in has:
        return FollowUp("help")
    only = found.only
    if has & {"show", "which", "except"} and (named or only):
        return FollowUp("show", labels=labels, missing=missing, only=only)
    return None


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

    for kind, words in _WORDS.items():
        add(kind, "", words.split())
    for label, words in _LABELS.items():
        add("label", label, words.split())
    for label, words in _LOOSE.items():
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

_SET_WORDS: Final = re.compile(
    r"评论|评价|差评|好评|负面|正面|文件|表格|数据|第\s*\d+\s*[条行]|"
    r"\b(?:comments|reviews|rows?|table|file|dataset|negatives?|positives?)\b"
)
_ASKING: Final = re.compile(
    r"多少|哪些|哪条|哪几|几条|有没有|列出|显示|筛选|统计|总结|概括|对比|比较|排序|翻译|导出|告诉我|帮我|请把|请你|"
    r"^(?:what|which|how|who|can you|could you|show|list|give me|tell me|find|please|compare|sort|group|count|translate|"
    r"are there|is there|do any|does any)\b"
)


def asks_about_set(text: str) -> bool:
    """Whether a message that is no follow-up speaks of the comments as comments, and so is none itself."""
    plain = unicodedata.normalize("NFKC", text).casefold().strip()
    if "\n" in plain or len(plain) > MOST_CHARS or plain.startswith((">", '"', "“", "「", "『", "`")):
        return False
    return bool(_SET_WORDS.search(plain) and _ASKING.search(plain))
