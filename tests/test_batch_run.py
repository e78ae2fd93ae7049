"""A run through the public face: what is written, what is asked, what is kept when it stops."""

from __future__ import annotations

import asyncio
import csv
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from reviewmill import AsyncSentimentAnalyzer, SentimentAnalyzer
from reviewmill.batch.asking import _committer
from reviewmill.batch.journal import Journal, Outcome, Pending
from reviewmill.errors import InputError, OutputError, RunError
from reviewmill.schema import Answer
from stub_endpoint import StubEndpoint

COMMENTS = ["质量很好", "太差了", "包装盒是蓝色的", "质量很好", "系统默认好评", "慢得离谱", "", "good value"]


@pytest.fixture
def stub():
    with StubEndpoint() as server:
        yield server


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Any]:
    return {"cache_dir": tmp_path / "cache", "state_dir": tmp_path / "state", "attempts": 1}


def write_csv(path: Path, comments: list[str], **columns: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["评论", *columns])
        writer.writerows(zip(comments, *columns.values(), strict=True))
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def analyze(stub: StubEndpoint, source: Path, output: Path, settings: dict[str, Any], **more: Any) -> Any:
    with SentimentAnalyzer(stub.url, settings=None, **settings, **more) as analyzer:
        return analyzer.analyze_file(source, output)


def asked(stub: StubEndpoint) -> dict[str, int]:
    return dict(stub.asked)


def test_every_row_comes_back_in_order_with_its_columns(stub, tmp_path, folders) -> None:
    source = write_csv(tmp_path / "in.csv", COMMENTS, 星级=[str(n) for n in range(8)])
    manifest = analyze(stub, source, tmp_path / "out.csv", folders)
    rows = read_csv(tmp_path / "out.csv")
    assert [row["评论"] for row in rows] == COMMENTS
    assert [row["星级"] for row in rows] == [str(n) for n in range(8)]
    assert [row["sentiment"] for row in rows[:3]] == ["positive", "negative", "neutral"]
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["insufficient", "ok", "insufficient", "ok"]
    assert all(row["original_text"] == row["评论"] for row in rows)
    assert manifest.tally.rows == 8
    assert sum(manifest.distinct.values()) == 5


def test_equal_texts_are_asked_once_and_the_first_row_shows_who_answered(stub, tmp_path, folders) -> None:
    source = write_csv(tmp_path / "in.csv", ["真好", "真好 ", "真好"])
    analyze(stub, source, tmp_path / "out.csv", folders)
    assert asked(stub) == {"真好": 1}
    assert [row["route"] for row in read_csv(tmp_path / "out.csv")] == ["model", "cache", "cache"]


def test_a_second_run_asks_nothing(stub, tmp_path, folders) -> None:
    source = write_csv(tmp_path / "in.csv", COMMENTS)
    analyze(stub, source, tmp_path / "one.csv", folders)
    before = stub.total
    manifest = analyze(stub, source, tmp_path / "two.csv", folders)
    assert stub.total == before
    assert manifest.asked == 0
    assert {row["route"] for row in read_csv(tmp_path / "two.csv")} == {"cache", "rule"}


def test_no_cache_asks_again(stub, tmp_path, folders) -> None:
    source = write_csv(tmp_path / "in.csv", ["真好"])
    for name in ("one.csv", "two.csv"):
        analyze(stub, source, tmp_path / name, folders, cache="none")
    assert asked(stub) == {"真好": 2}


def test_the_manifest_says_what_decided_the_result(stub, tmp_path, folders) -> None:
    source = write_csv(tmp_path / "in.csv", COMMENTS)
    analyze(stub, source, tmp_path / "out.csv", folders)
    manifest = json.loads((tmp_path / "out.csv.manifest.json").read_text(encoding="utf-8"))
    assert manifest["model"]["model"] == "stub-model"
    assert manifest["model"]["endpoint"] == stub.url
    assert len(manifest["task"]["hash"]) == 64
    assert manifest["input"]["text_column"] == "评论"
    assert manifest["routes"] == {"model": 5, "cache": 1, "rule": 2}
    assert manifest["statuses"] == {"ok": 6, "insufficient": 2}
    assert manifest["rows"] == 8


def test_without_logprobs_confidence_is_empty_and_the_manifest_says_why(tmp_path, folders) -> None:
    with StubEndpoint(capabilities=frozenset({"grammar"})) as stub:
        source = write_csv(tmp_path / "in.csv", ["真好"])
        manifest = analyze(stub, source, tmp_path / "out.csv", folders)
    (row,) = read_csv(tmp_path / "out.csv")
    assert (row["sentiment"], row["confidence"], row["needs_review"]) == ("positive", "", "true")
    assert any("log-probabilities" in note for note in manifest.notes)


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.jsonl", "out.json", "out.parquet", "out.xlsx"])
def test_every_output_format_reads_back(stub, tmp_path, folders, name) -> None:
    source = write_csv(tmp_path / "in.csv", COMMENTS)
    analyze(stub, source, tmp_path / name, folders)
    with SentimentAnalyzer(stub.url, **folders) as analyzer:
        again = analyzer.analyze_file(tmp_path / name, tmp_path / "again.jsonl", text="评论")
    rows = [json.loads(line) for line in (tmp_path / "again.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["original_text"] for row in rows] == COMMENTS
    assert [row["sentiment"] for row in rows] == [row["sentiment_input"] or None for row in rows]
    assert again.asked == 0


def test_a_failed_row_carries_its_error_and_is_tried_again(stub, tmp_path, folders) -> None:
    stub.fail_texts = {"太差了": 500}
    source = write_csv(tmp_path / "in.csv", ["真好", "太差了", "很慢"])
    manifest = analyze(stub, source, tmp_path / "out.jsonl", folders, cache="none")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["status"] for row in rows] == ["ok", "error", "ok"]
    assert rows[1]["sentiment"] is None
    assert rows[1]["error"]["type"] == "endpoint_error"
    assert manifest.tally.errors == 1
    stub.fail_texts = {}
    manifest = analyze(stub, source, tmp_path / "out.jsonl", folders, cache="none")
    assert manifest.tally.errors == 0
    assert asked(stub) == {"真好": 1, "太差了": 2, "很慢": 1}
    assert not list(tmp_path.glob("*.journal*"))


def test_malformed_rows_and_missing_texts_do_not_stop_a_run(stub, tmp_path, folders) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "真好"}\nnot json\n{"other": 1}\n{"text": "太差"}\n', encoding="utf-8")
    analyze(stub, source, tmp_path / "out.jsonl", folders)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["status"] for row in rows] == ["ok", "error", "error", "ok"]
    assert [row["error"] and row["error"]["type"] for row in rows] == [None, "row_malformed", "text_missing", None]


def test_a_comment_of_five_megabytes_is_one_rows_error(stub, tmp_path, folders) -> None:
    source = write_csv(tmp_path / "in.csv", ["真好", "好" * 5_000_000, "太差"])
    analyze(stub, source, tmp_path / "out.jsonl", folders)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["status"] for row in rows] == ["ok", "error", "ok"]
    assert rows[1]["error"]["type"] == "comment_too_long"


def test_an_endpoint_that_goes_away_stops_the_run_and_the_same_command_continues(tmp_path, folders) -> None:
    comments = [f"第{n}条很好" for n in range(60)]
    source = write_csv(tmp_path / "in.csv", comments)
    with StubEndpoint(latency=0.02) as stub:
        port = int(stub.url.rsplit(":", 1)[1].split("/")[0])

        def close_soon() -> None:
            while len(stub.asked) < 10:
                time.sleep(0.005)
            stub.close()

        closer = threading.Thread(target=close_soon)
        closer.start()
        with pytest.raises(RunError, match="went away"):
            analyze(stub, source, tmp_path / "out.csv", folders, concurrency=2, cache="none")
        closer.join()
        first = asked(stub)
    assert not (tmp_path / "out.csv").exists()
    with StubEndpoint(port=port) as stub:
        manifest = analyze(stub, source, tmp_path / "out.csv", folders, concurrency=2, cache="none")
        second = asked(stub)
    assert manifest.continued
    assert manifest.tally.errors == 0
    assert len(read_csv(tmp_path / "out.csv")) == 60
    # Only what was in flight when the server went (two places) is asked twice.
    assert len(first.keys() & second.keys()) <= 2


def test_the_old_output_stays_until_the_new_one_is_whole(stub, tmp_path, folders) -> None:
    source = write_csv(tmp_path / "in.csv", ["真好"])
    output = tmp_path / "out.csv"
    output.write_text("old", encoding="utf-8")
    stub.close()
    with pytest.raises(Exception, match="cannot be reached"):
        analyze(stub, source, output, folders)
    assert output.read_text(encoding="utf-8") == "old"


def test_two_processes_do_not_write_one_output(stub, tmp_path, folders) -> None:
    source = write_csv(tmp_path / "in.csv", ["真好"])
    with (
        Journal(tmp_path / "out.csv.journal", {}, lock_dir=folders["state_dir"] / "locks"),
        pytest.raises(RunError, match="Another process"),
    ):
        analyze(stub, source, tmp_path / "out.csv", folders)


def test_a_journal_of_another_input_is_not_continued(stub, tmp_path, folders) -> None:
    stub.fail_texts = {"慢": 500}
    source = write_csv(tmp_path / "in.csv", ["真好", "慢"])
    analyze(stub, source, tmp_path / "out.csv", folders)
    assert (tmp_path / "out.csv.journal").exists()
    stub.fail_texts = {}
    write_csv(source, ["别的，真好"])
    manifest = analyze(stub, source, tmp_path / "out.csv", folders)
    assert not manifest.continued
    assert [row["original_text"] for row in read_csv(tmp_path / "out.csv")] == ["别的，真好"]


def test_a_damaged_journal_is_named(stub, tmp_path, folders) -> None:
    source = write_csv(tmp_path / "in.csv", ["真好"])
    (tmp_path / "out.csv.journal").write_bytes(b"not a database" * 1000)
    with pytest.raises(RunError, match="damaged"):
        analyze(stub, source, tmp_path / "out.csv", folders)


def test_the_input_is_never_the_output(stub, tmp_path, folders) -> None:
    source = write_csv(tmp_path / "in.csv", ["真好"])
    with pytest.raises(OutputError, match="is the input itself"):
        analyze(stub, source, source, folders)


@pytest.mark.parametrize(
    ("output", "error"), [("missing/out.csv", "does not exist"), (".", "text lines"), ("out.doc", "doc")]
)
def test_an_output_that_cannot_be_is_refused_before_any_work(stub, tmp_path, folders, output, error) -> None:
    source = write_csv(tmp_path / "in.csv", ["真好"])
    with pytest.raises(OutputError, match=error):
        analyze(stub, source, tmp_path / output, folders)
    assert not asked(stub)


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path, folders) -> None:
    journal = Journal(tmp_path / "j", {"run": 1}, lock_dir=tmp_path / "locks")
    journal.add([(b"a", "x", 1)])
    journal.record({b"a": Outcome(Answer(label="positive"), "model", None)})
    # SQLite's own limit stands for the disk's.
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(OutputError, match="full"):
        journal.add((str(n).encode(), "长" * 1000, n) for n in range(1000))
    journal.close()
    with Journal(tmp_path / "j", {"run": 1}, lock_dir=tmp_path / "locks") as again:
        assert again.continued
        assert again.outcomes([b"a"])[b"a"].answer == Answer(label="positive")


def test_missing_input_is_an_input_error(stub, tmp_path, folders) -> None:
    with pytest.raises(InputError, match="does not exist"):
        analyze(stub, tmp_path / "nothing.csv", tmp_path / "out.csv", folders)


def test_progress_reaches_the_end(stub, tmp_path, folders) -> None:
    source = write_csv(tmp_path / "in.csv", COMMENTS)
    seen = []
    with SentimentAnalyzer(stub.url, **folders) as analyzer:
        analyzer.analyze_file(
            source, tmp_path / "out.csv", on_progress=lambda p: seen.append((p.phase, p.done, p.distinct))
        )
    assert seen[-1] == ("write", 5, 5)
    assert list(dict.fromkeys(phase for phase, *_ in seen)) == ["plan", "answer", "write"]


@pytest.mark.redis
def test_redis_that_dies_in_mid_run_costs_nothing_but_the_cache(own_redis_server, tmp_path, folders) -> None:
    own_redis_server.start()
    comments = [f"第{n}条很好" for n in range(80)]
    source = write_csv(tmp_path / "in.csv", comments)
    with (
        StubEndpoint(latency=0.02) as stub,
        SentimentAnalyzer(stub.url, cache=own_redis_server.url, concurrency=4, **folders) as analyzer,
    ):

        def kill_once(progress: Any) -> None:
            if progress.done == 20:
                own_redis_server.kill()

        manifest = analyzer.analyze_file(source, tmp_path / "out.csv", on_progress=kill_once)
        assert asked(stub) == dict.fromkeys(comments, 1)
    assert len(analyzer.warnings) == 1
    assert any("cache" in note.lower() or "Redis" in note for note in manifest.notes)
    assert [row["sentiment"] for row in read_csv(tmp_path / "out.csv")] == ["positive"] * 80


def test_answers_that_come_together_are_committed_together() -> None:
    """Also where nothing but the journal is written, which never waits: each would have its own transaction."""
    sizes: list[int] = []

    async def write(batch: dict[Pending, Outcome]) -> None:
        sizes.append(len(batch))

    async def scenario() -> None:
        commit = _committer(write)
        await asyncio.gather(*(commit(Pending(n, b"%d" % n, ""), Outcome(None, None, None)) for n in range(50)))

    asyncio.run(scenario())
    assert sum(sizes) == 50
    assert len(sizes) <= 2


@pytest.mark.parametrize("last", ["write_rows", "keep_student"])
def test_cancelled_at_its_end_it_waits_for_the_thread_that_reads_the_journal(
    stub, tmp_path, folders, monkeypatch, last
) -> None:
    """To close the journal under that thread ended the whole process: a segmentation fault of a service that stops."""
    import reviewmill.batch.run as room

    source = write_csv(tmp_path / "in.csv", [f"第{n}条很好" for n in range(20)])
    entered, proceed, done = threading.Event(), threading.Event(), []
    whole = getattr(room, last)

    def slow(*arguments: Any) -> Any:
        entered.set()
        assert proceed.wait(30)
        try:
            return whole(*arguments)
        except RunError:
            done.append("stopped")
            raise
        finally:
            done.append("left")

    async def cancelled() -> None:
        async with AsyncSentimentAnalyzer(stub.url, **folders) as analyzer:
            run = asyncio.create_task(analyzer.analyze_file(source, tmp_path / "out.csv"))
            assert await asyncio.to_thread(entered.wait, 30)
            for _ in range(2):
                run.cancel()
                await asyncio.sleep(0.05)
            assert not run.done()
            proceed.set()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert done[-1] == "left"

    monkeypatch.setattr(room, last, slow)
    asyncio.run(cancelled())
    assert done == (["stopped", "left"] if last == "write_rows" else ["left"])
    monkeypatch.undo()
    analyze(stub, source, tmp_path / "out.csv", folders)
    assert len(read_csv(tmp_path / "out.csv")) == 20
    assert max(stub.asked.values()) == 1
