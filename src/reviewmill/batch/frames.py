"""DataFrames in, the same kind out: pandas or polars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import polars as pl

from reviewmill.batch.text_column import TEXT_NAMES, find_named
from reviewmill.errors import InputError
from reviewmill.schema import Analysis
from reviewmill.tasks import Task

FrameT = TypeVar("FrameT")


def frame_texts(frame: object, text: str | None) -> list[str]:
    """The comments of a DataFrame, in its order; missing values are empty comments.

    Raises:
        InputError: it is no DataFrame, or has no such column.
    """
    columns = _columns(frame)
    name = text if text is not None else next(iter(find_named(columns, TEXT_NAMES)), None)
    if name is None or name not in columns:
        raise InputError(
            f"The DataFrame has no column {text!r}." if text else "No column of the DataFrame looks like comments.",
            hint=f'Its columns are {", ".join(columns)}; name one: analyze_frame(frame, text="…").',
        )
    values = cast("Any", frame)[name].to_list() if isinstance(frame, pl.DataFrame) else list(cast("Any", frame)[name])
    return ["" if value is None or value != value else str(value) for value in values]


def with_results(frame: FrameT, analyses: Sequence[Analysis], task: Task) -> FrameT:
    """The frame with the result's columns beside its own; a column that has the same name is replaced."""
    results: dict[str, list[Any]] = {
        name: [analysis[name] for analysis in analyses]
        for name in (task.name, "confidence", "keywords", "status", "needs_review", "language", "route", "flags")
    }
    for label in task.label_names:
        results[f"p_{label}"] = [analysis["probabilities"].get(label) for analysis in analyses]
    results["error"] = [analysis["error"]["message"] if analysis["error"] else None for analysis in analyses]
    if isinstance(frame, pl.DataFrame):
        return cast("FrameT", frame.with_columns(*(pl.Series(n, v, dtype=_dtype(n)) for n, v in results.items())))
    return cast("FrameT", cast("Any", frame).assign(**results))


def _columns(frame: object) -> list[str]:
    if isinstance(frame, pl.DataFrame):
        return frame.columns
    columns = getattr(frame, "columns", None)
    if columns is None or not hasattr(frame, "assign"):
        raise InputError(f"A pandas or polars DataFrame is needed, not {type(frame).__name__}.")
    return [str(column) for column in columns]


def _dtype(name: str) -> pl.DataType | None:
    if name in {"keywords", "flags"}:
        return pl.List(pl.String())
    if name == "confidence" or name.startswith("p_"):
        return pl.Float64()
    return pl.Boolean() if name == "needs_review" else pl.String()
