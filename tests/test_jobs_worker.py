"""Jobs outlive whatever ends their worker: real processes, a real store, and a stub that counts what it is asked."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time

import pytest

from conftest import free_port
from jobs_bench import CONCURRENCY, stop
from reviewmill.server.jobs.files import JobFiles
from stub_endpoint import StubEndpoint
from warm import kill


def comments(n: int, mark: str = "") -> list[str]:
    return [f"{mark}第{number}条：{['质量很好', '太差了', '是蓝色的'][number % 3]}" for number in range(n)]


def asked(stub: StubEndpoint, texts: list[str]) -> dict[str, int]:
    return {text: stub.asked[text] for text in texts}


def test_a_job_is_run_and_only_its_result_is_left(bench) -> None:
    texts = [*comments(30), "", "第1条：太差了"]
    with StubEndpoint() as stub:
        process = bench.start(stub.url)
        job = bench.done(bench.add(texts, 星级=list(range(32))).id)
        rows = bench.rows(job)
        assert [row["original_text"] for row in rows] == texts
        assert [row["星级"] for row in rows] == [str(n) for n in range(32)]
        assert rows[1]["sentiment"] == "negative"
        assert job.summary is not None
        assert job.summary["statuses"] == {"ok": 31, "insufficient": 1}
        assert job.summary["routes"] == {"model": 30, "rule": 1, "cache": 1}
        assert sum(job.summary["shares"].values()) == pytest.approx(1, abs=0.001)
        assert job.summary["top_keywords"]
        assert "input" not in job.summary
        assert job.progress["done"] == job.progress["distinct"] == 30
        bench.tidied(job)
        found = bench.store.comments.find(text_sha256=hashlib.sha256(texts[0].encode()).hexdigest())
        assert [row.job_id for row in found] == [job.id]
        stop(process)


@pytest.mark.slow
def test_killed_again_and_again_nothing_is_lost_and_nothing_asked_twice_beyond_what_was_in_flight(bench) -> None:
    texts = comments(120)
    kills = 0
    with StubEndpoint(latency=0.05) as stub:
        job = bench.add(texts)
        for wanted in (10, 40, 75, 100):
            process = bench.start(stub.url, lease_s=2.0)
            while sum(asked(stub, texts).values()) < wanted:
                assert process.poll() is None
                time.sleep(0.01)
            kill(process)
            kills += 1
        assert bench.job(job.id).state == "running"
        process = bench.start(stub.url, lease_s=2.0)
        job = bench.done(job.id)
        counts = asked(stub, texts)
        extra = sum(counts.values()) - len(texts)
        print(f"\n{kills} kills, {len(texts)} texts, asked {sum(counts.values())} times, {extra} of them again")
        assert min(counts.values()) == 1
        assert [row["original_text"] for row in bench.rows(job)] == texts
        assert {row["status"] for row in bench.rows(job)} == {"ok"}
        assert job.token > kills  # on a machine that is too busy, a lease may run out as well
        assert extra <= (job.token - 1) * CONCURRENCY
        bench.tidied(job)
        stop(process)


@pytest.mark.slow
def test_two_servers_share_six_jobs_and_each_is_run_once(either_bench) -> None:
    bench = either_bench
    sets = [comments(20, f"{name}：") for name in "甲乙丙丁戊己"]
    with StubEndpoint(latency=0.05) as stub:
        jobs = [bench.add(texts) for texts in sets]
        first, second = bench.start(stub.url), bench.start(stub.url)
        jobs = [bench.done(job.id) for job in jobs]
        workers = {job.worker for job in jobs}
        counts = [n for texts in sets for n in asked(stub, texts).values()]
        print(f"\n6 jobs by {len(workers)} workers, {len(counts)} texts, asked {sum(counts)} times")
        assert len(workers) == 2
        assert set(counts) == {1}
        assert {job.attempts for job in jobs} == {1}
        assert [[row["original_text"] for row in bench.rows(job)] for job in jobs] == sets
        stop(first)
        stop(second)


@pytest.mark.slow
def test_a_worker_that_was_frozen_past_its_lease_changes_nothing_when_it_thaws(either_bench) -> None:
    bench = either_bench
    texts = comments(60)
    with StubEndpoint(latency=0.1) as stub:
        job = bench.add(texts)
        frozen = bench.start(stub.url, lease_s=4.0, warm=False)
        stub.wait_for_requests(20)
        bench.freeze(frozen)
        other = bench.start(stub.url, lease_s=4.0)
        bench.wait(job.id, lambda job: job.token > 1)
        bench.wait(job.id, lambda job: job.progress.get("done", 0) > 30)
        frozen.send_signal(signal.SIGCONT)  # in the middle of the other's work
        job = bench.done(job.id)
        assert [row["original_text"] for row in bench.rows(job)] == texts
        bench.tidied(job)
        counts = asked(stub, texts)
        extra = sum(counts.values()) - len(texts)
        print(f"\n{len(texts)} texts, asked {sum(counts.values())} times, {extra} of them again")
        assert extra <= (job.token + 2) * CONCURRENCY  # in flight when frozen, and until the thawed one noticed
        assert "lost" in bench.logs()
        before = JobFiles(bench.root, job.id).result(job.token).read_bytes()
        again = bench.add(["再来一条好的"])
        bench.done(again.id)  # both are at work and well
        assert JobFiles(bench.root, job.id).result(job.token).read_bytes() == before
        stop(frozen)
        stop(other)


@pytest.mark.slow
def test_a_stopped_server_gives_its_job_back_and_the_next_goes_on(bench) -> None:
    texts = comments(60)
    with StubEndpoint(latency=0.1) as stub:
        job = bench.add(texts)
        process = bench.start(stub.url)
        stub.wait_for_requests(20)
        stop(process)
        given_back = bench.job(job.id)
        assert (given_back.state, given_back.attempts) == ("queued", 0)
        assert given_back.progress["stuck"] == 0
        stop_again = bench.start(stub.url)
        bench.done(job.id)
        assert sum(asked(stub, texts).values()) <= len(texts) + CONCURRENCY
        stop(stop_again)


@pytest.mark.slow
def test_a_job_waits_for_an_endpoint_that_died(bench) -> None:
    texts = comments(40)
    port = free_port()
    stub = StubEndpoint(port=port, latency=0.1)
    try:
        job = bench.add(texts)
        process = bench.start(stub.url)
        stub.wait_for_requests(12)
        stub.close()
        waiting = bench.wait(job.id, lambda job: bool(job.progress.get("waiting")))
        assert "went away" in waiting.progress["waiting"]
        assert waiting.state == "running"
    finally:
        stub.close()
    with StubEndpoint(port=port) as back:
        job = bench.done(job.id)
        assert {row["status"] for row in bench.rows(job)} == {"ok"}
        counts = [stub.asked[text] + back.asked[text] for text in texts]
        print(f"\n{len(texts)} texts, asked {sum(counts)} times by both endpoints")
        assert min(counts) >= 1
        assert sum(1 for text in texts if stub.asked[text] and back.asked[text]) <= 12 + 4 * CONCURRENCY
        stop(process)


@pytest.mark.slow
def test_a_job_waits_for_an_endpoint_that_was_never_there(bench) -> None:
    port = free_port()
    job = bench.add(["很好", "太差了"])
    process = bench.start(f"http://127.0.0.1:{port}/v1")
    bench.wait(job.id, lambda job: bool(job.progress.get("waiting")))
    with StubEndpoint(port=port):
        assert bench.done(job.id).summary is not None
    stop(process)


@pytest.mark.slow
def test_rows_that_fail_for_good_are_in_the_result(bench) -> None:
    with StubEndpoint(fail_texts={"第1条": 400}) as stub:
        process = bench.start(stub.url)
        job = bench.done(bench.add(comments(5)).id)
        assert job.summary is not None
        assert job.summary["errors"] == {"endpoint_refused": 1}
        assert [row["status"] for row in bench.rows(job)] == ["ok", "error", "ok", "ok", "ok"]
        stop(process)


@pytest.mark.slow
def test_cancelling_stops_the_work_within_about_a_second(bench) -> None:
    texts = comments(200)
    with StubEndpoint(latency=0.1) as stub:
        job = bench.add(texts)
        process = bench.start(stub.url)
        stub.wait_for_requests(10)
        bench.store.jobs.cancel(job.id)
        time.sleep(1.6)
        seen = stub.total
        time.sleep(0.5)
        assert stub.total == seen
        assert seen < 150
        folder = JobFiles(bench.root, job.id).folder
        assert not [path for path in folder.rglob("*") if path.is_file()]
        bench.done(bench.add(["很好"]).id)
        stop(process)


@pytest.mark.slow
def test_deleting_a_running_job_leaves_no_file(bench) -> None:
    with StubEndpoint(latency=0.1) as stub:
        job = bench.add(comments(200))
        process = bench.start(stub.url)
        stub.wait_for_requests(10)
        bench.store.jobs.delete(job.id)
        folder = JobFiles(bench.root, job.id).folder
        deadline = time.monotonic() + 5
        while folder.exists():
            assert time.monotonic() < deadline, [*folder.rglob("*")]
            time.sleep(0.05)
        stop(process)


@pytest.mark.slow
def test_what_is_deleted_while_a_job_runs_is_not_in_its_result(bench) -> None:
    texts = comments(40)
    with StubEndpoint(latency=0.05) as stub:
        job = bench.add(texts, customer_id=[f"c{n % 4}" for n in range(40)])
        process = bench.start(stub.url)
        stub.wait_for_requests(8)
        bench.store.comments.tombstone(hashlib.sha256(texts[0].encode()).hexdigest())
        bench.store.comments.tombstone(customer_id="c3")
        job = bench.done(job.id)
        gone = [row for row in bench.rows(job) if row["status"] == "deleted"]
        assert len(gone) == 11
        assert {row["original_text"] for row in gone} == {row["评论"] for row in gone} == {None}
        assert {row["customer_id"] for row in gone} == {"c0", "c3"}
        assert texts[0] not in JobFiles(bench.root, job.id).result(job.token).read_text()
        assert job.summary is not None
        assert job.summary["statuses"] == {"ok": 29, "deleted": 11}
        stop(process)


@pytest.mark.slow
def test_a_job_that_ends_its_worker_every_time_fails_in_the_end(bench) -> None:
    with StubEndpoint(hang=True) as stub:
        job = bench.add(comments(5))
        for _ in range(5):
            process = bench.start(stub.url, lease_s=1.0)
            before = bench.job(job.id).progress.get("stuck", 0)
            bench.wait(job.id, lambda job, n=before: job.progress.get("stuck", 0) > n)
            kill(process)
        bench.start(stub.url, lease_s=1.0)
        job = bench.wait(job.id, lambda job: job.state == "failed")
        assert job.error is not None
        assert "5 workers in a row" in job.error["message"]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_delays_a_job_and_does_not_end_it(bench) -> None:
    texts = [f"{text}{'很' * 300}" for text in comments(150)]
    with StubEndpoint() as stub:
        job = bench.add(texts)
        files = JobFiles(bench.root, job.id)
        small = files.run(1)
        small.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", small], check=False)
        if mounted.returncode != 0:
            pytest.skip("mounting is not allowed here")
        try:
            process = bench.start(stub.url)
            waiting = bench.wait(job.id, lambda job: bool(job.progress.get("waiting")))
            assert "cannot be written" in waiting.progress["waiting"]
            before = all_asked(stub)
            assert before
            subprocess.run(["mount", "-o", "remount,size=50m", small], check=True)
            job = bench.done(job.id)
            assert {row["status"] for row in bench.rows(job)} == {"ok"}
            extra = all_asked(stub) - len(texts)
            print(f"\n{before} answers before the disk was full; {extra} texts asked again")
            assert extra <= 3 * CONCURRENCY  # a try asks as many as fit in flight before it sees that there is no room
            stop(process)
        finally:
            subprocess.run(["umount", "-l", small], check=False)


def all_asked(stub: StubEndpoint) -> int:
    """Questions about comments; cleaning has made them shorter than they were."""
    return sum(times for text, times in stub.asked.items() if text.startswith("第"))
