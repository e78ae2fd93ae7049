"""Writing result files: what they hold, that they are whole or not there, that no spreadsheet runs them."""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
import math
import os
import stat
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import fastexcel
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reviewmill.batch.cells import safe_cell
from reviewmill.batch.formats import CUT_MARK, XLSX_MAX_CELL
from reviewmill.batch.read import open_source
from reviewmill.batch.write import check_target, write_rows, write_stream
from reviewmill.errors import InputError, OutputError, RunError

COLUMNS = ["id", "text", "sentiment", "confidence", "keywords", "probabilities", "needs_review", "error"]
ROWS = [
    {"id": 1, "text": "拍照太差了😀", "sentiment": "negative", "confidence": 0.93, "keywords": ["拍照", "差"]}
    | {"probabilities": {"negative": 0.93, "positive": 0.07}, "needs_review": False, "error": None, "unasked": "x"},
    {"id": 2, "text": None, "sentiment": None, "keywords": [], "probabilities": {}, "needs_review": True}
    | {"error": {"type": "row_malformed", "message": "line 3"}},
]
WITHOUT_PROBABILITIES = [name for name in COLUMNS if name != "probabilities"]
FORMATS = ["csv", "tsv", "jsonl", "json", "parquet", "xlsx", "csv.gz", "jsonl.gz"]


def _refused(path, *words, rows=ROWS, **options):
    with pytest.raises(OutputError) as caught:
        write_rows(path, COLUMNS, rows, **options)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.hint
    return caught.value


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def _csv_rows(path, delimiter=","):
    with path.open(encoding="utf-8-sig", newline="") as handle:
        return list(csv.reader(handle, delimiter=delimiter))


# --- what the files hold ----------------------------------------------------------------------------------------------


def test_csv(tmp_path) -> None:
    path = tmp_path / "a.csv"
    assert write_rows(path, COLUMNS, ROWS) == 2
    content = path.read_bytes()
    assert content.startswith(b"\xef\xbb\xbfid,text")
    assert content.count(b"\r\n") == 3
    assert _csv_rows(path) == [
        COLUMNS,
        ["1", "拍照太差了😀", "negative", "0.93", "拍照|差", '{"negative":0.93,"positive":0.07}', "false", ""],
        ["2", "", "", "", "", "{}", "true", '{"type":"row_malformed","message":"line 3"}'],
    ]


def test_tsv_has_no_byte_order_mark(tmp_path) -> None:
    write_rows(tmp_path / "a.tsv", ["a", "b"], [{"a": "x\ty", "b": "z"}])
    assert (tmp_path / "a.tsv").read_bytes() == b'a\tb\r\n"x\ty"\tz\r\n'


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "a.jsonl.gz"])
def test_json_keeps_nested_values_and_column_order(tmp_path, name) -> None:
    path = tmp_path / name
    write_rows(path, COLUMNS, ROWS)
    text = (gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()).decode()
    objects = json.loads(text) if name == "a.json" else [json.loads(line) for line in text.splitlines()]
    assert objects == [{name: row.get(name) for name in COLUMNS} for row in ROWS]
    assert list(objects[0]) == COLUMNS
    assert "拍照" in text


def test_parquet_keeps_nested_values(tmp_path) -> None:
    write_rows(tmp_path / "a.parquet", COLUMNS, ROWS)
    frame = pl.read_parquet(tmp_path / "a.parquet")
    assert frame.columns == COLUMNS
    assert frame.schema["keywords"] == pl.List(pl.String)
    first, second = frame.to_dicts()
    assert first == {name: ROWS[0][name] for name in COLUMNS}
    assert second["probabilities"] == {"negative": None, "positive": None}
    assert second["error"] == ROWS[1]["error"]


def test_xlsx(tmp_path) -> None:
    write_rows(tmp_path / "a.xlsx", COLUMNS, ROWS)
    sheet = fastexcel.read_excel(tmp_path / "a.xlsx").load_sheet(0)
    assert sheet.to_polars().columns == COLUMNS
    assert sheet.to_polars().row(0)[:5] == (1.0, "拍照太差了😀", "negative", 0.93, "拍照|差")
    assert sheet.to_polars()["needs_review"].to_list() == [False, True]


def test_xlsx_types(tmp_path) -> None:
    row = {"d": date(2024, 5, 1), "t": datetime.fromisoformat("2024-05-01T12:30"), "long": 1234567890123456789}
    row |= {"nan": math.nan, "inf": math.inf, "utc": datetime(2024, 5, 1, tzinfo=UTC), "old": date(1800, 1, 1)}
    write_rows(tmp_path / "a.xlsx", list(row), [row])
    cells = fastexcel.read_excel(tmp_path / "a.xlsx").load_sheet(0).to_polars().to_dicts()[0]
    assert cells["long"] == "1234567890123456789"
    assert (cells["nan"], cells["inf"]) == (None, "inf")
    assert str(cells["t"]) == "2024-05-01 12:30:00"
    assert str(cells["d"]).startswith("2024-05-01")
    assert (cells["utc"], cells["old"]) == ("2024-05-01 00:00:00+00:00", "1800-01-01")


@pytest.mark.parametrize("extension", FORMATS)
def test_no_rows(tmp_path, extension) -> None:
    path = tmp_path / f"a.{extension}"
    assert write_rows(path, COLUMNS, []) == 0
    with pytest.raises(InputError):
        open_source(path)
    if extension == "json":
        assert json.loads(path.read_text()) == []


@pytest.mark.parametrize("extension", FORMATS)
def test_values_that_are_awkward(tmp_path, extension) -> None:
    values = [
        "a\ud800b",
        math.nan,
        math.inf,
        2**70,
        -(2**63),
        Decimal("1.10"),
        b"\xff",
        date(2024, 1, 2),
        {"\udfff": [math.nan]},
    ]
    values += [
        [1, "a", None],
        ["a", "\udc00"],
        (1, 2),
        {},
        {"a": {}},
        "x\x00\x01\ufffe\n",
        True,
        {1: 2},
        [[]],
        [{}],
        "\ud83d\ude00",
    ]
    for columns, rows in (
        (["v"], [{"v": value} for value in values]),
        ([f"c{n}" for n in range(len(values))], [{f"c{n}": v for n, v in enumerate(values)}]),
    ):
        path = tmp_path / f"{len(columns)}.{extension}"
        assert write_rows(path, columns, rows) == len(rows)
        raw = gzip.decompress(path.read_bytes()) if extension.endswith("gz") else path.read_bytes()
        if extension not in {"parquet", "xlsx"}:
            text = raw.decode()
            assert "a\ufffdb" in text
            assert "NaN" not in text
    if extension == "parquet":
        assert pl.read_parquet(tmp_path / "1.parquet")["v"].to_list()[0] == "a\ufffdb"
        assert pl.read_parquet(tmp_path / f"{len(values)}.parquet").height == 1


def test_parquet_column_of_mixed_types_is_text(tmp_path) -> None:
    rows = [{"a": 1, "b": 1, "c": ["x"], "d": {"k": 1}}, {"a": "zwei", "b": 2.5, "c": "y", "d": {"k": "v", "m": [1]}}]
    write_rows(tmp_path / "a.parquet", ["a", "b", "c", "d"], rows)
    frame = pl.read_parquet(tmp_path / "a.parquet")
    assert frame["a"].to_list() == ["1", "zwei"]
    assert frame["b"].to_list() == [1.0, 2.5]
    assert frame["c"].to_list() == ['["x"]', "y"]
    assert frame["d"].to_list() == [{"k": "1", "m": None}, {"k": "v", "m": [1]}]


def test_parquet_object_with_endless_keys_is_text(tmp_path) -> None:
    write_rows(tmp_path / "a.parquet", ["m"], [{"m": {f"k{n}": n}} for n in range(400)])
    frame = pl.read_parquet(tmp_path / "a.parquet")
    assert frame.schema["m"] == pl.String
    assert json.loads(frame["m"][399]) == {"k399": 399}


# --- spreadsheets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "=HYPERLINK(1)",
        "+cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(1)",
        "\t=1",
        "\rx",
        "\nx",
        "  =1",
        "\u3000=1",
        "＝1",
        "＋1",
        "－1",
        "＠a",
        "\ufeff=1",
        "\x00=1",
        "--5",
        "-",
        "=。=",
        "-5 ",
        "+86 138",
        "-５",
    ],
)
def test_formula_starts_are_escaped(text) -> None:
    assert safe_cell(text) == "'" + text


@pytest.mark.parametrize("text", ["-5", "+3.2e5", "-.5", "-5.", "+1E-9", "", "a=1", "好", " a", "'=1", "5-3", "1e5"])
def test_harmless_cells_stay(text) -> None:
    assert safe_cell(text) == text


@pytest.mark.parametrize("extension", ["csv", "tsv"])
def test_every_cell_and_header_is_escaped(tmp_path, extension) -> None:
    path = tmp_path / f"a.{extension}"
    write_rows(path, ["=h", "k"], [{"=h": ["=1", "x"], "k": -5}, {"=h": "-5", "k": "@x"}])
    assert _csv_rows(path, "\t" if extension == "tsv" else ",") == [["'=h", "k"], ["'=1|x", "-5"], ["-5", "'@x"]]


def test_xlsx_strings_stay_strings(tmp_path) -> None:
    cells = ["=1+1", "https://example.com", "007", "mailto:a@b.c", "{=1}", "a\x01b\x0b_x0041_", "\ud800\uffff", ""]
    write_rows(tmp_path / "a.xlsx", ["v", "=h"], [{"v": cell, "=h": 1} for cell in cells])
    frame = fastexcel.read_excel(tmp_path / "a.xlsx").load_sheet(0).to_polars()
    assert frame["v"].to_list() == [*cells[:6], "\ufffd\ufffd", ""]
    assert frame.columns == ["v", "=h"]


@pytest.mark.parametrize("letter", ["很", "😀"])
def test_xlsx_cuts_what_no_cell_can_hold(tmp_path, letter) -> None:
    fits = letter * (XLSX_MAX_CELL // len(letter.encode("utf-16-le")) * 2)
    write_rows(tmp_path / "a.xlsx", ["v"], [{"v": fits}, {"v": letter * 40_000}])
    whole, cut = (row.text for row in open_source(tmp_path / "a.xlsx", text="v").rows())
    assert whole == fits
    assert cut.endswith(CUT_MARK)
    assert XLSX_MAX_CELL - 1 <= len(cut.encode("utf-16-le")) // 2 <= XLSX_MAX_CELL


def test_xlsx_with_too_many_rows_is_refused_before_any_work(tmp_path) -> None:
    path = tmp_path / "a.xlsx"
    with pytest.raises(OutputError, match=r"1,048,576 rows are more(.|\n)*\.parquet"):
        check_target(path, rows=1_048_576)
    _refused(path, ".csv or .parquet", rows=[{}] * 1_048_576)
    assert check_target(path, rows=1_048_575).format == "xlsx"


# --- whole or not at all ----------------------------------------------------------------------------------------------


def _rows_that_fail(error):
    yield from ROWS * 9000
    raise error


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("error", [RunError("stopped"), TimeoutError("not the disk"), KeyboardInterrupt()])
def test_rows_that_fail_leave_the_old_file_and_nothing_else(tmp_path, extension, error) -> None:
    path = tmp_path / f"a.{extension}"
    path.write_text("old")
    with pytest.raises(type(error)) as caught:
        write_rows(path, COLUMNS, _rows_that_fail(error))
    assert caught.value is error
    assert path.read_text() == "old"
    assert _names(tmp_path) == [path.name]


@pytest.mark.parametrize("extension", FORMATS)
def test_nothing_stands_under_the_name_until_all_is_written(tmp_path, extension) -> None:
    path = tmp_path / f"a.{extension}"
    seen = []

    def rows():
        for row in ROWS * 6000:
            seen.append(path.exists())
            yield row

    assert write_rows(path, WITHOUT_PROBABILITIES, rows()) == 12_000
    assert not any(seen)
    assert _names(tmp_path) == [path.name]


_FULL_DISK = """
import resource, sys, signal
from pathlib import Path
from reviewmill.batch.write import write_rows
from reviewmill.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    write_rows(Path(sys.argv[1]), ["id", "text"], ({"id": n, "text": hex(n**9)} for n in range(60_000)))
except OutputError as error:
    print(error.hint)
"""


@pytest.mark.parametrize("extension", ["csv", "jsonl.gz", "parquet", "xlsx"])
def test_no_room_left(tmp_path, extension) -> None:
    """The operating system refuses to let the file grow, as it does on a full disk."""
    path = tmp_path / f"a.{extension}"
    path.write_text("old")
    done = subprocess.run([sys.executable, "-c", _FULL_DISK, path], check=True, capture_output=True, text=True)
    assert "free some space" in done.stdout, done.stderr
    assert path.read_text() == "old"
    assert _names(tmp_path) == [path.name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a device of Linux")
def test_full_device_is_written_to_directly_and_its_error_told() -> None:
    _refused(Path("/dev/full"), "No space left", "free some space", rows=ROWS * 9999, format="csv")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)
    _refused(Path("/dev/full"), "no regular file", format="xlsx")


@pytest.mark.parametrize(
    ("number", "word"), [(errno.EROFS, "read-only"), (errno.EACCES, "read-only"), (errno.EDQUOT, "full")]
)
def test_folder_that_takes_no_file(tmp_path, monkeypatch, number, word) -> None:
    def refuse(*args, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mkdir", refuse)
    _refused(tmp_path / "a.csv", os.strerror(number), word)
    assert _names(tmp_path) == []


def test_places_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").touch()
    _refused(tmp_path / "none" / "a.csv", "does not exist", "Create")
    _refused(tmp_path / "file" / "a.csv", "is not a folder")
    (tmp_path / "folder.csv").mkdir()
    _refused(tmp_path / "folder.csv", "is a folder")
    _refused(tmp_path / "a.txt", "text lines", ".csv")
    _refused(tmp_path / "a", "text lines")
    _refused(tmp_path / "a.docx", ".docx", ".parquet")
    _refused(tmp_path / "a.xlsx.gz", "not known")


def test_permissions_and_links_are_kept(tmp_path) -> None:
    real, link = tmp_path / "real.csv", tmp_path / "link.csv"
    real.touch(mode=0o600)
    link.symlink_to(real)
    write_rows(link, ["a"], [{"a": 1}])
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert _csv_rows(real) == [["a"], ["1"]]


_KILLED = """
import os, signal, sys
from pathlib import Path
from reviewmill.batch.write import write_rows
def rows():
    yield {"a": 1}
    os.kill(os.getpid(), signal.SIGKILL)
write_rows(Path(sys.argv[1]), ["a"], rows())
"""


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path) -> None:
    path = tmp_path / "a.csv"
    subprocess.run([sys.executable, "-c", _KILLED, path], check=False)
    assert len(_names(tmp_path)) == 1

    def rows():  # while this writer works, another one of the same file must not take its folder for abandoned
        yield {"a": 2}
        write_rows(path, ["a"], [{"a": 3}])
        yield {"a": 4}

    assert write_rows(path, ["a"], rows()) == 2
    assert _names(tmp_path) == ["a.csv"]
    assert _csv_rows(path) == [["a"], ["2"], ["4"]]


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "jsonl", "tsv", "json"])
def test_streams(kind) -> None:
    rows = [{"a": "好\ud800", "b": ["x"]}, {"a": "=1"}]
    binary, memory = io.BytesIO(), io.StringIO()
    text = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    for stream in (binary, memory, text):
        assert write_stream(stream, ["a", "b"], iter(rows), kind) == 2
        assert not stream.closed
    assert binary.getvalue().decode() == memory.getvalue() == text.buffer.getvalue().decode()
    assert "好\ufffd" in memory.getvalue()


def test_stream_gives_each_row_at_once() -> None:
    stream = io.BytesIO()
    lengths = []

    def rows():
        for n in range(3):
            lengths.append(len(stream.getvalue()))
            yield {"a": n}

    write_stream(stream, ["a"], rows(), "jsonl")
    assert lengths == [0, 9, 18]


def test_stream_errors() -> None:
    with pytest.raises(OutputError, match="stream"):
        write_stream(io.BytesIO(), ["a"], [], "parquet")
    with pytest.raises(OutputError, match="not known"):
        write_stream(io.BytesIO(), ["a"], [], "nonsense")
    with pytest.raises(ValueError, match="mine"):
        write_stream(io.BytesIO(), ["a"], _rows_that_fail(ValueError("mine")), "csv")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as stream, pytest.raises(BrokenPipeError):
        write_stream(stream, ["a"], [{"a": 1}], "csv")


# --- round trips ------------------------------------------------------------------------------------------------------

_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=40) | st.sampled_from(
    [
        "=1",
        '"',
        '""',
        "a\r\nb",
        "\r",
        "\n",
        "'",
        "-5",
        "- 5",
        ",;\t|",
        "\ufeff",
        " x ",
        "a\x00b\x01",
        "\u2028",
        "'=1",
        "\\",
    ]
)
_TABLES = st.lists(st.fixed_dictionaries({"id": _TEXT, "text": _TEXT}), min_size=1, max_size=8)


def _read_back(folder, extension, rows):
    path = folder / f"a.{extension}"
    assert write_rows(path, ["id", "text"], rows) == len(rows)
    read = list(open_source(path, text="text").rows())
    assert [row.number for row in read] == list(range(1, len(rows) + 1))
    assert [row.text for row in read] == [row.fields["text"] for row in read]
    return [row.fields for row in read]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("round")


@pytest.mark.parametrize("extension", ["csv", "tsv", "csv.gz"])
@settings(max_examples=30)
@given(rows=_TABLES)
def test_round_trip_delimited(folder, extension, rows) -> None:
    escaped = [{name: safe_cell(value) for name, value in row.items()} for row in rows]
    assert _read_back(folder, extension, rows) == escaped


@pytest.mark.parametrize("extension", ["jsonl", "json", "parquet"])
@settings(max_examples=30)
@given(rows=_TABLES)
def test_round_trip_nested(folder, extension, rows) -> None:
    assert _read_back(folder, extension, rows) == rows


@settings(max_examples=30)
@given(rows=_TABLES)
def test_round_trip_xlsx(folder, rows) -> None:
    rows = [{"id": "x" + row["id"], "text": "x" + row["text"]} for row in rows]
    expected = [
        {name: value.replace("\ufffe", "\ufffd").replace("\uffff", "\ufffd") for name, value in row.items()}
        for row in rows
    ]
    assert _read_back(folder, "xlsx", rows) == expected


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _TEXT | st.sampled_from(["\ud800", "x\udfff"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet", "xlsx"])
@settings(max_examples=30)
@given(values=st.lists(_VALUES, min_size=1, max_size=5))
def test_no_value_fails_a_run(folder, extension, values) -> None:
    rows = [{"text": "好", "v": value} for value in values]
    path = folder / f"v.{extension}"
    assert write_rows(path, ["text", "v"], rows) == len(values)
    assert len(list(open_source(path).rows())) == len(values)
