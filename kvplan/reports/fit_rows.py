"""The rows of a fit report as plain text: verdict, budget lines, what the cache holds."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.core.budget import BudgetLine, RankBudget
from kvplan.core.fit import FitResult
from kvplan.core.units import format_bytes, format_tokens
from kvplan.planning.suggestion import Suggestion

BAR_WIDTH = 60
LINE_HEADER = ("memory of a rank", "size", "share", "known as", "±")

BUDGET_LINES: tuple[tuple[str, str, str], ...] = (
    ("weights", "weights", "█"),
    ("activation", "activations", "▓"),
    ("cuda_graph", "CUDA graphs", "▒"),
    ("non_torch", "driver and libraries", "▒"),
    ("kv_cache", "KV cache", "░"),
)
"""Attribute of RankBudget, its words and the mark of its part of the bar."""


def fit_headline(result: FitResult) -> str:
    """The request in one line."""
    size = result.request.size
    engine = f"{result.engine} {result.engine_version or ''}".strip()
    words = [result.model.name, *placement_words(result), engine, size.choice.kv_format.name]
    words.append(f"{format_tokens(size.context_tokens)} tokens x {size.concurrency:,}")
    return " · ".join(words)


def placement_words(result: FitResult) -> list[str]:
    """``4 x h100-sxm`` and ``tp 4``: the devices and the parallel sizes above 1."""
    request, parallel = result.request, result.request.size.parallel
    name = request.accelerator.name
    devices = f"{request.num_devices} x {name}" if request.num_devices > 1 else name
    sizes = [(name, getattr(parallel, name)) for name in ("tp", "pp", "dp", "dcp")]
    return [devices, *(f"{name} {value}" for name, value in sizes if value > 1)]


def verdict(result: FitResult) -> str:
    """Whether it fits, in words."""
    context = format_tokens(result.request.size.context_tokens)
    asked = result.request.size.concurrency
    if result.missing_bytes:
        return (
            f"Does not start: weights and overhead exceed what {result.engine} takes of a rank by "
            f"{format_bytes(result.missing_bytes)}."
        )
    if not result.starts:
        return f"Does not start: {result.refusal}"
    held = result.max_concurrency
    if result.fits:
        words = "request" if held == 1 else "requests"
        return f"Fits: {held:,} {words} of {context} tokens at once; {asked:,} asked."
    if not held:
        return f"Starts, but not even one request of {context} tokens fits."
    return f"Starts, but holds {held:,} of the {asked:,} requests of {context} tokens at once; the others wait."


def budget_rows(budget: RankBudget) -> list[tuple[str, ...]]:
    """One row for each share of the rank's memory."""
    rows: list[tuple[str, ...]] = []
    for name, words, _ in BUDGET_LINES:
        line: BudgetLine = getattr(budget, name)
        if not line.size_bytes and name in ("cuda_graph", "non_torch", "activation"):
            continue
        error = format_bytes(line.error_bytes) if line.error_bytes else ""
        rows.append((words, format_bytes(line.size_bytes), _share(line, budget), line.certainty, error))
    if budget.unused_bytes:
        rows.append(("not taken by the engine", format_bytes(budget.unused_bytes), "", "", ""))
    return rows


def _share(line: BudgetLine, budget: RankBudget) -> str:
    share = line.size_bytes / budget.memory_bytes
    return "<1%" if 0 < share < 0.005 else f"{share:.0%}"


def budget_bar(budget: RankBudget) -> str:
    """``[████▓▒░░░░  ]``: the shares of a rank's memory, in the order of the rows."""
    held = sum(getattr(budget, name).size_bytes for name, _, _ in BUDGET_LINES)
    whole = max(budget.memory_bytes, held)
    bar, drawn, total = "", 0, 0
    for name, _, mark in BUDGET_LINES:
        total += getattr(budget, name).size_bytes
        end = round(BAR_WIDTH * total / whole)
        bar += mark * (end - drawn)
        drawn = max(end, drawn)
    return f"[{bar:{BAR_WIDTH}}] {format_bytes(budget.memory_bytes)}"


def stage_words(result: FitResult) -> list[str]:
    """How each pipeline stage is called; one stage needs no name."""
    ranks = result.request.size.parallel.tp * result.request.size.parallel.dp
    if len(result.budgets) == 1:
        return [f"each of {ranks} ranks" if ranks > 1 else "the device"]
    each = f", each of {ranks} ranks" if ranks > 1 else ""
    return [f"stage {index + 1} of {len(result.budgets)}{each}" for index in range(len(result.budgets))]


def capacity_rows(result: FitResult) -> list[tuple[str, str, str]]:
    """What the cache holds, and what was asked."""
    needed = format_bytes(result.kv_bytes_needed)
    size = result.request.size
    rows: list[tuple[str, str, str]] = [
        ("needed", needed, f"cache of a rank for {size.concurrency:,} x {format_tokens(size.context_tokens)}")
    ]
    if result.capacity is not None:
        if result.capacity.capacity_tokens is not None:
            rows.append(("capacity", f"{result.capacity.capacity_tokens:,}", "tokens, as the engine logs it"))
        rows.append(("at once", f"{result.max_concurrency:,}", f"requests of {format_tokens(size.context_tokens)}"))
        rows.append(("longest request", f"{result.max_context_tokens:,}", "tokens"))
    if result.max_num_batched_tokens is not None:
        seqs = "" if result.max_num_seqs is None else f", of up to {result.max_num_seqs:,} requests"
        rows.append(("batch", f"{result.max_num_batched_tokens:,}", f"tokens in a step{seqs}"))
    return rows


SUGGESTION_HEADER = ("to make it fit", "what it does", "cache a device", "of", "at once")


def suggestion_rows(suggestions: Sequence[Suggestion]) -> list[tuple[str, ...]]:
    """One row for each change that makes it fit."""
    rows: list[tuple[str, ...]] = []
    for entry in suggestions:
        if entry.result is None:
            continue
        needed, left = format_bytes(entry.kv_bytes_needed or 0), format_bytes(entry.available_bytes or 0)
        rows.append((entry.option, entry.words, needed, left, f"{entry.max_concurrency or 0:,}"))
    return rows


def helpless_lines(suggestions: Sequence[Suggestion]) -> list[str]:
    """One line for each change that looks obvious and does not help."""
    return [entry.line for entry in suggestions if entry.result is None]


def fit_lines(result: FitResult) -> Sequence[str]:
    """``--explain``: every line of every stage's budget as an equation."""
    lines = ["Where every byte goes", ""]
    for words, budget in zip(stage_words(result), result.budgets):
        lines += [words, *(f"  {line}" for line in budget.explanation), ""]
    lines += ["the cache", *(f"  {line}" for line in (result.capacity or result.needed).explanation)]
    return lines
