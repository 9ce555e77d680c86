"""SGLang's rules by hand: rows and dummy pages, windows, slots, stages, dtypes, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.accelerator import Accelerator
from kvplan.core.engine import EngineSettings
from kvplan.core.errors import DoesNotFitError, KvplanError, UnsupportedError
from kvplan.core.geometry import place_layers
from kvplan.core.model import Model
from kvplan.core.parallel import Parallel
from kvplan.core.request import SizeResult
from kvplan.engines import get_engine
from kvplan.engines.sglang.backends import choose_paging
from kvplan.engines.sglang.hardware import read_hardware
from kvplan.engines.sglang.layers import read_traits
from kvplan.formats import parse_kv_format
from kvplan.planning.request import RequestWords, build_request, model_facts
from kvplan.planning.size import size_model
from kvplan.specs.reference import read_file

TESTS = Path(__file__).parents[1]
GIB = 1 << 30
LLAMA, OSS, GEMMA3 = "meta-llama__Llama-3.1-8B", "openai__gpt-oss-20b", "google__gemma-3-27b-it"
V3, V32, V4 = "deepseek-ai__DeepSeek-V3", "deepseek-ai__DeepSeek-V3.2", "deepseek-ai__DeepSeek-V4-Flash"
NEXT, LFM, E4B = "Qwen__Qwen3-Next-80B-A3B-Instruct", "LiquidAI__LFM2-8B-A1B", "google__gemma-4-E4B-it"
B200 = Accelerator(name="B200", vendor="nvidia", memory_bytes=179 * GIB, compute_capability=(10, 0))
RTX = Accelerator(name="RTX PRO 6000", vendor="nvidia", memory_bytes=96 * GIB, compute_capability=(12, 0))
GLM, BAMBA, OLMO = "zai-org__GLM-5.2", "ibm-ai-platform__Bamba-9B-v2", "allenai__OLMo-7B-hf"
GRANITE = "ibm-granite__granite-4.0-h-micro-base"
H100 = Accelerator(name="H100", vendor="nvidia", memory_bytes=80 * GIB, compute_capability=(9, 0))


@cache
def _model(config: str) -> Model:
    return read_file(TESTS / "assets" / "configs" / f"{config}.json")


def _size(
    config: str,
    tokens: int,
    *,
    engine: str = "sglang",
    sequences: int = 1,
    kv_dtype: str = "auto",
    policy: str = "none",
    parallel: Parallel | None = None,
    draft: bool = False,
    **settings: Any,
) -> SizeResult:
    words = RequestWords(
        concurrency=sequences,
        kv_dtype=kv_dtype,
        policy=policy,
        include_draft=draft,
        parallel=parallel or Parallel(),
        settings=EngineSettings(**settings),
    )
    found = get_engine(engine)
    return size_model(_model(config), build_request(_model(config), tokens, words, found), found)


def _size_class(config: str, architecture_class: str | None, accelerator: Accelerator) -> SizeResult:
    """A request of 1,024 tokens to a model of another class, or of an unknown one."""
    found, model = get_engine("sglang"), replace(_model(config), architecture_class=architecture_class)
    words = RequestWords(settings=EngineSettings(accelerator=accelerator))
    return size_model(model, build_request(model, 1024, words, found), found)


def test_a_pool_has_whole_pages_and_one_more() -> None:
    # 32 layers x 2 x 8 heads x 128 x 2 B = 131,072 B a row; 1,000 tokens take 63 pages of 16, and a dummy page
    result = _size(LLAMA, 1000, block_tokens=16, sequences=3)
    assert result.allocated_bytes == (3 * 1008 + 16) * 131_072
    assert result.bytes_per_block == 16 * 131_072
    assert result.blocks_per_sequence == 63


def test_memory_is_divided_by_a_token_and_rounded_to_pages() -> None:
    memory = 1000 * 131_072 - 1  # 999 tokens, 62 pages of 16
    allocation = _size(LLAMA, 100, block_tokens=16, kv_memory_bytes=memory).allocation
    assert (allocation.capacity_tokens, allocation.num_blocks) == (992, 62)
    assert allocation.log_line is not None
    assert allocation.log_line.endswith("max_total_num_tokens=992")


@pytest.mark.parametrize("config", [LLAMA, OSS, V3, V32, E4B])
def test_what_a_memory_holds_takes_that_memory_and_the_dummy_pages(config: str) -> None:
    memory = 20 * GIB
    held = _size(config, 1024, kv_memory_bytes=memory).allocation.capacity_tokens
    assert held is not None
    result = _size(config, held)
    page = result.allocation.block_tokens or 1
    row = result.allocated_bytes // held
    assert memory - 2 * page * row <= result.allocated_bytes <= memory + 4 * page * row


def test_a_memory_without_a_page_is_refused_in_sglangs_words() -> None:
    with pytest.raises(DoesNotFitError, match="Please try to increase --mem-fraction-static"):
        _size(LLAMA, 100, block_tokens=64, kv_memory_bytes=63 * 131_072)
    with pytest.raises(DoesNotFitError, match="cannot hold even one request"):
        _size(OSS, 100, kv_memory_bytes=100 * 44_236)
    with pytest.raises(DoesNotFitError, match="state cache"):
        _size(NEXT, 100, kv_memory_bytes=200 << 20)


def test_more_ranks_than_heads_repeat_heads() -> None:
    eight, sixteen = (_size(LLAMA, 4096, parallel=Parallel(tp=tp)) for tp in (8, 16))
    assert eight.allocated_bytes_per_rank[0] == sixteen.allocated_bytes_per_rank[0] == 4097 * 131_072 // 8


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="10 KV heads over no 4 ranks"):
        _size("microsoft__phi-4", 4096, parallel=Parallel(tp=4))


def test_latents_are_on_every_rank_and_tokens_may_be_shared() -> None:
    plain, shared = (_size(V3, 8192, parallel=Parallel(tp=8, dcp=dcp)) for dcp in (1, 4))
    row = 61 * 576 * 2
    assert plain.allocated_bytes_per_rank[0] == 8193 * row
    assert shared.allocated_bytes_per_rank[0] == (8192 // 4 + 1) * row
    held = [
        _size(V3, 64, parallel=Parallel(tp=8, dcp=dcp), kv_memory_bytes=GIB).allocation.capacity_tokens
        for dcp in (1, 4)
    ]
    assert held[1] == 4 * held[0]  # type: ignore[operator]


def test_the_last_stages_have_the_remaining_layers() -> None:
    result = _size(LLAMA, 1024, parallel=Parallel(pp=3))
    assert [size // (1025 * 4096) for size in result.allocated_bytes_per_rank] == [10, 11, 11]


def test_gemma_3_keeps_every_token_in_every_layer() -> None:
    result = _size(GEMMA3, 32_768)
    assert result.allocated_bytes == 32_769 * 62 * 2 * 16 * 128 * 2
    assert any("no pool for this model's windows" in reason for reason in result.allocation.reasons)


def test_the_windowed_pool_follows_the_full_one() -> None:
    # gpt-oss-20b: 12 + 12 layers of 2,048 B a row
    result = _size(OSS, 100_000)
    assert result.allocated_bytes == (100_001 + 80_001) * 12 * 2048
    small = _size(OSS, 100_000, engine="sglang:swa_full_tokens_ratio=0.01")
    assert small.allocated_bytes == (100_001 + 1_001) * 12 * 2048
    alike = _size(OSS, 100_000, engine="sglang:disable_hybrid_swa_memory=true")
    assert alike.allocated_bytes == 100_001 * 24 * 2048


def test_the_ratio_that_is_said_to_do_does_and_less_does_not() -> None:
    result = _size(OSS, 100_000, sequences=2)
    (reason,) = (reason for reason in result.allocation.reasons if "would hold these requests" in reason)
    ratio = float(reason.partition("; ")[2].split()[0])
    best = _size(OSS, 100_000, sequences=2, engine=f"sglang:swa_full_tokens_ratio={ratio}")
    less = _size(OSS, 100_000, sequences=2, engine=f"sglang:swa_full_tokens_ratio={ratio - 0.001:.3f}")
    assert best.allocation.stages[0].groups[1].allocated_tokens == 100_000
    assert less.allocation.stages[0].groups[1].allocated_tokens > 100_000


def test_short_requests_need_the_window_that_sglang_insists_on() -> None:
    # the windowed pool must exceed 127 + 1 tokens: 162 full rows, as 0.8 x 161 = 128.8
    assert _size(OSS, 10).allocated_bytes == (163 + 130) * 12 * 2048


def test_stated_requests_size_the_windowed_pool_when_no_prefix_is_cached() -> None:
    # 4 x (127 + 128 + 1 + 1) + 2 x 8192 + 1 (pool_configurator.py:867)
    result = _size(OSS, 100_000, prefix_caching=False, max_num_seqs=4)
    assert result.allocated_bytes == (100_001 + 4 * 257 + 16_385 + 1) * 12 * 2048


def test_requests_never_make_the_windowed_pool_larger_than_the_full_one() -> None:
    # pool_configurator.py:1041: 4 x 257 + 16,385 tokens would be more than the 10,000 that are asked for, and a full
    # pool of 10 tokens could not hold a window of 127, a page and one token more
    assert _size(OSS, 10_000, prefix_caching=False, max_num_seqs=4).allocated_bytes == 2 * 10_001 * 12 * 2048
    assert _size(OSS, 10, prefix_caching=False, max_num_seqs=4).allocated_bytes == 2 * 130 * 12 * 2048


def test_layers_that_share_a_cache_have_rows_all_the_same() -> None:
    # 42 layers, 18 of them shared: 35 windowed and 7 full ones by their types
    shared = [group for group in _size(E4B, 4096).allocation.stages[0].groups if not group.item.kind.parts()]
    assert sum(group.count for group in shared) == 18
    assert all(group.allocated_bytes for group in shared)


def test_index_keys_are_fp8_and_rows_depend_on_the_backend() -> None:
    tokens = 64 * 64
    for gpu, kv_dtype, row in [(H100, "auto", 1152), (H100, "fp8_e4m3", 656), (B200, "auto", 576)]:
        result = _size(V32, tokens, kv_dtype=kv_dtype, accelerator=gpu)
        assert result.allocated_bytes == (tokens + 64) * 61 * (row + 132)
    packed = _size(V32, tokens, accelerator=B200, engine="sglang:dsa_backend=flashmla_kv")
    assert packed.allocated_bytes == (tokens + 64) * 61 * (656 + 132)


PUBLIC: list[dict[str, Any]] = json.loads((TESTS / "vectors" / "sglang_public.json").read_text())["rows"]


@pytest.mark.parametrize("row", PUBLIC, ids=lambda row: f"{row['model']}-{row['tokens']}")
def test_pools_are_as_large_as_people_saw_them(row: dict[str, Any]) -> None:
    result = _size(row["model"], row["tokens"], kv_dtype=row["kv_dtype"], engine="sglang:dsa_backend=flashmla_kv")
    assert round(result.allocated_bytes / GIB, 2) == row["kv_and_index_gibibytes"]
    if "kv_gibibytes" in row:
        latent = sum(layer.allocated_bytes for layer in result.layers if layer.kind == "latent")
        dummy_page = 64 * 61 * 656
        assert round((latent + dummy_page) / GIB, 2) == row["kv_gibibytes"]


def test_slots_of_a_request_depend_on_prefix_caching() -> None:
    # 36 layers: a convolution over 2 x 16 x 128 + 32 x 128 channels in bf16, a state of 32 x 128 x 128 in fp32
    slot = 36 * (8192 * 3 * 2 + 32 * 128 * 128 * 4)
    rows = 1025 * 12 * 2 * 2 * 256 * 2
    for engine, settings, slots in [
        ("sglang", {}, 5),
        ("sglang", {"prefix_caching": False}, 1),
        ("sglang:mamba_radix_cache_strategy=no_buffer", {}, 3),
        ("sglang:mamba_radix_cache_strategy=extra_buffer_lazy", {}, 4),
    ]:
        assert _size(NEXT, 1024, engine=engine, **settings).allocated_bytes == rows + (slots + 1) * slot


def test_half_the_state_dtype_halves_the_state_alone() -> None:
    full, half = (
        _size(NEXT, 1024, engine=f"sglang:mamba_ssm_dtype={dtype}").allocated_bytes for dtype in ("float32", "bfloat16")
    )
    assert full - half == 6 * 36 * 32 * 128 * 128 * 2


def test_concurrency_is_capped_by_state_slots() -> None:
    allocation = _size(NEXT, 64, kv_memory_bytes=40 * GIB).allocation
    assert allocation.max_concurrency == 52  # 262 slots, 5 a request
    assert allocation.capacity_tokens is not None
    assert allocation.capacity_tokens / 64 > 52


def test_drafts_take_rows_in_a_pool_of_their_own() -> None:
    without, with_draft = (_size(V3, 4096, draft=draft) for draft in (False, True))
    assert with_draft.allocated_bytes - without.allocated_bytes == 4097 * 576 * 2


def test_deepseek_v4_has_padded_pages_and_request_states() -> None:
    result = _size(V4, 65_536)
    layers = {layer.kind: layer for layer in result.layers}
    # 0.1 x 65,536 = 6,553 tokens, 25 pages and a reserved one of 256 x 584 B padded to 149,760 B
    assert layers["latent"].allocated_bytes == 43 * 26 * 149_760
    assert result.allocation.block_tokens == 256


@pytest.mark.parametrize("word", ["fp8", "int8", "q8_0", "fp16", "fp8_per_token_head", "turboquant_4bit_nc"])
def test_words_that_sglang_lacks_are_refused_with_those_it_has(word: str) -> None:
    with pytest.raises(UnsupportedError) as error:
        _size(LLAMA, 1024, kv_dtype=word)
    assert error.value.hint is not None
    assert "fp8_e4m3" in error.value.hint


def test_auto_follows_modelopt_alone() -> None:
    assert _size("nvidia__Gemma-4-31B-IT-NVFP4", 1024).layers[0].cache_format == "fp8_e4m3"
    engine = get_engine("sglang")
    model = replace(_model(LLAMA), kv_scheme="fp8_e4m3", kv_scheme_method="compressed-tensors")
    choice = build_request(model, 1024, RequestWords(), engine).choice
    assert choice.kv_format.name == "bf16"


@pytest.mark.parametrize(
    ("config", "kv_dtype", "settings"),
    [
        (LLAMA, "nvfp4", {"accelerator": H100}),
        (LLAMA, "fp4_mx_block16", {}),
        (V3, "nvfp4", {}),
        (V32, "fp8_e5m2", {}),
        (V4, "bf16", {}),
        (OSS, "nvfp4", {}),
        (LLAMA, "auto", {"accelerator": replace(H100, compute_capability=None, name="MI300X", vendor="amd")}),
        ("openai__whisper-large-v3", "auto", {}),
        ("apple__OpenELM-3B", "auto", {}),
        ("facebook__bart-base", "auto", {}),
    ],
)
def test_what_sglang_does_not_run_is_refused(config: str, kv_dtype: str, settings: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError):
        _size(config, 1024, kv_dtype=kv_dtype, **settings)


def test_a_class_that_sglang_lacks_is_refused_and_its_family_is_noted() -> None:
    with pytest.raises(UnsupportedError, match="Granite 4"):
        _size(BAMBA, 1024)
    notes = _size_class(BAMBA, None, H100).allocation.notes
    assert any("none for Bamba" in note for note in notes)


@pytest.mark.parametrize(
    ("config", "named", "gpu", "page", "backend"),
    [
        (V3, "DeepseekV3ForCausalLM", B200, 64, "trtllm_mla"),
        (V3, "DeepseekV2ForCausalLM", B200, 1, "flashinfer"),
        (V3, None, B200, 64, "trtllm_mla"),
        (GRANITE, "GraniteMoeHybridForCausalLM", B200, 1, "flashinfer"),
        (GRANITE, "FalconH1ForCausalLM", B200, 1, "triton"),
        (OLMO, "Olmo2ForCausalLM", RTX, 1, "fa3"),
        (OLMO, "OlmoForCausalLM", RTX, 1, "flashinfer"),
    ],
)
def test_the_class_chooses_the_backend(
    config: str, named: str | None, gpu: Accelerator, page: int, backend: str
) -> None:
    model = replace(_model(config), architecture_class=named)
    settings = EngineSettings(accelerator=gpu)
    stage = tuple(place_layers(model.architecture.layers, parse_kv_format("auto", "bf16")))
    traits = read_traits((stage,), model_facts(model))
    paging = choose_paging(settings, traits, read_hardware(settings, "bf16"), "bf16")
    assert (paging.backend, paging.page_tokens) == (backend, page)


def test_fp8_rows_of_glm_are_packed_on_a_workstation_blackwell() -> None:
    """``arg_groups/overrides.py:637``; DeepSeek-V3.2's are plain there."""
    glm = {named: _size_class(GLM, named, RTX) for named in ("GlmMoeDsaForCausalLM", "DeepseekV32ForCausalLM", None)}
    formats = [result.request.choice.kv_format.name for result in glm.values()]
    assert formats == ["fp8_ds_mla", "fp8_e4m3", "fp8_e4m3"]
    noted = [any("packed rows" in note for note in result.allocation.notes) for result in glm.values()]
    assert noted == [False, False, True]


@pytest.mark.parametrize(
    ("config", "engine", "policy", "settings"),
    [
        (LLAMA, "sglang:mamba_ssm_dtype=int8", "none", {}),
        (LLAMA, "sglang:dsa_backend=cuda", "none", {}),
        (LLAMA, "sglang:swa_full_tokens_ratio=1.5", "none", {}),
        (LLAMA, "sglang", "h2o:keep=0.5", {}),
        (LLAMA, "sglang", "none", {"attention_backend": "fa5"}),
        (LFM, "sglang", "none", {"block_tokens": 16}),
        (LLAMA, "sglang", "none", {"max_num_seqs": 1, "sequences": 2}),
        (OSS, "sglang", "none", {"parallel": Parallel(tp=2, dcp=2)}),
        (V3, "sglang", "none", {"parallel": Parallel(pp=2), "draft": True}),
    ],
)
def test_impossible_combinations_are_one_clear_line(
    config: str, engine: str, policy: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(KvplanError) as error:
        _size(config, 1024, engine=engine, policy=policy, **settings)
    assert "\n" not in error.value.message


@pytest.mark.parametrize(
    ("config", "gpu", "settings", "page"),
    [
        (LLAMA, H100, {}, 1),
        (LLAMA, B200, {}, 64),
        (LLAMA, B200, {"block_tokens": 32}, 32),
        (LLAMA, B200, {"block_tokens": 8}, 64),
        (LLAMA, B200, {"attention_backend": "fa4"}, 128),
        (V3, H100, {"attention_backend": "flashmla"}, 64),
        (V32, H100, {"block_tokens": 1}, 64),
        (V4, H100, {"block_tokens": 1}, 256),
    ],
)
def test_backends_force_the_page(config: str, gpu: Accelerator, settings: dict[str, Any], page: int) -> None:
    assert _size(config, 4096, accelerator=gpu, **settings).allocation.block_tokens == page


def test_a_changed_page_and_an_assumed_gpu_are_noted() -> None:
    notes = _size(LLAMA, 4096, accelerator=B200, block_tokens=8).allocation.notes
    assert any("the 8 asked for become 64" in note for note in notes)
    assert any("is assumed" in note for note in _size(LLAMA, 4096).allocation.notes)


@pytest.mark.parametrize("config", [LLAMA, V4, NEXT])
def test_a_memory_shorter_than_the_longest_request_is_refused(config: str) -> None:
    with pytest.raises(DoesNotFitError, match="cut short"):
        _size(config, 1024, max_model_len=1 << 30, kv_memory_bytes=40 * GIB)
    assert (_size(LLAMA, 8192, kv_memory_bytes=8192 * 131_072).allocation.max_concurrency) == 1.0
