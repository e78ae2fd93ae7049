"""Jobs over real HTTP: uploads of every kind and every trick, results in every format, other people's jobs."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import struct
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import xlsxwriter

from jobs_server import CSV, Server
from reviewmill.settings import ServiceSettings
from reviewmill.store import Store, database_url
from stub_endpoint import StubEndpoint
from warm import kill, warm_reviewmill


@pytest.fixture(scope="module")
def stub() -> Iterator[StubEndpoint]:
    with StubEndpoint() as stub:
        yield stub


@pytest.fixture(scope="module")
def server(stub, tmp_path_factory) -> Iterator[Server]:
    limits = {"max_upload_bytes": 3_000_000, "max_rows": 5_000, "max_columns": 50}
    server = Server(tmp_path_factory.mktemp("server"), stub.url, **limits)
    yield server
    server.close()
    assert "Traceback" not in server.log.read_text()


def refused(server: Server, reply: Any, status: int, *parts: str) -> dict[str, Any]:
    """A problem document that says these things, and shows nothing of our folders; nothing is left on the disk."""
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    said = json.dumps(reply.json(), ensure_ascii=False)
    for part in parts:
        assert part in said
    assert str(server.folder) not in said
    assert not [name for name in server.files() if "upload" in name]
    return reply.json()


def test_a_form_becomes_a_job_and_its_result_comes_in_every_format(server) -> None:
    reply = server.upload(id="编号")
    assert reply.status_code == 201, reply.text
    job = reply.json()
    assert reply.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["filename"], job["rows"], job["text_column"], job["sha256"]) == (
        "in.csv",
        3,
        "评论",
        hashlib.sha256(CSV).hexdigest(),
    )
    job = server.done(job["id"])
    assert job["state"] == "done", job
    assert job["summary"]["labels"] == {"positive": 1, "negative": 1, "neutral": 1}
    assert job["summary"]["mean_confidence"] > 0.5

    lines = [json.loads(line) for line in server.result(job["id"], "jsonl").text.splitlines()]
    assert [line["sentiment"] for line in lines] == ["positive", "negative", "neutral"]
    assert lines[0]["spans"][0]["text"] == "质量很好"
    assert server.result(job["id"], "json").json() == lines
    reply = server.result(job["id"], "csv")
    rows = list(csv.DictReader(io.StringIO(reply.content.decode("utf-8-sig"))))
    assert list(rows[0])[:4] == ["编号", "评论", "星级", "sentiment"]
    assert [row["original_text"] for row in rows] == ["质量很好", "太差了", "是蓝色的"]
    assert float(rows[0]["p_positive"]) == lines[0]["probabilities"]["positive"]
    assert "provenance" not in rows[0]
    assert reply.headers["content-disposition"].startswith('attachment; filename="in.analyzed.csv"')
    assert int(reply.headers["content-length"]) == len(reply.content)
    parquet = pl.read_parquet(io.BytesIO(server.result(job["id"], "parquet").content))
    assert parquet["sentiment"].to_list() == ["positive", "negative", "neutral"]
    xlsx = pl.read_excel(io.BytesIO(server.result(job["id"], "xlsx").content))
    assert xlsx["sentiment"].to_list() == ["positive", "negative", "neutral"]
    assert server.result(job["id"], "exe").status_code == 422
    assert not [name for name in server.files() if job["id"] in name and ("upload" in name or "journal" in name)]


def test_the_flat_result_is_the_file_that_the_command_line_writes(server, stub, tmp_path) -> None:
    """Columns that are called like the result's own included."""
    content = 'id,评论,sentiment,spans,p_positive\n7,很好,?,"=1+1",0.1\n8,,x,,\n'.encode()
    (tmp_path / "in.csv").write_bytes(content)
    own = {"REVIEWMILL_CACHE_DIR": str(tmp_path / "c"), "REVIEWMILL_STATE_DIR": str(tmp_path / "s")}
    program = warm_reviewmill("analyze", tmp_path / "in.csv", "-o", tmp_path / "out.csv")
    more = ["--endpoint", stub.url, "--cache", "none", "--text", "评论", "--quiet"]
    subprocess.run([*program, *more], env=os.environ | own, check=True)
    job = server.done(server.upload(content, text="评论").json()["id"])
    assert server.result(job["id"], "csv").content == (tmp_path / "out.csv").read_bytes()


@pytest.mark.parametrize(
    ("media_type", "content"),
    [
        ("application/x-ndjson", '{"评论": "很好"}\n{"评论": "差"}\n'),
        ("text/csv; charset=utf-8", "评论\n很好\n差\n"),
        ("application/json", '["很好", "差"]'),
    ],
)
def test_the_body_may_be_the_file_alone(server, media_type, content) -> None:
    headers = {"Content-Type": media_type, "Transfer-Encoding": "chunked"}
    pieces = (bytes([byte]) for byte in content.encode())
    reply = server.client.post("/v1/jobs?keywords=false", content=pieces, headers=headers)
    assert reply.status_code == 201, reply.text
    job = server.done(reply.json()["id"])
    assert job["summary"]["labels"] == {"positive": 1, "negative": 1}
    assert job["summary"]["top_keywords"] == {"positive": [], "negative": []} or not job["summary"]["top_keywords"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../../../etc/passwd.csv", "passwd.csv"),
        ("..\\..\\windows\\evil.csv", "evil.csv"),
        ("/etc/cron.d/x.csv", "x.csv"),
        ("a\x00b.csv", "ab.csv"),
        ("evil\u202egpj.csv", "evilgpj.csv"),
        ("...csv", "csv"),
        ("长" * 500 + ".csv", "长" * 116 + ".csv"),
        ('";rm -rf.csv', '";rm -rf.csv'),
        ("x\r\nSet-Cookie: a=b.csv", "xSet-Cookie: a=b.csv"),
    ],
)
def test_a_name_is_only_shown_and_never_a_path(server, name, shown) -> None:
    reply = server.client.post("/v1/jobs", params={"filename": name}, content=CSV, headers={"Content-Type": "text/csv"})
    assert reply.status_code == 201, reply.text
    assert reply.json()["filename"] == shown
    job = server.done(reply.json()["id"])
    header = server.result(job["id"], "csv").headers["content-disposition"]
    assert "\n" not in header
    assert header.count('"') == 2
    names = {Path(name).name for name in server.files()}
    assert names <= {"result.jsonl", "shape.json", "lock", "in.csv"} | {n for n in names if n[0].isdigit()}


def test_a_path_is_no_job(server) -> None:
    for path in ("/v1/jobs/..%2f..%2fetc", "/v1/jobs/../x", "/v1/jobs/%00", "/v1/jobs/'%20or%201=1/result"):
        assert server.client.get(path).status_code == 404


def test_what_is_no_file_of_comments_is_refused_at_once(server) -> None:
    problem = refused(server, server.upload(b"a,b\n1,2\n", text="comment"), 422, "a, b")
    assert problem["type"].endswith("no-such-column")
    refused(server, server.upload(b"a,b\n1,2\n"), 422, "a, b", "field `text`")
    refused(server, server.upload(b"\x89PNG\r\n\x1a\n" * 9), 422, "PNG", "in.csv")
    refused(server, server.upload(b""), 422, "empty")
    refused(server, server.upload(CSV, name="in.exe"), 422, "format")
    refused(server, server.upload(CSV, name="in.csv", format="../../x"), 422, "format")
    refused(server, server.upload(agreement="0.4"), 422, "agreement")
    refused(server, server.upload(agreement="most"), 422, "agreement", "number")
    refused(server, server.upload(agreement="0.9", budget="100"), 422, "one goal")
    refused(server, server.upload(delta="0.1"), 422, "delta", "agreement or a budget")
    refused(server, server.upload(budget="100", per_class="true"), 422, "per_class")
    refused(server, server.client.post("/v1/jobs?agreement=2&filename=a.csv", content=CSV), 422, "agreement")
    refused(server, server.upload(task="../../etc/passwd"), 422, "task")
    refused(server, server.upload(keywords="perhaps"), 422, "keywords")
    refused(server, server.client.post("/v1/jobs", data={"task": "sentiment"}), 415)
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(server, server.client.post("/v1/jobs", content=b"--x--\r\n", headers=form), 422)
    cut = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n' + CSV
    refused(server, server.client.post("/v1/jobs", content=cut, headers=form), 422, "cut short")
    refused(server, server.client.post("/v1/jobs", content=cut, headers={"Content-Type": "multipart/form-data"}), 422)


def test_what_is_too_large_is_refused(server) -> None:
    refused(server, server.upload(b"x" * 3_050_000), 413, "3,000,000")
    refused(server, server.upload(b"x" * 5_000_000), 413)
    pieces = (b"x" * 100_000 for _ in range(40))
    reply = server.client.post("/v1/jobs", content=pieces, headers={"Content-Type": "text/csv"})
    refused(server, reply, 413)
    refused(server, server.upload(b"comment\n" + b"good\n" * 5_001), 422, "5,000 rows")
    refused(server, server.upload(text="x" * 20_000), 413, "field")
    refused(server, server.upload(("," * 60).encode() + b"\n" + b"," * 60), 422, "columns")


@pytest.mark.clock
def test_a_csv_with_a_million_columns_is_refused(server) -> None:
    began = time.monotonic()
    refused(server, server.upload(("," * 1_000_000).encode() + b"\n1\n"), 422, "1,000,001 columns")
    assert time.monotonic() - began < 10


def xlsx(rows: list[list[Any]], *, far: bool = False) -> bytes:
    content = io.BytesIO()
    with xlsxwriter.Workbook(content, {"in_memory": True}) as book:
        sheet = book.add_worksheet()
        for number, row in enumerate(rows):
            sheet.write_row(number, 0, row)
        if far:
            sheet.write(1_048_575, 16_383, "x")
    return content.getvalue()


def zip_of(content: bytes, *, copies: int = 1) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(copies):
            archive.writestr(f"xl/worksheets/sheet{number}.xml", content)
    return packed.getvalue()


def lying(archive: bytes, declared: int) -> bytes:
    """The archive with another unpacked size in its directory."""
    at = archive.index(b"PK\x01\x02") + 24
    return archive[:at] + struct.pack("<I", declared) + archive[at + 4 :]


@pytest.mark.slow
def test_workbooks_are_taken_and_bombs_are_refused(server) -> None:
    job = server.done(server.upload(xlsx([["评论"], ["很好"]]), name="a.xlsx").json()["id"])
    assert job["summary"]["labels"] == {"positive": 1}
    bomb = zip_of(b" " * 400_000_000)
    assert len(bomb) < 500_000
    refused(server, server.upload(bomb, name="a.xlsx"), 422, "unpacks to")
    refused(server, server.upload(lying(bomb, 1000), name="a.xlsx"), 422, "unpacks to")
    refused(server, server.upload(zip_of(b" ", copies=10_001), name="a.xlsx"), 422, "10,001 files")
    refused(server, server.upload(xlsx([["评论"], ["很好"]], far=True), name="a.xlsx"), 422, "memory")
    refused(server, server.upload(gzip.compress(b"a" * 300_000_000), name="a.csv.gz"), 422, "unpacks to")
    assert server.done(server.upload(gzip.compress(CSV), name="a.csv.gz").json()["id"])["state"] == "done"
    assert server.process.poll() is None


def test_the_same_request_with_a_key_makes_one_job(server) -> None:
    key = {"Idempotency-Key": "k-1"}
    first, again = server.upload(headers=key), server.upload(headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    refused_ = server.upload(CSV + "4,又来了,2\n".encode(), headers=key)
    assert refused_.status_code == 409, refused_.text
    assert server.upload(headers=key, id="编号", text="星级").status_code == 409
    assert server.upload(headers={"Idempotency-Key": "k-2"}).status_code == 201
    folders = {name.split("/")[0] for name in server.files()}
    assert folders <= {job["id"] for job in server.client.get("/v1/jobs?limit=200").json()["items"]}


def test_many_at_once_with_one_key_make_one_job(server) -> None:
    replies: list[Any] = []
    send = lambda: replies.append(server.upload(headers={"Idempotency-Key": "k-3"}))  # noqa: E731
    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply.status_code for reply in replies) == [200] * 7 + [201]
    assert len({reply.json()["id"] for reply in replies}) == 1


def test_pages_of_jobs(server) -> None:
    for _ in range(3):
        server.upload()
    whole = [job["id"] for job in server.client.get("/v1/jobs?limit=200").json()["items"]]
    seen, cursor = [], ""
    while cursor is not None:
        page = server.client.get("/v1/jobs", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [job["id"] for job in page["items"]]
        cursor = page["next_cursor"]
    assert seen == whole
    assert whole == sorted(whole, reverse=True)
    assert server.client.get("/v1/jobs?cursor=nonsense").status_code == 422


def test_deleting_removes_row_and_files_and_leaves_a_line(server) -> None:
    job = server.done(server.upload().json()["id"])
    server.result(job["id"], "csv")
    assert server.client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert not (server.jobs / job["id"]).exists()
    for path in ("", "/result", "/events"):
        assert server.client.get(f"/v1/jobs/{job['id']}{path}").status_code == 404
    assert server.client.delete(f"/v1/jobs/{job['id']}").status_code == 404
    with Store.open(database_url(ServiceSettings(data_dir=server.folder / "data"))) as store:
        line = store.audit.list()[0][0]
        assert (line.actor, line.action, line.subject) == ("local", "jobs.delete", job["id"])


def events(reply: Any) -> Iterator[dict[str, str]]:
    event: dict[str, str] = {}
    for line in reply.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            event[name] = value
        else:
            if "event" in event:
                yield event
            event = {}


@pytest.mark.slow
def test_events_are_told_by_a_server_that_does_not_run_the_job(tmp_path) -> None:
    texts = "评论\n" + "".join(f"第{n}条很好\n" for n in range(60))
    with StubEndpoint(latency=0.15) as stub:
        runs = Server(tmp_path, stub.url)
        tells = Server(tmp_path, stub.url, job_workers=0)
        try:
            job_id = runs.upload(texts.encode()).json()["id"]
            with tells.client.stream("GET", f"/v1/jobs/{job_id}/events") as reply:
                assert reply.headers["content-type"].startswith("text/event-stream")
                seen = list(events(reply))
            states = [json.loads(event["data"])["state"] for event in seen if event["event"] == "state"]
            assert states[-2:] == ["running", "done"]
            progress = [json.loads(event["data"]) for event in seen if event["event"] == "progress"]
            counts = [each["done"] for each in progress if "done" in each]
            assert counts == sorted(counts)
            assert len(counts) >= 2
            assert "stuck" not in progress[0]
            last = seen[-1]["id"]
            again = runs.client.get(f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": last})
            assert again.status_code == 204
            with runs.client.stream("GET", f"/v1/jobs/{job_id}/events", headers={"Last-Event-ID": "x"}) as reply:
                assert [event["id"] for event in events(reply)] == [last]
            csv_there = tells.result(job_id, "csv").content
            assert csv_there == runs.result(job_id, "csv").content
        finally:
            runs.close()
            tells.close()


@pytest.mark.slow
def test_the_server_is_killed_in_mid_job_and_started_again(tmp_path) -> None:
    texts = [f"第{n}条很好" for n in range(80)]
    with StubEndpoint(latency=0.1) as stub:
        server = Server(tmp_path, stub.url)
        job_id = server.upload(("评论\n" + "\n".join(texts) + "\n").encode()).json()["id"]
        while sum(stub.asked[text] for text in texts) < 30:
            time.sleep(0.01)
        reply = server.result(job_id, "csv")
        assert reply.status_code == 409
        assert reply.json()["type"].endswith("job-not-done")
        kill(server.process)
        server.close()
        server = Server(tmp_path, stub.url)
        try:
            assert server.done(job_id)["summary"]["statuses"] == {"ok": 80}
            counts = [stub.asked[text] for text in texts]
            print(f"\n80 texts, asked {sum(counts)} times, {sum(counts) - 80} of them again")
            assert min(counts) == 1
            assert sum(counts) - 80 <= 4
        finally:
            server.close()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_an_upload_that_does_not_fit_the_disk_leaves_nothing(tmp_path, stub) -> None:
    small = tmp_path / "data" / "jobs"
    small.mkdir(parents=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=False)
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    server = Server(tmp_path, stub.url)
    try:
        for _ in range(2):
            problem = server.upload("评论\n".encode() + b"good\n" * 400_000)
            assert problem.status_code == 507, problem.text
            assert problem.json()["type"].endswith("storage-full")
            assert server.files() == []
        assert server.done(server.upload().json()["id"])["state"] == "done"
    finally:
        server.close()
        subprocess.run(["umount", "-l", small], check=False)


@pytest.mark.slow
def test_cancel_over_http(tmp_path) -> None:
    with StubEndpoint(latency=0.2) as stub:
        server = Server(tmp_path, stub.url)
        try:
            job_id = server.upload(("评论\n" + "".join(f"第{n}条\n" for n in range(200))).encode()).json()["id"]
            queued = server.upload(b"comment\ngood\n").json()["id"]
            stub.wait_for_requests(8)
            assert server.client.post(f"/v1/jobs/{queued}/cancel").json()["state"] == "cancelled"
            assert not [name for name in server.files() if queued in name]
            assert server.client.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
            assert server.client.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
            time.sleep(1.6)
            seen = stub.total
            time.sleep(0.6)
            assert stub.total == seen
            assert server.result(job_id, "csv").status_code == 409
            assert not [name for name in server.files() if "upload" in name]
        finally:
            server.close()


@pytest.mark.slow
def test_other_peoples_jobs_are_not_there(tmp_path) -> None:
    with StubEndpoint() as stub, Store.open(database_url(ServiceSettings(data_dir=tmp_path / "data"))) as store:
        keys = {name: store.keys.create(name, scopes)[1] for name, scopes in _KEYS.items()}
        bearer = {name: {"Authorization": f"Bearer {key}"} for name, key in keys.items()}
        server = Server(tmp_path, stub.url, no_auth=False)
        try:
            assert server.upload().status_code == 401
            assert server.upload(headers=bearer["reader"]).status_code == 403
            mine = server.upload(headers=bearer["one"]).json()["id"]
            for method, path in (
                ("GET", ""),
                ("GET", "/events"),
                ("GET", "/result"),
                ("POST", "/cancel"),
                ("DELETE", ""),
            ):
                reply = server.client.request(method, f"/v1/jobs/{mine}{path}", headers=bearer["two"])
                assert reply.status_code == 404, (method, path)
            assert server.client.get("/v1/jobs", headers=bearer["two"]).json()["items"] == []
            for name in ("one", "admin"):
                assert server.client.get(f"/v1/jobs/{mine}", headers=bearer[name]).status_code == 200
                assert len(server.client.get("/v1/jobs", headers=bearer[name]).json()["items"]) == 1
            key = {"Idempotency-Key": "same"}
            ids = {server.upload(headers=bearer[name] | key).json()["id"] for name in ("one", "two")}
            assert len(ids) == 2
        finally:
            server.close()


_KEYS = {"one": ["jobs"], "two": ["jobs"], "admin": ["admin"], "reader": ["analyse"]}


@pytest.mark.slow
def test_deleting_a_comment_reaches_the_results_of_jobs(tmp_path) -> None:
    content = "id,评论,customer_id\n1,质量很好,c1\n2,太差了,c2\n3,质量很好,c2\n".encode()
    with StubEndpoint() as stub:
        server = Server(tmp_path, stub.url)
        try:
            by_text, by_customer = (server.done(server.upload(content).json()["id"])["id"] for _ in range(2))
            for kind in ("csv", "xlsx", "parquet"):
                server.result(by_text, kind)
            digest = hashlib.sha256("太差了".encode()).hexdigest()
            reply = server.client.delete("/v1/comments", params={"text_sha256": digest})
            assert reply.json()["rows"] == 2, reply.text
            reply = server.client.delete("/v1/comments", params={"customer_id": "c1"})
            assert reply.json()["rows"] == 2, reply.text
            for job_id in (by_text, by_customer):
                rows = [json.loads(line) for line in server.result(job_id, "jsonl").text.splitlines()]
                assert [row["status"] for row in rows] == ["deleted", "deleted", "ok"]
                assert [row["id"] for row in rows] == ["1", "2", "3"]
                summary = server.client.get(f"/v1/jobs/{job_id}").json()["summary"]
                assert summary["statuses"] == {"deleted": 2, "ok": 1}
                assert "太差了" not in json.dumps(summary, ensure_ascii=False)
                assert "太差了" not in server.result(job_id, "csv").content.decode("utf-8-sig")
            on_disk = b"".join(path.read_bytes() for path in server.jobs.rglob("*") if path.is_file())
            assert "太差了".encode() not in on_disk
        finally:
            server.close()
