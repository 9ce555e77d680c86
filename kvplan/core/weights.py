"""Weight formats: how many bytes a model's parameters take in bf16, fp8, int4 or a GGUF mixture.

A format prices parameters by their part: projections, routed experts, embedding, output head, norms. Float formats are
exact; the rest are estimates whose basis each entry states, because published checkpoints differ in what they leave
unquantized. Where a model's files are at hand their headers give exact bytes, and no format is asked.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from fractions import Fraction

from kvplan.core.errors import UnknownNameError, UsageError
from kvplan.core.frozen import dataclass
from kvplan.core.model import PARAMETER_PARTS, Parameters

_SIXTEEN = Fraction(16)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """Bits per parameter, scales and zero points included, by part of the model.

    ``linear_bits``     routed experts, and every other projection unless it has its own figure below
    ``attention_bits``  attention and recurrent mixers; None as ``linear_bits``
    ``mlp_bits``        dense and shared feed-forward blocks; None as ``linear_bits``
    ``embedding_bits``  the input embedding; a tied one is priced as ``head_bits``, since it serves as the head
    ``head_bits``       the output head
    ``norm_bits``       norms, small vectors and routers
    ``tower_bits``      vision and audio towers, and what fits nowhere else
    ``group_bits``      scale and zero point of one group, already in ``linear_bits``; 0 where groups have no options
    ``certainty``       ``exact`` or ``estimate``; ``source`` says what the figures rest on
    """

    name: str
    linear_bits: Fraction
    source: str
    attention_bits: Fraction | None = None
    mlp_bits: Fraction | None = None
    embedding_bits: Fraction = _SIXTEEN
    head_bits: Fraction = _SIXTEEN
    norm_bits: Fraction = _SIXTEEN
    tower_bits: Fraction = _SIXTEEN
    payload_bits: int = 0
    group_bits: int = 0
    certainty: str = "estimate"

    def with_group(self, group: int) -> WeightFormat:
        """The same with one scale (and zero point) per ``group`` elements. Raises UsageError where there are none."""
        if not self.group_bits or group < 1:
            raise UsageError(f"weight format {self.name} has no groups of {group} elements")
        linear_bits = self.payload_bits + Fraction(self.group_bits, group)
        everywhere = self.embedding_bits == self.linear_bits
        changed = replace(self, name=f"{self.name}_g{group}", linear_bits=linear_bits)
        return replace(changed, embedding_bits=linear_bits, head_bits=linear_bits) if everywhere else changed

    def within(self, scope: str) -> WeightFormat:
        """The same with less quantized: ``mlp`` leaves attention in 16 bits, ``experts`` all but routed experts."""
        mlp_bits = _SIXTEEN if scope == "experts" else self.mlp_bits
        return replace(self, name=f"{self.name}_{scope}", attention_bits=_SIXTEEN, mlp_bits=mlp_bits)


def part_bits(weight_format: WeightFormat, tied: bool) -> dict[str, Fraction]:
    """Bits per parameter of each part of ``Parameters``, draft layers (``mtp``) included; ``tied``: no output head."""
    linear = weight_format.linear_bits
    attention = linear if weight_format.attention_bits is None else weight_format.attention_bits
    return {
        "embedding": weight_format.head_bits if tied else weight_format.embedding_bits,
        "output_head": weight_format.head_bits,
        "attention": attention,
        "state": attention,
        "mlp": linear if weight_format.mlp_bits is None else weight_format.mlp_bits,
        "experts": linear,
        "routers": weight_format.norm_bits,
        "norms": weight_format.norm_bits,
        "towers": weight_format.tower_bits,
        "other": weight_format.tower_bits,
        "mtp": linear,
    }


def weights_bytes(parameters: Parameters, weight_format: WeightFormat) -> int:
    """Bytes of all parameters (draft layers excluded) in a format, rounded up to a whole byte."""
    bits = part_bits(weight_format, tied=not parameters.output_head)
    return math.ceil(sum((getattr(parameters, name) * bits[name] for name in PARAMETER_PARTS), Fraction(0)) / 8)


_NAME = r"(?P<base>.+?)(?:_g(?P<group>[0-9]{1,6}))?(?:_(?P<scope>mlp|experts))?"


def get_weight_format(text: str) -> WeightFormat:
    """The format that ``--weights`` names; case does not matter, dashes count as underscores, ``gguf-`` may lead.

    ``int4_g32`` sets the group size, ``fp8_mlp`` leaves attention in 16 bits, ``mxfp4_experts`` everything but routed
    experts. Raises UnknownNameError or UsageError.
    """
    name = text.strip().lower().replace("-", "_").removeprefix("gguf_")
    if name in _FLOAT_BITS:
        return _float_format(name)
    table = _table()
    if name in table:
        return table[name]
    match = re.fullmatch(_NAME, name)
    if match is None or match["base"] not in table:
        raise UnknownNameError("weight format", text, table)
    chosen = table[match["base"]]
    if match["group"]:
        chosen = chosen.with_group(int(match["group"]))
    return chosen.within(match["scope"]) if match["scope"] else chosen


def float_formats() -> tuple[WeightFormat, ...]:
    """The formats without scales, exact by their bits alone."""
    return tuple(map(_float_format, _FLOAT_BITS))


def weight_format_names() -> list[str]:
    """The names of all weight formats, without aliases."""
    return list(dict.fromkeys(entry.name for entry in _table().values()))


_FLOAT_BITS = {"bf16": 16, "fp16": 16, "fp32": 32}


def _float_format(name: str) -> WeightFormat:
    bits = Fraction(_FLOAT_BITS[name])
    return WeightFormat(
        name=name,
        linear_bits=bits,
        embedding_bits=bits,
        head_bits=bits,
        norm_bits=bits,
        tower_bits=bits,
        certainty="exact",
        source="uniform over all parameters",
    )


def _table() -> dict[str, WeightFormat]:
    """Every name and alias; imported when a format is asked for, since most runs know their bytes otherwise."""
    from kvplan.core.weight_table import WEIGHT_FORMATS

    return WEIGHT_FORMATS
