"""The rows of a recommendation as plain text: the advice in a sentence, before and after, the matrix, the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kvplan.core.advice import ClassicCheck, MatrixRow
from kvplan.core.fit import FitResult
from kvplan.core.units import format_bytes, format_tokens
from kvplan.planning.cache_options import CacheOption
from kvplan.planning.recommendation import Choice, Recommendation
from kvplan.reports.fit_rows import placement_words

MATRIX_HEADER = ("", "context", "concurrency", "memory pressure", "recommendation")
CHANGE_HEADER = ("", "before", "after", "change")
ALTERNATIVE_HEADER = ("instead", "cache", "at once", "tokens/s", "published quality")

NOTHING_FITS = "Nothing that was tried makes everything fit: kvplan fit --search finds devices."

MARKS = {True: "yes", False: "no", None: "?"}
"""Whether a classic rule is met; ``?`` where a value that decides is not known."""


def recommend_headline(answer: Recommendation) -> str:
    """The request in one line."""
    result = answer.native.result
    size, case = result.request.size, answer.case
    engine = f"{result.engine} {result.engine_version or ''}".strip()
    words = [result.model.name, *placement_words(result), engine]
    words += [f"{format_tokens(size.context_tokens)} tokens x {size.concurrency:,}", case.task]
    return " · ".join([*words, *([] if case.quality == "normal" else [f"quality {case.quality}"])])


def advice_sentence(answer: Recommendation) -> str:
    """What to do, in a sentence or two."""
    native, chosen = answer.native, answer.chosen
    if native.result.missing_bytes:
        start = "The weights alone do not fit"
    else:
        need = _need(native)
        start = need[:1].upper() + need[1:]
    cache = f"Use {title(chosen.option)}" if answer.compresses else "Don't compress"
    if answer.measures:
        there = "; ".join(f"{entry.option} ({entry.words})" for entry in answer.measures)
        return f"{cache}, with {there}: {_after(answer)}. {start}."
    if not answer.final.fits:
        return f"{cache}. {start}. {NOTHING_FITS}"
    gain = f"; {_after(answer)}" if answer.compresses else ""
    return f"{cache}: {_need(native)}{gain}."


def _after(answer: Recommendation) -> str:
    """What the cache takes then."""
    needed = f"it takes {format_bytes(answer.final.kv_bytes_needed)}"
    if answer.native.fits and _faster(answer):
        return f"{needed} and decodes faster"
    return f"{needed}{_each(answer.final)}, and everything fits"


def _each(result: FitResult) -> str:
    return " on each device" if result.request.num_devices > 1 else ""


def _need(choice: Choice) -> str:
    option = choice.option
    needed, left = format_bytes(option.needed_bytes), format_bytes(option.result.available_bytes)
    return f"a native cache takes {needed} of the {left} that are left{_each(option.result)}"


def _faster(answer: Recommendation) -> bool:
    before, after = answer.native.tokens_per_second, answer.chosen.tokens_per_second
    return before is not None and after is not None and after > before


def title(option: CacheOption) -> str:
    """``an FP8 cache (fp8)``: what people call it, and the engine's word."""
    if option.word == "auto":
        return f"the model's own cache ({option.format_name})"
    names = {"fp8_e4m3": "FP8", "fp8_ds_mla": "FP8", "int8_per_token_head": "INT8", "nvfp4": "FP4"}
    known = names.get(option.format_name)
    windows = ", windows native" if option.native_windows else ""
    edges = ", first and last layers native" if option.result.request.size.choice.kv_format.native_layers else ""
    if known is None:
        return f"the {option.word} cache{windows}{edges}"
    return f"an {known} cache ({option.word}{windows}{edges})"


def change_rows(answer: Recommendation) -> list[tuple[str, ...]]:
    """Native beside chosen; times are estimates of the roofline, marked ~."""
    before, after = answer.native, answer.chosen
    final = answer.final
    rows: list[tuple[str, ...]] = [
        ("cache of a device", *_pair(before.option.needed_bytes, final.kv_bytes_needed, format_bytes)),
        ("left for it", *_pair(before.result.available_bytes, final.available_bytes, format_bytes)),
    ]
    capacities = [result.capacity.capacity_tokens if result.capacity else None for result in (before.result, final)]
    if None not in capacities:
        rows.append(("capacity, tokens", *_pair(capacities[0], capacities[1], lambda value: f"{value:,}")))
    rows.append(("requests at once", *_pair(before.result.max_concurrency, final.max_concurrency, "{:,}".format)))
    if answer.final is after.result:
        steps = [choice.step.step_seconds if choice.step else None for choice in (before, after)]
        rows.append((f"step, {_batches(answer)}", *_pair(steps[0], steps[1], milliseconds)))
        rows.append(("tokens/s, decoding", *_pair(before.tokens_per_second, after.tokens_per_second, rate)))
    return rows


def _batches(answer: Recommendation) -> str:
    before, after = answer.native.batch, answer.chosen.batch
    return f"{before} at once" if before == after else f"{before} and {after} at once"


def _pair(before: float | None, after: float | None, write: Callable[[Any], str]) -> tuple[str, str, str]:
    texts = ["unknown" if value is None else write(value) for value in (before, after)]
    change = "" if not before or after is None or before == float("inf") else f"{after / before - 1:+.0%}"
    return (texts[0], texts[1], "" if change in ("+0%", "-0%") else change)


def milliseconds(seconds: float | None) -> str:
    """An estimate in milliseconds."""
    return "unknown" if seconds is None else f"~{seconds * 1000:.3g} ms"


def rate(per_second: float | None) -> str:
    """An estimate of tokens a second, to two digits or so."""
    return "unknown" if per_second is None else f"~{per_second:,.0f}"


def matrix_rows(matrix: Sequence[MatrixRow], applies: MatrixRow | None) -> list[tuple[str, ...]]:
    """The classic matrix; ``>`` marks the row that applies."""
    return [
        (">" if row == applies else "", row.context, row.concurrency, row.memory_pressure, row.recommendation)
        for row in matrix
    ]


def classic_lines(checks: Sequence[ClassicCheck]) -> list[tuple[str, str, str]]:
    """The rules beside the matrix: side, words, and whether each is met with its numbers."""
    return [(check.rule.side, check.rule.text, f"{MARKS[check.met]}: {check.shown}") for check in checks]


def alternative_rows(answer: Recommendation) -> list[tuple[str, ...]]:
    """Other caches with what each costs."""
    rows: list[tuple[str, ...]] = []
    asked = answer.case.concurrency
    for choice in answer.alternatives:
        option = choice.option
        held = f"{choice.result.max_concurrency:,}" + ("" if choice.fits else " of " + format(asked, ","))
        speed = rate(choice.tokens_per_second)
        rows.append((option.word, format_bytes(option.needed_bytes), held, speed, quality_brief(choice)))
    return rows


def quality_words(choice: Choice) -> str:
    """The known figure in one phrase."""
    if choice.option.word == "auto":
        return "as it is"
    return "nothing published" if choice.quality is None else choice.quality.shown


def quality_brief(choice: Choice) -> str:
    """The same for a narrow column: change, metric, model."""
    if choice.option.word == "auto":
        return "as it is"
    if choice.quality is None:
        return "not published"
    return choice.quality.brief


def quality_lines(answer: Recommendation) -> list[str]:
    """What the chosen cache is expected to cost, what it must pass, and how to measure it."""
    chosen = answer.chosen
    if not answer.compresses or chosen.gate is None:
        return []
    lines = [f"Quality: {quality_words(chosen)}"]
    if chosen.quality is not None:
        lines.append(f"  source: {chosen.quality.row.source}")
    lines.append(f"  accept when: {chosen.gate.shown} ({answer.case.quality})")
    if chosen.evaluate:
        lines.append(f"  measure it: {chosen.evaluate}")
    return lines


def speed_lines(answer: Recommendation) -> list[str]:
    """Bound by memory or compute, and from where a smaller cache is faster too."""
    case = answer.case
    if case.bound is None:
        return ["Speed: not known for this accelerator (bandwidth or peak rate missing)"]
    step, prefill = case.kv_step_share_ratio, case.prefill_share_ratio
    words = [f"decoding is bound by {case.bound}"]
    if step is not None:
        words.append(f"the cache is {step:.0%} of a step")
    if prefill is not None:
        words.append(f"prompts are {prefill:.0%} of the work")
    if case.break_even_tokens not in (None, float("inf")):
        words.append(f"8 bits decode faster beyond {format_tokens(round(case.break_even_tokens or 0))} tokens")
    return [f"Speed (roofline, ~): {', '.join(words)}"]
