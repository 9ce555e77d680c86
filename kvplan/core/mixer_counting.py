"""Parameter counts of recurrent mixers. Pure arithmetic, read from transformers 5.23's modeling files."""

from __future__ import annotations

from kvplan.core.counting import linear
from kvplan.core.recurrent import GatedDeltaNet, Mamba1, Mamba2


def short_convolution(channels: int, kernel: int, bias: bool = False) -> int:
    """A depthwise causal convolution: ``kernel`` weights for each channel."""
    return channels * kernel + (channels if bias else 0)


def mamba1_mixer(
    kind: Mamba1, hidden_size: int, dt_rank: int, *, projection_bias: bool = False, convolution_bias: bool = True
) -> int:
    """Mamba-1 (MambaMixer): in, x, dt and out projections, convolution, A and D."""
    inner = kind.intermediate_size
    return (
        linear(hidden_size, 2 * inner, projection_bias)
        + short_convolution(inner, kind.conv_kernel, convolution_bias)
        + linear(inner, dt_rank + 2 * kind.state_size)
        + linear(dt_rank, inner, bias=True)
        + inner * kind.state_size
        + inner
        + linear(inner, hidden_size, projection_bias)
    )


def mamba2_mixer(
    kind: Mamba2,
    hidden_size: int,
    *,
    input_bias: bool = False,
    output_bias: bool = False,
    convolution_bias: bool = True,
    gated_norm: bool = True,
) -> int:
    """Mamba-2 (Mamba2Mixer): in and out projections, convolution, A, D and dt bias per head, gated norm."""
    inner = kind.num_heads * kind.head_dim
    channels = inner + 2 * kind.num_groups * kind.state_size
    return (
        linear(hidden_size, inner + channels + kind.num_heads, input_bias)
        + short_convolution(channels, kind.conv_kernel, convolution_bias)
        + 3 * kind.num_heads
        + (inner if gated_norm else 0)
        + linear(inner, hidden_size, output_bias)
    )


def delta_net_mixer(kind: GatedDeltaNet, hidden_size: int) -> int:
    """Gated DeltaNet: q, k, v, z, b and a projections, convolution over q, k and v, A and dt bias, norm, out."""
    key_width = kind.num_k_heads * kind.k_head_dim
    value_width = kind.num_v_heads * kind.v_head_dim
    return (
        linear(hidden_size, 2 * key_width + 2 * value_width)
        + linear(hidden_size, 2 * kind.num_v_heads)
        + short_convolution(2 * key_width + value_width, kind.conv_kernel)
        + 2 * kind.num_v_heads
        + kind.v_head_dim
        + linear(value_width, hidden_size)
    )
