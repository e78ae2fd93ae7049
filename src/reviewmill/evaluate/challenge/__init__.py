"""The challenge suite: short comments of our own, by phenomenon, each with its label and the reason for it."""

from reviewmill.evaluate.challenge.suite import Case, Phenomenon, load_suite

__all__ = ["Case", "Phenomenon", "load_suite"]
