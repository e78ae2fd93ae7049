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

ROLES: Final = ("system", "developer", "user", "assistant", "tool", "function")

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
    if not isinstance(messages, list) or not messages:
        raise ChatError("`messages` must be a list with at least one message.", param="messages")
    roles = [_role(message, f"messages.[{number}]") for number, message in enumerate(messages)]
    if "user" not in roles:
        raise ChatError(
            "No message has the role `user`.",
            param="messages",
            hint="The last message of the user is what is analysed.",
        )
    last = len(roles) - 1 - roles[::-1].index("user")
    content, param = messages[last]["content"], f"messages.[{last}].content"
    if isinstance(content, str):
        return content
    return "\n".join(_part(part, f"{param}.[{number}]") for number, part in enumerate(content))


def earlier_user_texts(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """The texts of the messages that the user wrote before the last one, in their order.

    Args:
        messages: as `last_user_text` found them good.
    """
    contents = [message["content"] for message in messages if message["role"] == "user"][:-1]
    return [content if isinstance(content, str) else _texts(content) for content in contents]


def _texts(parts: Sequence[Any]) -> str:
    """The texts among a message's parts; what else there is was for somebody else."""
    texts = (part.get("text") for part in parts if isinstance(part, Mapping) and part.get("type") == "text")
    return "\n".join(text for text in texts if isinstance(text, str))


def _role(message: Any, param: str) -> str:
    """The role of a well-formed message. What one before the last holds (pictures, ...) makes no difference."""
    role = message.get("role") if isinstance(message, Mapping) else None
    if not isinstance(message, Mapping) or not isinstance(role, str) or role not in ROLES:
        raise ChatError(f"A message must be an object with a role: {', '.join(ROLES)}.", param=param)
    content = message.get("content")
    if role == "user" and not (isinstance(content, str) or (isinstance(content, list) and content)):
        raise ChatError("The user's message has no content.", param=f"{param}.content")
    return role


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
        At least one comment, in order; a message of which nothing is left is one comment, in which there is nothing
        to judge.

    Raises:
        ChatError: the message holds more.
    """
    whole = _one_quotation(text)
    found = [whole] if whole is not None else _divided(_LINE_END.split(text))
    if len(found) > most:
        raise ChatError(
            f"The message holds {len(found):,} comments (one a line); at most {most:,} can be answered at once.",
            param="messages",
            code="too_many_comments",
            hint="Send the file to POST /v1/jobs, which takes any number of rows.",
        )
    return found or [text]


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
