"""Labelled files: what cannot be used is refused or told, and never silently counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evaluated import comments, write_rows
from reviewmill.errors import ColumnError, InputError
from reviewmill.evaluate.labelled import parse_mapping, read_labelled
from reviewmill.tasks import load_task

TASK = load_task("sentiment")


def read(path: Path, **options):
    return read_labelled(path, TASK, **({"label": "label"} | options))


def test_rows_with_ids_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("编号,评论,星级,情感\n7,很好,5,positive\n8,太差了,1,Negative \n")
    found = read(path, label="情感")
    first, second = found.rows
    assert (first.number, first.id, first.text, first.label, first.metadata) == (
        1,
        "7",
        "很好",
        "positive",
        {"星级": "5"},
    )
    assert second.label == "negative"
    assert found.labels_present == ("positive", "negative")
    assert len(found.digest) == 64


@pytest.mark.parametrize("column", ["label", "LABEL", "La-bel"])
def test_the_label_column_is_found_as_other_columns_are(tmp_path: Path, column: str) -> None:
    path = write_rows(tmp_path / "a.jsonl", comments(2, 2))
    assert len(read(path, label=column).rows) == 4


def test_a_label_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ColumnError, match="no column 'gold'") as told:
        read(write_rows(tmp_path / "a.jsonl", comments(1, 1)), label="gold")
    assert told.value.hint is not None
    assert "label" in told.value.hint


def test_a_column_cannot_be_comment_and_label(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="both"):
        read(write_rows(tmp_path / "a.jsonl", comments(1, 1)), label="text")


def test_labels_are_mapped_and_numbers_are_their_text(tmp_path: Path) -> None:
    rows = [
        {"text": "很好啊", "y": 1},
        {"text": "太差", "y": 0.0},
        {"text": "黑色", "y": "2"},
        {"text": "行", "y": True},
    ]
    path = write_rows(tmp_path / "a.jsonl", rows)
    found = read(path, label="y", mapping={"1": "positive", "0": "negative", "2": "", "true": "positive"})
    assert [row.label for row in found.rows] == ["positive", "negative", "positive"]
    assert found.left_out == {"mapped_away": 1}


def test_unknown_labels_are_counted_named_and_explained(tmp_path: Path) -> None:
    rows = [
        *comments(3, 3),
        {"text": "a b", "label": "mixed"},
        {"text": "c d", "label": "mixed"},
        {"text": "e", "label": "好评"},
    ]
    path = write_rows(tmp_path / "a.jsonl", rows)
    with pytest.raises(InputError) as told:
        read(path)
    assert "3 rows" in told.value.message
    assert "'mixed' (2 rows, first row 7)" in told.value.message
    assert "'好评' (1 row, first row 9)" in told.value.message
    assert told.value.hint is not None
    assert "--map mixed=" in told.value.hint
    assert len(read(path, mapping={"mixed": "", "好评": "positive"}).rows) == 7


def test_a_mapping_to_no_label_of_the_task(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'good' is no label"):
        read(write_rows(tmp_path / "a.jsonl", comments(1, 1)), mapping={"好评": "good"})


def test_a_mapping_that_hits_nothing_is_told(tmp_path: Path) -> None:
    found = read(write_rows(tmp_path / "a.jsonl", comments(1, 1)), mapping={"好评": "positive"})
    assert any("'好评'" in warning for warning in found.warnings)


def test_missing_labels_texts_and_nan_are_left_out_and_told(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [*comments(3, 3)]
    rows += [{"text": "没有标签"}, {"text": "空", "label": ""}, {"text": "空", "label": None}]
    rows += [
        {"text": "", "label": "positive"},
        {"text": None, "label": "positive"},
        {"text": ["x"], "label": "positive"},
    ]
    path = write_rows(tmp_path / "a.jsonl", rows)
    path.write_text(path.read_text() + '{"text": "甲", "label": NaN}\n')
    found = read(path)
    assert len(found.rows) == 6
    assert found.left_out == {"no_label": 4, "no_text": 2, "unreadable": 1}
    assert "4 rows have no label" in found.warnings[0]


def test_no_usable_row(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no usable row: 2 rows have no label"):
        read(write_rows(tmp_path / "a.jsonl", [{"text": "甲甲", "label": ""}, {"text": "乙乙", "label": None}]))


def test_every_text_counts_once_and_contradictions_not_at_all(tmp_path: Path) -> None:
    rows = [{"text": text, "label": label} for text, label in [
        ("很好", "positive"), ("很好", "positive"), (" 很好 ", "positive"),
        ("一般般", "neutral"), ("一般般", "negative"), ("太差", "negative"),
    ]]  # fmt: skip
    found = read(write_rows(tmp_path / "a.jsonl", rows))
    assert [(row.text, row.number) for row in found.rows] == [("很好", 1), ("太差", 6)]
    assert found.left_out == {"duplicate": 2, "contradiction": 2}
    assert "two different labels" in found.warnings[0]


def test_one_class_two_classes_few_rows(tmp_path: Path) -> None:
    one = read(write_rows(tmp_path / "one.jsonl", comments(10, 0))).warnings
    assert any("Every row has the label 'positive'" in warning for warning in one)
    assert any("Only 10 rows" in warning for warning in one)
    two = read(write_rows(tmp_path / "two.jsonl", comments(60, 60))).warnings
    assert len(two) == 1
    assert "No row has the label 'neutral'" in two[0]
    assert read(write_rows(tmp_path / "three.jsonl", comments(40, 40, 40))).warnings == []


def test_mappings_as_they_are_written() -> None:
    assert parse_mapping(["好评=positive,差评=negative", "其他="]) == {
        "好评": "positive",
        "差评": "negative",
        "其他": "",
    }
    assert parse_mapping(["a=b=positive"]) == {"a=b": "positive"}
    for wrong in ("positive", "=positive", "a=x,a=y"):
        with pytest.raises(InputError, match="--map"):
            parse_mapping([wrong])


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": 1}))
    with pytest.raises(InputError):
        read(path)
