"""Reading files of comments: formats, encodings, rows that cannot be read, files that are none."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import subprocess
import sys
import time
import zipfile
from datetime import datetime

import polars as pl
import pytest
import xlsxwriter

from reviewmill.batch.read import open_source
from reviewmill.batch.tables import MAX_COLUMNS
from reviewmill.errors import ROW_ERROR_TYPES, InputError

COMMENTS = [
    "拍照太差了，根本不像宣传那样清晰。",
    "物流很快，第二天就到了，包装也好",
    "还行吧，没有想象中那么好用",
    'He said "fine"\nand left',
]


def _rows(path, **options):
    return list(open_source(path, **options).rows())


def _texts(path, **options):
    return [row.text for row in _rows(path, **options)]


def _write(tmp_path, name, content, encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def _refused(path, *words, **options):
    with pytest.raises(InputError) as caught:
        list(open_source(path, **options).rows())
    for word in words:
        assert word in str(caught.value)
    assert caught.value.hint
    return caught.value


def _csv(texts, delimiter=","):
    quoted = ['"' + text.replace('"', '""') + '"' for text in texts]
    return f"id{delimiter}评论内容\r\n" + "".join(f"{n}{delimiter}{text}\r\n" for n, text in enumerate(quoted, 7))


def _xlsx(path, table, sheet=None):
    book = xlsxwriter.Workbook(path)
    book.add_worksheet("empty")
    page = book.add_worksheet(sheet)
    for number, line in enumerate(table):
        page.write_row(number, 0, line)
    book.close()
    return path


# --- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "|"), ("a.CSV", "\t"), ("a.tsv", "\t")]
)
def test_delimited(tmp_path, name, delimiter) -> None:
    source = open_source(_write(tmp_path, name, _csv(COMMENTS, delimiter)))
    assert (source.columns, source.text_column, source.id_column) == (["id", "评论内容"], "评论内容", "id")
    rows = list(source.rows())
    assert [(row.number, row.id, row.text) for row in rows] == [(n + 1, str(n + 7), t) for n, t in enumerate(COMMENTS)]
    assert rows[0].fields == {"id": "7", "评论内容": COMMENTS[0]}
    assert list(source.rows()) == rows


def test_comma_wins_where_the_header_holds_several_delimiters(tmp_path) -> None:
    assert open_source(_write(tmp_path, "a.csv", "text,a;b\n好用,1\n")).columns == ["text", "a;b"]
    assert open_source(_write(tmp_path, "b.csv", '"a,b";text\n1;好用\n')).columns == ["a,b", "text"]


def test_jsonl(tmp_path) -> None:
    lines = [
        json.dumps({"id": n, "text": text, "m": {"k": [n]}}, ensure_ascii=n % 2 == 0) for n, text in enumerate(COMMENTS)
    ]
    source = open_source(_write(tmp_path, "a.jsonl", "\ufeff" + "\n\n".join(lines)))
    assert (source.columns, source.id_column) == (["id", "text", "m"], "id")
    assert [row.text for row in source.rows()] == COMMENTS
    assert [row.fields["m"] for row in source.rows()] == [{"k": [n]} for n in range(4)]


@pytest.mark.parametrize(
    "content",
    [
        [{"id": 1, "text": t} for t in COMMENTS],
        {"total": 4, "tags": {"a": [1]}, "data": [{"id": 1, "text": t} for t in COMMENTS], "next": None},
        COMMENTS,
    ],
)
@pytest.mark.parametrize("indent", [None, 3])
def test_json(tmp_path, content, indent) -> None:
    path = _write(tmp_path, "a.json", json.dumps(content, indent=indent))
    assert _texts(path) == COMMENTS


def test_json_is_read_right_across_its_pieces(tmp_path) -> None:
    # Items of many lengths, so that the 64 KiB pieces are cut inside strings, escapes, numbers and literals.
    items = [{"text": '差\\"\u2028\n' * (n % 23), "n": 10**n, "b": n % 2 == 0, "x": None} for n in range(300)] * 30
    path = _write(tmp_path, "a.json", json.dumps(items))
    assert [row.fields for row in _rows(path)] == items


def test_parquet(tmp_path) -> None:
    path = tmp_path / "a[1].parquet"
    when = datetime.fromisoformat("2024-05-01T12:00")
    pl.DataFrame({"id": [1, 2, 3, 4], "review": COMMENTS, "tags": [["a"]] * 4, "at": [when] * 4}).write_parquet(path)
    rows = _rows(path)
    assert [row.text for row in rows] == COMMENTS
    assert rows[3].fields == {"id": 4, "review": COMMENTS[3], "tags": ["a"], "at": when}


def test_xlsx_keeps_types_and_takes_the_first_sheet_with_cells(tmp_path) -> None:
    path = tmp_path / "a.xlsx"
    book = xlsxwriter.Workbook(path)
    book.add_worksheet("empty")
    sheet = book.add_worksheet("data")
    sheet.write_row(1, 0, ["编号", "评论", "stars", ""])
    for number, text in enumerate(COMMENTS):
        sheet.write_number(2 + number, 0, 123456789012345 + number)
        sheet.write_string(2 + number, 1, text)
        sheet.write_formula(2 + number, 2, "=1+1", value=2.5)
    sheet.write_string(8, 1, "after a gap")
    book.close()
    source = open_source(path)
    rows = list(source.rows())
    assert source.columns[:3] == ["编号", "评论", "stars"]
    assert [row.text for row in rows] == [*COMMENTS, "", "", "after a gap"][: len(rows)]
    assert rows[0].id == 123456789012345
    assert isinstance(rows[0].id, int)
    assert rows[0].fields["stars"] == 2.5


def test_xlsx_number_far_down_in_a_text_column_is_not_lost(tmp_path) -> None:
    table = [["评论"], *([f"还不错 {n}"] for n in range(1500)), [666]]
    assert _texts(_xlsx(tmp_path / "a.xlsx", table))[-1] == "666"


@pytest.mark.parametrize("name", ["a.txt", "a.log", "a"])
def test_text_lines(tmp_path, name) -> None:
    rows = _rows(_write(tmp_path, name, "\n好用\r\n\n不好用,真的\n\n \n"))
    assert [(row.number, row.text) for row in rows] == [(1, ""), (2, "好用"), (3, ""), (4, "不好用,真的")]
    assert rows[1].fields == {"comment": "好用"}


@pytest.mark.parametrize(
    ("name", "content"), [("a.csv.gz", _csv(COMMENTS)), ("a.jsonl.gz", json.dumps({"text": COMMENTS[0]}))]
)
def test_gzip(tmp_path, name, content) -> None:
    path = _write(tmp_path, name, gzip.compress(content.encode()))
    assert _texts(path)[0] == COMMENTS[0]
    path.write_bytes(path.read_bytes()[:-12])
    _refused(path, "cannot be read")


def test_format_can_be_named(tmp_path) -> None:
    path = _write(tmp_path, "spooled", _csv(COMMENTS))
    for named in ("csv", ".CSV"):
        assert _texts(path, format=named) == COMMENTS


def test_digest_is_sha256_of_the_bytes(tmp_path) -> None:
    path = _write(tmp_path, "a.csv", _csv(COMMENTS))
    assert open_source(path).digest() == hashlib.sha256(path.read_bytes()).hexdigest()


# --- encodings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030", "gbk"])
@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", _csv(COMMENTS)), ("a.json", json.dumps(COMMENTS, ensure_ascii=False)), ("a.txt", COMMENTS[0])],
)
def test_encodings(tmp_path, encoding, name, content) -> None:
    assert _texts(_write(tmp_path, name, content, encoding))[0] == COMMENTS[0]


def test_utf16_big_endian(tmp_path) -> None:
    assert _texts(_write(tmp_path, "a.csv", "\ufeff" + _csv(COMMENTS), "utf-16-be")) == COMMENTS


def test_gb18030_far_behind_ascii(tmp_path) -> None:
    content = "text\n" + ("fine; " * 1000 + "\n") * 200 + "这个手机拍照太差了\n"
    assert _texts(_write(tmp_path, "a.csv", content, "gb18030"))[-1] == "这个手机拍照太差了"


@pytest.mark.parametrize(
    ("content", "offset"),
    [
        ("評論\n這個餐廳的服務態度真的很差，等了一個小時才上菜，不會再來了\n".encode("big5"), 0),
        ("text\nna\u00efve caf\u00e9s, d\u00e9j\u00e0 vu\n".encode("cp1252"), 7),
        ("评论\n很好用".encode() + b"\xff\n" + "不错的\n".encode(), 16),
        ("评论\n".encode() + "好".encode() * 500_000 + b"\xe5\xa5", 7 + 1_500_000),
    ],
)
def test_other_encodings_are_refused_with_the_offset(tmp_path, content, offset) -> None:
    _refused(_write(tmp_path, "a.csv", content), f"byte {offset:,} ", "iconv")


def test_utf16_cut_in_the_middle(tmp_path) -> None:
    _refused(_write(tmp_path, "a.csv", _csv(COMMENTS).encode("utf-16")[:-1]), "utf-16")


# --- rows that cannot be read -----------------------------------------------------------------------------------------


def _errors(rows):
    assert all((row.text is None) == (row.error is not None) for row in rows)
    return {row.number: row.error["type"] for row in rows if row.error}


def test_csv_rows_with_a_wrong_number_of_fields(tmp_path) -> None:
    rows = _rows(_write(tmp_path, "a.csv", "id,text\n1,好\n\n2\n3,a,b\n4,surplus,,\n5,fine\n"))
    assert _errors(rows) == {2: "row_malformed", 3: "row_malformed"}
    assert rows[1].error["message"] == "line 4: 1 fields where the header has 2"
    assert (rows[1].fields, rows[1].id) == ({"id": "2", "text": None}, "2")
    assert [row.text for row in rows] == ["好", None, None, "surplus", "fine"]


def test_csv_values_stay_exactly_as_they_stood(tmp_path) -> None:
    cells = ["  padded ", "007", "'=1+1", "a\x00b", "1e5", "\u2028x\u0085", "NULL", '"']
    rows = _rows(_write(tmp_path, "a.csv", _csv(cells)))
    assert [row.text for row in rows] == cells
    assert [row.fields["评论内容"] for row in rows] == cells


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_csv_line_ends(tmp_path, newline) -> None:
    path = _write(tmp_path, "a.csv", newline.join(["id,text", "1,好", f'2,"a{newline}b"', ""]))
    assert _texts(path) == ["好", f"a{newline}b"]


def test_one_column_csv_keeps_blank_lines_as_empty_comments(tmp_path) -> None:
    assert _texts(_write(tmp_path, "a.csv", "评论\n好\n\n\n不好\n\n")) == ["好", "", "", "不好"]


@pytest.mark.parametrize(
    ("tail", "what"),
    [
        ("9,fine\n", "end of the file"),  # never closed
        ('9,"a, b"\n', "fields where"),  # closed by the next row's opening quote
        ('9,"fine"\n', "follows the closing"),  # likewise, and the number of fields happens to be right
    ],
)
def test_unclosed_quote_costs_one_row(tmp_path, tail, what) -> None:
    middle = "".join(f"{n},还不错\n" for n in range(2, 9))
    rows = _rows(_write(tmp_path, "a.csv", f'id,text\n1,"not closed\n{middle}{tail}'))
    assert _errors(rows) == {1: "row_malformed"}
    assert rows[0].error["message"].startswith("line 2: a quote opens")
    assert what in rows[0].error["message"]
    assert [row.id for row in rows[1:]] == [str(n) for n in range(2, 10)]


def test_unclosed_quote_in_a_large_file_costs_one_row(tmp_path) -> None:
    line = "x" * 997 + "\n"
    rows = _rows(_write(tmp_path, "a.csv", 'id,text\n1,"oops\n' + f"2,{line}" * 20_000))
    assert _errors(rows) == {1: "row_malformed"}
    assert "16,777,216 characters" in rows[0].error["message"]
    assert len(rows) == 20_001


def test_five_megabyte_comment_is_read(tmp_path) -> None:
    long = "很" * 2_000_000
    assert _texts(_write(tmp_path, "a.csv", _csv([long, "好"]))) == [long, "好"]
    assert _texts(_write(tmp_path, "a.json", json.dumps([long, "好"]))) == [long, "好"]


def test_jsonl_rows(tmp_path) -> None:
    deep = "[" * 200_000
    lines = [
        '{"text": "好", "id": 1}',
        "{nonsense",
        "[1]",
        '{"id": 5}',
        '{"text": null}',
        '{"text": 666}',
        '{"text": [1]}',
    ]
    lines += ['{"text": true}', deep, '{"text": "\\ud83d!\\ud83d\\ude00"}', "1" * 5000, '{"text": "\\u0000"}']
    rows = _rows(_write(tmp_path, "a.jsonl", "\n".join(lines)))
    broken = {2: "row_malformed", 3: "row_malformed", 9: "row_malformed", 11: "row_malformed"}
    assert _errors(rows) == broken | {4: "text_missing", 7: "text_missing", 8: "text_missing"}
    assert set(_errors(rows).values()) <= ROW_ERROR_TYPES.keys()
    assert [row.text for row in rows if not row.error] == ["好", "", "666", "\ufffd!😀", "\x00"]
    assert rows[1].error["message"].startswith("line 2 is not JSON")
    assert "'text'" in rows[3].error["message"]
    assert all(list(row.fields) == ["text", "id"] or row.fields.keys() == {"text", "id"} for row in rows)


def test_json_items(tmp_path) -> None:
    rows = _rows(_write(tmp_path, "a.json", '[{"text": "好"}, 3, {"other": 1}]'))
    assert _errors(rows) == {2: "row_malformed", 3: "text_missing"}
    rows = _rows(_write(tmp_path, "b.json", '["好", 3, null, {"text": 1}]'))
    assert [row.text for row in rows] == ["好", "3", "", None]
    assert _errors(rows) == {4: "row_malformed"}


def test_null_text_is_empty(tmp_path) -> None:
    path = tmp_path / "a.parquet"
    pl.DataFrame({"text": ["好", None], "n": [1, 2]}).write_parquet(path)
    assert _texts(path) == ["好", ""]
    assert _texts(_xlsx(tmp_path / "a.xlsx", [["text", "n"], ["好", 1], [None, 2]])) == ["好", ""]


# --- columns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "评论",
        " 评论内容 ",
        "评价",
        "留言",
        "反馈",
        "Review Text",
        "review-body",
        "COMMENT",
        "text",
        "ｔｅｘｔ",
        "Content",
    ],
)
def test_text_column_by_name(tmp_path, name) -> None:
    source = open_source(_write(tmp_path, "a.csv", f'user,"{name}",ID\n{COMMENTS[0]},好,1\n'))
    assert (source.text_column, source.id_column) == (name, "ID")


def test_of_two_named_columns_the_one_with_words_is_taken(tmp_path) -> None:
    path = _write(tmp_path, "a.csv", "review,content\n5,很好用\n4,不太好用\n")
    assert open_source(path).text_column == "content"


def test_text_column_by_looking(tmp_path) -> None:
    head = "order,date,city,url,user,说了什么,score\n"
    body = [
        f"A{n}X99,2024-01-{n + 1:02},杭州,https://e.cn/{n},用户{n},{t} {n}次,{n}.5\n"
        for n, t in enumerate(COMMENTS[:3] * 5)
    ]
    assert open_source(_write(tmp_path, "a.csv", head + "".join(body))).text_column == "说了什么"


def test_survey_question_as_the_only_header(tmp_path) -> None:
    path = _write(tmp_path, "a.csv", "您对我们的服务，还有什么意见和建议？\n" + "\n".join(COMMENTS[:3]))
    assert len(_rows(path)) == 3


@pytest.mark.parametrize("content", ["{}\n", "{}\n{}\n"])
def test_rows_without_any_column_are_refused(tmp_path, content) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match="no row has a column"):
        open_source(path)
    with pytest.raises(InputError, match="no row has a column"):
        open_source(path, text="comment")


def test_unclear_text_column_lists_columns_with_samples(tmp_path) -> None:
    path = _write(
        tmp_path, "a.csv", "pro,con,stars\n拍照非常清晰而且快,电池不太耐用很烦,4\n外观很漂亮手感好,有点重拿着累手,3\n"
    )
    error = _refused(path, "pro: '拍照非常清晰而且快'", "con: '电池不太耐用很烦'", "stars: '4'", "--text")
    assert "not clear" in error.message
    assert _texts(path, text="con")[0] == "电池不太耐用很烦"


def test_columns_as_given(tmp_path) -> None:
    path = _write(tmp_path, "a.csv", "Key,A b,text\nk,好,x\n")
    source = open_source(path, text="a_b", id="key")
    assert (source.text_column, source.id_column) == ("A b", "Key")
    _refused(path, "'评论'", "Key, A b, text", "--text", text="评论")
    _refused(path, "'nr'", "Key, A b, text", "--id", id="nr")


@pytest.mark.parametrize(
    "first", ["这个手机拍照太差了，根本不像宣传那样清晰。", "1,拍照差", "2024-05-01,拍照差", "很好用！"]
)
def test_missing_header_is_said(tmp_path, first) -> None:
    _refused(_write(tmp_path, "a.csv", f"{first}\n{first}\n"), "looks like data", "--format txt")


def test_header_names_are_made_unique(tmp_path) -> None:
    source = open_source(_write(tmp_path, "a.csv", "text,text,,text_2\n好,b,c,d\n"))
    assert source.columns == ["text", "text_2", "column_3", "text_2_2"]
    assert next(source.rows()).fields == dict(zip(source.columns, ["好", "b", "c", "d"], strict=True))


def test_duplicate_ids_are_told_apart_by_number(tmp_path) -> None:
    rows = _rows(_write(tmp_path, "a.csv", "id,text\n1,a\n1,b\n"))
    assert [(row.number, row.id) for row in rows] == [(1, "1"), (2, "1")]


# --- files that are none ----------------------------------------------------------------------------------------------


def test_no_file(tmp_path) -> None:
    _refused(tmp_path / "none.csv", "does not exist")
    _refused(tmp_path, "folder", format="csv")
    _refused(_write(tmp_path, "a.csv", ""), "is empty")
    _refused(None, "standard input")
    _refused(_write(tmp_path, "a.csv", "x") / "b.csv", "cannot be read")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "\ufeff"),
        ("a.csv", "\n\r\n\n"),
        ("a.txt", "\n \n"),
        ("a.jsonl", "\n"),
        ("a.json", "[]"),
        ("a.csv", "id,text\n"),
        ("a.csv", "评论"),
        ("b.json", '{"data": []}'),
    ],
)
def test_no_comments(tmp_path, name, content) -> None:
    _refused(_write(tmp_path, name, content), name)


def test_no_comments_in_a_workbook_or_parquet_file(tmp_path) -> None:
    _refused(_xlsx(tmp_path / "a.xlsx", []), "no sheet has any cells")
    _refused(_xlsx(tmp_path / "b.xlsx", [["评论", "x"]]), "only a header")
    pl.DataFrame({"text": []}, schema={"text": pl.String}).write_parquet(tmp_path / "a.parquet")
    _refused(tmp_path / "a.parquet", "only a header")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9, "a PNG"),
        (b"PK\x03\x04" + bytes(range(256)) * 9, "a ZIP"),
        (b"GGUF\x03\x00\x00\x00" + bytes(100), "GGUF"),
        (b"\x1f\x8b\x08\x00" + bytes(100), "gzip"),
        (bytes(range(32)) * 50, "control characters"),
        ("text\nvery fine\n好用\n".encode("utf-16-le"), "UTF-16 without"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.txt"])
def test_binary_files(tmp_path, name, content, what) -> None:
    _refused(_write(tmp_path, name, content), "is not text", what)


def test_broken_workbooks(tmp_path) -> None:
    whole = _xlsx(tmp_path / "a.xlsx", [["评论"], ["好"]]).read_bytes()
    _refused(_write(tmp_path, "b.xlsx", whole[: len(whole) // 2]), "not an XLSX")
    _refused(_write(tmp_path, "c.xlsx", "评论\n好\n"), "not an XLSX")
    _refused(_write(tmp_path, "d.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)), "password")
    _refused(_write(tmp_path, "e.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "Save the spreadsheet as .xlsx")
    with zipfile.ZipFile(tmp_path / "f.xlsx", "w") as archive:
        archive.writestr("hello.txt", "no workbook")
    _refused(tmp_path / "f.xlsx", "not an XLSX workbook that can be read")


def test_workbook_that_would_unpack_to_gigabytes_is_refused(tmp_path) -> None:
    path = _xlsx(tmp_path / "a.xlsx", [["评论"], ["好"]])
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")  # the central directory, whose sizes are believed before unpacking
    content[entry + 24 : entry + 28] = struct.pack("<I", 3 * 10**9)
    path.write_bytes(content)
    _refused(path, "would unpack to 3.0 GB", ".csv")


def test_broken_parquet(tmp_path) -> None:
    _refused(_write(tmp_path, "a.parquet", "text\n好\n"), "not a Parquet")
    pl.DataFrame({"text": COMMENTS * 99}).write_parquet(tmp_path / "b.parquet")
    content = (tmp_path / "b.parquet").read_bytes()
    _refused(_write(tmp_path, "c.parquet", content[: len(content) // 2]), "not a Parquet")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('[{"text": "a"}, {"text": b}]', "after 1 items"),
        ('[{"text": "a"}', "',' is missing"),
        ('{"text": "a"}\n{"text": "b"}', "no array"),
        ('[{"text": "a"}] x', "name it .jsonl"),
        ('{"a": ["x"], "b": ["y"]}', "several arrays (a, b"),
        ('"just a string"', "neither an array"),
        ('[{"text": "a', "Unterminated"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_broken_json(tmp_path, content, what) -> None:
    _refused(_write(tmp_path, "a.json", content), what)


def test_csv_called_jsonl(tmp_path) -> None:
    _refused(_write(tmp_path, "a.jsonl", _csv(COMMENTS)), "none of the first", "line 1 is not JSON", "--format")


@pytest.mark.parametrize("name", ["a.docx", "a.parquet.gz", "a.zip"])
def test_unknown_extension_lists_the_known(tmp_path, name) -> None:
    _refused(_write(tmp_path, name, "x"), ".csv, .tsv", ".parquet, .xlsx")
    _refused(_write(tmp_path, "a.csv", "x"), "yaml", format="yaml")


def test_too_many_columns(tmp_path) -> None:
    _refused(_write(tmp_path, "a.csv", ",".join(f"c{n}" for n in range(1_000_000)) + "\n1\n"), "1,000,000 columns")
    lines = "\n".join(json.dumps({"text": "好", f"k{n}": 1}) for n in range(MAX_COLUMNS + 1))
    _refused(_write(tmp_path, "a.jsonl", lines), "columns")


def test_endless_line(tmp_path) -> None:
    path = tmp_path / "a.csv"
    with path.open("wb") as handle:
        handle.write(b"text\n")
        for _ in range(70):
            handle.write(b"x" * (1 << 20))
    _refused(path, "over 64 MB")


def test_file_that_vanishes_between_two_readings(tmp_path) -> None:
    source = open_source(_write(tmp_path, "a.csv", _csv(COMMENTS)))
    source.path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        list(source.rows())
    with pytest.raises(InputError, match="does not exist"):
        source.digest()


# --- size -------------------------------------------------------------------------------------------------------------

_STREAM = """
import re, sys
from pathlib import Path
from reviewmill.batch.read import open_source
from reviewmill.batch.write import write_rows
source, target = open_source(Path(sys.argv[1])), Path(sys.argv[2])
def peak():
    # Not ru_maxrss: a child inherits there what its parent (pytest, large by now) held when it forked.
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
before = peak()
count = write_rows(target, source.columns, (row.fields for row in source.rows()))
print(count, before, peak())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory from Linux's /proc")
@pytest.mark.parametrize("extension", ["csv", "jsonl", "json", "parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path, extension) -> None:
    path, rows = tmp_path / f"a.{extension}", 300_000
    frame = pl.DataFrame({"id": range(rows), "text": [f"{COMMENTS[n % 3] * 4}{n}" for n in range(rows)]})
    writers = {
        "csv": frame.write_csv,
        "jsonl": frame.write_ndjson,
        "json": frame.write_json,
        "parquet": frame.write_parquet,
    }
    writers[extension](path)
    del frame
    command = [sys.executable, "-c", _STREAM, path, tmp_path / f"out.{extension}"]
    count, before, peak = map(int, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    assert count == rows
    assert peak < 400
    assert peak - before < 250


@pytest.mark.clock
def test_plain_csv_is_read_fast(tmp_path) -> None:
    path = _write(
        tmp_path, "a.csv", "id,评论,stars\n" + "".join(f"{n},{COMMENTS[n % 3]},{n % 5}\n" for n in range(50_000))
    )
    source = open_source(path)
    started = time.process_time()
    assert sum(1 for _ in source.rows()) == 50_000
    assert time.process_time() - started < 2  # five times what it takes; a quadratic slip takes longer
