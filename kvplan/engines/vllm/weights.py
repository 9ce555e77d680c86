"""What vLLM holds besides the parameters of a checkpoint, and how it spreads the weights over ranks.

Read from vLLM 0.33.0; held against the loading figures of vLLM 0.25.1 on an H200, whose rules here are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from kvplan.core.accelerator import Accelerator
from kvplan.core.attention import HeadedKind, Latent, LayerKind, Shared
from kvplan.core.frozen import dataclass
from kvplan.core.model import Architecture, Layer
from kvplan.core.parallel import Parallel
from kvplan.core.recurrent import GatedDeltaNet
from kvplan.core.units import cdiv, round_up
from kvplan.core.weight_shards import WeightSpread
from kvplan.core.weights import WeightFormat, part_bits

VOCAB_MULTIPLE = 64
"""``layers/vocab_parallel_embedding.py`` ``DEFAULT_VOCAB_PADDING_SIZE``."""

HALF_BYTES = 2
FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """How a family's tables of cosines and sines differ from one table of a row per position, in 16 bits.

    ``rows``       tables in units of the longest context: several where layers rotate differently
    ``share``      part of a head that rotates
    ``item_bytes`` of an element
    """

    rows: int = 1
    share: Fraction = Fraction(1)
    item_bytes: int = HALF_BYTES


_PLAIN = Rotary()
_NONE = Rotary(rows=0)
_HALF = Rotary(share=Fraction(1, 2))

ROTARIES: Mapping[str, Rotary] = {
    # layers/rotary_embedding/mrope.py:238 makes four rows per position
    "qwen_vl": Rotary(rows=4),
    "qwen_omni": Rotary(rows=4),
    "ernie_vl": Rotary(rows=4),
    "glm_vision": Rotary(rows=4, share=Fraction(1, 2)),
    # models/gpt_oss.py:114 asks for float32
    "gpt_oss": Rotary(item_bytes=FLOAT_BYTES),
    # rotary_dim or partial_rotary_factor of the published configs and of ChatGLM's own code
    "minimax_01": _HALF,
    "glm": _HALF,
    "qwen3_next": Rotary(share=Fraction(1, 4)),
    "nemotron": _HALF,
    "laguna": _HALF,
    "minimax_m3": _HALF,
    # positions are learned, added to the scores, or left to the mixers
    **dict.fromkeys(("gpt2", "opt", "mpt", "bloom", "bart", "t5", "whisper", "jamba", "nemotron_h"), _NONE),
}
"""Families whose tables are not plain. Partial rotation of other families is not known here: all of a head counts."""

_QUARTER_OF_DELTA_NETS = Fraction(1, 4)
"""Qwen3.5 and its kin, text or vision, rotate a quarter of a head (their configs' ``partial_rotary_factor``)."""

_SCALE_ROWS = 256
"""Rows of a scale that Triton's Hopper layout fills up: 2 x 8 warps x 2 x 8 (``hopper_scale.py`` ``swizzle_data``)."""

_MXFP4_GROUP = 32

_CONVERSION_REST_BYTES = 5_900_000
"""What stays allocated per layer beyond the padding of MXFP4 experts: measured on gpt-oss-20b (4 and 24 layers)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBesides:
    """Bytes of one rank that are no part of the checkpoint; ``certainty`` is ``rule`` or ``estimate``."""

    words: str
    bytes: int
    certainty: str
    source: str


def vllm_spread(
    parallel: Parallel, *, expert_parallel: bool = False, draft_layers: bool = False, text_only: bool = False
) -> WeightSpread:
    """How vLLM spreads weights: ``mm_encoder_tp_mode`` is ``weights`` by default, so towers are split.

    ``text_only``: all image, video and audio inputs are limited to 0, which leaves the towers out
    (``models/interfaces.py`` ``_mark_tower_model``).
    """
    return WeightSpread(
        parallel=parallel,
        expert_parallel=expert_parallel,
        vocab_multiple=VOCAB_MULTIPLE,
        draft_layers=draft_layers,
        towers=not text_only,
    )


def held_besides(
    architecture: Architecture,
    family: str,
    weight_format: WeightFormat,
    spread: WeightSpread,
    stage_layers: Sequence[Layer],
    accelerator: Accelerator | None = None,
) -> tuple[HeldBesides, ...]:
    """What one rank of a stage holds besides its weights; nothing is left out because it is small."""
    found = (
        _rotary_tables(architecture, family, stage_layers),
        _unquantized_latents(architecture, weight_format, spread, stage_layers),
        *_mxfp4_experts(architecture, weight_format, spread, stage_layers, accelerator),
    )
    return tuple(entry for entry in found if entry.bytes)


def _rotary_tables(architecture: Architecture, family: str, layers: Sequence[Layer]) -> HeldBesides:
    """[positions, rotary width] in the model's dtype, once for all layers that rotate alike, on every rank."""
    kinds = [kind for layer in layers for kind in layer]
    widths = {kind.head_dim for kind in kinds if isinstance(kind, HeadedKind)}
    latents = {kind.qk_rope_head_dim for kind in kinds if isinstance(kind, Latent)}
    rotary = _rotary(architecture, family)
    elements = sum(int(width * rotary.share) for width in widths) + sum(latents)
    return HeldBesides(
        words="rotary tables",
        bytes=(architecture.max_context_tokens or 0) * rotary.rows * elements * rotary.item_bytes,
        certainty="rule",
        source="layers/rotary_embedding/base.py: cosines and sines of every position, not split",
    )


def _rotary(architecture: Architecture, family: str) -> Rotary:
    """The tables of a family; its members are told apart by their layers where they differ."""
    kinds = [kind for layer in architecture.layers for kind in layer]
    rotary = ROTARIES.get(family, _PLAIN)
    if any(isinstance(kind, GatedDeltaNet) for kind in kinds):
        return replace(rotary, share=_QUARTER_OF_DELTA_NETS)
    if family == "gemma_multimodal":
        return _gemma_rotary(kinds)
    return rotary


def _gemma_rotary(kinds: Sequence[LayerKind]) -> Rotary:
    """Gemma 3 has a plain table for its windows and one of 8 times the rows for its full layers.

    Its linear scaling by 8 lengthens the stated maximum (``linear_scaling_rope.py`` ``_compute_cos_sin_cache``). Gemma
    3n has two plain tables, Gemma 4 one for each width of a head.
    """
    if len({kind.head_dim for kind in kinds if isinstance(kind, HeadedKind)}) > 1:
        return _PLAIN
    return Rotary(rows=2) if any(isinstance(kind, Shared) for kind in kinds) else Rotary(rows=8 + 1)


def _unquantized_latents(
    architecture: Architecture, weight_format: WeightFormat, spread: WeightSpread, layers: Sequence[Layer]
) -> HeldBesides:
    """W_UK and W_UV in 16 bits beside a quantized kv_b_proj; of a 16-bit one they are views."""
    widths, heads = architecture.widths, architecture.num_heads or 0
    quantized = part_bits(weight_format, tied=False)["attention"] < 8 * HALF_BYTES
    ranks = sum(kind.kv_lora_rank for layer in layers for kind in layer if isinstance(kind, Latent))
    per_head = widths.qk_nope_head_dim + widths.v_head_dim if widths else 0
    return HeldBesides(
        words="absorbed projections of latent attention, in 16 bits",
        bytes=ranks * cdiv(heads, spread.parallel.tp) * per_head * HALF_BYTES if quantized else 0,
        certainty="rule",
        source="layers/attention/mla_attention.py process_weights_after_loading: dequantized copies of kv_b_proj",
    )


def _mxfp4_experts(
    architecture: Architecture,
    weight_format: WeightFormat,
    spread: WeightSpread,
    layers: Sequence[Layer],
    accelerator: Accelerator | None,
) -> tuple[HeldBesides, ...]:
    """Triton's layout of MXFP4 experts on Hopper: scales padded to full tiles, and biases in float32."""
    widths = architecture.widths
    hopper = accelerator is not None and (accelerator.compute_capability or (0, 0))[0] == 9
    if widths is None or not hopper or not weight_format.name.startswith("mxfp4") or not widths.num_experts:
        return ()
    experts, width = widths.num_experts, widths.moe_intermediate_size
    if spread.expert_parallel:
        experts = cdiv(experts, spread.expert_ranks)
    else:
        width = cdiv(width, spread.expert_ranks)
    num_sparse = max(len(layers) - len(widths.dense_layers), 0)
    hidden = architecture.hidden_size
    padding = experts * (
        (round_up(2 * width, _SCALE_ROWS) - 2 * width) * hidden // _MXFP4_GROUP
        + (round_up(hidden, _SCALE_ROWS) - hidden) * width // _MXFP4_GROUP
    )
    counted = weight_format.linear_bits / 8
    biases = int(experts * (2 * width + hidden) * (FLOAT_BYTES - counted))
    return (
        HeldBesides(
            words="padded scales and float32 biases of the MXFP4 experts",
            bytes=num_sparse * (padding + biases),
            certainty="rule",
            source="fused_moe/oracle/mxfp4.py (Triton backend) and triton_kernels hopper_scale.py swizzle_data",
        ),
        HeldBesides(
            words="rest of the conversion of the MXFP4 experts",
            bytes=num_sparse * _CONVERSION_REST_BYTES // spread.expert_ranks,
            certainty="estimate",
            source="measured: gpt-oss-20b on an H200, vLLM 0.25.1; its cause is not known",
        ),
    )
