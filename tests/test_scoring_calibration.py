"""Calibrations: what applying one may and may not do, and what a fit finds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewmill.scoring.calibration import Bound, Calibration, Prior, centred
from reviewmill.scoring.fitting import Scored, TextFeatures, fit, fit_prior, fit_stack
from reviewmill.scoring.labels import reweigh
from reviewmill.scoring.stack import TextPart, features

BOUND = Bound(model="m", task="t", prompt="p")
LABELS = ("positive", "neutral", "negative")


def made(bias: dict[str, float], temperature: float = 1.0, **more: object) -> Calibration:
    return Calibration(
        task="sentiment",
        model="m",
        labels=tuple(bias),
        temperature=temperature,
        bias=bias,
        bound_to=BOUND,
        **more,  # type: ignore[arg-type]
    )


@st.composite
def answers(draw: st.DrawFn) -> tuple[dict[str, float], dict[str, float], float]:
    """Log-probabilities that sum to 1, biases for the same labels, and a temperature."""
    count = draw(st.integers(2, 8))
    raw = draw(st.lists(st.floats(-27, 0), min_size=count, max_size=count))
    total = math.log(sum(math.exp(value) for value in raw))
    biases = draw(st.lists(st.floats(-50, 50), min_size=count, max_size=count))
    names = [f"l{number}" for number in range(count)]
    temperature = draw(st.floats(0.02, 100))
    return (
        dict(zip(names, (value - total for value in raw), strict=True)),
        dict(zip(names, biases, strict=True)),
        temperature,
    )


@given(answers())
def test_probabilities_stay_probabilities(case) -> None:
    logprobs, bias, temperature = case
    applied = made(bias, temperature).apply(logprobs)
    assert list(applied) == list(logprobs)
    assert all(0 <= p <= 1 for p in applied.values())
    assert sum(applied.values()) == pytest.approx(1, abs=1e-9)


@given(answers())
def test_temperature_alone_never_changes_the_label(case) -> None:
    logprobs, bias, temperature = case
    applied = made(dict.fromkeys(bias, 0.0), temperature).apply(logprobs)
    chosen = max(applied, key=applied.__getitem__)
    assert logprobs[chosen] == pytest.approx(max(logprobs.values()), abs=1e-9 * temperature + 1e-12)


@given(answers())
def test_identity_changes_nothing(case) -> None:
    logprobs, bias, _ = case
    applied = made(dict.fromkeys(bias, 0.0)).apply(logprobs)
    assert applied == pytest.approx({name: math.exp(value) for name, value in logprobs.items()}, abs=1e-9)


@given(answers(), st.randoms())
def test_the_order_of_labels_does_not_matter(case, random) -> None:
    logprobs, bias, temperature = case
    names = list(bias)
    random.shuffle(names)
    first = made(bias, temperature).apply(logprobs)
    second = made({n: bias[n] for n in names}, temperature).apply({n: logprobs[n] for n in reversed(names)})
    assert second == pytest.approx(first)


@given(answers(), st.floats(-30, 30))
def test_only_differences_of_biases_matter(case, by) -> None:
    logprobs, bias, temperature = case
    bias = {name: value / 3 for name, value in bias.items()}
    moved = made({name: value + by for name, value in bias.items()}, temperature)
    assert moved.apply(logprobs) == pytest.approx(made(bias, temperature).apply(logprobs), abs=1e-9)


@given(answers(), st.lists(st.floats(0.01, 100), min_size=8, max_size=8))
def test_weights_and_biases_are_the_same_thing(case, given_weights) -> None:
    logprobs, bias, _ = case
    weights = dict(zip(bias, given_weights, strict=False))
    applied = made(Prior.from_weights(weights).bias).apply(logprobs)
    assert applied == pytest.approx(reweigh(logprobs, weights), abs=1e-9)


def test_what_it_was_not_made_for_is_refused() -> None:
    calibration = made(dict.fromkeys(LABELS, 0.0))
    with pytest.raises(ValueError, match="labels"):
        calibration.apply({"positive": -0.1, "negative": -2.0})
    assert calibration.because_not_for(BOUND) is None
    for field, word in (("model", "model"), ("task", "task"), ("prompt", "prompt")):
        assert word in (calibration.because_not_for(BOUND.model_copy(update={field: "other"})) or "")


def test_the_id_names_what_decides_and_nothing_else() -> None:
    one = made({"a": 0.5, "b": -0.5}, 2.0)
    assert one.id == made({"a": 0.5, "b": -0.5}, 2.0, created="2026", notes=("x",)).id
    others = [
        made({"a": 0.4, "b": -0.5}, 2.0),
        made({"a": 0.5, "b": -0.5}, 2.1),
        made({"b": -0.5, "a": 0.5}, 2.0),
        one.model_copy(update={"bound_to": BOUND.model_copy(update={"prompt": "q"})}),
    ]
    # pydantic copies what was computed; a real one is made anew
    others[-1] = Calibration.model_validate(others[-1].model_dump())
    assert len({one.id, *(each.id for each in others)}) == 5


# -- fitting --------------------------------------------------------------------------------------------------------


def world(
    draw: np.random.Generator, rows: int, labels: tuple[str, ...], temperature: float, bias: dict[str, float]
) -> list[Scored]:
    """Rows whose labels really follow `softmax(z / temperature + bias)`."""
    z = draw.normal(0, draw.uniform(1.5, 3), (rows, len(labels)))
    z -= np.log(np.exp(z).sum(axis=1, keepdims=True))
    scores = z / temperature + np.array([bias[name] for name in labels])
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    chosen = (shares.cumsum(axis=1) < draw.random((rows, 1))).sum(axis=1).clip(max=len(labels) - 1)
    given_labels = [labels[place] for place in chosen]
    return [
        Scored(label, dict(zip(labels, row, strict=True))) for label, row in zip(given_labels, z.tolist(), strict=True)
    ]


def loss(rows: list[Scored], temperature: float, bias: dict[str, float]) -> float:
    labels = list(bias)
    scores = np.array([[row.logprobs[name] for name in labels] for row in rows]) / temperature
    scores += np.array([bias[name] for name in labels])
    norms = np.log(np.exp(scores - scores.max(axis=1, keepdims=True)).sum(axis=1)) + scores.max(axis=1)
    return float((norms - scores[np.arange(len(rows)), [labels.index(row.label) for row in rows]]).mean())


def flat(labels: tuple[str, ...] = LABELS) -> Prior:
    return Prior(bias=dict.fromkeys(labels, 0.0))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.5])
def test_many_rows_give_back_what_made_them(temperature) -> None:
    bias = centred({"positive": 0.6, "neutral": -0.9, "negative": 0.3})
    rows = world(np.random.default_rng(1), 6000, LABELS, temperature, bias)
    found = fit(rows, flat())
    assert found.temperature == pytest.approx(temperature, rel=0.08)
    assert found.bias == pytest.approx(bias, abs=0.12)
    assert sum(found.bias.values()) == pytest.approx(0, abs=1e-5)


def test_a_fit_does_not_depend_on_the_order_of_rows_or_labels() -> None:
    rows = world(np.random.default_rng(2), 200, LABELS, 2.0, dict(zip(LABELS, (0.5, -0.5, 0.0), strict=True)))
    one = fit(rows, flat())
    turned = [Scored(row.label, dict(reversed(row.logprobs.items()))) for row in reversed(rows)]
    other = fit(turned, flat(tuple(reversed(LABELS))))
    assert other.temperature == pytest.approx(one.temperature, abs=1e-3)
    assert other.bias == pytest.approx(one.bias, abs=1e-3)


def test_a_row_counted_twice_is_two_rows() -> None:
    rows = world(np.random.default_rng(3), 80, LABELS, 2.0, dict.fromkeys(LABELS, 0.0))
    weighted = fit(rows, flat(), weights=[2.0] * len(rows))
    doubled = fit([*rows, *rows], flat())
    assert weighted.temperature == pytest.approx(doubled.temperature, abs=1e-3)
    assert weighted.bias == pytest.approx(doubled.bias, abs=1e-3)


def test_without_evidence_the_prior_stays() -> None:
    prior = Prior(temperature=2.0, bias={"positive": 0.4, "neutral": -0.6, "negative": 0.2})
    even = {name: math.log(1 / 3) for name in LABELS}
    # For a model that never tells labels apart, temperature is anything: it stays; three labels once each say little.
    found = fit([Scored(name, even) for name in LABELS], prior)
    assert found.temperature == pytest.approx(2.0, abs=0.05)
    assert found.bias["neutral"] < found.bias["negative"] < found.bias["positive"]


def test_an_absent_label_keeps_its_bias_and_can_still_be_said() -> None:
    truth = dict(zip(LABELS, (0.5, -20.0, -0.5), strict=True))
    rows = world(np.random.default_rng(4), 400, LABELS, 1.0, truth)
    assert {row.label for row in rows} == {"positive", "negative"}
    prior = Prior(bias={"positive": 0.0, "neutral": -0.7, "negative": 0.0})
    kept, fitted = fit(rows, prior), fit(rows, prior, absent="fit")

    def above_the_others(bias: dict[str, float]) -> float:
        return bias["neutral"] - (bias["positive"] + bias["negative"]) / 2

    assert above_the_others(kept.bias) == pytest.approx(-0.7, abs=1e-4)
    assert above_the_others(fitted.bias) < -2
    assert kept.bias["positive"] - kept.bias["negative"] == pytest.approx(1.0, abs=0.35)
    sure = {"positive": -6.0, "neutral": -0.005, "negative": -6.0}
    applied = made(kept.bias, kept.temperature).apply(sure)
    assert max(applied, key=applied.__getitem__) == "neutral"


@pytest.mark.slow
def test_small_files_help_where_something_is_wrong_and_harm_little_where_nothing_is() -> None:
    """200 worlds, 60 labelled rows each; judged on 1,500 others."""
    draw = np.random.default_rng(20240917)
    changes: dict[bool, list[float]] = {True: [], False: []}
    for number in range(200):
        right = number % 2 == 0
        labels = LABELS[: draw.integers(2, 4)]
        temperature = 1.0 if right else float(np.exp(draw.uniform(np.log(0.6), np.log(4))))
        bias = {name: 0.0 if right else float(draw.normal(0, 0.8)) for name in labels}
        rows = world(draw, 1560, labels, temperature, bias)
        found = fit(rows[:60], flat(labels))
        zero = dict.fromkeys(labels, 0.0)
        changes[right].append(loss(rows[60:], found.temperature, found.bias) - loss(rows[60:], 1.0, zero))
    already_right, wrong = np.array(changes[True]), np.array(changes[False])
    print(f"already right: mean {already_right.mean():+.4f}, worst {already_right.max():+.4f}")
    print(f"wrong: mean {wrong.mean():+.4f}, worst {wrong.max():+.4f}, worse in {(wrong > 0.01).mean():.0%}")
    assert already_right.mean() < 0.02
    assert already_right.max() < 0.1
    assert wrong.mean() < -0.1
    assert (wrong > 0.01).mean() <= 0.08


def test_the_fit_is_the_bottom() -> None:
    """No step away from what was found lowers what is minimised (the gradient is right, and the search ended)."""
    from reviewmill.scoring.fitting import SIGMA_BIAS, SIGMA_SLOPE

    rows = world(np.random.default_rng(5), 60, LABELS, 2.0, dict(zip(LABELS, (0.5, -0.5, 0.0), strict=True)))
    found = fit(rows, flat())

    def whole(slope: float, bias: dict[str, float]) -> float:
        kept = (slope - 1) ** 2 / (2 * SIGMA_SLOPE**2) + sum(b * b for b in bias.values()) / (2 * SIGMA_BIAS**2)
        return loss(rows, 1 / slope, bias) * len(rows) + kept

    slope = 1 / found.temperature
    best = whole(slope, found.bias)
    for step in (-0.02, 0.02):
        assert whole(slope + step, found.bias) > best
        for name in LABELS:
            assert whole(slope, found.bias | {name: found.bias[name] + step}) > best


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="no rows"):
        fit([], flat())
    with pytest.raises(ValueError, match="joy"):
        fit([Scored("joy", dict.fromkeys(LABELS, -1.1))], flat())


# -- without labels -------------------------------------------------------------------------------------------------


def test_batch_calibration_divides_by_the_mean() -> None:
    """Equation 5 of arXiv 2309.17249, by hand."""
    rows = [{"a": math.log(0.9), "b": math.log(0.1)}, {"a": math.log(0.5), "b": math.log(0.5)}]
    found = fit_prior(rows, flat(("a", "b")), {"a": 0.5, "b": 0.5}, most=1e9)
    mean = {"a": 0.7, "b": 0.3}
    for row in rows:
        divided = {name: math.exp(row[name]) / mean[name] for name in row}
        wanted = {name: value / sum(divided.values()) for name, value in divided.items()}
        assert made(found.bias, found.temperature).apply(row) == pytest.approx(wanted, abs=1e-5)


def test_expected_shares_move_the_answers_towards_them() -> None:
    rows = [row.logprobs for row in world(np.random.default_rng(6), 300, LABELS, 1.0, dict.fromkeys(LABELS, 0.0))]
    found = fit_prior(rows, flat(), {"positive": 0.8, "neutral": 0.1, "negative": 0.1}, most=100)
    applied = [made(found.bias).apply(row) for row in rows]
    assert np.mean([row["positive"] for row in applied]) > 0.55


def test_without_labels_nothing_moves_by_more_than_was_allowed() -> None:
    rows = [{"a": math.log(1 - 1e-9), "b": math.log(1e-9)}] * 30
    found = fit_prior(rows, flat(("a", "b")), {"a": 0.5, "b": 0.5}, most=10)
    assert found.bias["b"] - found.bias["a"] == pytest.approx(math.log(10), abs=1e-4)


# -- n-grams --------------------------------------------------------------------------------------------------------


def texts_world(draw: np.random.Generator, rows: int) -> list[Scored]:
    """The model knows nothing of a word that decides: it says positive and negative alike."""
    made_rows = []
    for _ in range(rows):
        label = ("positive", "negative")[draw.integers(2)]
        word = {"positive": "真香", "negative": "翻车"}[label if draw.random() < 0.9 else "positive"]
        filler = "".join(draw.choice(list("这个东西我买了用着还行吧今天到货"), 8))
        noise = draw.normal(0, 0.5)
        z = np.log([1 / (1 + math.exp(noise)), 1 - 1 / (1 + math.exp(noise))])
        made_rows.append(Scored(label, {"positive": float(z[0]), "negative": float(z[1])}, f"{filler}{word}"))
    return made_rows


def test_n_grams_learn_what_the_model_does_not_know() -> None:
    rows = texts_world(np.random.default_rng(7), 300)
    found = fit_stack(rows[:200], flat(("positive", "negative")), strength=30.0)
    assert found.text is not None
    calibration = made(found.bias, found.temperature, method="stack", text=found.text)
    right = [
        max(p, key=p.__getitem__) == row.label
        for row in rows[200:]
        for p in [calibration.apply(row.logprobs, row.text)]
    ]
    assert np.mean(right) > 0.9
    with pytest.raises(ValueError, match="comment"):
        calibration.apply(rows[0].logprobs)


def test_n_grams_solved_in_the_comments_span_are_the_same_weights(monkeypatch) -> None:
    rows = texts_world(np.random.default_rng(8), 60)
    prior = flat(("positive", "negative"))
    near = fit_stack(rows, prior, strength=3.0).text
    monkeypatch.setattr("reviewmill.scoring.fitting._DENSE", 0)
    plain = fit_stack(rows, prior, strength=3.0).text
    assert isinstance(near, TextPart)
    assert isinstance(plain, TextPart)
    assert np.array_equal(near.index, plain.index)
    assert near.weights == pytest.approx(plain.weights, abs=2e-3)


def test_what_training_added_is_what_applying_adds() -> None:
    rows = texts_world(np.random.default_rng(9), 50)
    known = TextFeatures([row.text for row in rows])
    part = fit_stack(rows, flat(("positive", "negative")), strength=3.0, features=known).text
    assert isinstance(part, TextPart)
    sums = known.inputs @ np.linalg.lstsq(known.to_ngrams(np.eye(known.inputs.shape[1])), part.weights, rcond=None)[0]
    for at, row in enumerate(rows[:10]):
        added = part.add({"positive": 0.0, "negative": 0.0}, row.text)
        assert added["positive"] - added["negative"] == pytest.approx(sums[at, 0] - sums[at, 1], abs=1e-3)


@given(st.text(max_size=60), st.floats(-5, 5), st.floats(-5, 5), st.floats(-5, 5))
def test_n_grams_leave_the_odds_of_an_absent_label_alone(text, one, two, three) -> None:
    number = np.unique(np.append(features(text), 7))
    weights = np.random.default_rng(0).normal(size=(len(number), 2))
    part = TextPart(("positive", "negative"), number, weights.astype(np.float32))
    scores = {"positive": one, "neutral": two, "negative": three}
    after = part.add(scores, text)
    together = [math.log(math.exp(s["positive"]) + math.exp(s["negative"])) - s["neutral"] for s in (scores, after)]
    assert together[1] == pytest.approx(together[0], abs=1e-6)


def test_damaged_weights_are_refused() -> None:
    index, weights = np.array([3, 5], dtype=np.int32), np.zeros((2, 2), dtype=np.float32)
    for bad_index, bad_weights, said in (
        (index[::-1], weights, "order"),
        (index, weights[:1], "fit"),
        (np.array([3, 1 << 20], dtype=np.int32), weights, "range"),
        (index, np.full((2, 2), np.nan, dtype=np.float32), "finite"),
    ):
        with pytest.raises(ValueError, match=said):
            TextPart(("a", "b"), bad_index, bad_weights)
