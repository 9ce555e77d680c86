"""``--explain``: every figure as an equation with its values put in, and where its rule comes from."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from kvplan.core.geometry import PartStorage
from kvplan.core.part import STATE_DTYPE_BYTES
from kvplan.core.policy import describe_policy
from kvplan.core.request import KindAllocation, SizeResult
from kvplan.core.units import format_bytes
from kvplan.reports.size_rows import KIND_WORDS, engine_words


def explain_size(result: SizeResult) -> list[str]:
    """Lines of text: textbook formula, each kind of layer, the sum, the ranks, the weights, the sources."""
    lines = ["How this was counted", "", *_textbook(result), ""]
    for layer in result.layers:
        lines += _kind(layer)
    lines += ["", *_total(result), *_engine(result), *_ranks(result), *_weights(result), "", *_sources(result)]
    return lines


def explain_engines(results: Sequence[SizeResult]) -> list[str]:
    """In words, why each engine allocates something else than geometry."""
    lines = ["Why the engines differ", ""]
    for result in results:
        if result.engine == "none":
            continue
        difference = result.allocated_bytes - result.geometry_bytes
        sign = "+" if difference >= 0 else "-"
        lines.append(f"{engine_words(result)}: {sign}{format_bytes(abs(difference))}")
        lines += [f"  {reason}" for reason in result.allocation.reasons or ("what geometry says",)]
    return lines


def _engine(result: SizeResult) -> list[str]:
    if result.engine == "none":
        return []
    lines = [*result.allocation.explanation, *result.allocation.reasons]
    return ["", f"{engine_words(result)}", *(f"  {line}" for line in lines), ""]


def _textbook(result: SizeResult) -> list[str]:
    architecture, request = result.model.architecture, result.request
    kv_format = request.choice.kv_format
    element_bytes = (kv_format.key.nominal_bits + kv_format.value.nominal_bits) / 16
    equation = (
        f"2 x {architecture.num_layers} layers x {request.context_tokens:,} tokens"
        f" x {architecture.hidden_size:,} hidden"
        f" x {_number(element_bytes)} bytes{_sequences(result)} = {result.textbook_bytes:,}"
    )
    return [f"textbook  {equation}", "          (every layer full attention, as many KV heads as query heads)"]


def _kind(layer: KindAllocation) -> list[str]:
    word = KIND_WORDS.get(layer.kind, layer.kind)
    lines = [f"{word}: {layer.count} layers"]
    if not layer.storage.parts and not layer.storage.states:
        return [f"{lines[0]}, nothing stored"]
    if layer.window_tokens is not None:
        lines.append(f"  at most {layer.window_tokens:,} tokens")
    if layer.kept_tokens != layer.resident_tokens:
        lines.append(f"  policy keeps {layer.kept_tokens:,} of {layer.resident_tokens:,} tokens")
    lines += [f"  {_part(part)}" for part in layer.storage.parts]
    for state in layer.storage.states:
        size = STATE_DTYPE_BYTES[state.dtype]
        lines.append(
            f"  {state.name}: {state.num_units:,} x {state.unit_elements:,} elements x {size} bytes"
            f" = {state.elements * size:,}"
        )
    lines.append(f"  x {layer.count} layers = {layer.count * layer.storage.total_bytes:,} bytes a sequence")
    return lines


def _part(stored: PartStorage) -> str:
    part = stored.part
    row = stored.cache_format.row_bytes(part) / part.num_heads
    heads = f"{part.num_heads} heads x " if part.num_heads > 1 else ""
    tokens = f"{stored.rows:,} rows"
    if part.tokens_per_row > 1:
        tokens += f" (one for {part.tokens_per_row} tokens)"
    equation = f"{part.name}: {tokens} x {heads}{_number(row)} bytes ({part.width} in {stored.cache_format.name})"
    plain = stored.rows * part.num_heads * row
    rest = stored.stored_bytes - plain
    extra = f" {'+' if rest > 0 else '-'} {_number(abs(rest))} (residual and tensor scales)" if rest else ""
    return f"{equation}{extra} = {stored.stored_bytes:,}"


def _total(result: SizeResult) -> list[str]:
    sizes = [layer.count * layer.storage.total_bytes for layer in result.layers if layer.storage.total_bytes]
    terms = " + ".join(f"{size:,}" for size in sizes) or "0"
    sequences = _sequences(result)
    summed = f"({terms})" if sequences and len(sizes) > 1 else terms
    same = not sequences and len(sizes) == 1
    return [f"cache     {summed}{sequences}" + ("" if same else f" = {result.geometry_bytes:,}") + " bytes"]


def _ranks(result: SizeResult) -> list[str]:
    ranks = result.allocated_bytes_per_rank
    if len(ranks) == 1:
        return []
    listed = ", ".join(f"{size:,}" for size in ranks[:16]) + (" ..." if len(ranks) > 16 else "")
    why = "heads are split over ranks, at least one each; latents and index keys are on every rank"
    return [f"ranks     {listed}", f"          ({why})"]


def _weights(result: SizeResult) -> list[str]:
    if result.weights_bytes is None:
        return ["weights   not known: the spec states no parameter counts"]
    cache, weights = result.geometry_bytes, result.weights_bytes
    return [
        f"weights   {weights:,} bytes in {result.weight_format or 'their files'} ({result.weights_certainty})",
        f"          share {cache:,} / ({cache:,} + {weights:,}) = {result.kv_share_ratio or 0.0:.3f}",
    ]


def _sources(result: SizeResult) -> list[str]:
    kv_format = result.request.choice.kv_format
    lines = [f"model     {result.model.source}"]
    origin = result.model.provenance.items()
    lines += [f"          {key}: {value}" for key, value in origin if value != result.model.source]
    for role, cache_format in (("K", kv_format.key), ("V", kv_format.value)):
        lines.append(f"format {role}  {cache_format.name}: {getattr(cache_format, 'summary', '')}")
        if kv_format.key == kv_format.value:
            break
    policy = result.request.choice.policy
    lines.append(f"policy    {describe_policy(policy)}: {_first_line(type(policy).__doc__)}")
    lines.append(f"engine    {engine_words(result)} ({result.certainty})")
    return lines


def _sequences(result: SizeResult) -> str:
    concurrency = result.request.concurrency
    return f" x {concurrency:,} sequences" if concurrency > 1 else ""


def _number(value: Fraction | int) -> str:
    exact = Fraction(value)
    return f"{exact.numerator:,}" if exact.denominator == 1 else f"{float(exact):,.4g}"


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().splitlines()[0] if docstring else ""
