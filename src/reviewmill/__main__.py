"""`python -m reviewmill`."""

from reviewmill.cli import main

main()
