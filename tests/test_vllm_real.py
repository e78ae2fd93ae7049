"""The real vLLM on this machine's processors: plan → start → analyse → stop, with a tiny model that `make vllm` makes.

`make vllm` installs it (3.5 GB, once); without, these tests are skipped. Speed is not tested: a processor is not what
vLLM is for.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reviewmill.endpoints.capabilities import _obeys
from reviewmill.endpoints.client import EndpointClient
from reviewmill.endpoints.vllm.environment import Environment, installed
from reviewmill.errors import EndpointRefusedError, ModelError
from reviewmill.settings import Settings
from reviewmill.tasks import parse_task
from test_vllm_engine import Place
from test_vllm_plan import VLLM_MODELS, planned

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

COMMENTS = [
    "杯子收到了，密封很好，倒过来也不漏水。",
    "等了快两个星期才发货，打开一看还少了一个配件。",
    "面料摸着还行，尺码标准。",
    "第二次买了，家里老人用着很顺手。",
    "屏幕右下角有个亮点，申请换货被拒了三次。",
    "请问这款充电宝能带上飞机吗？",
    "The zip broke on the second day.",
    "Good value, arrived a day early.",
    "差点没买到，还好抢到了",
    "yyds，家人们冲",
]


@pytest.fixture(scope="module")
def environment() -> Environment:
    """The installed vLLM."""
    found = installed(Settings().engine_dir, "cpu")
    if found is None:
        pytest.skip("vLLM is not installed for the processor (`make vllm` installs it, 3.5 GB)")
    return found


@pytest.fixture(scope="module")
def tiny() -> Path:
    """A Qwen2 with random weights and the real tokenizer and chat template."""
    folder = Path(sys.prefix) / "vllm" / "tiny"
    if not folder.exists():
        pytest.skip(f"{folder} is not there (`make vllm` makes it)")
    return folder


@pytest.fixture(scope="module")
def engine(
    environment: Environment, tiny: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Place, subprocess.CompletedProcess[str]]]:
    """vLLM with the tiny model and a window so short that a long comment does not fit."""
    place = Place(tmp_path_factory.mktemp("engine"))
    place.settings["engine_dir"] = Settings().engine_dir
    place.model = tiny
    started = place.start("--eager", "--max-model-len", 2048, "--max-num-seqs", 16)
    yield place, started
    place.run("engine", "stop")


Engine = tuple[Place, "subprocess.CompletedProcess[str]"]


def test_ten_comments_with_labels_probabilities_and_keywords(engine: Engine) -> None:
    place, started = engine
    assert started.returncode == 0, started.stdout + started.stderr + place.run("engine", "logs").stdout
    assert [line[0] for line in started.stdout.splitlines()] == ["✓"] * 5
    with place.analyzer() as analyzer:
        about = analyzer.about()
        results = analyzer.analyze_batch(COMMENTS)
    assert about.fingerprint.startswith("tiny@weights-")
    for comment, result in zip(COMMENTS, results, strict=True):
        assert result["status"] == "ok", result
        assert result["sentiment"] in {"positive", "neutral", "negative"}
        assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert result["confidence"] == pytest.approx(max(result["probabilities"].values()), abs=1e-3)
        assert all(comment[span["start"] : span["end"]] == span["text"] for span in result["spans"])
        assert result["provenance"]["model"] == "tiny"


def test_the_prefix_is_computed_once(engine: Engine) -> None:
    place, _ = engine
    before = place.status()["metrics"]
    with place.analyzer(keywords=False) as analyzer:
        analyzer.analyze("第一条")  # puts this prompt into the cache
        between = place.status()["metrics"]
        analyzer.analyze_batch(COMMENTS)
    after = place.status()["metrics"]
    assert after["prefix_hits"] > between["prefix_hits"] >= before["prefix_hits"]
    share = (after["prefix_hits"] - between["prefix_hits"]) / (after["prefix_queries"] - between["prefix_queries"])
    assert share > 0.5, "the task's words are most of a question"
    assert after["preemptions"] == 0
    assert after["kv_tokens"] > 2048


@pytest.mark.parametrize("keywords", [True, False])
def test_json_does_not_run_away(engine: Engine, keywords: bool) -> None:
    """A small model that may write any white space writes nothing else (vLLM issue 38696)."""
    place, _ = engine
    with place.analyzer(wire="json", keywords=keywords) as analyzer:
        for result in analyzer.analyze_batch(COMMENTS[:3]):
            assert result["status"] == "ok", result
            assert result["probabilities"]


def test_labels_that_share_their_first_token_and_are_chinese(engine: Engine) -> None:
    place, _ = engine
    lines = ['name = "verdict"', 'description = "What is it?"', 'language = "zh"']
    lines += [f'[[labels]]\nname = "{name}"\ndefinition = "它是{name}"' for name in ("好评", "好评如潮", "差评")]
    task = parse_task("\n".join(lines), "a test's task")
    for wire in ("compact", "json"):
        with place.analyzer(task=task, wire=wire, keywords=False) as analyzer:
            for result in analyzer.analyze_batch(COMMENTS[:3]):
                assert result["verdict"] in task.label_names, result
                assert sum(result["probabilities"].values()) == pytest.approx(1, abs=1e-4)
                assert "\\u" not in result["verdict"]


def test_a_comment_that_does_not_fit_is_shortened_and_flagged(engine: Engine) -> None:
    place, _ = engine
    long = "开头很差。" + "".join(f"第{number}天还是没有人处理，" for number in range(220)) + "结尾很好。"
    assert len(long) < 3000, "or it would be shortened before anybody is asked"
    with place.analyzer() as analyzer:
        result = analyzer.analyze(long)
    assert result["status"] == "ok"
    assert "shortened" in result["flags"]
    assert result["needs_review"]


def test_what_vllm_no_longer_takes_is_not_believed(engine: Engine) -> None:
    """It ignores `guided_choice` in silence; a probe sees that nothing was enforced."""
    place, _ = engine
    key, url = (place.folder / "state" / "engine" / "key").read_text(), place.status()["url"]

    async def ask() -> list[bool]:
        async with EndpointClient(url, "tiny", api_key=key) as client:
            old = {"guided_choice": ["zqx7"]}, {"guided_json": {"type": "object"}}, {"grammar": 'root ::= "zqx7"'}
            new = {"structured_outputs": {"choice": ["zqx7"]}}, {"structured_outputs": {"regex": "zqx7"}}
            return [await _obeys(client, constraint) for constraint in (*old, *new)]

    assert asyncio.run(ask()) == [False, False, False, True, True]


def test_another_model_s_name_is_refused_with_the_right_one(engine: Engine) -> None:
    place, _ = engine
    with place.analyzer(engine="vllm", model="another") as analyzer, pytest.raises(EndpointRefusedError) as refusal:
        analyzer.analyze("好")
    assert "does not serve 'another'; it serves: tiny" in str(refusal.value)


def test_stop_ends_every_process(engine: Engine) -> None:
    """The last test of this engine: vLLM has moved into processes of other names by now."""
    place, _ = engine
    processes = place.processes()
    assert len(processes) >= 3
    assert place.run("engine", "stop").stdout == "vLLM is stopped.\n"
    assert not [process for process in processes if process.is_running() and process.status() != "zombie"]


CHECK = """
import json, sys
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = make_arg_parser(FlexibleArgumentParser())
for arguments in json.loads(sys.argv[2]):
    parser.parse_args(arguments)
stretched = json.loads(sys.argv[3])
print(EngineArgs(model=sys.argv[1], max_model_len=131072, hf_overrides=stretched).create_model_config().max_model_len)
del stretched["max_position_embeddings"]
for overrides in ({}, stretched):
    try:
        EngineArgs(model=sys.argv[1], max_model_len=131072, hf_overrides=overrides).create_model_config()
        print("taken", overrides)
    except Exception as error:
        print("refused", "max_model_len" in str(error))
"""


def test_vllm_takes_every_option_of_every_plan_and_yarn_lengthens(environment: Environment, tiny: Path) -> None:
    cards = ("rtx3060", "2xrtx3060", "2x3090", "h100")
    plans = []
    for model in VLLM_MODELS:
        for card in cards:
            try:
                plans.append(planned(model, card).arguments())
            except ModelError:
                continue
    plans.append(planned("qwen2.5-7b-instruct", "h100", quantization="fp8", kv_cache="fp8", eager=True).arguments())
    plans.append(planned("qwen2.5-7b-instruct-awq", "2x3090", max_model_len=131072).arguments())
    assert len(plans) > 15
    override = plans[-1][plans[-1].index("--hf-overrides") + 1]
    command = [environment.python, "-c", CHECK, tiny, json.dumps(plans), override]
    # What vLLM has found out about its own models; without it, it looks into each in another process.
    cache = os.environ.get("VLLM_CACHE_ROOT", str(Path.home() / ".cache" / "vllm"))
    env = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "PATH": "/usr/bin:/bin", "HOME": str(tiny)}
    env["VLLM_CACHE_ROOT"] = cache
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    # The last: with vLLM's own example, which leaves max_position_embeddings as it is. Where it is taken, so are ours.
    assert done.stdout.splitlines()[-3:] == ["131072", "refused True", "refused True"]
