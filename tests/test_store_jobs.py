"""Jobs: none is taken twice, none is lost, and whoever lost one cannot write to it any more."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from reviewmill.errors import CursorError, IdempotencyConflictError, StoreError
from reviewmill.store import Store

FILE = {"task": "sentiment", "filename": "a.csv", "format": "csv", "text_column": "评论", "id_column": None}
FILE |= {"size": 12, "sha256": "0" * 64}
CLAIM_ALL = """
import sys, time
from reviewmill.store import Store
with Store.open(sys.argv[1]) as store:
    print("ready", flush=True)
    sys.stdin.readline()
    while (job := store.jobs.claim(sys.argv[2], 600)) is not None:
        print(job.id, job.token, flush=True)
        time.sleep(0.005)  # work, a little
"""


def create(store: Store, n: int = 1, owner: str = "local"):
    return [store.jobs.create(owner, **FILE)[0] for _ in range(n)]


def run_together(n: int, work) -> list:
    """What n threads return that begin at the same moment."""
    barrier = threading.Barrier(n)

    def begin(number: int):
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(n) as pool:
        return [*pool.map(begin, range(n))]


# --- one job ---


def test_a_job_from_its_creation_to_its_end(store) -> None:
    options = {"redact": True, "nested": {"名": [1, 2.5, None, "\0\ud800"]}}
    job, created = store.jobs.create("key-1", **FILE, options=options)

    assert created
    assert job == store.jobs.get(job.id)
    assert (job.owner, job.state, job.options, job.text_column) == ("key-1", "queued", options, "评论")
    assert (job.attempts, job.token, job.progress, job.summary, job.error) == (0, 0, {}, None, None)
    assert abs(datetime.now(UTC) - job.created_at) < timedelta(minutes=1)

    claimed = store.jobs.claim("worker 1", 30)
    assert (claimed.id, claimed.state, claimed.worker, claimed.attempts, claimed.token) == (
        job.id,
        "running",
        "worker 1",
        1,
        1,
    )
    assert claimed.lease_until - claimed.started_at == timedelta(seconds=30)
    assert store.jobs.claim("worker 2", 30) is None

    assert store.jobs.heartbeat(job.id, 1, 30, {"done": 5}) == "running"
    assert store.jobs.get(job.id).progress == {"done": 5}
    assert store.jobs.get(job.id).lease_until > claimed.lease_until

    assert store.jobs.finish(job.id, 1, "done", summary={"rows": 7}, progress={"done": 7})
    ended = store.jobs.get(job.id)
    assert (ended.state, ended.summary, ended.error, ended.progress) == ("done", {"rows": 7}, None, {"done": 7})
    assert ended.finished_at >= ended.started_at >= ended.created_at
    assert ended.lease_until is None
    assert store.jobs.claim("worker 2", 30) is None


def test_a_failed_job_keeps_its_error(store) -> None:
    create(store)
    job = store.jobs.claim("worker", 30)

    assert store.jobs.finish(job.id, job.token, "failed", error={"type": "input", "message": "坏"})

    assert (store.jobs.get(job.id).state, store.jobs.get(job.id).error) == (
        "failed",
        {"type": "input", "message": "坏"},
    )
    assert not store.jobs.finish(job.id, job.token, "done", summary={})


def test_the_oldest_job_is_taken_first(store) -> None:
    jobs = create(store, 3)

    assert [store.jobs.claim("worker", 30).id for _ in jobs] == [job.id for job in jobs]


@pytest.mark.parametrize("job_id", ["", "no such job", "\0", "' OR 1=1 --", "\ud800"])
def test_a_job_that_does_not_exist(store, job_id) -> None:
    create(store)

    assert store.jobs.get(job_id) is None
    assert store.jobs.cancel(job_id) is None
    assert not store.jobs.delete(job_id)
    assert store.jobs.heartbeat(job_id, 1, 30, {}) == "lost"
    assert not store.jobs.finish(job_id, 1, "done")
    assert not store.jobs.release(job_id, 1)
    assert store.jobs.counts() == {"queued": 1}


def test_what_is_no_json_is_refused_and_changes_nothing(store) -> None:
    create(store)
    job = store.jobs.claim("worker", 30)

    for wrong in (float("nan"), object()):
        with pytest.raises(StoreError, match="cannot hold"):
            store.jobs.heartbeat(job.id, job.token, 30, {"wrong": wrong})
    assert store.jobs.get(job.id).progress == {}


# --- claims ---


def test_many_threads_take_each_job_once_and_all_of_them(store) -> None:
    jobs = create(store, 40)

    def claim_all(number: int) -> list[str]:
        return [job.id for job in iter(lambda: store.jobs.claim(f"worker {number}", 600), None)]

    taken = run_together(8, claim_all)

    assert sorted(itertools.chain(*taken)) == [job.id for job in jobs]
    assert {(job.attempts, job.token) for job in store.jobs.list()[0]} == {(1, 1)}


def test_two_processes_take_each_job_once_and_all_of_them(store, store_url) -> None:
    jobs = create(store, 60)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM_ALL, store_url, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("one", "two")
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    taken = [worker.communicate(timeout=60)[0].splitlines() for worker in workers]

    assert sorted(itertools.chain(*taken)) == [f"{job.id} 1" for job in jobs]
    assert all(taken), "both got some, or the test shows nothing"


def test_overdue_jobs_are_taken_over_once_by_many_threads(store) -> None:
    jobs = create(store, 10)
    for _ in jobs:
        store.jobs.claim("dead", 0)
    # Those with a lease of no time are overdue at once, so the claims above took the first job only.
    assert store.jobs.get(jobs[0].id).token == 10

    def claim_all(number: int) -> list[str]:
        return [job.id for job in iter(lambda: store.jobs.claim(f"worker {number}", 600), None)]

    assert sorted(itertools.chain(*run_together(8, claim_all))) == [job.id for job in jobs]
    assert store.jobs.get(jobs[0].id).token == 11


def test_claims_overlap_with_the_ends_of_others_and_nothing_is_done_twice(store) -> None:
    jobs = create(store, 30)

    def work(number: int) -> list[str]:
        done = []
        while (job := store.jobs.claim(f"worker {number}", 600)) is not None:
            assert store.jobs.heartbeat(job.id, job.token, 600, {}) == "running"
            if store.jobs.finish(job.id, job.token, "done"):
                done.append(job.id)
        return done

    assert sorted(itertools.chain(*run_together(6, work))) == [job.id for job in jobs]
    assert store.jobs.counts() == {"done": 30}


# --- leases ---


def test_a_lease_that_ran_out_passes_the_job_on_and_shuts_the_first_worker_out(store) -> None:
    [job] = create(store)
    first = store.jobs.claim("first", 0.3)
    assert store.jobs.claim("second", 30) is None
    time.sleep(0.4)
    second = store.jobs.claim("second", 30)

    assert (second.id, second.attempts, second.token, second.worker) == (job.id, 2, first.token + 1, "second")
    assert second.started_at == first.started_at
    assert store.jobs.heartbeat(job.id, first.token, 30, {"from": "the dead"}) == "lost"
    assert not store.jobs.finish(job.id, first.token, "done", summary={"from": "the dead"})
    assert not store.jobs.release(job.id, first.token)
    assert store.jobs.get(job.id) == second
    assert store.jobs.heartbeat(job.id, second.token, 30, {"from": "the living"}) == "running"


def test_a_heartbeat_keeps_a_job_and_one_that_is_late_keeps_it_too_if_nobody_took_it(store) -> None:
    create(store)
    job = store.jobs.claim("worker", 0.2)
    time.sleep(0.3)

    assert store.jobs.heartbeat(job.id, job.token, 30, {}) == "running"
    assert store.jobs.claim("other", 30) is None


def test_a_released_job_is_queued_and_was_not_an_attempt(store) -> None:
    create(store)
    first = store.jobs.claim("first", 600)

    assert store.jobs.release(first.id, first.token)
    assert (store.jobs.get(first.id).state, store.jobs.get(first.id).worker) == ("queued", None)
    assert store.jobs.heartbeat(first.id, first.token, 30, {}) == "lost"

    second = store.jobs.claim("second", 600)
    assert (second.attempts, second.token) == (1, 2)


@pytest.mark.parametrize("jump", [timedelta(days=400), timedelta(days=-400)])
def test_the_host_s_calendar_does_not_move_a_lease(tmp_path, monkeypatch, jump) -> None:
    with Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}") as store:
        create(store)
        job = store.jobs.claim("first", 0.5)
        monkeypatch.setattr(store._database, "now", lambda _connection: datetime.now(UTC) + jump)

        assert store.jobs.claim("second", 30) is None
        time.sleep(0.6)
        assert store.jobs.claim("second", 30).id == job.id


def test_a_lease_from_before_the_machine_started_anew_has_run_out(tmp_path) -> None:
    with Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}") as store:
        create(store)
        job = store.jobs.claim("before", 1e6)
        with store._database.write() as connection:
            connection.execute(sa.text("UPDATE jobs SET lease_clock = 'another boot'"))

        assert store.jobs.claim("after", 30).token == job.token + 1


# --- cancel, delete, expire ---


def test_cancelling(store) -> None:
    queued, running, done = create(store, 3)
    store.jobs.cancel(queued.id)
    first, second = store.jobs.claim("worker", 600), store.jobs.claim("worker", 600)
    assert (first.id, second.id) == (running.id, done.id)
    store.jobs.finish(done.id, second.token, "done", summary={"n": 1})

    assert store.jobs.cancel(running.id).state == "cancelled"
    assert store.jobs.cancel(done.id).state == "done"

    assert store.jobs.heartbeat(running.id, first.token, 600, {"late": 1}) == "cancelled"
    assert store.jobs.heartbeat(running.id, first.token - 1, 600, {}) == "lost"
    assert not store.jobs.finish(running.id, first.token, "done")
    assert not store.jobs.release(running.id, first.token)
    assert store.jobs.get(running.id).progress == {}
    assert store.jobs.get(queued.id).finished_at is not None
    assert store.jobs.claim("worker", 600) is None
    assert store.jobs.counts() == {"cancelled": 2, "done": 1}


def test_a_deleted_job_is_lost_for_its_worker(store) -> None:
    create(store)
    job = store.jobs.claim("worker", 600)

    assert store.jobs.delete(job.id)

    assert not store.jobs.delete(job.id)
    assert store.jobs.heartbeat(job.id, job.token, 600, {}) == "lost"
    assert not store.jobs.finish(job.id, job.token, "done")
    assert store.jobs.get(job.id) is None


def test_only_ended_jobs_expire(store) -> None:
    done, cancelled, running, _queued = create(store, 4)
    store.jobs.finish(done.id, store.jobs.claim("worker", 600).token, "done")
    store.jobs.cancel(cancelled.id)
    assert store.jobs.claim("worker", 600).id == running.id
    later = datetime.now(UTC) + timedelta(minutes=5)

    assert list(store.jobs.expired(later)) == [done.id, cancelled.id]
    assert list(store.jobs.expired(done.created_at)) == []


# --- idempotency ---


def test_the_same_idempotency_key_gives_the_same_job(store) -> None:
    first, created = store.jobs.create("anna", **FILE, idempotency_key="k" * 5000, options={"a": (1, 2)})
    second, created_again = store.jobs.create("anna", **FILE, idempotency_key="k" * 5000, options={"a": [1, 2]})
    others = store.jobs.create("ben", **FILE, idempotency_key="k" * 5000)
    without = [store.jobs.create("anna", **FILE)[1] for _ in range(2)]

    assert (created, created_again, first) == (True, False, second)
    assert others[1]
    assert others[0].id != first.id
    assert without == [True, True]


@pytest.mark.parametrize(
    "other", [{"sha256": "1" * 64}, {"options": {"a": 1}}, {"task": "emotion"}, {"text_column": None}]
)
def test_an_idempotency_key_for_something_else_is_a_conflict(store, other) -> None:
    first, _ = store.jobs.create("anna", **FILE, idempotency_key="key")

    with pytest.raises(IdempotencyConflictError, match=f"{first.id}.*{next(iter(other))}"):
        store.jobs.create("anna", **(FILE | other), idempotency_key="key")
    assert store.jobs.list()[0] == [first]


def test_one_idempotency_key_from_many_threads_makes_one_job(store) -> None:
    made = run_together(8, lambda _: store.jobs.create("anna", **FILE, idempotency_key="key"))

    assert len({job.id for job, _ in made}) == 1
    assert [created for _, created in made].count(True) == 1


# --- lists ---


def test_pages_show_each_job_once_whatever_comes_and_goes_meanwhile(store) -> None:
    jobs = create(store, 11)
    seen, cursor = [], None
    for turn in itertools.count():
        rows, cursor = store.jobs.list("local", cursor=cursor, limit=3)
        seen += [row.id for row in rows]
        if cursor is None:
            break
        create(store, 2)
        store.jobs.delete(rows[-1].id)  # the very row that the cursor names
        assert turn < 10

    assert seen == [job.id for job in reversed(jobs)]


def test_a_list_is_one_owner_s_or_everybody_s(store) -> None:
    [mine], [theirs] = create(store, 1, "me"), create(store, 1, "them")

    assert store.jobs.list("me") == ([mine], None)
    assert store.jobs.list(None) == ([theirs, mine], None)
    assert store.jobs.list("nobody") == ([], None)
    assert store.jobs.list(limit=0)[0] == [theirs]


def test_a_full_last_page_has_no_cursor(store) -> None:
    create(store, 2)

    assert store.jobs.list(limit=2)[1] is None


@pytest.mark.parametrize("cursor", ["", "x", "\0", "é", "AAAA", "A" * 23, "A" * 500, "AAAAAAAAAAAAAAAAAAAAAB"])
def test_a_cursor_that_nobody_gave_out_is_refused(store, cursor) -> None:
    with pytest.raises(CursorError):
        store.jobs.list(cursor=cursor)


# --- any order of calls ---


class JobMachine(RuleBasedStateMachine):
    """Compares the store with a model of it: a dict, in which a lease is either endless or has run out at once."""

    store: Store

    def __init__(self) -> None:
        super().__init__()
        with self.store._database.write() as connection:
            connection.execute(sa.text("DELETE FROM jobs"))
        self.jobs: dict[str, dict] = {}  # in the order of creation

    @rule()
    def create(self) -> None:
        job, created = self.store.jobs.create("local", **FILE)
        assert created
        self.jobs[job.id] = {"state": "queued", "token": 0, "attempts": 0, "overdue": False}

    @rule(lease=st.sampled_from([0, 3600]))
    def claim(self, lease: int) -> None:
        free = [i for i, job in self.jobs.items() if job["state"] == "queued" or job["overdue"]]
        claimed = self.store.jobs.claim("worker", lease)
        assert (claimed.id if claimed else None) == (min(free) if free else None)
        if claimed:
            job = self.jobs[claimed.id]
            job |= {"token": job["token"] + 1, "attempts": job["attempts"] + 1, "state": "running"}
            job["overdue"] = lease == 0

    @precondition(lambda self: self.jobs)
    @rule(
        data=st.data(),
        stale=st.booleans(),
        call=st.sampled_from(["heartbeat", "done", "failed", "release", "cancel", "delete"]),
        lease=st.sampled_from([0, 3600]),
    )
    def change(self, data, stale: bool, call: str, lease: int) -> None:
        job_id = data.draw(st.sampled_from(list(self.jobs)))
        job = self.jobs[job_id]
        token = job["token"] - stale
        held = job["state"] == "running" and not stale
        jobs = self.store.jobs
        if call == "heartbeat":
            expected = "running" if held else "cancelled" if job["state"] == "cancelled" and not stale else "lost"
            assert jobs.heartbeat(job_id, token, lease, {}) == expected
            if held:
                job["overdue"] = lease == 0
        elif call == "release":
            assert jobs.release(job_id, token) is held
            if held:
                job |= {"state": "queued", "attempts": job["attempts"] - 1, "overdue": False}
        elif call == "cancel":
            if job["state"] in {"queued", "running"}:
                job |= {"state": "cancelled", "overdue": False}
            assert jobs.cancel(job_id).state == job["state"]
        elif call == "delete":
            assert jobs.delete(job_id)
            del self.jobs[job_id]
        else:
            assert jobs.finish(job_id, token, call) is held
            if held:
                job |= {"state": call, "overdue": False}

    def teardown(self) -> None:
        found = {job.id: (job.state, job.token, job.attempts) for job in self.store.jobs.list(limit=1000)[0]}
        assert found == {i: (job["state"], job["token"], job["attempts"]) for i, job in self.jobs.items()}


def test_any_order_of_calls(store) -> None:
    class OnStore(JobMachine):
        pass

    OnStore.store = store
    run_state_machine_as_test(OnStore, settings=settings(max_examples=25, stateful_step_count=25))


def test_options_are_plain_json(store) -> None:
    job, _ = store.jobs.create("local", **FILE, options={"z": 1, "a": 2})

    assert json.dumps(job.options) == '{"z": 1, "a": 2}'
