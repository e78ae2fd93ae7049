"""Which columns an output has: all columns of the input, then the result's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from reviewmill.batch.formats import file_kind
from reviewmill.batch.read import Row, Source
from reviewmill.batch.write import check_target
from reviewmill.errors import OutputError
from reviewmill.schema import Analysis
from reviewmill.tasks import Task

FLAT_FORMATS: Final = frozenset({"csv", "tsv", "xlsx"})

_NESTED: Final = (
    *("confidence", "keywords", "original_text", "id", "status", "probabilities", "spans", "language", "flags"),
    *("route", "needs_review", "error", "provenance"),
)
_FLAT: Final = (
    *("confidence", "keywords", "original_text", "status", "needs_review", "language", "route", "flags", "error"),
)


class Columns:
    """The columns of one output.

    Nested formats (JSONL, JSON, Parquet) hold the whole analysis; flat ones leave provenance to the manifest and spell
    the probabilities out, one column a label (`p_positive`, ...). An input column that is called like a result column
    comes back with `_input` behind its name.

    Args:
        task: names the label's column.
        source: the input.
        output: the file to write.
    """

    def __init__(self, task: Task, source: Source, output: Path) -> None:
        self._source = source
        self._output = output
        self._flat = file_kind(output, None, error=OutputError).format in FLAT_FORMATS
        probabilities = [f"p_{label}" for label in task.label_names] if self._flat else []
        own = [task.name, *(_FLAT if self._flat else _NESTED), *probabilities]
        if not self._flat and "id" in source.columns:
            own.remove("id")
        self._renamed = {name: _free(name, {*own, *source.columns}) for name in source.columns if name in own}
        self._own: list[tuple[str, Callable[[Analysis], Any]]] = [(name, _getter(name)) for name in own]
        self.names = [self._renamed.get(name, name) for name in source.columns] + own

    def check_output(self) -> None:
        """Refuse, before any work, an output that could not be written in the end.

        Raises:
            OutputError: it is the input itself, its format cannot hold the result, or its folder cannot be written.
        """
        if self._output.resolve() == self._source.path.resolve():
            raise OutputError(f"{self._output} is the input itself.", hint="Write to another file with -o.")
        check_target(self._output)

    def record(self, row: Row, analysis: Analysis) -> dict[str, Any]:
        """One row of the output."""
        record = {self._renamed.get(name, name): value for name, value in row.fields.items()}
        for name, get in self._own:
            record[name] = get(analysis)
        return record


def _getter(name: str) -> Callable[[Analysis], Any]:
    if name.startswith("p_"):
        label = name.removeprefix("p_")
        return lambda analysis: analysis["probabilities"].get(label)
    return lambda analysis: analysis[name]


def _free(name: str, taken: set[str]) -> str:
    candidate = f"{name}_input"
    while candidate in taken:
        candidate += "_"
    return candidate
