"""API keys: made, found, used, revoked."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reviewmill.errors import StoreError
from reviewmill.store import Store


def test_a_key_is_found_by_its_secret_and_by_no_other(store) -> None:
    key, secret = store.keys.create("anna", ["analyse", "jobs"], rate_per_minute=60, daily_quota=1000)
    other, other_secret = store.keys.create("anna", {"admin"})

    assert re.fullmatch(r"rm_[a-z0-9]{8}_[A-Za-z0-9_-]{43}", secret)
    assert secret.startswith(f"rm_{key.prefix}_")
    assert store.keys.find(secret) == key == store.keys.get(key.id)
    assert store.keys.find(other_secret) == other
    assert (key.scopes, key.state, key.rate_per_minute, key.daily_quota) == ({"analyse", "jobs"}, "active", 60, 1000)
    assert store.keys.find(f"rm_{key.prefix}_{other_secret[-43:]}") is None
    assert store.keys.find(secret.swapcase()) is None


@pytest.mark.parametrize("shown", ["", "rm_", "x" * 10_000, "rm_abcdefgh_" + "é" * 43, "rm_abcdefgh_" + "\0" * 43])
def test_what_is_no_key_finds_none(store, shown) -> None:
    assert store.keys.find(shown) is None
    assert store.keys.get(shown) is None
    assert store.keys.revoke(shown) is None


def test_the_database_does_not_hold_the_secret(tmp_path) -> None:
    with Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}") as store:
        _, secret = store.keys.create("anna", ["analyse"])
    content = (tmp_path / "store.sqlite").read_bytes()
    assert b"anna" in content
    assert secret[-43:].encode() not in content


@pytest.mark.parametrize("scopes", [[], ["analyze"], ["analyse", "root"]])
def test_scopes_that_do_not_exist_are_refused(store, scopes) -> None:
    with pytest.raises(StoreError, match="scopes"):
        store.keys.create("anna", scopes)
    assert store.keys.list() == []


def test_expired_and_revoked_keys_are_found_and_say_so(store) -> None:
    now = datetime.now(UTC)
    expired, expired_secret = store.keys.create("old", ["jobs"], expires_at=now - timedelta(seconds=1))
    future, _ = store.keys.create("new", ["jobs"], expires_at=now + timedelta(days=1))
    revoked, revoked_secret = store.keys.create("gone", ["jobs"])

    first = store.keys.revoke(f"rm_{revoked.prefix}")
    again = store.keys.revoke(revoked.id)

    assert first == again
    assert first.revoked_at is not None
    assert store.keys.find(expired_secret).state == expired.state == "expired"
    assert store.keys.find(revoked_secret).state == "revoked"
    assert {key.name: key.state for key in store.keys.list()} == {"old": "expired", "new": "active", "gone": "revoked"}
    assert store.keys.get(future.id).expires_at == now + timedelta(days=1)


def test_the_last_use_only_moves_forward(store) -> None:
    key, _ = store.keys.create("anna", ["jobs"])
    now = datetime.now(UTC)

    store.keys.touch({})
    store.keys.touch({key.id: now, "no such key": now})
    store.keys.touch({key.id: now - timedelta(hours=1)})
    assert store.keys.get(key.id).last_used_at == now

    store.keys.touch({key.id: now + timedelta(hours=1)})
    assert store.keys.get(key.id).last_used_at == now + timedelta(hours=1)


def test_usage_adds_up_whoever_counts(store) -> None:
    keys = [store.keys.create(f"key {n}", ["jobs"])[0].id for n in range(3)]
    batches = [{keys[0]: 1, keys[1]: 2, "no such key": 5}, {keys[1]: 3, keys[0]: 4}] * 10

    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(store.keys.add_usage, batches)] == [None] * 20
    store.keys.add_usage({})

    assert [store.keys.usage_today(key) for key in keys] == [50, 50, 0]
    assert store.keys.usage_today("no such key") == 0


def test_a_time_without_a_zone_is_refused(store) -> None:
    with pytest.raises(StoreError, match="cannot hold"):
        store.keys.create("anna", ["jobs"], expires_at=datetime(2026, 1, 1))  # noqa: DTZ001


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.characters(categories=None)))
def test_any_text_may_name_a_key_or_be_shown_as_one(store, name) -> None:
    key, secret = store.keys.create(name, ["jobs"])

    assert store.keys.find(name) is None
    assert store.keys.find(secret) == key
    assert key.name == name
