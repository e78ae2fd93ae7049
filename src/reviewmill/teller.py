"""A saved student that answers by itself: no model, no endpoint, no cache, and no certificate."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

from reviewmill.cascade.explain import keywords
from reviewmill.cascade.saved import load_student
from reviewmill.pipeline import Prepared, prepare_under
from reviewmill.schema import Analysis, Comment, Provenance
from reviewmill.settings import Settings, load_settings
from reviewmill.tasks import drop_orders_of
from reviewmill.text import detect_language, locate

UNCERTIFIED: Final = "uncertified"
"""The flag of every analysis that a student gave outside of the run that certified it."""


class StudentAnalyzer:
    """Answers with a saved student: some ten thousand comments a second, on any machine.

    What it was certified for was another file: how often it agrees with its model here, nobody has tested, and every
    analysis is flagged `uncertified`. `reviewmill analyze FILE --agreement 0.95 --student …` tests it.

    Args:
        path: the student's file (`reviewmill distill`).
        settings: limits and thresholds.

    Attributes:
        about: where it comes from: task, model, and the certificate of the run that it was trained in.
        name: what its analyses name as the model.

    Raises:
        StudentError: it is no student.
    """

    def __init__(self, path: str | Path, settings: Settings | None = None) -> None:
        self.settings = settings or load_settings()
        saved = load_student(Path(path))
        self.about = saved.about
        self._student = saved.student
        self._task = str(saved.about["task"]["name"])
        self._orderable = tuple(saved.about["task"].get("orderable", saved.student.labels))
        self.name = f"student of {saved.about['model']['name']}"
        self._most = int(saved.about.get("max_keywords", 0))

    def analyze(self, text: str | Comment) -> Analysis:
        """Analyse one comment."""
        return self.analyze_batch([text])[0]

    def analyze_batch(self, texts: Iterable[str | Comment]) -> list[Analysis]:
        """Analyse many comments; the result has their order and length."""
        ready = [prepare_under(self.settings, text if isinstance(text, Comment) else Comment(text)) for text in texts]
        shown = [drop_orders_of(each.text, self._task, self._orderable) for each in ready if each.text is not None]
        judged = [text for text, _ in shown]
        logits = self._student.logits(judged)
        probabilities, columns = self._student.probabilities(logits), self._student.choices(logits)
        words = iter(keywords(self._student, judged, columns, self._most))
        orders = iter(["order_dropped"] if ordered else [] for _, ordered in shown)
        said = iter(zip(probabilities, columns, strict=True))
        return [
            self._frame(each) if each.text is None else self._analysis(each, *next(said), next(words), next(orders))
            for each in ready
        ]

    def _analysis(
        self,
        ready: Prepared,
        probabilities: np.ndarray,
        column: np.intp,
        words: tuple[str, ...],
        orders: list[str],
    ) -> Analysis:
        analysis = self._frame(ready)
        cleaned = ready.cleaned
        if cleaned is None:
            raise ValueError("a comment that was refused cannot have an answer")
        labels = self._student.labels
        shares = {name: round(float(p), 6) for name, p in zip(labels, probabilities, strict=True)}
        spans = locate(words, cleaned)
        confidence = round(float(probabilities[column]), 4)
        analysis.update(
            {
                self._task: labels[column],
                "confidence": confidence,
                "probabilities": shares,
                "keywords": [span["text"] for span in spans],
                "spans": spans,
                "flags": [*cleaned.flags, *orders, UNCERTIFIED],
                "needs_review": bool(orders) or confidence < self.settings.review_below,
            }
        )
        return analysis

    def _frame(self, ready: Prepared) -> Analysis:
        answered = ready.text is not None
        status = "error" if ready.error else "ok" if answered else "insufficient"
        flags = [*(ready.cleaned.flags if ready.cleaned else ()), *([ready.insufficient] if ready.insufficient else [])]
        return Analysis(
            {
                self._task: None,
                "confidence": None,
                "keywords": [],
                "original_text": ready.comment.text,
                "id": ready.comment.id,
                "status": status,
                "probabilities": {},
                "spans": [],
                "language": detect_language(ready.cleaned.text) if ready.cleaned is not None else None,
                "flags": flags,
                "route": "student" if answered else None if ready.error else "rule",
                "needs_review": bool(ready.error),
                "error": ready.error,
                "provenance": Provenance(
                    model=self.name if answered else None,
                    task=self._task,
                    prompt=self.about.get("prompt") if answered else None,
                    endpoint=None,
                    calibration=None,
                    latency_ms=None,
                ),
            }
        )
