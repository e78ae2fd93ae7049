"""Searching a better prompt for a task, and letting held-out rows decide whether it is better.

Three disjoint parts of the labelled rows: proposals come from the first, the best of them is chosen on the second, and
the third, which nothing has looked at before, judges that one once.
"""

from reviewmill.evaluate.improve.search import Search, SearchOptions

__all__ = ["Search", "SearchOptions"]
