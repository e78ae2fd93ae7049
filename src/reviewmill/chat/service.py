"""Our own service, as the chat sees it: is it there, what tasks has it, which rows is an answer about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

import httpx2

from reviewmill.errors import ServiceError, ServiceUnreachableError, SettingsError
from reviewmill.outbound import checked_key, way_to

PREFIX: Final = "reviewmill-"
_SECONDS: Final = 60.0
_UNKNOWN: Final = frozenset({404, 409, 422})
"""Statuses that say that there is no such row; asking again later would not help."""


@dataclass(frozen=True, slots=True)
class Person:
    """Whom we speak for, and about which answer: what Open WebUI's headers say."""

    id: str = ""
    email: str = ""
    name: str = ""
    chat: str = ""
    message: str = ""

    def headers(self) -> dict[str, str]:
        """As headers; characters beyond ASCII are percent-encoded, as Open WebUI does it."""
        named = {"Id": self.id, "Email": self.email, "Name": self.name}
        headers = {f"X-OpenWebUI-User-{what}": quote(value, safe="@") for what, value in named.items() if value}
        return (
            headers | ({"X-Chat": self.chat} if self.chat else {}) | ({"X-Msg": self.message} if self.message else {})
        )


@dataclass(frozen=True, slots=True)
class Rows:
    """What an answer is about.

    Attributes:
        task: the task's name.
        labels: its labels.
        total: how many comments.
        row: the one that was asked for, or the only one: `row` (its number), `text`, `label`, `confidence`.
    """

    task: str
    labels: list[str]
    total: int
    row: dict[str, Any] | None


class ServiceFace:
    """A reviewmill service.

    Args:
        url: its address, without `/v1`.
        key: an API key of it.

    Raises:
        SettingsError: the address or the key cannot be one.
    """

    def __init__(self, url: str, key: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
            raise SettingsError(f"{url} is no address of a reviewmill service.", hint="Write http://HOST:PORT.")
        self.url = url.rstrip("/").removesuffix("/v1")
        known = checked_key(key)
        headers = {"Authorization": f"Bearer {known}"} if known else {}
        self._http = httpx2.Client(base_url=self.url, timeout=_SECONDS, headers=headers, **way_to(self.url))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def tasks(self) -> list[dict[str, Any]]:
        """All tasks, the default one first, as `GET /v1/tasks` gives them.

        Raises:
            ServiceError: it does not answer, or the key lets nobody in.
        """
        found: list[dict[str, Any]] = self._ask("GET", "/v1/tasks")["tasks"]
        return found

    def correct(self, correction: Mapping[str, Any], person: Person) -> None:
        """Keep a correction; the same `id` again replaces it.

        Raises:
            ServiceError: it is refused.
        """
        self._ask("POST", "/v1/corrections", headers=person.headers(), json=dict(correction))

    def rows(self, person: Person, *, row: int | None = None) -> Rows | None:
        """The comments that an answer is about; None where the service knows none (any more).

        Args:
            person: whose chat it is, and which message.
            row: the number of the one that is needed.

        Raises:
            ServiceError: it does not answer.
        """
        query = {} if row is None else {"row": row}
        try:
            found = self._ask("GET", "/v1/chat/rows", headers=person.headers(), params=query)
        except ServiceError as error:
            if error.status in _UNKNOWN:
                return None
            raise
        return Rows(found["task"], list(found["labels"]), int(found["total"]), found["row"])

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        try:
            response = self._http.request(method, path, **more)
        except httpx2.RequestError as error:
            raise ServiceUnreachableError(
                f"The service at {self.url} does not answer: {error or type(error).__name__}.",
                hint="Is it running? reviewmill serve",
            ) from error
        try:
            said = response.json()
        except ValueError:
            said = {}
        if response.is_success:
            return said
        detail = said.get("detail") or (said.get("error") or {}).get("message") if isinstance(said, dict) else None
        raise ServiceError(
            f"{self.url} refused {method} {path} ({response.status_code}): {detail or 'no reason given'}",
            hint=said.get("hint") if isinstance(said, dict) else None,
            status=response.status_code,
        )
