"""Layer kinds with a state of fixed size: state-space models, linear attention, RWKV, short convolutions.

Shapes are those of the models' own code. Two choices are stated once, here: a convolution of width k keeps the
k - 1 inputs that the next step needs (some engines allocate k columns: their engine file says so), and a recurrent
state is ``fp32`` unless the model's config names another dtype, as its reference kernels keep it; the convolution
state has the 16-bit compute dtype (``model``).
"""

from __future__ import annotations

from typing import ClassVar

from kvplan.core.attention import LayerKind, require_not_negative, require_positive
from kvplan.core.frozen import dataclass
from kvplan.core.part import STATE_DTYPE_BYTES, StateTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentKind(LayerKind):
    """Base of the kinds with state; its dtypes are ``model``, ``bf16``, ``fp16`` or ``fp32``."""

    conv_dtype: str = "model"
    state_dtype: str = "fp32"

    def __post_init__(self) -> None:
        for name in ("conv_dtype", "state_dtype"):
            if getattr(self, name) not in STATE_DTYPE_BYTES:
                raise ValueError(f"{name} must be one of {', '.join(STATE_DTYPE_BYTES)}, not {getattr(self, name)!r}")

    def _conv(self, name: str, num_units: int, unit_channels: int, kernel: int) -> StateTensor:
        return StateTensor(
            name=name, num_units=num_units, unit_elements=unit_channels * (kernel - 1), dtype=self.conv_dtype
        )

    def _state(self, num_units: int, unit_elements: int) -> StateTensor:
        return StateTensor(name="state", num_units=num_units, unit_elements=unit_elements, dtype=self.state_dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba1(RecurrentKind):
    """Mamba (arXiv 2312.00752): conv state [inner, k-1] and state [inner, state_size]."""

    kind: ClassVar[str] = "mamba1"
    intermediate_size: int
    state_size: int
    conv_kernel: int

    def __post_init__(self) -> None:
        RecurrentKind.__post_init__(self)
        require_positive(self, "intermediate_size", "state_size", "conv_kernel")

    def states(self) -> tuple[StateTensor, ...]:
        """Convolution state and recurrent state, split by channel."""
        return (
            self._conv("conv", self.intermediate_size, 1, self.conv_kernel),
            self._state(self.intermediate_size, self.state_size),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2(RecurrentKind):
    """Mamba-2 (arXiv 2405.21060): conv state over x, B and C, and state [num_heads, head_dim, state_size].

    B and C belong to ``num_groups`` groups; a tensor-parallel rank holds at least one group.
    """

    kind: ClassVar[str] = "mamba2"
    num_heads: int
    head_dim: int
    state_size: int
    num_groups: int
    conv_kernel: int

    def __post_init__(self) -> None:
        RecurrentKind.__post_init__(self)
        require_positive(self, "num_heads", "head_dim", "state_size", "num_groups", "conv_kernel")

    def states(self) -> tuple[StateTensor, ...]:
        """Convolution states of x and of B with C, and the recurrent state."""
        return (
            self._conv("conv_x", self.num_heads, self.head_dim, self.conv_kernel),
            self._conv("conv_bc", self.num_groups, 2 * self.state_size, self.conv_kernel),
            self._state(self.num_heads, self.head_dim * self.state_size),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedDeltaNet(RecurrentKind):
    """Gated DeltaNet (arXiv 2412.06464; Qwen3-Next): conv state over q, k and v, state [v_heads, k_dim, v_dim].

    ``conv_kernel`` 1 means that the layer has no convolution.
    """

    kind: ClassVar[str] = "gated_delta_net"
    num_k_heads: int
    num_v_heads: int
    k_head_dim: int
    v_head_dim: int
    conv_kernel: int

    def __post_init__(self) -> None:
        RecurrentKind.__post_init__(self)
        require_positive(self, "num_k_heads", "num_v_heads", "k_head_dim", "v_head_dim", "conv_kernel")

    def states(self) -> tuple[StateTensor, ...]:
        """Convolution states of q with k and of v, and the recurrent state."""
        return (
            self._conv("conv_qk", self.num_k_heads, 2 * self.k_head_dim, self.conv_kernel),
            self._conv("conv_v", self.num_v_heads, self.v_head_dim, self.conv_kernel),
            self._state(self.num_v_heads, self.k_head_dim * self.v_head_dim),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class KimiDeltaAttention(RecurrentKind):
    """Kimi Delta Attention (arXiv 2510.26692): separate convolutions of q, k and v, state [heads, k_dim, v_dim]."""

    kind: ClassVar[str] = "kda"
    num_heads: int
    head_dim: int
    conv_kernel: int
    v_head_dim: int | None = None

    def __post_init__(self) -> None:
        RecurrentKind.__post_init__(self)
        require_positive(self, "num_heads", "head_dim", "conv_kernel")
        require_positive(self, "v_head_dim", optional=True)

    def states(self) -> tuple[StateTensor, ...]:
        """One convolution state for each of q, k and v, and the recurrent state."""
        v_head_dim = self.v_head_dim or self.head_dim
        return (
            self._conv("conv_q", self.num_heads, self.head_dim, self.conv_kernel),
            self._conv("conv_k", self.num_heads, self.head_dim, self.conv_kernel),
            self._conv("conv_v", self.num_heads, v_head_dim, self.conv_kernel),
            self._state(self.num_heads, self.head_dim * v_head_dim),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention(RecurrentKind):
    """Linear (lightning) attention (MiniMax-01, arXiv 2501.08313): state [num_heads, head_dim, v_head_dim]."""

    kind: ClassVar[str] = "linear_attention"
    num_heads: int
    head_dim: int
    v_head_dim: int | None = None

    def __post_init__(self) -> None:
        RecurrentKind.__post_init__(self)
        require_positive(self, "num_heads", "head_dim")
        require_positive(self, "v_head_dim", optional=True)

    def states(self) -> tuple[StateTensor, ...]:
        """The recurrent state alone."""
        return (self._state(self.num_heads, self.head_dim * (self.v_head_dim or self.head_dim)),)


@dataclass(frozen=True, slots=True, kw_only=True)
class RgLru(RecurrentKind):
    """Real-gated linear recurrent unit (Griffin, arXiv 2402.19427; RecurrentGemma): conv state and a state vector."""

    kind: ClassVar[str] = "rg_lru"
    width: int
    conv_kernel: int

    def __post_init__(self) -> None:
        RecurrentKind.__post_init__(self)
        require_positive(self, "width", "conv_kernel")

    def states(self) -> tuple[StateTensor, ...]:
        """Convolution state and recurrent state, split by channel."""
        return (self._conv("conv", self.width, 1, self.conv_kernel), self._state(self.width, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rwkv(RecurrentKind):
    """RWKV: ``num_shift_rows`` token-shift vectors of ``hidden_size`` and a state.

    RWKV-4 keeps three vectors (numerator, denominator, maximum) of the attention width: ``num_heads`` 3 with
    ``head_dim`` = width and ``state_columns`` 1. RWKV-5 and later keep a matrix [num_heads, head_dim, head_dim]:
    ``state_columns`` = ``head_dim``.
    """

    kind: ClassVar[str] = "rwkv"
    hidden_size: int
    num_heads: int
    head_dim: int
    state_columns: int
    num_shift_rows: int = 2

    def __post_init__(self) -> None:
        RecurrentKind.__post_init__(self)
        require_positive(self, "hidden_size", "num_heads", "head_dim", "state_columns")
        require_not_negative(self, "num_shift_rows")

    def states(self) -> tuple[StateTensor, ...]:
        """The token-shift vectors (replicated over ranks) and the state."""
        shift = StateTensor(
            name="shift", num_units=1, unit_elements=self.num_shift_rows * self.hidden_size, dtype=self.conv_dtype
        )
        return (shift, self._state(self.num_heads, self.head_dim * self.state_columns))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortConv(RecurrentKind):
    """A gated short convolution (LFM2): the last k - 1 inputs of ``channels`` channels."""

    kind: ClassVar[str] = "short_conv"
    channels: int
    conv_kernel: int

    def __post_init__(self) -> None:
        RecurrentKind.__post_init__(self)
        require_positive(self, "channels", "conv_kernel")

    def states(self) -> tuple[StateTensor, ...]:
        """The convolution state alone."""
        return (self._conv("conv", self.channels, 1, self.conv_kernel),)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateBuffer(RecurrentKind):
    """A plain buffer of ``rows`` rows of ``width`` elements in ``state_dtype`` (DeepSeek-V4's compressor state)."""

    kind: ClassVar[str] = "state_buffer"
    rows: int
    width: int

    def __post_init__(self) -> None:
        RecurrentKind.__post_init__(self)
        require_positive(self, "rows", "width")

    def states(self) -> tuple[StateTensor, ...]:
        """The buffer, replicated over ranks."""
        return (StateTensor(name="buffer", num_units=1, unit_elements=self.rows * self.width, dtype=self.state_dtype),)
