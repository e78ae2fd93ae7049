"""Jobs with a cascade: over HTTP, through the client, and when their worker is killed in the middle of a sample."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cascades import comments, model_label
from jobs_bench import CONCURRENCY, Bench, stop
from jobs_server import Server
from reviewmill.cascade.certificate import Certificate
from reviewmill.client import Client
from reviewmill.errors import ServiceError
from reviewmill.server.jobs.files import JobFiles
from stub_endpoint import StubEndpoint
from warm import kill

COUNT = 1500


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return comments(COUNT, seed=4)


def decided(bench: Bench, job_id: str) -> dict[str, bytes]:
    """What the cascade of the claim that worked last has decided: seed, population, samples."""
    files = JobFiles(bench.root, job_id)
    journals = sorted(files.folder.glob("run-*/result.jsonl.journal"), key=lambda path: int(path.parent.name[4:]))
    with contextlib.closing(sqlite3.connect(f"file:{journals[-1]}?mode=ro", uri=True)) as db:
        return dict(db.execute("SELECT name, value FROM cascade").fetchall())


@pytest.mark.slow
def test_killed_in_the_middle_of_a_sample_the_next_worker_goes_on_with_it(either_bench, texts) -> None:
    bench = either_bench
    with StubEndpoint(latency=0.02) as stub:
        job = bench.add(texts, cascade={"agreement": 0.9})
        before: dict[str, bytes] = {}
        kills = 0
        for wanted in (60, 120, 180):
            process = bench.start(stub.url, lease_s=2.0)
            while sum(stub.asked[text] for text in texts) < wanted:
                assert process.poll() is None, bench.logs()
                assert bench.job(job.id).state != "done", "it needed fewer questions than were to be interrupted"
                time.sleep(0.01)
            kill(process)
            kills += 1
            now = decided(bench, job.id)
            assert {name: now[name] for name in before} == before
            assert any(name.startswith("draw-") for name in now)
            before = now
        bench.start(stub.url, lease_s=2.0)
        done = bench.done(job.id, seconds=120)
        rows = bench.rows(done)
        asked = {text: stub.asked[text] for text in texts}
    assert done.summary is not None
    promised = Certificate.from_json(done.summary["certificate"])
    assert promised.seed == int(before["seed"])
    assert promised.population == COUNT
    assert [row["original_text"] for row in rows] == texts
    by_student = [row["original_text"] for row in rows if row["route"] == "student"]
    assert len(by_student) == promised.spared > 0
    assert not any(asked[text] for text in by_student)
    agreeing = sum(row["sentiment"] == model_label(row["original_text"]) for row in rows)
    assert agreeing >= 0.9 * COUNT
    extra = sum(asked.values()) - (COUNT - promised.spared)
    print(f"\n{kills} kills, {sum(asked.values())} questions about {COUNT} texts, {extra} of them again")
    assert extra <= (done.token - 1) * CONCURRENCY
    bench.tidied(done)


@pytest.mark.slow
def test_a_stopped_server_gives_a_job_back_while_its_student_is_trained(bench, texts) -> None:
    with StubEndpoint() as stub:
        job = bench.add(texts, cascade={"budget": 400})
        first = bench.start(stub.url)
        bench.wait(job.id, lambda job: "training" in (job.progress.get("stage") or ""))
        stop(first)
        assert bench.job(job.id).state in {"queued", "done"}
        second = bench.start(stub.url)
        done = bench.done(job.id)
        assert done.summary is not None
        assert done.summary["certificate"]["budget"] == 400
        assert done.summary["routes"] == {"student": COUNT - 400, "model": 400}
        assert sum(stub.asked[text] for text in texts) <= 400 + CONCURRENCY
        assert done.progress["certified"] == COUNT - 400
        stop(second)


@pytest.fixture(scope="module")
def stub() -> Iterator[StubEndpoint]:
    with StubEndpoint() as stub:
        yield stub


@pytest.fixture(scope="module")
def server(stub: StubEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), stub.url)
    yield server
    server.close()
    assert "Traceback" not in server.log.read_text()


def upload(texts: list[str]) -> bytes:
    return ("评论\n" + "\n".join(texts) + "\n").encode()


def test_over_http_a_job_says_what_its_labels_are_worth(server, texts) -> None:
    reply = server.upload(upload(texts), agreement="0.9", delta="0.1")
    assert reply.status_code == 201, reply.text
    made = reply.json()
    assert made["cascade"] == {"agreement": 0.9, "delta": 0.1}
    assert made["certificate"] is None
    job = server.done(made["id"])
    assert job["state"] == "done"
    promised = job["certificate"]
    assert promised["certified_agreement"] == 0.9
    assert promised["spared"] == job["summary"]["routes"]["student"] > 0
    assert "with 0.9 confidence at least 90%" in promised["sentence"]
    assert "hypergeometric" in promised["statement"]
    rows: list[dict[str, Any]] = server.result(made["id"], "json").json()
    assert sum(row["sentiment"] == model_label(row["评论"]) for row in rows) >= 0.9 * COUNT
    assert server.client.get("/v1/jobs").json()["items"][0]["certificate"] == promised


def test_a_job_without_a_goal_has_no_certificate(server) -> None:
    job = server.done(server.upload().json()["id"])
    assert job["cascade"] is None
    assert job["certificate"] is None


def test_the_same_upload_with_another_goal_is_another_request(server, texts) -> None:
    headers = {"Idempotency-Key": "once"}
    first = server.upload(upload(texts[:50]), headers=headers, agreement="0.9")
    assert server.upload(upload(texts[:50]), headers=headers, agreement="0.9").json()["id"] == first.json()["id"]
    assert server.upload(upload(texts[:50]), headers=headers, agreement="0.95").status_code == 409
    small = server.done(first.json()["id"])
    assert "fewer than" in small["certificate"]["sentence"]
    assert set(small["summary"]["routes"]) == {"model"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_the_client_takes_it(server, texts) -> None:
    async with Client(server.url) as client:
        job = await client.submit(upload(texts), filename="a.csv", budget=300, delta=0.1, keywords=False)
        assert job.cascade == {"budget": 300, "delta": 0.1}
        done = await client.wait(job.id)
        assert done.certificate is not None
        assert done.certificate["certified_agreement"] > 0.5
        assert done.certificate["sentence"].startswith("A student answered 1,200 of 1,500 texts")
        with pytest.raises(ServiceError, match="agreement"):
            await client.submit(upload(texts), filename="a.csv", agreement=1.5)
