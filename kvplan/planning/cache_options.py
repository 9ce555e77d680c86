"""The caches that an engine can switch on for a model on a device, each fitted: what a recommendation chooses from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

from kvplan.core.attention import SlidingWindow
from kvplan.core.engine import Engine
from kvplan.core.errors import KvplanError
from kvplan.core.fit import FitRequest, FitResult
from kvplan.core.frozen import dataclass
from kvplan.core.model import Model
from kvplan.planning.fit import fit_model
from kvplan.planning.request import RequestWords, build_choice

NATIVE_WORD = "auto"

WORDS = (
    *("fp8", "fp8_e4m3", "fp8_e5m2", "mxfp8", "fp8_per_token_head", "int8_per_token_head", "int8", "q8_0", "8bit", "8"),
    *("hqq8", "turboquant_k8v4", "q8_0/q5_1", "q8_0/q4_0", "q5_1", "6bit", "6", "nvfp4", "nvfp4_ds_mla"),
    *("int4_per_token_head", "int4", "fp4_mx_block16", "turboquant_4bit_nc", "q4_0", "iq4_nl", "4bit", "4"),
    *("quanto4", "hqq4", "turboquant_k3v4_nc", "turboquant_3bit_nc", "turbo_quant", "3bit", "3", "quanto2", "hqq2"),
    "2bit",
)
"""Words of all engines for a smaller cache, from more bits to fewer and, at equal bits, the usual one first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOption:
    """One way to store the cache: the engine's ``word``, whether sliding-window layers stay native, and the fit."""

    word: str
    native_windows: bool
    result: FitResult

    @property
    def format_name(self) -> str:
        """kvplan's name of what is stored, or ``K/V``."""
        return self.result.request.size.choice.kv_format.name

    @property
    def bits(self) -> Fraction:
        """Bits of an element, keys and values together, scales not counted."""
        kv_format = self.result.request.size.choice.kv_format
        return (kv_format.key.nominal_bits + kv_format.value.nominal_bits) / 2

    @property
    def needed_bytes(self) -> int:
        """The cache of the asked requests on the fullest rank."""
        return self.result.kv_bytes_needed

    @property
    def pressure_ratio(self) -> float:
        """What the asked requests need of what is left for the cache; infinite where nothing is."""
        available = self.result.available_bytes
        return self.needed_bytes / available if available else float("inf")


@dataclass(frozen=True, slots=True)
class Refused:
    """A cache that the engine has no way to store for this model on this device, in its own words."""

    word: str
    reason: str


def native_option(model: Model, request: FitRequest, engine: Engine) -> CacheOption:
    """The request as it is, with nothing compressed that the checkpoint does not compress itself."""
    return CacheOption(word=NATIVE_WORD, native_windows=False, result=fit_model(model, request, engine))


def cache_options(native: CacheOption, engine: Engine) -> tuple[tuple[CacheOption, ...], tuple[Refused, ...]]:
    """Every smaller cache that the engine starts with on this device, and those that it refuses, with the reason."""
    options: list[CacheOption] = []
    refused: list[Refused] = []
    seen = {native.format_name}
    for word in WORDS:
        try:
            option = _option(native, engine, word)
        except KvplanError as error:
            if not _unknown(error):
                refused.append(Refused(word, error.message))
            continue
        if option.format_name in seen:
            continue
        seen.add(option.format_name)
        if option.needed_bytes < native.needed_bytes:
            options += [option, *_with_native_windows(option, native, engine)]
        else:
            refused.append(Refused(word, "it would not make this model's cache smaller"))
    return tuple(options), tuple(refused)


def _unknown(error: KvplanError) -> bool:
    """Whether the engine has no such word at all: nothing that a reader would miss."""
    return "has no cache dtype" in error.message


def _option(native: CacheOption, engine: Engine, word: str) -> CacheOption:
    result = native.result
    size = result.request.size
    asked = RequestWords(kv_dtype=word, include_draft=size.include_draft, settings=size.settings)
    choice = replace(size.choice, kv_format=build_choice(result.model, asked, engine).kv_format)
    request = replace(result.request, size=replace(size, choice=choice))
    return CacheOption(word=word, native_windows=False, result=fit_model(result.model, request, engine))


def _with_native_windows(option: CacheOption, native: CacheOption, engine: Engine) -> Iterator[CacheOption]:
    """The same with sliding-window layers in the model's dtype, where the engine can (vLLM) and the model has both."""
    model, size = option.result.model, option.result.request.size
    windows = [kind for layer in model.architecture.layers for kind in layer if isinstance(kind, SlidingWindow)]
    if engine.name != "vllm" or not windows or len(windows) == len(model.architecture.layers):
        return
    kv_format = replace(size.choice.kv_format, native_windows=True)
    request = replace(option.result.request, size=replace(size, choice=replace(size.choice, kv_format=kv_format)))
    try:
        kept = CacheOption(word=option.word, native_windows=True, result=fit_model(model, request, engine))
    except KvplanError:
        return
    if kept.needed_bytes < native.needed_bytes:
        yield kept


BOUNDARY_LAYERS = 2
"""Layers at each end that stay native at 4 bits and below (vLLM 0.33 ``quantization/turboquant/config.py``)."""


def with_native_layers(option: CacheOption, engine: Engine) -> CacheOption | None:
    """The same with the first and last layers in the model's dtype; None where engine or format has its own way."""
    model, size = option.result.model, option.result.request.size
    layers = len(model.architecture.layers)
    if engine.name != "vllm" or size.choice.kv_format.boundary_layers or layers <= 2 * BOUNDARY_LAYERS:
        return None
    ends = frozenset(range(BOUNDARY_LAYERS)) | frozenset(range(layers - BOUNDARY_LAYERS, layers))
    kv_format = replace(size.choice.kv_format, native_layers=ends)
    request = replace(option.result.request, size=replace(size, choice=replace(size.choice, kv_format=kv_format)))
    try:
        return replace(option, result=fit_model(model, request, engine))
    except KvplanError:
        return None
