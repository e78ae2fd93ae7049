"""`reviewmill.Client` against the real service, with a stub for the model."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import traceback
from typing import TYPE_CHECKING

import polars as pl
import pytest

from reviewmill import Analysis, Client, Comment
from reviewmill.client import PROBLEM_PREFIX, Correction, Job
from reviewmill.errors import InputError, OutputError, ServiceError, ServiceUnreachableError
from reviewmill.server import problems, schemas
from reviewmill.server.routes import jobs as job_routes
from service import RunningService, running_service
from stub_endpoint import StubEndpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = pytest.mark.anyio

BAD = "这个手机拍照太差了，根本不像宣传那样清晰。"
CSV = "id,评论\n1,质量很好\n2,太差了\n3,质量很好\n".encode()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def stub() -> Iterator[StubEndpoint]:
    with StubEndpoint() as running:
        yield running


@pytest.fixture
def service(tmp_path: Path, stub: StubEndpoint) -> Iterator[RunningService]:
    with running_service(tmp_path / "service", stub, task="sentiment") as running:
        yield running


@pytest.fixture
async def client(service: RunningService) -> AsyncIterator[Client]:
    async with Client(service.url, service.key("analyse", "jobs"), timeout=30) as made:
        yield made


def test_client_and_service_have_one_schema() -> None:
    assert PROBLEM_PREFIX == problems.TYPE_PREFIX
    assert set(Job.model_fields) <= set(job_routes.Job.model_fields)
    assert set(Correction.model_fields) == set(schemas.Correction.model_fields)


async def test_one_comment(client: Client) -> None:
    analysis = await client.analyze(Comment(BAD, id="r-17"))
    assert isinstance(analysis, Analysis)
    assert (analysis.label, analysis.id, analysis.status) == ("negative", "r-17", "ok")
    assert all(BAD[span["start"] : span["end"]] == span["text"] for span in analysis.spans)
    assert (await client.analyze(BAD, keywords=False)).keywords == []
    assert (await client.analyze("我很开心", task="emotion")).provenance["task"] == "emotion"


async def test_a_batch_is_split_and_keeps_its_order(client: Client, stub: StubEndpoint) -> None:
    texts = [f"第{n}条{'很好' if n % 3 else '太差'}" for n in range(600)] + ["", "\ud800半个"]
    analyses = await client.analyze_batch([Comment(text, id=n) for n, text in enumerate(texts)], "sentiment")
    assert [analysis.original_text for analysis in analyses] == texts
    assert [analysis.id for analysis in analyses] == list(range(602))
    assert [analysis.label for analysis in analyses[:3]] == ["negative", "positive", "positive"]
    assert analyses[600].status == "insufficient"
    assert all(stub.asked[text] == 1 for text in texts[:600])
    assert await client.analyze_batch([]) == []


async def test_a_batch_of_long_comments_stays_below_the_services_limit(client: Client) -> None:
    texts = [f"{n}" + "很好" * 40_000 for n in range(20)]
    analyses = await client.analyze_batch(texts)
    assert [analysis.original_text for analysis in analyses] == texts


async def test_failures_are_in_the_rows_of_a_batch_and_raised_for_one(client: Client, stub: StubEndpoint) -> None:
    stub.fail_texts = {"坏": 400}
    good, bad = await client.analyze_batch(["很好", "坏"])
    assert (good.status, bad.status, bad.error["type"]) == ("ok", "error", "endpoint_refused")
    with pytest.raises(ServiceError, match="could not analyse the comment") as caught:
        await client.analyze("坏")
    assert caught.value.type == "endpoint-refused"


async def test_problems_are_errors_that_say_what_to_do(client: Client) -> None:
    with pytest.raises(ServiceError) as caught:
        await client.analyze(BAD, task="feelings")
    error = caught.value
    assert (error.status, error.type) == (422, "invalid-request")
    assert error.title
    assert "no task" in error.detail
    assert error.hint is not None
    assert "sentiment" in error.hint
    assert error.request_id
    with pytest.raises(ServiceError) as caught:
        await client.job("0")
    assert (caught.value.status, caught.value.type) == (404, "not-found")


async def test_a_wrong_key_is_refused_and_shown_nowhere(service: RunningService) -> None:
    secret = "rm_aaaaaaaa_very-secret-0123456789"
    async with Client(service.url, secret) as client:
        with pytest.raises(ServiceError) as caught:
            await client.tasks()
        shown = "".join(traceback.format_exception(caught.value)) + repr(client) + repr(vars(caught.value))
    assert caught.value.status == 401
    assert secret not in shown
    async with Client(service.url, service.key("jobs")) as client:
        with pytest.raises(ServiceError) as caught:
            await client.analyze(BAD)
    assert (caught.value.status, caught.value.type) == (403, "scope-missing")


async def test_a_job_from_file_to_file(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "评论 表.csv"
    path.write_bytes(CSV)
    job = await client.submit(path, text_column="评论", id_column="id", task="sentiment")
    assert isinstance(job, Job)
    assert (job.filename, job.rows, job.text_column) == ("评论 表.csv", 3, "评论")
    assert job.sha256 == hashlib.sha256(CSV).hexdigest()
    events = [event async for event in client.events(job.id)]
    assert events[-1].ended
    assert [event.data["state"] for event in events if event.ended] == ["done"]
    done = await client.wait(job.id)
    assert done.ended
    assert done.summary is not None
    for kind in ("csv", "jsonl", "parquet", "xlsx"):
        target = await client.result(done.id, tmp_path / f"out.{kind}")
        assert target.stat().st_size
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["sentiment"] for row in rows] == ["positive", "negative", "positive"]
    assert pl.read_parquet(tmp_path / "out.parquet").height == 3
    named = await client.result(done.id, tmp_path / "other", format="csv")
    assert named.read_bytes() == (tmp_path / "out.csv").read_bytes()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]  # noqa: PTH208


async def test_the_same_key_makes_one_job(client: Client) -> None:
    first = await client.submit(CSV, filename="a.csv", idempotency_key="k1")
    assert (await client.submit(CSV, filename="a.csv", idempotency_key="k1")).id == first.id
    assert (await client.submit(CSV, filename="a.csv")).id != first.id
    with pytest.raises(ServiceError) as caught:
        await client.submit(CSV + b"4,x\n", filename="a.csv", idempotency_key="k1")
    assert (caught.value.status, caught.value.type) == (409, "idempotency-conflict")


async def test_all_pages_of_jobs_newest_first(client: Client) -> None:
    made = [(await client.submit(b"comment\ngood\n", filename=f"{n}.csv")).id for n in range(60)]
    assert [job.id async for job in client.jobs()] == made[::-1]


async def test_cancel_and_delete(client: Client, stub: StubEndpoint, tmp_path: Path) -> None:
    stub.latency = 0.5
    rows = "".join(f"第{n}条很好\n" for n in range(500))
    job = await client.submit(f"评论\n{rows}".encode(), filename="a.csv")
    assert (await client.cancel(job.id)).state == "cancelled"
    assert (await client.wait(job.id)).state == "cancelled"
    with pytest.raises(ServiceError) as caught:
        await client.result(job.id, tmp_path / "out.csv")
    assert (caught.value.status, caught.value.type) == (409, "job-not-done")
    await client.delete(job.id)
    with pytest.raises(ServiceError) as caught:
        await client.job(job.id)
    assert caught.value.status == 404
    assert not [name for name in os.listdir(tmp_path) if "out" in name]  # noqa: PTH208


async def test_what_cannot_be_read_or_written_is_told_before_anything_is_sent(client: Client, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.csv cannot be read"):
        await client.submit(tmp_path / "nothing.csv")
    with pytest.raises(OutputError, match="format"):
        await client.result("1", tmp_path / "out.pdf")
    with pytest.raises(InputError, match="float"):
        await client.analyze_batch(["good", 3.5])  # type: ignore[list-item]
    with pytest.raises(InputError, match="id of a job"):
        await client.job("..")
    job = await client.submit(CSV, filename="a.csv")
    await client.wait(job.id)
    with pytest.raises(OutputError, match="cannot be written"):
        await client.result(job.id, tmp_path / "no" / "folder" / "out.csv")


async def test_corrections(client: Client) -> None:
    analysis = await client.analyze(BAD)
    kept = await client.correct(analysis, "neutral", author="li", note="只是描述")
    assert isinstance(kept, Correction)
    assert (kept.text, kept.label, kept.model_label, kept.task) == (BAD, "neutral", "negative", "sentiment")
    assert kept.confidence == analysis.confidence
    again = await client.correct(BAD, "positive", author="li", task="sentiment")
    assert (again.id, again.label, again.model_label) == (kept.id, "positive", None)
    for n in range(105):
        await client.correct(f"第{n}条", "positive")
    assert len([each async for each in client.corrections(task="sentiment")]) == 106
    assert [each async for each in client.corrections(task="emotion")] == []
    with pytest.raises(ServiceError, match="no label"):
        await client.correct(BAD, "happy")


async def test_tasks_and_models(client: Client) -> None:
    assert [task["name"] for task in await client.tasks()] == ["sentiment", "emotion"]
    assert {"reviewmill-sentiment", "reviewmill-emotion"} <= {model["id"] for model in await client.models()}


async def test_deletion_by_text_digest_and_customer(client: Client, stub: StubEndpoint) -> None:
    mine = Comment("质量很好", metadata={"customer_id": 204, "stars": 5})
    await client.analyze(mine)
    await client.analyze(BAD)
    assert (await client.delete_comments(text=BAD))["comments"] == 1
    assert (await client.delete_comments(customer_id="204"))["comments"] == 1
    await client.analyze_batch([BAD, mine])
    assert (stub.asked[BAD], stub.asked[mine.text]) == (2, 2)
    digest = hashlib.sha256(BAD.encode()).hexdigest()
    assert (await client.delete_comments(text_sha256=digest))["answers"] == 1
    for given in ({}, {"text": BAD, "customer_id": "204"}, {"text": BAD, "text_sha256": digest}):
        with pytest.raises(InputError, match="not clear"):
            await client.delete_comments(**given)


async def test_a_follower_outlives_the_service(tmp_path: Path, stub: StubEndpoint) -> None:
    stub.latency = 0.05
    rows = "".join(f"第{n}条很好\n" for n in range(150))
    service = {"no_auth": True}
    with running_service(tmp_path, stub, service=service, concurrency=4) as first:
        client = Client(first.url, timeout=30)
        job = await client.submit(f"评论\n{rows}".encode(), filename="a.csv")
        following = asyncio.create_task(client.wait(job.id))
        async for event in client.events(job.id):
            if event.data.get("done"):
                break
        port = first.port
        await asyncio.to_thread(first.stop)
    with pytest.raises(ServiceUnreachableError):
        await client.cancel(job.id)
    with running_service(tmp_path, stub, service={**service, "port": port}, concurrency=4):
        done = await asyncio.wait_for(following, 60)
        await client.aclose()
    assert done.state == "done"
    assert done.rows == 150


async def test_a_proxy_of_the_environment_is_not_asked_about_this_machine(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with Client(service.url, service.key()) as client:
        assert (await client.analyze(BAD)).label == "negative"
