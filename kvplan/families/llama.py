"""Plain decoders: Llama and the models that read exactly like it. Copy this file to add a family.

Every layer has grouped-query attention with separate projections, a gated feed-forward block and two RMS norms
(transformers 5.23 ``models/llama``). This family also reads configs of architectures that nobody claims; such a
config is accepted only if every one of its keys is asked for here or known to be neutral.
"""

from __future__ import annotations

from kvplan.core.attention_layout import equal_blocks, read_layer_windows
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import decoder, dense_feed_forward, read_attention_shape
from kvplan.core.family import Family
from kvplan.core.model import Architecture


def _read(config: ConfigReader) -> Architecture:
    num_layers = config.integer("num_hidden_layers")
    bias = config.flag("attention_bias", default=False)
    shape = read_attention_shape(config, qkv_bias=bias, output_bias=bias)
    feed_forward = dense_feed_forward(
        shape.hidden_size, config.integer("intermediate_size"), config.flag("mlp_bias", default=False)
    )
    blocks = equal_blocks(shape, feed_forward, read_layer_windows(config, num_layers), norms=2 * shape.hidden_size)
    return decoder(config, blocks, hidden_size=shape.hidden_size, num_heads=shape.num_heads)


FAMILY = Family(
    name="llama",
    model_types=("llama", "code_llama", "Yi", "yi", "aquila", "xverse", "granite", "cwm", "iquestcoder"),
    architectures=(
        "LlamaForCausalLM",
        "LLaMAForCausalLM",
        "YiForCausalLM",
        "AquilaForCausalLM",
        "XverseForCausalLM",
        "GraniteForCausalLM",
    ),
    read=_read,
    # context_window_size, prefill_chunk_size: MLC's run-time settings, saved into some published files
    neutral_keys=frozenset({"context_window_size", "prefill_chunk_size"}),
)
