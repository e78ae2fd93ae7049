"""The result cache: answers by exact key, so that no text is inferred twice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from reviewmill.cache.base import AnswerCache
from reviewmill.cache.sqlite import SqliteCache
from reviewmill.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AnswerCache", "SqliteCache", "open_cache"]

FILE_NAME: Final = "answers.sqlite3"
_HINT: Final = "Write sqlite, sqlite:PATH, redis://HOST:PORT/DB (rediss:// with TLS), unix:///PATH/TO/SOCKET, or none."


def open_cache(
    spec: str, *, cache_dir: Path, ttl: int | None = None, on_warning: Callable[[str], None] | None = None
) -> AnswerCache | None:
    """Open the cache that a setting names.

    Args:
        spec: `sqlite` (a file in `cache_dir`), `sqlite:PATH`, a `redis://`, `rediss://` or `unix://` URL, or `none`.
        cache_dir: folder of the file that `sqlite` stands for; created if it does not exist.
        ttl: seconds that an answer lives in Redis; None: for ever. SQLite keeps answers until they are deleted.
        on_warning: called when a cache fails in the middle of a run, which then goes on without it.

    Returns:
        The cache, or None for `none`.

    Raises:
        SettingsError: `spec` is none of these.
        CacheError: it cannot be opened; the message says why, `hint` what to do.
    """
    if spec == "none":
        return None
    if spec == "sqlite":
        return SqliteCache(cache_dir / FILE_NAME)
    if spec.startswith("sqlite:"):
        return SqliteCache(_sqlite_path(spec.removeprefix("sqlite:")))
    if spec.startswith(("redis://", "rediss://", "unix://")):
        # Loading the client takes a third of a second that the default does not need.
        from reviewmill.cache.redis import RedisCache

        return RedisCache(spec, ttl=ttl, on_warning=on_warning)
    # What follows a colon may hold a password, so it is not shown.
    kind, colon, _ = spec.partition(":")
    raise SettingsError(f"The cache setting {kind + (':...' if colon else '')!r} is not a cache.", hint=_HINT)


def _sqlite_path(text: str) -> Path:
    if not text or text == ":memory:" or text.startswith("//") or "\0" in text:
        raise SettingsError(f"The cache setting {'sqlite:' + text!r} names no file.", hint=_HINT)
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise SettingsError(f"The cache setting {'sqlite:' + text!r} names no file: {error}", hint=_HINT) from error
