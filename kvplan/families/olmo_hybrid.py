"""OLMo Hybrid: OLMo-3 attention in every fourth layer, Gated DeltaNet with twice as wide values in the others."""

from __future__ import annotations

from kvplan.core.attention_layout import headed_kind
from kvplan.core.config_reader import ConfigReader
from kvplan.core.decoder import Block, FeedForward, decoder, dense_feed_forward, read_attention_shape
from kvplan.core.family import Family
from kvplan.core.hybrid_layers import integer_or_default, read_block_names
from kvplan.core.mixer_counting import delta_net_mixer
from kvplan.core.model import Architecture
from kvplan.core.recurrent import GatedDeltaNet

_BLOCK_NAMES = {"linear_attention": "linear", "full_attention": "full"}


def read(config: ConfigReader) -> Architecture:
    """Layers by ``layer_types``, else OlmoHybridConfig's rule: every fourth layer, and the last if there is none."""
    hidden_size, num_layers = config.integer("hidden_size"), config.integer("num_hidden_layers")
    bias = config.flag("attention_bias", default=False)
    shape = read_attention_shape(config, qkv_bias=bias, output_bias=bias)
    feed = dense_feed_forward(hidden_size, config.integer("intermediate_size"))
    full = Block(
        layer=(headed_kind(shape),),
        attention=shape.parameters(),
        norms=2 * hidden_size + (shape.num_heads + shape.num_kv_heads) * shape.head_dim,
        feed_forward=feed,
    )
    blocks = {"full": full, "linear": _linear_block(config, hidden_size, shape.num_heads, feed)}
    names = read_block_names(config, num_layers, _BLOCK_NAMES, "layer_types")
    if names is None:
        names = ["full" if layer % 4 == 3 else "linear" for layer in range(num_layers)]
        if num_layers < 4:
            names[-1] = "full"
    return decoder(config, [blocks[name] for name in names], hidden_size=hidden_size, num_heads=shape.num_heads)


def _linear_block(config: ConfigReader, hidden_size: int, num_heads: int, feed: FeedForward) -> Block:
    num_k_heads = config.integer("linear_num_key_heads", default=num_heads)
    k_head_dim = config.integer("linear_key_head_dim", default=3 * hidden_size // (4 * num_k_heads))
    kind = GatedDeltaNet(
        num_k_heads=num_k_heads,
        num_v_heads=config.integer("linear_num_value_heads", default=num_heads),
        k_head_dim=k_head_dim,
        v_head_dim=config.integer("linear_value_head_dim", default=2 * k_head_dim),
        conv_kernel=integer_or_default(config, 4, "OlmoHybridConfig", "linear_conv_kernel_dim"),
    )
    mixer = delta_net_mixer(kind, hidden_size)
    return Block(layer=(kind,), attention=0, state=mixer, norms=2 * hidden_size, feed_forward=feed)


FAMILY = Family(
    name="olmo_hybrid",
    model_types=("olmo_hybrid",),
    architectures=("OlmoHybridForCausalLM",),
    read=read,
    neutral_keys=frozenset(
        {
            "linear_a_log_min",
            "linear_a_log_max",
            "linear_dt_min",
            "linear_dt_max",
            "linear_dt_init_floor",
            "linear_allow_neg_eigval",
            "linear_use_gate",
        }
    ),
)
