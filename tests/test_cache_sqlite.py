from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reviewmill.cache import SqliteCache, open_cache
from reviewmill.errors import CacheError, SettingsError
from reviewmill.schema import Answer

NEGATIVE = Answer(
    label="negative",
    logprobs={"positive": -8.25, "neutral": -3.5, "negative": -0.03},
    mass=0.998,
    keywords=("拍照", "差", "不清晰"),
    flags=("keywords_cut",),
    tokens_in=412,
    tokens_out=9,
    latency_ms=812.5,
)

answers = st.builds(
    Answer,
    label=st.text(),
    logprobs=st.none() | st.dictionaries(st.text(), st.floats(max_value=0, allow_nan=False), max_size=5),
    mass=st.none() | st.floats(0, 1),
    keywords=st.lists(st.text(), max_size=5).map(tuple),
    flags=st.lists(st.text(), max_size=3).map(tuple),
    tokens_in=st.integers(0, 10**6),
    tokens_out=st.integers(0, 10**6),
    latency_ms=st.none() | st.floats(0, 1e9),
)


def key(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite3"


@pytest.fixture
def cache(path):
    with SqliteCache(path) as cache:
        yield cache


def test_an_answer_comes_back_equal_and_only_for_its_own_key(cache) -> None:
    cache.put_many({key(1): NEGATIVE})

    assert cache.get_many([key(1), key(2)]) == {key(1): NEGATIVE}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stored=st.dictionaries(st.binary(min_size=32, max_size=32), answers, max_size=4))
def test_any_answer_comes_back_equal(cache, stored) -> None:
    cache.put_many(stored)

    assert cache.get_many(list(stored)) == stored


def test_half_a_character_and_a_zero_probability_survive(cache) -> None:
    odd = Answer(label="a\0b", logprobs={"a": float("-inf"), "b": 0.0}, keywords=("half \ud83d", "'\"\\"))
    cache.put_many({key(1): odd})

    assert cache.get_many([key(1)]) == {key(1): odd}


def test_what_was_put_is_there_after_reopening(path) -> None:
    with SqliteCache(path) as cache:
        cache.put_many({key(1): NEGATIVE})
    with SqliteCache(path) as cache:
        assert cache.get_many([key(1)]) == {key(1): NEGATIVE}


def test_a_later_answer_replaces_an_earlier_one(cache) -> None:
    cache.put_many({key(1): NEGATIVE})
    cache.put_many({key(1): Answer(label="neutral")})

    assert cache.get_many([key(1)]) == {key(1): Answer(label="neutral")}


def test_deleted_answers_are_gone_and_others_stay(cache) -> None:
    cache.put_many({key(n): NEGATIVE for n in range(3)})
    cache.delete_many([key(0), key(2), key("never stored")])

    assert set(cache.get_many([key(n) for n in range(3)])) == {key(1)}


def test_every_answer_about_a_text_is_deleted_and_no_other(cache) -> None:
    text, neighbours = b"\x7f" * 16, (b"\x7f" * 15 + b"\x7e", b"\x7f" * 15 + b"\x80")
    about = {text + end: NEGATIVE for end in (b"\x00" * 16, key(1)[:16], b"\xff" * 16)}
    others = {other + end: NEGATIVE for other in neighbours for end in (b"\x00" * 16, b"\xff" * 16)}
    cache.put_many(about | others)

    assert cache.delete_text(text) == 3
    assert cache.get_many([*about, *others]) == others
    assert cache.delete_text(text) == 0


@given(
    stored=st.sets(st.binary(min_size=32, max_size=32)),
    prefix=st.binary(min_size=16, max_size=16) | st.just(b"\xff" * 16) | st.just(b"\x00" * 16),
    beside=st.lists(st.binary(min_size=16, max_size=16), max_size=5),
)
def test_deleting_a_text_is_deleting_what_begins_with_its_name(stored, prefix, beside) -> None:
    keys = stored | {prefix + end for end in beside}
    with tempfile.TemporaryDirectory() as folder, SqliteCache(Path(folder, "c")) as cache:
        cache.put_many(dict.fromkeys(keys, NEGATIVE))
        assert cache.delete_text(prefix) == sum(name.startswith(prefix) for name in keys)
        assert set(cache.get_many(list(keys))) == {name for name in keys if not name.startswith(prefix)}


def test_a_deleted_text_leaves_nothing_in_the_files(cache, path) -> None:
    kept = {key(n): Answer(label="neutral", keywords=(f"keep{n}",)) for n in range(300)}
    cache.put_many(kept | {key("gone"): Answer(label="neutral", keywords=("SECRET-WORD",) * 500)})
    files = [path, Path(f"{path}-wal")]
    assert any(b"SECRET-WORD" in file.read_bytes() for file in files)

    assert cache.delete_text(key("gone")[:16]) == 1
    assert not any(b"SECRET-WORD" in file.read_bytes() for file in files)
    assert cache.get_many(list(kept)) == kept


@pytest.mark.parametrize("length", [0, 15, 17, 32])
def test_only_the_whole_name_of_a_text_deletes_it(cache, length) -> None:
    cache.put_many({bytes(32): NEGATIVE})
    with pytest.raises(ValueError, match="16 bytes"):
        cache.delete_text(bytes(length))
    assert cache.get_many([bytes(32)])


def test_nothing_asked_is_nothing_found(cache) -> None:
    cache.put_many({})
    cache.delete_many([])

    assert cache.get_many([]) == {}


def test_more_keys_than_one_sql_statement_may_hold(cache) -> None:
    # SQLite's limit is 32,766 parameters as delivered, 250,000 as Debian builds it.
    keys = [n.to_bytes(32, "big") for n in range(260_000)]
    stored = {name: Answer(label="positive", tokens_out=n) for n, name in enumerate(keys[::1000])}
    cache.put_many(stored)

    assert cache.get_many(keys) == stored


def test_a_value_that_is_not_an_answer_is_a_miss(cache, path) -> None:
    cache.put_many({key(n): NEGATIVE for n in range(6)})
    bad = [b"not json", b'{"labels": "positive"}', b"[]", b"\xff\xfe", b"[" * 100_000]
    with closing(sqlite3.connect(path)) as other, other:
        for n, value in enumerate(bad):
            other.execute("UPDATE answers SET value = CAST(? AS TEXT) WHERE key = ?", (value, key(n)))

    assert cache.get_many([key(n) for n in range(6)]) == {key(5): NEGATIVE}


def test_values_are_compact_json_with_the_time_they_were_stored(cache, path) -> None:
    cache.put_many({key(1): Answer(label="正面", keywords=("好",))})
    with closing(sqlite3.connect(path)) as other:
        value, age = other.execute("SELECT value, unixepoch() - created_at FROM answers").fetchone()

    assert value.startswith('{"label":"正面","logprobs":null,')
    assert 0 <= age < 60


def test_it_is_a_write_ahead_log(cache, path) -> None:
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_only_the_owner_can_read_the_files(cache, path) -> None:
    cache.put_many({key(1): NEGATIVE})
    files = list(path.parent.iterdir())

    assert path.with_name(path.name + "-wal") in files
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_another_thread_than_the_creating_one_may_use_it(cache) -> None:
    failures = []

    def use() -> None:
        try:
            cache.put_many({key(1): NEGATIVE})
        except Exception as error:  # noqa: BLE001 -- reported below
            failures.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()

    assert failures == []
    assert cache.get_many([key(1)]) == {key(1): NEGATIVE}


def test_several_threads_may_use_it_at_once(cache) -> None:
    def use(name) -> None:
        for n in range(50):
            cache.put_many({key(f"{name} {n} {i}"): NEGATIVE for i in range(5)})
            assert len(cache.get_many([key(f"{name} {n} {i}") for i in range(5)])) == 5
            cache.delete_many([key(f"{name} {n} 0")])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(8)))

    assert (
        len(cache.get_many([key(f"{name} {n} {i}") for name in range(8) for n in range(50) for i in range(5)])) == 1600
    )


def test_it_may_be_closed_twice(cache) -> None:
    cache.close()
    cache.close()


# --- several processes, killed processes ---

WRITER = """
import hashlib, sys
from pathlib import Path
from reviewmill.cache import SqliteCache
from reviewmill.schema import Answer

path, name, batches = sys.argv[1], sys.argv[2], int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
with SqliteCache(Path(path)) as cache:
    for batch in range(batches):
        rows = range(batch * 20, batch * 20 + 20)
        keys = {n: hashlib.sha256(f"{name} {n}".encode()).digest() for n in rows}
        cache.put_many({keys[n]: Answer(label=name, tokens_out=n) for n in rows})
        assert len(cache.get_many(list(keys.values()))) == 20
        print(batch, flush=True)
"""


def start_writer(path, name, batches):
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, path, name, str(batches)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout.readline() == "ready\n"
    return writer


def test_processes_that_create_and_fill_the_same_file_at_once_lose_nothing(path) -> None:
    names = ("one", "two", "three")
    writers = [start_writer(path, name, 50) for name in names]
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert (writer.returncode, errors) == (0, "")

    expected = {key(f"{name} {n}"): Answer(label=name, tokens_out=n) for name in names for n in range(1000)}
    with SqliteCache(path) as cache:
        assert cache.get_many(list(expected)) == expected


def test_connections_that_create_the_same_file_at_once_wait_for_each_other(tmp_path) -> None:
    failures = []

    def create(path, barrier) -> None:
        barrier.wait()
        try:
            SqliteCache(path).close()
        except CacheError as error:
            failures.append(error)

    for attempt in range(60):
        barrier = threading.Barrier(6)
        threads = [threading.Thread(target=create, args=(tmp_path / str(attempt), barrier)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert failures == []


@pytest.mark.parametrize("batches_seen", [0, 1, 25])
def test_a_killed_process_loses_no_batch_it_has_put_and_leaves_no_half_batch(path, batches_seen) -> None:
    writer = start_writer(path, "one", 10**6)
    writer.stdin.write("go\n")
    writer.stdin.flush()
    for _ in range(batches_seen):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    seen = batches_seen + len(writer.stdout.read().splitlines())
    assert writer.wait() == -signal.SIGKILL

    with SqliteCache(path) as cache:
        found = len(cache.get_many([key(f"one {n}") for n in range((seen + 2) * 20)]))
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert found in {seen * 20, (seen + 1) * 20}


def test_a_put_that_fails_leaves_nothing_of_its_batch(cache) -> None:
    with pytest.raises(CacheError):
        cache.put_many({key(1): NEGATIVE, ("no", "key"): NEGATIVE})

    assert cache.get_many([key(1)]) == {}
    cache.put_many({key(2): NEGATIVE})
    assert cache.get_many([key(2)]) == {key(2): NEGATIVE}


# --- what can be wrong with the file ---


def test_a_file_that_is_no_database_is_an_error_and_stays_as_it_is(path) -> None:
    path.write_text("this is a text file, " * 1000)
    before = path.read_bytes()

    with pytest.raises(CacheError, match="damaged") as raised:
        SqliteCache(path)

    assert str(path) in raised.value.message
    assert "-wal" in raised.value.hint
    assert path.read_bytes() == before


def test_a_damaged_page_is_an_error_and_the_file_stays_as_it_is(path) -> None:
    with SqliteCache(path) as cache:
        cache.put_many({key(n): NEGATIVE for n in range(2000)})
    content = bytearray(path.read_bytes())
    content[3 * 4096 :] = b"\xa5" * (len(content) - 3 * 4096)
    path.write_bytes(content)

    with SqliteCache(path) as cache, pytest.raises(CacheError, match="damaged"):
        cache.get_many([key(n) for n in range(2000)])

    assert path.read_bytes()[3 * 4096 :] == content[3 * 4096 :]


def test_a_file_cut_short_is_an_error(path) -> None:
    with SqliteCache(path) as cache:
        cache.put_many({key(n): NEGATIVE for n in range(2000)})
    os.truncate(path, 3 * 4096 + 100)

    with pytest.raises(CacheError, match="damaged"), SqliteCache(path) as cache:
        cache.get_many([key(n) for n in range(2000)])


def test_an_empty_file_becomes_a_cache(path) -> None:
    path.touch()
    with SqliteCache(path) as cache:
        cache.put_many({key(1): NEGATIVE})
        assert cache.get_many([key(1)]) == {key(1): NEGATIVE}


def test_another_programs_database_is_refused_and_unchanged(path) -> None:
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("CREATE TABLE answers (question TEXT)")
    before = path.read_bytes()

    with pytest.raises(CacheError, match="not a cache of reviewmill"):
        SqliteCache(path)

    assert path.read_bytes() == before


def test_a_newer_format_is_refused_with_both_versions_named(path) -> None:
    SqliteCache(path).close()
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("UPDATE reviewmill_cache SET format_version = 7")

    with pytest.raises(CacheError, match="format version 7; this reviewmill reads version 1") as raised:
        SqliteCache(path)
    assert "Upgrade" in raised.value.hint


@contextmanager
def not_root():
    """Be an ordinary user for a moment: the superuser may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder():
    """A folder that any user may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        Path(folder).chmod(0o755)


@pytest.mark.parametrize("name", ["c.sqlite3", "new/folder/c.sqlite3"])
def test_a_new_cache_in_a_read_only_folder_is_an_error(open_folder, name) -> None:
    open_folder.chmod(0o555)
    with not_root(), pytest.raises(CacheError, match="Permission denied") as raised:
        SqliteCache(open_folder / name)
    assert "--cache none" in raised.value.hint


@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o555, 0o444), (0o555, 0o666), (0o755, 0o444)])
def test_a_cache_that_can_only_be_read_is_an_error_when_it_is_opened(open_folder, folder_mode, file_mode) -> None:
    path = open_folder / "c.sqlite3"
    SqliteCache(path).close()
    path.chmod(file_mode)
    open_folder.chmod(folder_mode)

    with not_root(), pytest.raises(CacheError, match=r"cannot be (opened|written)") as raised:
        SqliteCache(path)
    assert "writable" in raised.value.hint


def test_a_cache_that_can_only_be_read_is_an_error_while_its_owner_uses_it(open_folder) -> None:
    path = open_folder / "c.sqlite3"
    with SqliteCache(path) as cache:
        cache.put_many({key(1): NEGATIVE})
        for file in open_folder.iterdir():
            file.chmod(0o444)
        with not_root(), pytest.raises(CacheError, match=r"cannot be (opened|written)"):
            SqliteCache(path)


def test_a_folder_or_a_path_through_a_file_is_an_error(tmp_path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "c.sqlite3"):
        with pytest.raises(CacheError):
            SqliteCache(path)


DISK_FILLER = """
import hashlib, resource, sys
from pathlib import Path
from reviewmill.cache import SqliteCache
from reviewmill.errors import CacheError
from reviewmill.schema import Answer

with SqliteCache(Path(sys.argv[1])) as cache:
    cache.put_many({hashlib.sha256(b"1").digest(): Answer(label="kept")})
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    try:
        cache.put_many({hashlib.sha256(str(n).encode()).digest(): Answer(label="lost") for n in range(10_000)})
    except CacheError as error:
        print(error)
    assert cache.get_many([hashlib.sha256(b"1").digest()])[hashlib.sha256(b"1").digest()].label == "kept"
"""


def test_a_full_disk_is_an_error_and_what_was_stored_stays(path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DISK_FILLER, path], capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert "Free some disk space" in done.stdout


# --- open_cache ---


def test_sqlite_alone_is_a_file_in_the_cache_folder(tmp_path) -> None:
    with open_cache("sqlite", cache_dir=tmp_path / "not" / "there" / "yet") as cache:
        cache.put_many({key(1): NEGATIVE})
        assert cache.describe() == f"sqlite:{tmp_path / 'not' / 'there' / 'yet' / 'answers.sqlite3'}"
    assert stat.S_IMODE((tmp_path / "not" / "there" / "yet").stat().st_mode) == 0o700


def test_a_path_may_be_relative_or_begin_with_a_tilde(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with open_cache("sqlite:mine.db", cache_dir=tmp_path / "unused") as cache:
        assert cache.describe() == f"sqlite:{tmp_path / 'mine.db'}"
    with open_cache("sqlite:~/mine.db", cache_dir=tmp_path / "unused") as cache:
        assert cache.describe() == f"sqlite:{tmp_path / 'home' / 'mine.db'}"
    assert not (tmp_path / "unused").exists()


def test_none_is_no_cache(tmp_path) -> None:
    assert open_cache("none", cache_dir=tmp_path / "unused") is None
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize(
    "spec",
    ["", "SQLite", "memcached", "memcached://:secret@host", "redis:secret", "sqlite:", "sqlite::memory:",
     "sqlite:///a.db", "sqlite:a\0b", "sqlite:~nobody-of-this-name/a.db"],
)  # fmt: skip
def test_a_malformed_setting_is_an_error_that_shows_the_forms_and_no_secret(tmp_path, spec) -> None:
    with pytest.raises(SettingsError) as raised:
        open_cache(spec, cache_dir=tmp_path)
    assert "sqlite:PATH" in raised.value.hint
    assert "secret" not in str(raised.value)
