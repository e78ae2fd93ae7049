"""Long texts are cut where people would cut them, and nothing is lost or said twice."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewmill.text.parts import role_of, split_text

CHAT = """[10:02:11] 客服小王：您好，请问有什么可以帮您？
[10:02:40] 用户：我买的手机屏幕碎了，
而且你们三天都没回我。
[10:03:05] 客服小王：非常抱歉给您带来不便。
[10:03:30] 用户：太失望了，我要退货！"""


def said(text: str) -> list[tuple[str | None, str | None, str]]:
    return [(part.speaker, part.role, text[part.start : part.end]) for part in split_text(text)[1]]


def test_a_conversation_is_cut_into_utterances_with_their_speakers() -> None:
    kind, _ = split_text(CHAT)
    assert kind == "transcript"
    assert said(CHAT) == [
        ("客服小王", "agent", "您好，请问有什么可以帮您？"),
        ("用户", "customer", "我买的手机屏幕碎了，\n而且你们三天都没回我。"),
        ("客服小王", "agent", "非常抱歉给您带来不便。"),
        ("用户", "customer", "太失望了，我要退货！"),
    ]


@pytest.mark.parametrize(
    "chat",
    [
        "客服:你好\n用户:你好",
        "客服 2024-05-01 10:02:11\n你好\n用户 2024-05-01 10:02:15\n你好",
        "2024-05-01 10:02:11 客服\n你好\n2024-05-01 10:02:15 用户\n你好",
        "Agent 2 (10:03): 你好\nCustomer (10:04): 你好",
        "【10:02】坐席01：你好\n【10:03】来电人：你好",
        "2024年5月1日 10:02 客服：你好\n2024年5月1日 10:03 顾客：你好",
    ],
)
def test_forms_in_which_conversations_are_exported(chat: str) -> None:
    assert split_text(chat)[0] == "transcript"
    assert [(role, words) for _, role, words in said(chat)] == [("agent", "你好"), ("customer", "你好")]


def test_people_without_a_role_speak_too() -> None:
    chat = "张三：这家店不错\n李四：我觉得一般\n张三：那下次换一家\n李四：好"
    assert [speaker for speaker, _, _ in said(chat)] == ["张三", "李四", "张三", "李四"]


@pytest.mark.parametrize(
    "text",
    [
        "优点：屏幕很好\n缺点：电池差\n总结：还行",
        "优点：屏幕很好。缺点：电池差。",
        "见 http://example.com/a\n和 http://example.com/b",
        "时间 10:30 到的，10:45 就送走了",
        "很好",
        "",
        "用户：很好",
    ],
)
def test_what_only_looks_like_a_conversation_stays_whole(text: str) -> None:
    assert split_text(text)[0] == "whole"
    assert said(text) == [(None, None, text)]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("客服小王", "agent"),
        ("用户01", "customer"),
        ("Customer", "customer"),
        ("Agent-2", "agent"),
        ("reporter", None),
        ("张三", None),
        ("智能机器人", "agent"),
    ],
)
def test_roles_from_names(name: str, role: str | None) -> None:
    assert role_of(name) == role


def test_an_article_is_cut_into_paragraphs_and_headings_go_with_what_follows() -> None:
    text = (
        "外观\n"
        + "这部手机的外观很漂亮。" * 10
        + "\n\n电池\n"
        + "电池实在太差了。" * 12
        + "\n\n"
        + "总的来说不推荐。" * 40
    )
    kind, parts = split_text(text, over=300)
    assert kind == "article"
    pieces = [text[part.start : part.end] for part in parts]
    assert pieces[0].startswith("外观\n这部")
    assert pieces[1].startswith("电池\n电池")
    assert all(piece.endswith("。") for piece in pieces)
    assert all(len(piece) <= 400 for piece in pieces)


def test_one_endless_paragraph_is_cut_between_sentences() -> None:
    text = "".join(f"第{number}句话说的是质量问题。" for number in range(200))
    kind, parts = split_text(text)
    assert kind == "article"
    assert all(text[part.start : part.end].endswith("。") for part in parts)
    assert max(part.end - part.start for part in parts) <= 400


def test_without_any_sentence_it_is_cut_by_length() -> None:
    parts = split_text("啊" * 5000)[1]
    assert max(part.end - part.start for part in parts) <= 800


@given(
    st.lists(
        st.sampled_from(["用户：", "客服：", "\n", "很好。", "!", " ", "[10:02] ", "a: ", "。", "词" * 300, "x. y"])
    )
)
def test_parts_stand_in_order_and_lose_no_word(pieces: list[str]) -> None:
    text = "".join(pieces)
    kind, parts = split_text(text)
    assert parts
    assert all(0 <= part.start <= part.end <= len(text) for part in parts)
    assert all(one.end <= two.start for one, two in pairwise(parts))
    if kind == "article":
        assert "".join("".join(text[p.start : p.end].split()) for p in parts) == "".join(text.split())
    if kind == "transcript":
        for word in ("很好", "词" * 300, "x. y"):
            assert sum(text[p.start : p.end].count(word) for p in parts) >= text.count(word) - text.count(f"{word}：")
    if kind == "whole":
        assert (parts[0].start, parts[0].end) == (0, len(text))
