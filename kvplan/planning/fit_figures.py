"""The data of fit's pictures: memory against context for each cache format, and the budget of a rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from kvplan.core.engine import Engine
from kvplan.core.errors import KvplanError
from kvplan.core.fit import FitResult
from kvplan.core.geometry import CacheChoice
from kvplan.planning.fit import build_budget_request, without_memory
from kvplan.planning.request import RequestWords, build_choice

FORMATS = ("auto", "fp8", "q8_0", "8bit", "int4_per_token_head", "q4_0", "nvfp4", "4bit")
"""Words of different engines for their 16-, 8- and 4-bit caches; those that the engine lacks are passed over."""

MAX_FORMATS = 3
SHORTEST = 1024


def context_steps(longest: int) -> list[int]:
    """Powers of two from 1k tokens up, and the longest context."""
    steps = []
    tokens = SHORTEST
    while tokens < longest:
        steps.append(tokens)
        tokens *= 2
    return [*steps, longest]


def memory_curves(result: FitResult, engine: Engine) -> tuple[tuple[str, tuple[tuple[int, int], ...]], ...]:
    """For each cache format, the memory of the fullest rank against the context of all asked requests."""
    longest = result.model.architecture.max_context_tokens or result.request.size.context_tokens
    contexts = context_steps(max(longest, result.request.size.context_tokens))
    return tuple((name, tuple(_points(result, choice, engine, contexts))) for name, choice in _choices(result, engine))


def _choices(result: FitResult, engine: Engine) -> list[tuple[str, CacheChoice]]:
    size = result.request.size
    found: dict[str, CacheChoice] = {size.choice.kv_format.name: size.choice}
    for word in FORMATS:
        words = RequestWords(kv_dtype=word, include_draft=size.include_draft, settings=size.settings)
        try:
            choice = build_choice(result.model, words, engine)
        except KvplanError:
            continue
        if len(found) < MAX_FORMATS:
            found.setdefault(choice.kv_format.name, choice)
    return list(found.items())


def _points(result: FitResult, choice: CacheChoice, engine: Engine, contexts: list[int]) -> Iterator[tuple[int, int]]:
    """(context tokens, bytes of a rank: weights, overhead and cache)."""
    budget = result.fullest
    fixed = sum(getattr(budget, name).size_bytes for name in ("weights", "activation", "cuda_graph", "non_torch"))
    size = replace(result.request.size, choice=choice)
    asked = build_budget_request(result.model, replace(result.request, size=size), engine).allocation
    settings = replace(asked.settings, max_model_len=None)
    for tokens in contexts:
        question = replace(without_memory(asked), context_tokens=tokens, settings=settings)
        try:
            allocation = engine.allocate(replace(question, settings=replace(settings, kv_memory_bytes=None)))
        except KvplanError:
            return
        yield tokens, fixed + max(rank.allocated_bytes for rank in allocation.stages)
