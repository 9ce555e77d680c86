"""The contract of an engine: how the kept tokens of all layers are rounded, padded, grouped and reserved.

An engine sees the whole list of layers and the architecture's family, never a model's name: engines choose kernels
and groups by architecture, and page sizes by what the layers store together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from kvplan.core.accelerator import Accelerator
from kvplan.core.attention import LayerKind
from kvplan.core.errors import UnsupportedError, UsageError, near_hint
from kvplan.core.frozen import dataclass
from kvplan.core.geometry import CacheChoice, PlacedKind
from kvplan.core.parallel import Parallel
from kvplan.core.policy import describe_policy

Stage = tuple[tuple[PlacedKind, ...], ...]
"""The layers of one pipeline stage, each with the kinds of cache that it keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What a user may set, in the engines' words; None leaves it to the engine.

    ``kv_memory_bytes`` is the memory of one rank's cache; ``max_model_len`` the longest request that the engine is
    started for (the context asked for, unless set); ``block_tokens`` is ``--block-size`` (vLLM) or ``--page-size``
    (SGLang); ``num_speculative_tokens`` are drafted in each step.
    """

    accelerator: Accelerator | None = None
    kv_memory_bytes: int | None = None
    block_tokens: int | None = None
    attention_backend: str | None = None
    prefix_caching: bool | None = None
    max_model_len: int | None = None
    max_num_batched_tokens: int | None = None
    max_num_seqs: int | None = None
    num_speculative_tokens: int | None = None


SETTING_FLAGS: Mapping[str, str] = {
    "accelerator": "--gpu",
    "kv_memory_bytes": "--kv-memory",
    "block_tokens": "--block-size",
    "attention_backend": "--attention-backend",
    "prefix_caching": "--no-prefix-caching",
    "max_model_len": "--max-model-len",
    "max_num_batched_tokens": "--max-num-batched-tokens",
    "max_num_seqs": "--max-num-seqs",
    "num_speculative_tokens": "--num-speculative-tokens",
}
"""The field of EngineSettings that each option fills."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What engines know of a model besides its layers.

    ``family`` is the architecture family (``kvplan/families``) and ``architecture_class`` the class that the checkpoint
    names, if known: an engine asks it where the family is too coarse, and answers by the family where it is None.
    ``dtype`` is the 16-bit compute dtype, ``kv_scheme`` the cache format that the checkpoint itself asks for
    (``fp8_e4m3``, ``nvfp4``), if any, and ``kv_scheme_method`` the quantization method that states it (``modelopt``,
    ``compressed-tensors``): SGLang follows ModelOpt alone, and so does vLLM for latent attention.
    """

    family: str
    dtype: str
    num_heads: int | None
    hidden_size: int
    max_context_tokens: int | None = None
    kv_scheme: str | None = None
    kv_scheme_method: str | None = None
    num_encoder_layers: int | None = None
    architecture_class: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One question to an engine: ``sequences`` requests of ``context_tokens`` on one data-parallel replica.

    ``num_draft_layers`` of the last stage's last layers are draft (multi-token-prediction) layers.
    """

    stages: tuple[Stage, ...]
    facts: ModelFacts
    choice: CacheChoice
    context_tokens: int
    encoder_tokens: int = 0
    sequences: int = 1
    parallel: Parallel = Parallel()
    num_draft_layers: int = 0
    settings: EngineSettings = EngineSettings()

    @property
    def kinds(self) -> set[LayerKind]:
        """Every kind of the model."""
        return {item.kind for stage in self.stages for layer in stage for item in layer}

    @property
    def max_model_len(self) -> int:
        """The longest request that the engine is started for."""
        return self.settings.max_model_len or self.context_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAllocation:
    """Equal kinds on one rank: ``count`` layers.

    ``allocated_tokens`` are those of one layer and one sequence; ``allocated_bytes`` those of one layer and all
    sequences of the replica.
    """

    item: PlacedKind
    count: int
    allocated_tokens: int
    allocated_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RankAllocation:
    """What one tensor-parallel rank of a stage allocates; all ranks of the stage are alike.

    ``allocated_bytes`` covers all sequences of the replica and everything that belongs to no layer (padding layers,
    the null block, dummy pages); ``sequence_bytes`` is what one sequence takes of it. Engines with blocks state them.
    """

    groups: tuple[GroupAllocation, ...]
    allocated_bytes: int
    sequence_bytes: int
    bytes_per_block: int | None = None
    blocks_per_sequence: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """An engine's answer for one replica: a rank of each stage, and what the given memory holds.

    ``num_blocks``, ``capacity_tokens``, ``max_concurrency`` and ``log_line`` (the words the engine logs) need
    ``kv_memory_bytes``. ``explanation`` are lines with the values put in; ``reasons`` are short sentences on why this
    differs from geometry; ``notes`` are what a reader must know.
    """

    stages: tuple[RankAllocation, ...]
    block_tokens: int | None = None
    max_num_batched_tokens: int | None = None
    num_blocks: int | None = None
    capacity_tokens: int | None = None
    max_concurrency: float | None = None
    log_line: str | None = None
    explanation: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Engine(Protocol):
    """What sizing asks of an engine. Engines are frozen dataclasses; fields not listed here are their own options."""

    @property
    def name(self) -> str:
        """The name that ``--engine`` takes."""
        ...

    @property
    def version(self) -> str | None:
        """The release whose rules these are; None for plain geometry."""
        ...

    @property
    def certainty(self) -> str:
        """``exact``, ``rule`` or ``estimate``."""
        ...

    def cache_dtype(self, text: str, facts: ModelFacts, stages: tuple[Stage, ...], settings: EngineSettings) -> str:
        """The kvplan format (or ``K/V`` pair) that this engine stores for a ``--kv-dtype`` of ``text``.

        ``stages`` hold the layers in the model's own dtype. Raises UnsupportedError, naming what the engine has.
        """
        ...

    def allocate(self, request: EngineRequest) -> Allocation:
        """What the engine allocates. Raises UnsupportedError, UsageError or DoesNotFitError as the engine refuses."""
        ...


def choose_dtype(engine: str, text: str, words: Mapping[str, str]) -> str:
    """The format that an engine's word for a cache dtype names. Raises UnsupportedError with the engine's words."""
    key = text.strip().lower().replace("-", "_")
    if key not in words:
        raise UnsupportedError(f"{engine} has no cache dtype {text!r}", f"it has {', '.join(words)}")
    return words[key]


def given_flags(settings: EngineSettings) -> list[str]:
    """The options that a user has set."""
    return [flag for name, flag in SETTING_FLAGS.items() if getattr(settings, name) is not None]


def refuse_settings(engine: str, settings: EngineSettings, known: Iterable[str]) -> None:
    """Raise UnsupportedError for a setting that is given and that the engine does not have (fields in ``known``)."""
    known = set(known)
    for name, flag in SETTING_FLAGS.items():
        if name not in known and getattr(settings, name) is not None:
            flags = ", ".join(SETTING_FLAGS[entry] for entry in SETTING_FLAGS if entry in known)
            raise UnsupportedError(f"{engine} has no {flag}", f"it has {flags}" if flags else None)


def refuse_policy(request: EngineRequest, engine: str, instead: str) -> None:
    """Raise UnsupportedError where tokens are to be dropped and the engine drops none; ``instead`` is what it has."""
    policy = request.choice.policy
    if policy.name != "none":
        raise UnsupportedError(f"{engine} drops no tokens: it has no {describe_policy(policy)}", instead)


def refuse_parallel(request: EngineRequest, engine: str, known: Iterable[str]) -> None:
    """Raise UnsupportedError for a parallel size above 1 that the engine does not have."""
    known = tuple(known)
    for name in ("tp", "pp", "dp", "dcp"):
        if name not in known and getattr(request.parallel, name) > 1:
            allowed = ", ".join(f"--{entry}" for entry in known)
            raise UnsupportedError(f"{engine} has no --{name}", f"it has {allowed}" if allowed else None)


def check_name(what: str, name: str, known: Iterable[str]) -> str:
    """``name`` if it is known. Raises UsageError with the near names."""
    names = list(known)
    if name not in names:
        raise UsageError(f"unknown {what} {name!r}", near_hint(name, names))
    return name
