"""A cache that several machines share: a Redis server (or one that speaks its protocol: Valkey, KeyDB, ...)."""

from __future__ import annotations

import re
import threading
import time
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from reviewmill.cache.base import check_prefix, chunks, decode_answer, encode_answer
from reviewmill.errors import CacheError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from reviewmill.schema import Answer

PREFIX: Final = "reviewmill:1:"
TIMEOUT_S: Final = 2.0
RETRY_AFTER_S: Final = 30.0
CHUNK: Final = 500
SCAN: Final = 1000
"""Keys that Redis looks at in one step of a search: about a millisecond in which it serves nobody else."""


class RedisCache:
    """Answers in Redis, under `reviewmill:1:` and the key in hexadecimal.

    Redis must answer when the cache is opened. If it fails later, the run goes on without a cache: there is one
    warning, nothing is raised, lookups find nothing and answers are not stored; Redis is tried again at most every
    `retry_after_s` seconds, and used again when it answers. Only `delete_text` raises: who deletes has to know.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`, with redis-py's options in its query.
        ttl: seconds until Redis forgets an answer; None: never.
        on_warning: called with the warning, if there is one.
        retry_after_s: seconds without a try after a failure.

    Raises:
        SettingsError: the URL is malformed.
        CacheError: Redis does not answer within two seconds, or refuses us.
    """

    def __init__(
        self,
        url: str,
        *,
        ttl: int | None = None,
        on_warning: Callable[[str], None] | None = None,
        retry_after_s: float = RETRY_AFTER_S,
    ) -> None:
        self.warnings: list[str] = []
        self._client = _client(url)
        self._shown = masked(url)
        self._ttl = ttl
        self._on_warning = on_warning
        self._retry_after_s = retry_after_s
        self._resting_until = 0.0
        self._warning = threading.Lock()
        try:
            self._client.ping()
        except (RedisError, OSError) as error:
            self._client.close()
            raise _not_open(self._shown, error) from error

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Answer]:
        """Look up answers; keys that are not stored, or whose value is not an answer, are absent. Never raises."""
        found: dict[bytes, Answer] = {}

        def look_up() -> None:
            for chunk in chunks(keys, CHUNK):
                values = self._client.mget([_name(key) for key in chunk])
                for key, value in zip(chunk, values, strict=False):
                    answer = decode_answer(value) if value is not None else None
                    if answer is not None:
                        found[key] = answer

        self._try(look_up)
        return found

    def put_many(self, items: Mapping[bytes, Answer]) -> None:
        """Store answers, replacing those with the same key. Never raises."""

        def store() -> None:
            for chunk in chunks(list(items), CHUNK):
                with self._client.pipeline(transaction=False) as pipeline:
                    for key in chunk:
                        pipeline.set(_name(key), encode_answer(items[key]), ex=self._ttl)
                    pipeline.execute()

        self._try(store)

    def delete_many(self, keys: Sequence[bytes]) -> None:
        """Remove answers; keys that are not stored are skipped. Never raises."""

        def delete() -> None:
            for chunk in chunks(keys, CHUNK):
                self._client.delete(*[_name(key) for key in chunk])

        self._try(delete)

    def delete_text(self, prefix: bytes) -> int:
        """Remove every answer about one text, and say how many there were. Reads the names of all keys in Redis.

        Raises:
            CacheError: Redis failed; some answers may be left.
        """
        check_prefix(prefix)
        count = 0
        try:
            names = self._client.scan_iter(match=f"{_name(prefix)}*", count=SCAN)
            for name in names:
                count += int(self._client.delete(name))
        except (RedisError, OSError) as error:
            raise CacheError(
                f"The answers could not be deleted from {self._shown}: {error}.",
                hint="Delete again when Redis answers.",
            ) from error
        return count

    def describe(self) -> str:
        """Where the answers are kept: the URL, its password masked."""
        return self._shown

    def close(self) -> None:
        """Close the connections; a second call does nothing."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _try(self, work: Callable[[], None]) -> None:
        """Do the work, unless Redis failed a moment ago; a failure starts the pause and, the first time, warns."""
        if time.monotonic() < self._resting_until:
            return
        try:
            work()
        except (RedisError, OSError) as error:
            self._resting_until = time.monotonic() + self._retry_after_s
            self._warn_once(error)

    def _warn_once(self, error: Exception) -> None:
        warning = (
            f"The cache {self._shown} failed ({error}). The run goes on without it, and tries it again "
            f"every {self._retry_after_s:g} s; answers of the meantime are in the run's result, but not in the cache."
        )
        with self._warning:
            if self.warnings:
                return
            self.warnings.append(warning)
        if self._on_warning is not None:
            self._on_warning(warning)


def masked(url: str) -> str:
    """The URL with `***` in the place of every password, in its user part and in its options."""
    url = re.sub(r"(?<=://)([^:/]*):.*@", r"\1:***@", url)
    return re.sub(r"(?<=[?&])(\w*password)=[^&]*", r"\1=***", url)


def _client(url: str) -> Redis:
    """A client that is not connected yet.

    Errors here never show the URL, nor what caused them: where a URL is malformed, one cannot know which part of it
    is the password.
    """
    try:
        problem = _problem(url)
        client = Redis.from_url(
            url,
            socket_connect_timeout=TIMEOUT_S,
            socket_timeout=TIMEOUT_S,
            # One retry, for a connection that the server closed while idle; none where it hangs.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            # MGET and SET are the same in RESP2, which every server speaks.
            protocol=2,
        )
        pool = client.connection_pool
        # Decoding is ours: another program's value that is not UTF-8 is a miss, not an error.
        pool.connection_kwargs["decode_responses"] = False
        # A connection's constructor is what refuses an option that does not exist; it does not connect.
        pool.connection_class(**pool.connection_kwargs)
    except (ValueError, TypeError, RedisError):
        problem = "its port, its database number, or an option after the '?' is not valid"
        raise SettingsError(f"The cache setting is not a Redis URL: {problem}.", hint=_URL_HINT) from None
    if problem:
        raise SettingsError(f"The cache setting is not a Redis URL: {problem}.", hint=_URL_HINT)
    return client


_URL_HINT: Final = (
    "Write redis://USER:PASSWORD@HOST:PORT/DB or unix:///PATH/TO/SOCKET?db=DB; "
    "in a password, write special characters as %XX (@ is %40, / is %2F, # is %23)."
)


def _problem(url: str) -> str | None:
    """What redis-py would overlook, and so use another server or database than was meant."""
    parts = urlsplit(url)
    if parts.fragment:
        return "it has a '#'"
    if parts.scheme == "unix":
        return None if parts.path.strip("/") and not parts.hostname else "the socket's path is missing or relative"
    if not parts.hostname:
        return "the host is missing"
    database = parts.path.removeprefix("/")
    return None if database == "" or (database.isascii() and database.isdigit()) else "the database is not a number"


def _not_open(shown: str, error: Exception) -> CacheError:
    if isinstance(error, AuthenticationError) or "NOAUTH" in str(error) or "NOPERM" in str(error):
        return CacheError(
            f"Redis at {shown} refused us: {error}.", hint="Put the right user and password in the URL, or use another."
        )
    reason = f"no answer within {TIMEOUT_S:g} s" if isinstance(error, RedisTimeoutError) else str(error)
    return CacheError(
        f"Redis at {shown} cannot be used: {reason}.",
        hint="Start it, correct the address, or use --cache sqlite (a file) or --cache none.",
    )


def _name(key: bytes) -> str:
    return PREFIX + key.hex()
