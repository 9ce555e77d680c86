"""What the rules of advice look at: one request on its hardware, in numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kvplan.core.advice import Case
from kvplan.core.attention import Latent
from kvplan.core.fit import FitResult
from kvplan.core.frozen import dataclass
from kvplan.core.model import Model
from kvplan.core.quality import SpeedRow
from kvplan.core.roofline import prefill_share_ratio
from kvplan.planning.cache_options import CacheOption
from kvplan.planning.size import textbook_bytes, uncompressed_bytes
from kvplan.planning.step_estimate import break_even, cache_speed, prompt_seconds, step_of, widest_head

DEFAULT_OUTPUT_TOKENS = 1024
"""Tokens taken to be generated where the user says nothing; the rest of the context is the prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is served, and how much quality may cost. ``output_tokens`` of each request's context are generated."""

    task: str = "chat"
    quality: str = "normal"
    output_tokens: int | None = None
    shared_prefixes: bool = False


def build_case(
    native: CacheOption, eight_bit: CacheOption | None, wishes: Wishes, speeds: Sequence[SpeedRow], loss: float | None
) -> Case:
    """The case; ``loss`` is the quality that 8 bits are known to cost, and None where nothing is known."""
    result = native.result
    size, device = result.request.size, result.request.accelerator
    speed = cache_speed(result, speeds)
    batch = batch_of(result)
    step = step_of(result, speed, batch)
    prompt, output = prompt_and_output(result, wishes)
    saved = increase = even = None
    if eight_bit is not None:
        smaller = cache_speed(eight_bit.result, speeds)
        even = break_even(result, speed, smaller)
        saved = 1 - eight_bit.needed_bytes / native.needed_bytes
        after = step_of(eight_bit.result, smaller, batch)
        if step and after and step.step_seconds and after.step_seconds:
            increase = after.step_seconds / step.step_seconds - 1
    return Case(
        context_tokens=size.context_tokens,
        concurrency=size.concurrency,
        pressure_ratio=native.pressure_ratio,
        pressure_8bit_ratio=(eight_bit or native).pressure_ratio,
        kv_share_ratio=result.kv_bytes_needed / device.memory_bytes,
        bound=step.bound if step else None,
        kv_step_share_ratio=step.kv_share_ratio if step else None,
        break_even_tokens=even,
        prefill_share_ratio=prefill_share_ratio(prompt_seconds(result, prompt), output, step) if step else None,
        vendor=device.vendor,
        compute_capability=device.compute_capability,
        gfx_target=device.gfx_target,
        attention=attention_type(result.model),
        head_dim=widest_head(result.model),
        window_tokens=min(_windows(result.model), default=None),
        shrink_ratio=_shrink(result),
        step_increase_ratio=increase,
        memory_saved_ratio=saved,
        quality_loss_ratio=loss,
        task=wishes.task,
        quality=wishes.quality,
        engine=result.engine,
        prefix_reuse=wishes.shared_prefixes,
        speculative=bool(size.settings.num_speculative_tokens),
    )


def batch_of(result: FitResult) -> int:
    """Sequences of one replica that are asked for and held at once; at least one."""
    asked = result.request.size.parallel.sequences_per_replica(result.request.size.concurrency)[0]
    return max(1, min(asked, result.max_concurrency_at_context))


def prompt_and_output(result: FitResult, wishes: Wishes) -> tuple[int, int]:
    """(prompt, output) tokens of one request; together its context."""
    context = result.request.size.context_tokens
    output = min(wishes.output_tokens or DEFAULT_OUTPUT_TOKENS, context - 1) or 1
    return max(1, context - output), output


def attention_type(model: Model) -> str:
    """``mha``, ``gqa``, ``mqa``, ``mla``, ``hybrid`` (recurrent layers besides), ``state`` or ``none``."""
    kinds = [kind for layer in model.architecture.layers for kind in layer]
    grows = any(kind.parts() for kind in kinds)
    if any(kind.states() for kind in kinds):
        return "hybrid" if grows else "state"
    if not grows:
        return "none"
    if any(isinstance(kind, Latent) for kind in kinds):
        return "mla"
    heads = max(kind.head_shape()[0] or 0 for kind in kinds)
    if heads == 1:
        return "mqa"
    return "mha" if heads == model.architecture.num_heads else "gqa"


def _windows(model: Model) -> list[int]:
    return [kind.window_tokens for layer in model.architecture.layers for kind in layer if kind.window_tokens]


def _shrink(result: FitResult) -> float | None:
    """How many times smaller than the textbook's figure the architecture makes the cache."""
    size = result.request.size
    plain = replace(size, choice=replace(size.choice, kv_format=size.choice.kv_format.all_native()))
    stored = uncompressed_bytes(result.model.architecture.layers, plain)
    return textbook_bytes(result.model, plain) / stored if stored else None
