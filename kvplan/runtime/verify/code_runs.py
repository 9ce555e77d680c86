"""One run of a skeleton: a prompt and a few tokens more, in a cache whose every layer is measured and predicted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache

from kvplan.core.errors import KvplanError, UnsupportedError
from kvplan.core.model import Model
from kvplan.core.search import last_true
from kvplan.core.units import MAX_TOKENS
from kvplan.core.verification import Check
from kvplan.runtime.attention import attending
from kvplan.runtime.transformers_cache import CompressedCache, CompressedLayer
from kvplan.runtime.verify.code_prediction import LayerBytes, Run, predict_compressed, predict_native
from kvplan.runtime.verify.cpu_products import fast_products
from kvplan.runtime.verify.decoder_run import (
    HeldBytes,
    encoder_argument,
    held_bytes,
    new_cache,
    parts_of,
    run_decoder,
    storage_bytes,
)
from kvplan.runtime.verify.skeleton import Skeleton, first_line, on_device

GROUP = "model code"
STEPS = 3
"""Tokens that are decoded one by one after the prompt."""

_TOKENS, _ENCODER_TOKENS, _BEYOND = 300, 40, 17
"""A prompt without windows, an encoder's states, and tokens that a prompt is longer than the largest window."""

_MOST_WORK = {"cpu": 1e11}
_MOST_WORK_ELSEWHERE = 4e14
"""Floating-point operations of one prompt: some 10 s on two cores, seconds on a GPU."""

_META = torch.device("meta")


@dataclass(frozen=True, kw_only=True)
class CodeRun:
    """``size`` in transformers' own cache, or in a compressed one of the words ``kv_dtype`` and ``policy``."""

    size: Run
    device: torch.device
    kv_dtype: str | None = None
    policy: str = "none"

    @property
    def words(self) -> str:
        """The run as a report names it."""
        place = " on the meta device" if self.device.type == "meta" else ""
        return f"{self.cache}, {self.size.batch} x {self.size.tokens:,} tokens{place}"

    @property
    def cache(self) -> str:
        """The cache as a report names it."""
        if self.kv_dtype is None:
            return "DynamicCache"
        return "CompressedCache " + " ".join(word for word in (self.kv_dtype, self.policy) if word != "none")


def plan_runs(
    model: Model,
    skeleton: Skeleton,
    device: torch.device,
    batches: Iterable[int],
    compressions: Iterable[tuple[str, str]],
    tokens: int | None,
) -> list[CodeRun]:
    """The runs of a skeleton: its own cache for every batch, then each compressed cache for the longest, largest one.

    A prompt beyond a window that takes ``device`` too long runs on the meta device, besides a shorter one here.
    """
    encoder_tokens = _ENCODER_TOKENS if encoder_argument(skeleton.model) else 0
    windows = _windows(model)
    wanted = tokens or _prompt_tokens(model, windows)
    here = [
        CodeRun(size=Run(batch=batch, tokens=min(wanted, most), encoder_tokens=encoder_tokens), device=device)
        for batch in batches
        for most in (_affordable_tokens(model, skeleton, device, batch),)
    ]
    longest = max(here, key=lambda run: (run.size.tokens, run.size.batch))
    far = []
    if longest.size.tokens < wanted and (windows or tokens):
        far = [replace(longest, size=replace(longest.size, tokens=wanted), device=_META)]
    return [*here, *far, *(replace(longest, kv_dtype=dtype, policy=policy) for dtype, policy in compressions)]


def check_run(model: Model, skeleton: Skeleton, run: CodeRun) -> Iterator[Check]:
    """Every layer after the prompt, and after a few tokens more.

    ``model`` has the skeleton's layers. Raises UnsupportedError where the cache cannot hold this model, or its code
    does not run on the device.
    """
    code = skeleton.model if run.device.type != "meta" else on_device(skeleton.values, run.device)
    cache = _make_cache(model, code, run)
    with torch.no_grad(), fast_products(run.device), _attending(code, cache):
        cache = _step(code, run.size.tokens, cache, run)
        yield from _compare(_predict(model, cache, run, run.size), _measure(code, cache), run, "after the prompt")
        for _ in range(STEPS):
            cache = _step(code, 1, cache, run)
        grown = replace(run.size, tokens=run.size.tokens + STEPS)
        yield from _compare(_predict(model, cache, run, grown), _measure(code, cache), run, f"{STEPS} tokens later")


def _windows(model: Model) -> list[int]:
    """The windows that a prompt within the model's longest context can leave behind."""
    longest = model.architecture.max_context_tokens or MAX_TOKENS
    windows = [kind.window_tokens for layer in model.architecture.layers for kind in layer if kind.window_tokens]
    return [window for window in windows if window + _BEYOND + STEPS <= longest]


def _prompt_tokens(model: Model, windows: list[int]) -> int:
    """Beyond the largest window, or enough for every residual, within the longest context."""
    longest = model.architecture.max_context_tokens or MAX_TOKENS
    return min(max(windows) + _BEYOND if windows else _TOKENS, longest - STEPS)


def _affordable_tokens(model: Model, skeleton: Skeleton, device: torch.device, batch: int) -> int:
    """The longest prompt that ``device`` computes in seconds, by the weights and the attention of all layers."""
    limit = _MOST_WORK.get(device.type, _MOST_WORK_ELSEWHERE)
    heads = getattr(skeleton.model.config.get_text_config(decoder=True), "num_attention_heads", 1)
    widths = [kind.head_shape()[1] or 0 for layer in model.architecture.layers for kind in layer]
    once, square = 2 * skeleton.num_parameters, 4 * heads * sum(widths)
    longest = last_true(lambda tokens: batch * (once * tokens + square * tokens**2) <= limit)
    return max(1, longest or 0)


def _make_cache(model: Model, code: Any, run: CodeRun) -> Any:
    own = new_cache(code, encoder_tokens=run.size.encoder_tokens)
    if run.kv_dtype is None:
        return own
    if own is None:
        raise UnsupportedError("transformers gives this model no cache of its own classes")
    compressed = CompressedCache.from_words(code.config, run.kv_dtype, run.policy, model.dtype)
    if isinstance(own, EncoderDecoderCache):
        return EncoderDecoderCache(compressed, DynamicCache(config=code.config.get_text_config(decoder=True)))
    return compressed


def _attending(code: Any, cache: Any) -> AbstractContextManager[Any]:
    compressed = parts_of(cache)[0]
    return attending(code, compressed) if isinstance(compressed, CompressedCache) else nullcontext()


def _step(code: Any, tokens: int, cache: Any, run: CodeRun) -> Any:
    size = run.size
    try:
        return run_decoder(code, tokens, cache, batch=size.batch, encoder_tokens=size.encoder_tokens, device=run.device)
    except (KvplanError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # the models' code raises anything at all
        raise UnsupportedError(f"this code did not run: {first_line(error)}") from error


def _predict(model: Model, cache: Any, run: CodeRun, size: Run) -> list[LayerBytes]:
    if run.kv_dtype is None:
        return predict_native(model, size)
    return predict_compressed(model, size, parts_of(cache)[0].choice)


def _measure(code: Any, cache: Any) -> HeldBytes:
    """What is held: rows that views show in transformers' own layers, whole storages in compressed ones."""
    held = held_bytes(code, cache)
    own = parts_of(cache)[0]
    if not isinstance(own, CompressedCache):
        return held
    rows = [
        storage_bytes(layer.cache.tensors().values()) if isinstance(layer, CompressedLayer) and layer.cache else 0
        for layer in own.layers
    ]
    return replace(held, layers=tuple(map(sum, zip(held.layers, rows))))


def _compare(predicted: list[LayerBytes], measured: HeldBytes, run: CodeRun, moment: str) -> Iterator[Check]:
    """A check for each layer that stores something, or should."""
    detail = f"{run.words}, {moment}"
    for name, claimed, found in _figures(predicted, measured):
        if claimed or found:
            yield Check(group=GROUP, what=name, predicted_bytes=claimed, measured_bytes=found, detail=detail)


def _figures(predicted: list[LayerBytes], measured: HeldBytes) -> Iterator[tuple[str, int, int]]:
    if len(measured.layers) == 1 < len(predicted):  # RWKV: one tensor for all layers
        own = sum(layer.own for layer in predicted)
        yield f"layers 0 to {len(predicted) - 1} {predicted[0].kinds}", own, measured.layers[0]
        return
    together = not measured.cross  # cross-attention layers of a decoder alone lie among the others
    nothing = LayerBytes(kinds="that the spec does not have")
    for index, (layer, found) in enumerate(zip_longest(predicted, measured.layers)):
        claimed = layer or nothing
        yield f"layer {index} {claimed.kinds}", claimed.own + (claimed.cross if together else 0), found or 0
    for index, (layer, found) in enumerate(zip_longest(predicted, measured.cross)):
        if not together:
            yield f"layer {index} cross_attention", (layer or nothing).cross, found or 0
    yield "state on the model's modules", sum(layer.modules for layer in predicted), measured.modules
