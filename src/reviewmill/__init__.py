"""Turn customer comments into sentiment that people can trust, with a language model on your own hardware.

The public face is what `__all__` lists; everything else may change without notice.
"""

from reviewmill._version import __version__
from reviewmill.analyzer import AsyncSentimentAnalyzer, SentimentAnalyzer
from reviewmill.errors import ReviewmillError
from reviewmill.schema import Analysis, Comment
from reviewmill.settings import Settings
from reviewmill.tasks import Task, load_task

__all__ = [
    "Analysis",
    "AsyncSentimentAnalyzer",
    "Comment",
    "ReviewmillError",
    "SentimentAnalyzer",
    "Settings",
    "Task",
    "__version__",
    "load_task",
]
