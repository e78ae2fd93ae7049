"""What a chat request asks."""

from __future__ import annotations

import json
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewmill.errors import ChatError
from reviewmill.server.face.messages import background_answer, comments_in, last_user_text

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def user(content: object) -> dict[str, object]:
    return {"role": "user", "content": content}


def test_the_last_message_of_the_user_counts() -> None:
    messages = [
        {"role": "system", "content": "You are kind."},
        user("太差"),
        {"role": "assistant", "content": "负面"},
        user("很好"),
        {"role": "assistant", "content": "…"},
    ]
    assert last_user_text(messages) == "很好"


def test_pictures_of_earlier_messages_make_no_difference() -> None:
    assert last_user_text([user([{"type": "image_url"}]), user("很好")]) == "很好"


def test_text_parts_are_joined() -> None:
    assert last_user_text([user([{"type": "text", "text": "很好"}, {"type": "text", "text": "太差"}])]) == "很好\n太差"


@pytest.mark.parametrize(
    ("messages", "param", "word"),
    [
        ([], "messages", "at least one"),
        (None, "messages", "list"),
        ("很好", "messages", "list"),
        ([{"role": "system", "content": "x"}], "messages", "`user`"),
        ([user("a"), 3], "messages.[1]", "object"),
        ([{"role": "x"}, user("a")], "messages.[0]", "role"),
        ([user(None)], "messages.[0].content", "no content"),
        ([user([])], "messages.[0].content", "no content"),
        ([user([{"type": "text"}])], "messages.[0].content.[0]", "Only text"),
        (
            [user([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "http://x"}}])],
            "messages.[0].content.[1]",
            "image_url",
        ),
    ],
)
def test_what_holds_no_text_is_refused(messages, param, word) -> None:
    with pytest.raises(ChatError, match=word) as caught:
        last_user_text(messages)
    assert caught.value.param == param


@given(JSON)
def test_no_json_breaks_it(messages) -> None:
    try:
        text = last_user_text(messages)
        comments = comments_in(text, 3)
    except ChatError:
        return
    else:
        assert 1 <= len(comments) <= 3
        assert len(comments) == 1 or all(comment.strip() for comment in comments)


@pytest.mark.parametrize(
    ("text", "comments"),
    [
        ("很好", ["很好"]),
        ("很好\n太差", ["很好", "太差"]),
        ("很好\r\n\r\n  \n太差\n", ["很好", "太差"]),
        ("很好\u2028还行", ["很好\u2028还行"]),
        ("```\n很好\n\n就是贵\n```", ["很好\n\n就是贵"]),
        ("```text\n很好\n就是贵\n```\n太差", ["很好\n就是贵", "太差"]),
        ("~~~\n很好\n```\n就是贵\n~~~", ["很好\n```\n就是贵"]),
        ('"""\n很好\n就是贵\n"""\n"""\n一般\n"""', ["很好\n就是贵", "一般"]),
        ("请看：\n```\n很好\n```", ["请看：", "很好"]),
        ("```\n很好\n太差", ["```", "很好", "太差"]),  # never closed: no fence
        ("```好\n太差\n```", ["```好", "太差", "```"]),
        ("~~~\n```\n很好\n就是贵\n```", ["~~~", "很好\n就是贵"]),
        ("> 很好\n>\n> 就是贵\n太差", ["很好\n\n就是贵", "太差"]),
        (">_< 太差了\n>.< 气死", [">_< 太差了", ">.< 气死"]),
        ("“很好\n就是贵”", ["很好\n就是贵"]),
        ('"很好"\n"太差"', ['"很好"', '"太差"']),
        ('"很好"', ['"很好"']),
        ("  - 很好  ", ["  - 很好  "]),
    ],
)
def test_lines_are_comments_unless_fenced(text, comments) -> None:
    assert comments_in(text, 10) == comments


@given(st.lists(st.text("很好太差 .`\"'~>“”\t", min_size=1), min_size=1, max_size=8))
def test_no_word_is_lost(lines) -> None:
    text = "\n".join(lines)
    words = [char for char in text if char.isalnum()]
    if words:
        assert [char for comment in comments_in(text, 100) for char in comment if char.isalnum()] == words


def test_more_than_the_most_are_refused() -> None:
    assert len(comments_in("好\n" * 5, 5)) == 5
    with pytest.raises(ChatError, match=r"6 comments.*at most 5") as caught:
        comments_in("好\n" * 6, 5)
    assert caught.value.code == "too_many_comments"
    assert "/v1/jobs" in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["", " \n\t\n", "```\n\n```", "> \n>"])
def test_a_message_without_comments_is_one_without_anything_to_judge(text) -> None:
    assert comments_in(text, 5) == [text]


TITLE = """### Task:
Generate a concise, 3-5 word title with an emoji summarizing the chat history.
### Output:
JSON format: { "title": "your concise title here" }
### Chat History:
<chat_history>
USER: 这个手机拍照太差了，根本不像宣传那样清晰，而且"follow_ups"
ASSISTANT: 负面
</chat_history>"""


def test_background_calls_are_answered_in_their_own_form() -> None:
    title = json.loads(background_answer(TITLE) or "")["title"]
    assert title.startswith("这个手机拍照太差了")
    assert len(title) <= 24
    for key, nothing in (("follow_ups", []), ("tags", []), ("queries", []), ("text", "")):
        asked = f'### Task:\nSuggest.\n### Output:\nJSON format: {{ "{key}": … }}\n<chat_history>\nUSER: "title"\n'
        assert json.loads(background_answer(asked) or "") == {key: nothing}


def test_attached_documents_are_said_to_be_unread() -> None:
    asked = "### Task:\nRespond to the user query using the provided context, incorporating inline citations.\n"
    assert "/v1/jobs" in (background_answer(asked) or "")


@pytest.mark.parametrize("text", ["很好", "Task: good", "## Task:\ngood", "The ### Task: was good"])
def test_a_comment_is_no_background_call(text) -> None:
    assert background_answer(text) is None


@pytest.mark.parametrize(
    "text",
    [
        '### Task:\n"title" <chat_history>' + "\n" * 500_000,
        "```" + " " * 500_000 + "!",
        "```a\n" * 100_000,
        '"""\n```\n' * 100_000,
        "> \n" * 200_000,
        "“" * 500_000,
    ],
)
@pytest.mark.clock
def test_no_message_takes_long(text) -> None:
    began = time.perf_counter()
    background_answer(text)
    with suppress(ChatError):
        comments_in(text, 10**6)
    assert time.perf_counter() - began < 3
