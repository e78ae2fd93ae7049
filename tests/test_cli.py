"""The command line as a user meets it: exit codes, messages, what goes to stdout and what to stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from reviewmill.cli.main import COMMANDS, program
from stub_endpoint import StubEndpoint
from warm import warm_reviewmill

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def stub():
    with StubEndpoint() as server:
        yield server


@pytest.fixture
def run(tmp_path):
    def call(*arguments: str, stdin: str | bytes = b"", **env: str) -> subprocess.CompletedProcess[str]:
        own = {
            "REVIEWMILL_CACHE_DIR": str(tmp_path / "cache"),
            "REVIEWMILL_STATE_DIR": str(tmp_path / "state"),
            "REVIEWMILL_MODELS_DIR": str(tmp_path / "models"),
        }
        done = subprocess.run(
            warm_reviewmill(*arguments),
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            cwd=tmp_path,
            env=os.environ | own | env,
            check=False,
            timeout=120,
        )
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8")
        )

    return call


def write(folder: Path, name: str, content: str | bytes) -> str:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def test_version_and_help(run) -> None:
    for command in (
        [sys.executable, "-m", "reviewmill"],
        [Path(sys.executable).with_name("reviewmill")],
        warm_reviewmill(),
    ):
        assert subprocess.check_output([*command, "--version"], text=True).startswith("reviewmill 0.")
    assert "analyze" in run("--help").stdout


def test_a_file_comes_back_beside_itself_with_a_summary(run, stub, tmp_path) -> None:
    write(tmp_path, "in.csv", "评论\n质量很好\n太差了\n")
    done = run("analyze", "in.csv", "--endpoint", stub.url)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "in.analyzed.csv").exists()
    assert (tmp_path / "in.analyzed.csv.manifest.json").exists()
    assert "positive" in done.stderr
    assert "50.0%" in done.stderr
    assert "in.analyzed.csv" in done.stderr
    assert done.stdout == ""


def test_texts_as_json_have_the_missions_keys(run, stub) -> None:
    done = run("analyze", "--json", "质量很好", "太差了", "--endpoint", stub.url)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [result["sentiment"] for result in results] == ["positive", "negative"]
    assert list(results[0])[:4] == ["sentiment", "confidence", "keywords", "original_text"]


def test_a_text_is_shown_with_its_label(run, stub) -> None:
    done = run("analyze", "质量很好", "--endpoint", stub.url)
    assert "质量很好" in done.stdout
    assert "positive" in done.stdout


def test_a_text_that_fails_says_why_and_is_exit_code_3(run) -> None:
    with StubEndpoint(fail_texts={"坏": 400}) as stub:
        done = run("analyze", "很好", "坏", "--endpoint", stub.url)
    assert done.returncode == 3
    assert "positive" in done.stdout
    assert "refused" in done.stdout


def test_stdin_to_stdout_is_jsonl_in_order_and_leaves_nothing_behind(run, stub, tmp_path) -> None:
    done = run("analyze", "-", "--endpoint", stub.url, stdin="质量很好\n太差了\n")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["sentiment"] for row in rows] == ["positive", "negative"]
    assert [file for file in (tmp_path / "state").rglob("*") if file.is_file() and file.suffix != ".lock"] == []


def test_stdin_in_another_format(run, stub) -> None:
    done = run("analyze", "-", "--format", "csv", "--endpoint", stub.url, stdin="id,text\n7,很好\n")
    assert json.loads(done.stdout)["id"] == "7"


def test_json_of_a_file_is_its_manifest(run, stub, tmp_path) -> None:
    write(tmp_path, "in.csv", "评论\n质量很好\n")
    done = run("analyze", "in.csv", "--endpoint", stub.url, "--json", "--quiet")
    assert json.loads(done.stdout)["labels"] == {"positive": 1}
    assert done.stderr == ""


def test_rows_with_errors_are_exit_code_3(run, tmp_path) -> None:
    write(tmp_path, "in.csv", "评论\n质量很好\n太差了\n")
    with StubEndpoint(fail_texts={"太差了": 400}) as stub:
        done = run("analyze", "in.csv", "--endpoint", stub.url)
    assert done.returncode == 3
    assert "1 row carries an error" in done.stderr
    assert "tries them again" in done.stderr


def test_the_same_command_twice_is_fine_but_a_foreign_file_is_not_replaced(run, stub, tmp_path) -> None:
    write(tmp_path, "in.csv", "评论\n质量很好\n")
    for _ in range(2):
        assert run("analyze", "in.csv", "-o", "out.csv", "--endpoint", stub.url).returncode == 0
    write(tmp_path, "mine.csv", "precious")
    done = run("analyze", "in.csv", "-o", "mine.csv", "--endpoint", stub.url)
    assert done.returncode == 1
    assert "was not written by reviewmill" in done.stderr
    assert (tmp_path / "mine.csv").read_text() == "precious"
    assert run("analyze", "in.csv", "-o", "mine.csv", "--force", "--endpoint", stub.url).returncode == 0


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.csv", b"", "empty"),
        ("header.csv", "评论\n", "no comments"),
        ("numbers.csv", "a,b\n1,2\n3,4\n", "--text"),
        ("picture.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "PNG"),
        ("latin.csv", b"comment\ncaf\xe9 cr\xe8me br\xfbl\xe9e\n", "byte"),
        ("broken.xlsx", b"PK\x03\x04 this is no workbook", "xlsx"),
        ("notes.docx", b"whatever", "docx"),
    ],
)
def test_bad_files_are_refused_with_what_to_do(run, stub, tmp_path, name, content, said) -> None:
    write(tmp_path, name, content)
    done = (
        run("analyze", name, "-o", "out.csv", "--format", "docx", "--endpoint", stub.url)
        if (name.endswith("docx"))
        else run("analyze", name, "-o", "out.csv", "--endpoint", stub.url)
    )
    assert done.returncode == 1, done.stderr
    assert said.lower() in done.stderr.lower()
    assert "→" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.csv").exists()


def test_nul_bytes_and_duplicate_ids_do_not_stop_a_file(run, stub, tmp_path) -> None:
    write(tmp_path, "in.jsonl", '{"id": 1, "text": "很\\u0000好"}\n{"id": 1, "text": "\\ud800太差"}\n')
    done = run("analyze", "in.jsonl", "-o", "out.jsonl", "--endpoint", stub.url)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["sentiment"] for row in rows] == ["positive", "negative"]
    assert [row["id"] for row in rows] == [1, 1]


def test_a_missing_file_is_not_taken_for_a_comment(run, stub) -> None:
    done = run("analyze", "nothing.csv", "--endpoint", stub.url)
    assert done.returncode == 1
    assert "does not exist" in done.stderr


def test_a_missing_model_says_how_to_get_it(run) -> None:
    done = run("analyze", "很好")
    assert done.returncode == 1
    assert "reviewmill models pull" in done.stderr


def test_an_endpoint_that_is_not_there(run) -> None:
    done = run("analyze", "很好", "--endpoint", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr


def test_a_bad_setting_is_named(run) -> None:
    done = run("analyze", "很好", REVIEWMILL_REVIEW_BELOW="7")
    assert done.returncode == 1
    assert "review_below" in done.stderr


def test_a_settings_file_with_an_unknown_key_is_refused(run, tmp_path) -> None:
    write(tmp_path, "reviewmill.toml", 'modle = "x"\n')
    done = run("analyze", "很好")
    assert done.returncode == 1
    assert "modle" in done.stderr


def test_a_task_of_ones_own(run, stub, tmp_path) -> None:
    assert run("tasks", "new", "complaint.toml").returncode == 0
    assert "valid" in run("tasks", "validate", "complaint.toml").stdout
    write(tmp_path, "in.csv", "评论\n等了半个月\n")
    done = run("analyze", "in.csv", "--task", "complaint.toml", "-o", "out.jsonl", "--endpoint", stub.url)
    assert done.returncode == 0, done.stderr
    (row,) = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert row["complaint"] in {"物流", "质量", "无"}
    assert set(row["probabilities"]) == {"物流", "质量", "无"}


def test_doctor_looks_at_everything_and_fails_where_something_is_wrong(run, stub) -> None:
    good = run("doctor", "--endpoint", stub.url)
    assert good.returncode == 0, good.stdout
    for what in ("processor", "memory", "GPU", "cache", "model", "speed"):
        assert what in good.stdout
    bad = run("doctor", "--quick", "--cache", "redis://127.0.0.1:9")
    assert bad.returncode == 1
    assert "models pull" in bad.stdout
    assert "cannot be reached" in bad.stdout or "refused" in bad.stdout.lower()


def test_the_api_key_is_never_shown(run) -> None:
    with StubEndpoint(api_key="right") as stub:
        done = run("analyze", "很好", "--endpoint", stub.url, REVIEWMILL_API_KEY="wrong-s3cret")
    assert done.returncode == 1
    assert "s3cret" not in done.stderr + done.stdout


def test_redact_masks_texts_and_files(run, tmp_path) -> None:
    write(tmp_path, "in.csv", "评论\n打13800138000没人接\n")
    with StubEndpoint() as stub:
        done = run("analyze", "in.csv", "--redact", "--endpoint", stub.url)
        assert done.returncode == 0, done.stderr
        done = run("analyze", "--json", "--redact", "写信到 a.b@example.com 没人回", "--endpoint", stub.url)
        assert json.loads(done.stdout)["original_text"] == "写信到 a.b@example.com 没人回"
        asked = {text for text in stub.asked if "没人" in text}
    assert asked == {"打[电话]没人接", "写信到 [邮箱] 没人回"}
    assert "打13800138000没人接" in (tmp_path / "in.analyzed.csv").read_text(encoding="utf-8-sig")


def test_the_command_line_starts_without_what_few_commands_need() -> None:
    heavy = [
        "fastapi",
        "gguf",
        "jinja2",
        "matplotlib",
        "numpy",
        "openai",
        "scipy",
        "sklearn",
        "sqlalchemy",
        "xllamacpp",
    ]
    code = "import sys; from reviewmill.cli.main import program; program()"
    code += f"; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_a_command_is_run_by_a_program_that_brings_nothing_else() -> None:
    code = "from reviewmill.cli import main; sys.argv = ['reviewmill', 'tasks', 'list']; main()"
    watch = "import atexit, sys; atexit.register(lambda: print('analyze', 'reviewmill.cli.analyze' in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{watch}; {code}"], capture_output=True, text=True, check=True, timeout=60
    )
    assert "sentiment" in done.stdout
    assert done.stdout.endswith("analyze False\n")


def test_every_command_is_in_the_help_suggested_and_completed(run) -> None:
    assert list(typer.main.get_group(program()).commands) == list(COMMANDS)
    for name in COMMANDS:
        assert f"reviewmill {name}" in run(name, "--help").stdout
    mistaken = run("analyse", "in.csv")
    assert mistaken.returncode == 2
    assert "Did you mean 'analyze'?" in mistaken.stderr
    completing = {"_REVIEWMILL_COMPLETE": "complete_bash", "COMP_WORDS": "reviewmill cal", "COMP_CWORD": "1"}
    command = [Path(sys.executable).with_name("reviewmill")]
    done = subprocess.run(command, env=os.environ | completing, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["calibrate", "calibrations"]
