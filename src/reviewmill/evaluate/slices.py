"""The same scores over parts of the rows: by language, length, flags, signs of difficulty, the file's own columns."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy import stats
from sklearn import metrics as sk

from reviewmill.evaluate.measures import Slice
from reviewmill.evaluate.metrics import expected_calibration_error, wilson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from reviewmill.evaluate.metrics import Judgements

LEAST_ROWS: Final = 20
"""A slice with fewer rows says nothing."""
ROWS_FOR_ECE: Final = 100

_MOST_VALUES: Final = 30
_LONGEST_VALUE: Final = 60
_PARTS: Final = 4


@dataclass(frozen=True, slots=True)
class Facets:
    """What a row can be parted by: dimension to the row's values there (several, for flags and tags)."""

    values: Mapping[str, Sequence[str]]


def slices(judged: Judgements, facets: Sequence[Facets], *, least: int = LEAST_ROWS) -> list[Slice]:
    """Score every part that has enough rows, and say which stand out.

    Whether a part differs from all other rows is Fisher's exact test; its p-values are adjusted for how many parts were
    looked at (Benjamini & Hochberg 1995), or one of twenty would seem to stand out by chance.

    Args:
        judged: the rows.
        facets: of each row, in the same order.
        least: parts with fewer rows are left out.
    """
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, facet in enumerate(facets):
        for by, values in facet.values.items():
            for value in dict.fromkeys(values):
                members[by, value].append(number)
    parts_of: dict[str, int] = defaultdict(int)
    for by, _ in members:
        parts_of[by] += 1
    total = judged.gold.size
    chosen = {
        part: np.array(rows)
        for part, rows in members.items()
        # A dimension in which all rows are alike parts nothing.
        if len(rows) >= least and (len(rows) < total or parts_of[part[0]] > 1)
    }
    tested = [part for part, rows in chosen.items() if len(rows) < total]
    raw = [_p_value(judged.right, chosen[part]) for part in tested]
    adjusted = dict(zip(tested, stats.false_discovery_control(raw) if raw else [], strict=True))
    return [_slice(judged, part, rows, adjusted.get(part)) for part, rows in chosen.items()]


def _p_value(right: NDArray[np.bool_], rows: NDArray[np.int64]) -> float:
    inside, all_right = int(right[rows].sum()), int(right.sum())
    others = right.size - rows.size
    table = [[inside, rows.size - inside], [all_right - inside, others - (all_right - inside)]]
    return float(stats.fisher_exact(table).pvalue)


def _slice(judged: Judgements, part: tuple[str, str], rows: NDArray[np.int64], p_value: float | None) -> Slice:
    right, gold = judged.right, judged.gold[rows]
    inside, others = int(right[rows].sum()), right.size - rows.size
    present = np.unique(gold)
    macro = sk.f1_score(gold, judged.said[rows], labels=present, average="macro", zero_division=0)
    calibrated = judged.confidence is not None and rows.size >= ROWS_FOR_ECE
    return Slice(
        by=part[0],
        value=part[1],
        rows=rows.size,
        accuracy=wilson(inside, rows.size),
        macro_f1=float(macro) if present.size > 1 else None,
        ece=expected_calibration_error(judged.confidence[rows], right[rows])
        if calibrated and judged.confidence is not None
        else None,
        difference=inside / rows.size - (int(right.sum()) - inside) / others if others else None,
        p_value=p_value,
    )


def column_facets(
    rows: Sequence[Mapping[str, Any]], *, leave_out: Iterable[str] = (), least: int = LEAST_ROWS
) -> list[dict[str, list[str]]]:
    """What the file's own columns part the rows by.

    A column with few different values parts by value, a list of such by its members, numbers and dates by quarters of
    the rows (from lowest to highest); free text, addresses and ids part nothing and are left out.

    Args:
        rows: each row's columns.
        leave_out: columns that are not to be looked at.
        least: a value counts as one if so many rows have it.
    """
    names = dict.fromkeys(name for row in rows for name in row)
    facets: list[dict[str, list[str]]] = [{} for _ in rows]
    skipped = set(leave_out)
    for name in (name for name in names if name not in skipped):
        for facet, values in zip(facets, _parted([row.get(name) for row in rows], least), strict=True):
            if values:
                facet[name] = values
    return facets


def _parted(values: Sequence[Any], least: int) -> list[list[str]]:
    listed = [[shown for one in _members(value) if (shown := _shown(one)) is not None] for value in values]
    counts: dict[str, int] = defaultdict(int)
    for members in listed:
        for one in set(members):
            counts[one] += 1
    frequent = {one for one, count in counts.items() if count >= least}
    covered = sum(any(one in frequent for one in members) for members in listed)
    if frequent and len(frequent) <= _MOST_VALUES and 2 * covered >= sum(map(bool, listed)):
        return [[one for one in members if one in frequent] for members in listed]
    return _quarters(values)


def _members(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _shown(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str | int | float | bool | date):
        return None  # an object inside a JSON column is no value to part by
    text = " ".join(str(value).split())
    return text if 0 < len(text) <= _LONGEST_VALUE else None


def _quarters(values: Sequence[Any]) -> list[list[str]]:
    """Quarters of the rows by number or date; nothing where the values are neither."""
    places = [_number(value) for value in values]
    known = np.array([place for place in places if place is not None])
    present = sum(value is not None and value != "" for value in values)
    if known.size < present or np.unique(known).size <= _PARTS:
        return [[] for _ in values]
    edges = np.quantile(known, np.linspace(0, 1, _PARTS + 1)[1:-1])
    dated = any(isinstance(value, date) for value in values)

    def words(place: float) -> str:
        part = int(np.searchsorted(edges, place, side="left"))
        low, high = (_place_name(edge, dated=dated) for edge in (edges[max(0, part - 1)], edges[min(part, 2)]))
        return f"≤ {high}" if part == 0 else f"> {low}" if part == _PARTS - 1 else f"{low} – {high}"

    return [[] if place is None else [words(place)] for place in places]


def _place_name(place: float, *, dated: bool) -> str:
    return date.fromordinal(int(place)).isoformat() if dated else f"{place:g}"


def _number(value: Any) -> float | None:
    if isinstance(value, datetime):
        value = value.date()
    if isinstance(value, date):
        return float(value.toordinal())
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
