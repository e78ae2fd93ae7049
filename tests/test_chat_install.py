"""Planning and doing the install of Open WebUI: which Python, how big, atomic, in groups; the environment it gets."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewmill.chat import install
from reviewmill.chat.environment import BACKGROUND, SUGGESTIONS, Wiring, environment
from reviewmill.chat.feedback import read_thumb
from reviewmill.chat.interpreter import find
from reviewmill.chat.place import Place, Secrets
from reviewmill.errors import InstallError, SettingsError

LABELS = ["positive", "neutral", "negative"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path / "chat")
    made.make()
    return made


def program(path: Path, *lines: str) -> Path:
    """A program that stands for a Python."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
    path.chmod(0o755)
    return path


def listed() -> str:
    return files("reviewmill.chat").joinpath("open-webui-slim.txt").read_text("utf-8")


def test_every_package_is_pinned_with_digests_and_open_webui_is_among_them() -> None:
    packages = re.findall(r"^(\S+)==(\S+)", listed(), re.MULTILINE)
    assert ("open-webui", install.VERSION) in packages
    assert len(packages) > 150
    for block in re.split(r"\n(?=\S)", listed().strip()):
        assert block.startswith("#") or "--hash=sha256:" in block, block


def test_groups_hold_every_line_once_and_the_largest_comes_first() -> None:
    groups = list(install.grouped(listed()))
    assert groups[0].startswith("open-webui==")
    lines = [line for line in "".join(groups).splitlines() if line]
    assert sorted(lines) == sorted(line for line in listed().splitlines() if not line.startswith("#"))


def test_a_plan_says_what_and_how_big(place: Place) -> None:
    python = program(place.root / "python3.12", "echo 3.12")
    wanted = install.plan(place, python=str(python))
    assert not wanted.installed
    assert "0.12.4 (slim): 771 MB in" in wanted.words
    assert "224 MB to fetch" in wanted.words
    assert "2,900 MB" in install.plan(place, "full", python=str(python)).words


def test_a_complete_environment_is_taken_as_it_is_and_a_half_one_is_not(place: Place) -> None:
    python = program(place.root / "python3.12", "echo 3.12")
    (place.installs / ".making-1-2" / "bin").mkdir(parents=True)
    assert not install.plan(place, python=str(python)).installed
    program(place.installs / "0.12.4-slim" / "bin" / "python")
    assert install.plan(place, python="/nowhere/python").installed


def test_no_room_is_told_before_anything_is_fetched(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    python = program(place.root / "python3.12", "echo 3.12")
    usage = install.shutil.disk_usage(place.root)._replace(free=500_000_000)
    monkeypatch.setattr(install.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InstallError, match=r"takes 1,\d+ MB while it is installed; .* has 500 MB"):
        install.plan(place, python=str(python))


@pytest.mark.parametrize("version", ["3.10", "3.13", "2.7"])
def test_a_python_that_was_named_is_used_or_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(InstallError, match=re.escape(version)):
        find(str(program(tmp_path / "python", f"echo {version}")))
    good = program(tmp_path / "good", "echo 3.11")
    assert find(str(good)) == good


def test_a_python_without_venv_is_refused_with_the_reason(tmp_path: Path) -> None:
    bad = program(tmp_path / "python", "echo \"ModuleNotFoundError: No module named 'ensurepip'\" >&2; exit 1")
    with pytest.raises(InstallError, match="No module named 'ensurepip'") as refused:
        find(str(bad))
    assert "python3.12-venv" in (refused.value.hint or "")
    with pytest.raises(InstallError, match="not found"):
        find(str(tmp_path / "missing"))


def test_a_python_is_found_by_itself() -> None:
    found = find()
    done = subprocess.run([found, "-c", "import sys; print(sys.version_info[:2])"], capture_output=True, check=True)
    assert done.stdout.decode().strip() in {"(3, 11)", "(3, 12)"}


FAKE_PYTHON = """
if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; exit 0; fi
if [ "$1" = -I ]; then exit 0; fi
if [ "$3" = download ]; then
  for last; do :; done
  echo "$last" >> "ASKED"
<<<<<<< HEAD
  case "$last" in *list-03) [ -e "BROKEN" ] && { echo "ERROR: no network: https://user:secret@host/simple"; exit 1; };;
=======
  case "$last" in *list-03)
    [ -e "BROKEN" ] && { echo "ERROR: no network: https://user:secret@host/simple"; exit 1; };;
>>>>>>> i4-up
  esac
  exit 0
fi
[ -e "KILLED" ] && kill -9 $PPID
exit 0
"""


def fake_python(folder: Path) -> Path:
    """A Python whose pip brings nothing, notes what it is asked for, and fails when it is told to."""
    body = FAKE_PYTHON
    for name in ("ASKED", "BROKEN", "KILLED"):
        body = body.replace(name, str(folder / name.lower()))
    return program(folder / "python", 'case "$1" in -I) [ "$2" = -c ] && echo 3.12 ;; esac', body)


def test_a_broken_install_leaves_nothing_half_and_goes_on_where_it_stopped(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install.time, "sleep", lambda _: None)
    python = fake_python(tmp_path)
    (tmp_path / "broken").touch()
    wanted = install.plan(place, python=str(python))
    with pytest.raises(InstallError, match="Could not fetch the packages") as refused:
        install.install(wanted, lambda *_: None)
    assert "secret" not in str(refused.value)
    assert not wanted.folder.exists()
    assert list(place.installs.glob(".making-*")) == []
    asked = (tmp_path / "asked").read_text().splitlines()
    assert sum(line.endswith("list-03") for line in asked) == 3

    (tmp_path / "broken").unlink()
    (tmp_path / "asked").unlink()
    phases: list[str] = []
    install.install(install.plan(place, python=str(python)), lambda phase, *_: phases.append(phase))
    assert wanted.interpreter.exists()
    assert not wanted.wheels.exists()
    assert phases[-1] == "unpack"
    again = (tmp_path / "asked").read_text().splitlines()
    assert any(line.endswith("list-03") for line in again)
    assert len(again) < len(set(asked)) + 1
    assert install.plan(place).installed


def test_killed_while_unpacking_it_is_made_anew(place: Place, tmp_path: Path) -> None:
    python = fake_python(tmp_path)
    (tmp_path / "killed").touch()
    code = (
        "import sys; from pathlib import Path; from reviewmill.chat import install; "
        "from reviewmill.chat.place import Place; p = Place(Path(sys.argv[1])); "
        "install.install(install.plan(p, python=sys.argv[2]), lambda *_: None)"
    )
    env = {"PYTHONPATH": ":".join(path for path in sys.path if path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code, place.root, python], env=env, check=False, timeout=60)
    assert done.returncode == -9
    assert list(place.installs.glob(".making-*"))
    (tmp_path / "killed").unlink()
    wanted = install.plan(place, python=str(python))
    assert not wanted.installed
    install.install(wanted, lambda *_: None)
    assert wanted.interpreter.exists()
    assert list(place.installs.glob(".making-*")) == []


def test_secrets_are_for_their_owner_and_stay(place: Place) -> None:
    known = place.secrets()
    assert re.fullmatch(r"[0-9a-f]{64}", known.webui_key)
    path = place.root / "secrets.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    place.update(admin_shown=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert place.secrets() == Secrets(known.webui_key, known.machine_password, None, admin_shown=True)
    path.write_text("{")
    with pytest.raises(SettingsError, match="cannot be read"):
        place.secrets()


def test_the_environment_is_offline_and_asks_the_model_once() -> None:
    wiring = Wiring("http://127.0.0.1:8080", "rm_key", ["reviewmill-sentiment"], "http://127.0.0.1:3000", ["a", "b"])
    env = environment(wiring, Secrets("k", "p"), Path("/data"), slim=True)
    assert all(env[f"ENABLE_{name}_GENERATION"] == "false" for name in BACKGROUND)
    assert env["OFFLINE_MODE"] == "true"
    assert env["ENABLE_PERSISTENT_CONFIG"] == "false"
    assert env["CORS_ALLOW_ORIGIN"] == "a;b"
    assert json.loads(env["DEFAULT_MODEL_METADATA"])["capabilities"]["builtin_tools"] is False
    assert json.loads(env["OPENAI_API_CONFIGS"])["0"]["headers"] == {"X-Chat": "{{CHAT_ID}}", "X-Msg": "{{MESSAGE_ID}}"}
    assert env["EXTERNAL_DOCUMENT_LOADER_API_KEY"]
    texts = [suggestion["content"] for suggestion in SUGGESTIONS]
    assert any(re.search("[一-鿿]", text) for text in texts)
    assert any(text.isascii() for text in texts)
    assert all(isinstance(value, str) and "\0" not in value for value in env.values())


@pytest.mark.parametrize(
    ("comment", "row", "label"),
    [
        ("应该是负面", None, "negative"),
        ("第3行应该是中性，不是负面", 3, "neutral"),
        ("row 12: Neutral", 12, "neutral"),
        ("7: positive", 7, "positive"),
        ("not negative, positive", None, "positive"),
        ("isn't negative", None, None),
        ("positive or neutral?", None, None),
        ("这是差评", None, "negative"),
        ("unpositively", None, None),
        ("", None, None),
    ],
)
def test_what_a_thumbs_comment_says(comment: str, row: int | None, label: str | None) -> None:
    verdict = read_thumb({"rating": -1, "comment": comment}, LABELS)
    assert (verdict.row, verdict.label, verdict.confirms) == (row, label, False)


@given(st.text(max_size=300), st.sampled_from([1, -1, "1", None, [], {}]), st.text(max_size=30))
def test_no_comment_upsets_the_reader(comment: str, rating: object, reason: str) -> None:
    verdict = read_thumb({"rating": rating, "comment": comment, "reason": reason}, LABELS)
    assert verdict.label in {None, *LABELS}
    assert not (verdict.confirms and verdict.label)
