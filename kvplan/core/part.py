"""What one layer stores: parts that grow with tokens, and state tensors that do not."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from kvplan.core.frozen import dataclass
from kvplan.core.units import cdiv


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One tensor of a layer's cache that holds a row of ``width`` elements per head for the tokens it keeps.

    ``name``           key, value, latent, rope, index or compressed: cache formats price by this name.
    ``num_heads``      rows per token, whole model.
    ``width``          elements of one row.
    ``limit_tokens``   most tokens held (a window or a chunk); None for all of them.
    ``prefix_tokens``  tokens held on top, whatever the limit (meta tokens prepended by the model).
    ``tokens_per_row`` tokens that share one stored row (compressed streams); complete rows only.
    ``encoder``        holds the encoder's tokens instead of the decoder's.
    ``sharded``        heads are split over tensor-parallel ranks; latents are replicated instead.
    ``prunable``       a retention policy may drop its tokens.
    """

    name: str
    num_heads: int
    width: int
    limit_tokens: int | None = None
    prefix_tokens: int = 0
    tokens_per_row: int = 1
    encoder: bool = False
    sharded: bool = True
    prunable: bool = True

    def resident_tokens(self, context_tokens: int, encoder_tokens: int = 0) -> int:
        """Tokens held by geometry when the sequence is ``context_tokens`` long."""
        tokens = encoder_tokens if self.encoder else context_tokens
        if self.limit_tokens is not None:
            tokens = min(tokens, self.limit_tokens)
        return tokens + self.prefix_tokens

    def rows(self, tokens: int) -> int:
        """Rows per head that ``tokens`` tokens take."""
        return tokens // self.tokens_per_row

    def rows_per_token(self, context_tokens: int) -> Fraction:
        """Rows per head that one more token adds at this context, on average over ``tokens_per_row`` tokens."""
        saturated = self.limit_tokens is not None and context_tokens >= self.limit_tokens
        return Fraction(0) if self.encoder or saturated else Fraction(1, self.tokens_per_row)

    def shard(self, tp: int) -> Part:
        """The part as one of ``tp`` tensor-parallel ranks holds it: at least one head, replicated if need be."""
        return replace(self, num_heads=cdiv(self.num_heads, tp)) if self.sharded and tp > 1 else self


@dataclass(frozen=True, slots=True, kw_only=True)
class StateTensor:
    """A tensor of fixed size per sequence: ``num_units`` (heads, groups or channels) of ``unit_elements`` each.

    ``dtype`` is ``model`` (the 16-bit compute dtype) or the name of a float format such as ``fp32``.
    Tensor parallelism splits the units; a rank holds at least one.
    """

    name: str
    num_units: int
    unit_elements: int
    dtype: str = "model"

    @property
    def elements(self) -> int:
        """Elements of the whole tensor, one sequence."""
        return self.num_units * self.unit_elements

    def shard(self, tp: int) -> StateTensor:
        """The tensor as one of ``tp`` tensor-parallel ranks holds it."""
        return replace(self, num_units=cdiv(self.num_units, tp)) if tp > 1 else self


STATE_DTYPE_BYTES = {"model": 2, "bf16": 2, "fp16": 2, "fp32": 4}
"""Bytes per element of a state tensor; state is never stored in the cache format."""


def state_bytes(state: StateTensor) -> int:
    """Bytes of one sequence's state tensor."""
    return state.elements * STATE_DTYPE_BYTES[state.dtype]
