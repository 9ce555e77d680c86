"""Layer kinds that store rows per token: full, windowed, chunked, latent, index, compressed, cross, shared, none.

A kind answers three questions and knows nothing of formats, policies or engines: which parts it stores, which
fixed state, and the numbers a report shows for it.
"""

from __future__ import annotations

from dataclasses import field
from typing import ClassVar

from kvplan.core.frozen import dataclass
from kvplan.core.part import Part, StateTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKind:
    """Base of all layer kinds. Subclasses are frozen and compare by value, so equal layers group by themselves."""

    kind: ClassVar[str] = ""

    def parts(self) -> tuple[Part, ...]:
        """Tensors that grow with tokens."""
        return ()

    def states(self) -> tuple[StateTensor, ...]:
        """Tensors of fixed size per sequence."""
        return ()

    @property
    def window_tokens(self) -> int | None:
        """The length at which the layer stops growing, if it does."""
        return None

    def head_shape(self) -> tuple[int | None, int | None, int | None]:
        """(num_kv_heads, head_dim, v_head_dim) for reports; None where the kind has no such thing."""
        return (None, None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadedKind(LayerKind):
    """Keys and values of ``num_kv_heads`` heads: MHA, GQA and MQA alike. ``v_head_dim`` defaults to ``head_dim``.

    ``num_prefix_tokens`` counts meta tokens that the model prepends and every layer keeps (Hymba has 128).
    """

    num_kv_heads: int
    head_dim: int
    v_head_dim: int | None = None
    num_prefix_tokens: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "num_kv_heads", "head_dim")
        require_positive(self, "v_head_dim", optional=True)
        require_not_negative(self, "num_prefix_tokens")

    def parts(self) -> tuple[Part, ...]:
        """One key part and one value part."""
        return tuple(
            Part(
                name=name,
                num_heads=self.num_kv_heads,
                width=width,
                limit_tokens=self.window_tokens,
                prefix_tokens=self.num_prefix_tokens,
            )
            for name, width in (("key", self.head_dim), ("value", self.v_head_dim or self.head_dim))
        )

    def head_shape(self) -> tuple[int | None, int | None, int | None]:
        """(num_kv_heads, head_dim, v_head_dim)."""
        return (self.num_kv_heads, self.head_dim, self.v_head_dim or self.head_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class FullAttention(HeadedKind):
    """Every token is kept."""

    kind: ClassVar[str] = "full_attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingWindow(HeadedKind):
    """The newest ``window`` tokens are kept, and ``num_sink_tokens`` first tokens besides if the model keeps them.

    Learned sinks that are parameters (gpt-oss, MiMo) store nothing and do not count here.
    """

    kind: ClassVar[str] = "sliding_window"
    window: int
    num_sink_tokens: int = 0

    def __post_init__(self) -> None:
        HeadedKind.__post_init__(self)
        require_positive(self, "window")
        require_not_negative(self, "num_sink_tokens")

    @property
    def window_tokens(self) -> int | None:
        """Window plus sinks."""
        return self.window + self.num_sink_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkedLocal(HeadedKind):
    """Attention inside chunks of ``chunk_size`` tokens (Llama 4): at most one chunk is kept."""

    kind: ClassVar[str] = "chunked_local"
    chunk_size: int

    def __post_init__(self) -> None:
        HeadedKind.__post_init__(self)
        require_positive(self, "chunk_size")

    @property
    def window_tokens(self) -> int | None:
        """The chunk size."""
        return self.chunk_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent(LayerKind):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): one latent row and one rotary key row per token.

    Both serve keys and values of all heads, so they are stored once and replicated over tensor-parallel ranks.
    ``window`` limits the tokens kept (DeepSeek-V4's sliding latent).
    """

    kind: ClassVar[str] = "latent"
    kv_lora_rank: int
    qk_rope_head_dim: int = 0
    window: int | None = None

    def __post_init__(self) -> None:
        require_positive(self, "kv_lora_rank")
        require_not_negative(self, "qk_rope_head_dim")
        require_positive(self, "window", optional=True)

    def parts(self) -> tuple[Part, ...]:
        """A latent part and, unless the model has no rotary key, a rope part."""
        widths = (("latent", self.kv_lora_rank), ("rope", self.qk_rope_head_dim))
        return tuple(
            Part(name=name, num_heads=1, width=width, limit_tokens=self.window, sharded=False)
            for name, width in widths
            if width
        )

    @property
    def window_tokens(self) -> int | None:
        """The window, if the latent has one."""
        return self.window

    def head_shape(self) -> tuple[int | None, int | None, int | None]:
        """One row of latent and rope together; there is no separate value."""
        return (1, self.kv_lora_rank + self.qk_rope_head_dim, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexKeys(LayerKind):
    """Index keys of sparse attention (DeepSeek-V3.2's DSA, MiniMax-M3): one row per token, by which tokens are chosen.

    The tokens they index stay in the layer's own cache: sparse attention reads less, it does not store less.
    ``tokens_per_row`` is 4 where the index covers a compressed stream (DeepSeek-V4).
    """

    kind: ClassVar[str] = "index_keys"
    head_dim: int
    num_heads: int = 1
    tokens_per_row: int = 1

    def __post_init__(self) -> None:
        require_positive(self, "head_dim", "num_heads", "tokens_per_row")

    def parts(self) -> tuple[Part, ...]:
        """One index part, replicated over tensor-parallel ranks."""
        return (
            Part(
                name="index",
                num_heads=self.num_heads,
                width=self.head_dim,
                tokens_per_row=self.tokens_per_row,
                sharded=False,
                prunable=self.tokens_per_row == 1,
            ),
        )

    def head_shape(self) -> tuple[int | None, int | None, int | None]:
        """(num_heads, head_dim, no value)."""
        return (self.num_heads, self.head_dim, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedStream(LayerKind):
    """One row for every ``tokens_per_row`` tokens (DeepSeek-V4's ratios 4 and 128), shared by keys and values.

    ``rope_head_dim`` of the ``head_dim`` elements are rotary; formats that keep them in 16 bits price them apart.
    """

    kind: ClassVar[str] = "compressed_stream"
    head_dim: int
    tokens_per_row: int
    rope_head_dim: int = 0

    def __post_init__(self) -> None:
        require_positive(self, "head_dim", "tokens_per_row")
        require_not_negative(self, "rope_head_dim")
        if self.rope_head_dim >= self.head_dim:
            raise ValueError("rope_head_dim must be below head_dim")

    def parts(self) -> tuple[Part, ...]:
        """A latent part and, if there are rotary elements, a rope part, both one row per group of tokens."""
        widths = (("latent", self.head_dim - self.rope_head_dim), ("rope", self.rope_head_dim))
        return tuple(
            Part(name=name, num_heads=1, width=width, tokens_per_row=self.tokens_per_row, sharded=False, prunable=False)
            for name, width in widths
            if width
        )

    def head_shape(self) -> tuple[int | None, int | None, int | None]:
        """One row, no separate value."""
        return (1, self.head_dim, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossAttention(LayerKind):
    """Keys and values of the encoder's tokens (Whisper, T5, Llama-3.2-Vision): computed once, then fixed."""

    kind: ClassVar[str] = "cross_attention"
    num_kv_heads: int
    head_dim: int
    v_head_dim: int | None = None

    def __post_init__(self) -> None:
        require_positive(self, "num_kv_heads", "head_dim")
        require_positive(self, "v_head_dim", optional=True)

    def parts(self) -> tuple[Part, ...]:
        """One key part and one value part over the encoder's tokens."""
        return tuple(
            Part(name=name, num_heads=self.num_kv_heads, width=width, encoder=True, prunable=False)
            for name, width in (("key", self.head_dim), ("value", self.v_head_dim or self.head_dim))
        )

    def head_shape(self) -> tuple[int | None, int | None, int | None]:
        """(num_kv_heads, head_dim, v_head_dim)."""
        return (self.num_kv_heads, self.head_dim, self.v_head_dim or self.head_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared(LayerKind):
    """A layer that reads another layer's cache (Gemma 3n, CLA) and stores nothing of its own.

    ``source_layer`` is the index of the layer it reads, where the model says so.
    """

    kind: ClassVar[str] = "shared"
    source_layer: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoCache(LayerKind):
    """A layer without attention or state: an MLP block, or attention removed by architecture search."""

    kind: ClassVar[str] = "none"


def require_positive(value: object, *names: str, optional: bool = False) -> None:
    """Raise ValueError unless each named field is a positive int (or None, where ``optional``)."""
    for name in names:
        number = getattr(value, name)
        if optional and number is None:
            continue
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"{name} must be a positive whole number, not {number!r}")


def require_not_negative(value: object, *names: str) -> None:
    """Raise ValueError unless each named field is an int of 0 or more."""
    for name in names:
        number = getattr(value, name)
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise ValueError(f"{name} must be a whole number of 0 or more, not {number!r}")
