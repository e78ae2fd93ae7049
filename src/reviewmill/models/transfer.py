"""Resumable HTTP download of one file into a `.part` file, and the counting of bytes for progress.

What is already in the `.part` file is asked for no more (RFC 9110, section 14: `Range`, `If-Range`), in this process or
in a later one. Nothing here knows of models or checksums.
"""

from __future__ import annotations

import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import httpx2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Progress = Callable[[int, int | None], None]

ATTEMPTS: Final = 5
"""Tries in a row that bring no byte before a transfer is given up."""

_TIMEOUT: Final = httpx2.Timeout(30.0, connect=10.0)
_PASSING: Final = {408, 425, 429, 500, 502, 503, 504}


class SourceError(Exception):
    """A source cannot deliver; the message says why, in a few words. The next source is tried."""


class _InterruptedError(Exception):
    """The transfer stopped before its end and may be continued."""


class Meter:
    """Counts the bytes of a model's files and reports the sum.

    Args:
        total: bytes to come in all; None if unknown.
        progress: called with (bytes done, total) after each change; with fewer bytes than before only where a
            server that cannot resume makes a file start again, or a wheel is larger than the piece in it.
    """

    def __init__(self, total: int | None, progress: Progress | None) -> None:
        self.total = total
        self._progress = progress
        self._files: dict[str, int] = {}

    def set(self, file: str, count: int) -> None:
        """Note that `count` bytes of a file are here."""
        self._files[file] = count
        if self._progress is not None:
            done = sum(self._files.values())
            self._progress(min(done, self.total) if self.total else done, self.total)


def new_client() -> httpx2.Client:
    """An HTTP client that honours proxies and certificates from the environment and follows redirects."""
    return httpx2.Client(follow_redirects=True, timeout=_TIMEOUT, headers={"User-Agent": "reviewmill"})


def shown(url: str) -> str:
    """The URL as it may be printed: without user name, password, query and fragment (they can hold secrets)."""
    try:
        return str(httpx2.URL(url).copy_with(userinfo=b"", query=None, fragment=None))
    except httpx2.InvalidURL:
        return "(not a URL)"


def in_words(error: Exception) -> str:
    """What a failed request means, in a few words."""
    if isinstance(error, httpx2.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx2.HTTPStatusError):
        return status_in_words(error.response.status_code)
    return str(error).strip() or type(error).__name__


def status_in_words(status: int) -> str:
    """An HTTP status with its name."""
    name = HTTPStatus(status).phrase if status in set(HTTPStatus) else "unknown status"
    return f"HTTP {status} {name}"


def size_of(path: Path) -> int:
    """Size of a file in bytes; 0 if there is none."""
    return path.stat().st_size if path.exists() else 0


def fetch(
    client: httpx2.Client,
    url: str,
    part: Path,
    *,
    on_size: Callable[[int], None],
    size: int | None = None,
    headers: Mapping[str, str] | None = None,
    pause: float = 0.5,
) -> None:
    """Download `url` into `part`, continuing where an earlier call stopped.

    Args:
        client: sends the requests.
        url: of the file.
        part: the file to fill; its ETag is kept beside it, so that a file that changed on the server is started anew.
        on_size: called with the bytes that are in `part`, as they come.
        size: bytes that the file must have; None if unknown.
        headers: sent with the request (and not to other hosts, if they authenticate).
        pause: seconds before the first retry; it doubles up to 16 times that.

    Raises:
        SourceError: the server refuses, sends another size, or breaks off `ATTEMPTS` times without a new byte.
        OSError: the file cannot be written.
    """
    left = ATTEMPTS
    while True:
        before = size_of(part)
        try:
            _fetch_on(client, url, part, size, dict(headers or {}), on_size)
            break
        except httpx2.InvalidURL as error:
            raise SourceError(f"not a URL: {shown(url)}") from error
        except (httpx2.RequestError, _InterruptedError) as error:
            left = ATTEMPTS if size_of(part) > before else left - 1
            if not left:
                raise SourceError(f"broke off {ATTEMPTS} times: {in_words(error)}") from error
            time.sleep(pause * min(16, 2 ** (ATTEMPTS - left)))
    discard_etag(part)


def _fetch_on(
    client: httpx2.Client,
    url: str,
    part: Path,
    size: int | None,
    headers: dict[str, str],
    on_size: Callable[[int], None],
) -> None:
    """Make one request for what is missing of `part`."""
    start = size_of(part)
    if size is not None and start >= size:
        if start == size:
            return
        part.unlink()
        start = 0
    headers |= {"Accept-Encoding": "identity", **_range(part, start)}
    with client.stream("GET", url, headers=headers) as response:
        if not _usable(response, part, start):
            raise _InterruptedError("the server cannot continue where the file stopped")
        if response.status_code != httpx2.codes.PARTIAL_CONTENT:
            start = 0
            _keep_etag(response, part)
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            for chunk in response.iter_raw():
                file.write(chunk)
                start += len(chunk)
                on_size(start)
    _check_size(part, start, size)


def _range(part: Path, start: int) -> dict[str, str]:
    if not start:
        return {}
    etag = _etag_file(part)
    known = {"If-Range": etag.read_text("utf-8")} if etag.exists() else {}
    return {"Range": f"bytes={start}-", **known}


def _usable(response: httpx2.Response, part: Path, start: int) -> bool:
    """Whether the body of this response can be written at `start`, or at 0 if it is the whole file."""
    status = response.status_code
    if status == httpx2.codes.PARTIAL_CONTENT:
        match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if match and int(match[1]) == start:
            return True
    elif status in _PASSING:
        raise _InterruptedError(status_in_words(status))
    elif status != httpx2.codes.RANGE_NOT_SATISFIABLE:
        if response.is_success:
            return True
        raise SourceError(_refusal(status))
    part.unlink(missing_ok=True)
    return False


def _refusal(status: int) -> str:
    hint = {401: "; needs a login", 403: "; access is not granted", 404: "; no such file there"}.get(status, "")
    return status_in_words(status) + hint


def _check_size(part: Path, got: int, size: int | None) -> None:
    if size is None or got == size:
        return
    if got < size:
        raise _InterruptedError(f"{got} of {size} bytes came")
    part.unlink()
    raise SourceError(f"sends {got} bytes where {size} are expected")


def _etag_file(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _keep_etag(response: httpx2.Response, part: Path) -> None:
    """Remember a strong ETag; a weak one cannot vouch for bytes (RFC 9110, section 13.1.5)."""
    etag = response.headers.get("ETag", "")
    if etag.startswith('"'):
        _etag_file(part).write_text(etag, "utf-8")
    else:
        discard_etag(part)


def discard_etag(part: Path) -> None:
    """Delete what was remembered of the server's version of `part`."""
    _etag_file(part).unlink(missing_ok=True)
