"""Decoders from before Llama: heads that the keys do not name plainly, and older spellings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvplan.core.errors import SpecError
from kvplan.core.model import Architecture
from kvplan.specs.config_json import read_config


def read(model_type: str, **values: Any) -> Architecture:
    return read_config({"model_type": model_type, **values}, "config.json", model_type).architecture


def total(architecture: Architecture) -> int:
    assert architecture.parameters is not None
    return architecture.parameters.total


def head_shapes(architecture: Architecture) -> set[tuple[int | None, ...]]:
    return {layer[0].head_shape()[:2] for layer in architecture.layers}


def test_falcon_7b_has_one_kv_head_whatever_num_kv_heads_says(read_asset: Callable[..., Architecture]) -> None:
    assert head_shapes(read_asset("tiiuae__falcon-7b", num_kv_heads=71)) == {(1, 64)}


def test_falcon_without_multi_query_has_as_many_kv_heads_as_query_heads(
    read_asset: Callable[..., Architecture],
) -> None:
    # tiiuae/falcon-rw-1b
    plain = read_asset("tiiuae__falcon-7b", multi_query=False, parallel_attn=False, alibi=True)
    assert head_shapes(plain) == {(71, 64)}


def test_refined_web_is_the_older_spelling_of_falcon(read_asset: Callable[..., Architecture]) -> None:
    # the first uploads of tiiuae/falcon-40b and tiiuae/falcon-7b
    older = {"num_attention_heads": ..., "num_hidden_layers": ..., "new_decoder_architecture": ..., "num_kv_heads": ...}
    large = read_asset(
        "tiiuae__falcon-40b", model_type="RefinedWeb", n_head=128, n_layer=60, n_head_kv=8, multi_query=..., **older
    )
    assert large == read_asset("tiiuae__falcon-40b")
    small = read_asset("tiiuae__falcon-7b", model_type="RefinedWebModel", n_head=71, n_layer=32, **older)
    assert small == read_asset("tiiuae__falcon-7b")


def test_falcon2_11b_has_one_norm_for_both_blocks(read_asset: Callable[..., Architecture]) -> None:
    two, one = read_asset("tiiuae__falcon-40b"), read_asset("tiiuae__falcon-40b", num_ln_in_parallel_attn=1)
    assert total(two) - total(one) == 60 * 2 * 8192


def test_big_code_without_multi_query_keeps_all_heads(read_asset: Callable[..., Architecture]) -> None:
    assert head_shapes(read_asset("bigcode__gpt_bigcode-santacoder", multi_query=False)) == {(16, 128)}


@pytest.mark.parametrize(
    ("attention", "heads"),
    [
        ({"attn_type": "multihead_attention"}, 32),
        ({"attn_type": "multiquery_attention"}, 1),
        ({"attn_type": "grouped_query_attention", "kv_n_heads": 8}, 8),
    ],
)
def test_mpt_reads_its_heads_from_attn_config(
    read_asset: Callable[..., Architecture], attention: dict[str, Any], heads: int
) -> None:
    changed = read_asset("mosaicml__mpt-7b", attn_config={"alibi": True, **attention})
    assert head_shapes(changed) == {(heads, 128)}


def test_mpt_with_an_unknown_attention_is_refused(read_asset: Callable[..., Architecture]) -> None:
    with pytest.raises(SpecError, match=r"attn_config\.attn_type"):
        read_asset("mosaicml__mpt-7b", attn_config={"attn_type": "quantum"})
    with pytest.raises(SpecError, match=r"attn_config\.kv_n_heads"):
        read_asset("mosaicml__mpt-7b", attn_config={"attn_type": "grouped_query_attention"})


def test_chatglm_has_the_groups_it_states_or_all_heads(read_asset: Callable[..., Architecture]) -> None:
    assert head_shapes(read_asset("THUDM__chatglm3-6b")) == {(2, 128)}
    assert head_shapes(read_asset("THUDM__chatglm3-6b", multi_query_attention=False)) == {(32, 128)}
    assert read_asset("THUDM__glm-4-9b-chat").max_context_tokens == 131072


def test_gpt_neo_alternates_full_and_local_layers() -> None:
    # EleutherAI/gpt-neo-125m; parameters: transformers 5.23, GPTNeoForCausalLM on the meta device
    neo = read(
        "gpt_neo",
        attention_layers=6 * ["global", "local"],
        attention_types=[[["global", "local"], 6]],
        hidden_size=768,
        num_heads=12,
        num_layers=12,
        intermediate_size=None,
        max_position_embeddings=2048,
        vocab_size=50257,
        window_size=256,
    )
    assert [layer[0].window_tokens for layer in neo.layers] == 6 * [None, 256]
    assert total(neo) == 125198592


def test_gpt_neo_with_an_unknown_attention_type_is_refused() -> None:
    with pytest.raises(SpecError, match="attention_types"):
        read("gpt_neo", attention_types=[["global", 12]], hidden_size=64, num_heads=4, num_layers=12)


# parameters: transformers 5.23, each model's class built on torch's meta device from the published sizes
@pytest.mark.parametrize(
    ("values", "shape", "parameters"),
    [
        (  # EleutherAI/pythia-70m
            {
                "model_type": "gpt_neox",
                "hidden_size": 512,
                "intermediate_size": 2048,
                "num_attention_heads": 8,
                "num_hidden_layers": 6,
                "max_position_embeddings": 2048,
                "use_parallel_residual": True,
                "vocab_size": 50304,
            },
            (8, 64),
            70426624,
        ),
        (  # bigscience/bloom-560m, which spells its sizes in the older way
            {
                "model_type": "bloom",
                "attention_softmax_in_fp32": True,
                "masked_softmax_fusion": True,
                "n_embed": 1024,
                "n_layer": 24,
                "num_attention_heads": 16,
                "offset_alibi": 100,
                "seq_length": 2048,
                "vocab_size": 250880,
            },
            (16, 64),
            559214592,
        ),
        (  # facebook/opt-350m: narrow word embeddings, norms after the blocks
            {
                "model_type": "opt",
                "hidden_size": 1024,
                "word_embed_proj_dim": 512,
                "num_hidden_layers": 24,
                "ffn_dim": 4096,
                "num_attention_heads": 16,
                "max_position_embeddings": 2048,
                "do_layer_norm_before": False,
                "vocab_size": 50272,
            },
            (16, 64),
            331196416,
        ),
    ],
    ids=["pythia-70m", "bloom-560m", "opt-350m"],
)
def test_published_models_outside_the_folder(values: dict[str, Any], shape: tuple[int, int], parameters: int) -> None:
    architecture = read(**values)
    assert head_shapes(architecture) == {shape}
    assert total(architecture) == parameters
    assert architecture.max_context_tokens == 2048


def test_the_first_olmo_reads_the_same_under_its_training_keys(read_asset: Callable[..., Architecture]) -> None:
    # allenai/OLMo-7B against allenai/OLMo-7B-hf
    original = read(
        "hf_olmo",
        activation_type="swiglu",
        alibi=False,
        attention_layer_norm=False,
        block_type="sequential",
        d_model=4096,
        embedding_size=50304,
        flash_attention=True,
        include_bias=False,
        layer_norm_type="default",
        layer_norm_with_affine=False,
        max_sequence_length=2048,
        mlp_hidden_size=22016,
        mlp_ratio=4,
        multi_query_attention=False,
        n_heads=32,
        n_layers=32,
        rope=True,
        vocab_size=50280,
        weight_tying=False,
        torch_dtype="float32",
    )
    assert original == read_asset("allenai__OLMo-7B-hf")


def test_baichuan_states_its_context_as_model_max_length() -> None:
    # baichuan-inc/Baichuan-13B-Base
    baichuan = read(
        "baichuan",
        hidden_size=5120,
        intermediate_size=13696,
        num_attention_heads=40,
        num_hidden_layers=40,
        model_max_length=4096,
        vocab_size=64000,
    )
    assert baichuan.max_context_tokens == 4096
    assert head_shapes(baichuan) == {(40, 128)}
    assert total(baichuan) == 2 * 64000 * 5120 + 40 * (4 * 5120 * 5120 + 3 * 5120 * 13696 + 2 * 5120) + 5120
