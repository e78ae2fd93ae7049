"""How fast an endpoint is, and how much of that comes through: `reviewmill bench`."""

from reviewmill.bench.measure import Level, Report, measure

__all__ = ["Level", "Report", "measure"]
