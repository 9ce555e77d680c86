"""Where tensor parallelism stops splitting the cache: every rank holds at least one KV head, and latents whole."""

from __future__ import annotations

from math import gcd

from kvplan.core.attention import CompressedStream, CrossAttention, HeadedKind, Latent
from kvplan.core.frozen import dataclass
from kvplan.core.model import Architecture
from kvplan.core.parallel import Parallel
from kvplan.planning.placement import choose_parallel


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Parallel sizes, and whether whole experts are spread over all ranks."""

    parallel: Parallel
    expert_parallel: bool = False

    @property
    def text(self) -> str:
        """The sizes above 1 as people write them: ``tp 2, dp 4 with expert parallelism``."""
        parallel = self.parallel
        sizes = [
            f"{name} {getattr(parallel, name)}" for name in ("tp", "pp", "dp", "dcp") if getattr(parallel, name) > 1
        ]
        return (", ".join(sizes) or "tp 1") + (" with expert parallelism" if self.expert_parallel else "")


def splittable_heads(architecture: Architecture) -> int | None:
    """Ranks over which the cache splits: 1 for latents, the most KV heads of a layer; None without attention."""
    kinds = {kind for layer in architecture.layers for kind in layer}
    if any(isinstance(kind, (Latent, CompressedStream)) for kind in kinds):
        return 1
    heads = [kind.num_kv_heads for kind in kinds if isinstance(kind, (HeadedKind, CrossAttention))]
    return max(heads, default=None)


def unreplicated_ranks(architecture: Architecture, ranks: int) -> int:
    """The largest divisor of ``ranks`` over which heads and cache split without a copy."""
    shared = gcd(ranks, splittable_heads(architecture) or ranks)
    return gcd(shared, architecture.num_heads or shared)


def replication_words(architecture: Architecture, tp: int) -> str | None:
    """Why the cache does not shrink beyond ``tp`` ranks; None where it does."""
    heads = splittable_heads(architecture)
    if heads is None or heads > tp:
        return None
    if heads == 1 and not any(isinstance(kind, HeadedKind) for layer in architecture.layers for kind in layer):
        return "every rank holds the latents whole"
    count = "one KV head" if heads == 1 else f"{heads} KV heads"
    return f"the model has {count}, and every rank holds at least one"


def has_experts(architecture: Architecture) -> bool:
    """Whether there are routed experts to spread."""
    return architecture.widths is not None and architecture.widths.num_experts > 0


def spreads(architecture: Architecture, count: int) -> tuple[Spread, ...]:
    """How ``count`` devices are used, in the order in which they are tried.

    Tensor parallelism, with pipeline stages where heads do not divide; where that would copy the cache, then replicas
    over which the requests are spread (DP attention; whole experts on each rank), then ranks that hold other tokens
    in place of copies, then pipeline stages.
    """
    plain = choose_parallel(architecture, count, None, None, None, 1)
    found = [Spread(parallel=plain)]
    alone = unreplicated_ranks(architecture, count)
    if alone < plain.tp:
        rest = count // alone
        found.append(Spread(parallel=Parallel(tp=alone, dp=rest), expert_parallel=has_experts(architecture)))
        if plain.pp == 1:
            found.append(Spread(parallel=Parallel(tp=count, dcp=rest)))
        found.append(Spread(parallel=Parallel(tp=alone, pp=rest)))
    return tuple(found)
