"""What a chat request asks: the last user message, as one comment or several. Pure.

Every line is a comment, except that several lines are one comment where they are fenced (three backticks, tildes or
quotation marks on lines of their own), quoted as Markdown quotes (each line begins with `> `), or where one pair of
quotation marks holds the whole message. Nothing that was written is dropped but blank lines and fences (with the
language that may stand after the opening one).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from reviewmill.errors import ChatError

BACKGROUND_MARK: Final = "### Task:"
"""How Open WebUI's own calls begin: titles, tags, follow-ups, search queries, completions, attached documents."""

_LINE_END: Final = re.compile(r"\r\n|\n|\r")
_FENCE: Final = re.compile(r'(`{3,}|~{3,})(?:[ \t]*[A-Za-z]+)?|"{3,}')
_QUOTED: Final = re.compile(r" {0,3}>(?: |$)")
_QUOTATION_MARKS: Final = {'"': '"', "“": "”", "「": "」", "『": "』", "«": "»"}
_TITLE_CHARS: Final = 24
_HISTORY: Final = re.compile(r"<(chat_history|content)>(.*)", re.DOTALL)

# What each kind of call reads from its answer, by the key that it names.
_NOTHING: Final[dict[str, Any]] = {"follow_ups": [], "tags": [], "queries": [], "text": "", "prompt": ""}
_NOT_READ: Final = (
    "Documents and web pages that are attached to a chat are not analysed here. Paste the comments, one a line, or "
    "send the file to POST /v1/jobs. "
    "这里不分析附加的文档和网页：请直接粘贴评论，每行一条；整个文件请交给 POST /v1/jobs。"
)


def last_user_text(messages: Any) -> str:
    """The text of the last message that the user wrote.

    Args:
        messages: `messages` of a chat request, as it came.

    Returns:
        Its content; the texts of several parts are joined by line ends.

    Raises:
        ChatError: there is none, or it holds something that is not text.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ChatError("`messages` must be a list with at least one message.", param="messages")
    for number in range(len(messages) - 1, -1, -1):
        message = messages[number]
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ChatError(f"Message {number} is not an object with a role.", param=f"messages.[{number}]")
        if message["role"] == "user":
            return _content(message.get("content"), f"messages.[{number}].content")
    raise ChatError(
        "No message has the role `user`.", param="messages", hint="The last message of the user is what is analysed."
    )


def _content(content: Any, param: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or not content:
        raise ChatError("The user's message has no content.", param=param)
    return "\n".join(_part(part, f"{param}.[{number}]") for number, part in enumerate(content))


def _part(part: Any, param: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    shown = kind if isinstance(kind, str) else "no type"
    raise ChatError(f"Only text can be analysed; this part has {shown!r}.", param=param, code="unsupported_content")


def comments_in(text: str, most: int) -> list[str]:
    """Divide a message into its comments.

    Args:
        text: the message.
        most: how many comments one message may hold.

    Returns:
        At least one comment, in order.

    Raises:
        ChatError: the message is blank, or holds more.
    """
    whole = _one_quotation(text)
    found = [whole] if whole is not None else _divided(_LINE_END.split(text))
    if not found:
        raise ChatError("The user's last message is blank.", param="messages", hint="Write a comment, or one a line.")
    if len(found) > most:
        raise ChatError(
            f"The message holds {len(found):,} comments (one a line); at most {most:,} can be answered at once.",
            param="messages",
            code="too_many_comments",
            hint="Send the file to POST /v1/jobs, which takes any number of rows.",
        )
    return found


def _one_quotation(text: str) -> str | None:
    """What the one pair of quotation marks holds that stands around several lines, if there is one."""
    stripped = text.strip()
    closing = _QUOTATION_MARKS.get(stripped[:1])
    inner = stripped[1:-1]
    if closing is None or stripped[1:][-1:] != closing or stripped[0] in inner or closing in inner:
        return None
    return inner.strip() if len(list(filter(str.strip, _LINE_END.split(inner)))) > 1 else None


def _divided(lines: list[str]) -> list[str]:
    found: list[str] = []
    closings = _closing_fences(lines)
    number = 0
    while number < len(lines):
        after = number + 1
        if number in closings:
            found.append("\n".join(lines[after : closings[number]]))
            after = closings[number] + 1
        elif _QUOTED.match(lines[number]):
            after = next((n for n in range(after, len(lines)) if not _QUOTED.match(lines[n])), len(lines))
            found.append("\n".join(_QUOTED.sub("", line, count=1) for line in lines[number:after]))
        else:
            found.append(lines[number])
        number = after
    return [comment for comment in found if comment.strip()]


def _closing_fences(lines: list[str]) -> dict[int, int]:
    """For each line that opens a fence, the line that closes it; what is never closed is no fence."""
    matches = [(number, match) for number, line in enumerate(lines) if (match := _FENCE.fullmatch(line.strip()))]
    fences = [(number, match[1] or match[0], match[0]) for number, match in matches]
    last_closing = {mark: number for number, mark, whole in fences if mark == whole}
    pairs: dict[int, int] = {}
    opened: tuple[int, str] | None = None
    for number, mark, whole in fences:
        if opened is None and last_closing.get(mark, 0) > number:
            opened = number, mark
        elif opened is not None and whole == opened[1]:
            pairs[opened[0]] = number
            opened = None
    return pairs


def background_answer(text: str) -> str | None:
    """What to answer one of Open WebUI's own calls with; None if the message is a user's.

    No model is asked: a title is the beginning of what the user wrote, and there is nothing to follow up or to tag.
    """
    text = text.lstrip()
    if not text.startswith(BACKGROUND_MARK):
        return None
    history = _HISTORY.search(text)
    instructions = text[: history.start()] if history else text
    asked = {key for key in (*_NOTHING, "title") if f'"{key}"' in instructions}
    if "title" in asked:
        return json.dumps({"title": _title(history[2] if history else "")}, ensure_ascii=False)
    return next((json.dumps({key: _NOTHING[key]}) for key in _NOTHING if key in asked), _NOT_READ)


def _title(history: str) -> str:
    lines = re.sub(r"</(chat_history|content)>.*", "", history, flags=re.DOTALL).splitlines()
    wrote = next(filter(None, (" ".join(line.removeprefix("USER:").split()) for line in lines)), "")
    return (wrote if len(wrote) <= _TITLE_CHARS else wrote[: _TITLE_CHARS - 1] + "…") or "reviewmill"
