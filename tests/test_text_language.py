"""Language by script and statistics."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewmill.text import clean, detect_language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("这个手机拍照太差了，根本不像宣传那样清晰。", "zh-Hans"),
        ("這家餐廳的服務真的很好，下次還會再來", "zh-Hant"),
        ("很好吃", "zh"),
        ("iPhone 15 Pro Max 256GB 很好", "zh"),
        ("鲜の味，这家寿司很赞", "zh-Hans"),
        ("无语了 ¯\\_(ツ)_/¯", "zh-Hans"),
        ("yyds", "zh"),
        ("とても美味しかったです。また来ます。", "ja"),
        ("最高でした", "ja"),
        ("배송이 빠르고 좋아요", "ko"),
        ("ㅋㅋㅋ", "ko"),
        ("Great phone but the battery is terrible", "en"),
        ("good", "en"),
        ("ok!", "en"),
        ("Schlechte Qualität, ich bin sehr enttäuscht", "de"),
        ("Très bon produit, je recommande", "fr"),
        ("Muy bueno, lo recomiendo a todos", "es"),
        ("Rất tốt, giao hàng nhanh", "vi"),
        ("สินค้าดีมาก ส่งเร็ว", "th"),
        ("المنتج ممتاز والتوصيل سريع", "ar"),
        ("Отличный товар, быстрая доставка", "ru"),
        ("बहुत अच्छा उत्पाद है", "hi"),
        ("Πολύ καλό προϊόν", "el"),
        ("@tom http://a.cn 很赞，满意", "zh-Hans"),
        ("[微笑] this is really nice", "en"),
        ("👍👍", None),
        ("666", None),
        ("!!!", None),
        ("http://a.cn", None),
        ("", None),
    ],
)
def test_language(text, language) -> None:
    assert detect_language(clean(text).text) == language


def test_chinese_needs_no_statistics() -> None:
    """The statistical model is slow to load, so a Chinese run must never touch it."""
    code = (
        "import sys; from reviewmill.text import clean, detect_language, triage;"
        "print(detect_language(clean('这个很好').text), triage('好'));"
        "print('py3langid' in sys.modules, 'ftfy' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8")
    assert output.stdout.split() == ["zh-Hans", "None", "False", "False"]


@given(st.text(max_size=30))
def test_any_text_has_a_tag_or_none(text) -> None:
    tag = detect_language(text)
    assert tag is None or tag.split("-")[0].islower()
