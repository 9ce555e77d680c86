"""The widths of a model's layers: what decides the memory of activations, and how weights split over ranks."""

from __future__ import annotations

from kvplan.core.frozen import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """One decoder's widths, in elements; 0 where the model has no such block.

    Where layers differ (Gemma 3n, architecture search) a width is that of the widest.

    ``intermediate_size``        of the dense feed-forward blocks (one branch of a gated one)
    ``gated``                    whether the feed-forward blocks have a gate beside the up projection
    ``moe_intermediate_size``    of one routed expert; ``num_experts`` of them, ``experts_per_token`` chosen
    ``shared_intermediate_size`` of the always-active shared experts together
    ``q_lora_rank``              of latent attention's queries
    ``qk_nope_head_dim``         of a latent attention's query and key head, without its rotary part; ``v_head_dim`` of
                                 its value head
    ``index_num_heads``          query heads of the indexer of sparse attention
    ``dense_layers``             indices of layers with a dense block where the others have experts
    """

    vocab_size: int
    intermediate_size: int = 0
    gated: bool = True
    num_experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    shared_intermediate_size: int = 0
    q_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    v_head_dim: int = 0
    index_num_heads: int = 0
    tied_embeddings: bool = False
    dense_layers: tuple[int, ...] = ()
