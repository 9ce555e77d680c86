"""What vLLM refuses, and how it reads a cache dtype: words of each release, combinations, checkpoints."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from vllm_questions import (
    GIB,
    GPT_OSS,
    LLAMA,
    NEMOTRON,
    QWEN_NEXT,
    R1,
    V32,
    device,
    engine_of,
    model,
    plan,
    rank,
    request_of,
    settings_of,
    with_settings,
)

from kvplan.core.accelerator import Accelerator
from kvplan.core.engine import EngineSettings
from kvplan.core.errors import UnsupportedError, UsageError
from kvplan.core.parallel import Parallel
from kvplan.engines.vllm import ENGINE, VERSIONS
from kvplan.planning.request import RequestWords, build_choice, build_request
from kvplan.planning.size import size_model

GLM = "zai-org__GLM-5.2"

# -- refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype", "words"),
    [
        (LLAMA, "int8", "int8_per_token_head"),
        (LLAMA, "fp8_inc", "no cache dtype"),
        (LLAMA, "q8_0", "no cache dtype"),
        (LLAMA, "ultraquant_4bit", "AMD"),
        (LLAMA, "fp8_ds_mla", "no attention backend"),
        (R1, "nvfp4", "latent attention"),
        (R1, "turboquant_4bit_nc", "no attention backend"),
        (GPT_OSS, "turboquant_4bit_nc", "no attention backend"),
    ],
)
def test_cache_dtypes_that_vllm_lacks_are_refused(name: str, dtype: str, words: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        plan(name, kv_cache_dtype=dtype)
    assert words in f"{caught.value.message} {caught.value.hint}"


def test_each_release_has_its_own_words() -> None:
    with pytest.raises(UnsupportedError, match=r"vLLM 0\.25\.1 has no cache dtype"):
        plan(V32, version="0.25", kv_cache_dtype="nvfp4_ds_mla", compute_capability="10.0")
    with pytest.raises(UnsupportedError, match="octave_k3v4"):
        plan(LLAMA, version="0.33", kv_cache_dtype="octave_k3v4")
    assert rank(LLAMA, kv_cache_dtype="float16") == rank(LLAMA)
    with pytest.raises(UnsupportedError, match="no float16 cache for a bfloat16 model"):
        plan(LLAMA, version="0.33", kv_cache_dtype="float16")


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (LLAMA, {"tp": 5}, "attention heads"),
        ("microsoft__phi-4", {"tp": 4}, "10 KV heads over 4"),
        (LLAMA, {"tp": 8, "dcp": 2}, "above the model's 8 KV heads"),
        (LLAMA, {"tp": 16, "dcp": 4}, "--dcp 2 at most"),
        (GPT_OSS, {"tp": 8, "dcp": 2}, "sliding windows"),
        (V32, {"tp": 8, "dcp": 2}, "fp8_ds_mla"),
        ("openai__whisper-large-v3", {"pp": 2}, "pipeline"),
        (NEMOTRON, {"tp": 16}, "8 Mamba-2 groups over 16"),
        (LLAMA, {"compute_capability": "8.0", "kv_cache_dtype": "fp8"}, "compute capability 8.0"),
    ],
)
def test_combinations_that_vllm_refuses_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    tokens = 448 if name.startswith("openai__whisper") else 2048
    with pytest.raises((UnsupportedError, UsageError)) as caught:
        plan(name, tokens, **options)
    assert words in caught.value.message


def test_a_length_beyond_the_models_is_refused() -> None:
    with pytest.raises(UsageError, match="at most 8192 tokens"):
        plan(NEMOTRON, 8193)


def test_a_context_beyond_the_length_that_the_engine_starts_for_is_refused() -> None:
    engine = engine_of("0.32", {})
    request = request_of(model(LLAMA), engine, {}, settings_of({}, 4096))
    with pytest.raises(UsageError, match="longer than --max-model-len"):
        engine.allocate(replace(request, context_tokens=4097))


def test_architectures_that_vllm_does_not_run_are_refused() -> None:
    for name in ("RWKV__rwkv-4-7b-pile", "google__t5-v1_1-xxl", "mosaicml__mpt-7b", "apple__OpenELM-3B"):
        with pytest.raises(UnsupportedError, match="does not run this architecture"):
            plan(name, 512)
    assert rank("mosaicml__mpt-7b", 512, "0.25")[1] == 32  # it ran until 0.28


@pytest.mark.parametrize(
    "name",
    ["internlm__internlm-7b", "Qwen__Qwen-1.8B", "ibm-ai-platform__Bamba-9B-v2", "microsoft__bitnet-b1.58-2B-4T"],
)
def test_a_class_is_refused_and_its_family_is_not(name: str) -> None:
    with pytest.raises(UnsupportedError, match="does not run this architecture"):
        plan(name, 512)
    asked = replace(model(name), architecture_class=None)
    engine = engine_of("0.32", {})
    assert engine.allocate(request_of(asked, engine, {}, settings_of({}, 512))).stages[0].allocated_bytes > 0


def test_policies_are_refused() -> None:
    llama = model(LLAMA)
    request = build_request(llama, 4096, RequestWords(policy="h2o:keep=0.5"), ENGINE)
    with pytest.raises(UnsupportedError, match="drops no tokens"):
        size_model(llama, request, ENGINE)


def test_devices_of_other_makers_are_refused() -> None:
    apple = Accelerator(name="m4-max", vendor="apple", memory_bytes=96 * GIB)
    with pytest.raises(UnsupportedError, match="not for m4-max"):
        with_settings(LLAMA, accelerator=apple)


def test_amd_has_its_own_dtype_and_a_note() -> None:
    amd = Accelerator(name="mi300x", vendor="amd", memory_bytes=192 * GIB)
    settings = EngineSettings(accelerator=amd)
    choice = build_choice(model(LLAMA), RequestWords(kv_dtype="ultraquant_4bit", settings=settings), VERSIONS["0.32"])
    assert choice.kv_format.name == "ultraquant_4bit"
    engine = engine_of("0.32", {})
    request = request_of(model(LLAMA), engine, {}, replace(settings, max_model_len=4096))
    assert any("AMD" in note for note in engine.allocate(request).notes)


# -- what the checkpoint asks for -------------------------------------------------------------------------------


def stored(name: str, scheme: str | None, method: str | None, capability: tuple[int, int] = (9, 0)) -> str:
    asked = replace(model(name), kv_scheme=scheme, kv_scheme_method=method)
    settings = EngineSettings(accelerator=device("stand-in", 140, capability))
    return build_choice(asked, RequestWords(settings=settings), VERSIONS["0.32"]).kv_format.name


def test_auto_follows_the_checkpoints_own_scheme() -> None:
    assert stored(LLAMA, None, None) == "bf16"
    assert stored(LLAMA, "fp8_e4m3", "compressed-tensors") == "fp8_e4m3"
    assert stored(LLAMA, "nvfp4", "modelopt") == "nvfp4"
    assert stored(R1, "fp8_e4m3", "modelopt") == "fp8_e4m3"
    assert stored(R1, "fp8_e4m3", "compressed-tensors") == "bf16"


def test_fp8_of_sparse_latent_attention_is_packed_by_the_kernel_that_reads_it() -> None:
    def chosen(capability: tuple[int, int], dtype: str, flashinfer: bool = True) -> str:
        settings = EngineSettings(accelerator=device("stand-in", 140, capability))
        engine = replace(VERSIONS["0.32"], flashinfer=flashinfer)
        return build_choice(model(V32), RequestWords(kv_dtype=dtype, settings=settings), engine).kv_format.name

    assert chosen((9, 0), "auto") == "bf16"
    assert chosen((9, 0), "fp8") == "fp8_ds_mla"
    assert chosen((10, 0), "fp8") == "fp8_e4m3"
    assert chosen((12, 0), "auto") == "fp8_ds_mla"


@pytest.mark.parametrize(
    ("name", "num_heads", "architecture_class", "stored"),
    [  # vLLM 0.32's planner on copies of both configs with the other's number of heads; the class decides
        (GLM, 64, "GlmMoeDsaForCausalLM", "fp8_e4m3"),
        (GLM, 128, "GlmMoeDsaForCausalLM", "fp8_e4m3"),
        (V32, 64, "DeepseekV32ForCausalLM", "bf16"),
        (V32, 128, "DeepseekV32ForCausalLM", "bf16"),
        (GLM, 64, None, "fp8_e4m3"),  # as a GGUF file states it: by the heads
        (V32, 128, None, "bf16"),
    ],
)
def test_glms_auto_is_fp8_on_blackwell(name: str, num_heads: int, architecture_class: str | None, stored: str) -> None:
    asked = replace(
        model(name),
        architecture_class=architecture_class,
        architecture=replace(model(name).architecture, num_heads=num_heads),
    )
    words = RequestWords(settings=EngineSettings(accelerator=device("stand-in", 178, (10, 0))))
    assert build_choice(asked, words, VERSIONS["0.32"]).kv_format.name == stored


def test_falcons_multi_query_attention_stays_in_16_bits() -> None:
    falcon = model("tiiuae__falcon-7b")
    assert build_choice(falcon, RequestWords(kv_dtype="fp8"), VERSIONS["0.32"]).kv_format.name == "bf16"


def test_layers_left_in_16_bits_enlarge_the_block() -> None:
    # turboquant: two layers at each end stay native, and a page of 32 packed tokens covers 16 native ones
    words = rank(LLAMA, kv_cache_dtype="turboquant_4bit_nc")
    assert words == (4 * 32 * 4096 + 28 * 32 * 8 * 134, 4096)


def test_a_model_size_reports_ranks_blocks_and_words() -> None:
    qwen = model(QWEN_NEXT)
    words = RequestWords(parallel=Parallel(tp=2), settings=EngineSettings(kv_memory_bytes=40 * GIB))
    result = size_model(qwen, build_request(qwen, "128k", words, ENGINE), ENGINE)
    assert result.engine_version == "0.33.0"
    assert result.allocated_bytes == 2 * result.allocated_bytes_per_rank[0]
    assert result.unassigned_bytes >= 0
    assert result.allocation.explanation
    assert any("second state" in reason for reason in result.allocation.reasons)
