"""Each layer kind: what it stores per token, up to which length, and which state. Figures by hand."""

from __future__ import annotations

import dataclasses

import pytest

from kvplan.core.attention import (
    ChunkedLocal,
    CompressedStream,
    CrossAttention,
    FullAttention,
    IndexKeys,
    Latent,
    LayerKind,
    NoCache,
    Shared,
    SlidingWindow,
)
from kvplan.core.kinds import KINDS
from kvplan.core.part import state_bytes
from kvplan.core.recurrent import (
    GatedDeltaNet,
    KimiDeltaAttention,
    LinearAttention,
    Mamba1,
    Mamba2,
    RgLru,
    Rwkv,
    ShortConv,
    StateBuffer,
)


def elements(kind: LayerKind, context_tokens: int, encoder_tokens: int = 0) -> int:
    """Elements stored by one layer for one sequence, states aside."""
    return sum(
        part.rows(part.resident_tokens(context_tokens, encoder_tokens)) * part.num_heads * part.width
        for part in kind.parts()
    )


def states(kind: LayerKind) -> int:
    return sum(map(state_bytes, kind.states()))


def test_multi_head_grouped_and_multi_query_attention_differ_only_in_their_heads() -> None:
    sizes = [elements(FullAttention(num_kv_heads=heads, head_dim=128), 10) for heads in (64, 8, 1)]
    assert sizes == [2 * 64 * 128 * 10, 2 * 8 * 128 * 10, 2 * 128 * 10]


def test_key_and_value_widths_may_differ() -> None:
    assert elements(FullAttention(num_kv_heads=4, head_dim=192, v_head_dim=128), 1) == 4 * (192 + 128)


def test_a_sliding_window_stops_growing_at_its_window() -> None:
    window = SlidingWindow(num_kv_heads=1, head_dim=1, window=1024)
    assert [elements(window, tokens) for tokens in (1, 1023, 1024, 1025, 10**6)] == [2, 2046, 2048, 2048, 2048]


def test_sinks_add_to_the_window() -> None:
    assert elements(SlidingWindow(num_kv_heads=1, head_dim=1, window=8, num_sink_tokens=4), 100) == 2 * 12


def test_prefix_tokens_add_to_every_length() -> None:
    assert elements(FullAttention(num_kv_heads=1, head_dim=1, num_prefix_tokens=128), 10) == 2 * 138
    assert elements(SlidingWindow(num_kv_heads=1, head_dim=1, window=8, num_prefix_tokens=128), 10) == 2 * 136


def test_a_chunk_holds_at_most_itself() -> None:
    chunk = ChunkedLocal(num_kv_heads=1, head_dim=1, chunk_size=8192)
    assert [elements(chunk, tokens) for tokens in (100, 8192, 20000)] == [200, 16384, 16384]


def test_a_latent_is_stored_once_and_not_split_over_ranks() -> None:
    parts = Latent(kv_lora_rank=512, qk_rope_head_dim=64).parts()
    assert sum(part.width for part in parts) == 576
    assert [part.shard(8) for part in parts] == list(parts)


def test_index_keys_add_one_row_a_token() -> None:
    assert elements(IndexKeys(head_dim=128), 10) == 1280


def test_a_compressed_stream_stores_complete_groups_only() -> None:
    stream = CompressedStream(head_dim=512, rope_head_dim=64, tokens_per_row=128)
    assert [elements(stream, tokens) // 512 for tokens in (127, 128, 255, 256)] == [0, 1, 1, 2]


def test_cross_attention_holds_the_encoder_and_ignores_the_context() -> None:
    cross = CrossAttention(num_kv_heads=20, head_dim=64)
    assert elements(cross, 10, 1500) == elements(cross, 400, 1500) == 2 * 20 * 64 * 1500


@pytest.mark.parametrize("kind", [Shared(source_layer=3), NoCache()])
def test_shared_and_removed_layers_store_nothing(kind: LayerKind) -> None:
    assert elements(kind, 1000) == 0
    assert states(kind) == 0


def test_heads_below_the_tensor_parallel_size_are_replicated() -> None:
    key = FullAttention(num_kv_heads=2, head_dim=128).parts()[0]
    assert [key.shard(tp).num_heads for tp in (1, 2, 4, 8)] == [2, 1, 1, 1]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # conv (k - 1) columns in 16 bits, then the state in 32
        (Mamba1(intermediate_size=8192, state_size=16, conv_kernel=4), 8192 * 3 * 2 + 8192 * 16 * 4),
        (
            Mamba2(num_heads=128, head_dim=64, state_size=128, num_groups=8, conv_kernel=4),
            (128 * 64 + 2 * 8 * 128) * 3 * 2 + 128 * 64 * 128 * 4,
        ),
        (
            GatedDeltaNet(num_k_heads=16, num_v_heads=48, k_head_dim=128, v_head_dim=128, conv_kernel=4),
            (2 * 16 * 128 + 48 * 128) * 3 * 2 + 48 * 128 * 128 * 4,
        ),
        (KimiDeltaAttention(num_heads=32, head_dim=128, conv_kernel=4), 3 * 32 * 128 * 3 * 2 + 32 * 128 * 128 * 4),
        (LinearAttention(num_heads=64, head_dim=128), 64 * 128 * 128 * 4),
        (RgLru(width=2560, conv_kernel=4), 2560 * 3 * 2 + 2560 * 4),
        (Rwkv(hidden_size=2048, num_heads=32, head_dim=64, state_columns=64), 2 * 2048 * 2 + 32 * 64 * 64 * 4),
        (ShortConv(channels=2048, conv_kernel=3), 2048 * 2 * 2),
        (StateBuffer(rows=8, width=1024), 8 * 1024 * 4),
    ],
    ids=lambda value: value.kind if isinstance(value, LayerKind) else "",
)
def test_states_have_the_shapes_of_the_models_own_code(kind: LayerKind, expected: int) -> None:
    assert states(kind) == expected
    assert elements(kind, 10**6) == 0


def test_a_state_in_the_models_dtype_is_half_of_one_in_fp32() -> None:
    full = LinearAttention(num_heads=64, head_dim=128)
    assert states(dataclasses.replace(full, state_dtype="model")) * 2 == states(full)


@pytest.mark.parametrize("kind", [entry for entry in KINDS.values() if dataclasses.fields(entry)], ids=str)
def test_a_kind_refuses_impossible_numbers(kind: type[LayerKind]) -> None:
    required = [item for item in dataclasses.fields(kind) if item.default is dataclasses.MISSING]
    names = [item.name for item in required if item.type == "int"]
    for bad in (0, -1, True, 1.5, "8", None):
        for name in names:
            values = dict.fromkeys(names, 4) | {name: bad}
            with pytest.raises((ValueError, TypeError)):
                kind(**values)


def test_kinds_are_found_by_the_name_they_carry() -> None:
    assert all(name == kind.kind for name, kind in KINDS.items())


def test_every_kind_is_in_the_table() -> None:
    def below(kind: type[LayerKind]) -> list[type[LayerKind]]:
        return [kind, *(entry for child in kind.__subclasses__() for entry in below(child))]

    named = {entry.kind for entry in below(LayerKind) if entry.kind and entry.__module__.startswith("kvplan.core")}
    assert named == set(KINDS)
