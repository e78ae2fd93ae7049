"""`reviewmill bench` against servers whose rate is known."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rate_endpoint import RateEndpoint
from reviewmill.bench.comments import sample
from reviewmill.cli.main import program
from stub_endpoint import StubEndpoint


@pytest.fixture
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REVIEWMILL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("REVIEWMILL_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def bench(*arguments: str) -> str:
    result = CliRunner().invoke(program(), ["bench", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_measures_what_the_engine_can(own_folders: Path) -> None:
    with RateEndpoint(slots=4, seconds=0.1) as engine:
        said = bench("--endpoint", engine.url, "--concurrency", "1,6", "--json", "--plot", str(own_folders / "b.svg"))
    report = json.loads(said)
    one, six = report["levels"]
    assert 7 < one["raw_per_second"] <= 10.1
    assert 25 < six["raw_per_second"] <= 41
    assert 0.7 < one["ratio"] <= 1.2
    assert 0.1 <= one["first_result_s"] < 1
    assert one["tokens_out_per_second"] > one["comments_per_second"]
    assert report["model"] == "stub-model"
    picture = ET.fromstring((own_folders / "b.svg").read_text(encoding="utf-8"))
    assert len(picture.findall(".//{http://www.w3.org/2000/svg}rect")) == 1 + 2 * 2


def test_it_shows_a_table_and_bars(own_folders: Path) -> None:
    with StubEndpoint() as stub:
        said = bench("--endpoint", stub.url, "--concurrency", "2,auto", "-q")
    assert "comments/s" in said
    assert "█" in said
    assert "auto (" in said


def test_a_file_and_a_pool(own_folders: Path) -> None:
    source = own_folders / "in.jsonl"
    source.write_text("\n".join(json.dumps({"text": text}) for text in sample(40)), encoding="utf-8")
    with RateEndpoint(slots=2, seconds=0.05) as one, RateEndpoint(slots=2, seconds=0.05) as two:
        urls = ["--endpoint", one.url, "--endpoint", two.url]
        report = json.loads(bench(str(source), *urls, "--concurrency", "3", "--json", "-q"))
    (level,) = report["levels"]
    assert level["comments"] == 24 or level["comments"] == 40
    assert 50 < level["raw_per_second"] <= 81, "of both together"


def test_what_cannot_be_measured_is_refused(own_folders: Path) -> None:
    for arguments, words in (
        (["--concurrency", "1,many"], "1,4,16"),
        (["--concurrency", "0"], "1,4,16"),
        (["--plot", "x.gif"], ".svg or .png"),
    ):
        result = CliRunner().invoke(program(), ["bench", *arguments])
        assert result.exit_code != 0
        assert words in f"{result.output} {result.exception} {getattr(result.exception, 'hint', '')}"


def test_a_png_is_drawn_where_matplotlib_is(own_folders: Path) -> None:
    pytest.importorskip("matplotlib")
    with StubEndpoint() as stub:
        bench("--endpoint", stub.url, "--concurrency", "4", "-q", "--plot", str(own_folders / "b.png"))
    assert (own_folders / "b.png").read_bytes().startswith(b"\x89PNG")


def test_sample_comments_differ_and_are_the_same_everywhere() -> None:
    texts = sample(200)
    assert len(set(texts)) == 200
    assert texts == sample(200)
    assert 15 < sum(map(len, texts)) / 200 < 90
