"""Opening, migrating, losing and getting back the database under the store."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydantic import SecretStr

from reviewmill.errors import StoreError, StoreUnavailableError
from reviewmill.store import Store, database_url, engine, tables
from reviewmill.store.migrate import VERSION_TABLE

JOB = {"task": "sentiment", "filename": "a.csv", "format": "csv", "text_column": None, "id_column": None}
JOB |= {"size": 1, "sha256": "0" * 64}
OPEN_AT_ONCE = """
import sys
from reviewmill.store import Store
print("ready", flush=True)
sys.stdin.readline()
with Store.open(sys.argv[1]) as store:
    store.audit.write("test", "opened", "store")
"""


def driver_url(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://")


# --- the tables ---


def test_what_was_written_is_there_when_it_is_opened_again(store_url) -> None:
    with Store.open(store_url) as store:
        store.audit.write("local", "test", "one")
    with Store.open(store_url) as store:
        assert [line.subject for line in store.audit.list()[0]] == ["one"]


def test_the_revisions_make_the_tables_that_the_code_uses(store_url) -> None:
    Store.open(store_url).close()
    database = sa.create_engine(driver_url(store_url))
    with database.connect() as connection:
        found = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(found, tables.metadata) == []
    database.dispose()


def test_processes_that_open_an_empty_database_at_once_all_succeed(store_url) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN_AT_ONCE, store_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        assert (process.communicate(timeout=60)[1], process.returncode) == ("", 0)
    with Store.open(store_url) as store:
        assert len(store.audit.list()[0]) == 3


def test_threads_that_open_an_empty_database_at_once_all_succeed(store_url) -> None:
    with ThreadPoolExecutor(6) as pool:
        for store in [*pool.map(lambda _: Store.open(store_url), range(6))]:
            store.ping()
            store.close()


def test_a_database_of_a_newer_version_is_left_alone(store_url) -> None:
    Store.open(store_url).close()
    database = sa.create_engine(driver_url(store_url))
    with database.begin() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    database.dispose()

    with pytest.raises(StoreError, match=r"newer reviewmill.*9999") as caught:
        Store.open(store_url)
    assert "Upgrade" in caught.value.hint


# --- the file ---


def test_the_file_is_for_its_owner_only_and_its_folder_is_made(tmp_path) -> None:
    path = tmp_path / "new" / "100%" / "store.sqlite"
    with Store.open(f"sqlite:///{path}") as store:
        store.audit.write("local", "test", "one")
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}
    assert "store.sqlite-wal" in modes


def test_a_file_of_another_program_is_left_alone(tmp_path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE jobs (mine TEXT)")

    with pytest.raises(StoreError, match="another program"):
        Store.open(f"sqlite:///{path}")
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("jobs",)]


def test_a_file_that_is_no_database_is_an_error_that_names_it(tmp_path) -> None:
    path = tmp_path / "text.sqlite"
    path.write_text("not a database " * 100)

    with pytest.raises(StoreError, match=r"text\.sqlite is not a SQLite database"):
        Store.open(f"sqlite:///{path}")


def test_a_folder_in_the_way_is_an_error(tmp_path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match="cannot be created"):
        Store.open(f"sqlite:///{tmp_path / 'file' / 'store.sqlite'}")


def test_a_full_disk_is_an_error_that_passes(tmp_path) -> None:
    with Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}") as store:

        def limit_size(connection, *_others, pages: int = 1) -> None:  # SQLite takes the present size for less
            connection.execute(f"PRAGMA max_page_count = {pages}")

        sa.event.listen(store._database._engine, "checkout", limit_size)
        with pytest.raises(StoreUnavailableError, match="disk is full"):
            store.audit.write("local", "test", "one", {"much": "x" * 100_000})
        sa.event.remove(store._database._engine, "checkout", limit_size)
        sa.event.listen(store._database._engine, "checkout", partial(limit_size, pages=1_000_000))

        line = store.audit.write("local", "test", "two", {"much": "x" * 100_000})
        assert store.audit.list()[0] == [line]


def test_what_was_deleted_is_not_in_the_file_any_more(tmp_path) -> None:
    path = tmp_path / "store.sqlite"
    with Store.open(f"sqlite:///{path}") as store:
        store.corrections.add("local", text="a secret of mine", text_sha256="t", task="sentiment", label="positive")
        store.corrections.delete(text_sha256="t")
    # Closing the last connection writes the log into the file and removes it.
    assert [each.name for each in tmp_path.iterdir()] == ["store.sqlite"]
    assert b"a secret of mine" not in path.read_bytes()


# --- URLs ---


@pytest.mark.parametrize(
    "url",
    ["", "sqlite", "sqlite://", "sqlite:///:memory:", "mysql://u:geheim@host/x", "postgresql://u:geheim@host:port/x"],
)
def test_a_url_that_means_nothing_is_refused_without_being_shown(url) -> None:
    with pytest.raises(StoreError) as caught:
        Store.open(url)
    assert "geheim" not in "".join(traceback.format_exception(caught.value))
    assert "postgresql://" in caught.value.hint


def test_a_password_is_never_shown() -> None:
    secret = "geheim"
    url = f"postgres://anna:{secret}@127.0.0.1:1/reviews?password={secret}"
    with pytest.raises(StoreUnavailableError) as caught:
        Store.open(url)
    assert secret not in "".join(traceback.format_exception(caught.value))
    assert "postgresql://anna@127.0.0.1:1/reviews" in caught.value.message


@pytest.mark.postgres
def test_both_names_of_postgresql_are_understood(postgres_server) -> None:
    url = postgres_server.create_database()
    for scheme in ("postgres://", "postgresql://", "postgresql+psycopg://"):
        with Store.open(url.replace("postgresql://", scheme)) as store:
            assert store.describe() == url


@pytest.mark.postgres
def test_a_database_that_does_not_exist_is_an_error_that_says_so(postgres_server) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        Store.open(postgres_server.url("nowhere"))


def test_the_settings_sqlite_means_a_file_in_the_data_folder(tmp_path) -> None:
    class Service:
        database: SecretStr | str = "sqlite"
        data_dir = tmp_path / "a b?%#中"

    with Store.open(database_url(Service())) as store:
        store.ping()
    assert [each.name for each in Service.data_dir.iterdir()] == ["reviewmill.sqlite"]
    Service.database = SecretStr("postgresql://u:p@h/d")
    assert database_url(Service()) == "postgresql://u:p@h/d"


# --- a PostgreSQL that goes away ---


@pytest.mark.postgres
def test_postgresql_killed_and_back(own_postgres_server) -> None:
    server = own_postgres_server
    server.start()
    with Store.open(server.url()) as store:
        before, _ = store.jobs.create("local", **JOB)
        claimed = store.jobs.claim("worker", 60)
        server.kill()

        for call in (store.ping, store.audit.list, lambda: store.jobs.create("local", **JOB)):
            with pytest.raises(StoreUnavailableError):
                call()
        with pytest.raises(StoreUnavailableError, match="cannot be reached"):
            Store.open(server.url())

        server.start()
        assert store.jobs.heartbeat(claimed.id, claimed.token, 60, {"done": 1}) == "running"
        after, _ = store.jobs.create("local", **JOB)
        assert [job.id for job in store.jobs.list()[0]] == [after.id, before.id]


@pytest.mark.postgres
def test_a_restart_that_nobody_noticed_is_noticed_by_nobody(own_postgres_server) -> None:
    own_postgres_server.start()
    with Store.open(own_postgres_server.url()) as store:
        own_postgres_server.kill()
        own_postgres_server.start()

        assert store.jobs.create("local", **JOB)[1]


@pytest.mark.postgres
def test_a_connection_that_ends_in_mid_transaction_undoes_it_and_the_next_one_works(postgres_server) -> None:
    def delete_and_lose_the_connection() -> None:
        with store._database.write() as connection:
            connection.execute(sa.text("DELETE FROM audit"))
            pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
            with psycopg.connect(postgres_server.url(), autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
            connection.execute(sa.text("SELECT 1"))

    with Store.open(postgres_server.create_schema()) as store:
        line = store.audit.write("local", "test", "one")
        with pytest.raises(StoreUnavailableError):
            delete_and_lose_the_connection()
        assert store.audit.list()[0] == [line]


@pytest.mark.postgres
def test_a_postgresql_that_is_silent_is_an_error_and_not_a_hang(own_postgres_server, monkeypatch) -> None:
    monkeypatch.setattr(engine, "ANSWER_TIMEOUT_S", 0.5)
    monkeypatch.setattr(engine, "CONNECT_TIMEOUT_S", 2)
    server = own_postgres_server
    server.start()
    with Store.open(server.url()) as store:
        server.freeze()
        with pytest.raises(StoreUnavailableError):
            store.ping()
        server.thaw()
        store.ping()
