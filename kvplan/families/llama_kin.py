"""Close kin of Llama: the same grouped attention in every layer, other biases, norms, feed-forward or defaults.

Each model type is one row of ``_KIN``. Shapes and defaults: transformers 5.23 ``models/<model type>``; InternLM 1 and
2, Baichuan and MiniCPM: their own ``modeling_*.py``.
"""

from __future__ import annotations

from collections.abc import Callable

from kvplan.core.attention_layout import equal_blocks, read_layer_windows
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape
from kvplan.core.decoder import decoder, dense_feed_forward, plain_feed_forward, read_attention_shape
from kvplan.core.family import Family
from kvplan.core.frozen import dataclass
from kvplan.core.model import Architecture
from kvplan.core.model_types import read_model_type

_Counter = Callable[[ConfigReader, AttentionShape], int]


def _nothing_more(config: ConfigReader, shape: AttentionShape) -> int:
    return 0


def _apertus_extras(config: ConfigReader, shape: AttentionShape) -> int:
    """Norms of one head's queries and keys, and the two learned numbers of the xIELU activation."""
    return 2 * shape.head_dim + 2


def _bitnet_extras(config: ConfigReader, shape: AttentionShape) -> int:
    """A norm before the output projection and one before the down projection."""
    return shape.hidden_size + config.integer("intermediate_size")


def _hyperclovax_extras(config: ConfigReader, shape: AttentionShape) -> int:
    """A norm after each block (Peri-LN), unless ``use_post_norm`` is false."""
    return 2 * shape.hidden_size if config.flag("use_post_norm", default=True) else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kin:
    """How a model type differs from Llama.

    ``qkv_bias``, ``output_bias``, ``mlp_bias``  the keys that switch a bias on; ``biased`` are those that the class
    switches on by itself; ``num_kv_heads``, ``head_dim`` and ``tied`` are class defaults; ``extras`` counts further
    parameters of one layer.
    """

    qkv_bias: str = "attention_bias"
    output_bias: str = "attention_bias"
    mlp_bias: str = "mlp_bias"
    biased: tuple[str, ...] = ()
    num_kv_heads: int | None = None
    head_dim: int | None = None
    gated: bool = True
    tied: bool = False
    extras: _Counter = _nothing_more


_KIN = {
    "apertus": _Kin(gated=False, extras=_apertus_extras),
    "arcee": _Kin(gated=False),
    "baichuan": _Kin(),
    "bitnet": _Kin(extras=_bitnet_extras),
    "ernie4_5": _Kin(
        qkv_bias="use_bias", output_bias="use_bias", mlp_bias="use_bias", num_kv_heads=2, head_dim=128, tied=True
    ),
    "helium": _Kin(num_kv_heads=20, head_dim=128),
    "hyperclovax": _Kin(extras=_hyperclovax_extras),
    "internlm": _Kin(qkv_bias="bias", output_bias="bias", biased=("bias",)),
    "internlm2": _Kin(qkv_bias="bias", output_bias="bias", biased=("bias",)),
    "internlm3": _Kin(qkv_bias="qkv_bias", output_bias="bias", mlp_bias="bias", num_kv_heads=2),
    "minicpm": _Kin(tied=True),
    "seed_oss": _Kin(output_bias="attention_out_bias", biased=("attention_bias",), num_kv_heads=8, head_dim=128),
}


_CLASSES = {
    "ApertusForCausalLM": "apertus",
    "ArceeForCausalLM": "arcee",
    "BaichuanForCausalLM": "baichuan",
    "BaiChuanForCausalLM": "baichuan",
    "BitNetForCausalLM": "bitnet",
    "Ernie4_5ForCausalLM": "ernie4_5",
    "Ernie4_5_ForCausalLM": "ernie4_5",
    "HeliumForCausalLM": "helium",
    "HyperCLOVAXForCausalLM": "hyperclovax",
    "InternLMForCausalLM": "internlm",
    "InternLM2ForCausalLM": "internlm2",
    "InternLM3ForCausalLM": "internlm3",
    "MiniCPMForCausalLM": "minicpm",
    "SeedOssForCausalLM": "seed_oss",
}
"""Class names, for configs without a model type."""


def _read(config: ConfigReader) -> Architecture:
    kin = _KIN[read_model_type(config, tuple(_KIN), _CLASSES)]
    num_layers = config.integer("num_hidden_layers")
    shape = _read_shape(config, kin)
    make = dense_feed_forward if kin.gated else plain_feed_forward
    feed_forward = make(shape.hidden_size, config.integer("intermediate_size"), _has_bias(config, kin, kin.mlp_bias))
    blocks = equal_blocks(
        shape,
        feed_forward,
        read_layer_windows(config, num_layers),
        norms=2 * shape.hidden_size + kin.extras(config, shape),
    )
    return decoder(
        config,
        blocks,
        hidden_size=shape.hidden_size,
        num_heads=shape.num_heads,
        tied=kin.tied,
        context_keys=("max_position_embeddings", "model_max_length"),
    )


def _read_shape(config: ConfigReader, kin: _Kin) -> AttentionShape:
    return read_attention_shape(
        config,
        num_kv_heads=kin.num_kv_heads,
        head_dim=kin.head_dim,
        qkv_bias=_has_bias(config, kin, kin.qkv_bias),
        output_bias=_has_bias(config, kin, kin.output_bias),
    )


def _has_bias(config: ConfigReader, kin: _Kin, key: str) -> bool:
    return config.flag(key, default=key in kin.biased)


FAMILY = Family(
    name="llama_kin",
    model_types=tuple(_KIN),
    architectures=tuple(_CLASSES),
    read=_read,
    neutral_keys=frozenset({"prefill_chunk_size", "context_window_size"}),
)
