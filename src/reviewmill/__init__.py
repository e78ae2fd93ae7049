"""Turn customer comments into sentiment that people can trust, with a language model on your own hardware.

The public face is what `__all__` lists; everything else may change without notice.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reviewmill._version import __version__
from reviewmill.errors import ReviewmillError

if TYPE_CHECKING:
    from reviewmill.analyzer import AsyncSentimentAnalyzer, SentimentAnalyzer
    from reviewmill.client import Client
    from reviewmill.schema import Analysis, Comment
    from reviewmill.settings import Settings
    from reviewmill.tasks import Task, load_task
    from reviewmill.teller import StudentAnalyzer

__all__ = [
    "Analysis",
    "AsyncSentimentAnalyzer",
    "Client",
    "Comment",
    "ReviewmillError",
    "SentimentAnalyzer",
    "Settings",
    "StudentAnalyzer",
    "Task",
    "__version__",
    "load_task",
]

_ROOMS = {
    "Analysis": "schema",
    "AsyncSentimentAnalyzer": "analyzer",
    "Client": "client",
    "Comment": "schema",
    "SentimentAnalyzer": "analyzer",
    "Settings": "settings",
    "StudentAnalyzer": "teller",
    "Task": "tasks",
    "load_task": "tasks",
}


def __getattr__(name: str) -> Any:
    """Import a name from its room when it is first used: a supervisor, say, needs nothing of an analyzer."""
    room = _ROOMS.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"reviewmill.{room}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
