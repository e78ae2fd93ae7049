"""Our own service, as the chat sees it: is it there, what tasks has it, which rows is an answer about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlsplit

import httpx2

from reviewmill.errors import ServiceError, ServiceUnreachableError, SettingsError
from reviewmill.outbound import checked_key, is_this_machine

PREFIX: Final = "reviewmill-"
_SECONDS: Final = 60.0
_RESULTS: Final = {"type": "object", "properties": {"results": {"type": "array"}}, "required": ["results"]}


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
        rows: by number, from 1: `text`, `label`, `confidence`; perhaps not all.
    """

    task: str
    labels: list[str]
    total: int
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)


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
        self._http = httpx2.Client(
            base_url=self.url, timeout=_SECONDS, trust_env=not is_this_machine(parts.hostname), headers=headers
        )

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

    def rows(self, person: Person, model: str, asked: str, *, row: int | None = None) -> Rows | None:
        """The comments that an answer is about; None where that cannot be known.

        The service remembers what was analysed in a chat. Where it does not, the same question gives the same answers
        from its cache.

        Args:
            person: whose chat it is, and which message.
            model: the model that answered.
            asked: what the person had written.
            row: one that is needed.

        Raises:
            ServiceError: it does not answer.
        """
        query = {} if row is None else {"row": row}
        try:
            found = self._ask("GET", "/v1/chat/rows", headers=person.headers(), params=query)
            rows = {int(one["row"]): one for one in found["rows"]}
            return Rows(found["task"], list(found["labels"]), int(found["total"]), rows)
        except ServiceError as error:
            if error.status not in {404, 422}:
                raise
        if not model.startswith(PREFIX) or not asked.strip() or asked.lstrip().startswith("<source"):
            return None
        return self._asked_again(model, asked)

    def _asked_again(self, model: str, asked: str) -> Rows | None:
        wanted = {"type": "json_schema", "json_schema": {"name": "rows", "schema": _RESULTS}}
        body = {"model": model, "messages": [{"role": "user", "content": asked}], "response_format": wanted}
        task = model.removeprefix(PREFIX)
        try:
            about = self._ask("GET", f"/v1/tasks/{quote(task, safe='')}")
            answer = self._ask("POST", "/v1/chat/completions", json=body)
            results = json.loads(answer["choices"][0]["message"]["content"])["results"]
        except ServiceError as error:
            if error.status is None or error.status >= httpx2.codes.INTERNAL_SERVER_ERROR:
                raise
            return None
        except (ValueError, KeyError, TypeError):  # an answer that is no list of rows: help, a summary
            return None
        rows = {
            number: {"text": one["original_text"], "label": one[task], "confidence": one["confidence"]}
            for number, one in enumerate(results, 1)
        }
        return Rows(task, [label["name"] for label in about["labels"]], len(rows), rows)

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
