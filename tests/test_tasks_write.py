"""A task that is written is read again as the same task."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewmill.errors import OutputError
from reviewmill.tasks import BUILTIN_TASKS, Task, load_task, parse_task
from reviewmill.tasks.write import task_toml, write_task

LINE = st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="|,，\r\n"), min_size=1, max_size=16
).filter(lambda text: text == text.strip() and text)


@st.composite
def tasks(draw):
    texts = draw(st.lists(LINE, max_size=4))
    return Task.model_validate(
        {
            "name": "sentiment",
            "description": draw(LINE),
            "language": draw(st.sampled_from(["zh", "en"])),
            "keywords": draw(st.booleans()),
            "max_keywords": draw(st.integers(1, 10)),
            "guidelines": draw(st.lists(LINE, max_size=4)),
            "labels": [
                {"name": "good", "definition": draw(LINE), "weight": draw(st.floats(1e-6, 100))},
                {"name": "差", "definition": draw(LINE)},
            ],
            "examples": [
                {"text": text, "label": "差", "keywords": [text] if draw(st.booleans()) else []} for text in texts
            ],
        }
    )


@given(tasks(), st.lists(st.text(max_size=30), max_size=3))
def test_reads_back_as_the_same_task(task, comments):
    again = parse_task(task_toml(task, comments), "again")
    assert again == task
    assert again.hash == task.hash


@pytest.mark.parametrize("name", BUILTIN_TASKS)
def test_builtin_tasks_survive(name, tmp_path):
    task = load_task(name)
    write_task(tmp_path / "own.toml", task, ["found\nby a search"])
    assert load_task(tmp_path / "own.toml").hash == task.hash
    assert (tmp_path / "own.toml").read_text(encoding="utf-8").startswith("# found by a search\n")
    assert [path.name for path in tmp_path.iterdir()] == ["own.toml"]


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_task(tmp_path / "none" / "own.toml", load_task("sentiment"))
