"""A fit in words (``8xh100``, ``32k``, ``0.92``) becomes a FitRequest."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from kvplan.core.accelerator import Accelerator
from kvplan.core.engine import Engine, EngineSettings
from kvplan.core.errors import UsageError
from kvplan.core.fit import FitRequest
from kvplan.core.frozen import dataclass
from kvplan.core.model import Model
from kvplan.core.parallel import Parallel
from kvplan.core.units import format_bytes, parse_bytes, parse_ratio
from kvplan.core.weights import WeightFormat, get_weight_format
from kvplan.planning.hardware_search import SearchWords
from kvplan.planning.placement import choose_parallel
from kvplan.planning.request import RequestWords, build_request, has_encoder
from kvplan.planning.settings import SettingWords, read_settings
from kvplan.specs.accelerator import custom_accelerator, load_accelerator, parse_accelerator

ASSUMED_DEVICE = "h100-sxm"
"""Whose kernels are assumed where only the memory of a device is stated."""

USAGES = ("serve", "llm")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitWords:
    """What a user says about one start; the fields are the command line's options."""

    model: str | None = None
    gpu: str | None = None
    count: int | None = None
    gpu_memory: str | None = None
    engine: str = "vllm"
    ctx: str | None = None
    concurrency: int = 1
    kv_dtype: str = "auto"
    kv_dtype_skip_layers: str | None = None
    encoder_tokens: str | None = None
    mtp: bool = False
    tp: int | None = None
    pp: int | None = None
    dp: int | None = None
    dcp: int = 1
    enable_expert_parallel: bool = False
    weights: str | None = None
    max_model_len: str | None = None
    max_num_batched_tokens: str | None = None
    max_num_seqs: str | None = None
    gpu_memory_utilization: str | None = None
    block_size: str | None = None
    attention_backend: str | None = None
    no_prefix_caching: bool = False
    num_speculative_tokens: str | None = None
    enforce_eager: bool = False
    usage: str = "serve"
    multimodal: bool = False


def build_fit_request(model: Model, words: FitWords, engine: Engine) -> FitRequest:
    """The FitRequest for a model and an engine. Raises UsageError, UnknownNameError or UnsupportedError.

    ``--max-model-len`` defaults to ``--ctx``, and both to the model's own maximum.
    """
    if words.usage not in USAGES:
        raise UsageError(f"--usage {words.usage!r} is none", f"allowed: {', '.join(USAGES)}")
    accelerator, count = read_devices(words)
    context = words.ctx or words.max_model_len or _longest(model)
    parallel = choose_parallel(model.architecture, count, words.tp, words.pp, words.dp, words.dcp)
    asked = _request_words(words, parallel, _settings(words, accelerator))
    return FitRequest(
        size=build_request(model, context, asked, engine),
        accelerator=accelerator,
        weight_format=_weight_format(model, words),
        memory_utilization=_utilization(words.gpu_memory_utilization),
        expert_parallel=words.enable_expert_parallel,
        eager=words.enforce_eager,
        usage=words.usage,
        text_only=serves_text(model, words),
    )


def search_words(model: Model, words: FitWords) -> SearchWords:
    """What a search asks of every device; devices and placements are the search's to choose. Raises UsageError."""
    placed = ("gpu", "count", "gpu_memory", "tp", "pp", "dp")
    given = [name for name in placed if getattr(words, name) is not None]
    if given:
        option = given[0].replace("_", "-")
        raise UsageError(f"--search chooses the devices and the placement itself: leave --{option} out")
    return SearchWords(
        context=words.ctx or words.max_model_len or _longest(model),
        words=_request_words(words, Parallel(), _settings(words, None)),
        weight_format=_weight_format(model, words),
        memory_utilization=_utilization(words.gpu_memory_utilization),
        eager=words.enforce_eager,
        usage=words.usage,
        text_only=serves_text(model, words),
    )


def read_devices(words: FitWords) -> tuple[Accelerator, int | None]:
    """The device and how many; this machine's own where none is named."""
    memory = None if words.gpu_memory is None else parse_bytes(words.gpu_memory, "--gpu-memory")
    if words.gpu is None and memory is not None:
        device = custom_accelerator(memory, load_accelerator(ASSUMED_DEVICE))
        return replace(device, name=f"{format_bytes(memory)} (kernels like {ASSUMED_DEVICE})"), words.count
    accelerator, count = parse_accelerator(words.gpu or "auto")
    if words.gpu is None and accelerator.name == "cpu":
        raise UsageError(
            "no GPU was found on this machine", "name one with --gpu, such as h100, or its memory with --gpu-memory"
        )
    if memory is not None:
        accelerator = custom_accelerator(memory, accelerator)
    if words.count is not None and count not in (1, words.count):
        raise UsageError(f"--gpu {words.gpu} are {count} devices, --count says {words.count}")
    stated = words.count if words.count is not None else (count if count > 1 else None)
    if stated is not None and not 1 <= stated <= 1024:
        raise UsageError(f"--count must lie between 1 and 1024, not {stated}")
    return accelerator, stated


def _request_words(words: FitWords, parallel: Parallel, settings: EngineSettings) -> RequestWords:
    return RequestWords(
        concurrency=words.concurrency,
        kv_dtype=words.kv_dtype,
        skip_layers=words.kv_dtype_skip_layers,
        encoder_tokens=words.encoder_tokens,
        include_draft=words.mtp,
        parallel=parallel,
        settings=settings,
    )


def _weight_format(model: Model, words: FitWords) -> WeightFormat:
    return get_weight_format(words.weights or model.weights.weight_format or model.dtype)


def serves_text(model: Model, words: FitWords) -> bool:
    """Whether towers are left out; an encoder that the decoder attends to is always loaded."""
    return not words.multimodal and not has_encoder(model)


def _settings(words: FitWords, accelerator: Accelerator | None) -> EngineSettings:
    stated = read_settings(
        SettingWords(
            block_size=words.block_size,
            attention_backend=words.attention_backend,
            prefix_caching=False if words.no_prefix_caching else None,
            max_model_len=words.max_model_len,
            max_num_batched_tokens=words.max_num_batched_tokens,
            max_num_seqs=words.max_num_seqs,
            num_speculative_tokens=words.num_speculative_tokens,
        )
    )
    return replace(stated, accelerator=accelerator)


def _longest(model: Model) -> str:
    longest = model.architecture.max_context_tokens
    if longest is None:
        raise UsageError(f"{model.name} states no longest context", "give --ctx")
    return str(longest)


def _utilization(text: str | None) -> Fraction | None:
    return None if text is None else parse_ratio(text, "--gpu-memory-utilization")
