"""The rows of a size report, as plain text cells: shared by the table, Markdown and CSV renderers."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.core.frozen import dataclass
from kvplan.core.policy import describe_policy
from kvplan.core.request import KindAllocation, SizeResult
from kvplan.core.units import format_bytes, format_count, format_tokens
from kvplan.planning.compare import Refusal

KIND_WORDS = {
    "full_attention": "full attention",
    "sliding_window": "sliding window",
    "chunked_local": "chunked local",
    "latent": "latent (MLA)",
    "index_keys": "index keys",
    "compressed_stream": "compressed stream",
    "cross_attention": "cross-attention",
    "shared": "shared, no cache",
    "none": "no cache",
    "mamba1": "Mamba state",
    "mamba2": "Mamba-2 state",
    "gated_delta_net": "gated delta net",
    "kda": "Kimi delta",
    "linear_attention": "linear attention",
    "rg_lru": "RG-LRU state",
    "rwkv": "RWKV state",
    "short_conv": "short convolution",
    "state_buffer": "compressor state",
}
"""How a report calls each kind of layer."""


@dataclass(frozen=True, slots=True)
class Line:
    """One summary line: a label, a value, and a remark in words."""

    label: str
    value: str
    remark: str = ""


LAYER_HEADER = ("layers", "count", "KV heads", "head dim", "kept tokens", "per token", "size")


def headline(result: SizeResult) -> str:
    """The request in one line."""
    request = result.request
    sequences = _sequence_words(request.concurrency)
    words = [result.model.name, f"{format_tokens(request.context_tokens)} tokens", sequences]
    words.append(request.choice.kv_format.name)
    policy = describe_policy(request.choice.policy)
    if policy != "none":
        words.append(policy)
    if result.engine != "none":
        words.append(engine_words(result))
    return " · ".join(words)


def summary_lines(result: SizeResult) -> list[Line]:
    """What the cache takes, beside the textbook figure, the weights and the ranks."""
    lines = [Line("KV cache", format_bytes(result.geometry_bytes), f"{result.geometry_bytes:,} bytes")]
    lines.append(_growth_line(result))
    if result.fixed_bytes_per_sequence:
        lines.append(Line("fixed per sequence", format_bytes(result.fixed_bytes_per_sequence), "whatever the context"))
    if result.uncompressed_bytes != result.geometry_bytes:
        lines.append(_saving_line(result))
    lines.append(Line("textbook formula", format_bytes(result.textbook_bytes), _textbook_remark(result)))
    if result.weights_bytes is not None:
        lines.append(_weights_line(result))
    if result.engine != "none":
        lines += _engine_lines(result)
    if len(result.allocated_bytes_per_rank) > 1:
        lines += _rank_lines(result)
    return lines


def layer_rows(result: SizeResult) -> list[tuple[str, ...]]:
    """One row for each kind of layer, and one for what belongs to none."""
    rows = [_layer_row(layer) for layer in result.layers]
    if result.unassigned_bytes:
        rows.append(("padding and reserve", "", "", "", "", "", format_bytes(result.unassigned_bytes)))
    return rows


def comparison_columns(results: Sequence[SizeResult]) -> tuple[str, list[list[str]]]:
    """Several requests side by side: what they share in one line, and the columns in which they differ.

    A column is its heading and one cell for each request.
    """
    shared, columns = [], []
    for heading, cells in _request_columns(results):
        if len(set(cells)) == 1:
            shared += [cells[0]] if cells[0] != "none" else []
        else:
            columns.append([heading, *cells])
    if any(result.engine != "none" for result in results):
        return " · ".join(shared), columns + _engine_columns(results)
    columns.append(["cache", *(format_bytes(result.geometry_bytes) for result in results)])
    columns.append(["per token", *(format_bytes(result.bytes_per_token) for result in results)])
    columns.append(["textbook", *(format_bytes(result.textbook_bytes) for result in results)])
    weights = [result.weights_bytes for result in results]
    columns.append(["weights", *("unknown" if size is None else format_bytes(size) for size in weights)])
    return " · ".join(shared), columns


def _request_columns(results: Sequence[SizeResult]) -> list[tuple[str, list[str]]]:
    requests = [result.request for result in results]
    return [
        ("model", [result.model.name for result in results]),
        ("engine", [engine_words(result) for result in results]),
        ("context", [f"{format_tokens(request.context_tokens)} tokens" for request in requests]),
        ("sequences", [_sequence_words(request.concurrency) for request in requests]),
        ("KV dtype", [request.choice.kv_format.name for request in requests]),
        ("policy", [describe_policy(request.choice.policy) for request in requests]),
    ]


def engine_words(result: SizeResult) -> str:
    """The engine and its release; ``none`` is plain geometry."""
    return f"{result.engine} {result.engine_version or ''}".strip()


def _engine_columns(results: Sequence[SizeResult]) -> list[list[str]]:
    """What engines allocate beside geometry, and what a given memory holds."""
    columns = [
        ["allocated", *(format_bytes(result.allocated_bytes) for result in results)],
        ["ratio", *(_allocated_ratio(result) for result in results)],
        ["block", *(f"{block:,}" if (block := result.allocation.block_tokens) else "" for result in results)],
    ]
    if any(result.allocation.capacity_tokens for result in results):
        columns.append(["holds", *(f"{held:,}" if (held := r.allocation.capacity_tokens) else "" for r in results)])
        columns.append(["at once", *(f"{most:.2f}" if (most := r.allocation.max_concurrency) else "" for r in results)])
    columns.append(["figures", *(result.certainty for result in results)])
    return columns


def _allocated_ratio(result: SizeResult) -> str:
    """``1.03x``: allocated bytes of all ranks against geometry."""
    return f"{result.allocated_bytes / result.geometry_bytes:.2f}x" if result.geometry_bytes else ""


def refusal_lines(refusals: Sequence[Refusal]) -> list[str]:
    """One line for each engine that cannot do what is asked."""
    return [f"not {refusal.engine}: {refusal.message}" + _hint(refusal.hint) for refusal in refusals]


def _hint(hint: str | None) -> str:
    return f" ({hint})" if hint else ""


def _sequence_words(concurrency: int) -> str:
    return "1 sequence" if concurrency == 1 else f"{concurrency:,} sequences"


def _growth_line(result: SizeResult) -> Line:
    if not result.bytes_per_token:
        return Line("per token", "0 B", "no layer grows any more at this context")
    remark = f"{result.bytes_per_token:,} bytes for each further token"
    return Line("per token", format_bytes(result.bytes_per_token), remark)


def _saving_line(result: SizeResult) -> Line:
    native = result.request.choice.kv_format.native.name
    remark = f"{result.saving_ratio:.2f}x saved"
    if result.nominal_saving_ratio != 1:
        remark += f", nominally {result.nominal_saving_ratio:.3g}x"
    return Line(f"all in {native}", format_bytes(result.uncompressed_bytes), remark)


def _textbook_remark(result: SizeResult) -> str:
    if result.textbook_bytes == result.geometry_bytes:
        return "the same: every layer keeps full keys and values"
    if not result.geometry_bytes:
        return "but this model keeps nothing"
    if result.textbook_bytes > result.geometry_bytes:
        return f"{result.textbook_bytes / result.geometry_bytes:.1f}x too much for this model"
    return f"{result.geometry_bytes / result.textbook_bytes:.1f}x too little for this model"


def _weights_line(result: SizeResult) -> Line:
    share = f"the cache is {_percent(result.kv_share_ratio or 0.0)} of both"
    parameters = result.model.architecture.parameters
    count = f"{format_count(parameters.total)} parameters, " if parameters else ""
    label = f"weights ({result.weight_format})" if result.weight_format else "weights"
    return Line(label, format_bytes(result.weights_bytes or 0), count + share)


def _percent(ratio: float) -> str:
    return f"{ratio:.0%}" if ratio >= 0.1 or not ratio else f"{ratio:.2%}"


def _engine_lines(result: SizeResult) -> list[Line]:
    allocation = result.allocation
    words = [f"{ratio} geometry"] if (ratio := _allocated_ratio(result)) else []
    if result.blocks_per_sequence and allocation.block_tokens:
        words.append(f"{result.blocks_per_sequence:,} blocks of {allocation.block_tokens:,} tokens a request")
    if result.certainty == "estimate":
        words.append("an estimate")
    lines = [Line(f"{result.engine} allocates", format_bytes(result.allocated_bytes), ", ".join(words))]
    if allocation.capacity_tokens is not None:
        longest = result.request.settings.max_model_len or result.request.context_tokens
        held = f"tokens: {allocation.max_concurrency or 0:.2f} requests of {format_tokens(longest)} at once"
        memory = format_bytes(result.request.settings.kv_memory_bytes or 0)
        lines.append(Line(f"{memory} hold", f"{allocation.capacity_tokens:,}", held))
    return lines


def _rank_lines(result: SizeResult) -> list[Line]:
    ranks = result.allocated_bytes_per_rank
    parallel = result.request.parallel
    layout = ", ".join(
        f"{name} {size}"
        for name, size in (("tp", parallel.tp), ("pp", parallel.pp), ("dp", parallel.dp), ("dcp", parallel.dcp))
        if size > 1
    )
    lines = [Line("all ranks", format_bytes(result.allocated_bytes), layout or "one rank")]
    if len(set(ranks)) == 1:
        lines.append(Line("each rank", format_bytes(ranks[0]), f"{len(ranks)} ranks alike"))
    else:
        lines.append(Line("largest rank", format_bytes(max(ranks)), f"smallest {format_bytes(min(ranks))}"))
    if len(result.stage_layers) > 1:
        lines.append(Line("layers per stage", " ".join(map(str, result.stage_layers))))
    return lines


def _layer_row(layer: KindAllocation) -> tuple[str, ...]:
    dims = "" if layer.head_dim is None else str(layer.head_dim)
    if layer.v_head_dim not in (None, layer.head_dim):
        dims += f"/{layer.v_head_dim}"
    kept = f"{layer.kept_tokens:,}" if layer.kept_tokens else ""
    return (
        KIND_WORDS.get(layer.kind, layer.kind),
        str(layer.count),
        "" if layer.num_kv_heads is None else str(layer.num_kv_heads),
        dims,
        kept,
        format_bytes(layer.bytes_per_token) if layer.bytes_per_token else "",
        format_bytes(layer.allocated_bytes),
    )
