"""Parameter counts of the blocks that models are made of. Pure arithmetic; every count is exact for its block."""

from __future__ import annotations

from kvplan.core.frozen import dataclass


def linear(inputs: int, outputs: int, bias: bool = False) -> int:
    """A dense projection."""
    return inputs * outputs + (outputs if bias else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """The projections of one attention block with separate or grouped heads."""

    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    key_bias: bool | None = None
    """Whisper's key projection has no bias where query and value have one; None follows ``qkv_bias``."""

    def parameters(self) -> int:
        """Query, key, value and output projections."""
        v_head_dim = self.v_head_dim or self.head_dim
        key_bias = self.qkv_bias if self.key_bias is None else self.key_bias
        return (
            linear(self.hidden_size, self.num_heads * self.head_dim, self.qkv_bias)
            + linear(self.hidden_size, self.num_kv_heads * self.head_dim, key_bias)
            + linear(self.hidden_size, self.num_kv_heads * v_head_dim, self.qkv_bias)
            + linear(self.num_heads * v_head_dim, self.hidden_size, self.output_bias)
        )


def gated_mlp(hidden_size: int, intermediate_size: int, bias: bool = False) -> int:
    """Gate, up and down projections (SwiGLU and its kin)."""
    return 2 * linear(hidden_size, intermediate_size, bias) + linear(intermediate_size, hidden_size, bias)


def plain_mlp(hidden_size: int, intermediate_size: int, bias: bool = False) -> int:
    """Up and down projections."""
    return linear(hidden_size, intermediate_size, bias) + linear(intermediate_size, hidden_size, bias)
