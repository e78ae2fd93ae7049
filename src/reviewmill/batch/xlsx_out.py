"""Write XLSX, row by row."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import xlsxwriter
from xlsxwriter.exceptions import XlsxWriterException

from reviewmill.batch.cells import Rows, flat
from reviewmill.batch.formats import CUT_MARK, XLSX_MAX_CELL, XLSX_MAX_ROWS, too_many_rows

_EXACT_IN_EXCEL: Final = 10**15
_NOT_IN_XML: Final = re.compile("[\ud800-\udfff\ufffe\uffff]")


def write_xlsx(path: Path, columns: Sequence[str], rows: Rows, target: Path) -> int:
    """Write a workbook of one sheet.

    Args:
        path: the unfinished file.
        columns: the columns to write, in order.
        rows: what to write.
        target: the file's final place, for messages.

    Returns:
        The number of rows.

    Raises:
        OutputError: more rows than a sheet holds.
        OSError: it cannot be written.
    """
    try:
        return _write(path, columns, rows, target)
    except XlsxWriterException as error:
        raise OSError(str(error)) from error  # it wraps the system's error and keeps only its words


def _write(path: Path, columns: Sequence[str], rows: Rows, target: Path) -> int:
    options = {"constant_memory": True, "tmpdir": str(path.parent)}
    count = 0
    with path.open("wb") as handle:
        book = xlsxwriter.Workbook(handle, options)
        sheet = book.add_worksheet("reviewmill")
        sheet.freeze_panes(1, 0)
        bold = book.add_format({"bold": True})
        dated = {True: book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})}
        dated[False] = book.add_format({"num_format": "yyyy-mm-dd"})
        for place, name in enumerate(columns):
            sheet.write_string(0, place, _text(name), bold)
        for count, row in enumerate(rows, 1):
            if count > XLSX_MAX_ROWS:
                raise too_many_rows(target, f"more than {XLSX_MAX_ROWS:,}")
            for place, name in enumerate(columns):
                _write_cell(sheet, count, place, row.get(name), dated)
        book.close()  # only now: as a context manager it would also assemble a workbook that is to be thrown away
    return count


def _write_cell(sheet: Any, row: int, place: int, value: Any, dated: Mapping[bool, Any]) -> None:
    """Write one cell by its type; nothing is guessed from text, so no text becomes a formula, a link or a number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return
    if isinstance(value, bool):
        sheet.write_boolean(row, place, value)
    elif isinstance(value, int | float) and abs(value) < _EXACT_IN_EXCEL:
        sheet.write_number(row, place, value)
    elif isinstance(value, date) and value.year >= 1900 and getattr(value, "tzinfo", None) is None:
        sheet.write_datetime(row, place, value, dated[isinstance(value, datetime)])
    else:
        sheet.write_string(row, place, _text(flat(value)))


def _text(text: str) -> str:
    """Text that XML can hold, cut to what a cell can hold."""
    text = _NOT_IN_XML.sub("\ufffd", text)
    if 2 * len(text) <= XLSX_MAX_CELL:
        return text
    units = text.encode("utf-16-le")
    if len(units) // 2 <= XLSX_MAX_CELL:
        return text
    return units[: 2 * (XLSX_MAX_CELL - len(CUT_MARK))].decode("utf-16-le", "ignore") + CUT_MARK
