"""The contract of a cache format: how many bytes the rows of a part take, scales and metadata included.

Three shapes cover every format: ``RowFormat`` (each row stands alone), ``PartFormat`` (another format for each
part, such as DeepSeek's packed latent rows) and ``GroupFormat`` (groups along tokens with a full-precision
residual window, as in KIVI). All are frozen values, so formats compare and cache by value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from fractions import Fraction
from typing import Protocol

from kvplan.core.errors import UnsupportedError
from kvplan.core.frozen import dataclass
from kvplan.core.part import Part
from kvplan.core.units import cdiv, round_up


class CacheFormat(Protocol):
    """What sizing asks of a format. Everything is per sequence and layer."""

    @property
    def name(self) -> str:
        """The name that ``--kv-dtype`` takes."""
        ...

    @property
    def nominal_bits(self) -> Fraction:
        """Bits per element without scales: the saving that people quote."""
        ...

    @property
    def boundary_layers(self) -> int:
        """First and last attention layers that stay in the model's dtype, on models without other layer kinds."""
        ...

    def check(self, part: Part) -> None:
        """Raise UnsupportedError when this format cannot hold rows of this part."""
        ...

    def stored_bytes(self, part: Part, rows: int) -> int:
        """Bytes of ``rows`` rows of every head of the part, metadata included."""
        ...

    def row_bytes(self, part: Part) -> Fraction:
        """Bytes that one more row of every head adds, on average over a group of rows."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFormat:
    """Rows that stand alone: ``bits`` per element, packed, and ``scale_bytes`` for every ``scale_group`` elements.

    ``scale_group`` 0 means one scale for the whole row. ``tensor_bytes`` is metadata per part and layer (one scale
    for a whole tensor). ``block`` elements are coded together, so the row must be a multiple of them. The whole row is
    padded to a multiple of ``row_multiple`` bytes.
    """

    name: str
    bits: int
    summary: str
    scale_bytes: int = 0
    scale_group: int = 0
    tensor_bytes: int = 0
    block: int = 1
    row_multiple: int = 1
    index_scale_bytes: int = 0
    aliases: tuple[str, ...] = ()
    boundary_layers: int = 0

    @property
    def nominal_bits(self) -> Fraction:
        """``bits``."""
        return Fraction(self.bits)

    def check(self, part: Part) -> None:
        """Refuse rows that blocks or bytes do not divide."""
        if part.width % self.block:
            raise UnsupportedError(
                f"{self.name} codes {self.block} elements together, which does not divide a {part.name} row of "
                f"{part.width}",
                "choose a format without blocks of that size, such as fp8 or int8",
            )

    def part_format(self, part: Part) -> RowFormat:
        """The layout of the part's rows: this one, with the scales of index keys as scales of groups of 128."""
        if part.name != "index" or not self.index_scale_bytes:
            return self
        return replace(self, scale_bytes=self.index_scale_bytes, scale_group=128, index_scale_bytes=0)

    def one_row_bytes(self, part: Part) -> int:
        """Bytes of one head's row."""
        scales = cdiv(part.width, self.scale_group) if self.scale_group else 1
        index_scales = self.index_scale_bytes * cdiv(part.width, 128) if part.name == "index" else 0
        return round_up(cdiv(part.width * self.bits, 8) + scales * self.scale_bytes + index_scales, self.row_multiple)

    def stored_bytes(self, part: Part, rows: int) -> int:
        """Rows times heads times the bytes of a row, and the tensor's own metadata if anything is stored."""
        return rows * part.num_heads * self.one_row_bytes(part) + (self.tensor_bytes if rows else 0)

    def row_bytes(self, part: Part) -> Fraction:
        """Bytes of one row of every head."""
        return Fraction(part.num_heads * self.one_row_bytes(part))


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFormat:
    """A format per part, by ``name/width`` (``latent/512``) or by name alone; a part that is not listed is refused.

    ``bits`` is the nominal figure for the whole token: a fraction where parts differ (3-bit keys, 4-bit values).
    """

    name: str
    summary: str
    parts: Mapping[str, RowFormat] = field(hash=False)
    bits: Fraction | int
    aliases: tuple[str, ...] = ()
    boundary_layers: int = 0

    @property
    def nominal_bits(self) -> Fraction:
        """``bits``."""
        return Fraction(self.bits)

    def check(self, part: Part) -> None:
        """Refuse a part that this format does not know."""
        self.part_format(part).check(part)

    def part_format(self, part: Part) -> RowFormat:
        """The part's own format. Raises UnsupportedError where there is none."""
        found = self.parts.get(f"{part.name}/{part.width}") or self.parts.get(part.name)
        if found is None:
            raise UnsupportedError(
                f"{self.name} has no layout for a {part.name} row of {part.width}",
                f"it holds {', '.join(self.parts)} rows only",
            )
        return found

    def stored_bytes(self, part: Part, rows: int) -> int:
        """As the part's own format."""
        return self.part_format(part).stored_bytes(part, rows)

    def row_bytes(self, part: Part) -> Fraction:
        """As the part's own format."""
        return self.part_format(part).row_bytes(part)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFormat:
    """Groups of ``group`` elements with a scale and a zero point each, behind a full-precision residual window.

    Keys are grouped along tokens, one group per channel, when ``key_per_channel`` (KIVI, arXiv 2402.02750): only
    complete groups of tokens are quantized, the rest waits in the residual. Values, and keys otherwise, are grouped
    along the row, one group per ``group`` elements, and the newest ``residual`` tokens wait.
    ``scale_bytes`` counts scale and zero point of one group together. ``native_bytes`` is one element of the residual.
    ``allowed_bits`` are the widths that the implementation has; empty means 1 to 8. ``presets`` are names that stand
    for options, such as kivi4 for ``bits=4``.
    """

    name: str
    summary: str
    bits: int
    group: int
    residual: int
    scale_bytes: int = 4
    key_per_channel: bool = False
    native_bytes: int = 2
    aliases: tuple[str, ...] = ()
    presets: Mapping[str, Mapping[str, str]] = field(default_factory=dict, hash=False, compare=False)
    allowed_bits: tuple[int, ...] = ()
    boundary_layers: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError on options that no implementation can have."""
        allowed = self.allowed_bits or tuple(range(1, 9))
        if self.bits not in allowed:
            raise ValueError(f"bits must be one of {', '.join(map(str, allowed))}, not {self.bits}")
        if self.group < 1:
            raise ValueError(f"group must be a positive number of elements, not {self.group}")
        if self.residual < 0:
            raise ValueError(f"residual must be 0 or more tokens, not {self.residual}")

    @property
    def nominal_bits(self) -> Fraction:
        """``bits``."""
        return Fraction(self.bits)

    def check(self, part: Part) -> None:
        """Refuse rows that the group does not divide, and groups that the residual does not hold."""
        if self._along_tokens(part):
            if self.residual % self.group:
                raise UnsupportedError(
                    f"{self.name}: a residual of {self.residual} tokens is not a multiple of the group of {self.group}",
                    "keys leave the residual in whole groups of tokens",
                )
        elif part.width % self.group:
            raise UnsupportedError(
                f"{self.name}: groups of {self.group} do not divide a {part.name} row of {part.width}",
                "choose another group size, for example group=32",
            )

    def quantized_rows(self, part: Part, rows: int) -> int:
        """Rows that have left the residual: whole residuals for keys per channel, all but the newest otherwise."""
        if self._along_tokens(part):
            return rows - rows % self.residual if self.residual else rows - rows % self.group
        return max(0, rows - self.residual)

    def stored_bytes(self, part: Part, rows: int) -> int:
        """Codes, scales and zero points of the quantized rows, and the residual in full precision."""
        quantized = self.quantized_rows(part, rows)
        if self._along_tokens(part):
            groups = quantized // self.group * part.width
        else:
            groups = quantized * (part.width // self.group)
        codes = cdiv(quantized * part.width * self.bits, 8)
        full = (rows - quantized) * part.width * self.native_bytes
        return part.num_heads * (codes + groups * self.scale_bytes + full)

    def row_bytes(self, part: Part) -> Fraction:
        """Bytes of one quantized row of every head; the residual stays as large as it is."""
        return part.num_heads * part.width * (Fraction(self.bits, 8) + Fraction(self.scale_bytes, self.group))

    def _along_tokens(self, part: Part) -> bool:
        return self.key_per_channel and part.name == "key"


@dataclass(frozen=True, slots=True, kw_only=True)
class KVFormat:
    """What one request stores in: a format for keys (latents and index keys too), for values, and for native layers.

    ``native_layers`` are layer indices left in ``native``, besides the boundary layers that a format asks for.
    """

    key: CacheFormat
    value: CacheFormat
    native: CacheFormat
    native_layers: frozenset[int] = frozenset()
    native_windows: bool = False

    @property
    def name(self) -> str:
        """``K`` or ``K/V`` as ``--kv-dtype`` takes it."""
        return self.key.name if self.key == self.value else f"{self.key.name}/{self.value.name}"

    @property
    def boundary_layers(self) -> int:
        """First and last attention layers to keep native."""
        return max(self.key.boundary_layers, self.value.boundary_layers)

    @property
    def nominal_ratio(self) -> Fraction:
        """How many times smaller than native the payload is, scales not counted (the saving people quote)."""
        return 2 * self.native.nominal_bits / (self.key.nominal_bits + self.value.nominal_bits)

    def of(self, part: Part) -> CacheFormat:
        """The format that holds this part."""
        return self.value if part.name == "value" else self.key

    def all_native(self) -> KVFormat:
        """The same with nothing compressed."""
        return replace(self, key=self.native, value=self.native)
