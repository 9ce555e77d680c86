"""The GPU generations that SGLang's defaults tell apart (``runtime_context.get_platform``)."""

from __future__ import annotations

from kvplan.core.engine import EngineSettings
from kvplan.core.errors import UnsupportedError
from kvplan.core.frozen import dataclass
from kvplan.core.units import GIB

BLACKWELL_DTYPES = ("nvfp4", "mxfp8")
"""Cache dtypes that only Blackwell runs (``kv_cache_hook.py`` ``handle_kv4_compatibility``, ``handle_mxfp8_...``)."""

_CHUNKS = ((20, 2048), (35, 4096), (60, 4096), (160, 8192))
"""Default ``--chunked-prefill-size`` below a device memory in GiB (``memory_hook.py:90-160``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """``generation`` is ``sm80`` (and older), ``sm90``, ``sm100`` or ``sm120`` (all other Blackwells).

    ``assumed`` where no GPU was named.
    """

    generation: str
    assumed: bool = False
    memory_bytes: int | None = None

    @property
    def blackwell(self) -> bool:
        """Data-centre or workstation Blackwell."""
        return self.generation in ("sm100", "sm120")

    @property
    def chunked_prefill_size(self) -> int:
        """SGLang's default; that of an 80 GiB device where no GPU was named."""
        memory_bytes = self.memory_bytes or 80 * GIB
        return next((chunk for limit, chunk in _CHUNKS if memory_bytes < limit * GIB), 16384)


def read_hardware(settings: EngineSettings, kv_dtype: str = "auto") -> Hardware:
    """The GPU asked for; without one a Hopper, or a data-centre Blackwell for a dtype that only Blackwell has.

    Raises UnsupportedError for a device that is no CUDA device: SGLang's ROCm, NPU and XPU pools were not read.
    """
    accelerator = settings.accelerator
    if accelerator is None:
        return Hardware(generation="sm100" if kv_dtype in BLACKWELL_DTYPES else "sm90", assumed=True)
    if accelerator.compute_capability is None:
        raise UnsupportedError(
            f"kvplan has SGLang's rules for CUDA devices alone, not for {accelerator.name}",
            "leave --gpu out, or name an NVIDIA GPU",
        )
    major = accelerator.compute_capability[0]
    generation = {9: "sm90", 10: "sm100", 11: "sm120", 12: "sm120"}.get(major, "sm80")
    return Hardware(generation=generation, memory_bytes=accelerator.memory_bytes)
