"""P(label | comment) from the log-probabilities of the generated tokens, by token bytes.

Where labels begin with different tokens, the token at which the label starts tells everything: the mass of each label
is the sum over the listed tokens that begin that label and no other, and the probabilities are those masses,
normalised over the labels. (This is scoring by "verbalisers", Schick & Schütze 2021, arXiv 2001.07676, read from one
constrained generation.) Where labels share a prefix, the walk goes on along the generated tokens: at each step the
mass splits over the groups of labels that the listed tokens can still become. The probability of the generated label
is then exact up to the listing; a group that was not generated and holds several labels is split evenly, since what
follows inside it was not observed. A label that no listed token begins gets the most that an unlisted token can have:
the smallest listed probability, or what the listing leaves of 1, whichever is less.

Bytes, not decoded text, because one Chinese character may be split over two tokens. Servers list the distribution
before the grammar mask (llama.cpp) or after it (some vLLM modes); normalising over the labels makes both the same.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

# vLLM lists masked tokens as -9999; anything below this is no probability at all.
_FLOOR: Final = -100.0
# Keeps logarithms finite.
_LEAST: Final = 1e-12
# Tokens whose meaning is remembered for a task; a vocabulary has 150,000, of which few are ever listed for a label.
_MOST_KNOWN: Final = 20_000
# Some servers (vLLM) name the token that ends the answer by its text: <|im_end|>, </s>. No label holds a "<".
_END_TOKEN: Final = b"<"


@dataclass(frozen=True, slots=True)
class TokenStep:
    """One generated token: its bytes, and the (bytes, log-probability) pairs listed at that position."""

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...]


@dataclass(frozen=True, slots=True)
class LabelScores:
    """Scores of all labels for one comment.

    Attributes:
        logprobs: label to natural log-probability, normalised over the labels (their exponentials sum to 1).
        mass: share of the whole distribution that the labels held where the label began (0 to 1).
    """

    logprobs: dict[str, float]
    mass: float


def score_labels(
    steps: Sequence[TokenStep], labels: Sequence[str], *, start: int, terminators: Sequence[bytes]
) -> LabelScores | None:
    """Score the labels from one generation.

    Args:
        steps: the generated tokens in order; their bytes concatenate to the answer.
        labels: the task's labels (at least 2).
        start: where the label begins in the answer, in bytes.
        terminators: what may follow a label in this wire format; the end of the answer always may.

    Returns:
        The scores, or None if the answer does not begin a label at `start`, or ends before any label differs from
        another.
    """
    walk = _Walk(_beginnings(tuple(labels), (*terminators, _END_TOKEN)))
    for lead, step in _from(steps, start):
        if not walk.step(step, lead):
            break
    return walk.scores()


def _from(steps: Sequence[TokenStep], start: int) -> Iterator[tuple[bytes, TokenStep]]:
    """The tokens from `start` on, each with the bytes of it that lie before the label."""
    at = 0
    for step in steps:
        end = at + len(step.token)
        if end > start:
            yield step.token[: max(0, start - at)], step
        at = end


class _Beginnings:
    """The labels of a task, and what every token can begin of them: the same few tokens are listed again and again."""

    def __init__(self, labels: tuple[str, ...], terminators: tuple[bytes, ...]) -> None:
        self.labels = {label: label.encode() for label in labels}
        self.all = frozenset(labels)
        self.terminators = terminators
        self._firsts = frozenset(label[0] for label in self.labels.values())
        self._known: dict[tuple[bytes, bytes], frozenset[str]] = {}

    def of(self, token: bytes, lead: bytes) -> frozenset[str]:
        """The labels that the answer can still become if it begins with this token."""
        found = self._known.get((token, lead))
        if found is None:
            body = _begun_by(token, lead)
            if body is None or (body and body[0] not in self._firsts):  # most listed tokens
                found = frozenset()
            else:
                found = self.among(self.all, body, has_body=bool(body))
            if len(self._known) < _MOST_KNOWN:
                self._known[token, lead] = found
        return found

    def among(self, alive: frozenset[str], so_far: bytes, *, has_body: bool) -> frozenset[str]:
        """Of these labels those that an answer which begins so can become."""
        return frozenset(label for label in alive if self._can_become(so_far, self.labels[label], has_body))

    def _can_become(self, so_far: bytes, label: bytes, has_body: bool) -> bool:
        if not has_body:  # an end-of-answer token, or white space only
            return so_far == label
        return label.startswith(so_far) or (
            so_far.startswith(label) and so_far[len(label) :].startswith(self.terminators)
        )


@lru_cache(64)
def _beginnings(labels: tuple[str, ...], terminators: tuple[bytes, ...]) -> _Beginnings:
    return _Beginnings(labels, terminators)


def _begun_by(token: bytes, lead: bytes) -> bytes | None:
    """A first token's bytes from the label's start on; None if it cannot stand here.

    A model lists " negative" beside "negative" even where a grammar forbids the space: both mean the label.
    """
    lead = lead.strip()
    return token[len(lead) :].lstrip() if token.startswith(lead) else None


class _Walk:
    """The state between tokens: which labels the answer can still become, and the probability of having come here."""

    def __init__(self, beginnings: _Beginnings) -> None:
        self.beginnings = beginnings
        self.labels = beginnings.labels
        self.alive = beginnings.all
        self.consumed = b""
        self.weight = 1.0
        self.masses: dict[str, float] = defaultdict(float)
        self.mass: float | None = None

    def step(self, step: TokenStep, lead: bytes) -> bool:
        """Take one token in; return whether more tokens can tell more."""
        groups, unlisted = self._groups(step, lead)
        if self.mass is None:
            self.mass = min(1.0, sum(groups.values()))
        chosen = self._compatible(step.token, lead)
        if chosen not in groups:
            return False
        for label in self.alive.difference(*groups):
            groups[frozenset({label})] = unlisted
        total = sum(groups.values())
        for group, mass in groups.items():
            if group != chosen or len(group) == 1:
                for label in group:
                    self.masses[label] += self.weight * (mass / total) / len(group)
        self.weight *= groups[chosen] / total
        self.consumed += step.token if self.consumed else (_begun_by(step.token, lead) or b"")
        self.alive = chosen
        return len(chosen) > 1

    def scores(self) -> LabelScores | None:
        """The probabilities, once all tokens are in."""
        if self.mass is None or (not self.masses and len(self.alive) == len(self.labels)):
            return None
        if len(self.alive) > 1:  # the answer ended where several labels were still possible
            exact = [label for label in self.alive if self.labels[label] == self.consumed]
            for label in exact or self.alive:
                self.masses[label] += self.weight / len(exact or self.alive)
        masses = {label: max(self.masses[label], _LEAST) for label in self.labels}
        total = sum(masses.values())
        return LabelScores({label: math.log(mass / total) for label, mass in masses.items()}, self.mass)

    def _groups(self, step: TokenStep, lead: bytes) -> tuple[dict[frozenset[str], float], float]:
        """Mass of each set of labels that the listed tokens can become, and the most that an unlisted token can have.

        Different tokens may have the same bytes (those that end an answer have none): they count together.
        """
        groups: dict[frozenset[str], float] = defaultdict(float)
        listed, least, found = 0.0, 1.0, False
        for token, logprob in step.top:
            found = found or token == step.token
            if logprob > _FLOOR:
                mass = math.exp(min(0.0, logprob))
                listed, least = listed + mass, min(least, mass)
                if group := self._compatible(token, lead):
                    groups[group] += mass
        if not found:
            return self._groups(replace(step, top=(*step.top, (step.token, step.logprob))), lead)
        return groups, min(least, max(0.0, 1.0 - listed))

    def _compatible(self, token: bytes, lead: bytes) -> frozenset[str]:
        if not self.consumed:
            return self.beginnings.of(token, lead)
        return self.beginnings.among(self.alive, self.consumed + token, has_body=bool(token))


def reweigh(logprobs: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Multiply each label's probability by its weight, and normalise.

    With weights w = P'(label) / P(label) this corrects the posterior of a model that assumes the prior P where P' holds
    (Saerens, Latinne & Decaestecker 2002, Neural Computation 14(1), eq. 2.4).

    Args:
        logprobs: label to natural log-probability; finite.
        weights: label to weight, above 0; a label without one keeps its probability's proportion.

    Returns:
        Label to probability, in the same order; they sum to 1.
    """
    weighed = {name: value + math.log(weights.get(name, 1.0)) for name, value in logprobs.items()}
    most = max(weighed.values())
    shares = {name: math.exp(value - most) for name, value in weighed.items()}
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}
