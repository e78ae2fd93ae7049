"""Open WebUI's HTTP API, as much of it as we use.

Source: Open WebUI 0.12.4, `backend/open_webui/routers/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx2

from reviewmill.errors import SettingsError, WebUIError
from reviewmill.outbound import checked_key, way_to

_SECONDS: Final = 60.0
_SHOWN_CHARS: Final = 300


class WebUI:
    """An Open WebUI, seen by one of its accounts.

    Args:
        url: its address.
        token: an account's session token or API key; None: sign in first.

    Attributes:
        url: its address.
        token: the account's token; None before it signed in.

    Raises:
        SettingsError: the address or the token cannot be one.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
            raise SettingsError(f"{url} is no address of an Open WebUI.", hint="It begins with http:// or https://.")
        self.url = url.rstrip("/")
        self.token = token
        self._http = httpx2.Client(base_url=self.url, timeout=_SECONDS, follow_redirects=False, **way_to(self.url))
        self._show(token)

    def _show(self, token: str | None) -> None:
        key = checked_key(token)
        if key is not None:
            self._http.headers["Authorization"] = f"Bearer {key}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def sign_in(self, email: str, password: str) -> dict[str, Any]:
        """Sign in; later calls are this account's.

        Raises:
            WebUIError: it refuses.
        """
        found: dict[str, Any] = self.post("/api/v1/auths/signin", {"email": email, "password": password})
        self.token = str(found["token"])
        self._show(self.token)
        return found

    def get(self, path: str, **query: str | int) -> Any:
        """Read something.

        Raises:
            WebUIError: it refuses, or does not answer.
        """
        return self._ask("GET", path, params=query)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Change something.

        Raises:
            WebUIError: it refuses, or does not answer.
        """
        return self._ask("POST", path, json=dict(body or {}))

    def find(self, path: str) -> Any | None:
        """Read something that may not be there: None then.

        Raises:
            WebUIError: it refuses, or does not answer.
        """
        try:
            return self.get(path)
        except WebUIError as error:
            # It says 401 ("we could not find what you're looking for") where others say 404.
            if error.status in {401, 404} and "could not find" in error.message.lower():
                return None
            raise

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        try:
            response = self._http.request(method, path, **more)
        except httpx2.RequestError as error:
            raise WebUIError(
                f"Open WebUI at {self.url} does not answer: {error or type(error).__name__}.",
                hint="Does it run there? `reviewmill chat status` tells of the one that we started.",
            ) from error
        if response.is_success:
            try:
                return response.json()
            except ValueError:
                raise WebUIError(
                    f"What answers at {self.url} is no Open WebUI ({method} {path} gave no JSON).",
                    hint="The address is that of its first page, without anything behind it.",
                ) from None
        failed = WebUIError(
            f"Open WebUI at {self.url} refused {method} {path} ({response.status_code}): {_detail(response)}",
            hint="It takes an administrator's token." if response.status_code in {401, 403} else None,
        )
        failed.status = response.status_code
        raise failed


def _detail(response: httpx2.Response) -> str:
    try:
        said = response.json()
    except ValueError:
        said = response.text
    detail = said.get("detail", said) if isinstance(said, dict) else said
    return str(detail)[:_SHOWN_CHARS]
