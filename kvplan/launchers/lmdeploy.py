"""LMDeploy's PyTorch engine, whose caches kvplan knows: ``lmdeploy serve api_server``, and ``pipeline`` in Python.

Flags are those of 0.18.0 (``cli/utils.py``), fields those of ``PytorchEngineConfig`` (``messages.py``).
"""

from __future__ import annotations

from typing import Any

from kvplan.core.errors import UnsupportedError
from kvplan.core.launch import Launch, LaunchPlan
from kvplan.core.launch_text import (
    Code,
    above_one,
    cache_word,
    flag_words,
    python_call,
    python_value,
    ratio_value,
    refuse_missing,
)

TARGET = "lmdeploy"
ENGINES = ("lmdeploy",)

_POLICIES = {
    **dict.fromkeys(("none", "0", "bf16", "bfloat16", "fp16", "float16"), 0),
    **dict.fromkeys(("int4", "4"), 4),
    **dict.fromkeys(("int8", "8"), 8),
    **dict.fromkeys(("fp8", "fp8_e4m3", "16"), 16),
    **dict.fromkeys(("fp8_e5m2", "17"), 17),
    **dict.fromkeys(("turbo_quant", "42"), 42),
}
"""``QuantPolicy`` in ``messages.py``; 0 keeps the model's dtype, the default."""

_KNOWN = (
    *("max_model_len", "max_num_seqs", "max_num_batched_tokens", "memory_utilization", "block_tokens"),
    *("prefix_caching", "eager", "text_only", "tp"),
)
_FIELDS = {"cache_block_seq_len": "block_size"}
"""Fields of ``PytorchEngineConfig`` that are not named as their flags."""


def launch(plan: LaunchPlan) -> Launch:
    """``lmdeploy serve api_server MODEL --backend pytorch`` with the flags that are set.

    Raises UnsupportedError where the plan asks for what LMDeploy has no option for.
    """
    refuse_missing("LMDeploy", plan, _KNOWN)
    options = _options(plan)
    config = python_call("PytorchEngineConfig", {_FIELDS.get(name, name): options[name] for name in options})
    call = python_call("pipeline", {"backend_config": Code(config)}, [python_value(plan.model)])
    return Launch(
        target=TARGET,
        argv=("lmdeploy", "serve", "api_server", plan.model, "--backend", "pytorch", *flag_words(options)),
        python=f"from lmdeploy import PytorchEngineConfig, pipeline\n\npipe = {call}\n",
        notes=("--backend pytorch: kvplan's figures are those of the PyTorch engine, not of TurboMind",),
    )


def _options(plan: LaunchPlan) -> dict[str, Any]:
    return {
        "quant_policy": _policy(plan),
        "tp": above_one(plan.parallel.tp),
        "session_len": plan.max_model_len,
        "max_batch_size": plan.max_num_seqs,
        "max_prefill_token_num": plan.max_num_batched_tokens,
        "cache_max_entry_count": ratio_value(plan.memory_utilization),
        "cache_block_seq_len": plan.block_tokens,
        "enable_prefix_caching": plan.prefix_caching or None,
        "eager_mode": plan.eager or None,
        "language_model_only": plan.text_only or None,
    }


def _policy(plan: LaunchPlan) -> int | None:
    """``--quant-policy`` by number, as Python takes it, too; None for the model's dtype."""
    word = cache_word(plan)
    if word is None:
        return None
    if word not in _POLICIES:
        raise UnsupportedError(f"LMDeploy has no cache dtype {word!r}", f"it has {', '.join(_POLICIES)}")
    return _POLICIES[word] or None
