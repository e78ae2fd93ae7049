"""Follow-up questions, sources and what a model writes: pure functions, and what holds for every input."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from reviewmill.schema import Analysis
from reviewmill.server.face import overview, writing
from reviewmill.server.face.followups import FollowUp, asks_about_set, follow_up
from reviewmill.server.face.sources import marker, read_sources
from reviewmill.server.face.words import CHINESE, ENGLISH, words_of

SENTIMENT = ["positive", "neutral", "negative"]
FILE = "3f2c1a90-6a51-4a53-9a0e-0d6b1f9f7c11"
NEGATIVE = ("negative",)
POSITIVE = ("positive",)

QUESTIONS = {
    "只看差评": FollowUp("show", NEGATIVE),
    "请帮我只看负面评论。": FollowUp("show", NEGATIVE),
    "only negative": FollowUp("show", NEGATIVE),
    "Show me the negative ones, please!": FollowUp("show", NEGATIVE),
    "which comments are positive?": FollowUp("show", POSITIVE),
    "only the good ones": FollowUp("show", POSITIVE),
    "哪些是差评": FollowUp("show", NEGATIVE),
    "除了好评": FollowUp("show", ("neutral", "negative")),
    "只看好评和差评": FollowUp("show", ("positive", "negative")),
    "哪些需要复核": FollowUp("show", only="review"),
    "show errors": FollowUp("show", only="error"),
    "只看提到电池的": FollowUp("show", about="电池"),
    "看看关于物流的差评": FollowUp("show", NEGATIVE, about="物流"),
    "show negative comments about the battery": FollowUp("show", NEGATIVE, about="battery"),
    "只看愤怒": FollowUp("show", missing=True),
    "为什么第3条是负面": FollowUp("why", NEGATIVE, row=3),
    "为什么第三条是负面的？": FollowUp("why", NEGATIVE, row=3),
    "第一百二十条为什么是好评": FollowUp("why", POSITIVE, row=120),
    "why is row 3 negative?": FollowUp("why", NEGATIVE, row=3),
    "Why was #12 labelled positive": FollowUp("why", POSITIVE, row=12),
    "explain row 12": FollowUp("why", row=12),
    "为什么": FollowUp("why"),
    "第3条": FollowUp("row", row=3),
    "show me row 7": FollowUp("row", row=7),
    "导出": FollowUp("export"),
    "export": FollowUp("export"),
    "导出成Excel": FollowUp("export", format="xlsx"),
    "把差评导出成excel": FollowUp("export", NEGATIVE, format="xlsx"),
    "download the results as csv": FollowUp("export", format="csv"),
    "总结差评": FollowUp("summarise", NEGATIVE),
    "summarise the complaints": FollowUp("summarise", NEGATIVE),
    "what do people complain about?": FollowUp("summarise", NEGATIVE),
    "大家都在抱怨什么": FollowUp("summarise", NEGATIVE),
    "概括一下": FollowUp("summarise"),
    "least certain": FollowUp("uncertain"),
    "最不确定的20条": FollowUp("uncertain", count=20),
    "统计": FollowUp("stats"),
    "有多少条差评": FollowUp("stats", NEGATIVE),
    "how many are negative?": FollowUp("stats", NEGATIVE),
    "进度": FollowUp("stats"),
    "请分析一下": FollowUp("stats"),
    "关键词": FollowUp("keywords"),
    "帮助": FollowUp("help"),
}
COMMENTS = [
    *(
        "差评",
        "好评",
        "负面",
        "negative",
        "给我好评",
        "下载太慢了",
        "导出功能很难用",
        "为什么这么差",
        "why so slow?",
        "只看了一眼",
    ),
    *(
        "only good",
        "bad",
        "good",
        "还可以",
        "一般",
        "不满意",
        "喜欢",
        "ok",
        "thanks",
        "谢谢",
        "就这样吧",
        "不是好评",
        "3",
        "12345",
    ),
    *(
        "总结一下就是垃圾",
        "explain yourself, seller",
        "the row of buttons is bad",
        "统计局的人说很好",
        "",
        " ",
        "？？？",
        "😀",
    ),
]


@pytest.mark.parametrize("text", QUESTIONS)
def test_questions_are_understood(text: str) -> None:
    assert follow_up(text, SENTIMENT) == QUESTIONS[text]


@pytest.mark.parametrize("text", COMMENTS)
def test_comments_are_left_alone(text: str) -> None:
    assert follow_up(text, SENTIMENT) is None
    assert not asks_about_set(text)


def test_labels_of_ones_own_are_words_too() -> None:
    assert follow_up("只看物流问题", ["物流问题", "other"]) == FollowUp("show", ("物流问题",))
    assert follow_up("only Late-Delivery", ["late-delivery"]) == FollowUp("show", ("late-delivery",))
    assert follow_up("only angry ones", ["joy", "anger"]) == FollowUp("show", ("anger",))


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("这些评论里有哪些人姓王", True),
        ("帮我把差评按日期排序", True),
        ("which comments mention the price most often", True),
        ("> which comments mention the price", False),
        ("所有差评有什么共同点？", True),
        ("这个评论系统真难用", False),
        ("数据线质量差，帮我退货", False),
        ("汤全洒了，骑手还催我给好评，问我有没有时间", False),
        ("看了所有评论才买的，没有失望", False),
        ("求好评的卡片，请你们别再塞了", False),
        ("which phone did they send me?", False),
        ("the reviews were right, great phone", False),
    ],
)
def test_what_speaks_of_the_comments_is_no_comment(text: str, asks: bool) -> None:
    assert follow_up(text, SENTIMENT) is None
    assert asks_about_set(text) is asks


@given(st.text(max_size=200), st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=5))
@example("第零条", ["a"])
@example("第百条 why", ["x"])
def test_any_text_is_a_question_or_none(text: str, labels: list[str]) -> None:
    asked = follow_up(text, labels)
    asks_about_set(text)
    if asked is not None:
        assert set(asked.labels) <= set(labels)
        assert asked.row is None or asked.row >= 0


@given(st.sampled_from(sorted(QUESTIONS)), st.sampled_from(["手机", "battery", "x9", "的手机", "!?x"]))
def test_one_foreign_word_makes_it_a_comment(question: str, word: str) -> None:
    if "提到" not in question and "关于" not in question and "about" not in question:
        assert follow_up(f"{question} {word}", SENTIMENT) is None


# --- sources ----------------------------------------------------------------------------------------------------------


def source(content: str, *, name: str = "a.csv", resource: str = FILE) -> str:
    return f'<source id="1" name="{name}" resource-type="file" resource-id="{resource}">{content}</source>\n'


def test_files_are_found_and_taken_off() -> None:
    found = read_sources(source(marker(FILE, 1000)) + source(marker("other-file-1", 2)) + "\n只看差评")
    assert found.files == (FILE, "other-file-1")
    assert found.marked
    assert found.text == "只看差评"
    assert read_sources("plain <source> text").text == "plain <source> text"
    web = read_sources('<source id="1" name="page" resource-type="web_search">some words</source>\nhow is it?')
    assert (web.files, web.others, web.text) == ((), 1, "how is it?")


@given(st.text(st.characters(exclude_characters='"'), max_size=60), st.text(max_size=60))
@example('x" resource-type="file" resource-id="another-file-id">', "")
def test_the_name_of_a_file_names_no_other_file(name: str, text: str) -> None:
    if "</source>" in name or "reviewmill-file:" in name:
        return
    found = read_sources(source(marker(FILE, 3), name=name) + "q" + text)
    assert found.files == (FILE,)
    assert found.text == "q" + text
    unread = read_sources(source("whatever", name=name) + "q" + text)
    assert unread.files == (FILE,)


@given(st.text(max_size=300))
@example("<source ")
@example("<source ></source><source ></source>x")
def test_any_message_is_taken_apart(text: str) -> None:
    found = read_sources(text)
    assert text.endswith(found.text)


# --- what a model writes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sentence",
    [
        "有30条评论抱怨物流。",
        "约百分之二十的顾客不满。",
        "三位顾客说太慢。",
        "大部分人不满意。",
        "Three customers complain.",
        "About 40% are unhappy.",
        "Most of them dislike it.",
        "There are 12 complaints.",
        "多数用户觉得贵。",
    ],
)
def test_counts_of_a_models_own_are_left_out(sentence: str) -> None:
    told = writing.shown(f"物流很慢。{sentence} 包装破损。", ["物流很慢", "包装破损"])
    assert told.dropped
    assert "物流很慢" in told.text
    assert "包装破损" in told.text
    assert re.sub(r"\W", "", sentence)[:4] not in re.sub(r"\W", "", told.text)


def test_numbers_that_stand_in_the_comments_may_stay() -> None:
    told = writing.shown("They say that it lasts 2 hours. It broke after 3 days.", ["it lasts 2 hours only"])
    assert "2 hours" in told.text
    assert "3 days" not in told.text
    assert told.dropped


ANY = st.text(st.characters(), max_size=80)


def rendered(markdown: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)


def harmless(markdown: str, *, links: int = 0) -> None:
    html = rendered(markdown)
    tags = re.findall(r"<(\w+)", html)
    assert set(tags) <= {
        "p",
        "strong",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "ul",
        "li",
        "blockquote",
        "br",
        "a",
    }, html
    assert tags.count("a") == links, html


@given(ANY)
@example("[x](http://evil.example) <script>alert(1)</script> ![y](http://evil.example/z)")
@example("| a | b |\n|---|---|")
@example("http://evil.example www.evil.example a@evil.example $x$ \\[y\\]")
def test_what_a_model_writes_becomes_nothing_but_characters(written: str) -> None:
    harmless(writing.shown(written, []).text)


# --- hostile keywords, names, questions -------------------------------------------------------------------------------


def analysis(text: str, label: str | None, keywords: list[str]) -> Analysis:
    return Analysis(
        {
            "sentiment": label,
            "confidence": 0.5 if label else None,
            "keywords": keywords,
            "original_text": text,
            "id": None,
            "status": "ok" if label else "deleted",
            "probabilities": {},
            "spans": [],
            "language": None,
            "flags": [],
            "route": None,
            "needs_review": False,
            "error": None,
            "provenance": {"task": "sentiment"},
        }
    )


@given(ANY, ANY, ANY, st.sampled_from([CHINESE, ENGLISH]))
@example("[x](http://evil.example)", "<img src=x>", "| a |\n", CHINESE)
def test_no_keyword_name_or_question_becomes_markup(keyword: str, name: str, about: str, words: object) -> None:
    label = name.strip() or "x"
    counts = {
        "rows": 2,
        "labels": {label: 1},
        "statuses": {"ok": 1, "deleted": 1},
        "mean_confidence": 0.5,
        "needs_review": 1,
        "top_keywords": {label: [(keyword, 1)]},
    }
    rows = [(1, analysis(keyword, label, [keyword])), (2, analysis(name, None, []))]
    link = overview.Link({"csv": "http://127.0.0.1:1/v1/downloads?token=x&format=csv"}, 7.0)
    assert isinstance(words, type(CHINESE))
    harmless(overview.summary(counts, [label], rows, words, link=link), links=1)
    harmless(overview.file_line(name, 2, keyword, words))
    wanted = FollowUp("show", (label,), about=about or "x")
    harmless(overview.chosen(wanted, 1, rows[:1], 2, words, link=None))
    harmless(overview.chosen(wanted, 0, [], 2, words, link=None))
    harmless(overview.one_row(1, rows[0][1], (name or "x",), words))
    harmless(overview.themes([(keyword, 3, 1)], words))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("只看差评", CHINESE),
        ("only negative", ENGLISH),
        ("OK 好", CHINESE),
        ("とても良い", ENGLISH),
        ("!", CHINESE),
        ("", CHINESE),
    ],
)
def test_answers_have_the_language_of_the_question(text: str, words: object) -> None:
    assert words_of(text, CHINESE) is words
