"""Tell comments that say nothing, so that no model is asked what they feel."""

from __future__ import annotations

import re
from typing import Final

from reviewmill.text.clean import MENTION_PLACEHOLDER, URL_PLACEHOLDER
from reviewmill.text.language import to_simplified
from reviewmill.text.redact import PLACEHOLDERS

EMPTY: Final = "empty"
NO_WORDS: Final = "no_words"
DEFAULT_TEXT: Final = "default_text"

# What platforms write when the buyer wrote nothing: in Simplified Chinese, without punctuation and space. Traditional
# Chinese is converted before the comparison. "好评" alone is not here: a person who types it means it.
_NOTHING_WRITTEN_TABLE: Final = """
此用户没有填写评价 此用户没有填写评论 此用户没有填写评价内容 此用户没有填写评论内容 此用户没有填写文字评价
此用户未填写评价 此用户未填写评论 此用户未填写评价内容 此用户未填写评论内容 此用户未填写文字评价
此用户未填写文字评论 此用户未及时填写评价 此用户未及时填写评价内容 此用户未及时评价 此用户未作评价
此用户没有评价 此用户未评价 此用户未留下评价 此用户没有留下评价 此用户没有留下评论 此用户没有写评价
该用户没有填写评价 该用户没有填写评论 该用户没有填写评价内容 该用户没有填写评论内容 该用户未填写评价
该用户未填写评论 该用户未填写评价内容 该用户未填写评论内容 该用户未填写文字评价 该用户未填写文字评论
该用户未评价 该用户没有评价 该用户没有留下评价 该用户没有留下评论 该用户未及时评价 该用户暂无评价
用户没有填写评价 用户没有填写评论 用户没有填写评价内容 用户没有填写评论内容 用户未填写评价 用户未填写评论
用户未填写评价内容 用户未填写评论内容 用户未填写文字评价 用户未及时评价 用户未及时填写评价 用户未点评
用户未评价 用户没有评价 用户没有写评价 用户超时未评价 用户未作评价 用户未做评价 使用者没有留下评论
使用者未留下评论 使用者未填写评论 使用者未填写评价 使用者没有填写评价 此使用者没有留下评论 此买家没有留下评论
买家未及时做出评价 买家未及时作出评价 买家未做出评价 买家未作出评价 买家未评价 买家未及时评价 买家没有填写评价
买家没有留下评论 买家未留下评论 买家没有评价 买家超时未评价 买家超时未做出评价 买家超时未作出评价
此买家未填写评价 此买家没有填写评价 该买家未填写评价 该买家没有填写评价
评价方未及时做出评价 评价方未及时作出评价 评价方未做出评价 评价方未作出评价 评价方未及时评价 评价方没有填写评价
客户未评价 客户未及时评价 客户没有填写评价 顾客未评价 顾客没有填写评价 会员未评价
超时未评价 逾期未评价 未及时评价 未填写评价 未填写评论 未填写评价内容 没有填写评价 没有填写评论
没有填写评价内容 暂无评价 暂无评论 暂无评价内容 暂无评论内容 无评价内容 无评论内容 无文字评价 无文字评论
仅评分无文字评价 该用户觉得商品非常好给出5星好评 该用户觉得商品很好给出5星好评 该用户觉得商品较好给出4星好评
"""
_AUTOMATIC_TABLE: Final = """
系统默认好评 系统默认评价 系统默认五星好评 系统默认5星好评 系统自动好评 系统自动评价 系统自动给予好评
系统默认给予好评 系统自动默认好评 默认好评 默认评价 默认五星好评 默认5星好评 自动好评 自动默认好评 自动评价
系统预设好评 预设好评 系统给予好评 此为系统默认好评 此评价为系统默认好评 好评系统默认
"""
_ENGLISH_TABLE: Final = """
the user did not leave a comment | the user did not leave a review | the user didn't leave a comment |
this user did not leave a comment | this user did not leave a review | this user didn't leave a comment |
the user has not left a comment | the user has not left a review | user did not leave a comment |
user did not leave a review | the buyer did not leave a comment | the buyer did not leave a review |
buyer did not leave a comment | the customer did not leave a comment | the customer did not leave a review |
customer did not leave a comment | the reviewer did not leave a comment | this user left no comment |
the user left no comment | no comment left | no comments left | no review left | no written review | no review text |
no comment provided | no comment was provided | no feedback provided | rating only | default positive review |
system default positive review | default good review | system default good review | automatic positive feedback
"""
_NOTHING_WRITTEN: Final = frozenset(_NOTHING_WRITTEN_TABLE.split())
_AUTOMATIC: Final = frozenset(_AUTOMATIC_TABLE.split())
_IN_ENGLISH: Final = frozenset(re.sub(r"[\W_]", "", phrase) for phrase in _ENGLISH_TABLE.split("|"))

_PLACEHOLDER: Final = re.compile(
    f"{re.escape(MENTION_PLACEHOLDER)}(?![A-Za-z0-9_])|{'|'.join(map(re.escape, (URL_PLACEHOLDER, *PLACEHOLDERS)))}"
)
_NOT_WRITTEN: Final = re.compile(r"[\W_]+")

# Pictures that a person chooses to say something: emoji, hearts, stars, ticks and crosses; flags and hands among them.
_PICTURE: Final = re.compile(r"[\u221a\u2600-\u2775\u2794-\u27bf\u2b50\u2b55\U0001f100-\U0001faff]")
_FACE: Final = re.compile(
    r"[:;=][-'^o~]?[()\[\]|/\\*3<>]|[()][-'^]?[:;=]|</?3"  # :) ;-( (: <3 </3
    r"|\^[_.\-~oO]*\^|[>＞][_.﹏\-]*[<＜]|-_+-|=_+=|[._]_+[._]"  # ^_^ >_< -_- =_=
    r"|[▽△∀﹏╯╰╥╭╮◕‿≧≦∇ω□°•̀́´`｀˘]{2}|[（(][^\s\w]{0,4}[▽△∀﹏╯╰╥◕‿≧≦∇ω□][^\s\w]{0,4}[)）]"
)
# Digits that are words: 666 great, 233 laughter, 520/521/1314 love, 88/886 goodbye, 995 help, 250 fool, 38 shrew,
# 555 crying, 9494 quite so, 7456 furious, 748 drop dead, 94 it is, 87 idiot, 996 overwork; and +1, 5/5, 10/10.
_SPOKEN_NUMBER: Final = re.compile(
    r"6+|23{2,}|52[01]|5?201314|1314|88+|886|995|250|38|5{3,}|(?:94)+|7456|748|87|996"
    r"|[+-]1|\d{1,2}(?:\.\d)?/(?:5|10|100)"
)
_EDGE: Final = " \t!！?？.。,，~～…、;；'\"“”"


def _is_default(text: str) -> bool:
    key = _NOT_WRITTEN.sub("", to_simplified(text.lower()))
    if key in _NOTHING_WRITTEN or key in _AUTOMATIC or key in _IN_ENGLISH:
        return True
    return any(key.endswith(tail) and key.removesuffix(tail) in _NOTHING_WRITTEN for tail in _AUTOMATIC)


_LONGEST_DEFAULT: Final = 80
"""Code points, punctuation included; no platform's text is longer, and nearly all comments need no comparison."""
_DEFAULT_HINT: Final = re.compile(r"[评評]|comment|review|feedback|rating", re.IGNORECASE)


def triage(text: str) -> str | None:
    """Decide whether a comment says anything at all.

    Nothing is guessed: a comment that is only a picture, an emoticon or a number used as a word ("666", "+1", "5/5")
    says something, and so does "好评" alone; "!!!", "12345", a web address, a placeholder or a platform's default text
    do not.

    Args:
        text: a cleaned comment.

    Returns:
        Why there is nothing to analyse: `"empty"`, `"no_words"` or `"default_text"`; None if there is something.
    """
    if not text or text.isspace():
        return EMPTY
    if len(text) <= _LONGEST_DEFAULT and _DEFAULT_HINT.search(text) and _is_default(text):
        return DEFAULT_TEXT
    if "[" in text or MENTION_PLACEHOLDER in text:
        text = _PLACEHOLDER.sub(" ", text)
    says = (
        any(map(str.isalpha, text))
        or _PICTURE.search(text)
        or _FACE.search(text)
        or any(_SPOKEN_NUMBER.fullmatch(part.strip(_EDGE)) for part in text.split())
    )
    return None if says else NO_WORDS
