"""Parameter counts of vision and audio towers: pure arithmetic over the blocks that all of them are made of.

A tower has no KV cache; only its weights take memory. Shapes are those of the models' own code (transformers 5.23).
"""

from __future__ import annotations

from kvplan.core.counting import gated_mlp, linear, plain_mlp
from kvplan.core.frozen import dataclass


def layer_norm(width: int) -> int:
    """A LayerNorm's weight and bias."""
    return 2 * width


def convolution(inputs: int, outputs: int, kernel: int, bias: bool = True) -> int:
    """A convolution whose kernel covers ``kernel`` positions in all (3x3 is 9), for every pair of channels."""
    return linear(inputs * kernel, outputs, bias)


def two_linears(inputs: int, hidden: int, outputs: int, bias: bool = True) -> int:
    """The usual projector: up to ``hidden``, an activation, on to ``outputs``."""
    return linear(inputs, hidden, bias) + linear(hidden, outputs, bias)


def cross_attention(width: int) -> int:
    """Learned queries that attend to patches: four square projections with biases."""
    return 4 * linear(width, width, bias=True)


def pooling_head(width: int, intermediate_size: int) -> int:
    """SigLIP's attention pooling: a probe that attends to all patches, then a feed-forward block."""
    return width + cross_attention(width) + layer_norm(width) + plain_mlp(width, intermediate_size, bias=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderShape:
    """A stack of equal transformer encoder layers.

    ``attention_width``  query heads x head_dim where that is not ``hidden_size``
    ``gated``            SwiGLU-like feed-forward block (three projections) instead of two
    ``norm_bias``        LayerNorm (weight and bias) instead of RMSNorm (weight only)
    ``num_norms``        norms of the full width per layer
    ``extra``            further parameters per layer: query/key norms, layer scales
    """

    hidden_size: int
    num_layers: int
    intermediate_size: int
    attention_width: int | None = None
    qkv_bias: bool = True
    key_bias: bool | None = None
    output_bias: bool = True
    mlp_bias: bool = True
    gated: bool = False
    norm_bias: bool = True
    num_norms: int = 2
    extra: int = 0

    def parameters(self) -> int:
        """All layers."""
        return self.num_layers * (self._attention() + self._mlp() + self._norms() + self.extra)

    def _attention(self) -> int:
        width = self.attention_width or self.hidden_size
        key_bias = self.qkv_bias if self.key_bias is None else self.key_bias
        return (
            2 * linear(self.hidden_size, width, self.qkv_bias)
            + linear(self.hidden_size, width, key_bias)
            + linear(width, self.hidden_size, self.output_bias)
        )

    def _mlp(self) -> int:
        count = gated_mlp if self.gated else plain_mlp
        return count(self.hidden_size, self.intermediate_size, self.mlp_bias)

    def _norms(self) -> int:
        return self.num_norms * self.hidden_size * (2 if self.norm_bias else 1)
