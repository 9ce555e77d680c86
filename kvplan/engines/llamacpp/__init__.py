"""llama.cpp 0.5.0 (2026-09-28): caches of whole cells for a fixed number of slots, all of it allocated at the start.

Rules were read from its source, as llama-cpp-python 0.3.36 ships it, and checked against the lines it logs
(``tests/vectors/llamacpp_0.5.json``, ``llamacpp_python_0.3.36.json``). Sizes are those of the log's ``size =``.
A request of S sequences is started as ``-np S -c S x context``.

Ollama (fb307609, 2026-08-21) starts llama.cpp's own server (b10488) with separate streams, windows as short as they
may be and one cache type for keys and values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import ClassVar

from kvplan.core.attention import HeadedKind, LayerKind
from kvplan.core.budget import BudgetRequest, RankBudget
from kvplan.core.engine import (
    Allocation,
    EngineRequest,
    EngineSettings,
    ModelFacts,
    Stage,
    choose_dtype,
    refuse_parallel,
    refuse_policy,
    refuse_settings,
)
from kvplan.core.errors import DoesNotFitError, UnsupportedError, UsageError
from kvplan.core.frozen import dataclass
from kvplan.core.units import format_bytes
from kvplan.engines.llamacpp.architectures import all_kinds, refuse_missing
from kvplan.engines.llamacpp.cells import MAX_SEQUENCES, Slots
from kvplan.engines.llamacpp.fit import device_budgets
from kvplan.engines.llamacpp.plan import Capacity, Device, allocate_rank, place_devices, read_capacity
from kvplan.engines.llamacpp.report import explain, log_lines, notes, read_caches, reasons

_KNOWN_SETTINGS = ("accelerator", "kv_memory_bytes", "max_model_len", "num_speculative_tokens")
_BLOCK = 32
"""Elements that every quantized cache type of ggml codes together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCpp:
    """llama-server's defaults; ``-fa``, ``-ub``, ``--swa-full`` and ``--kv-unified`` are options."""

    name: str = "llamacpp"
    version: str | None = "0.5.0"
    certainty: str = "rule"
    swa_full: bool = False
    unified: bool = False
    flash_attention: str = "auto"
    ubatch: int = 512

    words: ClassVar[Mapping[str, str]] = {
        "auto": "fp16",
        "f16": "fp16",
        "bf16": "bf16",
        "f32": "fp32",
        "q8_0": "q8_0",
        "q5_1": "q5_1",
        "q5_0": "q5_0",
        "q4_1": "q4_1",
        "q4_0": "q4_0",
        "iq4_nl": "iq4_nl",
        "fp16": "fp16",
        "fp32": "fp32",
    }
    """``kv_cache_types`` in ``common/arg.cpp``, and kvplan's own names of the float types."""

    def __post_init__(self) -> None:
        """Raise ValueError on an option that llama.cpp does not take."""
        if self.flash_attention not in ("on", "off", "auto"):
            raise ValueError(f"flash_attention must be on, off or auto, not {self.flash_attention!r}")
        if self.ubatch < 1:
            raise ValueError("ubatch must be a positive number of tokens")

    @property
    def has_flash_attention(self) -> bool:
        """Whether caches are laid out for flash attention: ``auto`` lays them out so and decides later."""
        return self.flash_attention != "off"

    def cache_dtype(self, text: str, facts: ModelFacts, stages: tuple[Stage, ...], settings: EngineSettings) -> str:
        """``--cache-type-k`` and ``--cache-type-v`` (``q8_0`` or a pair ``q8_0/q4_0``); ``auto`` is f16.

        Raises UnsupportedError for what ``llama_init_from_model`` refuses.
        """
        pieces = text.split("/")
        if len(pieces) > 2:
            raise UsageError(f"{text!r} is neither one cache type nor a pair K/V", "write q8_0 or q8_0/q4_0")
        key, value = (choose_dtype(self.name, piece, self.words) for piece in (pieces[0], pieces[-1]))
        kinds = all_kinds(stages)
        refuse_missing(facts, kinds)
        self._check_types(key, value, kinds)
        return key if key == value else f"{key}/{value}"

    def allocate(self, request: EngineRequest) -> Allocation:
        """Every cell of every slot. Raises UnsupportedError, UsageError or DoesNotFitError as llama.cpp refuses."""
        self._check_request(request)
        slots = Slots(
            sequences=request.sequences,
            context_tokens=request.sequences * request.max_model_len,
            unified=self.unified,
            swa_full=self.swa_full,
            ubatch=self.ubatch,
        )
        devices = place_devices(request, self.has_flash_attention)
        caches = read_caches(devices, slots)
        answer = Allocation(
            stages=tuple(allocate_rank(device, slots) for device in devices),
            log_line="\n".join(log_lines(caches, slots, request)),
            explanation=explain(devices, slots, request),
            reasons=reasons(devices, slots, request),
            notes=notes(self.name, request),
        )
        return self._with_capacity(answer, request, devices, slots)

    def settle(self, request: BudgetRequest) -> BudgetRequest:
        """The request as it is: a micro-batch is an option, and slots are the requests asked for."""
        return request

    def budget(self, request: BudgetRequest) -> tuple[RankBudget, ...]:
        """Weights, compute buffer and margin of each device."""
        return device_budgets(request, self.name, self.ubatch, self.unified)

    def _check_types(self, key: str, value: str, kinds: Iterable[LayerKind]) -> None:
        kinds = tuple(kinds)
        if key != value and any(kind.kind == "latent" for kind in kinds):
            raise UnsupportedError(
                f"llama.cpp stores one latent for keys and values: it takes no different types ({key} and {value})",
                "give one type, such as q8_0",
            )
        if not self.has_flash_attention:
            if _is_quantized(value) and any(kind.parts() for kind in kinds):
                raise UnsupportedError(
                    f"llama.cpp quantizes values ({value}) with flash attention only",
                    "leave flash_attention at auto, or quantize the keys alone: q8_0/f16",
                )
            return
        for kind in kinds:
            _check_width(key, "key", _key_width(kind))
            _check_width(value, "value", _value_width(kind))

    def _check_request(self, request: EngineRequest) -> None:
        refuse_settings("llama.cpp", request.settings, _KNOWN_SETTINGS)
        refuse_policy(request, "llama.cpp", "quantize the cache instead: --kv-dtype q8_0 or q4_0")
        if request.parallel.tp > 1 or request.parallel.dcp > 1:
            raise UnsupportedError(
                "llama.cpp splits models by layers, not by heads: kvplan has no --tp or --dcp for it",
                "use --pp, one stage a device (its --split-mode layer); its --split-mode tensor is experimental",
            )
        refuse_parallel(request, "llama.cpp", ("pp", "dp"))
        kv_format = request.choice.kv_format
        if kv_format.native_layers or kv_format.native_windows:
            raise UnsupportedError("llama.cpp stores every layer in the same type", "leave --kv-dtype-skip-layers out")
        if request.sequences > MAX_SEQUENCES:
            raise UnsupportedError(
                f"llama.cpp serves at most {MAX_SEQUENCES} sequences at once, not {request.sequences}",
                "start several servers: --dp",
            )
        if request.context_tokens > request.max_model_len:
            raise UsageError(
                f"a context of {request.context_tokens} tokens is longer than --max-model-len {request.max_model_len}"
            )

    def _with_capacity(
        self, answer: Allocation, request: EngineRequest, devices: tuple[Device, ...], slots: Slots
    ) -> Allocation:
        memory_bytes = request.settings.kv_memory_bytes
        if memory_bytes is None:
            return answer
        capacity = read_capacity(devices, slots, request.max_model_len, memory_bytes)
        if capacity.sequences == 0:
            raise DoesNotFitError(
                f"llama.cpp cannot hold one sequence of {request.max_model_len} tokens in "
                f"{format_bytes(memory_bytes)} a device",
                "lower the context, or quantize the cache: --kv-dtype q8_0 or q4_0",
            )
        return replace(
            answer,
            capacity_tokens=_capacity_tokens(capacity, request),
            max_concurrency=float(capacity.sequences),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ollama(LlamaCpp):
    """Ollama's way of starting llama-server, in which ``OLLAMA_KV_CACHE_TYPE`` is the one choice."""

    name: str = "ollama"

    words: ClassVar[Mapping[str, str]] = {
        "auto": "fp16",
        "f16": "fp16",
        "q8_0": "q8_0",
        "q4_0": "q4_0",
        "fp16": "fp16",
    }
    fixed_options: ClassVar[tuple[str, ...]] = ("swa_full", "unified", "flash_attention", "ubatch")

    def cache_dtype(self, text: str, facts: ModelFacts, stages: tuple[Stage, ...], settings: EngineSettings) -> str:
        """``OLLAMA_KV_CACHE_TYPE``: f16, q8_0 or q4_0 for keys and values alike."""
        if len(set(text.split("/"))) > 1:
            raise UnsupportedError(
                "Ollama gives keys and values one cache type (OLLAMA_KV_CACHE_TYPE)", "write f16, q8_0 or q4_0"
            )
        return LlamaCpp.cache_dtype(self, text, facts, stages, settings)


def _is_quantized(format_name: str) -> bool:
    return "q" in format_name


def _key_width(kind: LayerKind) -> int:
    """``n_embd_head_k``: one head's key, or the latent with its rotary key."""
    if isinstance(kind, HeadedKind):
        return kind.head_dim
    return kind.head_shape()[1] or 0 if kind.kind == "latent" else 0


def _value_width(kind: LayerKind) -> int:
    return kind.v_head_dim or kind.head_dim if isinstance(kind, HeadedKind) else 0


def _check_width(format_name: str, side: str, width: int) -> None:
    if _is_quantized(format_name) and width % _BLOCK:
        raise UnsupportedError(
            f"llama.cpp's {format_name} codes {_BLOCK} elements together, which does not divide a {side} of {width}",
            "use f16 or bf16",
        )


def _capacity_tokens(capacity: Capacity, request: EngineRequest) -> int:
    """Tokens of all sequences together; the model's own length where no cache grows with it."""
    if capacity.cells is not None:
        return request.sequences * capacity.cells
    return request.sequences * max(request.max_model_len, request.facts.max_context_tokens or 0)


ENGINE = LlamaCpp()
PRESETS = {"ollama": Ollama()}
