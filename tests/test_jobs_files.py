"""What happens to a job's files: deletion from results, other formats, retention, a full disk, uploads cut off."""

from __future__ import annotations

import asyncio
import csv
import errno
import hashlib
import io
import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs_server import Server
from reviewmill.batch.write import write_rows
from reviewmill.errors import InputError, OutputError
from reviewmill.server.jobs import intake
from reviewmill.server.jobs.events import event_id, job_events
from reviewmill.server.jobs.files import JobFiles, kind_of, shown_name
from reviewmill.server.jobs.intake import UploadTooLargeError, receive
from reviewmill.server.jobs.results import ResultGoneError, Shape, forget_texts, open_result
from reviewmill.server.jobs.room import JobRoom
from reviewmill.settings import ServiceSettings
from reviewmill.store import JobRecord, Store, database_url, new_id
from stub_endpoint import StubEndpoint

TEXTS = ["很好", "太差了", "很好", "蓝色的"]
SHAPE = Shape("sentiment", ["positive", "neutral", "negative"], ["id", "评论", "customer_id"], "评论", "customer_id")


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def record(number: int, text: str) -> dict[str, Any]:
    own = {"id": number, "评论": text, "customer_id": f"c{number % 2}", "sentiment": "positive", "confidence": 0.9}
    own |= {"keywords": [text], "original_text": text, "status": "ok", "probabilities": {"positive": 0.9}}
    own |= {"spans": [{"text": text, "start": 0, "end": len(text)}], "language": "zh", "flags": [], "route": "model"}
    provenance = {"model": "m", "task": "sentiment", "prompt": "p", "latency_ms": 3.0}
    return own | {"needs_review": False, "error": None, "provenance": provenance}


@pytest.fixture
def files(tmp_path) -> JobFiles:
    files = JobFiles(tmp_path, new_id())
    files.run(1).mkdir(parents=True)
    SHAPE.write(files.shape(1))
    write_rows(files.result(1), SHAPE.layout(flat=False).names, [record(n, text) for n, text in enumerate(TEXTS)])
    return files


def rows(files: JobFiles, kind: Any = "jsonl") -> list[dict[str, Any]]:
    with open_result(files, 1, kind) as handle:
        content = handle.read().decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(content))) if kind == "csv" else list(map(json.loads, content.splitlines()))


def test_forgetting_a_text_leaves_the_row_and_nothing_of_the_text_anywhere(files) -> None:
    assert "很好" in str(rows(files, "csv"))
    opened_before = open_result(files, 1, "csv")
    removed: list[str] = []
    forgotten = forget_texts(files, 1, texts=[digest("很好")], on_text=removed.append)
    assert removed == ["很好", "很好"]
    assert forgotten is not None
    rows_, counts = forgotten
    assert rows_ == 2
    assert counts["statuses"] == {"ok": 2, "deleted": 2}
    assert counts["top_keywords"] == {"positive": [("太差了", 1), ("蓝色的", 1)]}
    assert [row["status"] for row in rows(files)] == ["deleted", "ok", "deleted", "ok"]
    first = rows(files)[0]
    assert (first["id"], first["customer_id"]) == (0, "c0")
    assert (first["评论"], first["original_text"], first["sentiment"], first["spans"]) == (None, None, None, [])
    assert rows(files, "csv")[0]["评论"] == ""
    on_disk = b"".join(path.read_bytes() for path in files.folder.rglob("*") if path.is_file())
    assert "很好".encode() not in on_disk
    assert "很好" in opened_before.read().decode("utf-8-sig")  # a download that began before ends as it began
    opened_before.close()
    assert forget_texts(files, 1, texts=[digest("很好")]) is None


def test_forgetting_a_customer_takes_that_customers_rows_only(files) -> None:
    forget_texts(files, 1, texts=[], customers={"c0"})
    assert [row["status"] for row in rows(files)] == ["deleted", "ok", "deleted", "ok"]
    assert forget_texts(files, 1, texts=[], customers={"c7"}) is None


def test_an_export_that_is_made_while_a_text_is_deleted_does_not_bring_it_back(files) -> None:
    """Many readers and one deletion: whoever asks after it never reads the text."""
    stop = threading.Event()
    deleted = threading.Event()
    wrong: list[str] = []

    def read() -> None:
        while not stop.is_set():
            after = deleted.is_set()
            if after and "很好" in str(rows(files, "csv")):
                wrong.append("came back")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    forget_texts(files, 1, texts=[digest("很好")])
    deleted.set()
    time.sleep(0.3)
    stop.set()
    for reader in readers:
        reader.join()
    assert not wrong


def test_a_result_that_is_gone_is_said_to_be(files) -> None:
    files.remove()
    with pytest.raises(ResultGoneError):
        open_result(files, 1, "csv")
    with pytest.raises(ResultGoneError):
        forget_texts(files, 1, texts=["x"])
    files.remove()


def test_a_new_claim_continues_a_copy_of_the_journal_that_somebody_has_open(files) -> None:
    journal = files.result(1).with_name("result.jsonl.journal")
    writer = sqlite3.connect(journal)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("CREATE TABLE t (n)")
    writer.execute("INSERT INTO t VALUES (1)")
    writer.commit()
    files.begin_run(2)
    assert not files.run(1).exists()
    writer.execute("INSERT INTO t VALUES (2)")
    writer.commit()  # the old one still writes, to nobody
    copy = sqlite3.connect(files.result(2).with_name("result.jsonl.journal"))
    assert copy.execute("SELECT n FROM t").fetchall() == [(1,)]
    files.begin_run(2)
    assert copy.execute("SELECT n FROM t").fetchall() == [(1,)]


def test_a_journal_that_cannot_be_read_is_left_behind(files) -> None:
    files.result(1).with_name("result.jsonl.journal").write_bytes(b"not a database, however long it may be" * 99)
    files.begin_run(2)
    assert list(files.run(2).iterdir()) == []


@pytest.mark.parametrize("job_id", ["", "..", "../../etc", "a/b", "x" * 80, "abc\n", "%2e%2e"])
def test_what_is_no_id_is_no_folder(tmp_path, job_id) -> None:
    with pytest.raises(ValueError, match="not a job's id"):
        JobFiles(tmp_path, job_id)


@given(st.text())
def test_a_shown_name_is_harmless_whatever_was_given(name) -> None:
    shown = shown_name(name)
    assert 0 < len(shown) <= 120
    assert not set(shown) & set("/\\\0\r\n\u202e")
    assert shown not in {".", ".."}
    assert shown_name(shown) == shown


def test_the_kind_of_a_file() -> None:
    assert kind_of("a.CSV", None, None) == "csv"
    assert kind_of("a.csv.gz", None, "text/csv") == "csv.gz"
    assert kind_of("", None, "application/x-ndjson") == "jsonl"
    assert kind_of("a.bin", ".xlsx", None) == "xlsx"
    for name, given_ in (("a.bin", None), ("a", None), ("a.xlsx.gz", None), ("a.csv", "../x"), ("a.csv", "csv/../x")):
        with pytest.raises(InputError):
            kind_of(name, given_, None)


# --- receiving --------------------------------------------------------------------------------------------------------


async def pieces(*blocks: bytes) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block


def form(*parts: tuple[str, bytes]) -> bytes:
    head = b"".join(b"--b\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (h.encode(), c) for h, c in parts)
    return head + b"--b--\r\n"


FORM = "multipart/form-data; boundary=b"


@given(st.binary(min_size=1, max_size=300), st.integers(1, 50))
def test_a_form_cut_anywhere_gives_the_same_file(tmp_path_factory, content, step) -> None:
    path = tmp_path_factory.mktemp("u") / "part"
    body = form(('name="task"', b"emotion"), ('name="file"; filename="x.csv"', content), ('name="id"', "编号".encode()))
    blocks = [body[at : at + step] for at in range(0, len(body), step)]
    if b"\r\n--b" in content:
        return
    upload = asyncio.run(receive(pieces(*blocks), FORM, path, limit=1000))
    assert path.read_bytes() == content
    assert (upload.size, upload.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert upload.fields == {"task": "emotion", "id": "编号"}
    assert upload.filename == "x.csv"


def test_a_file_over_the_limit_is_refused_before_all_of_it_came(tmp_path) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1000
            yield b"x" * 1000

    with pytest.raises(UploadTooLargeError):
        asyncio.run(receive(endless(), "text/csv", tmp_path / "part", limit=100_000))
    assert taken <= 101_000


@pytest.mark.parametrize(
    "body",
    [
        form(('name="file"; filename="a"', b"x"), ('name="file"; filename="b"', b"y")),
        form(('name="other"', b"x")),
        b"--b\r\n" + b"X" * 40_000 + b": y\r\n\r\n",
        b"rubbish",
        b"",
    ],
)
def test_a_form_that_is_none_is_refused(tmp_path, body) -> None:
    with pytest.raises(InputError):
        asyncio.run(receive(pieces(body), FORM, tmp_path / "part", limit=1000))


def test_many_parts_are_refused(tmp_path) -> None:
    with pytest.raises(UploadTooLargeError):
        asyncio.run(receive(pieces(form(*[('name="x"', b"")] * 100)), FORM, tmp_path / "part", limit=1000))


def test_a_full_disk_is_said_to_be(tmp_path) -> None:
    """/dev/full is a file that no byte fits into."""
    link = tmp_path / "part"
    sink = intake._Sink(link, 10**9)
    sink._handle = Path("/dev/full").open("wb")  # noqa: SIM115
    sink.take(b"x" * (3 << 20))
    with pytest.raises(OutputError, match=os.strerror(errno.ENOSPC)):
        asyncio.run(sink.flush())


# --- retention and events ---------------------------------------------------------------------------------------------


@pytest.fixture
def room(tmp_path) -> Iterator[tuple[JobRoom, Store]]:
    settings = ServiceSettings(data_dir=tmp_path, retention_days=0.5 / 86400, job_workers=0)
    with Store.open(database_url(settings)) as store:
        room = JobRoom(store, settings, lambda *_: pytest.fail("nothing is to be run"))
        room.root.mkdir()
        yield room, store


def add(room: JobRoom, store: Store) -> JobRecord:
    job_id = new_id()
    room.files(job_id).folder.mkdir()
    room.files(job_id).upload("csv").write_bytes(b"comment\ngood\n")
    about = {"task": "sentiment", "filename": "a", "format": "csv", "text_column": "comment", "id_column": None}
    return store.jobs.create("one", job_id=job_id, size=1, sha256="0" * 64, **about)[0]  # type: ignore[arg-type]


def test_jobs_whose_time_is_over_are_deleted_and_files_of_no_job(room) -> None:
    room, store = room
    waiting, over, fresh = add(room, store), add(room, store), add(room, store)
    store.jobs.cancel(over.id)
    orphan, under_way = JobFiles(room.root, new_id()), JobFiles(room.root, new_id())
    for files in (orphan, under_way):
        files.folder.mkdir()
        files.upload("part").write_bytes(b"x")
    old = time.time() - 7200
    os.utime(orphan.folder, (old, old))
    time.sleep(0.6)
    store.jobs.cancel(fresh.id)
    room.sweep()
    assert store.jobs.get(over.id) is None
    assert not room.files(over.id).folder.exists()
    assert [line.subject for line in store.audit.list()[0] if line.action == "jobs.expire"] == [over.id]
    assert not orphan.folder.exists()
    assert under_way.upload("part").exists()
    assert room.files(waiting.id).upload("csv").exists()
    assert store.jobs.get(fresh.id) is not None
    assert not room.files(fresh.id).upload("csv").exists()  # cancelled, and nobody had tidied up


def test_forget_changes_results_and_their_summaries(room, files) -> None:
    room, store = room
    done, queued = add(room, store), add(room, store)
    claimed = store.jobs.claim("w", 30)
    assert claimed is not None
    assert claimed.id == done.id
    files.run(1).rename(room.files(done.id).run(1))
    store.jobs.finish(done.id, 1, "done", summary={"rows": 4, "seconds": {"plan": 1}})
    assert room.forget([done.id, queued.id, new_id()], {digest("很好")}) == 2
    job = store.jobs.get(done.id)
    assert job is not None
    assert job.summary is not None
    assert job.summary["statuses"] == {"ok": 2, "deleted": 2}
    assert job.summary["seconds"] == {"plan": 1}


def test_events_end_when_the_job_is_deleted_and_keep_the_line_open_meanwhile(room) -> None:
    room, store = room
    job = add(room, store)

    async def follow() -> list[bytes]:
        seen = []
        async for event in job_events(lambda: store.jobs.get(job.id), last_id=None, poll_s=0.01, heartbeat_s=0.05):
            seen.append(event)
            if event == b": still here\n\n":
                store.jobs.delete(job.id)
        return seen

    seen = asyncio.run(follow())
    assert seen[0].startswith(b"retry:")
    assert f"id: {event_id(job)}".encode() in seen[1]
    assert b'"state": "queued"' in seen[1]
    assert b": still here\n\n" in seen
    assert b'"deleted"' in seen[-1]


def test_a_client_that_hangs_up_in_mid_upload_leaves_nothing(tmp_path) -> None:
    with StubEndpoint() as stub:
        server = Server(tmp_path, stub.url)
        try:
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
                head += "Content-Length: 9000000\r\n\r\n"
                connection.sendall(head.encode() + b"comment\n" + b"good\n" * 500_000)
                deadline = time.monotonic() + 5
                while not server.files():
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            while server.files():
                assert time.monotonic() < deadline, server.files()
                time.sleep(0.02)
            assert list(server.jobs.iterdir()) == []
        finally:
            server.close()
