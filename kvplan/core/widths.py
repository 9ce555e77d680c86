"""The widths of a model's layers: what decides the memory of activations, and how weights split over ranks."""

from __future__ import annotations

from kvplan.core.frozen import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """One decoder's widths, in elements; 0 where the model has no such block.

    ``intermediate_size``        of the dense feed-forward blocks (one branch of a gated one)
    ``gated``                    whether the feed-forward blocks have a gate beside the up projection
    ``moe_intermediate_size``    of one routed expert; ``num_experts`` of them, ``experts_per_token`` chosen
    ``shared_intermediate_size`` of the always-active shared experts together
    ``q_lora_rank``              of latent attention's queries
    """

    vocab_size: int
    intermediate_size: int = 0
    gated: bool = True
    num_experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    shared_intermediate_size: int = 0
    q_lora_rank: int = 0
    tied_embeddings: bool = False
