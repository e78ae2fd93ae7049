"""`reviewmill keys` as an administrator meets it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from reviewmill.cli.keys import Scope
from reviewmill.store import SCOPES, Store
from warm import warm_reviewmill


@pytest.fixture
def run(tmp_path):
    def call(*arguments: str, **env: str):
        own = {"REVIEWMILL_SERVICE__DATA_DIR": str(tmp_path / "data")}
        return subprocess.run(
            warm_reviewmill("keys", *arguments),
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=os.environ | own | env,
            check=False,
            timeout=60,
        )

    return call


def test_a_key_is_made_listed_and_revoked(run, tmp_path) -> None:
    options = "--scope analyse --scope jobs --expires 90d --rate 600 --quota 100000"
    made = run("create", "anna's notebook", *options.split())
    secret = made.stdout.removesuffix("\n")

    assert made.returncode == 0
    assert re.fullmatch(r"rm_[a-z0-9]{8}_[A-Za-z0-9_-]{43}", secret), "the key alone, so that a script can take it"
    assert secret not in made.stderr
    assert "not shown again" in made.stderr
    with Store.open(f"sqlite:///{tmp_path / 'data' / 'reviewmill.sqlite'}") as store:
        key = store.keys.find(secret)
        assert (key.name, key.scopes) == ("anna's notebook", {"analyse", "jobs"})
        assert (key.rate_per_minute, key.daily_quota) == (600, 100_000)
        assert timedelta(days=89) < key.expires_at - datetime.now(UTC) < timedelta(days=90)

    listed = run("list").stdout
    assert all(part in listed for part in (f"rm_{key.prefix}_…", "anna's notebook", "active", "600", "100,000"))
    assert secret[-43:] not in listed

    revoked = run("revoke", f"rm_{key.prefix}_…")
    assert (revoked.returncode, f"rm_{key.prefix}_…" in revoked.stdout) == (0, True)
    assert "revoked" in run("list").stdout
    with Store.open(f"sqlite:///{tmp_path / 'data' / 'reviewmill.sqlite'}") as store:
        assert store.keys.find(secret).state == "revoked"
        lines = [(line.action, line.subject) for line in store.audit.list()[0]]
        assert lines == [("keys.revoke", key.id), ("keys.create", key.id)]


@pytest.mark.parametrize("form", ["{prefix}", "rm_{prefix}", "{secret}", "{id}"])
def test_a_key_is_revoked_by_whatever_names_it(run, tmp_path, form) -> None:
    with Store.open(f"sqlite:///{tmp_path / 'keys.sqlite'}") as store:
        key, secret = store.keys.create("anna", ["jobs"])
        done = run("revoke", form.format(prefix=key.prefix, secret=secret, id=key.id), "--database", store.describe())
        assert done.returncode == 0, done.stderr
        assert secret[-43:] not in done.stdout + done.stderr
        assert store.keys.find(secret).state == "revoked"


def test_the_database_is_that_of_the_settings_or_of_the_argument(run, store_url) -> None:
    secret = run("create", "one", "--scope", "admin", REVIEWMILL_SERVICE__DATABASE=store_url).stdout.strip()
    run("create", "two", "--scope", "admin", "--database", store_url)

    with Store.open(store_url) as store:
        assert [key.name for key in store.keys.list()] == ["two", "one"]
        assert store.keys.find(secret).expires_at is None
    assert "There is no key in sqlite:" in run("list").stderr


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("create", "anna"), 2, "--scope"),
        (("create", "anna", "--scope", "analyze"), 2, "analyse"),
        (("create", " ", "--scope", "jobs"), 2, "name"),
        (("create", "anna", "--scope", "jobs", "--expires", "soon"), 2, "90d"),
        (("create", "anna", "--scope", "jobs", "--expires", "0d"), 2, "90d"),
        (("create", "anna", "--scope", "jobs", "--rate", "0"), 2, "--rate"),
        (("revoke", "abcdefgh"), 1, "keys list"),
        (("revoke", "%"), 1, "keys list"),
        (("list", "--database", "mysql://u:geheim@h/d"), 1, "postgresql://"),
        (("list", "--database", "postgresql://u:geheim@127.0.0.1:1/d"), 1, "cannot be reached"),
    ],
)
def test_what_cannot_be_done_is_said(run, arguments, code, says) -> None:
    done = run(*arguments)

    assert done.returncode == code
    assert says in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "geheim" not in done.stderr


def test_the_scopes_are_those_of_the_store() -> None:
    assert {*Scope} == SCOPES


def test_without_the_service_s_libraries_it_says_how_to_get_them() -> None:
    without = "import sys; sys.modules['sqlalchemy'] = None; from reviewmill.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", without, "keys", "list"], capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert "pip install 'reviewmill[service]'" in done.stderr
