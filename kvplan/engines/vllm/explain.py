"""The words of an allocation: its equations with the values put in, why it differs from geometry, what to know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kvplan.core.attention import IndexKeys
from kvplan.core.engine import EngineRequest
from kvplan.core.part import STATE_DTYPE_BYTES
from kvplan.engines.vllm.capacity import request_blocks
from kvplan.engines.vllm.groups import Group, logged_blocks
from kvplan.engines.vllm.plan import Plan
from kvplan.engines.vllm.run import Run
from kvplan.engines.vllm.specs import LayerSpec
from kvplan.engines.vllm.states import state_bytes, state_page_bytes

FORMS = {
    "full": "full",
    "sliding": "sliding-window",
    "chunked": "chunked",
    "state": "state",
    "cross": "cross-attention",
}
NEVER_FULL = ("sliding", "chunked")


class GroupWords(NamedTuple):
    """Equal groups: how many there are, the pages of their layers with counts, and one request's blocks of each."""

    times: int
    spec: LayerSpec
    pages: tuple[tuple[int, int], ...]
    blocks: int


def equal_groups(groups: Sequence[Group], tokens: int, run: Run) -> list[GroupWords]:
    """Groups that read alike, in order of first appearance, each with how many there are."""
    found: dict[tuple[LayerSpec, tuple[tuple[int, int], ...], int], int] = {}
    for group in groups:
        pages = tuple(Counter(layer.spec.page_bytes for layer in group.layers).items())
        key = (group.layers[0].spec, pages, group.blocks(tokens, run))
        found[key] = found.get(key, 0) + 1
    return [GroupWords(times, *key) for key, times in found.items()]


def explain(plan: Plan, request: EngineRequest) -> tuple[str, ...]:
    """The allocation of the largest stage, step by step, each step with the function of vLLM's that decides it."""
    if not plan.groups:
        return ()
    run, words = plan.run, equal_groups(plan.groups, request.context_tokens, plan.run)
    total, largest = request_blocks(plan.groups, request.context_tokens, run), max(plan.block_bytes)
    terms = [f"{entry.times} x {entry.blocks:,}" if entry.times > 1 else f"{entry.blocks:,}" for entry in words]
    return (
        *_backend_lines(plan),
        _block_line(plan),
        *(_group_line(entry, request.context_tokens, run) for entry in words),
        f"bytes per block: pages of the largest group{_on_stage(plan)} = {largest:,} B (_get_kv_cache_bytes_per_block)",
        f"blocks per request: {' + '.join(terms)} = {total:,} (get_max_concurrency_for_kv_cache_config)",
        f"rank: ({request.sequences:,} x {total:,} blocks + 1 null block) x {largest:,} B = "
        f"{(request.sequences * total + 1) * largest:,} B (BlockPool)",
        *_capacity_lines(plan, request),
    )


def _backend_lines(plan: Plan) -> Iterator[str]:
    names = dict.fromkeys(layer.backend.name for layer in plan.layers if layer.backend is not None)
    if names:
        place = "AMD" if plan.run.device.amd else f"compute capability {plan.run.device.text}"
        yield f"attention backend on {place}: {', '.join(names)} (_get_backend_priorities)"


def _block_line(plan: Plan) -> str:
    block, page = plan.alignment.block_tokens, plan.alignment.state_page_bytes
    if page is None:
        return f"block size: {block:,} tokens (update_block_size_for_backend)"
    own = max(state_page_bytes(kind, plan.run) for kind in plan.state_kinds)
    return (
        f"block size: {block:,} tokens, whose page of {block:,} x {page // block:,} B = {page:,} B "
        f"covers a state of {own:,} B (_align_hybrid_block_size)"
    )


def _on_stage(plan: Plan) -> str:
    return "" if len(plan.block_bytes) == 1 else f" on stage {plan.block_bytes.index(max(plan.block_bytes))}"


def _group_line(words: GroupWords, tokens: int, run: Run) -> str:
    many = f"{words.times} groups" if words.times > 1 else "1 group"
    pages = " + ".join(f"{count} x {page:,}" for page, count in words.pages)
    held = "" if words.spec.form == "state" else f" for {words.spec.block_tokens:,} tokens"
    equation = _blocks_equation(words.spec, tokens, run)
    return f"{many} ({FORMS[words.spec.form]}): pages {pages} B{held}; {equation} = {words.blocks:,} blocks"


def _blocks_equation(spec: LayerSpec, tokens: int, run: Run) -> str:
    flight = f"{run.in_flight_tokens:,} in flight"
    if spec.form == "sliding":
        held = f"min({spec.limit_tokens:,} - 1 + {flight}, {tokens:,})"
        return f"ceil({held} / {spec.block_tokens:,}) + 1"
    if spec.form == "chunked":
        return f"ceil(min({spec.limit_tokens:,} + {flight}, {tokens:,}) / {spec.block_tokens:,})"
    if spec.form == "cross":
        return f"ceil({run.batched_tokens:,} encoder tokens / {spec.block_tokens:,})"
    if spec.form == "state":
        parts = ["1 state"] + (["1 at the last block boundary"] if run.aligned_states else [])
        extra = spec.held_blocks - len(parts) - run.num_speculative_tokens
        parts += [f"{extra} for prefill checkpoints"] if extra else []
        return " + ".join(parts + ([f"{run.num_speculative_tokens} drafted"] if run.num_speculative_tokens else []))
    share = f" / {spec.split} ranks" if spec.split > 1 else ""
    return f"ceil({tokens:,}{share} / {spec.block_tokens:,})"


def _capacity_lines(plan: Plan, request: EngineRequest) -> Iterator[str]:
    memory, largest = request.settings.kv_memory_bytes, max(plan.block_bytes)
    if memory is None:
        return
    longest = logged_blocks(plan.groups, plan.run.max_model_len, plan.run)
    blocks = memory // largest
    yield f"blocks that the memory holds: floor({memory:,} B / {largest:,} B) = {blocks:,}"
    yield (
        f"capacity: floor({blocks:,} / {longest:,} blocks x {plan.run.max_model_len:,} tokens) = "
        f"{int(blocks / longest * plan.run.max_model_len):,} tokens (get_kv_cache_capacity)"
    )


def reasons(plan: Plan, request: EngineRequest) -> tuple[str, ...]:
    """Why this is more than geometry, one short sentence each."""
    run = plan.run
    words = equal_groups(plan.groups, request.context_tokens, run)
    found = []
    if words:
        found.append("blocks are allocated whole, and one null block is held back")
    if any(entry.spec.form in NEVER_FULL for entry in words):
        found.append(
            f"windows keep {run.in_flight_tokens:,} tokens in flight besides their own "
            f"({run.in_flight_tokens // max(1, run.batched_tokens)} batches of {run.batched_tokens:,})"
        )
    padded = _padding_layers(plan)
    if padded:
        found.append(f"groups of equal size leave room for {padded} padding layer{'s' * (padded > 1)}")
    if any(entry.spec.form == "state" for entry in words) and run.traits.attends:
        found.append("states are padded to the page of an attention block")
        if any(state_bytes(kind, run) != STATE_DTYPE_BYTES[kind.state_dtype] for kind in plan.state_kinds):
            found.append("recurrent states have the compute dtype unless mamba_ssm_cache_dtype says otherwise")
        if run.aligned_states:
            found.append("prefix caching keeps a second state of each request, at a block boundary")
    if any(entry.spec.form == "cross" for entry in words):
        found.append(f"cross-attention reserves {run.batched_tokens:,} encoder tokens, a whole batch")
    if any(isinstance(item.kind, IndexKeys) for item in plan.items) and not run.quirks.sparse_full_attention:
        found.append("index keys are stored as FP8 with a scale, whatever the cache dtype")
    if run.tp > 1 and any(_is_replicated(plan, position) for position in range(len(plan.items))):
        found.append(f"what {run.tp} ranks cannot split is replicated on each")
    return tuple(found)


def _padding_layers(plan: Plan) -> int:
    """Layers that are missing where groups are smaller than the largest of equal pages."""
    pages = {layer.spec.page_bytes for group in plan.groups for layer in group.layers}
    if len(pages) != 1:
        return 0
    largest = max(len(group.layers) for group in plan.groups)
    return sum(largest - len(group.layers) for group in plan.groups)


def _is_replicated(plan: Plan, position: int) -> bool:
    kind, spec = plan.items[position].kind, plan.specs[position]
    heads = kind.head_shape()[0]
    return spec is not None and (spec.latent or (heads is not None and heads < plan.run.tp))


def notes(plan: Plan, request: EngineRequest) -> tuple[str, ...]:
    """What a reader must know."""
    run, accelerator = plan.run, request.settings.accelerator
    found = []
    if run.device.amd:
        found.append("vLLM's backends on AMD are not modelled: blocks of 16 tokens and no padding are assumed")
    elif accelerator is None and (run.traits.latent or run.dtype != "auto" or run.traits.hybrid):
        found.append("vLLM's attention backend depends on the GPU: one of compute capability 9.0 is assumed (--gpu)")
    batch_matters = any(layer.spec.form in (*NEVER_FULL, "cross") for group in plan.groups for layer in group.layers)
    if accelerator is None and request.settings.max_num_batched_tokens is None and batch_matters:
        found.append(
            f"vLLM's batch depends on the GPU: {run.batched_tokens:,} tokens are assumed (--max-num-batched-tokens)"
        )
    if request.num_draft_layers and request.settings.num_speculative_tokens is None:
        found.append("one token is drafted in each step (--num-speculative-tokens)")
    wanted = request.settings.block_tokens
    if wanted is not None and wanted != plan.alignment.block_tokens:
        found.append(f"vLLM raises --block-size {wanted} to {plan.alignment.block_tokens} so that pages match")
    if run.quirks.single_head_uncached_dtype and run.traits.num_kv_heads == 1:
        found.append("vLLM stores this architecture's cache in 16 bits, whatever --kv-dtype says")
    return tuple(found)
