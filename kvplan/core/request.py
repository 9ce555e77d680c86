"""What is asked of sizing, and what comes out: frozen values that reports render and engines read."""

from __future__ import annotations

from dataclasses import field

from kvplan.core.engine import Allocation, Engine, EngineSettings
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import CacheChoice, KindStorage
from kvplan.core.model import Model
from kvplan.core.parallel import Parallel


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRequest:
    """One question: this model, this many tokens, this many sequences, stored so, on these ranks.

    ``encoder_tokens`` is the encoder's length for cross-attention (0 without); ``include_draft`` counts the
    multi-token-prediction layers too. ``notes`` are assumptions made where the user said nothing.
    """

    context_tokens: int
    choice: CacheChoice
    concurrency: int = 1
    encoder_tokens: int = 0
    parallel: Parallel = field(default_factory=Parallel)
    include_draft: bool = False
    settings: EngineSettings = field(default_factory=EngineSettings)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KindAllocation:
    """All layers of one kind.

    Token counts are those of one layer and sequence; ``bytes_per_token`` and ``state_bytes`` those of all ``count``
    layers and one sequence; ``geometry_bytes`` and ``allocated_bytes`` those of all layers, sequences and ranks.
    ``storage`` is one layer's storage for one sequence, unsharded: what ``--explain`` writes out.
    """

    kind: str
    count: int
    num_kv_heads: int | None
    head_dim: int | None
    v_head_dim: int | None
    window_tokens: int | None
    cache_format: str | None
    resident_tokens: int
    kept_tokens: int
    allocated_tokens: int
    bytes_per_token: int
    state_bytes: int
    geometry_bytes: int
    allocated_bytes: int
    storage: KindStorage


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeResult:
    """The answer. Every ``_bytes`` is exact under its ``certainty``; see ``kvplan/planning/size.py`` for each one.

    ``rules`` is the engine itself, with its options: the same question can be asked again.
    """

    model: Model
    request: SizeRequest
    engine: str
    engine_version: str | None
    textbook_bytes: int
    geometry_bytes: int
    uncompressed_bytes: int
    allocated_bytes_per_rank: tuple[int, ...]
    allocated_bytes_per_sequence: int
    bytes_per_token: int
    fixed_bytes_per_sequence: int
    window_tokens: tuple[int, ...]
    layers: tuple[KindAllocation, ...]
    stage_layers: tuple[int, ...]
    weights_bytes: int | None
    weight_format: str | None
    weights_certainty: str | None
    certainty: str
    allocation: Allocation
    rules: Engine = field(hash=False)
    bytes_per_block: int | None = None
    blocks_per_sequence: int | None = None
    warnings: tuple[str, ...] = ()

    @property
    def allocated_bytes(self) -> int:
        """All ranks."""
        return sum(self.allocated_bytes_per_rank)

    @property
    def unassigned_bytes(self) -> int:
        """What is allocated and belongs to no layer: padding layers, reserved blocks, dummy pages."""
        return self.allocated_bytes - sum(layer.allocated_bytes for layer in self.layers)

    @property
    def kv_share_ratio(self) -> float | None:
        """Share of the cache in cache and weights together."""
        if self.weights_bytes is None:
            return None
        return self.geometry_bytes / (self.geometry_bytes + self.weights_bytes)

    @property
    def nominal_saving_ratio(self) -> float:
        """What the format saves on paper: bits against bits, no scales, no policy (2x for int8, 4x for int4)."""
        return float(self.request.choice.kv_format.nominal_ratio)

    @property
    def saving_ratio(self) -> float:
        """What format and policy really save: bytes against the bytes of everything kept in the model's dtype."""
        return self.uncompressed_bytes / self.geometry_bytes if self.geometry_bytes else 1.0
