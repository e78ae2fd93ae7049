"""Write Parquet whose columns' types are learned from the rows."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, cast

import polars as pl
from polars.io.plugins import register_io_source

from reviewmill.batch.cells import Rows, as_json, flat, mended

_BATCH_ROWS: Final = 5000
_MAX_STRUCT_FIELDS: Final = 256


def write_parquet(path: Path, columns: Sequence[str], rows: Rows) -> int:
    """Spool the rows while learning each column's type, then let polars stream the spool into the file.

    Returns:
        The number of rows.

    Raises:
        OSError: it cannot be written.
    """
    try:
        return _write(path, columns, rows)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise OSError(str(error)) from error  # it wraps the system's error and keeps only its words


def _write(path: Path, columns: Sequence[str], rows: Rows) -> int:
    kinds: list[pl.DataType] = [pl.Null()] * len(columns)
    rows = iter(rows)
    count = 0
    with tempfile.TemporaryFile(dir=path.parent) as spool:
        while batch := list(islice(rows, _BATCH_ROWS)):
            count += len(batch)
            values = [[row.get(name) for row in batch] for name in columns]
            kinds = [_kind_of_all(kind, column) for kind, column in zip(kinds, values, strict=True)]
            pickle.dump(values, spool, pickle.HIGHEST_PROTOCOL)
        spool.flush()
        schema = pl.Schema(zip(map(mended, columns), map(_storable, kinds), strict=True))
        if not count:
            pl.DataFrame(schema=schema).write_parquet(path)
        else:
            frames = register_io_source(lambda *_: _spooled(spool, schema), schema=schema)
            frames.sink_parquet(path, row_group_size=4 * _BATCH_ROWS)
    return count


def _spooled(spool: IO[bytes], schema: pl.Schema) -> Iterator[pl.DataFrame]:
    spool.seek(0)
    while True:
        try:
            values = pickle.load(spool)  # noqa: S301  (our own file, which has no name that another could open)
        except EOFError:
            return
        yield pl.DataFrame([_series(*item) for item in zip(schema.items(), values, strict=True)])


def _series(column: tuple[str, pl.DataType], values: list[Any]) -> pl.Series:
    name, kind = column
    return pl.Series(name, [_fit(value, kind) for value in values], dtype=kind, strict=True)


def _kind_of_all(kind: pl.DataType, values: list[Any]) -> pl.DataType:
    for value in values:
        if value is not None and not (kind == pl.String and isinstance(value, str)):
            kind = _merge(kind, _kind_of(value))
    return kind


_SCALARS: Final[dict[type, pl.DataType]] = {
    type(None): pl.Null(),
    str: pl.String(),
    bool: pl.Boolean(),
    float: pl.Float64(),
    date: pl.Date(),
    bytes: pl.Binary(),
}


def _kind_of(value: Any) -> pl.DataType:
    """The Parquet type of one value; String for what has none."""
    if isinstance(value, Mapping):
        return pl.Struct({mended(str(name)): _kind_of(item) for name, item in value.items()})
    if isinstance(value, list | tuple):
        inner: pl.DataType = pl.Null()
        for item in value:
            inner = _merge(inner, _kind_of(item))
        return pl.List(inner)
    if type(value) is int:
        return pl.Int64() if -(2**63) <= value < 2**63 else pl.String()
    if type(value) is datetime:
        return pl.Datetime("us") if value.tzinfo is None else pl.String()
    return _SCALARS.get(type(value), pl.String())


def _merge(one: pl.DataType, other: pl.DataType) -> pl.DataType:
    """The type that holds the values of both; String (as JSON text where nested) if none does."""
    if one == other or other == pl.Null:
        return one
    if one == pl.Null:
        return other
    if {one, other} == {pl.Int64(), pl.Float64()}:
        return pl.Float64()
    if isinstance(one, pl.List) and isinstance(other, pl.List):
        return pl.List(_merge(_inner(one), _inner(other)))
    if isinstance(one, pl.Struct) and isinstance(other, pl.Struct):
        fields = dict(one)
        for name, kind in dict(other).items():
            fields[name] = _merge(cast("pl.DataType", fields.get(name, pl.Null())), cast("pl.DataType", kind))
        return pl.Struct(fields) if len(fields) <= _MAX_STRUCT_FIELDS else pl.String()
    return pl.String()


def _inner(kind: pl.List) -> pl.DataType:
    return cast("pl.DataType", kind.inner)


def _storable(kind: pl.DataType) -> pl.DataType:
    """The type with String for what was always null or an object without fields, which Parquet cannot store."""
    if isinstance(kind, pl.List):
        return pl.List(_storable(_inner(kind)))
    if isinstance(kind, pl.Struct):
        fields = {name: _storable(cast("pl.DataType", item)) for name, item in dict(kind).items()}
        return pl.Struct(fields) if fields else pl.String()
    return pl.String() if kind == pl.Null else kind


def _fit(value: Any, kind: pl.DataType) -> Any:
    """The value as its column's type holds it."""
    if value is None:
        return None
    if kind == pl.String:
        text = value if isinstance(value, str) else as_json(value) if _is_nested(value) else flat(value)
        return mended(text)
    if isinstance(kind, pl.List):
        return [_fit(item, _inner(kind)) for item in value]
    if isinstance(kind, pl.Struct):
        items = {mended(str(name)): item for name, item in value.items()}
        return {name: _fit(items.get(name), cast("pl.DataType", item)) for name, item in dict(kind).items()}
    return float(value) if kind == pl.Float64 else value


def _is_nested(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)
