"""Who speaks, and in which chat: what a chat program says of its users in headers.

Anybody can write a header. So the headers that name a person (`X-OpenWebUI-User-…`) count only under a key with the
scope `chat`, which says that whoever holds it may speak for others: it has signed its users in itself. Under any other
key they would let everybody sign other people's corrections and read other people's files. The chat and the message
(`X-Chat`, `X-Msg`, or Open WebUI's own headers) only choose among what is the caller's already, so they always count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from reviewmill.server.access import Caller
from reviewmill.store import ChatKey

SPEAKS: Final = "chat"
"""The scope of a key that may speak for others."""

_CHAT: Final = ("x-chat", "x-openwebui-chat-id")
_MESSAGE: Final = ("x-msg", "x-openwebui-message-id")
_MOST_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Speaker:
    """A person in a chat.

    Attributes:
        owner: the key.
        account: the chat program's id of the person; "" where nobody is named.
        shown: how a correction is signed: e-mail address, else name, else id; None where nobody is named.
        chat: the chat program's id of the chat, or None.
        message: its id of the message that is being written, or None.
        is_person: whether a person reads the answer, and not only a program.
    """

    owner: str
    account: str = ""
    shown: str | None = None
    chat: str | None = None
    message: str | None = None
    is_person: bool = False

    @property
    def key(self) -> ChatKey:
        """Names the chat; without a name it is all that the account has outside of chats."""
        return ChatKey(self.owner, self.account, self.chat or "")

    def chat_key(self, chat: str) -> ChatKey:
        """Names another chat of the same account."""
        return ChatKey(self.owner, self.account, chat)


def speaker_of(headers: Mapping[str, str], caller: Caller) -> Speaker:
    """Who speaks in a request.

    Args:
        headers: the request's, by lower-case names.
        caller: whose key it shows.
    """
    chat, message = _first(headers, _CHAT), _first(headers, _MESSAGE)
    if SPEAKS not in caller.scopes:
        return Speaker(caller.key_id, chat=chat, message=message)
    account, email, name = (_value(headers, f"x-openwebui-user-{part}") for part in ("id", "email", "name"))
    shown = (email or name or account) if account else None
    return Speaker(caller.key_id, account or "", shown, chat, message, is_person=bool(account or chat))


def _first(headers: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next(filter(None, (_value(headers, name) for name in names)), None)


def _value(headers: Mapping[str, str], name: str) -> str | None:
    """A header's value, whose characters beyond ASCII came percent-encoded; None if it says nothing."""
    value = unquote(headers.get(name, "")).strip()
    return value[:_MOST_CHARS] or None
