"""What is not recommended: alternatives worth a look, and options that are rejected, each with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from kvplan.core.advice import Match, MatrixRow
from kvplan.core.engine import Engine
from kvplan.core.errors import KvplanError
from kvplan.formats import parse_kv_format
from kvplan.planning.cache_options import CacheOption, Refused
from kvplan.planning.fit import build_budget_request
from kvplan.planning.recommendation import Rejected
from kvplan.policies import get_policy
from kvplan.specs.advice import Advice

MOST_ALTERNATIVES, MOST_REJECTED = 4, 6
"""Longer lists are not read."""

LEAST_BITS = 4
"""Fewer bits than this for keys or values are never recommended."""

_EIGHT_SUFFICE = "8 bits suffice, and 4 lose more on hard tasks (published figures above)"
_LOW_BITS = "below 4 bits reasoning and very long contexts lose up to 20 points (vLLM's TurboQuant study, 2026-05-11)"
_COARSE = "same bytes as fp8_e4m3, with twice the rounding error (2 mantissa bits, not 3)"


def list_alternatives(
    native: CacheOption, options: Sequence[CacheOption], chosen: CacheOption, advice: Advice
) -> tuple[CacheOption, ...]:
    """Other caches: those that hold everything first, then by bits; one of each number of bits and kind."""
    rank = {name: index for index, name in enumerate(_known_formats(advice))}
    others = [
        option
        for option in (native, *options)
        if option.format_name != chosen.format_name
        and not option.native_windows
        and option.format_name in rank | {native.format_name: -1}
        and _lowest_bits(option) >= LEAST_BITS
    ]
    others.sort(key=lambda option: (not option.result.fits, -option.bits, rank.get(option.format_name, -1)))
    return tuple(others[:MOST_ALTERNATIVES])


def reject(
    native: CacheOption,
    options: Sequence[CacheOption],
    refused: Sequence[Refused],
    chosen: CacheOption,
    matches: Sequence[Match],
    engine: Engine,
    advice: Advice,
) -> tuple[Rejected, ...]:
    """What looks obvious and is not advised: by the rules, by the number of bits, or because the engine cannot."""
    found = [*_avoided(matches, chosen), *_dropping(native, engine), *_too_low(options), *_coarse(options)]
    asked = {text for match in matches[:1] for name in match.rule.advice for text in advice.options[name].formats}
    asked |= {"fp8"} if "fp8_e4m3" in asked else set()
    found += [Rejected(entry.word, entry.reason) for entry in refused if entry.word in asked]
    unique: dict[str, Rejected] = {}
    for entry in found:
        unique.setdefault(entry.option, entry)
    return tuple(unique.values())[:MOST_REJECTED]


def differs_from_matrix(row: MatrixRow, chosen: CacheOption, native: CacheOption, advice: Advice) -> str | None:
    """Why the advice is not the classic row's, in a line; None where it is."""
    compresses = chosen.format_name != native.format_name
    if not compresses and "native" in row.advice:
        return None
    context, eight_bits, pruning = advice.differences
    if not compresses:
        return context
    if "evict" in row.advice:
        return pruning
    if row.advice == ("native",):
        return context
    if chosen.bits != 8:
        return pruning
    return None if "int8" in chosen.format_name else eight_bits


def _avoided(matches: Sequence[Match], chosen: CacheOption) -> Iterator[Rejected]:
    """What the rules that apply say to avoid; eviction has a line of its own."""
    for match in matches:
        for name in match.rule.avoid:
            if name == "8bit":
                yield Rejected("8 bits", match.rule.reason)
            elif name == "4bit" and chosen.bits == 8 and chosen.result.fits:
                yield Rejected("4 bits", _EIGHT_SUFFICE)
            elif name == "4bit" and chosen.bits > LEAST_BITS:
                yield Rejected("4 bits", match.rule.reason)


def _dropping(native: CacheOption, engine: Engine) -> Iterator[Rejected]:
    """Dropping tokens, in the words with which the engine refuses it."""
    request = native.result.request
    choice = replace(request.size.choice, policy=get_policy("h2o:keep=0.5"))
    asked = replace(request, size=replace(request.size, choice=choice))
    try:
        engine.allocate(build_budget_request(native.result.model, asked, engine).allocation)
    except KvplanError as error:
        yield Rejected("token pruning", error.message)


def _too_low(options: Sequence[CacheOption]) -> Iterator[Rejected]:
    low = [option.word for option in options if _lowest_bits(option) < LEAST_BITS and not option.native_windows]
    if low:
        yield Rejected(", ".join(low), _LOW_BITS)


def _coarse(options: Sequence[CacheOption]) -> Iterator[Rejected]:
    names = {option.format_name for option in options}
    if {"fp8_e5m2", "fp8_e4m3"} <= names:
        yield Rejected("fp8_e5m2", _COARSE)


def stored_names(name: str, advice: Advice) -> list[str]:
    """kvplan's names of the formats that an option of the advice stands for, the usual first; none for measures."""
    return [parse_kv_format(text, "bf16").name for text in advice.options[name].formats]


def _known_formats(advice: Advice) -> list[str]:
    return [text for name in advice.options for text in stored_names(name, advice)]


def _lowest_bits(option: CacheOption) -> float:
    kv_format = option.result.request.size.choice.kv_format
    return float(min(kv_format.key.nominal_bits, kv_format.value.nominal_bits, option.bits))
