"""The command line: one thin file per command group; no logic."""

from reviewmill.cli.main import main

__all__ = ["main"]
