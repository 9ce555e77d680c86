"""SGLang's memory budget: what ``mem_fraction_static`` leaves aside, and what it makes of the rest.

Nothing is measured before the cache is sized: ``cache = free now - free before loading x (1 - mem_fraction_static)``
(``mem_cache/kv_cache_configurator.py:2990``), with a fraction that is guessed from the device's memory, the prefill
chunk and the largest decode graph (``arg_groups/memory_hook.py:265``). The fraction is of the memory that is *free*
before the weights are loaded. Read from SGLang 0.5.23.
"""

from __future__ import annotations

from fractions import Fraction

from kvplan.core.frozen import dataclass
from kvplan.core.overhead import Overhead
from kvplan.core.units import GIB, MIB

_LARGE_MIB, _LEAST_RESERVE_MIB = 60 * 1024, 10 * 1024
"""Devices above 60 GiB set at least 10 GiB aside."""

_DEFAULTS = (
    (20 * 1024, 2048, 8, 8),
    (35 * 1024, 4096, 48, 160),
    (60 * 1024, 4096, 32, 160),
    (160 * 1024, 8192, 256, 512),
)
"""Device memory in MiB below which: ``--chunked-prefill-size``, and the largest decode graph below and from tp 4."""

_LARGEST_DEFAULTS = (16384, 512)

_PREFILL_GRAPHS = (
    *(range(4, 33, 4), range(48, 257, 16), range(288, 513, 32)),
    *(range(576, 1025, 64), range(1280, 4097, 256)),
)
"""Sizes of captured prefills up to 4096 tokens; by 512 from there (``arg_groups/cuda_graph_hook.py:480``)."""

LATENT_PREFILL_MIB = 1536
"""What all captured prefills of latent attention are taken for."""

DEEPEP_PREFILL_MIB, DEEPEP_DECODE_MIB = 1024, 2048
"""Buffers of DeepEP's all-to-all in captured prefills and decodes."""

CONTEXT_BYTES = 522 * MIB
"""Taken before the weights are loaded at tp 1: 139.80 - 139.29 GiB on an H200, driver 580 (read by vLLM 0.25.1)."""

COMMUNICATION_BYTES = GIB
"""NCCL's and the custom all-reduce's buffers with several ranks: an estimate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """What ``mem_fraction_static`` keeps clear of weights and cache, in MiB of the device.

    ``memory_mib`` is what nvidia-smi shows; ``chunk_tokens`` is ``--chunked-prefill-size`` and ``decode_batch`` the
    largest decode graph (None: the device's defaults). ``attention_dp`` are the ranks of ``--enable-dp-attention``.
    """

    memory_mib: int
    tp: int = 1
    pp: int = 1
    attention_dp: int = 1
    latent: bool = False
    graphs: bool = True
    deepep: bool = False
    chunk_tokens: int | None = None
    decode_batch: int | None = None
    max_running_requests: int | None = None

    @property
    def chunk(self) -> int:
        """Tokens of a prefill chunk."""
        return self.chunk_tokens or self._sizes[0]

    @property
    def decode(self) -> int:
        """Requests of the largest decode graph; a default is capped by the requests that may run."""
        if self.decode_batch is not None:
            return self.decode_batch
        return min(self._sizes[1], self.max_running_requests or self._sizes[1])

    @property
    def _sizes(self) -> tuple[int, int]:
        for limit, chunk, few_ranks, many_ranks in _DEFAULTS:
            if self.memory_mib < limit:
                return chunk, few_ranks if self.tp < 4 else many_ranks
        return _LARGEST_DEFAULTS

    @property
    def graph_mib(self) -> float:
        """Reserved for CUDA graphs: 2 MiB per request of the largest decode graph, 8 per captured prefill size."""
        if not self.graphs:
            return 0
        decode = self.decode * 2.0
        if self.attention_dp > 1:
            decode += self.decode * self.attention_dp * (4.5 if self.decode > 300 else 3)
        prefill = LATENT_PREFILL_MIB if self.latent else 8 * len(prefill_graph_tokens(self.chunk))
        return decode + prefill + (DEEPEP_PREFILL_MIB if self.deepep else 0)

    @property
    def total_mib(self) -> float:
        """Metadata, activations at 1.5 MiB per token of a chunk, parallel slack and graphs."""
        reserved = 512 + 1.5 * max(self.chunk, 2048) + self.tp * self.pp / 8 * 1024 + self.graph_mib
        if self.memory_mib > _LARGE_MIB:
            reserved = max(reserved, _LEAST_RESERVE_MIB)
        return reserved + (DEEPEP_DECODE_MIB if self.deepep and self.graphs else 0)

    @property
    def mem_fraction_static(self) -> Fraction:
        """The default, rounded to three digits as SGLang rounds its float."""
        return Fraction(str(round((self.memory_mib - self.total_mib) / self.memory_mib, 3)))


def prefill_graph_tokens(largest: int) -> tuple[int, ...]:
    """Prefill sizes for which CUDA graphs are captured."""
    sizes = [*(size for part in _PREFILL_GRAPHS for size in part), *range(4608, largest + 1, 512)]
    return tuple(size for size in sizes if size <= largest)


def vision_fraction(fraction: Fraction, num_layers: int, hidden_size: int) -> Fraction:
    """The fraction of a model with images: less for larger vision towers (``adjust_mem_fraction_for_vlm``)."""
    complexity = num_layers * hidden_size**2 / (24 * 1024**2)
    factor = 0.95 * max(0.8, min(1.05, 1.0 - 0.1 * (complexity - 1.0)))
    return Fraction(str(float(fraction) * factor))


def overhead(memory_bytes: int, reserve: Reserve, fraction: Fraction | None = None) -> Overhead:
    """What one rank keeps clear of weights and cache on a device whose runtime reports ``memory_bytes``.

    ``fraction`` is ``--mem-fraction-static``, the default unless given. The part that is exact is SGLang's own sum;
    what the context and NCCL take before the weights are loaded is estimated.
    """
    several = reserve.tp * reserve.pp * reserve.attention_dp > 1
    taken = CONTEXT_BYTES + (COMMUNICATION_BYTES if several else 0)
    static = reserve.mem_fraction_static if fraction is None else fraction
    slack = int((memory_bytes - taken) * (1 - static))
    graphs = min(slack, int(reserve.graph_mib * MIB)) if fraction is None else 0
    return Overhead(
        activation_bytes=slack - graphs,
        cuda_graph_bytes=graphs,
        non_torch_bytes=taken,
        certainty="estimate" if several else "rule",
        expected_error_bytes=3 * GIB // 4 if several else 64 * MIB,
        lines=(
            f"mem_fraction_static {float(static):.3f} of the memory that is free before the weights are loaded: "
            f"{slack / GIB:.2f} GiB stay clear",
            f"  default: ({reserve.memory_mib:,} - {reserve.total_mib:,.0f}) / {reserve.memory_mib:,} MiB, with "
            f"512 + 1.5 x {max(reserve.chunk, 2048):,} (chunk) + {reserve.tp * reserve.pp} / 8 x 1024 (ranks) + "
            f"{reserve.graph_mib:,.0f} (graphs) (arg_groups/memory_hook.py:265)",
            f"context and communication: about {taken / GIB:.2f} GiB",
        ),
    )
