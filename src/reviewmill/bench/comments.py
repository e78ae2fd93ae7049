"""Comments to measure with, where there is no file: as long and as different as real ones, and the same everywhere."""

from __future__ import annotations

import random
from typing import Final

_THINGS: Final = ("手机", "耳机", "外卖", "酒店", "洗衣机", "面膜", "书包", "客服", "快递", "连衣裙", "早餐", "键盘")
_POINTS: Final = (
    "拍照很清晰，白天晚上都看得清",
    "送来的时候已经凉了，汤还洒了一半",
    "包装是蓝色的，和图片上一样",
    "用了三天就坏了，联系客服没人理",
    "价格比实体店便宜不少，质量也不差",
    "房间有股霉味，半夜空调一直响",
    "尺码偏小，建议买大一号",
    "物流很快，第二天就到了",
    "味道一般，没有上次好吃",
    "说明书只有英文，看不太懂",
    "做工很精致，朋友看了也想买",
    "等了四十分钟才上菜，服务态度还不好",
    "the battery lasts about a day and the screen is bright",
    "ordinary, nothing special, but it works",
    "arrived broken and the refund took two weeks",
)
_ENDS: Final = ("总的来说很满意。", "不会再买了。", "先用用看吧。", "推荐给大家！", "希望商家改进。", "一般般。")


def sample(number: int) -> list[str]:
    """So many different comments, of 20 to 90 characters."""
    choose = random.Random(20240501)  # noqa: S311 - the same everywhere
    texts: dict[str, None] = {}
    while len(texts) < number:
        points = choose.sample(_POINTS, choose.choice((1, 1, 2, 3)))
        day = choose.randint(1, 9999)
        texts[f"{choose.choice(_THINGS)}，第{day}单：{'，'.join(points)}。{choose.choice(_ENDS)}"] = None
    return list(texts)
