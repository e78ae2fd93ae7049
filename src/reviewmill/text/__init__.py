"""A comment's text: cleaning with a way back to the original, redaction, triage, language, where keywords stand.

Pure functions; nothing here talks to a model or a file.
"""

from reviewmill.text.clean import JOINT, MENTION_PLACEHOLDER, URL_PLACEHOLDER, CleanText, clean, shorten
from reviewmill.text.language import detect_language
from reviewmill.text.redact import redact
from reviewmill.text.spans import locate
from reviewmill.text.triage import triage

__all__ = [
    "JOINT",
    "MENTION_PLACEHOLDER",
    "URL_PLACEHOLDER",
    "CleanText",
    "clean",
    "detect_language",
    "locate",
    "redact",
    "shorten",
    "triage",
]
