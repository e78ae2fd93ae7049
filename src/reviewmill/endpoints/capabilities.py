"""What a server can do: probed once with tiny real requests, and remembered.

Documentation and version numbers are not believed: servers silently ignore parameters they do not know. Each
capability is asked for in a way whose effect can be seen, with words that no model would say by itself.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from reviewmill.errors import EndpointError, EndpointRefusedError, EndpointTimeoutError, EndpointUnreachableError

if TYPE_CHECKING:
    from reviewmill.endpoints.client import EndpointClient

TOP_LOGPROBS: Final = 20
"""The OpenAI protocol's limit, and vLLM's."""

_REMEMBERED_SECONDS: Final = 7 * 24 * 3600
"""A server can be updated and keep its model's name; after a week it is asked again."""

_ODD: Final = "zqx7"
_PROBE: Final = [{"role": "user", "content": "Say hello."}]
_ODD_SCHEMA: Final = {
    "type": "object",
    "properties": {_ODD: {"type": "string", "enum": [_ODD]}},
    "required": [_ODD],
    "additionalProperties": False,
}


class Capabilities(BaseModel):
    """What one model on one server can do.

    Attributes:
        grammar: takes `grammar`, in llama.cpp's GBNF.
        regex: takes `structured_outputs.regex` (vLLM).
        choice: takes `structured_outputs.choice` (vLLM).
        json_schema: takes `response_format` of type `json_schema`.
        top_logprobs: how many alternatives it lists at each token (0: it gives no log-probabilities).
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    grammar: bool = False
    regex: bool = False
    choice: bool = False
    json_schema: bool = False
    top_logprobs: int = 0

    def fallbacks(self) -> list[str]:
        """Say, one sentence each, what is done without."""
        notes = []
        if not self.top_logprobs:
            notes.append("The endpoint gives no log-probabilities, so `confidence` and `probabilities` are empty.")
        if not (self.grammar or self.regex or self.json_schema):
            notes.append("The endpoint enforces no output format; answers are asked for in words and checked.")
        return notes


def json_schema_format(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the `response_format` field that makes a server enforce a JSON Schema."""
    return {"response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": True}}}


async def probe(client: EndpointClient) -> Capabilities:
    """Ask the server, with one tiny request a capability.

    Raises:
        EndpointError: it cannot be reached, or refuses even a plain request.
    """
    # One after the other: a server with a limit on requests in flight must not look incapable.
    return Capabilities(
        top_logprobs=await _listed(client),
        grammar=await _obeys(client, {"grammar": f'root ::= "{_ODD}"'}),
        regex=await _obeys(client, {"structured_outputs": {"regex": _ODD}}),
        choice=await _obeys(client, {"structured_outputs": {"choice": [_ODD]}}),
        json_schema=await _obeys(client, json_schema_format("probe", _ODD_SCHEMA)),
    )


async def _listed(client: EndpointClient) -> int:
    """How many alternatives are listed; some servers refuse the parameter, some ignore it."""
    for wanted in (TOP_LOGPROBS, 5):
        try:
            reply = await client.complete(_PROBE, max_tokens=1, top_logprobs=wanted)
        except EndpointRefusedError:
            continue
        listed = len(reply.steps[0].top) if reply.steps else 0
        return min(wanted, listed) if listed > 1 else 0
    await client.complete(_PROBE, max_tokens=1)
    return 0


async def _obeys(client: EndpointClient, constraint: dict[str, Any]) -> bool:
    try:
        reply = await client.complete(_PROBE, max_tokens=32, constraint=constraint)
    except EndpointRefusedError:
        return False
    except EndpointError as error:
        if isinstance(error, EndpointTimeoutError | EndpointUnreachableError):
            raise
        # Some servers fail (5xx) on what they do not know: a "no", unless they fail on everything just now.
        await client.complete(_PROBE, max_tokens=1)
        return False
    return _ODD in reply.text


class _Entry(BaseModel):
    """Capabilities, and when they were seen (seconds since 1970)."""

    seen: float
    capabilities: Capabilities


class CapabilityMemory:
    """Capabilities seen before, in one JSON file; losing it costs a few tiny requests."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, url: str, fingerprint: str) -> Capabilities | None:
        """What was seen of this model on this server in the last week, if anything."""
        try:
            entry = _Entry.model_validate(self._read()[f"{url} {fingerprint}"])
        except (KeyError, ValidationError):
            return None
        return entry.capabilities if 0 <= time.time() - entry.seen < _REMEMBERED_SECONDS else None

    def put(self, url: str, fingerprint: str, capabilities: Capabilities) -> None:
        """Remember; a folder that cannot be written only means that the next process asks again."""
        entry = _Entry(seen=time.time(), capabilities=capabilities)
        content = json.dumps(self._read() | {f"{url} {fingerprint}": entry.model_dump()})
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.path.parent) as folder:
                whole = Path(folder) / self.path.name
                whole.write_text(content, encoding="utf-8")
                whole.replace(self.path)

    def _read(self) -> dict[str, Any]:
        try:
            seen = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return seen if isinstance(seen, dict) else {}
