"""Launches the fused decode attention: how many runs, which blocks, and the formats that it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kvplan.core.units import cdiv
from kvplan.runtime.codec import Rows
from kvplan.runtime.kernels.attend import attend_run
from kvplan.runtime.kernels.merge import merge_runs, rotate_query
from kvplan.runtime.kernels.rotation import signs
from kvplan.runtime.kernels.tuning import Config, fastest

LOG2_E = 1.4426950408889634
MOST_HEADS = 64
"""Query heads of a KV head that one program takes."""
MOST_WIDTH = 256
TUNED_ROWS = 1 << 18
"""Caches of fewer rows, over all sequences and heads, take the first config untimed."""


@dataclass(frozen=True)
class Kind:
    """How a format looks to the kernel: the planes that a 16-bit unit unpacks to, and whether rows have scales."""

    name: str
    units_per_row: int
    """The row's width over this is the number of its units."""
    scaled: bool
    least_heads: int
    """Query heads that a program is padded to: 8 leave less to do for each token, 16 fill a tensor core's tile."""
    configs: tuple[Config, ...]


_WAVES = (4, 2, 3, 6, 8, 16)
"""Programs for each multiprocessor: as many as run at once and end together, or many that fill each other's gaps."""


def _configs(*tiles: tuple[int, int, int]) -> tuple[Config, ...]:
    """Every (block, warps, stages) with every number of waves; the first of both serves caches too small to time."""
    return tuple(Config(*tile, waves) for tile in tiles for waves in _WAVES)


_NATIVE_CONFIGS = _configs((64, 4, 3), (128, 4, 2), (64, 4, 2))
_BYTE_CONFIGS = _configs((64, 4, 3), (128, 4, 2), (128, 4, 3), (64, 2, 3))
_NIBBLE_CONFIGS = (Config(64, 1, 3, 8),)
"""The best on an H200 at 64K and 128K tokens, with 32 and 64 query heads; others come within a few percent."""

KINDS = {
    "bf16": Kind("native", 1, False, 16, _NATIVE_CONFIGS),
    "fp16": Kind("native", 1, False, 16, _NATIVE_CONFIGS),
    "fp8_e4m3": Kind("fp8", 2, False, 16, _BYTE_CONFIGS),
    "fp8_per_token_head": Kind("fp8", 2, True, 16, _BYTE_CONFIGS),
    "int8_per_token_head": Kind("int8", 2, True, 16, _BYTE_CONFIGS),
    "int4_per_token_head": Kind("int4", 4, True, 8, _NIBBLE_CONFIGS),
}
"""Formats by name."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One call: what is asked, of which stored rows, and how they are found.

    ``query`` [batch, heads, width]; ``keys`` and ``values`` rows as the codec stored them, [batch, kv_heads, tokens,
    ...], or [pages, kv_heads, page tokens, ...] with ``block_table`` [batch, pages]; ``lengths`` [batch] or None.
    """

    query: Tensor
    keys: Rows
    values: Rows
    cache_format: str
    softmax_scale: float
    static_scales: tuple[float, float] = (1.0, 1.0)
    lengths: Tensor | None = None
    block_table: Tensor | None = None

    @property
    def kv_heads(self) -> int:
        """KV heads."""
        return int(self.keys["codes"].shape[1])

    @property
    def page_tokens(self) -> int:
        """Tokens of a page; 0 where each sequence lies in one piece."""
        return 0 if self.block_table is None else int(self.keys["codes"].shape[2])

    @property
    def tokens(self) -> int:
        """Tokens that a sequence has room for."""
        return int(self.keys["codes"].shape[2]) * (1 if self.block_table is None else self.block_table.shape[1])

    def width(self, rows: Rows) -> int:
        """Elements of a row: codes hold one or two per byte."""
        return int(rows["codes"].shape[-1]) * (2 if self.cache_format == "int4_per_token_head" else 1)


def supports(problem: Problem) -> bool:
    """Whether the kernel takes this format, these widths and this many query heads of a KV head."""
    kind = KINDS.get(problem.cache_format)
    if kind is None or problem.query.shape[1] > MOST_HEADS * problem.kv_heads:
        return False
    widths = {problem.width(problem.keys), problem.width(problem.values)}
    if kind.name == "int4" and any(width & (width - 1) for width in widths):
        return False  # such rows are rotated in blocks
    return all(width % kind.units_per_row == 0 and width <= MOST_WIDTH for width in widths)


def attend(problem: Problem, config: Config | None = None) -> Tensor:
    """[batch, heads, value width] in the query's dtype. ``config`` is chosen, and timed once, where not given."""
    kind = KINDS[problem.cache_format]
    if config is None:
        rows = problem.query.shape[0] * problem.kv_heads * problem.tokens
        configs = kind.configs if rows >= TUNED_ROWS else kind.configs[:1]
        config = fastest(_tuning_key(problem), configs, lambda candidate: _launch(problem, kind, candidate))
    return _launch(problem, kind, config)


def _tuning_key(problem: Problem) -> tuple[Any, ...]:
    """What a config may depend on; the context counts in powers of two."""
    query = problem.query
    context = problem.tokens.bit_length()
    return (problem.cache_format, problem.page_tokens, *query.shape, problem.kv_heads, context, query.device)


def _launch(problem: Problem, kind: Kind, config: Config) -> Tensor:
    batch, heads, key_width = problem.query.shape
    value_width = problem.width(problem.values)
    runs = _runs(problem, config)
    outputs = problem.query.new_empty(batch * heads, runs, value_width, dtype=torch.float32)
    statistics = problem.query.new_empty(2, batch * heads, runs, dtype=torch.float32)
    group = heads // problem.kv_heads
    table = problem.block_table
    attend_run[(runs, batch * problem.kv_heads)](
        _query(problem, kind), _stored(problem.keys, kind), _stored(problem.values, kind),
        None if table is None else (table, table.stride(0)), problem.lengths, outputs, statistics,
        problem.softmax_scale * LOG2_E * problem.static_scales[0], problem.static_scales[1], problem.tokens,
        group, problem.kv_heads,
        KEY_WIDTH=key_width, VALUE_WIDTH=value_width,
        KEY_UNITS=_padded(key_width // kind.units_per_row), VALUE_UNITS=_padded(value_width // kind.units_per_row),
        HEADS=_padded(group, kind.least_heads), BLOCK=config.block, PAGE=problem.page_tokens,
        KIND=kind.name, SCALED=kind.scaled,
        STAGES=config.stages, ASSEMBLY=outputs.is_cuda and torch.version.hip is None, num_warps=config.warps,
    )  # fmt: skip
    return _merge(problem, kind, outputs, statistics)


def _merge(problem: Problem, kind: Kind, outputs: Tensor, statistics: Tensor) -> Tensor:
    rows, runs, width = outputs.shape
    rotated = kind.name == "int4"
    result = problem.query.new_empty(*problem.query.shape[:2], width)
    merge_runs[(rows,)](
        outputs, statistics, _signs(width, outputs.device) if rotated else None, result, width**-0.5, runs, rows,
        WIDTH=width, PADDED=_padded(width), RUNS=_padded(runs), BLOCK=16, ROTATED=rotated, num_warps=4,
    )  # fmt: skip
    return result


def _query(problem: Problem, kind: Kind) -> Tensor:
    """The query as the kernel multiplies it: rotated as int4 keys are, or in the native cache's dtype."""
    query = problem.query
    if kind.name == "native":
        return query.to(problem.keys["codes"].dtype).contiguous()
    if kind.name != "int4":
        return query.contiguous()
    batch, heads, width = query.shape
    rotated = query.new_empty(query.shape, dtype=torch.float32)
    rotate_query[(cdiv(batch * heads, 16),)](
        query.contiguous(), _signs(width, query.device), rotated, width**-0.5, batch * heads,
        WIDTH=width, BLOCK=16, num_warps=4,
    )  # fmt: skip
    return rotated


def _signs(width: int, device: torch.device) -> Tensor:
    return signs(width, device, torch.int8, False)


def _stored(rows: Rows, kind: Kind) -> tuple[Any, ...]:
    """Units, scales, and the strides of both: (sequence or page, head, token)."""
    codes = rows["codes"] if rows["codes"].stride(-1) == 1 else rows["codes"].contiguous()
    units = codes if kind.name == "native" else codes.view(torch.int16)
    scale = rows["scale"] if kind.scaled else None
    return units, scale, units.stride()[:3], scale.stride()[:3] if scale is not None else (0, 0, 0)


def _runs(problem: Problem, config: Config) -> int:
    """Runs that a sequence is split into, so that ``waves`` programs come to each multiprocessor."""
    device = problem.query.device
    processors: int = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
    pairs = int(problem.query.shape[0]) * problem.kv_heads
    return max(1, min(processors * config.waves // max(1, pairs), cdiv(problem.tokens, config.block)))


def _padded(size: int, least: int = 16) -> int:
    """The power of two that holds ``size``, at least the 16 that a tensor core takes."""
    return max(least, 1 << (size - 1).bit_length())
