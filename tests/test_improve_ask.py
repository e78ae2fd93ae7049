"""Asking a model for a search: as any run asks, calibrated as in use, and lost connections count for nobody."""

from __future__ import annotations

import asyncio

import pytest

from improve_world import rows_of
from prompted_stub import LABELS
from reviewmill.cache import open_cache
from reviewmill.endpoints import connect
from reviewmill.errors import EndpointError
from reviewmill.evaluate.improve.ask import EndpointAsker, fit_keywords
from reviewmill.evaluate.improve.prompts import changed
from reviewmill.evaluate.labelled import LabelledRow
from reviewmill.pipeline import bound_of
from reviewmill.scoring.calibration import Calibration
from reviewmill.scoring.shelf import save
from reviewmill.settings import load_settings
from reviewmill.tasks import load_task
from stub_endpoint import BARE, StubEndpoint, decide

TASK = load_task("sentiment")
OTHER = changed(TASK, guidelines=["看结尾。"])


def _asked(stub, folder, work, **more):
    settings = load_settings(
        endpoint=stub.url, cache_dir=folder, calibrations_dir=folder / "cal", keywords=False, attempts=1, **more
    )

    async def run():
        connection = await connect(settings)
        cache = open_cache("sqlite", cache_dir=folder)
        try:
            return await work(EndpointAsker(settings, TASK, connection, cache))
        finally:
            await connection.aclose()
            cache.close()

    return asyncio.run(run())


def test_finds_what_any_run_finds_and_asks_nothing_twice(tmp_path):
    rows = rows_of(1, 30).rows

    async def twice(asker):
        return await asker.ask(TASK, rows), await asker.ask(TASK, rows)

    with StubEndpoint() as stub:
        first, second = _asked(stub, tmp_path, twice)
        assert all(stub.asked[row.text] == 1 for row in rows)
    assert [each.label for each in first] == [decide(row.text, LABELS) for row in rows]
    assert first == second
    assert all(each.tokens_in > 0 for each in first)
    assert all(abs(sum(each.probabilities.values()) - 1) < 1e-4 for each in first)


def test_the_present_prompt_is_asked_with_its_calibration_and_others_without(tmp_path):
    rows = [LabelledRow(1, 1, "三件一起寄来的", "neutral", {})]

    async def bound(asker):
        return bound_of(asker.pipeline(TASK).labeller)

    async def both(asker):
        return await asker.ask(TASK, rows), await asker.ask(OTHER, rows)

    with StubEndpoint() as stub:
        bias = {"positive": 4.0, "negative": -2.0, "neutral": -2.0}
        calibration = Calibration(
            task="sentiment",
            model="stub-model",
            labels=TASK.label_names,
            bias=bias,
            bound_to=_asked(stub, tmp_path, bound),
        )
        path = save(calibration, tmp_path / "mine.json")
        calibrated, bare = _asked(stub, tmp_path, both, calibration=str(path))
    assert calibrated[0].label == "positive"
    assert bare[0].label == "neutral"
    assert bare[0].weighed(TASK.weights).probabilities == pytest.approx(bare[0].probabilities, abs=1e-5)


@pytest.mark.parametrize("failure", [500, 503])
def test_a_server_that_fails_stops_the_search_and_counts_for_nobody(failure, tmp_path):
    rows = rows_of(2, 10).rows

    async def ask(asker):
        return await asker.ask(TASK, rows)

    with StubEndpoint(fail_texts={rows[4].text: failure}) as stub, pytest.raises(EndpointError, match="Row 5"):
        _asked(stub, tmp_path, ask)


def test_a_comment_that_the_model_cannot_answer_is_wrong(tmp_path):
    rows = rows_of(2, 10).rows

    async def ask(asker):
        return await asker.ask(TASK, rows)

    with StubEndpoint(fail_texts={rows[4].text: 400}) as stub:
        found = _asked(stub, tmp_path, ask)
    assert found[4].label is None
    assert found[4].among(LABELS) is None
    assert found[4].share(rows[4].label) == 0.0
    assert all(each.label for number, each in enumerate(found) if number != 4)


def test_without_probabilities_a_label_is_all_or_nothing(tmp_path):
    async def ask(asker):
        return await asker.ask(TASK, [LabelledRow(1, 1, "很满意", "positive", {})])

    with StubEndpoint(capabilities=BARE) as stub:
        found = _asked(stub, tmp_path, ask)[0]
    assert found.label == "positive"
    assert not found.probabilities
    assert (found.share("positive"), found.share("negative")) == (1.0, 0.0)


def test_keywords_of_examples_stand_in_them():
    assert fit_keywords(TASK, "屏幕很亮，音质差", ["屏幕", "亮", "屏幕", "电池", "很亮，音", "音质"]) == (
        "屏幕",
        "亮",
        "音质",
    )
    assert len(fit_keywords(TASK, "abcdefghij", list("abcdefghij"))) == TASK.max_keywords
    assert fit_keywords(TASK, "好" * 30, ["好" * 17, "好" * 16]) == ("好" * 16,)
