"""llama.cpp's rules by hand: cells, streams, windows, devices, refusals and what a memory holds.

Sources: llama.cpp 0.5.0 ``src/llama-context.cpp``, ``llama-kv-cache*.cpp``, ``llama-memory-recurrent.cpp``,
``llama-model.cpp``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvplan.core.attention import FullAttention, IndexKeys, Latent, LayerKind, SlidingWindow
from kvplan.core.engine import EngineSettings
from kvplan.core.errors import DoesNotFitError, KvplanError, UnsupportedError, UsageError
from kvplan.core.model import Architecture, Model
from kvplan.core.parallel import Parallel
from kvplan.core.recurrent import Mamba1, Rwkv
from kvplan.core.request import SizeResult
from kvplan.engines import engine_versions, get_engine
from kvplan.engines.llamacpp.plan import split_layers
from kvplan.planning.request import RequestWords, build_request
from kvplan.planning.size import size_model

MIB = 1024**2
FULL = FullAttention(num_kv_heads=8, head_dim=128)
WINDOW = SlidingWindow(num_kv_heads=8, head_dim=128, window=1024)
LATENT = Latent(kv_lora_rank=512, qk_rope_head_dim=64)
ROW = 2 * 8 * 128 * 2  # keys and values of one cell in f16


def model(*kinds: LayerKind | tuple[LayerKind, ...], family: str = "gemma", **more: Any) -> Model:
    layers = tuple(kind if isinstance(kind, tuple) else (kind,) for kind in kinds)
    architecture = Architecture(layers=layers, hidden_size=1024, num_heads=8, max_context_tokens=131072)
    return Model(name="test", source="", family=family, dtype="bf16", architecture=architecture, **more)


def size(subject: Model, ctx: int, engine: str = "llamacpp", **words: Any) -> SizeResult:
    chosen = get_engine(engine)
    return size_model(subject, build_request(subject, ctx, RequestWords(**words), chosen), chosen)


def in_memory(memory_bytes: int, **more: Any) -> EngineSettings:
    return EngineSettings(kv_memory_bytes=memory_bytes, **more)


def test_llama_3_1_8b_takes_1024_544_and_288_mib_at_8192() -> None:
    llama = model(*[FULL] * 32, family="llama")
    sizes = [size(llama, 8192, kv_dtype=dtype).allocated_bytes // MIB for dtype in ("auto", "q8_0", "q4_0")]
    assert sizes == [1024, 544, 288]


@pytest.mark.parametrize(("ctx", "cells"), [(1, 256), (256, 256), (257, 512), (8192, 8192), (8193, 8448)])
def test_cells_come_in_multiples_of_256(ctx: int, cells: int) -> None:
    assert size(model(FULL), ctx).allocated_bytes == cells * ROW


def test_separate_slots_are_rounded_each_and_unified_ones_together() -> None:
    # 3 x 300 tokens: three streams of 512 cells (900 is padded to 1024, a third of it to 512), or one of 1024
    assert size(model(FULL), 300, concurrency=3).allocated_bytes == 3 * 512 * ROW
    assert size(model(FULL), 300, "llamacpp:unified=true", concurrency=3).allocated_bytes == 1024 * ROW


def test_every_sequence_has_the_cells_of_its_context() -> None:
    for ctx in (1, 255, 300, 1000, 5000):
        for sequences in (1, 2, 3, 7, 64):
            for engine in ("llamacpp", "llamacpp:unified=true"):
                (layer,) = size(model(FULL), ctx, engine, concurrency=sequences).layers
                assert layer.allocated_tokens >= ctx


def test_keys_and_values_have_types_of_their_own() -> None:
    pair = size(model(FULL), 1024, kv_dtype="q8_0/q4_0").allocated_bytes
    assert pair == 1024 * 8 * (128 // 32) * (34 + 18)


def test_a_window_has_room_for_a_micro_batch() -> None:
    # up(1024 + 512, 256) = 1536; up(1024 + 100, 256) = 1280; unified: up(1024 x 4 + 512, 256) = 4608
    windowed = model(WINDOW)
    assert size(windowed, 32768).allocated_bytes == 1536 * ROW
    assert size(windowed, 32768, "llamacpp:ubatch=100").allocated_bytes == 1280 * ROW
    assert size(windowed, 32768, "llamacpp:unified=true", concurrency=4).allocated_bytes == 4608 * ROW
    assert size(windowed, 32768, concurrency=4).allocated_bytes == 4 * 1536 * ROW


def test_a_micro_batch_is_capped_by_the_batch_of_2048_and_by_the_context() -> None:
    assert size(model(WINDOW), 32768, "llamacpp:ubatch=8192").allocated_bytes == (1024 + 2048) * ROW
    narrow = SlidingWindow(num_kv_heads=8, head_dim=128, window=128)
    assert size(model(narrow), 100).allocated_bytes == 256 * ROW


def test_a_window_never_has_more_cells_than_the_context_and_swa_full_as_many() -> None:
    assert size(model(WINDOW), 512).allocated_bytes == 512 * ROW
    assert size(model(WINDOW), 32768, "llamacpp:swa_full=true").allocated_bytes == 32768 * ROW


@pytest.mark.parametrize("family", ["mistral", "phi", "starcoder", "llava", "qwen"])
def test_architectures_without_windows_keep_every_token(family: str) -> None:
    result = size(model(WINDOW, family=family), 32768)
    assert result.allocated_bytes == 32768 * ROW
    assert any("no sliding window" in reason for reason in result.allocation.reasons)


def test_a_latent_has_no_values() -> None:
    assert size(model(LATENT, family="deepseek"), 1024).allocated_bytes == 1024 * 576 * 2


def test_index_keys_take_the_cache_type_and_beside_plain_keys_an_unused_value() -> None:
    index = IndexKeys(head_dim=128)
    assert size(model((LATENT, index), family="deepseek"), 1024).allocated_bytes == 1024 * (576 + 128) * 2
    plain = size(model((FULL, index), family="minimax_m3"), 1024)
    assert plain.allocated_bytes == 1024 * (ROW + 2 * 128 * 2)


def test_states_are_f32_whatever_the_cache_type() -> None:
    mamba = Mamba1(intermediate_size=1536, state_size=16, conv_kernel=4)
    expected = 4 * 2 * (3 * 1536 + 16 * 1536)
    for dtype in ("f16", "q4_0"):
        assert size(model(mamba, family="mamba"), 4096, concurrency=2, kv_dtype=dtype).allocated_bytes == expected


def test_values_are_padded_to_the_widest_without_flash_attention() -> None:
    wide = FullAttention(num_kv_heads=4, head_dim=128, v_head_dim=512)
    mixed = model(FULL, wide)
    assert size(mixed, 256).allocated_bytes == 256 * 2 * (1024 + 1024 + 512 + 2048)
    off = size(mixed, 256, "llamacpp:flash_attention=off").allocated_bytes
    assert off == 256 * 2 * (1024 + 2048 + 512 + 2048)


def test_a_drafted_token_keeps_a_state_where_the_architecture_can_go_back() -> None:
    mamba = Mamba1(intermediate_size=1536, state_size=16, conv_kernel=4)
    drafted = EngineSettings(num_speculative_tokens=3)
    once = size(model(mamba, family="nemotron_h"), 4096).allocated_bytes
    assert size(model(mamba, family="nemotron_h"), 4096, settings=drafted).allocated_bytes == 4 * once
    assert size(model(mamba, family="jamba"), 4096, settings=drafted).allocated_bytes == once
    for name, states in (("Qwen3_5ForCausalLM", 4), ("Qwen3NextForCausalLM", 1)):
        subject = model(mamba, family="qwen3_next", architecture_class=name)
        assert size(subject, 4096, settings=drafted).allocated_bytes == states * once


def test_layers_are_split_by_equal_shares_with_the_head_as_a_layer() -> None:
    # layer i of 32 lies on device i x 2 // 33, so 17 and 15; on 4 devices 9, 8, 8 and 7
    placed = tuple(((),) * 32)
    assert [len(part) for part in split_layers(placed, 2)] == [17, 15]
    assert [len(part) for part in split_layers(placed, 4)] == [9, 8, 8, 7]


@pytest.mark.parametrize("devices", [1, 2, 3, 5, 8])
def test_devices_add_up_to_the_whole(devices: int) -> None:
    hybrid = model(*[WINDOW, WINDOW, FULL] * 5)
    whole = size(hybrid, 4096, concurrency=2).allocated_bytes
    parts = size(hybrid, 4096, concurrency=2, parallel=Parallel(pp=devices))
    assert sum(parts.allocated_bytes_per_rank) == whole
    assert sum(layer.allocated_bytes for layer in parts.layers) == whole


def test_replicas_serve_their_share_of_the_sequences() -> None:
    result = size(model(FULL), 1024, concurrency=3, parallel=Parallel(dp=2))
    assert result.allocated_bytes_per_rank == (2 * 1024 * ROW, 1024 * ROW)


def test_the_capacity_is_the_longest_context_that_fits() -> None:
    memory = 10_000 * ROW
    result = size(model(FULL), 1024, concurrency=2, settings=in_memory(memory))
    assert result.allocation.capacity_tokens == 2 * 4864  # 19 x 256 cells in each of two streams; 20 x 256 are 10,240
    assert result.allocation.max_concurrency == 9.0
    for tokens, fits in ((4864, True), (4865, False)):
        assert (size(model(FULL), tokens, concurrency=2).allocated_bytes <= memory) is fits


@pytest.mark.parametrize("engine", ["llamacpp", "llamacpp:unified=true", "llamacpp:swa_full=true"])
@pytest.mark.parametrize("sequences", [1, 3, 4])
def test_the_capacity_fits_and_one_cell_more_does_not(engine: str, sequences: int) -> None:
    hybrid, memory = model(WINDOW, WINDOW, FULL), 200 * MIB
    result = size(hybrid, 2000, engine, concurrency=sequences, settings=in_memory(memory))
    per_sequence = (result.allocation.capacity_tokens or 0) // sequences
    assert size(hybrid, per_sequence, engine, concurrency=sequences).allocated_bytes <= memory
    assert size(hybrid, per_sequence + 256, engine, concurrency=sequences).allocated_bytes > memory
    most = int(result.allocation.max_concurrency or 0)
    assert size(hybrid, 2000, engine, concurrency=most).allocated_bytes <= memory
    assert size(hybrid, 2000, engine, concurrency=most + 1).allocated_bytes > memory


def test_a_model_whose_caches_do_not_grow_has_its_own_length() -> None:
    mamba = Mamba1(intermediate_size=1536, state_size=16, conv_kernel=4)
    result = size(model(mamba, family="mamba"), 4096, concurrency=2, settings=in_memory(MIB))
    assert result.allocation.capacity_tokens == 2 * 131072


def test_a_memory_too_small_for_one_sequence_does_not_fit() -> None:
    with pytest.raises(DoesNotFitError, match="one sequence of 4096 tokens"):
        size(model(FULL), 4096, settings=in_memory(4095 * ROW))


def test_max_model_len_is_the_context_of_every_slot() -> None:
    longer = EngineSettings(max_model_len=8192)
    assert size(model(FULL), 100, concurrency=2, settings=longer).allocated_bytes == 2 * 8192 * ROW
    with pytest.raises(UsageError, match="longer than --max-model-len 64"):
        size(model(FULL), 100, settings=EngineSettings(max_model_len=64))


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: size(model(FULL), 256, parallel=Parallel(tp=2)), "not by heads"),
        (lambda: size(model(FULL), 256, parallel=Parallel(tp=2, dcp=2)), "not by heads"),
        (lambda: size(model(FULL), 256, policy="h2o"), "drops no tokens"),
        (lambda: size(model(FULL), 256, skip_layers="0"), "same type"),
        (lambda: size(model(FULL), 256, concurrency=257), "at most 256 sequences"),
        (lambda: size(model(FULL), 256, settings=EngineSettings(block_tokens=16)), "no --block-size"),
        (lambda: size(model(FULL), 256, kv_dtype="fp8"), "no cache dtype 'fp8'"),
        (lambda: size(model(FULL), 256, kv_dtype="q8_0/q4_0/f16"), "neither one cache type nor a pair"),
        (lambda: size(model(LATENT, family="deepseek"), 256, kv_dtype="q8_0/f16"), "no different types"),
        (lambda: size(model(FULL), 256, "llamacpp:flash_attention=off", kv_dtype="q8_0"), "flash attention only"),
        (lambda: size(model(FULL), 256, "llamacpp:flash_attention=maybe"), "on, off or auto"),
        (lambda: size(model(FullAttention(num_kv_heads=8, head_dim=80)), 256, kv_dtype="q8_0"), "a key of 80"),
        (lambda: size(model(FULL), 256, "ollama", kv_dtype="q8_0/f16"), "one cache type"),
        (lambda: size(model(FULL), 256, "ollama", kv_dtype="bf16"), "no cache dtype 'bf16'"),
        (lambda: size(model(FULL), 256, "ollama:unified=true"), "no option 'unified'"),
        (lambda: size(model(FULL, family="zamba"), 256), "no Zamba architecture"),
        (lambda: size(model(WINDOW, family="gpt2"), 256), "no GPT-Neo architecture"),
        (
            lambda: size(model(FULL, family="llama_kin", architecture_class="HyperCLOVAXForCausalLM"), 256),
            "no HyperCLOVA X architecture",
        ),
        (
            lambda: size(model(Rwkv(hidden_size=64, num_heads=3, head_dim=64, state_columns=1), family="rwkv"), 256),
            "no RWKV-4 architecture",
        ),
        (
            lambda: size(model(Latent(kv_lora_rank=256, qk_rope_head_dim=32), family="deepseek"), 256),
            "stores MiniCPM3 as keys and values",
        ),
    ],
)
def test_what_llamacpp_does_not_do_is_refused_in_one_line(ask: Callable[[], SizeResult], words: str) -> None:
    with pytest.raises(KvplanError, match=words) as caught:
        ask()
    assert "\n" not in caught.value.message
    assert isinstance(caught.value, UnsupportedError | UsageError)


def test_keys_alone_are_quantized_without_flash_attention() -> None:
    result = size(model(FULL), 256, "llamacpp:flash_attention=off", kv_dtype="q8_0/f16")
    assert result.allocated_bytes == 256 * 8 * (4 * 34 + 128 * 2)


def test_ollama_stores_as_llamacpp_does_with_separate_streams() -> None:
    for dtype in ("auto", "q8_0", "q4_0"):
        mine = size(model(WINDOW, FULL), 5000, "ollama", concurrency=4, kv_dtype=dtype)
        assert mine.allocated_bytes == size(model(WINDOW, FULL), 5000, concurrency=4, kv_dtype=dtype).allocated_bytes
        assert mine.engine == "ollama"
        assert any("OLLAMA_CONTEXT_LENGTH" in note for note in mine.allocation.notes)


def test_the_release_is_stated() -> None:
    assert engine_versions("llamacpp") == ("0.5.0",)
    assert get_engine("llamacpp@0.5").version == "0.5.0"


def test_the_log_line_is_llamacpps() -> None:
    # as printed by llama.cpp 0.5.0 for Llama-3.1-8B at 8192 (src/llama-kv-cache.cpp)
    line = size(model(*[FULL] * 32, family="llama"), 8192).allocation.log_line
    assert line == (
        "llama_kv_cache: size = 1024.00 MiB (  8192 cells,  32 layers,  1/1 seqs), "
        "K (f16):  512.00 MiB, V (f16):  512.00 MiB"
    )


def test_t5_has_a_cache_layer_for_each_encoder_layer() -> None:
    # byt5-xl: 36 encoder and 12 decoder layers, 2304 MiB at 8192 (tests/vectors/llamacpp_0.5.json)
    architecture = Architecture(
        layers=((FullAttention(num_kv_heads=32, head_dim=64),),) * 12,
        hidden_size=2560,
        num_heads=32,
        max_context_tokens=None,
        num_encoder_layers=36,
    )
    subject = Model(name="byt5", source="", family="t5", dtype="bf16", architecture=architecture)
    for devices in (1, 5):
        assert size(subject, 8192, parallel=Parallel(pp=devices)).allocated_bytes == 2304 * MIB
