"""MLX-LM's rules against its own caches: ``tests/vectors/mlx_0.32.json``, written by ``tests/parity/mlx_caches.py``."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.attention import Latent
from kvplan.core.errors import DoesNotFitError, KvplanError, UnsupportedError, UsageError
from kvplan.core.model import Architecture, Model
from kvplan.core.parallel import Parallel
from kvplan.core.request import SizeResult
from kvplan.engines import get_engine
from kvplan.planning.request import RequestWords, build_request
from kvplan.planning.settings import SettingWords, read_settings
from kvplan.planning.size import size_model
from kvplan.specs.catalogue import load_packaged
from kvplan.specs.reference import read_file

TESTS = Path(__file__).parent.parent
ROWS: list[dict[str, Any]] = json.loads((TESTS / "vectors" / "mlx_0.32.json").read_text(encoding="utf-8"))["rows"]
NOT_MLX_LM = ("not supported", "ModelArgs", "no answer", "Metal", "model_type", "olmo")
"""Errors that say nothing of caches: no such architecture in mlx-lm, a config too terse for it, no GPU here."""
MISREAD = {"nvidia__Nemotron-H-4B-Base-8K": "mlx-lm takes hidden / heads = 96 for its attention_head_dim of 128"}
SIZED = [row for row in ROWS if "bytes" in row and row["config"] not in MISREAD]
REFUSED = [row for row in ROWS if "error" in row and not any(words in row["error"] for words in NOT_MLX_LM)]


@cache
def load(name: str) -> Model:
    return read_file(TESTS / "assets" / "configs" / f"{name}.json")


def sized(model: Model, context: int, engine: str = "mlx", **words: Any) -> SizeResult:
    chosen = get_engine(engine)
    return size_model(model, build_request(model, context, RequestWords(**words), chosen), chosen)


def asked(row: dict[str, Any]) -> SizeResult:
    return sized(load(row["config"]), row["context"], kv_dtype=f"{row['kv_bits']}bit" if row["kv_bits"] else "auto")


def row_id(row: dict[str, Any]) -> str:
    return f"{row['config']}-{row['context']}-{row['kv_bits']}"


@pytest.mark.parametrize("row", SIZED, ids=row_id)
def test_a_cache_has_the_bytes_that_mlx_lm_allocated(row: dict[str, Any]) -> None:
    assert asked(row).allocated_bytes == row["bytes"]


@pytest.mark.parametrize("row", REFUSED, ids=row_id)
def test_what_mlx_lm_cannot_quantize_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError) as problem:
        asked(row)
    assert problem.value.hint


def test_the_vectors_cover_every_cache_class() -> None:
    classes = {name for row in SIZED for name, _, _ in row["caches"]}
    assert classes == {"KVCache", "RotatingKVCache", "QuantizedKVCache", "ArraysCache", "ChunkedKVCache", "CacheList"}
    assert len(SIZED) > 400
    assert len(REFUSED) > 50


@pytest.mark.parametrize(
    ("prompt", "window", "shape"),
    [(10, 512, 265), (300, 512, 512), (513, 512, 512), (700, 512, 512), (3000, 512, 512)],
)
def test_a_batch_holds_for_each_request_what_one_holds(prompt: int, window: int, shape: int) -> None:
    """``BatchGenerator`` of mlx-lm 0.32.2 with two prompts, tiny gemma3_text of window 512: its keys' third axis."""
    model = load("google__gemma-3-1b-it")
    result = sized(model, prompt, concurrency=2)
    windows = next(layer for layer in result.layers if layer.window_tokens == window)
    assert windows.allocated_tokens == shape
    assert result.allocated_bytes == 2 * sized(model, prompt).allocated_bytes


@pytest.mark.parametrize(
    ("bits", "group", "per_element"),
    [(8, 64, 8.5), (6, 64, 6.5), (5, 64, 5.5), (4, 32, 5), (3, 64, 3.5), (2, 128, 2.25), (1, 64, 1.5)],
)
def test_a_group_has_a_scale_and_a_bias_of_16_bits(bits: int, group: int, per_element: float) -> None:
    """Bits per element of ``KVCache.to_quantized`` after 300 more single tokens, MLX 0.32.4."""
    result = sized(load_packaged("llama-3.1-8b"), 5120, f"mlx:kv_group_size={group}", kv_dtype=f"{bits}bit")
    assert 8 * result.allocated_bytes == 5120 * 32 * 2 * 8 * 128 * per_element


def test_nothing_is_quantized_before_its_start() -> None:
    model = load_packaged("llama-3.1-8b")
    before = sized(model, 4999, kv_dtype="4bit")
    assert before.allocated_bytes == sized(model, 4999).allocated_bytes
    assert any("quantized_kv_start" in reason or "quantized-kv-start" in reason for reason in before.allocation.reasons)
    early = sized(model, 4999, "mlx:quantized_kv_start=0", kv_dtype="4bit")
    assert early.allocated_bytes * 32 == before.allocated_bytes * 9


def test_a_window_is_not_quantized_and_not_refused_before_the_start() -> None:
    assert sized(load("google__gemma-3-1b-it"), 4000, kv_dtype="8bit").allocated_bytes > 0


def test_mistral_with_one_window_for_all_layers_keeps_every_token() -> None:
    result = sized(load("mistralai__Mistral-7B-Instruct-v0.1"), 9000)
    assert result.allocated_bytes == 36 * 256 * 131072
    assert any("models/llama.py" in reason for reason in result.allocation.reasons)


@pytest.mark.parametrize(
    ("named", "row_bytes"),
    [  # 27 layers of 2 bytes: all 16 heads in models/deepseek_v2.py, 512 + 64 in deepseek_v3.py
        ("DeepseekV2ForCausalLM", 54 * 16 * (192 + 128)),
        ("DeepseekV3ForCausalLM", 54 * 576),
        (None, 54 * 16 * (192 + 128)),
    ],
)
def test_the_class_says_whether_heads_or_latents_are_cached(named: str | None, row_bytes: int) -> None:
    lite = replace(load("deepseek-ai__DeepSeek-V2-Lite"), architecture_class=named)
    assert sized(lite, 1024).allocated_bytes == 1024 * row_bytes
    moved = replace(lite, architecture=replace(lite.architecture, max_context_tokens=4096))
    assert sized(moved, 1024).allocated_bytes == 1024 * (row_bytes if named else 54 * 576)


def test_minicpm3_caches_every_head() -> None:
    """``models/minicpm3.py``: 40 heads with keys of 64 + 32 and values of 2560 / 40 (openbmb/MiniCPM3-4B)."""
    kind = Latent(kv_lora_rank=256, qk_rope_head_dim=32)
    architecture = Architecture(layers=((kind,),) * 62, hidden_size=2560, num_heads=40, max_context_tokens=32768)
    model = Model(
        name="minicpm3",
        source="test",
        family="deepseek",
        dtype="bf16",
        architecture=architecture,
        architecture_class="MiniCPM3ForCausalLM",
    )
    assert sized(model, 1024).allocated_bytes == 1024 * 62 * 40 * (96 + 64) * 2


def test_the_class_tells_gemma_2_which_has_no_windows_in_mlx_lm() -> None:
    gemma2, gemma3 = load("unsloth__gemma-2-9b-it"), load("google__gemma-3-1b-it")
    for model, named, whole in ((gemma2, "Gemma2ForCausalLM", True), (gemma2, None, True), (gemma3, None, False)):
        result = sized(replace(model, architecture_class=named), 8192)
        assert all(layer.allocated_tokens == 8192 for layer in result.layers) == whole
    as_third = sized(replace(gemma2, architecture_class="Gemma3ForCausalLM"), 8192)
    assert {layer.allocated_tokens for layer in as_third.layers} == {4096, 8192}


def test_the_transient_of_a_prompt_is_told() -> None:
    notes = sized(load("google__gemma-3-1b-it"), 9000).allocation.notes
    assert any("2,559 tokens" in note for note in notes)  # max_size + S - 1 of RotatingKVCache._update_concat


@pytest.mark.parametrize("text", ["int8", "fp8", "7bit", "q8_0", "fp16"])
def test_words_that_mlx_lm_does_not_have_are_refused(text: str) -> None:
    with pytest.raises(UnsupportedError, match="no cache dtype"):
        sized(load_packaged("llama-3.1-8b"), 8192, kv_dtype=text)


@pytest.mark.parametrize("option", ["kv_group_size=48", "prefill_step_size=1000"])
def test_options_that_mlx_or_kvplan_does_not_have_are_refused(option: str) -> None:
    with pytest.raises(UsageError):
        get_engine(f"mlx:{option}")


@pytest.mark.parametrize("parallel", [Parallel(tp=2), Parallel(pp=2), Parallel(dp=2)])
def test_it_is_sized_on_one_machine_alone(parallel: Parallel) -> None:
    with pytest.raises(KvplanError):
        sized(load_packaged("llama-3.1-8b"), 8192, parallel=parallel)


def test_quantized_caches_are_not_batched() -> None:
    """``server.py`` ``_is_batchable``: ``kv_bits is None``."""
    with pytest.raises(UnsupportedError, match="batch"):
        sized(load_packaged("llama-3.1-8b"), 8192, kv_dtype="8bit", concurrency=2)


def test_a_memory_holds_the_longest_request_whose_steps_fit() -> None:
    model = load_packaged("llama-3.1-8b")
    memory = read_settings(SettingWords(kv_memory=str(131072 * 1023)))
    result = sized(model, 256, settings=memory)
    assert result.allocation.capacity_tokens == 768
    assert result.allocation.max_concurrency == 3.0
    with pytest.raises(DoesNotFitError):
        sized(model, 1024, settings=memory)
