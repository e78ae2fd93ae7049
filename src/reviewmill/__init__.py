"""Turn customer comments into sentiment that people can trust, with a language model on your own hardware.

The public face is what `__all__` lists; everything else may change without notice.
"""

from typing import TYPE_CHECKING, Any

from reviewmill._version import __version__
from reviewmill.analyzer import AsyncSentimentAnalyzer, SentimentAnalyzer
from reviewmill.errors import ReviewmillError
from reviewmill.schema import Analysis, Comment
from reviewmill.settings import Settings
from reviewmill.tasks import Task, load_task

if TYPE_CHECKING:
    from reviewmill.client import Client
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


def __getattr__(name: str) -> Any:
    """Import what most programs do without (a service's client, a saved student) when it is first used."""
    if name == "Client":
        from reviewmill.client import Client

        return Client
    if name == "StudentAnalyzer":
        from reviewmill.teller import StudentAnalyzer

        return StudentAnalyzer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
