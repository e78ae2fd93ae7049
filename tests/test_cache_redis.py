from __future__ import annotations

import hashlib
import select
import socket
import socketserver
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reviewmill.cache import open_cache
from reviewmill.cache.redis import RedisCache
from reviewmill.errors import CacheError, SettingsError
from reviewmill.schema import Answer

POSITIVE = Answer(label="positive", logprobs={"positive": -0.01, "negative": float("-inf")}, keywords=("好", "快"))


def key(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


@pytest.fixture
def cache(redis_server):
    with RedisCache(redis_server.url) as cache:
        yield cache


@pytest.fixture
def client(redis_server):
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


# --- a Redis that works ---


@pytest.mark.redis
def test_an_answer_comes_back_equal_and_only_for_its_own_key(cache) -> None:
    cache.put_many({key("equal"): POSITIVE})

    assert cache.get_many([key("equal"), key("never stored")]) == {key("equal"): POSITIVE}
    assert cache.warnings == []


@pytest.mark.redis
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stored=st.dictionaries(
        st.binary(min_size=32, max_size=32),
        st.builds(Answer, label=st.text(), keywords=st.lists(st.text()).map(tuple)),
        max_size=4,
    )
)
def test_any_answer_comes_back_equal(cache, stored) -> None:
    cache.put_many(stored)

    assert cache.get_many(list(stored)) == stored


@pytest.mark.redis
def test_more_keys_than_one_command_takes(cache) -> None:
    stored = {key(f"many {n}"): Answer(label="neutral", tokens_out=n) for n in range(1203)}
    cache.put_many(stored)

    assert cache.get_many([*stored, key("never stored")]) == stored
    cache.delete_many(list(stored)[:1000])
    assert set(cache.get_many(list(stored))) == set(list(stored)[1000:])


@pytest.mark.redis
def test_every_answer_about_a_text_is_deleted_and_no_other(cache, client) -> None:
    text, other = key("a text")[:16], key("another text")[:16]
    about = {text + key(n)[:16]: POSITIVE for n in range(2300)}
    others = {other + key(n)[:16]: POSITIVE for n in range(300)}
    cache.put_many(about | others)
    client.set(f"elsewhere:{text.hex()}", "another program's")

    assert cache.delete_text(text) == 2300
    assert cache.get_many([*about, *others]) == others
    assert client.exists(f"elsewhere:{text.hex()}")
    assert cache.delete_text(text) == 0
    with pytest.raises(ValueError, match="16 bytes"):
        cache.delete_text(b"")


@pytest.mark.redis
def test_a_deletion_that_failed_is_an_error_and_the_next_one_is_tried_at_once(own_redis_server) -> None:
    own_redis_server.start()
    with RedisCache(own_redis_server.url) as cache:
        own_redis_server.kill()
        with pytest.raises(CacheError, match="could not be deleted"):
            cache.delete_text(key("a text")[:16])
        assert cache.get_many([key("a text")]) == {}
        own_redis_server.start()
        assert cache.delete_text(key("a text")[:16]) == 0


@pytest.mark.redis
def test_nothing_asked_is_nothing_found(cache) -> None:
    cache.put_many({})
    cache.delete_many([])

    assert cache.get_many([]) == {}
    assert cache.warnings == []


@pytest.mark.redis
def test_the_name_in_redis_is_the_prefix_and_the_key_in_hexadecimal(cache, client) -> None:
    cache.put_many({key("name"): Answer(label="正面")})

    assert client.get(f"reviewmill:1:{key('name').hex()}").decode().startswith('{"label":"正面",')


@pytest.mark.redis
def test_answers_live_for_ever_or_for_the_given_time(cache, client, redis_server) -> None:
    cache.put_many({key("for ever"): POSITIVE})
    with RedisCache(redis_server.url, ttl=1) as short:
        short.put_many({key("short"): POSITIVE})

    assert client.ttl(f"reviewmill:1:{key('for ever').hex()}") == -1
    assert cache.get_many([key("short")]) == {key("short"): POSITIVE}
    time.sleep(1.2)
    assert cache.get_many([key("short")]) == {}


@pytest.mark.redis
@pytest.mark.parametrize("options", ["", "?decode_responses=yes"])
def test_a_value_that_is_not_an_answer_is_a_miss(client, redis_server, options) -> None:
    client.set(f"reviewmill:1:{key('bad 0').hex()}", "not json")
    client.set(f"reviewmill:1:{key('bad 1').hex()}", '{"labels": []}')
    client.set(f"reviewmill:1:{key('bad 2').hex()}", b"\xff\xfe")
    client.rpush(f"reviewmill:1:{key('bad 3').hex()}", "a list")
    with RedisCache(redis_server.url + options) as cache:
        cache.put_many({key("good"): POSITIVE})

        assert cache.get_many([*(key(f"bad {n}") for n in range(4)), key("good")]) == {key("good"): POSITIVE}
        assert cache.warnings == []
    client.delete(f"reviewmill:1:{key('bad 3').hex()}")


@pytest.mark.redis
def test_a_unix_socket_reaches_the_same_answers(cache, redis_server, tmp_path) -> None:
    cache.put_many({key("socket"): POSITIVE})
    with open_cache(f"unix://{redis_server.socket}?db=0", cache_dir=tmp_path) as other:
        assert other.get_many([key("socket")]) == {key("socket"): POSITIVE}


@pytest.mark.redis
def test_databases_of_one_server_are_apart(cache, redis_server) -> None:
    cache.put_many({key("apart"): POSITIVE})
    with RedisCache(redis_server.url.removesuffix("0") + "3") as other:
        assert other.get_many([key("apart")]) == {}


# --- a Redis that does not work when it is opened ---


@pytest.mark.redis
def test_down_at_start_is_an_error_without_the_password(own_redis_server, tmp_path) -> None:
    url = f"redis://me:pa%40ss@127.0.0.1:{own_redis_server.port}/0"
    with pytest.raises(CacheError, match="Connection refused") as raised:
        open_cache(url, cache_dir=tmp_path)

    assert f"redis://me:***@127.0.0.1:{own_redis_server.port}/0" in raised.value.message
    assert "--cache sqlite" in raised.value.hint
    assert "pa" not in raised.value.message.replace("password", "")


@pytest.mark.redis
@pytest.mark.clock
def test_hanging_at_start_is_an_error_after_about_two_seconds(own_redis_server) -> None:
    own_redis_server.start()
    own_redis_server.freeze()
    begin = time.monotonic()
    with pytest.raises(CacheError, match="no answer within 2 s"):
        RedisCache(own_redis_server.url)

    assert time.monotonic() - begin < 4


@pytest.mark.redis
def test_a_password_is_used_never_shown_and_missed_where_it_is_wrong(own_redis_server) -> None:
    own_redis_server.start("--requirepass", "pa@ss")
    good = f"redis://:pa%40ss@127.0.0.1:{own_redis_server.port}/0"
    with RedisCache(good) as cache:
        cache.put_many({key(1): POSITIVE})
        assert cache.get_many([key(1)]) == {key(1): POSITIVE}
        assert cache.describe() == f"redis://:***@127.0.0.1:{own_redis_server.port}/0"
    with RedisCache(own_redis_server.url + "?password=pa%40ss") as cache:
        assert cache.describe() == own_redis_server.url + "?password=***"

    for bad in (own_redis_server.url, good.replace("pa%40ss", "wrong")):
        with pytest.raises(CacheError, match="refused us") as raised:
            RedisCache(bad)
        assert "wrong@" not in "".join(traceback.format_exception(raised.value))
        assert "password" in raised.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis:///0",
        "redis://host:port/0",
        "redis://host:99999/0",
        "redis://host/first",
        "redis://host?no_such_option=1",
        "redis://host?socket_timeout=soon",
        "redis://host?ssl_cert_reqs=none",
        "redis://:secret",
        "redis://:sec#ret@host",
        "redis://:sec/ret@host",
        "redis://:secret@[::1",
        "redis://host?protocol=7",
        "unix://",
        "unix://relative.sock",
    ],
)
def test_a_malformed_url_is_an_error_that_shows_nothing_of_it(tmp_path, url) -> None:
    with pytest.raises(SettingsError, match="not a Redis URL") as raised:
        open_cache(url, cache_dir=tmp_path)

    assert "redis://" in raised.value.hint
    assert "sec" not in "".join(traceback.format_exception_only(raised.value))
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


# --- a Redis that fails in the middle of a run ---


@pytest.mark.redis
def test_killed_in_mid_run_it_warns_once_raises_nothing_and_is_used_again_when_it_is_back(own_redis_server) -> None:
    own_redis_server.start()
    told: list[str] = []
    with RedisCache(own_redis_server.url, on_warning=told.append, retry_after_s=0.3) as cache:
        cache.put_many({key(1): POSITIVE})
        own_redis_server.kill()

        assert cache.get_many([key(1)]) == {}
        cache.put_many({key(2): POSITIVE})
        cache.delete_many([key(2)])
        time.sleep(0.4)
        cache.put_many({key(2): POSITIVE})
        assert cache.get_many([key(2)]) == {}

        own_redis_server.start()
        time.sleep(0.4)
        cache.put_many({key(3): POSITIVE})
        assert cache.get_many([key(1), key(2), key(3)]) == {key(3): POSITIVE}

        own_redis_server.kill()
        assert cache.get_many([key(3)]) == {}

    assert told == cache.warnings
    assert len(told) == 1
    assert own_redis_server.url in told[0]


@pytest.mark.redis
def test_after_a_failure_it_is_left_alone_for_half_a_minute(own_redis_server) -> None:
    own_redis_server.start()
    with RedisCache(own_redis_server.url) as cache:
        own_redis_server.kill()
        cache.get_many([key(1)])
        own_redis_server.start()
        cache.put_many({key(1): POSITIVE})
        assert cache.get_many([key(1)]) == {}
        (warning,) = cache.warnings
    with RedisCache(own_redis_server.url) as cache:
        assert cache.get_many([key(1)]) == {}
    assert "every 30 s" in warning


@pytest.mark.redis
@pytest.mark.clock
def test_hanging_in_mid_run_holds_it_for_about_two_seconds_in_all(own_redis_server) -> None:
    own_redis_server.start()
    with RedisCache(own_redis_server.url) as cache:
        cache.put_many({key(1): POSITIVE})
        own_redis_server.freeze()
        begin = time.monotonic()
        for n in range(2000):
            cache.get_many([key(n)])
            cache.put_many({key(n): POSITIVE})
        assert time.monotonic() - begin < 4
        assert len(cache.warnings) == 1


@pytest.mark.redis
def test_hanging_under_several_threads_is_one_warning_too(own_redis_server) -> None:
    own_redis_server.start()
    with RedisCache(own_redis_server.url) as cache, ThreadPoolExecutor(8) as pool:
        own_redis_server.freeze()
        begin = time.monotonic()
        assert list(pool.map(cache.get_many, [[key(n)] for n in range(100)])) == [{}] * 100
        assert time.monotonic() - begin < 4
        assert len(cache.warnings) == 1


@pytest.mark.redis
def test_a_connection_that_the_server_closed_while_idle_is_no_failure(own_redis_server) -> None:
    own_redis_server.start()
    with RedisCache(own_redis_server.url) as cache:
        own_redis_server.kill()
        own_redis_server.start()
        cache.put_many({key(1): POSITIVE})

        assert cache.get_many([key(1)]) == {key(1): POSITIVE}
        assert cache.warnings == []


@pytest.mark.redis
def test_a_connection_that_breaks_under_a_command_is_opened_anew(redis_server) -> None:
    """As behind a load balancer that has forgotten the connection: it shows only when a command is sent."""
    with breaking_proxy(redis_server.port) as proxy, RedisCache(f"redis://127.0.0.1:{proxy.port}/0") as cache:
        cache.put_many({key("broken"): POSITIVE})
        proxy.break_next = True

        assert cache.get_many([key("broken")]) == {key("broken"): POSITIVE}
        assert not proxy.break_next
        assert cache.warnings == []


@contextmanager
def breaking_proxy(port):
    """Forward TCP connections to a port; while `break_next` is set, data that arrives closes its connection."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", port)) as upstream:
                while sources := select.select([self.request, upstream], [], [])[0]:
                    for source in sources:
                        data = source.recv(65536)
                        if not data or (source is self.request and server.break_next):
                            server.break_next = server.break_next and not data
                            return
                        (upstream if source is self.request else self.request).sendall(data)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.break_next = False
        server.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.redis
def test_a_full_redis_is_a_warning_not_an_error(own_redis_server) -> None:
    own_redis_server.start("--maxmemory", "1mb", "--maxmemory-policy", "noeviction")
    with RedisCache(own_redis_server.url) as cache:
        cache.put_many({key(n): Answer(label="x" * 1000) for n in range(2000)})
        (warning,) = cache.warnings

    assert "maxmemory" in warning


@pytest.mark.redis
def test_it_may_be_closed_twice(redis_server) -> None:
    cache = RedisCache(redis_server.url)
    cache.close()
    cache.close()
