"""Label probabilities from a model's token log-probabilities, and their calibration. Nothing here talks to a model."""

from reviewmill.scoring.calibration import Bound, Calibration
from reviewmill.scoring.labels import LabelScores, TokenStep, reweigh, score_labels
from reviewmill.scoring.shelf import Chosen, choose

__all__ = [
    "Bound",
    "Calibration",
    "Chosen",
    "LabelScores",
    "TokenStep",
    "choose",
    "reweigh",
    "score_labels",
]
