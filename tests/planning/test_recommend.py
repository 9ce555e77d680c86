"""The recommender's laws, over models, devices, engines, loads and tasks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvplan.core.advice import QUALITIES, TASKS
from kvplan.core.errors import KvplanError
from kvplan.core.units import GIB
from kvplan.engines import get_engine
from kvplan.launchers import default_target, launch
from kvplan.planning.fit_request import FitWords, build_fit_request
from kvplan.planning.launch_plan import plan_launch
from kvplan.planning.recommend import recommend
from kvplan.planning.recommend_case import Wishes
from kvplan.planning.recommendation import Recommendation
from kvplan.planning.request import RequestWords, build_choice
from kvplan.specs.accelerator import custom_accelerator, load_accelerator
from kvplan.specs.advice import load_advice
from kvplan.specs.reference import resolve_model

MODELS = ("llama-3.1-8b", "qwen2.5-7b", "gpt-oss-20b", "gemma-3-4b", "deepseek-v2-lite", "llama-2-7b")
DEVICES = ("h100-sxm", "a100-sxm-80gb", "b200", "l4", "rtx-4090", "mi300x")
ENGINES = ("vllm", "sglang", "llamacpp", "ollama", "lmdeploy", "trtllm", "transformers")
SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def ask(
    model: str, gpu: str, engine: str, ctx: int, concurrency: int, wishes: Wishes, memory_bytes: int | None = None
) -> Recommendation | None:
    """The answer; None where the engine has no way to start this at all."""
    chosen, known = get_engine(engine), resolve_model(model)
    words = FitWords(model=model, gpu=gpu, engine=engine, ctx=str(ctx), concurrency=concurrency)
    try:
        request = build_fit_request(known, words, chosen)
        if memory_bytes is not None:
            device = custom_accelerator(memory_bytes, load_accelerator(gpu))
            size = replace(request.size, settings=replace(request.size.settings, accelerator=device))
            request = replace(request, accelerator=device, size=size)
        return recommend(known, request, chosen, wishes, load_advice())
    except KvplanError:
        return None


CASES = st.tuples(
    st.sampled_from(MODELS),
    st.sampled_from(DEVICES),
    st.sampled_from(ENGINES),
    st.sampled_from((2048, 8192, 16384, 32768, 131072)),
    st.sampled_from((1, 4, 16, 64)),
    st.builds(Wishes, task=st.sampled_from(TASKS), quality=st.sampled_from(QUALITIES)),
)


@SLOW
@given(CASES)
def test_what_is_recommended_fits_the_memory_that_it_promises(case: tuple[str, str, str, int, int, Wishes]) -> None:
    answer = ask(*case)
    if answer is None or not answer.final.fits:
        assert answer is None or not any(entry.fits for entry in answer.measures)
        return
    final = answer.final
    assert final.starts
    assert final.kv_bytes_needed <= final.available_bytes
    assert final.max_concurrency >= final.request.size.concurrency


@SLOW
@given(CASES)
def test_what_is_recommended_can_be_switched_on(case: tuple[str, str, str, int, int, Wishes]) -> None:
    answer = ask(*case)
    if answer is None:
        return
    engine = get_engine(case[2])
    size = answer.chosen.result.request.size
    words = RequestWords(kv_dtype=answer.chosen.option.word, settings=size.settings)
    stored = build_choice(answer.chosen.result.model, words, engine).kv_format
    assert stored.name == answer.chosen.option.format_name
    start = launch(default_target(case[2]), plan_launch(answer.final, engine, answer.chosen.option.word))
    assert start.argv or start.python


@SLOW
@given(CASES)
def test_keys_never_get_fewer_bits_than_values_and_none_fewer_than_four(
    case: tuple[str, str, str, int, int, Wishes],
) -> None:
    answer = ask(*case)
    if answer is None:
        return
    kv_format = answer.chosen.result.request.size.choice.kv_format
    assert kv_format.key.nominal_bits >= kv_format.value.nominal_bits >= 4
    if case[5].quality == "strict":
        assert kv_format.value.nominal_bits >= 8


@SLOW
@given(CASES)
def test_eight_bits_are_fp8_where_tensor_cores_take_it_and_int8_below(
    case: tuple[str, str, str, int, int, Wishes],
) -> None:
    answer = ask(*case)
    if answer is None or answer.chosen.option.bits != 8:
        return
    names = {choice.option.format_name for choice in (answer.chosen, *answer.alternatives)}
    fp8, int8 = {"fp8_e4m3", "fp8_ds_mla"} & names, {"int8_per_token_head", "q8_0"} & names
    if fp8 and int8:
        assert (answer.chosen.option.format_name in fp8) == answer.case.fp8_hardware


@pytest.mark.parametrize("task", ["chat", "reasoning"])
@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize(
    ("model", "gpu", "engine", "ctx", "concurrency"),
    [
        ("llama-3.1-8b", "h100-sxm", "vllm", 32768, 16),
        ("llama-3.1-8b", "a100-sxm-80gb", "vllm", 32768, 16),
        ("gpt-oss-20b", "b200", "vllm", 65536, 32),
        ("deepseek-v2-lite", "h100-sxm", "sglang", 65536, 32),
        ("llama-3.1-8b", "rtx-4090", "llamacpp", 32768, 4),
    ],
)
def test_more_memory_never_worsens_the_advice(
    model: str, gpu: str, engine: str, ctx: int, concurrency: int, quality: str, task: str
) -> None:
    wishes = Wishes(task=task, quality=quality)
    costs = []
    for gib in (24, 32, 40, 48, 64, 80, 96, 128, 192, 288):
        answer = ask(model, gpu, engine, ctx, concurrency, wishes, gib * GIB)
        if answer is not None:
            final, bits = answer.final, answer.chosen.option.bits
            fewer = concurrency - final.request.size.concurrency
            costs.append((not final.fits, final.request.num_devices, fewer, len(answer.measures), 16 - bits))
    assert costs == sorted(costs, reverse=True)
    assert costs[-1][:4] == (False, 1, 0, 0)


def test_short_contexts_with_ample_memory_are_left_alone() -> None:
    answer = ask("llama-3.1-8b", "h100-sxm", "vllm", 4096, 4, Wishes())
    assert answer is not None
    assert not answer.compresses
    assert answer.decision.rule.id == "native_short"
    assert answer.matrix.row.recommendation == "don't compress"
    assert answer.matrix.exact


def test_fp8_halves_the_cache_of_llama_8b_on_an_h100() -> None:
    answer = ask("llama-3.1-8b", "h100-sxm", "vllm", 32768, 16, Wishes())
    assert answer is not None
    assert answer.chosen.option.word == "fp8"
    assert answer.native.option.needed_bytes == 16 * 4 * GIB + 2 * 2**20  # 131,072 B x 32768 tokens, and a null block
    assert answer.savings_ratio == pytest.approx(0.5, abs=1e-4)
    assert answer.final.fits
    assert not answer.native.fits


def test_an_a100_gets_int8_where_an_h100_gets_fp8() -> None:
    words = {gpu: ask("llama-3.1-8b", gpu, "vllm", 32768, 16, Wishes()) for gpu in ("a100-sxm-80gb", "h100-sxm")}
    assert {gpu: answer and answer.chosen.option.word for gpu, answer in words.items()} == {
        "a100-sxm-80gb": "int8_per_token_head",
        "h100-sxm": "fp8",
    }


def test_hard_tasks_get_more_devices_before_four_bits() -> None:
    reasoning = ask("llama-3.1-8b", "h100-sxm", "vllm", 32768, 64, Wishes(task="reasoning"))
    assert reasoning is not None
    assert reasoning.chosen.option.bits == 8
    assert reasoning.measures


def test_weights_that_do_not_fit_are_not_blamed_on_the_cache() -> None:
    answer = ask("llama-3.1-70b", "h100-sxm", "vllm", 8192, 1, Wishes())
    assert answer is not None
    assert not answer.compresses
    assert answer.measures[0].result is not None
    assert answer.measures[0].result.request.num_devices > 1


def test_small_windows_stay_native_where_the_engine_can() -> None:
    answer = ask("gpt-oss-20b", "h100-sxm", "vllm", 131072, 64, Wishes())
    assert answer is not None
    assert answer.chosen.option.word == "fp8"
    assert answer.chosen.option.native_windows


def test_no_engine_that_drops_no_tokens_is_told_to() -> None:
    answer = ask("llama-3.1-8b", "h100-sxm", "vllm", 131072, 16, Wishes())
    assert answer is not None
    assert answer.matrix.row.recommendation == "INT8 + pruning"
    assert answer.differs is not None
    assert "pruning only where the engine has it" in answer.differs
    assert any(entry.option == "token pruning" for entry in answer.rejected)
    assert answer.chosen.result.request.size.choice.policy.name == "none"
