"""Parquet and XLSX as tables."""

from __future__ import annotations

import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import fastexcel
import polars as pl

from reviewmill.batch.formats import MAX_UNPACKED_BYTES
from reviewmill.batch.tables import Record, check_columns, short, unique_names
from reviewmill.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BATCH_ROWS: Final = 5000


class Parquet:
    """A Parquet file, by polars' streaming engine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._understood():
            self.columns = pl.scan_parquet(path, glob=False).collect_schema().names()
        if not self.columns:
            raise InputError(f"{path} has no columns.", hint="Is it the right file?")
        check_columns(path, self.columns)

    @contextmanager
    def _understood(self) -> Iterator[None]:
        try:
            yield
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise InputError(
                f"{self._path} is not a Parquet file that can be read: {short(error, 200)}",
                hint="It may be cut short or damaged; write it again.",
            ) from error

    def records(self, required: str | None = None) -> Iterator[Record]:
        """See `Table`."""
        number = 0
        with self._understood():
            lazy = pl.scan_parquet(self._path, glob=False)
            for frame in lazy.collect_batches(chunk_size=_BATCH_ROWS, maintain_order=True):
                for fields in frame.iter_rows(named=True):
                    number += 1
                    yield number, fields, None


class Xlsx:
    """The first sheet that is not empty. Whole numbers are read as int, because Excel itself knows only floats."""

    def __init__(self, path: Path) -> None:
        _check_zip(path)
        try:
            reader = fastexcel.read_excel(path)
            sheets = (reader.load_sheet(name, schema_sample_rows=None) for name in reader.sheet_names)
            sheet = next((sheet for sheet in sheets if sheet.width), None)
            self._frame: pl.DataFrame = sheet.to_polars() if sheet else pl.DataFrame()
        except (fastexcel.FastExcelError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            raise InputError(
                f"{path} is not an XLSX workbook that can be read: {short(error, 200)}",
                hint="Open it in a spreadsheet program and save it again as .xlsx or .csv.",
            ) from error
        if not self._frame.width:
            raise InputError(f"{path} is empty: no sheet has any cells.", hint="Is it the right file?")
        check_columns(path, self._frame.columns)
        names = ("" if name.startswith("__UNNAMED__") else name for name in self._frame.columns)
        self.columns = unique_names(names)

    def records(self, required: str | None = None) -> Iterator[Record]:
        """See `Table`."""
        blank = number = 0
        for cells in self._frame.iter_rows():
            if not any(cell is not None for cell in cells):
                blank += 1
                continue
            for _ in range(blank):
                number += 1
                yield number, dict.fromkeys(self.columns), None
            blank = 0
            number += 1
            yield number, dict(zip(self.columns, map(_whole, cells), strict=True)), None


def _whole(cell: Any) -> Any:
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell


def _check_zip(path: Path) -> None:
    """Refuse what is no ZIP file, and a ZIP bomb, before anything is unpacked."""
    with path.open("rb") as handle:
        head = handle.read(8)
    if head == b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise InputError(
            f"{path} is protected by a password, or is an old .xls workbook with a new name.",
            hint="Save it as .xlsx without a password, or as .csv.",
        )
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
    except zipfile.BadZipFile as error:
        raise InputError(
            f"{path} is not an XLSX workbook: {error}.", hint="It may be cut short, or another format by its content."
        ) from None
    if unpacked > MAX_UNPACKED_BYTES:
        raise InputError(
            f"{path} would unpack to {unpacked / 1e9:.1f} GB; at most {MAX_UNPACKED_BYTES / 1e9:.1f} GB are read.",
            hint="Save it as .csv: that is read row by row, however long it is.",
        )
