"""What `--endpoint` means when it is repeated."""

from __future__ import annotations

from typing import Any


def endpoint_arguments(urls: list[str] | None) -> dict[str, Any]:
    """Settings from the URLs on the command line: one is the endpoint, several are a pool; both replace the file's."""
    if not urls:
        return {}
    if len(urls) == 1:
        return {"endpoint": urls[0], "endpoints": []}
    return {"endpoints": [{"url": url} for url in urls]}
