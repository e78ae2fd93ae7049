"""Analyses as Markdown, read back with a real Markdown renderer: whatever a comment holds, only its characters show."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from reviewmill.schema import Analysis
from reviewmill.server.face.overview import file_line
from reviewmill.server.face.render import MAX_ROWS, inline, quote, render, render_many, render_one, shorten, visible
from reviewmill.server.face.words import CHINESE, ENGLISH
from reviewmill.tasks import load_task

SENTIMENT = load_task("sentiment")
EMOTION = load_task("emotion")
RENDERER = MarkdownIt("commonmark", {"html": True, "typographer": True}).enable(
    ["table", "strikethrough", "replacements"]
)
# Open WebUI 0.12.4 shows text as it stands in the source: no reference is resolved.
LITERAL = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).disable("entity")
JOINER = "\u2060"
HARMLESS = {"paragraph", "blockquote", "text", "softbreak", "hardbreak", "strong", "table", "thead", "tbody", "inline"}
HARMLESS |= {"tr", "th", "td"}

NASTY = (
    "![x](http://evil.example/p.png)",
    "[click](javascript:alert(1))",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "</td></table><h1>",
    "<https://evil.example>",
    "https://evil.example www.evil.example a@b.example",
    "a | b || c\n|---|---|\n| d | e |",
    "```\ncode\n```",
    "`code` ``",
    "# head\n## head",
    "===\n---\n***\n___",
    "- a\n+ b\n* c\n1. d\n1) e",
    "> quote",
    "    indented\n\tcode",
    "**bold** __bold__ *em* _em_ ~~gone~~ ==mark==",
    "&amp; &#42;x&#42; &lt;b&gt;",
    "\\[x\\] \\(y\\) $z$ $$w$$ \\* \\\\",
    "[a]: http://evil.example\n[a]",
    "[^1]\n[^1]: note",
    "a\u202ecba\u2066x\u200f\x00\x1b[31m\x85\u2028b\ud800",
    "{{user}} {{VIDEO_FILE_ID_1}} :smile: @all #x <details>",
    "!!! note\n: definition\n::: warning\n% x",
    "(c) (tm) +- ... -- --- ?!!!!",
    "line\\\nline  \nline",
    "1) a\n12. b\n\\) c\n\\] d",
    "\\begin{equation}x\\end{equation} \\ce{x} \\pu{x} [1] [2][3#a] [^1]",
    "<details open>\n<summary>x</summary>\ny\n</details>",
    ":::code\nx\n:::\n<u>x</u> <@U:1|x> <#x>",
    "<!-- --><?php ?><![CDATA[x]]><!DOCTYPE x>",
)
SIGNS = st.text(st.sampled_from("\\`*_{}[]<>()#+-.!|~$^=:/&;@'\"ab1 \n\t好差（）！\u202e\u200d\u3000"), max_size=40)
TEXTS = st.one_of(
    st.text(max_size=80),
    SIGNS,
    st.lists(st.sampled_from(NASTY) | SIGNS, min_size=1, max_size=4).map("\n".join),
)


def analysis(text: str, label: str | None = "negative", **fields: object) -> Analysis:
    probabilities = {"positive": 0.01, "negative": 0.97, "neutral": 0.02} if label else {}
    return Analysis(
        {
            "sentiment": label,
            "confidence": probabilities.get(label or ""),
            "keywords": [],
            "original_text": text,
            "id": None,
            "status": "ok" if label else "insufficient",
            "probabilities": probabilities,
            "spans": [],
            "language": "zh-Hans",
            "flags": [],
            "route": "model",
            "needs_review": False,
            "error": None,
            "provenance": {"task": "sentiment"},
        }
        | fields
    )


def marked(text: str, *words: str, **fields: object) -> Analysis:
    spans = [{"text": word, "start": text.index(word), "end": text.index(word) + len(word)} for word in words]
    return analysis(text, keywords=list(words), spans=spans, **fields)


def tokens(markdown: str) -> list:
    found = []
    for token in RENDERER.parse(markdown):
        found += [token, *(token.children or [])]
    for token in found:
        kind = token.type.removesuffix("_open").removesuffix("_close")
        assert kind in HARMLESS, f"{token} of {markdown!r}"
    return found


def shown(token) -> str:
    """The text of one inline token."""
    return "".join(" " if child.type in {"softbreak", "hardbreak"} else child.content for child in token.children)


def cells(markdown: str) -> list[list[str]]:
    rows: list[list[str]] = []
    for token, after in zip(found := RENDERER.parse(markdown), found[1:], strict=False):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in {"td_open", "th_open"}:
            rows[-1].append(shown(after))
    return rows


def quoted(markdown: str) -> str:
    depth, pieces = 0, []
    for token in RENDERER.parse(markdown):
        depth += token.nesting if token.type.startswith("blockquote") else 0
        if depth and token.type == "inline":
            pieces.append(shown(token))
    assert len(pieces) <= 1
    return "".join(pieces)


def seen(text: str) -> str:
    # HTML shows white space as single spaces, wherever it stands; word joiners keep addresses from becoming links.
    return " ".join(text.replace(JOINER, "").split())


def looked(text: str) -> str:
    return visible(text.replace(JOINER, ""))


@settings(max_examples=400)
@given(TEXTS)
@example("\n".join(NASTY))
@example("a\n" + "\n".join(NASTY))
def test_a_quote_shows_the_comments_characters_and_nothing_else(text) -> None:
    markdown = render_one(analysis(text))
    tokens(markdown)
    assert seen(quoted(markdown)) == looked(text)


@settings(max_examples=400)
@given(TEXTS)
@example(" ".join(NASTY))
def test_a_cell_shows_the_comments_characters_and_nothing_else(text) -> None:
    rows = [analysis(text), analysis("好", "positive"), analysis(text, keywords=[text[:5] or "x"])]
    markdown = render_many(rows, SENTIMENT)
    tokens(markdown)
    table = cells(markdown)
    assert [len(row) for row in table] == [5] * 4
    assert [seen(row[1]) for row in table[1:]] == [seen(shorten(text, 60)), "好", seen(shorten(text, 60))]
    assert seen(table[3][4]) == seen(shorten(text[:5] or "x", 24))


@pytest.mark.parametrize("text", NASTY)
def test_each_nasty_comment_alone(text) -> None:
    for markdown in (render_one(analysis(text)), render_many([analysis(text)] * 2, SENTIMENT)):
        tokens(markdown)
        html = RENDERER.render(markdown)
        tags = set(re.findall(r"<(\w+)", html))
        assert tags <= {"p", "strong", "blockquote", "br", "table", "thead", "tbody", "tr", "th", "td"}
    assert seen(quoted(render_one(analysis(text)))) == looked(text)


# Unicode Standard Annex 9, table 4 (explicit directional formatting), and control characters.
TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]|[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@given(st.text(st.characters(), max_size=60) | TEXTS)
@example("a\u202ecb\u2069a\u200f\u061c\u0085\ud800")
def test_nothing_turns_the_order_of_reading(text) -> None:
    assert not TURNING.search(render_one(analysis(text)) + render_many([analysis(text)] * 2, SENTIMENT))


@settings(max_examples=400)
@given(TEXTS, st.data())
def test_keywords_are_bold_wherever_they_stand(text, data) -> None:
    places = st.integers(0, len(text))
    marks = [tuple(sorted(data.draw(st.tuples(places, places)))) for _ in range(data.draw(st.integers(0, 3)))]
    markdown = quote(text, marks)
    tokens(markdown)
    depth, bold, plain = 0, "", ""
    for token in RENDERER.parse(markdown):
        for child in token.children or []:
            depth += child.nesting if child.type.startswith("strong") else 0
            content = " " if child.type in {"softbreak", "hardbreak"} else child.content
            bold, plain = (bold + content, plain) if depth else (bold, plain + content)
    inside = {at for start, end in marks for at in range(start, end)}

    def chars(text: str) -> str:
        return "".join(looked(text).split())

    assert chars(bold) == chars("".join(char for at, char in enumerate(text) if at in inside))
    assert chars(plain) == chars("".join(char for at, char in enumerate(text) if at not in inside))


# What cmark-gfm and remark-gfm look for in text whose references are resolved already.
ADDRESSES = re.compile(r"\w+://[-.\w]|www\.|[-.\w+]@[-\w]", re.IGNORECASE)


@given(st.lists(st.sampled_from(["http://", "HTTPS://", "www.", "WWW", ".", "a", "@", "b.example", ":", "/"])))
@example(["a", "@", "b.example", " https://", "a"])
def test_no_address_is_left_for_renderers_that_look_for_them_last(parts) -> None:
    text = "".join(parts)
    for markdown in (render_one(analysis(text)), render_many([analysis(text)] * 2, SENTIMENT)):
        assert not ADDRESSES.search(" ".join(shown(token) for token in tokens(markdown) if token.type == "inline"))


@settings(max_examples=400)
@given(TEXTS)
@example("\n".join(NASTY))
def test_programs_that_resolve_no_references_show_the_same(text) -> None:
    for markdown in (render_one(analysis(text)), render_many([analysis(text)] * 2, SENTIMENT)):
        assert "&#" not in markdown
        literal, resolved = (
            [shown(token) for token in renderer.parse(markdown) if token.type == "inline"]
            for renderer in (LITERAL, MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]))
        )
        assert literal == resolved


@settings(max_examples=400)
@given(TEXTS)
@example("\n".join(NASTY))
@example("\\(x\\) \\[x\\] (1) [1] 1)")
def test_nothing_is_left_of_the_syntax_of_chat_programs(text) -> None:
    marks = [(0, len(text))]
    for markdown in (quote(text), quote(text, marks), inline(text, 60), render_many([analysis(text)] * 2, SENTIMENT)):
        # Ends of formulas; begins of Open WebUI's blocks, mentions, citations and footnotes.
        assert not re.search(r"\\[)\]]|(?<!\\)\$|\\\[|<(?!\u2060)|\[[\d^]|\{\{", markdown)


NAMES = TEXTS | st.sampled_from(
    ["reviews.csv", "**x**.csv", "a](http://evil.example).csv", "<b>.xlsx", "（1）.csv", "."]
)


@settings(max_examples=400)
@given(NAMES)
@example("reviews.2026-01.csv")
def test_the_name_of_a_file_is_shown_as_it_is(name) -> None:
    for words in (CHINESE, ENGLISH):
        line = file_line(name, 3, name, words)
        (content,) = [token for token in RENDERER.parse(line) if token.type == "inline"]
        tokens(line)
        assert seen(shown(content)).count(seen(shorten(name, 80))) >= 2
        assert not shorten(name, 80) or content.children[1].type == "strong_open"
        assert shown(content) == "".join(t.content for t in LITERAL.parse(line)[1].children or [])
    assert file_line("reviews.csv", 3, "text", ENGLISH) == "**reviews\\.csv** · 3 comments in the column text"


@given(st.text(max_size=200), st.integers(2, 30))
def test_what_is_shortened_is_a_beginning(text, most) -> None:
    short = shorten(text, most)
    assert len(short) <= most
    assert short == visible(text) or (short.endswith("…") and visible(text).startswith(short[:-1]))
    assert seen(shown(RENDERER.parse(f"x{inline(text, most)}")[1])) == "x" + seen(short)


@given(TEXTS)
def test_a_hostile_message_of_an_error_is_only_text(text) -> None:
    failed = analysis("好", None, status="error", error={"type": "endpoint_error", "message": text}, needs_review=True)
    tokens(render_one(failed))
    tokens(markdown := render_many([failed, failed], SENTIMENT))
    assert seen(shorten(text, 100)) in seen(cells(markdown)[1][2])


def test_one_comment() -> None:
    text = "这个手机拍照太差了，根本不像宣传那样清晰。"
    assert render_one(marked(text, "拍照太差", "宣传")) == (
        "**负面** ███████████████████░ 97.0%\n\n"
        "负面 97.0% · 中性 2.0% · 正面 1.0%\n\n"
        "> 这个手机**拍照太差**了，根本不像**宣传**那样清晰。\n\n"
        "关键词：拍照太差、宣传\n"
    )


def test_english_for_what_is_not_chinese() -> None:
    markdown = render_one(marked("Well-made, 5.5 stars. It works: yes.", "Well-made", language="en"))
    assert markdown.startswith("**negative** ")
    assert "> **Well-made**, 5\\.5 stars. It works: yes.\n" in markdown
    assert markdown.endswith("Keywords: Well-made\n")


def test_a_keyword_between_letters_and_punctuation_is_bold() -> None:
    for text, word in [("很（差）啊", "（差）"), ("好!!!a", "!!!"), ("a*b*c", "*b*"), ("x😀y", "😀"), ("a)b", ")")]:
        html = RENDERER.render(quote(text, [(text.index(word), text.index(word) + len(word))])).replace(JOINER, "")
        assert f"<strong>{word}</strong>" in html


def test_what_has_no_label_says_so() -> None:
    nothing = analysis("", None, flags=["empty"])
    assert render_one(nothing) == "**无可判断**：评论为空\n"
    assert render_one(Analysis(nothing | {"language": None})) == "**nothing to judge**: the comment is empty\n"
    default = render_one(analysis("此用户没有填写评价。", None, flags=["default_text"]))
    assert default == "**无可判断**：平台的默认文字\n\n> 此用户没有填写评价。\n"
    error = {"type": "endpoint_timeout", "message": "http://x did not answer."}
    failed = render_one(analysis("很好", None, status="error", error=error, needs_review=True))
    assert failed.startswith("**出错**：http\\://\u2060x did not answer.")
    assert "%" not in failed


def test_no_probability_is_not_a_bar() -> None:
    markdown = render_one(analysis("很好", "positive", confidence=None, probabilities={}, needs_review=True))
    assert "**正面** — 模型的服务器不给概率" in markdown
    assert "█" not in markdown
    assert "人工复核" in markdown


def test_nearly_certain_is_not_certain() -> None:
    assert "99.9%" in render_one(analysis("差", confidence=0.9999, probabilities={"negative": 0.9999}))
    assert "100.0%" in render_one(analysis("差", confidence=1.0, probabilities={"negative": 1.0}))


def test_what_was_done_to_the_text_is_said() -> None:
    markdown = render_one(analysis("差", flags=["order_dropped", "shortened", "unknown_flag"], needs_review=True))
    assert "指使" in markdown
    assert "中间部分" in markdown
    assert "unknown" not in markdown


def test_several_comments_are_counted_and_tabled() -> None:
    rows = [
        marked("屏幕差", "屏幕差"),
        analysis("好 | 很好", "positive", confidence=0.51, probabilities={"positive": 0.51}, needs_review=True),
        analysis("", None, flags=["empty"], language=None),
        analysis("x", None, status="error", error={"type": "endpoint_error", "message": "failed"}, language="en"),
    ]
    markdown = render(rows, SENTIMENT)
    first = markdown.splitlines()[0]
    assert first == (
        "**4 条评论** · 正面 1 (25.0%) · 负面 1 (25.0%) · 中性 0 (0.0%) · 无可判断 1 (25.0%) · 出错 1 (25.0%)"
    )
    assert cells(markdown) == [
        ["#", "评论", "标签", "置信度", "关键词"],
        ["1", "屏幕差", "负面", "97.0%", "屏幕差"],
        ["2", "好 | 很好", "正面 ?", "51.0%", ""],
        ["3", "", "无可判断：评论为空", "", ""],
        ["4", "x", "出错：failed", "", ""],
    ]


def test_a_table_has_so_many_rows_and_then_a_link() -> None:
    link = "https://reviews.example/v1/jobs/0197/result?format=csv"
    markdown = render([analysis(f"第{n}条差") for n in range(MAX_ROWS + 50)], SENTIMENT, link=link)
    assert len(cells(markdown)) == MAX_ROWS + 1
    assert "只显示前 200 条，共 250 条。" in markdown
    assert f'<a href="{link}">完整文件</a>' in RENDERER.render(markdown)
    assert "**250 条评论**" in markdown


def test_a_task_of_ones_own() -> None:
    row = analysis("气死", None) | {"emotion": "anger", "status": "ok", "provenance": {"task": "emotion"}}
    assert "**愤怒**" in render_one(Analysis(row))
    own = Analysis(row | {"mood": "a|b*c", "provenance": {"task": "mood"}})
    assert "**a\\|b\\*c**" in render_one(own)
    assert "愤怒 2 (100.0%)" in render_many([Analysis(row)] * 2, EMOTION)


@pytest.mark.clock
def test_no_comment_takes_long() -> None:
    began = time.perf_counter()
    for text in ("*" * 1_000_000, " " * 1_000_000, "\n" * 1_000_000, "-." * 500_000):
        render_one(analysis(text))
        render_many([analysis(text)] * 200, SENTIMENT)
    assert time.perf_counter() - began < 5
