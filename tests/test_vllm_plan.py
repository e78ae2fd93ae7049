"""What fits which card: golden tables, published sizes, and what must hold for every model and card."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewmill.endpoints.vllm.advice import PREFERRED, first_that_fits, plan_or_advise
from reviewmill.endpoints.vllm.asked import Asked
from reviewmill.endpoints.vllm.fit import divides
from reviewmill.endpoints.vllm.gpus import Device, cards, find
from reviewmill.endpoints.vllm.lengths import CommentLengths, TaskLengths, task_lengths
from reviewmill.endpoints.vllm.plan import Plan, make_plan
from reviewmill.endpoints.vllm.shape import Subject, find_subject, read_shape
from reviewmill.errors import ModelError, SettingsError
from reviewmill.models import builtin_catalog
from reviewmill.models.hardware import Gpu, Hardware
from reviewmill.tasks import load_task

NOWHERE = Path("/nowhere")
GIB = 1 << 30
VLLM_MODELS = [model.name for model in builtin_catalog().models if model.format == "safetensors"]
GGUF_MODELS = [model.name for model in builtin_catalog().models if model.format == "gguf"]


def lengths_of(kind: str) -> TaskLengths:
    return task_lengths(load_task("sentiment"), kind, CommentLengths(), keywords=True)


def planned(model: str, gpu: str, **asked: Any) -> Plan:
    subject = find_subject(model, NOWHERE)
    return plan_or_advise(subject, find(gpu), lengths_of, Asked(**asked), models_dir=NOWHERE)


def option(plan: Plan, name: str) -> str | None:
    values = [flag.value for flag in plan.flags if flag.name == name]
    assert len(values) <= 1
    return values[0] if values else None


# model, card, dtype, share of the memory, cards a copy x copies, answers at once, tokens of a question, GiB of weights,
# GiB of the key-value cache, tokens in it; of one card. With the task `sentiment` and ordinary comments.
GOLDEN = """
qwen2.5-7b-instruct rtx3060 refused
qwen2.5-7b-instruct rtx4060ti-16 refused
qwen2.5-7b-instruct rtx4090 bfloat16 0.92 1x1 256 8192 14.19 6.08 113824
qwen2.5-7b-instruct a10 bfloat16 0.92 1x1 256 8192 14.19 4.70 87984
qwen2.5-7b-instruct l4 bfloat16 0.92 1x1 256 8192 14.19 4.70 88080
qwen2.5-7b-instruct a100-40 bfloat16 0.92 1x1 256 8192 14.19 20.81 389648
qwen2.5-7b-instruct a100-80 bfloat16 0.92 1x1 256 8192 14.19 57.61 1078720
qwen2.5-7b-instruct h100 bfloat16 0.92 1x1 1024 8192 14.19 54.95 1028864
qwen2.5-7b-instruct h200 bfloat16 0.92 1x1 1024 8192 14.19 110.84 2075456
qwen2.5-7b-instruct 2x3090 bfloat16 0.92 1x2 256 8192 14.19 6.09 114032
qwen2.5-7b-instruct-awq rtx3060 float16 0.91 1x1 256 8192 5.19 3.93 73520
qwen2.5-7b-instruct-awq rtx4060ti-16 float16 0.92 1x1 256 8192 5.19 7.72 144608
qwen2.5-7b-instruct-awq rtx4090 float16 0.92 1x1 256 8192 5.19 15.08 282288
qwen2.5-7b-instruct-awq a10 float16 0.92 1x1 256 8192 5.19 13.70 256448
qwen2.5-7b-instruct-awq l4 float16 0.92 1x1 256 8192 5.19 13.70 256544
qwen2.5-7b-instruct-awq a100-40 float16 0.92 1x1 256 8192 5.19 29.81 558112
qwen2.5-7b-instruct-awq a100-80 float16 0.92 1x1 256 8192 5.19 66.61 1247184
qwen2.5-7b-instruct-awq h100 float16 0.92 1x1 1024 8192 5.19 63.94 1197328
qwen2.5-7b-instruct-awq h200 float16 0.92 1x1 1024 8192 5.19 119.84 2243920
qwen2.5-7b-instruct-awq 2x3090 float16 0.92 1x2 256 8192 5.19 15.09 282496
qwen2.5-7b-instruct-gptq-int4 rtx3060 float16 0.91 1x1 256 8192 5.19 3.92 73440
qwen2.5-7b-instruct-gptq-int4 rtx4060ti-16 float16 0.92 1x1 256 8192 5.19 7.72 144528
qwen2.5-7b-instruct-gptq-int4 rtx4090 float16 0.92 1x1 256 8192 5.19 15.07 282208
qwen2.5-7b-instruct-gptq-int4 a10 float16 0.92 1x1 256 8192 5.19 13.69 256368
qwen2.5-7b-instruct-gptq-int4 l4 float16 0.92 1x1 256 8192 5.19 13.70 256480
qwen2.5-7b-instruct-gptq-int4 a100-40 float16 0.92 1x1 256 8192 5.19 29.80 558032
qwen2.5-7b-instruct-gptq-int4 a100-80 float16 0.92 1x1 256 8192 5.19 66.60 1247104
qwen2.5-7b-instruct-gptq-int4 h100 float16 0.92 1x1 1024 8192 5.19 63.94 1197248
qwen2.5-7b-instruct-gptq-int4 h200 float16 0.92 1x1 1024 8192 5.19 119.83 2243840
qwen2.5-7b-instruct-gptq-int4 2x3090 float16 0.92 1x2 256 8192 5.19 15.08 282416
qwen3-4b-instruct-2507 rtx3060 bfloat16 0.91 1x1 64 8192 7.49 2.14 15600
qwen3-4b-instruct-2507 rtx4060ti-16 bfloat16 0.92 1x1 192 8192 7.49 5.65 41136
qwen3-4b-instruct-2507 rtx4090 bfloat16 0.92 1x1 256 8192 7.49 12.86 93632
qwen3-4b-instruct-2507 a10 bfloat16 0.92 1x1 256 8192 7.49 11.48 83584
qwen3-4b-instruct-2507 l4 bfloat16 0.92 1x1 256 8192 7.49 11.48 83616
qwen3-4b-instruct-2507 a100-40 bfloat16 0.92 1x1 256 8192 7.49 27.59 200896
qwen3-4b-instruct-2507 a100-80 bfloat16 0.92 1x1 256 8192 7.49 64.39 468864
qwen3-4b-instruct-2507 h100 bfloat16 0.92 1x1 1024 8192 7.49 61.99 451360
qwen3-4b-instruct-2507 h200 bfloat16 0.92 1x1 1024 8192 7.49 117.88 858368
qwen3-4b-instruct-2507 2x3090 bfloat16 0.92 1x2 256 8192 7.49 12.87 93696
llama-3-8b-instruct rtx3060 refused
llama-3-8b-instruct rtx4060ti-16 refused
llama-3-8b-instruct rtx4090 bfloat16 0.92 1x1 192 8192 14.96 5.55 45440
llama-3-8b-instruct a10 bfloat16 0.92 1x1 128 8192 14.96 4.29 35136
llama-3-8b-instruct l4 bfloat16 0.92 1x1 128 8192 14.96 4.30 35184
llama-3-8b-instruct a100-40 bfloat16 0.92 1x1 256 8192 14.96 20.16 165104
llama-3-8b-instruct a100-80 bfloat16 0.92 1x1 256 8192 14.96 56.96 466576
llama-3-8b-instruct h100 bfloat16 0.92 1x1 1024 8192 14.96 54.65 447664
llama-3-8b-instruct h200 bfloat16 0.92 1x1 1024 8192 14.96 110.54 905552
llama-3-8b-instruct 2x3090 bfloat16 0.92 1x2 192 8192 14.96 5.56 45520
mistral-7b-instruct-v0.3 rtx3060 refused
mistral-7b-instruct-v0.3 rtx4060ti-16 refused
mistral-7b-instruct-v0.3 rtx4090 bfloat16 0.92 1x1 192 8192 13.50 7.28 59616
mistral-7b-instruct-v0.3 a10 bfloat16 0.92 1x1 128 8192 13.50 5.93 48560
mistral-7b-instruct-v0.3 l4 bfloat16 0.92 1x1 128 8192 13.50 5.93 48608
mistral-7b-instruct-v0.3 a100-40 bfloat16 0.92 1x1 256 8192 13.50 21.98 180032
mistral-7b-instruct-v0.3 a100-80 bfloat16 0.92 1x1 256 8192 13.50 58.78 481488
mistral-7b-instruct-v0.3 h100 bfloat16 0.92 1x1 1024 8192 13.50 57.56 471536
mistral-7b-instruct-v0.3 h200 bfloat16 0.92 1x1 1024 8192 13.50 113.46 929424
mistral-7b-instruct-v0.3 2x3090 bfloat16 0.92 1x2 192 8192 13.50 7.29 59696
"""


@pytest.mark.parametrize("line", GOLDEN.split("\n")[1:-1])
def test_golden_table(line: str) -> None:
    model, gpu, *expected = line.split()
    if expected == ["refused"]:
        with pytest.raises(ModelError, match=f"{model} does not fit {gpu}: its weights take") as refusal:
            planned(model, gpu)
        assert "What would fit: --model qwen2.5-7b-instruct-" in str(refusal.value.hint)
        return
    plan = planned(model, gpu)
    budget = plan.budget
    assert expected == [
        plan.dtype,
        option(plan, "--gpu-memory-utilization"),
        f"{plan.tensor_parallel}x{plan.data_parallel}",
        str(plan.load.sequences),
        str(plan.max_model_len),
        f"{budget.weights / GIB:.2f}",
        f"{budget.kv / GIB:.2f}",
        str(budget.tokens),
    ]


def test_the_golden_table_has_every_model_and_card() -> None:
    pairs = [tuple(line.split()[:2]) for line in GOLDEN.split("\n")[1:-1]]
    wanted = ["rtx3060", "rtx4060ti-16", "rtx4090", "a10", "l4", "a100-40", "a100-80", "h100", "h200", "2x3090"]
    assert sorted(pairs) == sorted((model, gpu) for model in VLLM_MODELS for gpu in wanted)


# As the publishers state them on the models' pages (from the weights' own index).
PUBLISHED = {
    "qwen2.5-7b-instruct": 7_615_616_512,
    "qwen2.5-7b-instruct-awq": 7_615_616_512,
    "qwen2.5-7b-instruct-gptq-int4": 7_615_616_512,
    "qwen3-4b-instruct-2507": 4_022_468_096,
    "llama-3-8b-instruct": 8_030_261_248,
    "mistral-7b-instruct-v0.3": 7_248_023_552,
}


@pytest.mark.parametrize("name", VLLM_MODELS)
def test_a_bundled_shape_gives_the_published_number_of_parameters(name: str) -> None:
    subject = find_subject(name, NOWHERE)
    assert subject.shape.parameters == PUBLISHED[name]
    assert subject.source.startswith("https://huggingface.co/")
    assert subject.catalog is not None
    assert subject.shape.native == subject.catalog.context.native
    # The catalog's sizes of whole repositories are rounded.
    assert subject.shape.weight_bytes(2) == pytest.approx(subject.catalog.bytes, rel=0.005)


def test_a_token_of_qwen_7b_takes_56_kib_and_bfloat16_about_15_gb() -> None:
    """2 (keys, values) x 28 layers x 4 heads x 128 x 2 bytes; the asked-for text said 28 GB of weights."""
    shape = find_subject("qwen2.5-7b-instruct", NOWHERE).shape
    assert shape.kv_bytes(2) == 57_344 == 56 * 1024
    assert shape.kv_bytes(1) == 28 * 1024
    assert shape.kv_bytes(2, tensor_parallel=2) == 28 * 1024
    assert shape.kv_bytes(2, tensor_parallel=28) == 14 * 1024  # a head is not cut
    assert shape.weight_bytes(2) / 1e9 == pytest.approx(15.23, abs=0.01)


@pytest.mark.parametrize("name", GGUF_MODELS)
def test_a_gguf_model_is_not_for_vllm_and_its_sibling_is_named(name: str) -> None:
    with pytest.raises(ModelError, match="is a GGUF file") as refusal:
        find_subject(name, NOWHERE)
    hint = str(refusal.value.hint)
    assert "--gpu-layers" in hint
    if name == "qwen2.5-7b-instruct-q4_k_m":
        assert "qwen2.5-7b-instruct or qwen2.5-7b-instruct-awq or qwen2.5-7b-instruct-gptq-int4" in hint


def test_an_unknown_model_is_named_with_its_neighbours() -> None:
    with pytest.raises(ModelError, match="The catalog has no model") as refusal:
        find_subject("qwen2.5-7b-instruct-aqw", NOWHERE)
    assert "qwen2.5-7b-instruct-awq" in str(refusal.value.hint)


# Quantisation: what the repository holds


def test_unquantised_weights_cannot_be_served_with_an_awq_flag() -> None:
    """The asked-for command did just that."""
    with pytest.raises(SettingsError, match="holds unquantised weights; it cannot be served as awq"):
        planned("qwen2.5-7b-instruct", "rtx4090", quantization="awq")
    with pytest.raises(SettingsError, match="is quantised with AWQ; it cannot be served as gptq"):
        planned("qwen2.5-7b-instruct-awq", "rtx4090", quantization="gptq")
    with pytest.raises(SettingsError, match="is quantised with GPTQ; it cannot be served as none"):
        planned("qwen2.5-7b-instruct-gptq-int4", "rtx4090", quantization="none")


@pytest.mark.parametrize("name", ["qwen2.5-7b-instruct-awq", "qwen2.5-7b-instruct-gptq-int4"])
def test_a_quantised_repository_needs_no_flag_and_the_plan_says_why(name: str) -> None:
    plan = planned(name, "rtx3060")
    assert option(plan, "--quantization") is None
    assert any("No --quantization flag" in note for note in plan.notes)
    assert option(plan, "--dtype") == "float16"


def test_fp8_is_made_on_ada_and_hopper_only() -> None:
    plan = planned("qwen2.5-7b-instruct", "rtx4060ti-16", quantization="fp8")
    assert option(plan, "--quantization") == "fp8"
    assert plan.budget.weights / GIB == pytest.approx(8.1, abs=0.1)
    for gpu in ("rtx3090", "a100-80", "t4"):
        with pytest.raises(SettingsError, match=r"computes no FP8: that needs compute capability 8\.9"):
            planned("qwen2.5-7b-instruct", gpu, quantization="fp8")
        with pytest.raises(SettingsError, match="no FP8 key-value cache"):
            planned("qwen2.5-7b-instruct-awq", gpu, kv_cache="fp8")
    small, large = planned("qwen2.5-7b-instruct", "h100"), planned("qwen2.5-7b-instruct", "h100", kv_cache="fp8")
    assert option(large, "--kv-cache-dtype") == "fp8"
    assert large.budget.tokens == pytest.approx(2 * small.budget.tokens, rel=0.01)


# What a card can compute


def test_turing_has_no_bfloat16() -> None:
    plan = planned("qwen3-4b-instruct-2507", "t4")
    assert option(plan, "--dtype") == "float16"
    assert any("overflows" in note for note in plan.notes)
    assert option(planned("qwen3-4b-instruct-2507", "rtx3060"), "--dtype") == "bfloat16"


def test_cards_older_than_turing_are_refused() -> None:
    volta = Device("v100", "cuda", 32 * GIB, None, (7, 0))
    with pytest.raises(ModelError, match=r"compute capability 7\.0; vLLM needs 7\.5"):
        make_plan(find_subject(VLLM_MODELS[0], NOWHERE), volta, lengths_of, Asked())


def test_a_processor_gets_unquantised_models_only() -> None:
    machine = Device("a processor", "cpu", 64 * GIB, 60 * GIB, None, 1, features=("avx2",))
    plan = make_plan(find_subject("qwen3-4b-instruct-2507", NOWHERE), machine, lengths_of, Asked())
    assert plan.dtype == "float32"
    assert plan.program() == ["python", "-m", "vllm.entrypoints.openai.api_server", "--model"]
    assert option(plan, "--gpu-memory-utilization") is None
    space = next(flag.value for flag in plan.environment if flag.name == "VLLM_CPU_KVCACHE_SPACE")
    assert int(str(space)) * GIB == plan.budget.kv
    with pytest.raises(ModelError, match="is quantised for a GPU, and there is none"):
        make_plan(find_subject("qwen2.5-7b-instruct-awq", NOWHERE), machine, lengths_of, Asked())
    able = replace(machine, features=("avx2", "avx512", "avx512-bf16"))
    assert make_plan(find_subject("qwen3-4b-instruct-2507", NOWHERE), able, lengths_of, Asked()).dtype == "bfloat16"


# Length


def test_comments_get_8192_tokens() -> None:
    plan = planned("qwen2.5-7b-instruct-awq", "rtx3060")
    assert option(plan, "--max-model-len") == "8192"
    assert option(plan, "--hf-overrides") is None


@pytest.mark.parametrize(("length", "factor"), [(32769, 1.1), (65536, 2.0), (131072, 4.0)])
def test_more_than_the_native_window_needs_yarn(length: int, factor: float) -> None:
    plan = planned("qwen2.5-7b-instruct-awq", "rtx4090", max_model_len=length)
    assert option(plan, "--max-model-len") == str(length)
    overrides = json.loads(str(option(plan, "--hf-overrides")))
    assert overrides["max_position_embeddings"] == int(32768 * factor) >= length
    assert overrides == {
        "max_position_embeddings": int(32768 * factor),
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": 32768,
            "rope_theta": 1000000.0,
        },
    }
    assert plan.budget.tokens >= length
    assert any("YaRN" in note for note in plan.notes)


def test_the_native_window_needs_none() -> None:
    assert option(planned("qwen2.5-7b-instruct-awq", "rtx4090", max_model_len=32768), "--hf-overrides") is None
    assert option(planned("qwen3-4b-instruct-2507", "h100", max_model_len=262144), "--hf-overrides") is None


@pytest.mark.parametrize(
    ("model", "length", "most"),
    [
        ("qwen2.5-7b-instruct-awq", 131073, "131,072 tokens with YaRN"),
        ("llama-3-8b-instruct", 8193, "8,192 tokens"),
        ("mistral-7b-instruct-v0.3", 65536, "32,768 tokens"),
    ],
)
def test_more_than_a_model_reaches_is_refused(model: str, length: int, most: str) -> None:
    with pytest.raises(SettingsError, match=f"{model} reaches {most}; {length:,} were asked for"):
        planned(model, "h200", max_model_len=length)


def test_what_is_too_long_for_the_card_is_refused_with_the_length_that_fits() -> None:
    with pytest.raises(ModelError, match="does not fit rtx3060") as refusal:
        planned("qwen2.5-7b-instruct-awq", "rtx3060", max_model_len=131072)
    hint = str(refusal.value.hint)
    assert "--max-model-len 65536" in hint
    assert "2 of these cards (--gpu 2xrtx3060)" in hint
    assert planned("qwen2.5-7b-instruct-awq", "rtx3060", max_model_len=65536).budget.tokens >= 65536
    assert planned("qwen2.5-7b-instruct-awq", "2xrtx3060", max_model_len=131072).tensor_parallel == 2


def test_long_comments_that_will_be_shortened_are_told() -> None:
    plan = planned("qwen2.5-7b-instruct-awq", "rtx3060", max_model_len=2048)
    assert any("are shortened from the middle and flagged" in note for note in plan.notes)
    assert not any("shortened" in note for note in planned("qwen2.5-7b-instruct-awq", "rtx3060").notes)


# Several cards


def test_cards_share_a_model_only_where_they_must_and_in_numbers_that_divide_it() -> None:
    fits_one = planned("qwen2.5-7b-instruct-awq", "2x3090")
    assert (fits_one.tensor_parallel, fits_one.data_parallel) == (1, 2)
    assert option(fits_one, "--data-parallel-size") == "2"
    assert option(fits_one, "--tensor-parallel-size") is None
    shared = planned("qwen2.5-7b-instruct", "2xrtx3060")
    assert (shared.tensor_parallel, shared.data_parallel) == (2, 1)
    assert option(shared, "--tensor-parallel-size") == "2"
    three = planned("qwen2.5-7b-instruct", "3xrtx3060")
    assert (three.tensor_parallel, three.data_parallel) == (2, 1)
    assert any("1 of 3 cards stay idle" in note for note in three.notes)


def test_a_number_of_cards_that_does_not_divide_the_heads_is_refused() -> None:
    with pytest.raises(SettingsError, match="cannot be shared by 3 cards: its 28 heads divide by 1, 2, 4 only"):
        planned("qwen2.5-7b-instruct", "4x3090", tensor_parallel=3)
    with pytest.raises(SettingsError, match="cannot be shared by 2 cards: there are 1 cards"):
        planned("qwen2.5-7b-instruct", "rtx4090", tensor_parallel=2)
    assert planned("qwen2.5-7b-instruct", "4x3090", tensor_parallel=4).tensor_parallel == 4


# The command


def test_the_command_is_whole_and_holds_no_key(tmp_path: Path) -> None:
    plan = planned("qwen2.5-7b-instruct-awq", "rtx3060")
    command = plan.command(Path("/models/the model"), tmp_path / "key")
    assert command == (
        f'VLLM_API_KEY="$(cat {tmp_path}/key)" HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 vllm serve '
        "'/models/the model' --served-model-name qwen2.5-7b-instruct-awq --host 127.0.0.1 --port 8000 --dtype float16 "
        "--max-model-len 8192 --gpu-memory-utilization 0.91 --max-num-seqs 256 --max-num-batched-tokens 2048 "
        "--enable-prefix-caching --structured-outputs-config "
        """'{"backend":"xgrammar","disable_any_whitespace":true}' --logprobs-mode raw_logprobs --max-logprobs 20 """
        "--generation-config vllm --no-enable-log-requests --disable-uvicorn-access-log"
    )
    assert "--api-key" not in command


@pytest.mark.parametrize("gpu", ["rtx3060", "2x3090", "h100"])
def test_every_option_has_a_reason(gpu: str) -> None:
    plan = planned("qwen2.5-7b-instruct-awq", gpu)
    for flag in (*plan.flags, *plan.environment):
        assert len(flag.reason) > 10, flag
    assert json.loads(json.dumps(plan.as_json()))["budget"]["tokens"] == plan.budget.tokens


def test_without_a_model_the_best_that_fits_is_planned() -> None:
    chosen = {}
    for gpu in ("rtx3060", "rtx4090", "h100", "rtx3080"):
        chosen[gpu] = first_that_fits(find(gpu), lengths_of, Asked(), models_dir=NOWHERE).model
    assert chosen == {
        "rtx3060": "qwen2.5-7b-instruct-awq",
        "rtx4090": "qwen2.5-7b-instruct",
        "h100": "qwen2.5-7b-instruct",
        "rtx3080": "qwen2.5-7b-instruct-awq",
    }
    assert set(PREFERRED) <= set(VLLM_MODELS)
    tiny = Device("tiny", "cuda", 4 * GIB, None, (8, 6))
    with pytest.raises(ModelError, match="does not fit tiny"):
        first_that_fits(tiny, lengths_of, Asked(), models_dir=NOWHERE)


# A model's folder


CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 1000,
    "tie_word_embeddings": True,
    "max_position_embeddings": 32768,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "dtype": "bfloat16",
}


def model_folder(folder: Path, config: dict[str, Any], *, weights: int = 5000, template: bool = True) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"x" * weights)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"} if template else {}))
    return folder


def test_a_folder_s_own_files_are_what_counts(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "mine", CONFIG, weights=10 * 1024 * 1024)
    subject = find_subject(str(folder), NOWHERE)
    assert (subject.name, subject.weight_bytes, subject.has_template) == ("mine", 10 << 20, True)
    assert subject.shape.rope_theta == 1e6
    plan = make_plan(subject, find("rtx3060"), lengths_of, Asked(max_model_len=131072))
    assert plan.budget.weights == 10 << 20
    assert json.loads(str(option(plan, "--hf-overrides")))["rope_parameters"]["rope_theta"] == 1e6
    assert option(plan, "--chat-template") is None


def test_catalog_weights_that_are_here_are_read_from_there(tmp_path: Path) -> None:
    model = builtin_catalog().get("qwen2.5-7b-instruct-awq")
    folder = model_folder(tmp_path / model.name, CONFIG)
    for file in model.files:
        if not (folder / file.name).exists():
            (folder / file.name).write_bytes(b"{}")
    subject = find_subject(model.name, tmp_path)
    assert subject.folder == folder
    assert subject.shape.layers == 2
    assert subject.source == str(folder / "config.json")


def test_a_missing_chat_template_is_brought_or_the_model_refused(tmp_path: Path) -> None:
    mine = find_subject(str(model_folder(tmp_path / "qwen", CONFIG, template=False)), NOWHERE)
    template = option(make_plan(mine, find("rtx3060"), lengths_of, Asked()), "--chat-template")
    assert template is not None
    assert "<|im_start|>" in Path(template).read_text()
    base = find_subject(
        str(model_folder(tmp_path / "llama", CONFIG | {"model_type": "llama"}, template=False)), NOWHERE
    )
    with pytest.raises(ModelError, match="llama brings no chat template"):
        make_plan(base, find("rtx3060"), lengths_of, Asked())
    (tmp_path / "llama" / "chat_template.jinja").write_text("{{ messages }}")
    again = find_subject(str(tmp_path / "llama"), NOWHERE)
    assert option(make_plan(again, find("rtx3060"), lengths_of, Asked()), "--chat-template") is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), "is not a model's description"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "can be reckoned"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no .safetensors file"),
    ],
)
def test_a_folder_that_is_no_model_says_what_is_wrong(tmp_path: Path, spoil: Any, message: str) -> None:
    folder = model_folder(tmp_path / "mine", CONFIG)
    spoil(folder)
    with pytest.raises(ModelError, match=message):
        find_subject(str(folder), NOWHERE)


def test_a_model_of_experts_is_counted_by_its_files_only() -> None:
    shape = read_shape(CONFIG | {"model_type": "qwen2_moe", "num_experts": 60}, "x")
    subject = Subject("moe", shape, "x", None, None, True, None, None)
    with pytest.raises(ModelError, match="cannot be reckoned"):
        make_plan(subject, find("rtx4090"), lengths_of, Asked())
    here = replace(subject, weight_bytes=8 * GIB)
    assert make_plan(here, find("rtx4090"), lengths_of, Asked()).budget.weights == 8 * GIB


# The device


@pytest.mark.parametrize(
    ("wanted", "name", "count"),
    [
        ("rtx3060", "rtx3060", 1),
        ("RTX 3060", "rtx3060", 1),
        ("NVIDIA GeForce RTX 4060 Ti 16GB", "rtx4060ti-16", 1),
        ("2x3090", "rtx3090", 2),
        ("2 x RTX-3090", "rtx3090", 2),
        ("4×a100-80gb", "a100-80", 4),
        ("A100", "a100-80", 1),
        ("h200", "h200", 1),
    ],
)
def test_a_card_is_found_however_it_is_written(wanted: str, name: str, count: int) -> None:
    device = find(wanted)
    assert (device.name, device.count, device.kind) == (name, count, "cuda")


@pytest.mark.parametrize("wanted", ["rtx9999", "", "0x3090", "99x3090", "x3090"])
def test_an_unknown_card_is_refused(wanted: str) -> None:
    with pytest.raises(SettingsError):
        find(wanted)


def hardware(*gpus: Gpu) -> Hardware:
    return Hardware("A Processor", 8, 16, 64 * GIB, 60 * GIB, ("avx2",), gpus, None)


def test_auto_takes_this_machine_s_cards_with_their_free_memory() -> None:
    desk = Gpu("NVIDIA GeForce RTX 3060", 12288 << 20, 9000 << 20, (8, 6))
    device = find("auto", hardware(desk, desk))
    assert (device.count, device.capability, device.free, device.display) == (2, (8, 6), 9000 << 20, True)
    subject = find_subject("qwen2.5-7b-instruct-awq", NOWHERE)
    plan = make_plan(subject, device, lengths_of, Asked())
    assert float(str(option(plan, "--gpu-memory-utilization"))) * 12288 <= 9000 - 256
    assert next(f.reason for f in plan.flags if f.name == "--gpu-memory-utilization").startswith("only 8.8 GiB")


def test_auto_knows_an_old_driver_s_card_by_name_and_memory() -> None:
    forty = find("auto", hardware(Gpu("NVIDIA A100-SXM4-40GB", 40960 << 20, 40000 << 20)))
    eighty = find("auto", hardware(Gpu("NVIDIA A100-SXM4-80GB", 81920 << 20, 80000 << 20)))
    assert (forty.capability, eighty.capability) == ((8, 0), (8, 0))
    with pytest.raises(SettingsError, match="What Mystery can do is not known"):
        find("auto", hardware(Gpu("Mystery", 40960 << 20, 40000 << 20)))


def test_auto_of_different_cards_takes_the_kind_with_most_memory() -> None:
    small, large = Gpu("A", 8 << 30, 7 << 30, (8, 6)), Gpu("B", 24 << 30, 23 << 30, (8, 9))
    device = find("auto", hardware(small, large, small))
    assert (device.name, device.count) == ("B", 1)


def test_auto_without_cards_is_the_processor() -> None:
    assert find("auto", hardware()).kind == "cpu"
    assert find("cpu", hardware(Gpu("B", 24 << 30, 23 << 30, (8, 9)))).kind == "cpu"


# Lengths


def test_comments_are_measured() -> None:
    lengths = CommentLengths.of(["好" * 10] * 95 + ["x" * 1000] * 5, longest=500, source="mine")
    assert (lengths.typical, lengths.long) == (95 * 10 / 100 + 5 * 500 / 100, 10)
    assert lengths.wide == pytest.approx(950 / (950 + 2500))
    assert CommentLengths.of([], longest=7, source="x").longest == 7


def test_more_comments_fit_where_they_are_shorter() -> None:
    task = load_task("sentiment")
    short = CommentLengths(typical=20, long=40)

    def lengths(kind: str) -> TaskLengths:
        return task_lengths(task, kind, short, keywords=False)

    subject = find_subject("qwen3-4b-instruct-2507", NOWHERE)
    usual = make_plan(subject, find("rtx3060"), lengths_of, Asked())
    assert make_plan(subject, find("rtx3060"), lengths, Asked()).budget.sequences > 2 * usual.budget.sequences


# What must hold for every card and question


@given(
    name=st.sampled_from(VLLM_MODELS),
    memory=st.integers(4, 200).map(lambda gib: gib * GIB),
    count=st.integers(1, 8),
    capability=st.sampled_from([(7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0)]),
    length=st.sampled_from([None, 512, 4096, 8192, 32768, 131072]),
    sequences=st.one_of(st.none(), st.integers(1, 2048)),
)
def test_a_plan_never_promises_more_than_the_card_has(
    name: str, memory: int, count: int, capability: tuple[int, int], length: int | None, sequences: int | None
) -> None:
    subject = find_subject(name, NOWHERE)
    device = Device("card", "cuda", memory, None, capability, count)
    try:
        plan = make_plan(subject, device, lengths_of, Asked(max_model_len=length, sequences=sequences))
    except (ModelError, SettingsError):
        return
    budget = plan.budget
    assert budget.weights + budget.activations + budget.engine + budget.kv + budget.left_alone == memory
    assert budget.tokens * budget.kv_per_token <= budget.kv
    assert budget.tokens >= plan.max_model_len
    assert plan.tensor_parallel * plan.data_parallel <= count
    assert subject.shape.heads % plan.tensor_parallel == 0
    assert divides(subject.shape, plan.tensor_parallel)
    if sequences is None and plan.load.sequences > 1:
        assert budget.sequences >= plan.load.sequences
    assert not (plan.dtype == "bfloat16" and capability < (8, 0))


@pytest.mark.parametrize("key", list(cards()))
def test_every_card_of_the_table_can_be_planned_or_says_why(key: str) -> None:
    device = find(key)
    assert device.name == key
    assert 8 * GIB < device.memory < 200 * GIB
    assert first_that_fits(device, lengths_of, Asked(), models_dir=NOWHERE).model in PREFERRED
