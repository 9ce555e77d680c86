"""The skeletons that llama.cpp is started with: GGUF headers, and the same layers in kvplan's words.

Attention shapes are those of the published models named; widths that no cache depends on are small.
"""

from __future__ import annotations

from typing import Any

from llamacpp_header import Skeleton, base, blocks, experts, full, heads, options, window

_LATENT = {"kind": "latent", "kv_lora_rank": 512, "qk_rope_head_dim": 64}
_INDEX = {"kind": "index_keys", "head_dim": 128}
_LATENT_HEADER = {
    "attention.head_count": 8,
    "attention.head_count_kv": 1,
    "attention.key_length": 576,
    "attention.value_length": 512,
    "attention.key_length_mla": 192,
    "attention.value_length_mla": 128,
    "attention.kv_lora_rank": 512,
    "attention.q_lora_rank": 64,
    "rope.dimension_count": 64,
}
_MIXTURE = experts(expert_shared_count=1, leading_dense_block_count=1, expert_gating_func=2, expert_weights_scale=1.0)


def _ssm(kernel: int, inner: int, state: int, rank: int, groups: int | None = None) -> dict[str, Any]:
    found = {
        "ssm.conv_kernel": kernel,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
    }
    return found if groups is None else {**found, "ssm.group_count": groups}


def _mamba2(heads: int, width: int, state: int, groups: int) -> dict[str, Any]:
    kind = {"kind": "mamba2", "num_heads": heads, "head_dim": width, "state_size": state, "num_groups": groups}
    return {**kind, "conv_kernel": 4}


_MAMBA1 = {"kind": "mamba1", "intermediate_size": 1536, "state_size": 16, "conv_kernel": 4}
_DELTA = {
    "kind": "gated_delta_net",
    "num_k_heads": 16,
    "num_v_heads": 32,
    "k_head_dim": 128,
    "v_head_dim": 128,
    "conv_kernel": 4,
}
_NONE = {"kind": "none"}

_DENSE = [
    Skeleton("llama-3.1-8b", "llama", "llama", base(4, 128, **heads(32, 8, 128)), [[full(8, 128)]] * 4),
    Skeleton("gemma-2b", "gemma", "gemma", base(3, 128, **heads(8, 1, 256)), [[full(1, 256)]] * 3),
    Skeleton(
        "stablelm-3b",
        "stablelm",
        "stablelm",
        base(2, 2560, **{**heads(32, 32, 80), "attention.layer_norm_epsilon": 1e-5, "use_parallel_residual": False}),
        [[full(32, 80)]] * 2,
    ),
    Skeleton(
        "glm-4.5-air",
        "glm4moe",
        "deepseek_moe",
        base(4, 128, **{**heads(96, 8, 128), **_MIXTURE, "nextn_predict_layers": 1}),
        [[full(8, 128)]] * 3,
        draft_layers=[[full(8, 128)]],
        options=(options(3000, 2, "f16", draft=True), options(3000, 2, "f16", draft=True, unified=True)),
        optional_tensors=(
            "blk.0.attn_norm.weight",
            "blk.3.nextn.eh_proj.weight",
            "blk.3.nextn.shared_head_norm.weight",
        ),
    ),
]
_WINDOWED = [
    Skeleton(
        "gemma-3-27b",
        "gemma3",
        "gemma_multimodal",
        base(6, 128, **{**heads(32, 16, 128), "attention.sliding_window": 1024}),
        [*[[window(1024, 16, 128)]] * 5, [full(16, 128)]],
    ),
    Skeleton(
        "gemma-2-9b",
        "gemma2",
        "gemma",
        base(4, 128, **{**heads(16, 8, 256), "attention.sliding_window": 4096}),
        [[window(4096, 8, 256)], [full(8, 256)]] * 2,
    ),
    Skeleton(
        "gpt-oss-20b",
        "gpt-oss",
        "gpt_oss",
        base(4, 128, **{**heads(64, 8, 64), **experts(), "attention.sliding_window": 128}),
        [[window(128, 8, 64)], [full(8, 64)]] * 2,
    ),
    Skeleton(
        "mimo-v2-flash",
        "mimo2",
        "mimo",
        base(
            4,
            128,
            **{
                **heads(64, [4, 8, 8, 8], 192, 128),
                **experts(),
                "attention.sliding_window": 128,
                "attention.sliding_window_pattern": [False, True, True, True],
                "rope.freq_base_swa": 10000.0,
                "rope.dimension_count": 64,
            },
        ),
        [[full(4, 192, 128)], *[[window(128, 8, 192, 128)]] * 3],
    ),
    Skeleton(
        "phi-3-mini-4k",
        "phi3",
        "phi",
        base(
            3,
            3072,
            **{**heads(32, 32, 96), "attention.sliding_window": 2047, "rope.scaling.original_context_length": 4096},
        ),
        [[window(2047, 32, 96)]] * 3,
        optional_tensors=blocks(range(3), "attn_qkv.weight"),
    ),
    Skeleton(
        "llama-4-scout",
        "llama4",
        "llama4_vision",
        base(4, 128, **{**heads(40, 8, 128), **experts(), "interleave_moe_layer_step": 1}),
        [*[[{**full(8, 128), "kind": "chunked_local", "chunk_size": 8192}]] * 3, [full(8, 128)]],
    ),
]
_LATENTS = [
    Skeleton("deepseek-v3", "deepseek2", "deepseek", base(3, 128, **{**_LATENT_HEADER, **_MIXTURE}), [[_LATENT]] * 3),
    Skeleton(
        "glm-5.1",
        "glm-dsa",
        "deepseek",
        base(
            4,
            128,
            **{
                **_LATENT_HEADER,
                **_MIXTURE,
                "nextn_predict_layers": 1,
                "attention.indexer.head_count": 4,
                "attention.indexer.key_length": 128,
                "attention.indexer.top_k": 64,
            },
        ),
        [[_LATENT, _INDEX]] * 3,
        draft_layers=[[_LATENT, _INDEX]],
        options=(options(3000, 2, "f16", draft=True),),
        optional_tensors=(
            *("blk.0.attn_norm.weight", "blk.3.nextn.eh_proj.weight", "blk.3.nextn.shared_head_norm.weight"),
            *blocks(
                range(4),
                *("indexer.k_norm.weight", "indexer.k_norm.bias", "indexer.proj.weight"),
                *("indexer.attn_k.weight", "indexer.attn_q_b.weight"),
            ),
        ),
    ),
    Skeleton(
        "minimax-m3",
        "minimax-m3",
        "minimax_m3",
        base(
            3,
            128,
            **{
                **heads(64, 4, 128),
                **_MIXTURE,
                "attention.indexer.head_count": 4,
                "attention.indexer.key_length": 128,
                "attention.indexer.top_k": 16,
                "attention.indexer.block_size": 128,
                "attention.indexer.local_blocks": 1,
                "rope.dimension_count": 64,
            },
        ),
        [[full(4, 128)], *[[full(4, 128), _INDEX]] * 2],
    ),
]
_V4_WINDOW = {"kind": "latent", "kv_lora_rank": 448, "qk_rope_head_dim": 64, "window": 128}


def _stream(ratio: int) -> dict[str, Any]:
    return {"kind": "compressed_stream", "head_dim": 512, "tokens_per_row": ratio, "rope_head_dim": 64}


def _buffer(rows: int, width: int) -> dict[str, Any]:
    return {"kind": "state_buffer", "rows": rows, "width": width}


_LATENTS.append(
    Skeleton(
        "deepseek-v4",
        "deepseek4",
        "deepseek_v4",
        base(
            4,
            128,
            **{
                **heads(8, 1, 512),
                **experts(expert_shared_count=1, expert_gating_func=4, expert_weights_scale=1.0),
                "expert_weights_norm": True,
                "swiglu_clamp_exp": [10.0] * 4,
                "rope.dimension_count": 64,
                "attention.q_lora_rank": 64,
                "attention.sliding_window": 128,
                "attention.indexer.head_count": 4,
                "attention.indexer.key_length": 128,
                "attention.indexer.top_k": 64,
                "attention.output_group_count": 2,
                "attention.output_lora_rank": 64,
                "attention.compress_ratios": [0, 4, 128, 4],
                "attention.compress_rope_freq_base": 10000.0,
                "hyper_connection.count": 4,
                "hyper_connection.sinkhorn_iterations": 2,
                "hyper_connection.epsilon": 1e-6,
                "hash_layer_count": 0,
            },
        ),
        [
            [_V4_WINDOW],
            [_V4_WINDOW, _stream(4), {**_INDEX, "tokens_per_row": 4}, _buffer(8, 2048), _buffer(8, 512)],
            [_V4_WINDOW, _stream(128), _buffer(128, 1024)],
            [_V4_WINDOW, _stream(4), {**_INDEX, "tokens_per_row": 4}, _buffer(8, 2048), _buffer(8, 512)],
        ],
        options=(options(2048, 2, "f16", speculative=2),),
    )
)
_RECURRENT = [
    Skeleton(
        "mamba-130m",
        "mamba",
        "mamba",
        base(3, 768, **{**_ssm(4, 1536, 16, 48), "feed_forward_length": 0, "attention.head_count": 0}),
        [[_MAMBA1]] * 3,
    ),
    Skeleton(
        "mamba2-130m",
        "mamba2",
        "mamba",
        base(3, 768, **{**_ssm(4, 1536, 128, 24, 1), "feed_forward_length": 0, "attention.head_count": 0}),
        [[_mamba2(24, 64, 128, 1)]] * 3,
    ),
    Skeleton(
        "jamba",
        "jamba",
        "jamba",
        base(4, 1024, **{**heads(8, [0, 0, 8, 0], 128), **_ssm(4, 2048, 16, 48)}),
        [*[[{**_MAMBA1, "intermediate_size": 2048}]] * 2, [full(8, 128)], [{**_MAMBA1, "intermediate_size": 2048}]],
    ),
    Skeleton(
        "falcon-h1-0.5b",
        "falcon-h1",
        "bamba",
        base(3, 128, **{**heads(8, 2, 64), **_ssm(4, 1536, 128, 24, 1)}),
        [[full(2, 64), _mamba2(24, 64, 128, 1)]] * 3,
        optional_tensors=blocks(range(3), "ssm_conv1d.bias"),
    ),
    Skeleton(
        "granite-4.0-h-micro",
        "granitehybrid",
        "bamba",
        base(4, 768, **{**heads(32, [0, 0, 8, 0], 64), **_ssm(4, 1536, 128, 24, 1)}),
        [[_mamba2(24, 64, 128, 1)], [_mamba2(24, 64, 128, 1)], [full(8, 64)], [_mamba2(24, 64, 128, 1)]],
        optional_tensors=blocks((0, 1, 3), "ssm_conv1d.bias"),
    ),
    Skeleton(
        "nemotron-h-4b",
        "nemotron_h",
        "nemotron_h",
        base(
            6,
            128,
            **{
                **heads(32, [0, 0, 8, 0, 0, 0], 128),
                **_ssm(4, 1536, 128, 24, 8),
                "feed_forward_length": [0, 64, 0, 64, 0, 64],
                "attention.layer_norm_epsilon": 1e-5,
            },
        ),
        [[_mamba2(24, 64, 128, 8)], [_NONE], [full(8, 128)], [_NONE], [_mamba2(24, 64, 128, 8)], [_NONE]],
        options=(options(2048, 2, "f16", speculative=5),),
        optional_tensors=blocks((0, 4), "ssm_conv1d.bias"),
    ),
    Skeleton(
        "qwen3-next",
        "qwen3next",
        "qwen3_next",
        base(
            4,
            128,
            **{
                **heads(16, 2, 256),
                **experts(),
                **_ssm(4, 4096, 128, 32, 16),
                "rope.dimension_count": 64,
                "expert_shared_feed_forward_length": 32,
            },
        ),
        [*[[_DELTA]] * 3, [full(2, 256)]],
        options=(options(2048, 2, "f16", speculative=3),),
        optional_tensors=blocks(range(3), "attn_qkv.weight", "attn_gate.weight"),
    ),
    Skeleton(
        "qwen3.5",
        "qwen35",
        "qwen_vl",
        base(
            4,
            128,
            **{
                **heads(24, 4, 256),
                **_ssm(4, 4096, 128, 32, 16),
                "rope.dimension_count": 64,
                "rope.dimension_sections": [11, 11, 10, 0],
            },
        ),
        [*[[_DELTA]] * 3, [full(4, 256)]],
        options=(options(2048, 2, "f16", speculative=3),),
        optional_tensors=blocks(range(3), "attn_qkv.weight", "attn_gate.weight"),
    ),
    Skeleton(
        "lfm2-350m",
        "lfm2",
        "lfm2",
        base(4, 1024, **{**heads(16, [0, 0, 8, 0], 64), "shortconv.l_cache": 3}),
        [[{"kind": "short_conv", "channels": 1024, "conv_kernel": 3}]] * 2
        + [[full(8, 64)], [{"kind": "short_conv", "channels": 1024, "conv_kernel": 3}]],
        options=(options(2048, 2, "f16", speculative=3),),
    ),
    Skeleton(
        "minimax-text-01",
        "minimax-01",
        "minimax_01",
        base(8, 128, **{**heads(64, 8, 128), **experts(), "rope.dimension_count": 64, "residual_scale": 1.0}),
        [*[[{"kind": "linear_attention", "num_heads": 64, "head_dim": 128}]] * 7, [full(8, 128)]],
    ),
]
SKELETONS = (*_DENSE, *_WINDOWED, *_LATENTS, *_RECURRENT)
