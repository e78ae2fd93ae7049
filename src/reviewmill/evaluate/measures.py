"""What is measured, as it stands in reports. Pydantic models; every share is between 0 and 1."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Measured(BaseModel):
    """Base of everything in a report: read back strictly, so that a changed format is noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Estimate(Measured):
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


class LabelScore(Measured):
    """How one label fares; `precision` is None where it was never said, `recall` where it never was right."""

    label: str
    rows: int
    said: int
    precision: Estimate | None
    recall: Estimate | None
    f1: Estimate


class Confusion(Measured):
    """`counts[i][j]`: rows whose right label is `gold[i]` and that got `said[j]`."""

    gold: list[str]
    said: list[str]
    counts: list[list[int]]


class Scores(Measured):
    """Right and wrong. `macro_f1` is the mean over the labels that occur; `kappa` is None where only one occurs."""

    rows: int
    accuracy: Estimate
    macro_f1: Estimate
    kappa: Estimate | None
    labels: list[LabelScore]
    confusion: Confusion


class Bin(Measured):
    """Rows of similar confidence: their mean confidence, and how many of them are right."""

    rows: int
    confidence: float
    accuracy: Estimate


class Reliability(Measured):
    """Whether confidence means what it says.

    Attributes:
        ece: expected calibration error: mean distance of confidence and accuracy over bins of equally many rows.
        brier: Brier score, halved sum over the labels: 0 is best, 1 is worst; None without probabilities.
        nll: mean negative log-probability of the right label (nats); None without probabilities.
        auroc: how well confidence tells right from wrong (0.5: not at all); None where all are right, or all wrong.
        confidence: mean confidence.
        bins: the reliability diagram, least confident first.
    """

    rows: int
    ece: Estimate
    brier: Estimate | None
    nll: Estimate | None
    auroc: float | None
    confidence: float
    bins: list[Bin]


class Threshold(Measured):
    """What happens if everything at least as confident as this is accepted without a look."""

    confidence: float
    rows: int
    coverage: float
    accuracy: Estimate | None


class Promise(Measured):
    """The widest acceptance that keeps a target with 95% confidence; `confidence` is None where none is shown to."""

    target: float
    confidence: float | None
    rows: int
    coverage: float
    accuracy: Estimate | None


class Selection(Measured):
    """Accuracy against the share that is accepted.

    Attributes:
        curve: (coverage, accuracy), most confident first; at most some 200 points.
        aurc: area under risk (1 - accuracy) over coverage; lower is better.
        thresholds: at fixed confidences.
        promises: for fixed targets.
    """

    curve: list[tuple[float, float]]
    aurc: float
    thresholds: list[Threshold]
    promises: list[Promise]


class Measures(Measured):
    """All of it over one set of rows; without confidences there is only the first."""

    scores: Scores
    reliability: Reliability | None
    selection: Selection | None


class Slice(Measured):
    """One part of the rows.

    Attributes:
        by: what the rows were parted by (`language`, `length`, `tag`, `flag`, a column's name).
        value: this part.
        rows: how many.
        accuracy: with Wilson's interval.
        macro_f1: over the labels that occur in it; None where only one does.
        ece: None with too few rows, or without confidences.
        difference: accuracy minus that of all other rows; None where there are no others.
        p_value: Fisher's exact test of that difference, two-sided, adjusted for the number of slices (Benjamini &
            Hochberg); None likewise.
    """

    by: str
    value: str
    rows: int
    accuracy: Estimate
    macro_f1: float | None
    ece: float | None
    difference: float | None
    p_value: float | None

    @property
    def stands_out(self) -> str | None:
        """`worse` or `better` where the difference is more than chance."""
        if self.p_value is None or self.difference is None or self.p_value > 0.05:
            return None
        return "worse" if self.difference < 0 else "better"
