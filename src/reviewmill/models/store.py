"""The models folder: what is in it, whether it is what it claims to be, and what a name or a path means.

Each model has a folder of its name. A file that fails its checksum is deleted and never loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reviewmill.errors import ChecksumError, ModelError
from reviewmill.models.catalog import builtin_catalog
from reviewmill.models.digests import Digests, locked
from reviewmill.models.gguf import read_header

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reviewmill.models.catalog import Catalog, CatalogModel, ModelFile
    from reviewmill.models.gguf import Scalar


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model on this machine, whose bytes were checked.

    Attributes:
        name: catalog name; for a file of the user's own, the file's name without `.gguf`.
        paths: its files; for a split GGUF in order.
        sha256: digest of the file; of several, the SHA-256 of the lines that `sha256sum` prints for them in order.
        format: of the files.
        context: window as trained, in tokens; None if the file does not say.
        licence: name of the licence; None if the file does not say.
        family: e.g. `Qwen2.5`; the architecture for a file that is not in the catalog.
    """

    name: str
    paths: tuple[Path, ...]
    sha256: str
    format: Literal["gguf", "safetensors"]
    context: int | None
    licence: str | None
    family: str | None

    @property
    def path(self) -> Path:
        """What an engine is given: the (first) GGUF file, or the folder of a safetensors model."""
        return self.paths[0] if self.format == "gguf" else self.paths[0].parent


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model of the catalog, and how much of it is on this machine.

    Attributes:
        model: the catalog's entry.
        state: `here`, `partial` (a download that broke off, or a file is missing) or `absent`.
        bytes_on_disk: of its folder, unfinished downloads included.
    """

    model: CatalogModel
    state: Literal["here", "partial", "absent"]
    bytes_on_disk: int


def folder_of(model: CatalogModel, models_dir: Path) -> Path:
    """Where a model's files are, or would be."""
    return models_dir / model.name


def lock_of(model: CatalogModel, models_dir: Path) -> Path:
    """The file that is locked while a model's folder is changed."""
    return models_dir / f".{model.name}.lock"


def resolve(name_or_path: str, *, models_dir: Path, catalog: Catalog | None = None) -> LocalModel:
    """Find a model on this machine and check its bytes.

    A digest is computed once for each file and remembered by size and modification time.

    Args:
        name_or_path: a catalog name, or the path of a .gguf file (for a split one, of its first file).
        models_dir: the models folder; it need not exist.
        catalog: another catalog than the shipped one.

    Raises:
        ModelError: unknown name, not on this machine, not a GGUF file, or unreadable.
        ChecksumError: a file of a catalog model is not what it must be; it was deleted.
    """
    catalog = catalog or builtin_catalog()
    if _is_path(name_or_path):
        return _resolve_path(Path(name_or_path).expanduser(), models_dir, catalog)
    return _checked(catalog.get(name_or_path), models_dir)


def verify(name: str, *, models_dir: Path, catalog: Catalog | None = None) -> LocalModel:
    """Hash all files of a catalog model afresh and compare.

    Raises:
        ModelError: unknown name, or not on this machine.
        ChecksumError: a file is not what it must be; it was deleted.
    """
    return _checked((catalog or builtin_catalog()).get(name), models_dir, afresh=True)


def model_path(name: str, *, models_dir: Path, catalog: Catalog | None = None) -> Path:
    """The path that an engine is given for a catalog model; its presence is checked, its bytes are not.

    Raises:
        ModelError: unknown name, or not on this machine.
    """
    model = (catalog or builtin_catalog()).get(name)
    paths = _present(model, models_dir)
    return paths[0] if model.format == "gguf" else paths[0].parent


def list_models(models_dir: Path, *, catalog: Catalog | None = None) -> list[ListedModel]:
    """All models of the catalog, with what of each is on this machine."""
    return [_listed(model, models_dir) for model in (catalog or builtin_catalog()).models]


def remove(name: str, *, models_dir: Path, catalog: Catalog | None = None, forget: bool = False) -> int:
    """Delete a catalog model from this machine, unfinished downloads included.

    Args:
        name: catalog name.
        models_dir: the models folder.
        catalog: another catalog than the shipped one.
        forget: also forget the digests that were trusted on first use, so that the next download is trusted anew.

    Returns:
        How many bytes that freed.

    Raises:
        ModelError: unknown name, nothing of it is on this machine, or it cannot be deleted.
    """
    model = (catalog or builtin_catalog()).get(name)
    folder = folder_of(model, models_dir)
    if not folder.exists() and not forget:
        raise ModelError(f"Nothing of {name} is in {models_dir}.", hint="`reviewmill models list` shows what is there.")
    freed = _bytes_in(folder)
    try:
        with locked(lock_of(model, models_dir)):
            if folder.exists():
                shutil.rmtree(folder)
            if forget:
                for file in model.files:
                    Digests(models_dir).distrust(f"{model.name}/{file.name}")
    except OSError as error:
        raise ModelError(f"{folder} cannot be deleted: {error.strerror}.", hint="Check its permissions.") from error
    return freed


def check_file(
    model: CatalogModel, file: ModelFile, path: Path, digests: Digests, *, origin: str, announced: str | None = None
) -> None:
    """Compare a file with its checksum: the catalog's, else the one trusted before, else it is trusted from now on.

    Args:
        model: the catalog's entry.
        file: the entry's file.
        path: where the bytes are.
        digests: of the models folder.
        origin: where the file came from; written down when it is trusted on first use.
        announced: the SHA-256 that the source says it has.

    Raises:
        ChecksumError: it differs; the file was deleted.
        OSError: it cannot be read.
    """
    key = f"{model.name}/{file.name}"
    digest = digests.of(path)
    trusted = None if file.checksum else digests.trusted(key)
    expectations = (
        ("the catalog says", file.checksum),
        ("when it was first downloaded it had", trusted),
        ("the source says", announced),
    )
    for said, expected in expectations:
        if expected is not None and digest != expected:
            path.unlink()
            again = f"`reviewmill models pull {model.name}` downloads it again."
            anew = f" If its publisher changed it, `reviewmill models remove {model.name} --forget` comes first."
            raise ChecksumError(
                f"{path} ({origin}) has SHA-256 {digest}; {said} {expected}. It was deleted and not loaded.",
                hint=again + (anew if trusted else ""),
            )
    if file.checksum is None and trusted is None:
        # Where the models folder cannot be written, nothing can be remembered, and the model can still be used.
        with contextlib.suppress(OSError):
            digests.trust(key, digest, origin)


def _checked(model: CatalogModel, models_dir: Path, *, afresh: bool = False) -> LocalModel:
    paths = _present(model, models_dir)
    digests = Digests(models_dir)
    try:
        if afresh:
            for path in paths:
                digests.of(path, afresh=True)
        for file, path in zip(model.files, paths, strict=True):
            check_file(model, file, path, digests, origin="in the models folder")
        return _in_catalog(model, paths, [digests.of(path) for path in paths])
    except OSError as error:
        raise ModelError(f"{model.name} cannot be read: {error}.", hint=f"Check {models_dir}.") from error


def _present(model: CatalogModel, models_dir: Path) -> list[Path]:
    paths = [folder_of(model, models_dir) / file.name for file in model.files]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        what = "is not on this machine" if len(missing) == len(paths) else f"is not complete: {missing[0]} is missing"
        raise ModelError(
            f"The model {model.name} {what} (looked in {models_dir}).", hint=f"reviewmill models pull {model.name}"
        )
    return paths


def _listed(model: CatalogModel, models_dir: Path) -> ListedModel:
    folder = folder_of(model, models_dir)
    count = _bytes_in(folder)
    if all((folder / file.name).is_file() for file in model.files):
        return ListedModel(model, "here", count)
    return ListedModel(model, "partial" if count else "absent", count)


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file()) if folder.is_dir() else 0


def _in_catalog(model: CatalogModel, paths: Iterable[Path], digests: list[str]) -> LocalModel:
    paths = tuple(paths)
    return LocalModel(
        name=model.name,
        paths=paths,
        sha256=_joint(paths, digests),
        format=model.format,
        context=model.context.native,
        licence=model.licence.name,
        family=model.family,
    )


def _joint(paths: Iterable[Path], digests: list[str]) -> str:
    if len(digests) == 1:
        return digests[0]
    lines = "".join(f"{digest}  {path.name}\n" for digest, path in zip(digests, paths, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def _is_path(name_or_path: str) -> bool:
    return name_or_path.lower().endswith(".gguf") or "/" in name_or_path or Path(name_or_path).is_file()


def _resolve_path(path: Path, models_dir: Path, catalog: Catalog) -> LocalModel:
    if not path.is_file():
        raise ModelError(
            f"There is no model file {path}.",
            hint="Give the path of a .gguf file, or a name of `reviewmill models list`.",
        )
    header = read_header(path)
    paths = _shards(path)
    digests = Digests(models_dir)
    sums = [digests.of(shard) for shard in paths]
    for model in catalog.models:
        if [file.checksum for file in model.files] == sums:
            return _in_catalog(model, paths, sums)
    return _unknown(paths, sums, header)


def _shards(path: Path) -> list[Path]:
    """All files of a split GGUF (`NAME-00001-of-00003.gguf`), or the one file."""
    match = re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})\.gguf", path.name)
    if match is None:
        return [path]
    paths = [path.with_name(f"{match[1]}-{n:05d}-of-{match[3]}.gguf") for n in range(1, int(match[3]) + 1)]
    for shard in paths:
        if not shard.is_file():
            raise ModelError(f"{path} is one part of a split model, and {shard} is missing.", hint="Put it there.")
    return paths


def _unknown(paths: list[Path], sums: list[str], header: dict[str, Scalar]) -> LocalModel:
    architecture = header.get("general.architecture")
    context = header.get(f"{architecture}.context_length")
    licence = header.get("general.license")
    return LocalModel(
        name=paths[0].stem,
        paths=tuple(paths),
        sha256=_joint(paths, sums),
        format="gguf",
        context=context if isinstance(context, int) else None,
        licence=str(licence) if licence is not None else None,
        family=str(architecture) if architecture is not None else None,
    )
