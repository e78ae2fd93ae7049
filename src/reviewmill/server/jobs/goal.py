"""What a job's cascade is to reach: as a request says it, as the store keeps it, as a run takes it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from reviewmill.batch.goals import CascadeOptions
from reviewmill.errors import SettingsError

FIELDS: Final[dict[str, dict[str, Any]]] = {
    "agreement": {
        "type": "number",
        "exclusiveMinimum": 0.5,
        "exclusiveMaximum": 1,
        "description": "let a student answer, while at least this share of the labels is surely the model's",
    },
    "budget": {
        "type": "integer",
        "minimum": 50,
        "description": "instead of `agreement`: at most so many questions to the model",
    },
    "delta": {
        "type": "number",
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 0.5,
        "default": 0.05,
        "description": "probability with which the certificate may be wrong",
    },
    "per_class": {"type": "boolean", "description": "whether `agreement` must hold for each label by itself"},
}
"""The fields of a request, as the document describes them."""


class GoalError(Exception):
    """A field of a request says nothing that can be reached.

    Args:
        field: the field.
        detail: what is wrong with it.
        hint: what to do about it.
    """

    def __init__(self, field: str, detail: str, hint: str | None = None) -> None:
        super().__init__(f"{field}: {detail}")
        self.field = field
        self.detail = detail
        self.hint = hint


def goal_of(given: Mapping[str, str]) -> dict[str, Any] | None:
    """The cascade that a request asks for, as the store keeps it; None if it asks for none.

    Raises:
        GoalError: a value is none that it may be, or they contradict each other.
    """
    goal = {
        "agreement": _number(given, "agreement", float),
        "budget": _number(given, "budget", int),
        "delta": _number(given, "delta", float),
        "per_class": _number(given, "per_class", _truth),
    }
    goal = {name: value for name, value in goal.items() if value is not None}
    if not goal:
        return None
    first = next(iter(goal))
    if "agreement" not in goal and "budget" not in goal:
        raise GoalError(first, "it belongs to an agreement or a budget", "Say agreement=0.95 too.")
    if "per_class" in goal and "agreement" not in goal:
        raise GoalError("per_class", "it belongs to an agreement")
    try:
        options_of(goal)
    except SettingsError as error:
        raise GoalError(first, error.message, error.hint) from None
    return goal


def options_of(goal: Mapping[str, Any] | None) -> CascadeOptions | None:
    """The same for a run.

    Raises:
        SettingsError: it cannot be reached.
    """
    return CascadeOptions(**goal) if goal is not None else None


def _number(given: Mapping[str, str], name: str, read: Callable[[str], Any]) -> Any:
    if name not in given:
        return None
    with contextlib.suppress(ValueError):
        return read(given[name])
    raise GoalError(name, f"{given[name][:40]!r} is no {FIELDS[name]['type']}")


def _truth(value: str) -> bool:
    if value.lower() not in {"true", "false", "1", "0"}:
        raise ValueError(value)
    return value.lower() in {"true", "1"}
