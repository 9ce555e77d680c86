"""Where vLLM's releases differ for an asker of its planner: 0.25 has no cache layouts, 0.33 has a planner module."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

#: 0.26 and later store the cache in a named layout, agreed on by all attention backends.
HAS_LAYOUTS = find_spec("vllm.v1.kv_cache_layout") is not None
#: 0.33 moved grouping and sizing out of kv_cache_utils.
PLANNER = "kv_cache_planning" if find_spec("vllm.v1.core.kv_cache_planning") is not None else "kv_cache_utils"


def supported_layouts(config: Any) -> list[str]:
    """Names of the layouts that all attention backends of this stage accept; empty before there were layouts."""
    if not HAS_LAYOUTS:
        return []
    from vllm.distributed.kv_transfer.kv_connector.utils import get_current_attn_backends
    from vllm.v1.attention.backends.utils import get_supported_kv_cache_layouts

    return [layout.name for layout in get_supported_kv_cache_layouts(get_current_attn_backends(config))]


def resolve_layout(config: Any, layouts: list[list[str]], specs: list[Any]) -> str | None:
    """The layout that vLLM settles on for all stages, or None before there were layouts."""
    if not HAS_LAYOUTS:
        return None
    from vllm.v1.attention.backends.utils import resolve_kv_cache_layout

    return str(resolve_kv_cache_layout(config, layouts, specs).name)


def in_flight_tokens(config: Any) -> int:
    """Tokens that a sliding window's admission bound counts as in flight; one batch before vLLM had a word for it."""
    return int(getattr(config, "max_in_flight_tokens", config.scheduler_config.max_num_batched_tokens))


def draft_config(config: Any) -> Any:
    """The config under which vLLM builds a draft model's layers; before 0.26 no override of it decided a cache size."""
    draft = config.speculative_config
    return draft.apply_draft_overrides(config) if hasattr(draft, "apply_draft_overrides") else config


def cache_configs(config: Any, stage_specs: list[dict[str, Any]], memory_bytes: int) -> list[Any]:
    """vLLM's own plan (KVCacheConfig) for each stage, given ``memory_bytes`` on each."""
    from vllm.v1.core import kv_cache_utils

    copies = [dict(specs) for specs in stage_specs]
    memory = [memory_bytes] * len(copies)
    if PLANNER == "kv_cache_utils":
        return list(kv_cache_utils.get_kv_cache_configs(config, copies, memory))
    from vllm.v1.core import kv_cache_planning

    groups = kv_cache_planning.get_global_kv_cache_groups(config, copies)
    return list(kv_cache_planning.get_kv_cache_configs(config, copies, memory, groups))


def bytes_per_block(config: Any, groups: list[Any]) -> int:
    """Bytes that one block id takes on a stage that holds ``groups``."""
    from importlib import import_module

    planner = import_module(f"vllm.v1.core.{PLANNER}")
    return int(planner._pool_bytes_per_block(config, groups))


def capacity(config: Any, configs: list[Any]) -> tuple[int, float]:
    """The tokens and the concurrency that vLLM logs at its start."""
    from vllm.v1.core import kv_cache_utils

    # 0.25 logs for each worker, from the worker's own groups; later releases once, from the scheduler's view of them.
    told = kv_cache_utils.generate_scheduler_kv_cache_config(configs) if HAS_LAYOUTS else configs[0]
    tokens, concurrency = kv_cache_utils.get_kv_cache_capacity(config, told)
    return int(tokens), float(concurrency)
