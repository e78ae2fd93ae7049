"""`POST /v1/analyze` through real HTTP: results, errors of single comments, load, clients that hang up."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from service import RunningService, assert_problem, running_service, wait_until
from stub_endpoint import StubEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BAD = "这个手机拍照太差了，根本不像宣传那样清晰。"
GOOD = "A good buy, arrived a day early."


@pytest.fixture
def stub() -> Iterator[StubEndpoint]:
    with StubEndpoint() as stub:
        yield stub


@pytest.fixture
def local(tmp_path: Path, stub: StubEndpoint) -> Iterator[RunningService]:
    """Without keys."""
    with running_service(tmp_path, stub, service={"no_auth": True}) as running:
        yield running


def analyse(running: RunningService, body: Any) -> Any:
    response = running.http.post("/v1/analyze", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_one_comment(local: RunningService) -> None:
    answer = analyse(local, {"text": BAD})
    (result,) = answer["results"]
    assert answer["task"] == "sentiment"
    assert result["sentiment"] == "negative"
    assert result["status"] == "ok"
    assert result["original_text"] == BAD
    assert 0 < result["confidence"] <= 1
    for span in result["spans"]:
        assert BAD[span["start"] : span["end"]] == span["text"]


def test_several_comments_keep_order_and_ids(local: RunningService, stub: StubEndpoint) -> None:
    texts = [f"{GOOD} {number}" for number in range(100)]
    body = {"comments": [{"id": f"r-{number}", "text": text} for number, text in enumerate(texts)]}
    results = analyse(local, body)["results"]
    assert [result["original_text"] for result in results] == texts
    assert [result["id"] for result in results] == [f"r-{number}" for number in range(100)]
    assert {result["sentiment"] for result in results} == {"positive"}
    assert all(stub.asked[text] == 1 for text in texts)


def test_equal_comments_are_asked_once_and_answered_each(local: RunningService, stub: StubEndpoint) -> None:
    results = analyse(local, {"comments": [{"id": 1, "text": BAD}, {"id": 2, "text": BAD}]})["results"]
    assert [(result["id"], result["route"]) for result in results] == [(1, "model"), (2, "cache")]
    assert stub.asked[BAD] == 1


def test_second_time_is_from_memory_with_its_own_id(local: RunningService, stub: StubEndpoint) -> None:
    first = analyse(local, {"text": BAD, "id": "a"})["results"][0]
    second = analyse(local, {"text": BAD, "id": "b"})["results"][0]
    third = analyse(local, {"text": BAD})["results"][0]
    assert (first["route"], second["route"], third["route"]) == ("model", "cache", "cache")
    assert (first["id"], second["id"], third["id"]) == ("a", "b", None)
    assert second["provenance"]["latency_ms"] is None
    for result in (first, second):
        for name in ("id", "route", "provenance"):
            del result[name]
    assert first == second
    assert stub.asked[BAD] == 1


def test_other_task_and_keywords_are_other_answers(local: RunningService, stub: StubEndpoint) -> None:
    assert analyse(local, {"text": BAD})["results"][0]["keywords"]
    assert analyse(local, {"text": BAD, "keywords": False})["results"][0]["keywords"] == []
    emotion = analyse(local, {"text": BAD, "task": "emotion"})
    assert emotion["task"] == "emotion"
    assert "emotion" in emotion["results"][0]
    assert stub.asked[BAD] == 3


def test_insufficient_comment_asks_nobody(local: RunningService, stub: StubEndpoint) -> None:
    result = analyse(local, {"text": "！！！"})["results"][0]
    assert (result["status"], result["sentiment"], result["route"]) == ("insufficient", None, "rule")
    assert not stub.asked["！！！"]


def test_comment_that_fails_carries_its_own_error(local: RunningService, stub: StubEndpoint) -> None:
    stub.fail_texts = {"poison": 500}
    results = analyse(local, {"comments": [{"text": BAD}, {"text": "poison, bad"}, {"text": GOOD}]})["results"]
    assert [result["status"] for result in results] == ["ok", "error", "ok"]
    assert results[1]["error"]["type"] == "endpoint_error"
    assert results[1]["sentiment"] is None
    stub.fail_texts = {}
    assert analyse(local, {"text": "poison, bad"})["results"][0]["status"] == "ok", "an error must not be remembered"


def test_too_long_comment_is_its_own_error(tmp_path: Path, stub: StubEndpoint) -> None:
    with running_service(tmp_path, stub, max_raw_chars=1000, service={"no_auth": True}) as running:
        results = analyse(running, {"comments": [{"text": "好" * 1001}, {"text": GOOD}]})["results"]
    assert [result["status"] for result in results] == ["error", "ok"]
    assert results[0]["error"]["type"] == "comment_too_long"


@pytest.mark.parametrize("text", ["nul \x00 inside, good", "🙂🙂 good", "‮good‬", "\ufeffgood", "a" * 5000 + " good"])
def test_odd_texts(local: RunningService, text: str) -> None:
    result = analyse(local, {"text": text})["results"][0]
    assert result["status"] == "ok"
    assert result["original_text"] == text


@pytest.mark.parametrize(
    ("content", "status", "kind"),
    [
        (b'{"text": "x", "text": 5}', 422, "invalid-request"),
        (b'{"text": "\\ud800"}', 400, "malformed"),
        (b'{"text": "\xff"}', 400, "malformed"),
        (b"{" * 100_000, 400, "malformed"),
        (b'{"comments":' + b"[" * 100_000, 400, "malformed"),
        (b"", 400, "malformed"),
        (b"null", 422, "invalid-request"),
        (b"[]", 422, "invalid-request"),
        (b"{}", 422, "invalid-request"),
        (b'{"text": null}', 422, "invalid-request"),
        (b'{"text": 5}', 422, "invalid-request"),
        (b'{"text": "x", "comments": []}', 422, "invalid-request"),
        (b'{"comments": []}', 422, "invalid-request"),
        (b'{"comments": [{"text": "x", "note": 1}]}', 422, "invalid-request"),
        (b'{"text": "x", "id": 1e400}', 422, "invalid-request"),
        (b'{"text": "x", "id": 99999999999999999999999999}', 422, "invalid-request"),
        (b'{"text": "x", "id": true}', 422, "invalid-request"),
        (b'{"text": "x", "keywords": "yes"}', 422, "invalid-request"),
        (b'{"text": "x", "task": "../../etc/passwd"}', 422, "invalid-request"),
        (b'{"text": "x", "task": "/etc/passwd"}', 422, "invalid-request"),
        (json.dumps({"text": "x", "id": "i" * 201}).encode(), 422, "invalid-request"),
        (json.dumps({"text": "x", "customer_id": "c" * 201}).encode(), 422, "invalid-request"),
    ],
)
def test_malformed_bodies_are_problems(local: RunningService, content: bytes, status: int, kind: str) -> None:
    response = local.http.post("/v1/analyze", content=content, headers={"content-type": "application/json"})
    document = assert_problem(response, status, kind)
    assert "passwd" not in json.dumps(document)


def test_a_name_twice_counts_once(local: RunningService) -> None:
    content = b'{"text": "bad", "text": "good"}'
    response = local.http.post("/v1/analyze", content=content, headers={"content-type": "application/json"})
    assert response.json()["results"][0]["original_text"] == "good"


def test_what_was_sent_is_not_quoted(local: RunningService) -> None:
    response = local.http.post("/v1/analyze", json={"text": ["my secret"], "task": "my secret"})
    assert_problem(response, 422, "invalid-request")
    assert "secret" not in response.text


def test_too_many_comments(tmp_path: Path, stub: StubEndpoint) -> None:
    with running_service(tmp_path, stub, service={"no_auth": True, "max_comments": 3}) as running:
        analyse(running, {"comments": [{"text": GOOD}] * 3})
        assert_problem(
            running.http.post("/v1/analyze", json={"comments": [{"text": GOOD}] * 4}), 422, "invalid-request"
        )
        document = running.http.get("/openapi.json").json()
    assert document["components"]["schemas"]["ManyComments"]["properties"]["comments"]["maxItems"] == 3


def test_hanging_up_cancels_the_work(tmp_path: Path, stub: StubEndpoint) -> None:
    with running_service(tmp_path, stub, concurrency=1, service={"no_auth": True}) as running:
        analyse(running, {"text": BAD})
        stub.hang = True
        before = stub.total
        hung_up = hanging(running, {"comments": [{"text": f"bad {number}"} for number in range(20)]})
        stub.wait_for_requests(before + 1)
        hung_up.close()
        wait_until(lambda: running.service.room.gate.inside()["interactive"] == 0)
        assert running.service.room.gate.depth()["interactive"] == 0
        stub.hang = False
        # The only place is free again, and the others of the request were never asked about.
        assert analyse(running, {"text": GOOD})["results"][0]["status"] == "ok"
        assert stub.total == before + 2
        scraped = running.http.get("/metrics").text
    assert 'reviewmill_requests_total{method="POST",route="/v1/analyze",status="499"} 1.0' in scraped


def test_one_of_two_who_hangs_up_does_not_fail_the_other(tmp_path: Path, stub: StubEndpoint) -> None:
    with running_service(tmp_path, stub, service={"no_auth": True}) as running, ThreadPoolExecutor() as pool:
        analyse(running, {"text": GOOD})
        stub.latency = 0.5
        before = stub.total
        first = hanging(running, {"text": BAD})
        stub.wait_for_requests(before + 1)
        second = pool.submit(analyse, running, {"text": BAD})
        time.sleep(0.1)
        first.close()
        assert second.result()["results"][0]["sentiment"] == "negative"
        assert stub.asked[BAD] == 1


def hanging(running: RunningService, body: Any) -> socket.socket:
    """A client that asked and waits."""
    content = json.dumps(body).encode()
    client = socket.create_connection(("127.0.0.1", running.port))
    head = ["POST /v1/analyze HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    head += [f"Content-Length: {len(content)}", "", ""]
    client.sendall("\r\n".join(head).encode() + content)
    return client


def test_full_queue_is_429_and_nothing_is_lost(tmp_path: Path, stub: StubEndpoint) -> None:
    with running_service(tmp_path, stub, concurrency=1, service={"no_auth": True, "queue": 3}) as running:
        stub.latency = 0.3
        with ThreadPoolExecutor(12) as pool:
            responses = list(pool.map(lambda n: running.http.post("/v1/analyze", json={"text": f"bad {n}"}), range(12)))
        refused = [response for response in responses if response.status_code == 429]
        answered = [response for response in responses if response.status_code == 200]
        assert len(answered) == 4, "one is with the model and three wait"
        assert len(refused) == 8
        for response in refused:
            assert_problem(response, 429, "busy")
            assert 1 <= int(response.headers["retry-after"]) <= 60
        assert all(response.json()["results"][0]["status"] == "ok" for response in answered)
        assert analyse(running, {"text": GOOD})["results"][0]["status"] == "ok"


def test_request_larger_than_the_queue_gets_in_when_nobody_waits(tmp_path: Path, stub: StubEndpoint) -> None:
    with running_service(tmp_path, stub, concurrency=2, service={"no_auth": True, "queue": 0}) as running:
        body = {"comments": [{"text": f"bad {number}"} for number in range(20)]}
        assert {result["status"] for result in analyse(running, body)["results"]} == {"ok"}
        assert stub.max_in_flight <= 2


def test_what_is_cached_is_answered_while_the_queue_is_full(tmp_path: Path, stub: StubEndpoint) -> None:
    with running_service(tmp_path, stub, concurrency=1, service={"no_auth": True, "queue": 0}) as running:
        analyse(running, {"text": GOOD})
        stub.hang = True
        waiting = hanging(running, {"text": BAD})
        wait_until(lambda: stub.in_flight == 1)
        assert_problem(running.http.post("/v1/analyze", json={"text": "bad, other"}), 429, "busy")
        assert analyse(running, {"text": GOOD})["results"][0]["route"] == "cache"
        waiting.close()


@pytest.mark.clock
def test_single_comment_overtakes_a_large_request(tmp_path: Path, stub: StubEndpoint) -> None:
    with running_service(tmp_path, stub, concurrency=2, service={"no_auth": True}) as running:
        stub.latency = 0.05
        done: dict[str, float] = {}

        def ask(name: str, body: Any) -> None:
            analyse(running, body)
            done[name] = time.monotonic()

        before = stub.total
        large = {"comments": [{"text": f"bad {number}"} for number in range(60)]}
        threads = [threading.Thread(target=ask, args=("large", large))]
        threads[0].start()
        stub.wait_for_requests(before + 4)
        began = time.monotonic()
        threads.append(threading.Thread(target=ask, args=("single", {"text": GOOD})))
        threads[1].start()
        for thread in threads:
            thread.join()
    assert done["single"] < done["large"]
    assert done["single"] - began < 0.6, "it waits for the places in use, not for the whole request"


def test_endpoint_that_is_down_is_each_comments_error_and_comes_back(tmp_path: Path) -> None:
    with StubEndpoint() as stub:
        port = int(stub.url.split(":")[2].split("/")[0])
        with running_service(tmp_path, stub, service={"no_auth": True}) as running:
            analyse(running, {"text": GOOD})
            stub.close()
            down = analyse(running, {"comments": [{"text": BAD}, {"text": GOOD}]})["results"]
            assert [result["status"] for result in down] == ["error", "ok"]
            assert down[0]["error"]["type"] == "endpoint_unreachable"
            with StubEndpoint(port=port):
                assert analyse(running, {"text": BAD})["results"][0]["status"] == "ok"


def test_service_starts_before_its_endpoint(tmp_path: Path) -> None:
    with StubEndpoint() as stub:
        url, port = stub.url, int(stub.url.split(":")[2].split("/")[0])
    with running_service(tmp_path, url, service={"no_auth": True}) as running:
        assert running.http.get("/healthz").status_code == 200
        assert running.http.get("/readyz").status_code == 503
        response = running.http.post("/v1/analyze", json={"text": GOOD})
        assert_problem(response, 503, "endpoint-unreachable")
        assert response.headers["retry-after"]
        with StubEndpoint(port=port):
            wait_until(lambda: running.http.get("/readyz").status_code == 200)
            assert analyse(running, {"text": GOOD})["results"][0]["status"] == "ok"


def test_endpoint_with_another_model_gets_other_answers(tmp_path: Path) -> None:
    with StubEndpoint() as stub:
        port = int(stub.url.split(":")[2].split("/")[0])
        with running_service(tmp_path, stub, service={"no_auth": True}) as running:
            assert analyse(running, {"text": GOOD})["results"][0]["provenance"]["model"] == "stub-model"
            stub.close()
            with StubEndpoint(port=port, models=["new-model"], model_fields={"size": 7}) as other:
                wait_until(lambda: running.http.get("/readyz").status_code == 503)
                wait_until(lambda: running.http.get("/readyz").status_code == 200)
                result = analyse(running, {"text": GOOD})["results"][0]
                assert (result["provenance"]["model"], result["route"]) == ("new-model", "model")
                assert other.asked[GOOD] == 1


def test_broken_cache_costs_time_and_no_answers(tmp_path: Path, stub: StubEndpoint) -> None:
    with running_service(tmp_path, stub, service={"no_auth": True}) as running:
        analyse(running, {"text": GOOD})
        (tmp_path / "answers.sqlite3").write_bytes(b"not a database" * 1000)
        (tmp_path / "answers.sqlite3-wal").write_bytes(b"")
        assert analyse(running, {"text": BAD})["results"][0]["sentiment"] == "negative"
