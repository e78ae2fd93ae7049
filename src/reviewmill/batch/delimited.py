"""Text lines, CSV and TSV as tables; a quote that is never closed costs one row, not the rest of the file."""

from __future__ import annotations

import csv
import re
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from reviewmill.batch.tables import LINE_COLUMN, MAX_FIELD_CHARS, Record, check_columns, malformed, unique_names
from reviewmill.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import TextIO

    from reviewmill.batch.formats import TextFile

_DELIMITERS: Final = ",;\t|"


class Lines:
    """One comment a line; the row number is the line number. Blank lines at the end are not comments."""

    def __init__(self, file: TextFile) -> None:
        self.columns = [LINE_COLUMN]
        self._file = file

    def records(self, required: str | None = None) -> Iterator[Record]:
        """See `Table`."""
        blank = 0
        with self._file.open() as handle:
            for number, line in enumerate(handle, 1):
                text = line.rstrip("\n")
                if not text.strip():
                    blank += 1
                    continue
                for skipped in range(number - blank, number):
                    yield skipped, {LINE_COLUMN: ""}, None
                blank = 0
                yield number, {LINE_COLUMN: text}, None


class Delimited:
    """CSV and TSV (RFC 4180, read leniently).

    A row with surplus fields that are all empty is read without them; any other wrong number of fields is an error of
    that row. Blank lines are skipped, except in a file with one column, where they are empty comments.
    """

    def __init__(self, file: TextFile, delimiter: str | None) -> None:
        csv.field_size_limit(MAX_FIELD_CHARS)
        self._file = file
        self._delimiter = delimiter or self._sniff()
        with file.open(newline="") as handle:
            header = next((record for record in _CsvRecords(handle, self._delimiter) if record.values), None)
        if header is None:
            raise InputError(f"{file.path} is empty: it has only blank lines.", hint="Is it the right file?")
        if header.problem:
            raise InputError(f"{file.path}: the header, {header.problem}.", hint="Correct the quotes in that line.")
        names = list(header.values)
        check_columns(file.path, names)
        self.columns = unique_names(names)

    def _sniff(self) -> str:
        """The delimiter, by the header line: comma unless exactly one of the others occurs and comma does not."""
        with self._file.open(newline="") as handle:
            first = next((line for line in handle if line.strip()), "")
        bare = re.sub(r'"(?:[^"]|"")*"', "", first)
        found = [delimiter for delimiter in _DELIMITERS if delimiter in bare]
        return found[0] if len(found) == 1 else ","

    def records(self, required: str | None = None) -> Iterator[Record]:
        """See `Table`."""
        columns, width = self.columns, len(self.columns)
        blank = number = 0
        with self._file.open(newline="") as handle:
            records = iter(_CsvRecords(handle, self._delimiter, width))
            next(record for record in records if record.values)
            for line, values, problem in records:
                if not values and not problem:
                    blank += width == 1
                    continue
                while blank:
                    number, blank = number + 1, blank - 1
                    yield number, {columns[0]: ""}, None
                number += 1
                if len(values) == width and problem is None:
                    yield number, dict(zip(columns, values, strict=True)), None
                else:
                    yield self._uneven(number, line, values, problem)

    def _uneven(self, number: int, line: int, values: list[str], problem: str | None) -> Record:
        width = len(self.columns)
        fields: dict[str, Any] = dict.fromkeys(self.columns)
        fields.update(zip(self.columns, values, strict=False))
        if problem is None and len(values) > width and not any(values[width:]):
            return number, fields, None
        counts = f"line {line}: {len(values)} fields where the header has {width}"
        return number, fields, malformed(problem or counts)


class _CsvRecord(NamedTuple):
    line: int
    values: list[str]
    problem: str | None


class _CsvRecords:
    """The records of a CSV stream with the physical line that each begins on.

    A quote that is opened and not closed would swallow the rows that follow it, up to the next quote or to the end of
    the file. So a record of several lines is doubted: if it has the wrong number of fields, or text after a closing
    quote, or does not end, then only its first line is given up (as a record with a `problem`), and its other lines
    are read again as records of their own.

    Args:
        handle: text, opened with `newline=""`.
        delimiter: one character.
        width: the number of fields that a record should have; None: not known.
    """

    def __init__(self, handle: TextIO, delimiter: str, width: int | None = None) -> None:
        self._handle = handle
        self._delimiter = delimiter
        self._width = width
        self._again: deque[str] = deque()
        self._record: list[str] = []
        self._line = 1
        self._ended = False

    def _feed(self) -> Iterator[str]:
        while self._again:
            line = self._again.popleft()
            self._record.append(line)
            yield line
        record = self._record
        for line in self._handle:
            record.append(line)
            yield line
        self._ended = True

    def __iter__(self) -> Iterator[_CsvRecord]:
        while True:
            problem = yield from self._read_until_doubt()
            if problem is None:
                return
            self._again.extendleft(reversed(self._record[1:]))
            self._record.clear()
            self._ended = False
            self._line += 1
            yield _CsvRecord(self._line - 1, [], problem)

    def _read_until_doubt(self) -> Generator[_CsvRecord, None, str | None]:
        record = self._record
        try:
            for values in csv.reader(self._feed(), delimiter=self._delimiter):
                if len(record) > 1 or self._ended:
                    problem = self._doubt(values)
                    if problem:
                        return problem
                line = self._line
                self._line += len(record)
                record.clear()
                yield _CsvRecord(line, values, None)
        except csv.Error:
            return f"line {self._line}: a quote opens and is not closed within {MAX_FIELD_CHARS:,} characters"
        return None

    def _doubt(self, values: list[str]) -> str | None:
        """Why a record of several lines is probably not one record; None if it is fine."""
        lines = len(self._record)
        if self._ended:
            return f"line {self._line}: a quote opens and is not closed before the end of the file"
        if self._width is not None and len(values) != self._width:
            return (
                f"line {self._line}: a quote opens and is closed {lines - 1} lines later, which makes {len(values)} "
                f"fields where the header has {self._width}"
            )
        try:
            list(csv.reader(self._record, delimiter=self._delimiter, strict=True))
        except csv.Error:
            return f"line {self._line}: a quote opens, and {lines - 1} lines later text follows the closing quote"
        return None
