"""Encoder-decoder models: what a decoder layer stores, and the counts of the classic transformer block.

Every decoder layer keeps its own keys and values, which grow, and those of the encoder's output, which do not.
"""

from __future__ import annotations

from kvplan.core.attention import CrossAttention, FullAttention
from kvplan.core.config_reader import ConfigReader
from kvplan.core.counting import AttentionShape, plain_mlp
from kvplan.core.frozen import dataclass
from kvplan.core.model import Layer


def decoder_layer(num_heads: int, head_dim: int) -> Layer:
    """Self-attention and cross-attention of one decoder layer, all query heads with keys of their own."""
    return (
        FullAttention(num_kv_heads=num_heads, head_dim=head_dim),
        CrossAttention(num_kv_heads=num_heads, head_dim=head_dim),
    )


def require_decoder(config: ConfigReader) -> None:
    """Refuse a config of the encoder alone or of the decoder alone, which share their model type with the whole."""
    if not config.flag("is_encoder_decoder", default=True):
        config.wrong("is_encoder_decoder", "must be true: half of an encoder-decoder model is another architecture")
    for name in config.texts("architectures") or []:
        if name.endswith("EncoderModel"):
            config.wrong("architectures", f"{name} is an encoder without a decoder: it has no KV cache")


def layer_norm(width: int) -> int:
    """Weight and bias."""
    return 2 * width


@dataclass(frozen=True, slots=True, kw_only=True)
class StackShape:
    """An encoder or decoder stack of the original transformer: biased projections, a plain feed-forward, layer norms.

    ``key_bias`` is false in Whisper, whose key projections have none.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    ffn_size: int
    key_bias: bool = True

    @property
    def attention(self) -> int:
        """Parameters of one attention block, self or cross."""
        return AttentionShape(
            hidden_size=self.hidden_size,
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            head_dim=self.hidden_size // self.num_heads,
            qkv_bias=True,
            output_bias=True,
            key_bias=self.key_bias,
        ).parameters()

    @property
    def mlp(self) -> int:
        """Parameters of one feed-forward block."""
        return plain_mlp(self.hidden_size, self.ffn_size, bias=True)

    def encoder_layers(self) -> int:
        """Parameters of all layers when the stack is an encoder: attention, feed-forward and their two norms."""
        return self.num_layers * (self.attention + self.mlp + 2 * layer_norm(self.hidden_size))


def read_stack(config: ConfigReader, side: str, key_bias: bool = True) -> StackShape:
    """The ``encoder`` or ``decoder`` stack of a config that spells its keys as BART does.

    Raises MissingKeyError for an absent key and SpecError where heads do not divide the width.
    """
    hidden = config.integer("d_model")
    num_heads = config.integer(f"{side}_attention_heads")
    if hidden % num_heads:
        config.wrong("d_model", f"{hidden} is no multiple of the {num_heads} {side} attention heads")
    return StackShape(
        hidden_size=hidden,
        num_layers=config.integer(f"{side}_layers"),
        num_heads=num_heads,
        ffn_size=config.integer(f"{side}_ffn_dim"),
        key_bias=key_bias,
    )
