"""Model endpoints: every engine is an OpenAI-compatible HTTP server, the embedded llama.cpp included."""

from reviewmill.endpoints.capabilities import Capabilities
from reviewmill.endpoints.connection import About, Connection, connect
from reviewmill.endpoints.gate import Gate, Priority
from reviewmill.endpoints.labeller import Labeller
from reviewmill.endpoints.pool import PoolConnection
from reviewmill.endpoints.pool_labeller import PoolLabeller, labeller_on

__all__ = [
    "About",
    "Capabilities",
    "Connection",
    "Gate",
    "Labeller",
    "PoolConnection",
    "PoolLabeller",
    "Priority",
    "connect",
    "labeller_on",
]
