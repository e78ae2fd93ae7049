"""Names of models, as servers list them."""

from __future__ import annotations

from typing import Final

WEIGHTS_MARK: Final = "@weights-"
"""Stands in a model's second name, between its name and the digest of its weights and of how they are computed."""
