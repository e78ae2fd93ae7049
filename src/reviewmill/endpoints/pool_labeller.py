"""One cleaned comment in, one `Answer` out, from whichever endpoint of a pool is best for it.

Where all endpoints have one model, an answer's key is the one that each of them alone would give it. Where they have
different ones (`--mixed`), a run knows a text by a key of the pool, while the cache keeps each answer under its own
model's key: an answer that any of the pool's models gave, in whatever run, is used.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from reviewmill.endpoints.labeller import ANSWER_VERSION, Labeller, WireName
from reviewmill.endpoints.pool import PoolConnection
from reviewmill.schema import KEY_BYTES, TEXT_PREFIX_BYTES, Answer

if TYPE_CHECKING:
    from reviewmill.endpoints.connection import Connection
    from reviewmill.endpoints.gate import Gate, Priority
    from reviewmill.endpoints.member import Member
    from reviewmill.tasks import Task


class PoolLabeller(Labeller):
    """A `Labeller` over a pool; the arguments are the same."""

    def __init__(
        self,
        connection: PoolConnection,
        *,
        task: Task,
        keywords: bool,
        wire: WireName = "auto",
        gate: Gate | None = None,
    ) -> None:
        super().__init__(connection, task=task, keywords=keywords, wire=wire, gate=gate)
        self._pool = connection
        self._wanted_wire = wire
        self._own: dict[Connection, Labeller] = {}
        if connection.mixed:
            # Neither the prompt nor the format: these depend on which endpoints happened to be there.
            self.prompt_id = self.wire_name = "by endpoint"
            named = [ANSWER_VERSION, "mixed", connection.about.endpoint, task.asked_hash, self.keywords, wire]
            self._mixed_frame = hashlib.sha256(json.dumps(named).encode()).digest()

    def _labeller(self, connection: Connection) -> Labeller:
        """The labeller of one endpoint; of a pool with one model all have the same keys."""
        own = self._own.get(connection)
        if own is None:
            own = self._own[connection] = Labeller(
                connection,
                task=self.task,
                keywords=self.keywords,
                wire=self._wanted_wire,
                capabilities=None if self._pool.mixed else self.capabilities,
                names_itself=True,
            )
        return own

    def _labellers(self) -> list[Labeller]:
        seen = [member.connection for member in self._pool.members if member.connection is not None]
        if len(self._own) > len(seen):  # one came back with another model
            self._own = {connection: own for connection, own in self._own.items() if connection in seen}
        return [self._labeller(connection) for connection in seen]

    def key(self, text: str) -> bytes:
        """Name (32 bytes) of a text in a run."""
        if not self._pool.mixed:
            return super().key(text)
        encoded = text.encode("utf-8", "surrogatepass")
        whole = hashlib.sha256(self._mixed_frame + encoded).digest()
        return self.text_prefix(text) + whole[: KEY_BYTES - TEXT_PREFIX_BYTES]

    def cache_keys(self, text: str) -> tuple[bytes, ...]:
        """The keys of each model's answers to this text, in the order in which the endpoints were named."""
        if not self._pool.mixed:
            return (super().key(text),)
        return tuple(dict.fromkeys(labeller.key(text) for labeller in self._labellers()))

    def cache_key(self, text: str, answer: Answer) -> bytes | None:
        """The key of the model that gave this answer; None if it is not in the pool any more."""
        if not self._pool.mixed:
            return super().key(text)
        if answer.by is None:
            return None
        return next((own.key(text) for own in self._labellers() if own.gave(answer)), None)

    async def label(self, text: str, priority: Priority = "interactive") -> Answer:
        """Ask one of the models about one cleaned comment.

        Raises:
            EndpointError: no usable answer.
            EndpointLostError: no endpoint is there any more; for jobs only.
            BusyError: too many interactive comments wait already.
        """

        async def question(member: Member) -> Answer:
            if member.connection is None:
                raise RuntimeError("an endpoint that is up has a connection")
            return await self._labeller(member.connection).label_here(text)

        async with self._place(priority):
            return await self._pool.ask(question, priority)


def labeller_on(
    connection: Connection, *, task: Task, keywords: bool, wire: WireName = "auto", gate: Gate | None = None
) -> Labeller:
    """A labeller for this connection, be it one endpoint or a pool; the arguments are those of `Labeller`."""
    if isinstance(connection, PoolConnection):
        return PoolLabeller(connection, task=task, keywords=keywords, wire=wire, gate=gate)
    return Labeller(connection, task=task, keywords=keywords, wire=wire, gate=gate)
