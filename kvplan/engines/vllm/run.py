"""One start of vLLM as its planner sees it: the device, the model's traits and the options, resolved once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field

from kvplan.core.accelerator import Accelerator
from kvplan.core.attention import CompressedStream, CrossAttention, HeadedKind, IndexKeys, Latent, LayerKind, Shared
from kvplan.core.engine import EngineRequest, EngineSettings, ModelFacts, Stage
from kvplan.core.errors import UnsupportedError
from kvplan.core.frozen import dataclass
from kvplan.core.parallel import Parallel
from kvplan.core.recurrent import RecurrentKind, StateBuffer
from kvplan.core.units import cdiv
from kvplan.engines.vllm.families import Quirks, quirks_of
from kvplan.engines.vllm.rules import Rules

GIB = 1 << 30
HOPPER = (9, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What kernels ask of the device: its compute capability, and whether the FlashInfer package is there."""

    capability: tuple[int, int] = HOPPER
    flashinfer: bool = True
    amd: bool = False

    @property
    def major(self) -> int:
        """The family: 9 for Hopper, 10 for datacenter Blackwell, 12 for its workstation cards."""
        return self.capability[0]

    @property
    def text(self) -> str:
        """As vLLM writes it: ``9.0``."""
        return f"{self.capability[0]}.{self.capability[1]}"


def device_of(accelerator: Accelerator | None, flashinfer: bool) -> Device:
    """The device of an accelerator; Hopper where none is named. Raises UnsupportedError for other makes."""
    if accelerator is None:
        return Device(flashinfer=flashinfer)
    vendor = accelerator.vendor.lower()
    if vendor == "amd":
        return Device(flashinfer=False, amd=True)
    if vendor != "nvidia":
        raise UnsupportedError(
            f"kvplan has vLLM's rules for NVIDIA and AMD devices, not for {accelerator.name}", "name another with --gpu"
        )
    return Device(capability=accelerator.compute_capability or HOPPER, flashinfer=flashinfer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What the layers of a model say together.

    ``head_dim`` and ``num_kv_heads`` are the model's own (its widest head; the first attention layer's heads).
    ``attends``, ``recurrent`` and ``crosses`` say which layers there are; ``latent`` that attention is MLA,
    ``sparse`` that it has an indexer, ``compressed`` that it is DeepSeek-V4's.
    """

    head_dim: int
    num_kv_heads: int
    attends: bool
    recurrent: bool
    crosses: bool
    latent: bool
    sparse: bool
    compressed: bool
    image_prefix: bool
    softcap: bool
    mixed_heads: bool

    @property
    def hybrid(self) -> bool:
        """Both attention and recurrent state."""
        return self.attends and self.recurrent


def traits_of(kinds: Iterable[LayerKind], facts: ModelFacts) -> Traits:
    """The traits of all layers' kinds, in the order of the layers."""
    kinds, quirks = tuple(kinds), quirks_of(facts)
    headed = [kind for kind in kinds if isinstance(kind, HeadedKind)]
    latents = [kind for kind in kinds if isinstance(kind, Latent)]
    latent_dim = max((kind.kv_lora_rank + kind.qk_rope_head_dim for kind in latents), default=0)
    windows = sum(kind.window_tokens is not None for kind in headed)
    return Traits(
        head_dim=latent_dim or max((kind.head_dim for kind in headed), default=0),
        num_kv_heads=headed[0].num_kv_heads if headed else 1,
        attends=bool(headed or latents),
        recurrent=any(isinstance(kind, RecurrentKind) and not isinstance(kind, StateBuffer) for kind in kinds),
        crosses=any(isinstance(kind, CrossAttention) for kind in kinds),
        latent=bool(latents),
        sparse=bool(latents) and any(isinstance(kind, IndexKeys) for kind in kinds),
        compressed=any(isinstance(kind, CompressedStream) for kind in kinds),
        # Gemma's E2B and E4B, whose last layers share caches, let images attend causally.
        image_prefix=quirks.image_prefix and not any(isinstance(kind, Shared) for kind in kinds),
        mixed_heads=len({kind.head_dim for kind in headed}) > 1,
        softcap=windows > 0 and (quirks.softcap or _is_gemma2(facts, windows, len(headed))),
    )


def _is_gemma2(facts: ModelFacts, windows: int, layers: int) -> bool:
    """Where the class is not known: the Gemma whose windows alternate with full layers one by one."""
    return facts.architecture_class is None and facts.family == "gemma" and abs(2 * windows - layers) <= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything that decides the cache of one start.

    ``dtype`` is vLLM's word for the cache dtype (``auto`` for 16 bits); ``in_flight_tokens`` bounds the tokens that
    are scheduled and not yet settled; ``state_dtype`` and ``conv_dtype`` are ``auto`` or torch's name.
    """

    rules: Rules
    device: Device
    quirks: Quirks
    traits: Traits
    dtype: str = "auto"
    parallel: Parallel = field(default_factory=Parallel)
    num_heads: int = 1
    user_block_tokens: int | None = None
    user_backend: str | None = None
    prefix_caching: bool = True
    num_speculative_tokens: int = 0
    in_flight_tokens: int = 0
    batched_tokens: int = 0
    max_model_len: int = 0
    state_dtype: str = "auto"
    conv_dtype: str = "auto"

    @property
    def tp(self) -> int:
        """Tensor-parallel ranks."""
        return self.parallel.tp

    @property
    def rank_heads(self) -> int:
        """Query heads of one rank."""
        return cdiv(self.num_heads, self.tp)

    @property
    def aligned_states(self) -> bool:
        """Whether states are kept at block boundaries, so that prefixes with state can be found again."""
        return self.prefix_caching and self.traits.recurrent


def batched_tokens(settings: EngineSettings, max_model_len: int, rules: Rules) -> int:
    """``max_num_batched_tokens`` as ``vllm serve`` resolves it (0.32 ``engine/arg_utils.py:2894``).

    By device memory: 16384 from 160 GiB (since 0.26), 8192 from 70 GiB (not A100), 2048 below; never more than the
    requests of a batch can hold.
    """
    if settings.max_num_batched_tokens is not None:
        return settings.max_num_batched_tokens
    accelerator = settings.accelerator
    tokens, seqs = 8192, 1024
    if accelerator is not None:
        memory, names = accelerator.memory_bytes, f"{accelerator.name} {accelerator.title}".lower()
        slow = "a100" in names or accelerator.compute_capability in rules.small_batch_capabilities
        if rules.large_batch_bytes is not None and memory >= rules.large_batch_bytes:
            tokens = 16384
        elif memory < 70 * GIB or slow:
            tokens, seqs = 2048, 256
    return min(tokens, (settings.max_num_seqs or seqs) * max_model_len)


def drafted_tokens(request: EngineRequest) -> int:
    """Tokens drafted in each step: as set, else one where draft layers are counted."""
    stated = request.settings.num_speculative_tokens
    return stated if stated is not None else int(request.num_draft_layers > 0)


def prefix_caching(settings: EngineSettings, traits: Traits, rules: Rules) -> bool:
    """Whether prefixes are cached: as set, else on for decoders (0.32 ``config/model.py:2221``)."""
    if settings.prefix_caching is not None:
        return settings.prefix_caching
    if traits.crosses or not traits.attends:
        return False
    return rules.hybrid_prefix_caching or not traits.recurrent


def all_kinds(stages: Iterable[Stage]) -> tuple[LayerKind, ...]:
    """Every kind of every layer, in order."""
    return tuple(item.kind for stage in stages for layer in stage for item in layer)


def run_traits(stages: Iterable[Stage], facts: ModelFacts) -> Traits:
    """The traits of a request's layers."""
    return traits_of(all_kinds(stages), facts)
