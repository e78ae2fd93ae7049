"""Which columns an output has: all columns of the input, then the result's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


class Layout:
    """Which columns an output of one kind has.

    Nested formats (JSONL, JSON, Parquet) hold the whole analysis; flat ones leave provenance to the manifest and spell
    the probabilities out, one column a label (`p_positive`, ...). An input column that is called like a result column
    comes back with `_input` behind its name.

    Args:
        task: the task's name; names the label's column.
        labels: the names of its labels.
        columns: the input's columns, in order.
        flat: which of the two kinds.
        in_parts: whether long comments were judged part by part: then there is a column `parts`.

    Attributes:
        own: the result's columns.
        renamed: the input's columns that come back under another name.
        names: all columns, in order.
    """

    def __init__(
        self, task: str, labels: Sequence[str], columns: Sequence[str], *, flat: bool, in_parts: bool = False
    ) -> None:
        probabilities = [f"p_{label}" for label in labels] if flat else []
        self.own = [task, *(_FLAT if flat else _NESTED), *probabilities, *(["parts"] if in_parts else [])]
        if not flat and "id" in columns:
            self.own.remove("id")
        self.renamed = {name: _free(name, {*self.own, *columns}) for name in columns if name in self.own}
        self.names = [self.renamed.get(name, name) for name in columns] + self.own


class Columns:
    """The columns of one output (see `Layout`), and its records.

    Args:
        task: names the label's column.
        source: the input.
        output: the file to write.
        in_parts: whether long comments are judged part by part.
    """

    def __init__(self, task: Task, source: Source, output: Path, *, in_parts: bool = False) -> None:
        self._source = source
        self._output = output
        flat = file_kind(output, None, error=OutputError).format in FLAT_FORMATS
        layout = Layout(task.name, task.label_names, source.columns, flat=flat, in_parts=in_parts)
        self._renamed = layout.renamed
        self._own: list[tuple[str, Callable[[Analysis], Any]]] = [(name, _getter(name)) for name in layout.own]
        self.names = layout.names

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
    if name == "parts":
        return lambda analysis: analysis.get("parts", [])
    return lambda analysis: analysis[name]


def _free(name: str, taken: set[str]) -> str:
    candidate = f"{name}_input"
    while candidate in taken:
        candidate += "_"
    return candidate
