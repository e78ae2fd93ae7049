"""Who may do what: keys, scopes, rates, quotas, other people's data, and a service without keys."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from reviewmill.errors import SettingsError
from reviewmill.server import access
from service import RunningService, assert_problem, bearer, running_service, wait_until
from stub_endpoint import StubEndpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BODY = {"text": "a good one"}
ROUTES = [
    ("POST", "/v1/analyze", BODY),
    ("GET", "/v1/tasks", None),
    ("GET", "/v1/tasks/sentiment", None),
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/reviewmill-sentiment", None),
    ("POST", "/v1/corrections", {"text": "a good one", "label": "positive"}),
    ("GET", "/v1/corrections", None),
    ("DELETE", f"/v1/comments?text_sha256={'0' * 64}", None),
    ("GET", "/metrics", None),
]
ADMIN_ONLY = {"/metrics"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with StubEndpoint() as stub, running_service(tmp_path_factory.mktemp("service"), stub) as running:
        yield running


def ask(running: RunningService, route: tuple[str, str, Any], headers: dict[str, str] | None = None) -> httpx2.Response:
    method, path, body = route
    return running.http.request(method, path, json=body, headers=headers)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route[0]} {route[1][:20]}")
def test_keys_and_scopes(running: RunningService, route: tuple[str, str, Any]) -> None:
    refused = ask(running, route)
    assert_problem(refused, 401, "unauthorised")
    assert refused.headers["www-authenticate"] == "Bearer"
    wrong = f"rm_abcdefgh_{'A' * 43}"
    for header in (
        f"Bearer {wrong}",
        "Bearer nonsense",
        "Bearer",
        "Basic dXNlcjpwYXNz",
        wrong,
        f"Bearer {'x' * 5000}",
    ):
        assert_problem(ask(running, route, {"Authorization": header}), 401, "unauthorised")
    almost = running.key()
    almost = almost[:-1] + ("A" if almost[-1] != "A" else "B")
    assert_problem(ask(running, route, bearer(almost)), 401, "unauthorised")
    expired = running.key("analyse", "jobs", "admin", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert "expired" in assert_problem(ask(running, route, bearer(expired)), 401, "unauthorised")["detail"]
    needed = "admin" if route[1] in ADMIN_ONLY else "analyse"
    if route[0] != "DELETE":
        document = assert_problem(ask(running, route, bearer(running.key("jobs"))), 403, "scope-missing")
        assert needed in document["detail"]
    assert ask(running, route, bearer(running.key(needed))).status_code in {200, 201}


def test_an_unreadable_body_does_not_come_before_the_key(running: RunningService) -> None:
    response = running.http.post("/v1/analyze", content=b"{", headers={"content-type": "text/plain"})
    assert_problem(response, 401, "unauthorised")


def test_health_needs_no_key(running: RunningService) -> None:
    assert running.http.get("/healthz").json()["status"] == "ok"
    assert running.http.get("/readyz").json()["status"] == "ready"
    assert running.http.get("/openapi.json").json()["openapi"].startswith("3.1")


def test_revoked_key_lets_nobody_in_after_some_seconds(running: RunningService) -> None:
    record, secret = running.key_record("analyse")
    with running.as_key(secret) as client:
        assert client.get("/v1/tasks").status_code == 200
        running.service.store.keys.revoke(record.id)
        wait_until(lambda: client.get("/v1/tasks").status_code == 401, seconds=5)
        assert "revoked" in assert_problem(client.get("/v1/tasks"), 401, "unauthorised")["detail"]


def test_key_that_expires_while_it_is_remembered_lets_nobody_in(running: RunningService) -> None:
    secret = running.key("analyse", expires_at=datetime.now(UTC) + timedelta(seconds=1))
    with running.as_key(secret) as client:
        assert client.get("/v1/tasks").status_code == 200
        wait_until(lambda: client.get("/v1/tasks").status_code == 401, seconds=access.REMEMBERED_S)


def test_rate_is_429_with_the_time_to_wait(running: RunningService) -> None:
    with running.as_key(running.key(rate_per_minute=3)) as client:
        assert [client.post("/v1/analyze", json=BODY).status_code for _ in range(3)] == [200, 200, 200]
        refused = client.post("/v1/analyze", json=BODY)
        assert_problem(refused, 429, "rate-exceeded")
        assert 15 <= int(refused.headers["retry-after"]) <= 21
        assert client.get("/v1/tasks").status_code == 200, "only comments count"


def test_rate_counts_comments_not_requests(running: RunningService) -> None:
    with running.as_key(running.key(rate_per_minute=10)) as client:
        assert client.post("/v1/analyze", json={"comments": [BODY] * 8}).status_code == 200
        assert_problem(client.post("/v1/analyze", json={"comments": [BODY] * 3}), 429, "rate-exceeded")
        assert client.post("/v1/analyze", json={"comments": [BODY] * 2}).status_code == 200


def test_request_larger_than_a_minutes_rate_is_owed(running: RunningService) -> None:
    with running.as_key(running.key(rate_per_minute=6)) as client:
        assert client.post("/v1/analyze", json={"comments": [BODY] * 12}).status_code == 200
        refused = client.post("/v1/analyze", json=BODY)
        assert_problem(refused, 429, "rate-exceeded")
        assert 60 < int(refused.headers["retry-after"]) <= 71


def test_quota_is_kept_in_the_store(running: RunningService) -> None:
    record, secret = running.key_record("analyse", daily_quota=5)
    with running.as_key(secret) as client:
        assert client.post("/v1/analyze", json={"comments": [BODY] * 4}).status_code == 200
        refused = client.post("/v1/analyze", json={"comments": [BODY] * 2})
        assert "1 are left" in assert_problem(refused, 429, "quota-exceeded")["detail"]
        assert 0 < int(refused.headers["retry-after"]) <= 86_400
        wait_until(lambda: running.service.store.keys.usage_today(record.id) == 4, seconds=3)
        running.service.store.keys.add_usage({record.id: 1})  # as another process would
        wait_until(lambda: client.post("/v1/analyze", json=BODY).status_code == 429, seconds=access.REMEMBERED_S + 1)


def test_refused_request_costs_no_quota(running: RunningService) -> None:
    with running.as_key(running.key(daily_quota=2, rate_per_minute=100)) as client:
        assert client.post("/v1/analyze", json={"text": 5}).status_code == 422
        assert client.post("/v1/analyze", json={"text": "x", "task": "none"}).status_code == 422
        assert client.post("/v1/analyze", json={"comments": [BODY] * 3}).status_code == 429
        assert client.post("/v1/analyze", json={"comments": [BODY] * 2}).status_code == 200


def test_request_that_the_busy_model_turns_away_costs_nothing(tmp_path: Path) -> None:
    with StubEndpoint() as stub, running_service(tmp_path, stub, concurrency=1, service={"queue": 0}) as running:
        with running.as_key(running.key()) as warm:
            warm.post("/v1/analyze", json={"text": "good to begin with"})
        stub.latency = 1
        before = stub.total
        with ThreadPoolExecutor() as pool, running.as_key(running.key()) as other:
            waiting = pool.submit(other.post, "/v1/analyze", json={"text": "bad and slow"})
            stub.wait_for_requests(before + 1)
            with running.as_key(running.key(rate_per_minute=1, daily_quota=1)) as client:
                assert_problem(client.post("/v1/analyze", json={"text": "bad, too"}), 429, "busy")
                assert waiting.result().status_code == 200
                assert client.post("/v1/analyze", json={"text": "bad, too"}).status_code == 200
                assert client.post("/v1/analyze", json={"text": "bad, too"}).status_code == 429


def test_last_use_is_written_down(running: RunningService) -> None:
    record, secret = running.key_record("analyse")
    with running.as_key(secret) as client:
        client.get("/v1/tasks")
    wait_until(lambda: running.service.store.keys.get(record.id).last_used_at is not None, seconds=3)


def test_corrections_of_others_are_not_shown(running: RunningService) -> None:
    mine, other, admin = (running.as_key(running.key(*scopes)) for scopes in [(), (), ("analyse", "admin")])
    mine.post("/v1/corrections", json={"text": "only mine", "label": "neutral"})
    shown = mine.get("/v1/corrections").json()["items"]
    assert [item["text"] for item in shown] == ["only mine"]
    assert other.get("/v1/corrections").json()["items"] == []
    assert "only mine" in [item["text"] for item in admin.get("/v1/corrections").json()["items"]]
    cursor = mine.get("/v1/corrections?limit=1").json()["next_cursor"]
    assert cursor is None


@pytest.mark.parametrize("evil", ["'; DROP TABLE corrections; --", "\x00", "${jndi:ldap://x}", "\r\nX-Evil: 1", "%s%n"])
def test_injection_in_every_field(running: RunningService, evil: str) -> None:
    with running.as_key(running.key("analyse", "admin")) as client:
        sent = {"text": evil, "label": "neutral", "note": evil, "author": evil, "id": evil}
        kept = client.post("/v1/corrections", json=sent)
        assert kept.status_code in {200, 201}, kept.text
        shown = kept.json()
        assert (shown["text"], shown["note"], shown["author"], shown["external_id"]) == (evil, evil, evil, evil)
        for name in ("label", "task", "model_label"):
            assert client.post("/v1/corrections", json=sent | {name: evil}).status_code == 422
        for name in ("cursor", "task", "limit"):
            listed = client.get("/v1/corrections", params={name: evil})
            assert listed.status_code in {200, 422}
            assert "x-evil" not in listed.headers
        assert client.request("DELETE", "/v1/comments", params={"customer_id": evil}).status_code == 200
        assert client.request("DELETE", "/v1/comments", params={"text_sha256": evil}).status_code == 422
        analysed = client.post("/v1/analyze", json={"text": f"good {evil}", "id": evil or "x", "customer_id": evil})
        assert analysed.json()["results"][0]["id"] == evil
        assert client.get(f"/v1/tasks/{json.dumps(evil)}").status_code == 404


def test_request_ids(running: RunningService) -> None:
    assert running.http.get("/healthz", headers={"X-Request-Id": "my-id.1"}).headers["x-request-id"] == "my-id.1"
    for bad in ("a b", "x" * 129, "<script>", "ü".encode()):
        given = running.http.get("/healthz", headers=[("X-Request-Id", bad)]).headers["x-request-id"]
        assert given.isalnum()
        assert len(given) == 16
    refused = running.http.get("/v1/tasks", headers={"X-Request-Id": "my-id.2"})
    assert refused.json()["request_id"] == "my-id.2"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Without keys."""
    settings = {"no_auth": True, "cors_origins": ["https://desk.example"]}
    with StubEndpoint() as stub, running_service(tmp_path_factory.mktemp("service"), stub, service=settings) as run:
        yield run


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route[0]} {route[1][:20]}")
def test_without_keys_everything_is_open(local: RunningService, route: tuple[str, str, Any]) -> None:
    assert ask(local, route).status_code in {200, 201}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil", ""])
def test_without_keys_other_hosts_are_refused(local: RunningService, host: str) -> None:
    assert_problem(local.http.get("/v1/tasks", headers={"Host": host}), 421, "host-not-local")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]:8080", "[::1]"])
def test_without_keys_this_host_is_not_refused(local: RunningService, host: str) -> None:
    assert local.http.get("/v1/tasks", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example", "garbage["])
def test_without_keys_pages_of_other_origins_are_refused(local: RunningService, origin: str) -> None:
    assert_problem(local.http.post("/v1/analyze", json=BODY, headers={"Origin": origin}), 403, "origin-not-allowed")


def test_without_keys_pages_of_allowed_origins_are_not_refused(local: RunningService) -> None:
    for origin in ("https://desk.example", "http://localhost:3000"):
        assert local.http.post("/v1/analyze", json=BODY, headers={"Origin": origin}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_no_keys_on_another_address_is_refused(tmp_path: Path, host: str) -> None:
    from reviewmill.server.run import serve
    from reviewmill.settings import load_settings

    settings = load_settings(service={"host": host, "no_auth": True, "data_dir": tmp_path, "port": 0})
    with pytest.raises(SettingsError, match="--no-auth"):
        serve(settings, lambda _url: None)


def test_cors_is_closed_by_default(running: RunningService) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    preflight = running.http.request("OPTIONS", "/v1/analyze", headers=headers)
    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.startswith("access-control")]


def test_cors_opens_for_named_origins(tmp_path: Path) -> None:
    with (
        StubEndpoint() as stub,
        running_service(tmp_path, stub, service={"cors_origins": ["https://desk.example"]}) as running,
    ):
        headers = {"Origin": "https://desk.example", "Access-Control-Request-Method": "POST"}
        preflight = running.http.request("OPTIONS", "/v1/analyze", headers=headers)
        assert preflight.headers["access-control-allow-origin"] == "https://desk.example"
        assert running.http.get("/v1/tasks", headers={"Origin": "https://desk.example"}).status_code == 401
        other = running.http.request("OPTIONS", "/v1/analyze", headers=headers | {"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
