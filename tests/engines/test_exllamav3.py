"""ExLlamaV3's rules against its own classes: ``tests/vectors/exllamav3_1.6.json``, of ``exllamav3_caches.py``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.attention import FullAttention, IndexKeys, Latent, LayerKind, SlidingWindow
from kvplan.core.engine import Allocation, EngineRequest, EngineSettings, ModelFacts
from kvplan.core.errors import DoesNotFitError, UnsupportedError, UsageError
from kvplan.core.geometry import CacheChoice, place_layers
from kvplan.core.parallel import Parallel
from kvplan.core.recurrent import GatedDeltaNet, KimiDeltaAttention, Mamba2, ShortConv
from kvplan.core.request import SizeResult
from kvplan.engines import get_engine
from kvplan.formats import parse_kv_format
from kvplan.planning.request import RequestWords, build_request
from kvplan.planning.settings import SettingWords, read_settings
from kvplan.planning.size import size_model
from kvplan.policies.none import POLICY
from kvplan.specs.catalogue import load_packaged

VECTORS = Path(__file__).parent.parent / "vectors" / "exllamav3_1.6.json"
ROWS: list[dict[str, Any]] = json.loads(VECTORS.read_text(encoding="utf-8"))["rows"]


def row_kinds(row: dict[str, Any]) -> tuple[LayerKind, ...]:
    if row["kind"] == "full":
        return (FullAttention(num_kv_heads=row["num_kv_heads"], head_dim=row["head_dim"]),)
    if row["kind"] == "latent":
        latent = Latent(kv_lora_rank=row["kv_lora_rank"], qk_rope_head_dim=row["qk_rope_head_dim"])
        return (latent, IndexKeys(head_dim=row["index"])) if row["index"] else (latent,)
    if row["kind"] == "ring":
        window = row["window"] + row["window"] % 2  # configs count the query: ExLlamaV3 is given one less
        return (SlidingWindow(num_kv_heads=row["num_kv_heads"], head_dim=row["head_dim"], window=window),)
    if row["kind"] == "short_conv":
        return (ShortConv(channels=row["channels"], conv_kernel=row["conv_kernel"]),)
    heads, dim, kernel = row["num_v_heads"], row["v_head_dim"], row["conv_kernel"]
    if row["kind"] == "mamba2":
        state = Mamba2(
            num_heads=heads,
            head_dim=dim,
            state_size=row["k_head_dim"],
            num_groups=row["num_k_heads"],
            conv_kernel=kernel,
        )
    elif row["kind"] == "kda":
        return (KimiDeltaAttention(num_heads=heads, head_dim=dim, conv_kernel=kernel),)
    else:
        return (
            GatedDeltaNet(
                num_k_heads=row["num_k_heads"],
                num_v_heads=heads,
                k_head_dim=row["k_head_dim"],
                v_head_dim=dim,
                conv_kernel=kernel,
            ),
        )
    return (state,)


def allocate(row: dict[str, Any]) -> Allocation:
    """One layer of the row's kinds, allocated by the engine."""
    engine = get_engine("exllamav3:recurrent_state_fp32=true" if row.get("fp32") else "exllamav3")
    facts = ModelFacts(family="gpt_oss", dtype="bf16", num_heads=32, hidden_size=4096)
    settings = EngineSettings(max_num_seqs=row.get("slots"), num_speculative_tokens=row.get("history") or None)
    native = (tuple(place_layers([row_kinds(row)], parse_kv_format("auto", "bf16"))),)
    text = engine.cache_dtype(row.get("cache", "auto"), facts, native, settings)
    kv_format = parse_kv_format(text, "bf16")
    return engine.allocate(
        EngineRequest(
            stages=(tuple(place_layers([row_kinds(row)], kv_format)),),
            facts=facts,
            choice=CacheChoice(kv_format=kv_format, policy=POLICY),
            context_tokens=row.get("tokens", 1),
            settings=settings,
        )
    )


def sized(name: str, context: int, engine: str = "exllamav3", **words: Any) -> SizeResult:
    chosen, model = get_engine(engine), load_packaged(name)
    return size_model(model, build_request(model, context, RequestWords(**words), chosen), chosen)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(map(str, row.values())))
def test_a_layer_has_the_bytes_that_exllamav3_says(row: dict[str, Any]) -> None:
    assert allocate(row).stages[0].allocated_bytes == row["bytes"]


def test_the_vectors_cover_every_kind() -> None:
    assert {row["kind"] for row in ROWS} == {"full", "latent", "ring", "gdn", "kda", "mamba2", "short_conv"}


def test_jobs_share_one_pool_of_whole_pages() -> None:
    result = sized("llama-3.1-8b", 1000, concurrency=3)
    assert result.allocated_bytes == 3 * 1024 * 131072
    assert (result.bytes_per_block, result.blocks_per_sequence) == (256 * 131072, 4)
    assert any("--cache_size 3072" in note for note in result.allocation.notes)


def test_windows_are_rings_in_some_families_and_pages_in_others() -> None:
    ring = 12 * 16 * 768 * 2 * 8 * 64 * 2  # 12 layers, 16 slots, window 128 + 512 rounded up to 256
    pages = 32 * 256 * 12 * 2 * 8 * 64 * 2
    assert sized("gpt-oss-20b", 8192).allocated_bytes == ring + pages
    assert sized("gpt-oss-20b", 8192, "exllamav3:swa_full=true").allocated_bytes == 2 * pages
    gemma3 = sized("gemma-3-27b", 8192)
    assert all(layer.allocated_tokens == 8192 for layer in gemma3.layers)
    gemma4 = sized("gemma-4-31b", 8192)
    assert {layer.allocated_tokens for layer in gemma4.layers} == {1536, 8192}


@pytest.mark.parametrize(
    ("name", "named", "rings"),
    [
        ("gemma-4-31b", "Gemma4ForConditionalGeneration", True),
        ("gemma-4-31b", None, True),
        ("gemma-3-27b", "Gemma3ForConditionalGeneration", False),
        ("gemma-3-27b", "Gemma4ForConditionalGeneration", True),  # whatever the layers look like
        ("gemma-3-27b", None, False),
        ("gemma-2-9b", "Gemma2ForCausalLM", False),
    ],
)
def test_gemma_4_has_rings_and_gemma_2_and_3_have_pages(name: str, named: str | None, rings: bool) -> None:
    model, engine = replace(load_packaged(name), architecture_class=named), get_engine("exllamav3")
    result = size_model(model, build_request(model, 8192, RequestWords(), engine), engine)
    windows = next(layer for layer in result.layers if layer.window_tokens)
    assert (windows.allocated_tokens < 8192) == rings


def test_values_narrower_than_keys_are_padded() -> None:
    """MiMo-V2: 192 wide keys, 128 wide values (``modules/attn.py``: V rides along at head_dim)."""
    full = next(layer for layer in sized("mimo-v2-flash", 8192).layers if layer.kind == "full_attention")
    assert full.allocated_bytes == full.count * 8192 * full.num_kv_heads * 2 * 192 * 2


def test_a_latents_values_have_no_bits_of_their_own() -> None:
    """672, 544 and 416 bytes a token at 512 and 64: ``CacheLayer_MLA_quant``'s docstring."""
    for word, row in (("8", 672), ("6,2", 544), ("4", 416)):
        assert sized("deepseek-v3", 8192, kv_dtype=word).allocated_bytes == 61 * 8192 * row


@pytest.mark.parametrize("text", ["bf16", "fp8", "9", "1", "8,8,8", "q4_0", "int8"])
def test_words_that_exllamav3_does_not_have_are_refused(text: str) -> None:
    with pytest.raises(UnsupportedError, match="no cache dtype") as problem:
        sized("llama-3.1-8b", 8192, kv_dtype=text)
    assert "6,5" in (problem.value.hint or "")


def test_tensor_parallel_ranks_split_heads_in_units_of_128_channels() -> None:
    assert sized("llama-3.1-8b", 8192, parallel=Parallel(tp=2)).allocated_bytes_per_rank == (2**29, 2**29)
    qwen = sized("qwen2.5-0.5b", 8192, parallel=Parallel(tp=2))  # 2 KV heads of 64 are one unit: one rank holds both
    assert qwen.allocated_bytes_per_rank[0] == sized("qwen2.5-0.5b", 8192).allocated_bytes
    with pytest.raises(UnsupportedError, match="latent"):
        sized("deepseek-v3", 8192, parallel=Parallel(tp=8))


@pytest.mark.parametrize("parallel", [Parallel(pp=2), Parallel(dp=2), Parallel(tp=2, dcp=2)])
def test_parallel_sizes_that_exllamav3_does_not_have_are_refused(parallel: Parallel) -> None:
    with pytest.raises(UnsupportedError):
        sized("llama-3.1-8b", 8192, parallel=parallel)


@pytest.mark.parametrize("name", ["llama-4-scout", "jamba-v0.1", "whisper-large-v3", "deepseek-v4-flash"])
def test_layers_without_a_cache_class_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedError, match="no cache for"):
        sized(name, 1024)


def test_more_jobs_than_slots_are_refused() -> None:
    settings = read_settings(SettingWords(max_num_seqs="4"))
    with pytest.raises(UsageError, match="slots"):
        sized("qwen3-next-80b-a3b", 1024, concurrency=5, settings=settings)
    assert sized("qwen3-next-80b-a3b", 1024, concurrency=20).allocated_bytes > 0


def test_a_memory_holds_slots_first_and_whole_pages_then() -> None:
    slots = 12 * 16 * 768 * 2048
    page = 256 * 12 * 2048
    memory = read_settings(SettingWords(kv_memory=str(slots + 100 * page + page - 1)))
    held = sized("gpt-oss-20b", 2560, settings=memory).allocation
    assert (held.num_blocks, held.capacity_tokens, held.max_concurrency) == (100, 25600, 10.0)
    with pytest.raises(DoesNotFitError):
        sized("gpt-oss-20b", 25601, settings=memory)
