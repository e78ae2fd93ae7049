"""What makes a comment hard, by signs that can be seen in its text. Pure.

Signs, not understanding: a "not" may deny nothing, and an irony cue is no irony. They are there to find where a model
fails more often than elsewhere; every number made from them is a number about comments with that sign.
"""

from __future__ import annotations

import re
from typing import Final

_ZH_NEGATION = (
    r"不(?!过|错|同|仅|但|论|管|料|止|妨|愧|一样)|没(?!事|准)|别(?!的|人|致|墅)|未(?!来|必)|无(?!论|线|语)|勿|甭|冇"
)
_EN_NEGATION = r"\b(?:not|no|never|nothing|nobody|nor|neither|without|hardly|cannot)\b|n['’]t\b"

_SIGNS: Final[dict[str, re.Pattern[str]]] = {
    "negation": re.compile(rf"{_ZH_NEGATION}|{_EN_NEGATION}", re.IGNORECASE),
    "double_negation": re.compile(
        r"不是不|不会不|不能不|不得不|不无|没有不|无不|非.{1,8}不可|差点没|差一点没|未必不|不可能不|怎能不|没.{0,3}不"
        r"|\bnot (?:un|im|in|bad|without)|n['’]t (?:not|dis|un)|\bno (?:un|complain)",
        re.IGNORECASE,
    ),
    "contrast": re.compile(
        r"但(?!凡)|可是|不过|然而|虽|尽管|就是(?!说|这样)|只是|只不过|反而|却|除了|可惜|美中不足|唯一|倒是|还行.{0,6}[，,]"
        r"|(.)是\1[，,]"
        r"|\b(?:but|however|although|though|despite|except|unfortunately|yet|other than)\b",
        re.IGNORECASE,
    ),
    "irony_cue": re.compile(
        r"呵呵|呵{2}|真(?:是)?(?:棒|行|会|厉害|有你的|绝了)|可真|好一个|不愧是|谢谢(?:您|你)?(?:啊|了|哈)|感谢.{0,8}(?:让|给)我"
        r"|(?:真|太)?(?:服|佩服)了|恭喜|🙂|🙃|😅|👏|🤡|\[(?:微笑|呵呵|再见|捂脸|鼓掌)\]|[“\"'‘](?:优质|精品|正品|五星|新鲜|贴心)[”\"'’]"
        r"|\b(?:yeah right|oh great|thanks for nothing|what a joke|bravo|good luck with|as if|so much for)\b|/s\b",
        re.IGNORECASE,
    ),
    "question": re.compile(r"[?？]|吗(?:[。！!~～]|$)|难道|凭什么|怎么(?:可能|会)|谁知道|有没有"),
    "slang": re.compile(
        r"yyds|绝绝子|真香|踩雷|避雷|翻车|智商税|种草|拔草|安利|坑爹|坑货|辣鸡|垃鸡|拉胯|摆烂|破防|无语|吐槽|给力|赞爆|炒鸡|巨[好难贵]"
        r"|(?<!\d)(?:666|233)|\b(?:nb|awsl|emo|xswl|u1s1)\b|巴适|灵光|嘎嘎|贼[拉好难]|老铁|亲们|酱紫|肿么|神马|尼玛"
        r"|卧槽|棒棒哒|么么哒|萌萌|\b(?:lol|lmao|omg|wtf|meh|af|lit|smh|tbh|imo|gonna|wanna|ain['’]t)\b",
        re.IGNORECASE,
    ),
    "emoji": re.compile(
        "[\U0001f300-\U0001faff\u2600-\u27bf]|\\[[\u4e00-\u9fff]{1,4}\\]|[:;=][-^]?[)(DPp]|\\^_?\\^|T_T|QAQ|[（(][^（）()\\s\\w]{1,12}[）)]"
    ),
    "comparison": re.compile(
        r"比(?!如|较(?:好|满意)|例|赛|划)|不如|相比|没有.{1,8}[好大多快香]|跟.{1,8}一样|还是.{1,6}好|更|\b(?:than|compared|unlike|better|worse)\b",
        re.IGNORECASE,
    ),
    "faint": re.compile(
        r"一般|还行|还可以|还好|凑合|马马虎虎|将就|就那样|过得去|中规中矩|勉强|有点|有些|稍微|略|差强人意"
        r"|\b(?:okay|ok|average|decent|mediocre|so-so|fine|bit|somewhat|kind of)\b",
        re.IGNORECASE,
    ),
    "conditional": re.compile(
        r"如果|要是|希望|建议|期待|本来以为|本以为|原以为|早知道|应该"
        r"|\b(?:if|wish|hope|should|would|could have|expected)\b",
        re.IGNORECASE,
    ),
    "code_mix": re.compile(r"[\u4e00-\u9fff].*[A-Za-z]{2,}|[A-Za-z]{2,}.*[\u4e00-\u9fff]", re.DOTALL),
}

TAGS: Final = (*_SIGNS, "very_short", "very_long")
"""All tags, in the order in which `tags_of` gives them."""

VERY_SHORT: Final = 6
VERY_LONG: Final = 200

_LENGTHS: Final = ((9, "1-9"), (29, "10-29"), (99, "30-99"), (299, "100-299"))


def tags_of(text: str) -> list[str]:
    """The signs that a cleaned comment shows.

    Args:
        text: the comment; lengths are counted in Unicode code points.
    """
    found = [name for name, sign in _SIGNS.items() if sign.search(text)]
    if len(text) <= VERY_SHORT:
        found.append("very_short")
    elif len(text) > VERY_LONG:
        found.append("very_long")
    return found


def length_of(text: str) -> str:
    """The class of a comment's length, in Unicode code points: `10-29`."""
    return next((name for most, name in _LENGTHS if len(text) <= most), "300+")
