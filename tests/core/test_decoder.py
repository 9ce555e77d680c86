"""Putting a decoder together: sums over blocks, class defaults, layers that share a cache."""

from __future__ import annotations

import pytest

from kvplan.core.attention import FullAttention
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape, linear
from kvplan.core.decoder import Block, FeedForward, decoder, longest_context, read_attention_shape, read_defaulted
from kvplan.core.errors import SpecError
from kvplan.core.kv_sharing import query_and_output, shared_sources

KIND = FullAttention(num_kv_heads=1, head_dim=8)
BLOCK = Block(
    layer=(KIND,), attention=100, norms=10, feed_forward=FeedForward(mlp=7, experts=80, router=3, idle=60), other=5
)
DRAFT = Block(layer=(KIND,), attention=1, norms=1, feed_forward=FeedForward(mlp=1))


def config(**values: object) -> ConfigReader:
    return ConfigReader(values, "config.json")


def test_a_decoder_is_the_sum_of_its_blocks_embedding_head_and_last_norm() -> None:
    architecture = decoder(config(vocab_size=1000), [BLOCK] * 3, hidden_size=16, num_heads=2)
    parameters = architecture.parameters
    assert parameters is not None
    assert parameters.total == 3 * BLOCK.total + 2 * 1000 * 16 + 16
    assert parameters.active == parameters.total - 3 * 60
    assert architecture.layers == ((KIND,),) * 3


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        (None, 32768),
        ({"rope_type": "dynamic", "factor": 2.0}, 65536),  # InternVL3; vLLM 0.32 starts it for 65536
        ({"type": "dynamic", "factor": 1.0, "alpha": 1000.0}, 32768),  # Hunyuan
        ({"rope_type": "yarn", "factor": 32.0}, 32768),
        ({"rope_type": "linear", "factor": 8.0}, 32768),  # Gemma 3
        ({"rope_type": "dynamic", "factor": "two"}, 32768),
        ("dynamic", 32768),
    ],
)
def test_dynamic_scaling_stretches_the_stated_length(scaling: object, longest: int) -> None:
    assert longest_context(config(length=32768, rope_scaling=scaling), "length") == longest
    assert longest_context(config(rope_scaling=scaling), "length") is None


def test_a_tied_head_counts_once_and_a_stated_flag_wins_over_the_class() -> None:
    tied, untied = (
        decoder(config(vocab_size=1000, **stated), [BLOCK], hidden_size=16, num_heads=2, tied=True).parameters
        for stated in ({}, {"tie_word_embeddings": False})
    )
    assert tied is not None
    assert untied is not None
    assert untied.total - tied.total == 1000 * 16


def test_draft_layers_are_outside_the_total() -> None:
    with_draft = decoder(config(vocab_size=1000), [BLOCK], hidden_size=16, num_heads=2, draft=[DRAFT] * 2)
    without = decoder(config(vocab_size=1000), [BLOCK], hidden_size=16, num_heads=2)
    assert with_draft.parameters is not None
    assert without.parameters is not None
    assert with_draft.parameters.total == without.parameters.total
    assert with_draft.parameters.mtp == 2 * (DRAFT.total + 2 * 16 * 16 + 3 * 16)
    assert with_draft.draft_layers == ((KIND,),) * 2


def test_an_absent_key_is_the_class_default_with_a_note_and_null_is_none() -> None:
    absent, null, stated = config(), config(window=None), config(window=7)
    assert read_defaulted(absent, "window", 4096) == 4096
    assert absent.notes == ["window is absent: 4096, the default of transformers 5.23, is assumed"]
    assert read_defaulted(null, "window", 4096) is None
    assert read_defaulted(stated, "window", 4096) == 7
    assert (null.notes, stated.notes) == ([], [])


def test_heads_that_kv_heads_do_not_divide_are_refused() -> None:
    with pytest.raises(SpecError, match="num_key_value_heads 3 does not divide the 8 attention heads"):
        read_attention_shape(config(hidden_size=64, num_attention_heads=8, num_key_value_heads=3))


def test_shared_layers_read_the_last_storing_layer_of_their_type() -> None:
    types = ["slide", "full", "slide", "slide", "full", "slide"]
    assert shared_sources(config(), types, 2) == {4: 1, 5: 3}
    assert shared_sources(config(), types, 0) == {}
    assert shared_sources(config(), types, 6) == dict.fromkeys(range(6))


def test_a_shared_layer_without_a_storing_one_of_its_type_is_refused() -> None:
    with pytest.raises(SpecError, match="leaves no full layer"):
        shared_sources(config(), ["slide", "slide", "full"], 1)


def test_a_layer_without_keys_and_values_keeps_query_and_output() -> None:
    shape = AttentionShape(hidden_size=64, num_heads=8, num_kv_heads=2, head_dim=8, qkv_bias=True)
    assert query_and_output(shape) == linear(64, 64, bias=True) + linear(64, 64)
