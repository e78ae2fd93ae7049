"""Models: the catalog, downloads with checksums, what is on this machine, and what the machine can do."""

from __future__ import annotations

from reviewmill.models.catalog import Catalog, CatalogModel, builtin_catalog, load_catalog
from reviewmill.models.download import pull
from reviewmill.models.gguf import read_header
from reviewmill.models.hardware import Gpu, Hardware, available_memory, detect
from reviewmill.models.store import ListedModel, LocalModel, list_models, model_path, remove, resolve, verify

__all__ = [
    "Catalog",
    "CatalogModel",
    "Gpu",
    "Hardware",
    "ListedModel",
    "LocalModel",
    "available_memory",
    "builtin_catalog",
    "detect",
    "list_models",
    "load_catalog",
    "model_path",
    "pull",
    "read_header",
    "remove",
    "resolve",
    "verify",
]
