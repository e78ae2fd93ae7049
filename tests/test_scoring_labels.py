"""Label probabilities from token log-probabilities, against a toy language model whose answers can be counted out."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewmill.scoring import LabelScores, TokenStep, reweigh, score_labels

LABEL_SETS = [
    ("positive", "neutral", "negative"),
    ("positive", "posted", "negative", "nega"),
    ("好", "好评", "好评如潮", "差"),
    ("喜悦", "愤怒", "悲伤", "惊讶", "无"),
    ("very good", "very bad", "very", "other"),
    ("aa", "ab", "ac", "b"),
]
COMPACT = (b"|", b"\n", b"\r")
JSON = (b'"',)
GARBAGE = (b"#", b"\xff\xfe", b"~~")


# One number, not `st.randoms()`, whose failures take minutes to shrink.
randoms = st.integers(0, 2**32).map(random.Random)


# The toy language model


@dataclass
class Node:
    """One state of the model: the tokens that lead on, each with its probability; a leaf ends a label."""

    branches: dict[bytes, tuple[float, Node]] = field(default_factory=dict)
    garbage: dict[bytes, float] = field(default_factory=dict)
    label: str | None = None

    def listing(self) -> tuple[tuple[bytes, float], ...]:
        pairs = [(token, share) for token, (share, _) in self.branches.items()] + list(self.garbage.items())
        return tuple((token, math.log(share)) for token, share in pairs)


def paths_of(labels: tuple[str, ...], rng: random.Random, ends: tuple[bytes, ...]) -> dict[str, list[bytes]]:
    """Cut each label into tokens, anywhere (inside characters too), so that equal beginnings are cut alike."""
    encoded = {label: label.encode() for label in labels}
    whole = set(encoded.values())
    prefixes = {name[:n] for name in whole for n in range(1, len(name))}
    cuts = {prefix for prefix in prefixes if prefix in whole or rng.random() < 0.3}
    paths = {}
    for label, name in encoded.items():
        at = [0, *(n for n in range(1, len(name)) if name[:n] in cuts), len(name)]
        tokens = [name[a:b] for a, b in itertools.pairwise(at)]
        end = rng.choice(ends)
        # One token may hold the label's end and what follows (`negative|`), but not where the label is the beginning of
        # another: beside "好|", the token "好" would say nothing of 好 in this model, which no reader can know.
        if end and name not in prefixes and rng.random() < 0.5:
            tokens[-1] += end
        else:
            tokens.append(end)
        paths[label] = tokens
    return paths


def model_of(paths: dict[str, list[bytes]], rng: random.Random) -> Node:
    root = Node()
    for label, tokens in paths.items():
        node = root
        for token in tokens:
            node = node.branches.setdefault(token, (0.0, Node()))[1]
        node.label = label
    give_shares(root, rng)
    return root


def give_shares(node: Node, rng: random.Random) -> None:
    weights = {token: rng.uniform(0.01, 1) for token in node.branches}
    garbage = {token: rng.uniform(0.01, 1) for token in GARBAGE if rng.random() < 0.5}
    total = sum(weights.values()) + sum(garbage.values())
    node.branches = {token: (weights[token] / total, child) for token, (_, child) in node.branches.items()}
    node.garbage = {token: weight / total for token, weight in garbage.items()} if node.branches else {}
    for _, child in node.branches.values():
        give_shares(child, rng)


def counted_out(node: Node) -> dict[str, float]:
    """Each label's probability when the model may only say labels, by enumeration."""
    if node.label is not None:
        return {node.label: 1.0}
    legal = sum(share for share, _ in node.branches.values())
    return {
        label: share / legal * inside
        for share, child in node.branches.values()
        for label, inside in counted_out(child).items()
    }


def generate(root: Node, path: list[bytes]) -> list[TokenStep]:
    steps, node = [], root
    for token in path:
        share, child = node.branches[token]
        steps.append(TokenStep(token, math.log(share), node.listing()))
        node = child
    return steps


@dataclass
class Run:
    labels: tuple[str, ...]
    paths: dict[str, list[bytes]]
    root: Node
    said: str
    steps: list[TokenStep]
    truth: dict[str, float]


def run_of(rng: random.Random, labels: tuple[str, ...], ends: tuple[bytes, ...]) -> Run:
    paths = paths_of(labels, rng, ends)
    root = model_of(paths, rng)
    said = rng.choice(labels)
    return Run(labels, paths, root, said, generate(root, paths[said]), counted_out(root))


@st.composite
def runs(draw: st.DrawFn, ends: tuple[bytes, ...] = (b"|", b"", b"|\xe6", b"\n", b"<|im_end|>")) -> Run:
    return run_of(draw(randoms), draw(st.sampled_from(LABEL_SETS)), ends)


def assert_sound(scores: LabelScores | None, labels: tuple[str, ...]) -> dict[str, float]:
    """Check what holds of all scores, and return the probabilities."""
    assert scores is not None
    assert list(scores.logprobs) == list(labels)
    assert all(math.isfinite(logprob) and logprob <= 0 for logprob in scores.logprobs.values())
    probabilities = {label: math.exp(logprob) for label, logprob in scores.logprobs.items()}
    assert sum(probabilities.values()) == pytest.approx(1)
    assert 0 <= scores.mass <= 1
    return probabilities


def near(value: float) -> object:
    return pytest.approx(value, abs=1e-9)


# Against the oracle


@given(runs())
def test_the_generated_label_has_its_exact_probability(run: Run) -> None:
    scores = score_labels(run.steps, run.labels, start=0, terminators=COMPACT)
    assert assert_sound(scores, run.labels)[run.said] == near(run.truth[run.said])


@given(runs())
def test_all_labels_are_exact_where_the_first_token_tells_them_apart(run: Run) -> None:
    probabilities = assert_sound(score_labels(run.steps, run.labels, start=0, terminators=COMPACT), run.labels)
    firsts = [path[0] for path in run.paths.values()]
    for label, path in run.paths.items():
        if firsts.count(path[0]) == 1:
            assert probabilities[label] == near(run.truth[label])
    # Of those behind another first token, only their sum was observed.
    for first in set(firsts):
        behind = [label for label, path in run.paths.items() if path[0] == first]
        assert sum(probabilities[label] for label in behind) == near(sum(run.truth[label] for label in behind))


@given(runs())
def test_mass_is_what_the_labels_hold_where_they_begin(run: Run) -> None:
    scores = score_labels(run.steps, run.labels, start=0, terminators=COMPACT)
    assert scores is not None
    assert scores.mass == near(1 - sum(run.root.garbage.values()))


@given(runs())
def test_a_listing_behind_the_mask_gives_the_same(run: Run) -> None:
    """vLLM may list masked tokens as -9999 and the rest renormalised."""
    masked = []
    for step in run.steps:
        legal = math.log(sum(math.exp(lp) for token, lp in step.top if token not in GARBAGE))
        top = tuple((token, -9999.0 if token in GARBAGE else lp - legal) for token, lp in step.top)
        masked.append(TokenStep(step.token, step.logprob - legal, top))
    before = score_labels(run.steps, run.labels, start=0, terminators=COMPACT)
    after = score_labels(masked, run.labels, start=0, terminators=COMPACT)
    assert before is not None
    assert after is not None
    assert after.logprobs == pytest.approx(before.logprobs)
    assert after.mass == near(1)


@given(runs(), randoms, st.booleans())
def test_spaces_before_a_label_change_nothing(run: Run, rng: random.Random, said_with_space: bool) -> None:
    """ " negative" is listed beside "negative", and may itself be what was generated."""
    first, *rest = run.steps
    spaced = []
    for token, logprob in first.top:
        share = rng.uniform(0.1, 0.9)
        spaced += [(token, logprob + math.log(share)), (b" " + token, logprob + math.log(1 - share))]
    said = b" " + first.token if said_with_space else first.token
    steps = [TokenStep(said, dict(spaced)[said], tuple(spaced)), *rest]
    scores = score_labels(steps, run.labels, start=int(said_with_space), terminators=COMPACT)
    plain = score_labels(run.steps, run.labels, start=0, terminators=COMPACT)
    assert plain is not None
    assert assert_sound(scores, run.labels) == pytest.approx({k: math.exp(v) for k, v in plain.logprobs.items()})


@given(runs(ends=(b'"', b'"}', b'","')), st.integers(0, 14))
def test_tokens_across_the_json_before_the_label(run: Run, across: int) -> None:
    before = b'{"sentiment":"'
    cut = len(before) - across
    lead = before[cut:]
    first, *rest = run.steps
    frame = [before[n : min(n + 3, cut)] for n in range(0, cut, 3)]
    steps = [
        *(TokenStep(token, 0.0, ((token, 0.0),)) for token in frame),
        TokenStep(lead + first.token, first.logprob, tuple((lead + token, lp) for token, lp in first.top)),
        *rest,
    ]
    scores = score_labels(steps, run.labels, start=len(before), terminators=JSON)
    assert assert_sound(scores, run.labels)[run.said] == near(run.truth[run.said])


@given(runs(), st.integers(0, 6))
def test_an_answer_cut_anywhere_is_sound_or_none(run: Run, kept: int) -> None:
    scores = score_labels(run.steps[:kept], run.labels, start=0, terminators=COMPACT)
    if scores is None:
        read = b"".join(step.token for step in run.steps[:kept])
        assert all(label.encode().startswith(read) for label in run.labels)
    else:
        assert_sound(scores, run.labels)


steps_of_anything = st.lists(
    st.builds(
        TokenStep,
        st.sampled_from([b"", b" ", b"\xe5", b"\xa5\xbd", *(t.encode() for t in ("好", "评", "差", "好|", "|", '"'))]),
        st.floats(-20000, 1),
        st.lists(
            st.tuples(st.sampled_from([b"", "好".encode(), "评".encode(), "差".encode(), b"x"]), st.floats(-20000, 1))
        ).map(tuple),
    ),
    max_size=5,
)


@given(steps_of_anything, st.integers(0, 8))
def test_whatever_a_server_lists_is_sound_or_none(steps: list[TokenStep], start: int) -> None:
    labels = ("好", "好评", "差")
    scores = score_labels(steps, labels, start=start, terminators=COMPACT)
    if scores is not None:
        assert_sound(scores, labels)


# By hand


def step(token: str, listed: dict[str, float] | None = None, share: float = 1.0) -> TokenStep:
    """A token and the probabilities listed at its place; `share` is its own where it is not listed."""
    listed = listed or {}
    top = tuple((name.encode(), math.log(value)) for name, value in listed.items())
    return TokenStep(token.encode(), math.log(listed.get(token, share)), top)


def probabilities_of(*steps: TokenStep, labels: tuple[str, ...], start: int = 0) -> dict[str, float]:
    return assert_sound(score_labels(steps, labels, start=start, terminators=COMPACT), labels)


def test_listed_tokens_of_one_label_add_up() -> None:
    listed = {"negative": 0.3, "neg": 0.2, " negative": 0.1, "positive": 0.2, "The": 0.2}
    scores = score_labels([step("negative", listed)], ("positive", "negative"), start=0, terminators=COMPACT)
    assert scores is not None
    assert math.exp(scores.logprobs["negative"]) == near(0.6 / 0.8)
    assert scores.mass == near(0.8)


def test_tokens_with_the_same_bytes_add_up() -> None:
    """Several end tokens (<|im_end|>, <|endoftext|>) have no bytes."""
    ended = TokenStep(b"", math.log(0.3), ((b"", math.log(0.3)), (b"", math.log(0.2)), ("评".encode(), math.log(0.5))))
    found = probabilities_of(step("好", {"好": 1.0}), ended, labels=("好", "好评", "差"))
    assert found["好"] == near(0.5)


def test_an_empty_token_before_the_answer_is_passed_over() -> None:
    found = probabilities_of(step("", {"": 0.9, "x": 0.1}), step("差", {"差": 0.8, "好": 0.2}), labels=("好", "差"))
    assert found["差"] == near(0.8)


@pytest.mark.parametrize("token", ["better", "neither", "no", "x", "negatives", "", " "])
def test_a_token_that_begins_no_label_counts_for_none(token: str) -> None:
    listed = {"negative": 0.3, "positive": 0.3, token: 0.4}
    found = probabilities_of(step("negative", listed), labels=("positive", "negative"))
    assert found["negative"] == near(0.5)


def test_a_group_that_was_not_generated_is_split_evenly() -> None:
    found = probabilities_of(step("差", {"差": 0.4, "好": 0.6}), labels=("好", "好评", "差"))
    assert found == {"好": near(0.3), "好评": near(0.3), "差": near(0.4)}


def test_the_end_of_the_answer_chooses_the_label_that_it_spells() -> None:
    found = probabilities_of(step("好", {"差": 0.4, "好": 0.6}), labels=("好", "好评", "差"))
    assert found["好"] == near(0.6)


def test_a_label_cut_in_the_middle_is_split_among_those_it_can_become() -> None:
    found = probabilities_of(step("ve", {"ve": 0.6, "o": 0.4}), labels=("very good", "very bad", "other"))
    assert found == {"very good": near(0.3), "very bad": near(0.3), "other": near(0.4)}


def test_nothing_is_known_where_the_answer_ends_before_labels_differ() -> None:
    assert score_labels([step("very", {"very": 1.0})], ("very good", "very bad"), start=0, terminators=COMPACT) is None


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [step("", {"": 1.0})],
        [step("I", {"I": 0.6, "The": 0.4})],
        [step("I", {"I": 0.6, "negative": 0.4})],
        [TokenStep(b"negative", -9999.0, ((b"negative", -9999.0), (b"positive", -9999.0)))],
    ],
    ids=["nothing", "end", "no label listed", "no label generated", "all masked"],
)
def test_no_label_no_scores(steps: list[TokenStep]) -> None:
    assert score_labels(steps, ("positive", "negative"), start=0, terminators=COMPACT) is None


def test_an_answer_shorter_than_where_the_label_begins_has_no_scores() -> None:
    assert score_labels([step("negative", {"negative": 1.0})], ("negative", "x"), start=9, terminators=COMPACT) is None


def test_an_unlisted_label_gets_no_more_than_the_least_that_is_listed() -> None:
    listed = {"negative": 0.5, "x": 0.1, "y": 0.05}
    found = probabilities_of(step("negative", listed), labels=("positive", "neutral", "negative"))
    assert found == {"positive": near(0.05 / 0.6), "neutral": near(0.05 / 0.6), "negative": near(0.5 / 0.6)}


def test_an_unlisted_label_gets_no_more_than_the_listing_leaves() -> None:
    listed = {"negative": 0.9, "x": 0.09}
    found = probabilities_of(step("negative", listed), labels=("positive", "negative"))
    assert found["positive"] == near(0.01 / 0.91)


def test_without_a_listing_the_generated_token_alone_speaks() -> None:
    found = probabilities_of(step("negative", share=0.9), labels=("positive", "negative"))
    assert found["negative"] == near(0.9)


def test_a_label_that_cannot_be_is_not_quite_impossible() -> None:
    found = probabilities_of(step("negative", {"negative": 1.0}), labels=("positive", "negative"))
    assert 0 < found["positive"] < 1e-9


# Weights


PROBABILITIES = st.dictionaries(st.text(min_size=1, max_size=3), st.floats(-40, 0), min_size=2, max_size=6)


@given(PROBABILITIES, st.floats(0.01, 100))
def test_a_weight_multiplies_the_odds_of_its_label_against_each_other(
    logprobs: dict[str, float], weight: float
) -> None:
    first, *others = logprobs
    weighed = reweigh(logprobs, {first: weight})
    assert sum(weighed.values()) == pytest.approx(1)
    assert list(weighed) == list(logprobs)
    for other in others:
        odds = weight * math.exp(logprobs[first] - logprobs[other])
        assert weighed[first] == pytest.approx(odds * weighed[other], rel=1e-6)


def test_equal_weights_change_nothing() -> None:
    logprobs = {"a": math.log(0.7), "b": math.log(0.3)}
    assert reweigh(logprobs, {"a": 5, "b": 5}) == pytest.approx({"a": 0.7, "b": 0.3})
    assert reweigh(logprobs, {}) == pytest.approx({"a": 0.7, "b": 0.3})
