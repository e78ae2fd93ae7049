"""Task files: what is valid, what an error says, what the version is, and `reviewmill tasks`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reviewmill.cli.tasks import app
from reviewmill.errors import OutputError, ReviewmillError, TaskError
from reviewmill.tasks import BUILTIN_TASKS, Task, load_task, parse_task, render, task_source, template
from reviewmill.tasks.wire import CompactWire

PLAIN = """
name = "topic"
description = "Find the topic."
language = "en"
guidelines = ["Choose the main topic."]

[[labels]]
name = "food"
definition = "what one eats"

[[labels]]
name = "other"
definition = "the rest"

[[examples]]
text = "The soup was cold."
label = "food"
keywords = ["soup"]
"""


def task_with(**changes: Any) -> dict[str, Any]:
    return load_plain().model_dump() | changes


def load_plain() -> Task:
    return parse_task(PLAIN, "plain.toml")


def labels(*names: str) -> list[dict[str, str]]:
    return [{"name": name, "definition": "x"} for name in names]


def error_of(source: str) -> TaskError:
    with pytest.raises(TaskError) as caught:
        parse_task(source, "my.toml")
    assert caught.value.hint
    assert caught.value.message.startswith("my.toml ")
    return caught.value


# Built-in ones


@pytest.mark.parametrize("name", BUILTIN_TASKS)
def test_built_in_tasks_are_valid_and_show_every_label(name: str) -> None:
    task = load_task(name)
    assert task.name == name
    assert task.notes() == []
    assert load_task(task) is task


def test_built_in_labels() -> None:
    assert set(load_task("sentiment").label_names) == {"positive", "neutral", "negative"}
    emotions = {"joy", "anger", "sadness", "fear", "surprise", "disgust", "none"}
    assert set(load_task("emotion").label_names) == emotions


# Validation


def edited(old: str, new: str) -> str:
    assert old in PLAIN
    return PLAIN.replace(old, new)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (edited('name = "topic"', 'name = "my topic"'), "  name: name 'my topic' must be at most 64 letters"),
        (edited('name = "topic"', 'name = "confidence"'), "  name: name 'confidence' must"),
        (edited('name = "topic"', 'name = "Keywords"'), "  name: name 'Keywords' must"),
        (edited('name = "topic"', 'name = "items"'), "  name: name 'items' must"),
        (edited('name = "topic"', f'name = "{"x" * 65}"'), "  name: name 'xxx"),
        (edited('name = "topic"', ""), "  name: is missing"),
        (edited('description = "Find the topic."', 'description = " "'), "  description: String should"),
        (edited('"en"', '"fr"'), "  language: Input should be 'zh' or 'en'"),
        (edited("guidelines", "guideline"), "  guideline: is not a field that a task file has"),
        (edited('label = "food"', 'label = "food"\nkeyword = []'), "  examples.1.keyword: is not a field"),
        (edited('definition = "the rest"', ""), "  labels.2.definition: is missing"),
        (edited('label = "food"', 'label = "Food"'), "example 1 has label 'Food', which is not one of"),
        (edited('["soup"]', '["cake"]'), "example 1: keywords ['cake'] do not occur in its text"),
        (edited('["soup"]', '["The soup was cold."]'), "must have at most 16 characters"),
        (edited('soup was cold."', 'soup, too, was cold."').replace('["soup"]', '["soup, too"]'), "without commas"),
        (edited('["soup"]', '["soup", "was"]').replace("language", "max_keywords = 1\nlanguage"), "has 2 keywords"),
        (edited("language", "max_keywords = 0\nlanguage"), "  max_keywords: Input should be greater"),
        (edited("language", "max_keywords = 11\nlanguage"), "  max_keywords: Input should be less than or equal to 10"),
        (edited("language", 'keywords = "yes"\nlanguage'), "  keywords: Input should be a valid boolean"),
        (edited('"other"', '"FOOD"'), "labels must differ by more than case and width"),
        (edited('"other"', '"ｆｏｏｄ"'), "labels must differ by more than case and width"),
        (edited('"other"', '""'), "  labels.2.name: String should have at least 1"),
    ],
)  # fmt: skip
def test_an_error_names_file_and_field(source: str, said: str) -> None:
    assert said in error_of(source).message


def test_an_error_names_all_fields_that_are_wrong() -> None:
    message = error_of(edited('"en"', '"fr"').replace('name = "topic"', "")).message
    assert "  name: " in message
    assert "  language: " in message


@pytest.mark.parametrize(
    "char", ["|", ",", "，", "\\\\", '\\"', "<", ">", "\\n", "\\t", "\\u0001", "\\u2028", "\\u3000"]
)
def test_a_label_holds_nothing_that_the_formats_need(char: str) -> None:
    assert "  labels.2.name: label " in error_of(edited('"other"', f'"a{char}b"')).message


@pytest.mark.parametrize("name", [" other", "other "])
def test_a_label_does_not_begin_or_end_with_a_space(name: str) -> None:
    assert "begins or ends with a space" in error_of(edited('"other"', f'"{name}"')).message


@pytest.mark.parametrize("count", [0, 1, 21])
def test_too_few_or_too_many_labels(count: int) -> None:
    blocks = "".join(f'[[labels]]\nname = "l{n}"\ndefinition = "x"\n' for n in range(count)) or "labels = []"
    assert "  labels: Tuple should have at " in error_of(f'name = "t"\ndescription = "d"\n{blocks}').message


@pytest.mark.parametrize("count", [2, 20])
def test_two_to_twenty_labels_in_any_language(count: int) -> None:
    names = ["好", "好评", "very good", "réussi", "плохо", "سيئ", "👨‍👩‍👧", "좋아요", *(f"l{n}" for n in range(12))][
        :count
    ]
    task = Task.model_validate(task_with(labels=labels(*names), examples=[]))
    assert task.label_names == tuple(names)
    assert task.notes() == [f"label {name!r} has no example" for name in names]


def test_a_name_may_be_in_any_script() -> None:
    assert parse_task(edited('"topic"', '"主题"'), "x").name == "主题"


@pytest.mark.parametrize(
    "source",
    ["labels = ", "name", "a = " + "1" * 5000, "a = 2026-99-99", "\x00"],
    ids=["open", "bare", "long", "date", "nul"],
)
def test_what_is_not_toml(source: str) -> None:
    assert "not valid TOML" in error_of(source).message


def test_nesting_without_end() -> None:
    assert "nested too deeply" in error_of("a = " + "[" * 50_000).message


# Files


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "我的.toml"
    path.write_bytes(b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode())
    assert load_task(path) == load_task(str(path)) == load_plain()
    assert task_source(path)[1] == str(path)


def test_a_pipe_is_a_file_too(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as pipe:
        pipe.write(PLAIN)
    try:
        assert load_task(f"/dev/fd/{reader}") == load_plain()
    finally:
        os.close(reader)


@pytest.mark.parametrize("name", ["nothing.toml", "sentimant", "a" * 5000, "nul\0.toml", "lone\ud800.toml", "", "/"])
def test_no_such_task(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError) as caught:
        load_task(name)
    assert caught.value.hint
    assert repr(name)[1:20].strip("'") in caught.value.message


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"# " + b"x" * 300_000, "larger than 256 KiB"), ("名".encode("gb18030"), "cannot be read as a task file")],
    ids=["large", "gb18030"],
)
def test_what_cannot_be_a_task_file(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_bytes(content)
    with pytest.raises(TaskError, match=said) as caught:
        load_task(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_a_folder_is_no_task_file(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="cannot be read as a task file"):
        load_task(tmp_path)


# The version


def test_layout_order_of_keys_and_stated_defaults_do_not_change_the_hash() -> None:
    other = """
    # a comment
    examples = [{ keywords = ["soup"], label = "food", text = "  The soup was cold. " }]
    labels = [{ definition = "what one eats", name = "food" }, { name = 'other', definition = "the rest" }]
    guidelines = [
        "Choose the main topic.",
    ]
    max_keywords = 5  # as by default
    keywords = true
    language = "en"
    description = "Find the topic."
    name = "topic"
    """
    assert parse_task(other, "other.toml").hash == load_plain().hash


OTHER = {"name": "other", "definition": "the rest"}


@pytest.mark.parametrize("weight", [0, -1, 101, "nan", "much"])
def test_a_weight_is_a_number_above_zero(weight: Any) -> None:
    labels = [{"name": "food", "definition": "what one eats", "weight": weight}, OTHER]
    with pytest.raises(ValueError, match="weight"):
        Task.model_validate(task_with(labels=labels))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "subject"},
        {"description": "Find the topic!"},
        {"language": "zh"},
        {"labels": [{"name": "food", "definition": "what one eats."}, {"name": "other", "definition": "the rest"}]},
        {"labels": [{"name": "other", "definition": "the rest"}, {"name": "food", "definition": "what one eats"}]},
        {"guidelines": ["Choose the main topic.", "Else other."]},
        {"examples": [{"text": "The soup was cold.", "label": "other", "keywords": ["soup"]}]},
        {"examples": [{"text": "The soup was cold.", "label": "food", "keywords": []}]},
        {"labels": [{"name": "food", "definition": "what one eats", "weight": 2}, OTHER]},
        {"keywords": False},
        {"max_keywords": 4},
    ],
)
def test_any_content_changes_the_hash(changes: dict[str, Any]) -> None:
    assert Task.model_validate(task_with(**changes)).hash != load_plain().hash


# The template


@pytest.mark.parametrize("name", ["my_task", "质量", "_x1"])
def test_the_template_is_valid_as_it_stands(name: str) -> None:
    task = parse_task(template(name), "template")
    assert task.name == name
    assert task.notes() == []


@pytest.mark.parametrize("name", ["", "my-task", "1st", "text", "keywords", "values", 'x" #', 'a"\nb = "c', "x" * 65])
def test_a_bad_name_gives_no_template(name: str) -> None:
    with pytest.raises(TaskError, match="cannot be called") as caught:
        template(name)
    assert caught.value.hint == "Give it another with --name."


# The command line


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def failure_of(*arguments: str) -> ReviewmillError:
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, ReviewmillError)
    return result.exception


def test_list_names_the_built_in_tasks() -> None:
    printed = invoke("list")
    assert all(name in printed for name in (*BUILTIN_TASKS, "positive", "disgust"))


@pytest.mark.parametrize("task", BUILTIN_TASKS)
def test_show_prints_what_the_model_reads(task: str) -> None:
    loaded = load_task(task)
    prompt = render(loaded, CompactWire(loaded, keywords=True), keywords=True)
    printed = invoke("show", task)
    assert loaded.hash[:12] in printed
    assert ("weight of neutral 0.5" in printed) == (task == "sentiment")
    assert prompt.id in printed
    assert all(message["content"] in printed for message in prompt.messages("…"))


def test_show_in_the_other_formats(tmp_path: Path) -> None:
    path = tmp_path / "topic.toml"
    path.write_text(PLAIN)
    assert '{"topic":"food","keywords":["soup"]}' in invoke("show", str(path), "--wire", "json")
    assert '{"topic":"food"}' in invoke("show", str(path), "--wire", "json", "--no-keywords")
    assert "keyword" not in invoke("show", str(path), "--no-keywords")
    assert invoke("show", str(path), "--source").strip() == PLAIN.strip()


def test_show_refuses_a_format_that_is_none() -> None:
    result = CliRunner().invoke(app, ["show", "sentiment", "--wire", "xml"])
    assert result.exit_code == 2
    assert "xml" in result.output


def test_validate_says_what_could_be_better(tmp_path: Path) -> None:
    path = tmp_path / "topic.toml"
    path.write_text(PLAIN)
    printed = invoke("validate", str(path))
    assert f"{path}: valid. Task 'topic', 2 labels, hash {load_plain().hash[:12]}." in printed
    assert "note: label 'other' has no example" in printed
    assert "note" not in invoke("validate", "sentiment")


def test_validate_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "topic.toml"
    path.write_text(edited('"en"', '"fr"'))
    error = failure_of("validate", str(path))
    assert f"{path} is not a valid task:\n  language: " in error.message


def test_new_makes_a_file_that_validates(tmp_path: Path) -> None:
    path = tmp_path / "质量.toml"
    assert str(path) in invoke("new", str(path)).replace("\n", "")
    assert load_task(path).name == "质量"
    invoke("validate", str(path))
    named = tmp_path / "my-task.toml"
    invoke("new", str(named), "--name", "my_task")
    assert load_task(named).name == "my_task"


def test_new_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("precious")
    assert isinstance(failure_of("new", str(path)), OutputError)
    assert path.read_text() == "precious"


def test_new_says_why_it_made_nothing(tmp_path: Path) -> None:
    assert isinstance(failure_of("new", str(tmp_path / "none" / "mine.toml")), OutputError)
    error = failure_of("new", str(tmp_path / "my-task.toml"))
    assert isinstance(error, TaskError)
    assert "--name" in (error.hint or "")
    assert list(tmp_path.iterdir()) == []
