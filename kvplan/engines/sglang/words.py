"""What SGLang logs, and why its pools are what they are."""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.core.engine import Allocation, EngineSettings
from kvplan.core.units import GIB, cdiv
from kvplan.engines.sglang.deepseek_v4 import PAGE, RUNNING, CompressedPools, CompressedSizes
from kvplan.engines.sglang.hardware import Hardware
from kvplan.engines.sglang.plan import Plan
from kvplan.engines.sglang.pools import PoolSizes

_TORCH = {
    "bf16": "torch.bfloat16",
    "fp16": "torch.float16",
    "fp8_e4m3": "torch.float8_e4m3fn",
    "fp8_ds_mla": "torch.float8_e4m3fn",
    "mxfp8": "torch.float8_e4m3fn",
    "fp8_e5m2": "torch.float8_e5m2",
    "nvfp4": "torch.float4_e2m1fn_x2",
    "fp4_mx_block16": "torch.float4_e2m1fn_x2",
}


def log_line(plan: Plan, answer: Allocation) -> str | None:
    """The first rank's lines at start-up (``mem_cache/memory_pool.py:2088``, ``managers/scheduler.py:1268``)."""
    if plan.request.settings.kv_memory_bytes is None:
        return None
    sizes, slots = plan.fit(plan.request.settings.kv_memory_bytes)
    lines = [f"Mamba Cache is allocated. max_mamba_cache_size: {slots}"] if plan.traits.recurrent else []
    pools = plan.stages[0].pools
    if pools.hybrid:
        labels = (("Full KV Cache", sizes.full, False), ("SWA KV Cache", sizes.windowed, True))
        lines += [_pool_line(plan, label, tokens, windowed) for label, tokens, windowed in labels if tokens]
    elif pools.layers:
        lines.append(_pool_line(plan, "KV Cache", sizes.full, windowed=False))
    if answer.capacity_tokens is not None:
        lines.append(f"max_total_num_tokens={sizes.capacity}")
    return "; ".join(lines) or None


def _pool_line(plan: Plan, label: str, tokens: int, windowed: bool) -> str:
    pools = plan.stages[0].pools
    layers = [layer for layer in pools.layers if layer.windowed == windowed and not layer.draft]
    rows = tokens + plan.page
    total = rows * (sum(layer.row_bytes for layer in layers) + (0 if windowed else pools.extra_row_bytes))
    keys = rows * (sum(layer.key_bytes for layer in layers if not layer.index) + pools.extra_row_bytes // 2)
    dtype = _TORCH[plan.request.choice.kv_format.key.name]
    head = f"{label} is allocated. dtype: {dtype}, #tokens: {tokens}"
    if plan.traits.latent:
        return f"{head}, KV size: {total / GIB:.2f} GB"
    return f"{head}, K size: {keys / GIB:.2f} GB, V size: {(total - keys) / GIB:.2f} GB"


def explain(plan: Plan, answer: Allocation) -> tuple[str, ...]:
    """The equations of the first stage with the values put in."""
    stage, request = plan.stages[0], plan.request
    sizes = plan.needed(stage)
    lines = []
    if stage.pools.layers:
        lines.append(
            f"{request.sequences:,} x {plan.request_tokens:,} tokens (pages of {plan.span:,}) = pool of {sizes.full:,} "
            f"rows, and a dummy page of {plan.page:,} (memory_pool.py: size + page_size)"
        )
        lines += _cell_lines(plan, sizes)
    if stage.states:
        lines.append(
            f"{request.sequences:,} requests x {plan.options.per_request} slots + 1 = {plan.slots + 1:,} state slots "
            f"x {stage.slot_bytes:,} B (kv_cache_configurator.py: _calculate_mamba_ratio; MambaPool: size + 1)"
        )
    memory = request.settings.kv_memory_bytes
    if memory is not None:
        lines += _memory_lines(plan, answer, memory)
    return tuple(lines)


def _cell_lines(plan: Plan, sizes: PoolSizes) -> list[str]:
    pools = plan.stages[0].pools
    full, windowed = pools.row_bytes(windowed=False), pools.row_bytes(windowed=True)
    lines = [f"a row takes {full:,} B in {sum(not layer.windowed for layer in pools.layers)} layers' tensors"]
    if pools.hybrid:
        how = "the request cap" if pools.request_cap is not None else f"{pools.ratio:g} x {sizes.full:,} rows"
        lines.append(
            f"window pool: {how} = {sizes.windowed:,} rows x {windowed:,} B in "
            f"{sum(layer.windowed for layer in pools.layers)} layers (pool_configurator.py: HybridSWAPoolConfigurator)"
        )
    return lines


def _memory_lines(plan: Plan, answer: Allocation, memory: int) -> list[str]:
    sizes, slots = plan.fit(memory)
    lines = []
    if plan.traits.recurrent:
        _, memory = plan.state_rules().split(memory)
        lines.append(f"{slots:,} state slots leave {memory:,} B to the pools (mamba_full_memory_ratio)")
    if sizes.capacity:
        cell = max(stage.pools.cell_bytes for stage in plan.stages)
        shown = f"{cell:,.1f}" if cell % 1 else f"{int(cell):,}"
        lines.append(f"{memory:,} B // {shown} B = {sizes.capacity:,} tokens, whole pages (pool_configurator.py)")
    return lines


def reasons(plan: Plan) -> tuple[str, ...]:
    """Why this differs from geometry."""
    pools = plan.stages[0].pools
    found = []
    if pools.layers:
        found.append(f"each pool has a dummy page of {plan.page} token{'s' * (plan.page > 1)} for padding")
    if plan.page > 1 and plan.paging.remark:
        found.append(plan.paging.remark)
    if pools.hybrid and pools.request_cap is None:
        found.append(
            f"the pool for windows has {pools.ratio:g} of the full pool's tokens, however short the window"
            + _least_ratio(plan)
        )
    elif any(layer.item.kind.window_tokens for layer in pools.layers) and not pools.hybrid:
        found.append("windowed layers keep every token: SGLang has no pool for this model's windows")
    if any(not layer.item.kind.parts() for layer in pools.layers):
        found.append("layers without a cache of their own have rows in the pool all the same")
    if any(layer.index for layer in pools.layers) and plan.traits.sparse:
        found.append("index keys are FP8 with a scale, whatever the cache dtype")
    if plan.traits.recurrent:
        found.append(
            f"{plan.options.per_request} state slots for each running request, and one more for padding; the recurrent "
            "state is fp32 unless asked otherwise (mamba_ssm_dtype)"
        )
    return tuple(found)


def _least_ratio(plan: Plan) -> str:
    """The smallest ``--swa-full-tokens-ratio``, to a thousandth, that would still hold the requests."""
    pools, tokens = plan.stages[0].pools, plan.request.sequences * plan.request_tokens
    least = pools.least_windowed(plan.request.sequences * plan.window_each, plan.traits.window)
    thousandths = cdiv(1000 * least, tokens)
    if thousandths >= 1000 * pools.ratio:
        return " (swa_full_tokens_ratio)"
    return f" (swa_full_tokens_ratio; {thousandths / 1000:g} would hold these requests)"


def notes(plan: Plan) -> tuple[str, ...]:
    """What a reader must know."""
    found = [*hardware_notes(plan.hardware)]
    request = plan.request
    unknown = request.facts.architecture_class is None  # the class would have told
    if plan.paging.remark and request.settings.block_tokens not in (None, plan.page):
        found.append(f"SGLang: {plan.paging.remark}")
    by_default = request.settings.attention_backend is None and plan.paging.backend == "trtllm_mla"
    if unknown and by_default and request.facts.family == "deepseek":
        found.append("DeepSeek-V2 runs on flashinfer here (--attention-backend flashinfer), V3 and later on trtllm_mla")
    if unknown and request.facts.family == "bamba":
        found.append("SGLang has classes for Granite 4 and Falcon-H1, none for Bamba itself")
    sparse = plan.traits.sparse and plan.hardware.generation == "sm120"
    if unknown and sparse and request.choice.kv_format.name == "fp8_e4m3":
        found.append(
            "GLM-5 keeps packed rows on this GPU (sglang:dsa_backend=flashinfer_sparse_mla), DeepSeek plain ones"
        )
    return tuple(found)


def hardware_notes(hardware: Hardware) -> tuple[str, ...]:
    """That a GPU was assumed."""
    if not hardware.assumed:
        return ()
    name = "a data-centre Blackwell (sm100)" if hardware.blackwell else "a Hopper (sm90)"
    return (f"SGLang's defaults depend on the GPU: {name} is assumed (--gpu)",)


def explain_compressed(pools: Sequence[CompressedPools], sizes: CompressedSizes) -> tuple[str, ...]:
    """DeepSeek-V4's sizes with the values put in."""
    first = pools[0]
    return (
        f"full space of {sizes.full:,} tokens in pages of {PAGE}; window pool {first.ratio:g} x {sizes.full:,} = "
        f"{sizes.windowed:,} rows (pool_configurator.py: DSV4PoolConfigurator)",
        f"a page of {PAGE} rows x {first.row_bytes} B is padded to {first.page_bytes(PAGE):,} B "
        "(kv_layout.py: multiples of 576)",
        f"ratio-128 states: {first.state_rows(sizes.running):,} rows for {sizes.running + 1:,} request slots",
    )


def compressed_reasons(ratio: float) -> tuple[str, ...]:
    """Why DeepSeek-V4's pools differ from geometry."""
    return (
        f"the pool for windows has {ratio:g} of all tokens (swa_full_tokens_ratio)",
        "pages are padded to 576 bytes, and every pool has a reserved page",
        "compressor states belong to pages of the window (ratio 4) or to request slots (ratio 128)",
    )


def compressed_notes(hardware: Hardware, settings: EngineSettings, sequences: int) -> tuple[str, ...]:
    """What a reader of DeepSeek-V4's sizes must know."""
    if settings.max_num_seqs is not None and settings.max_num_seqs == sequences:
        return hardware_notes(hardware)
    states = (
        f"states are counted for {sequences:,} running requests; SGLang starts with {RUNNING} unless told otherwise"
    )
    return (*hardware_notes(hardware), f"{states} (--max-running-requests)")


def compressed_log(pools: CompressedPools, sizes: CompressedSizes) -> str:
    """The line that sizes DeepSeek-V4's pools, and the scheduler's."""
    state = sizes.windowed // PAGE * pools.rings[4]
    return (
        f"DSV4 pool sizes: full={sizes.full}, swa={sizes.windowed}, c4={sizes.full // 4}, c128={sizes.full // 128}, "
        f"c4_state={state}, c128_state=0; max_total_num_tokens={sizes.full}"
    )
