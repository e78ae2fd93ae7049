"""The challenge suite: what is in it, how it is asked, counted and shown."""

from __future__ import annotations

import asyncio
import difflib
import json
import re
import unicodedata
from collections import Counter

import pytest

from reviewmill.analyzer import AsyncSentimentAnalyzer
from reviewmill.errors import InputError
from reviewmill.evaluate.challenge import load_suite
from reviewmill.evaluate.challenge.score import ask_suite, translation
from reviewmill.evaluate.improve.pool import builtin_pools
from reviewmill.tasks import BUILTIN_TASKS, load_task, parse_task
from stub_endpoint import StubEndpoint, decide

SUITE = load_suite()
CASES = [case for phenomenon in SUITE for case in phenomenon.cases]


def _bare(text: str) -> str:
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKC", text).lower())


# What is in it


def test_is_large_and_mostly_chinese():
    assert len(CASES) >= 320
    chinese = sum(case.lang.startswith("zh") or case.lang in {"yue", "wuu"} for case in CASES)
    assert 0.65 <= chinese / len(CASES) <= 0.85
    assert len({case.lang for case in CASES}) >= 15


def test_every_phenomenon_has_enough_cases_of_its_own():
    assert len(SUITE) >= 19
    for phenomenon in SUITE:
        assert len(phenomenon.cases) >= 10, phenomenon.name
    assert len({phenomenon.title for phenomenon in SUITE}) == len(SUITE)


def test_ids_and_texts_are_unique():
    assert [i for i, n in Counter(case.id for case in CASES).items() if n > 1] == []
    bare = Counter(_bare(case.text) or case.text for case in CASES)
    assert [text for text, n in bare.items() if n > 1] == []


def test_texts_are_short_and_of_one_line():
    for case in CASES:
        assert case.text == case.text.strip(), case.id
        assert "\n" not in case.text, case.id
        assert len(case.text) <= 120, case.id
        assert 3 <= len(case.why) <= 120, case.id
        assert "\n" not in case.why, case.id


def test_no_label_fills_a_phenomenon_unless_that_is_what_it_is():
    """A phenomenon of one label would be won by who always says it."""
    for phenomenon in SUITE:
        labels = Counter(case.label for case in phenomenon.cases)
        if phenomenon.name in {"neutral_fact", "question"}:
            assert set(labels) == {"neutral"}
        else:
            assert len(labels) >= 2, phenomenon.name
            assert max(labels.values()) / len(phenomenon.cases) <= 0.8, phenomenon.name


def test_pairs_point_to_each_other_differ_by_one_place_and_in_the_label():
    by_id = {case.id: case for case in CASES}
    pairs = [(case, by_id[case.pair]) for case in CASES if case.pair]
    assert len(pairs) >= 20
    for case, other in pairs:
        assert other.pair == case.id
        assert other.label != case.label, case.id
    minimal = next(p for p in SUITE if p.name == "minimal_pair")
    for case in minimal.cases:
        assert case.pair is not None, case.id
        one, other = (re.findall(r"[a-z']+|\S", text.lower()) for text in (case.text, by_id[case.pair].text))
        changes = [op for op in difflib.SequenceMatcher(None, one, other).get_opcodes() if op[0] != "equal"]
        assert len(changes) == 1, case.id
        assert max(changes[0][2] - changes[0][1], changes[0][4] - changes[0][3]) <= 2, case.id


def test_what_platforms_write_is_insufficient_and_nothing_else_is():
    for phenomenon in SUITE:
        insufficient = [case for case in phenomenon.cases if case.label == "insufficient"]
        assert (len(insufficient) >= 10) == (phenomenon.name == "default_text"), phenomenon.name
        assert not insufficient or phenomenon.name == "default_text"


@pytest.mark.parametrize("name", BUILTIN_TASKS)
def test_no_case_is_told_to_the_model_beforehand(name):
    """A case that stands in a prompt, or in a sentence that a prompt may get, tests memory."""
    task = load_task(name)
    told = [task.description, *task.guidelines, *(example.text for example in task.examples)]
    told += [sentence.text for pool in builtin_pools().values() for sentence in pool.sentences]
    bare = [_bare(text) for text in told]
    for case in CASES:
        words = _bare(case.text)
        if len(words) >= 5:
            assert not any(words in text for text in bare), case.id


# How it is asked


@pytest.fixture(scope="module")
def stub():
    with StubEndpoint() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("challenge")


@pytest.fixture(scope="module")
def result(stub, folder):
    return _ask(stub, folder)


def _ask(stub, folder, phenomena=SUITE, **more):
    async def ask():
        arguments = {"api_url": stub.url, "keywords": False, "cache_dir": folder, "state_dir": folder}
        async with AsyncSentimentAnalyzer(**(arguments | more)) as analyzer:
            return await ask_suite(await analyzer.pipeline(), phenomena)

    return asyncio.run(ask())


def test_counts_what_the_model_says(result):
    assert len(result.outcomes) == len(CASES)
    for outcome in result.outcomes:
        if outcome.analysis["route"] == "rule":
            assert outcome.found == "insufficient"
        else:
            assert outcome.found == outcome.analysis.label
        assert outcome.right == (outcome.found == outcome.case.label)
    # What the stub says follows from words; what it is not shown, it cannot say.
    plain = [o for o in result.outcomes if o.analysis["route"] == "model" and not o.analysis["flags"]]
    assert len(plain) > 300
    assert {o.found for o in plain} == {"positive", "neutral", "negative"}
    for outcome in plain:
        assert outcome.found == decide(outcome.case.text, ["positive", "negative", "neutral"]), outcome.case.id
    right = sum(o.right for o in result.outcomes)
    assert result.overall.right == right
    assert sum(share.right for share in result.by_phenomenon()) == right
    assert sum(share.rows for share in result.by_language()) == len(CASES)
    assert sum(share.rows for share in result.by_label()) == len(CASES)
    assert {o.case.id for o in result.missed} == {o.case.id for o in result.outcomes if not o.right}


def test_asks_nothing_twice(stub, folder, result):
    asked = stub.total
    again = _ask(stub, folder)
    assert stub.total == asked
    assert [o.found for o in again.outcomes] == [o.found for o in result.outcomes]


def test_triage_knows_every_default_text_of_the_suite(result):
    missed = [o.case.text for o in result.outcomes if o.case.label == "insufficient" and not o.right]
    wrongly = [o.case.text for o in result.outcomes if o.case.label != "insufficient" and o.found == "insufficient"]
    assert missed == []
    assert wrongly == []


def test_a_pair_counts_only_if_both_are_right(result):
    by_id = {o.case.id: o for o in result.outcomes}
    both = sum(o.right and by_id[o.case.pair].right for o in result.outcomes if o.case.pair) // 2
    assert result.pairs().right == both
    assert result.pairs().rows == sum(bool(case.pair) for case in CASES) // 2


def test_a_failed_case_is_not_right(tmp_path):
    emoji = [phenomenon for phenomenon in SUITE if phenomenon.name == "emoji"]
    with StubEndpoint(fail_texts={"👍👍👍": 500}) as failing:
        result = _ask(failing, tmp_path, emoji, attempts=1)
    failed = next(o for o in result.outcomes if o.case.text == "👍👍👍")
    assert failed.analysis["status"] == "error"
    assert failed.found is None
    assert not failed.right


def test_report_is_json_and_holds_every_case_with_its_reason(result):
    report = json.loads(json.dumps(result.as_json(), ensure_ascii=False))
    assert [case["id"] for case in report["cases"]] == [case.id for case in CASES]
    assert all(case["why"] for case in report["cases"])
    low, high = report["overall"]["interval"]
    assert low < report["overall"]["rate"] < high
    assert report["subject"]["task"] == "sentiment"


OWN = """
name = "stance"
description = "好不好"
[[labels]]
name = "好评"
definition = "满意"
[[labels]]
name = "中评"
definition = "没有好恶"
[[labels]]
name = "差评"
definition = "不满"
"""


def test_labels_of_other_names_are_translated():
    task = parse_task(OWN, "own.toml")
    words = {"好评": "positive", "中评": "neutral", "差评": "negative"}
    assert translation(task, words) == words
    with pytest.raises(InputError, match=r"好评.*中评.*差评"):
        translation(task)
    with pytest.raises(InputError, match="'great'"):
        translation(task, words | {"好评": "great"})
    with pytest.raises(InputError, match="'良评'"):
        translation(task, {"良评": "positive"})


def test_a_task_about_something_else_is_refused():
    with pytest.raises(InputError, match="emotion"):
        translation(load_task("emotion"))
