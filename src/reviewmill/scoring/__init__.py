"""Label probabilities from a model's token log-probabilities. Pure functions; nothing here talks to a model."""

from reviewmill.scoring.labels import LabelScores, TokenStep, reweigh, score_labels

__all__ = ["LabelScores", "TokenStep", "reweigh", "score_labels"]
