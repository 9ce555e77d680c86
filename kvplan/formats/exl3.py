"""ExLlamaV3's quantized cache (``-cq``): integer codes in groups of 32 with an fp16 scale each, 2 to 8 bits.

Groups run along a token's keys (or values) of all heads together, so 32 need divide only their product: bits + 0.5 per
element, for K and for V on their own (1.6.5 ``cache/quant.py``). A latent is packed the same way, and its rotary key
and index keys stay fp16 (``cache/mla.py``).
"""

from __future__ import annotations

from fractions import Fraction

from kvplan.core.errors import UnsupportedError
from kvplan.core.format import GroupFormat
from kvplan.core.frozen import dataclass
from kvplan.core.part import Part

_GROUP = 32
_FP16_PARTS = ("rope", "index")


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedGroups(GroupFormat):
    """Groups of 32 along a token's whole row of all heads; rotary and index keys stay in 16 bits."""

    def __post_init__(self) -> None:
        """Raise ValueError on options that ExLlamaV3 does not have."""
        GroupFormat.__post_init__(self)
        if self.group != _GROUP or self.residual:
            raise ValueError(f"groups have {_GROUP} elements and nothing waits in full precision")

    def check(self, part: Part) -> None:
        """Refuse tokens whose elements 32 does not divide."""
        if part.name not in _FP16_PARTS and part.num_heads * part.width % _GROUP:
            raise UnsupportedError(
                f"{self.name}: groups of {_GROUP} do not divide the {part.num_heads} x {part.width} elements of a "
                f"token's {part.name}",
                "leave the cache in fp16",
            )

    def quantized_rows(self, part: Part, rows: int) -> int:
        """All of them, or none of a part that stays in 16 bits."""
        return 0 if part.name in _FP16_PARTS else rows

    def stored_bytes(self, part: Part, rows: int) -> int:
        """Rows times the bytes of one, which is whole: 32 elements take 4 x bits bytes of codes and 2 of scale."""
        return int(rows * self.row_bytes(part))

    def row_bytes(self, part: Part) -> Fraction:
        """Codes and scales of one token's row of every head, or its 16-bit elements."""
        elements = part.num_heads * part.width
        if part.name in _FP16_PARTS:
            return Fraction(elements * self.native_bytes)
        return Fraction(elements * (_GROUP * self.bits // 8 + self.scale_bytes), _GROUP)


FORMAT = PackedGroups(
    name="exl3",
    summary="integer codes, fp16 scale per 32 elements; rotary and index keys in fp16",
    bits=4,
    group=_GROUP,
    residual=0,
    scale_bytes=2,
    presets={f"exl3_{bits}": {"bits": str(bits)} for bits in range(2, 9)},
    allowed_bits=tuple(range(2, 9)),
)
