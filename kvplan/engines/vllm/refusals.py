"""Combinations that vLLM refuses before it plans: parallel sizes, lengths, architectures, block sizes.

vLLM 0.32.0 ``config/model.py:1534``, the model classes' own assertions, ``v1/kv_cache_interface.py`` for windows.
"""

from __future__ import annotations

from kvplan.core.attention import CrossAttention, HeadedKind, LayerKind
from kvplan.core.engine import EngineRequest
from kvplan.core.errors import UnsupportedError, UsageError
from kvplan.engines.vllm.families import Quirks
from kvplan.engines.vllm.rules import Rules
from kvplan.engines.vllm.run import Traits, all_kinds


def refuse(request: EngineRequest, traits: Traits, quirks: Quirks, rules: Rules) -> None:
    """Raise UnsupportedError or UsageError as vLLM refuses to start."""
    major, minor, *_ = map(int, rules.version.split("."))
    if quirks.unsupported and (major, minor) > quirks.runs_until:
        raise UnsupportedError(f"vLLM does not run this architecture: {quirks.unsupported}")
    kinds = all_kinds(request.stages)
    if quirks.bounded_gate and not rules.kimi_k3 and traits.recurrent:
        raise UnsupportedError(f"vLLM {rules.version} does not know Kimi-K3", "it came later")
    _refuse_lengths(request)
    _refuse_heads(request, kinds, quirks)
    if request.parallel.dcp > 1:
        _refuse_context_parallel(request, kinds, traits)
    if request.parallel.pp > 1 and traits.crosses:
        raise UnsupportedError("vLLM has no pipeline parallelism for models with cross-attention", "use --pp 1")


def _refuse_lengths(request: EngineRequest) -> None:
    longest, length = request.facts.max_context_tokens, request.max_model_len
    if longest is not None and length > longest:
        raise UsageError(
            f"vLLM starts this model for at most {longest} tokens, not {length}", "choose a shorter --max-model-len"
        )
    if request.context_tokens > length:
        raise UsageError(
            f"a context of {request.context_tokens} tokens is longer than --max-model-len {length}",
            "raise --max-model-len or leave it out",
        )
    block = request.settings.block_tokens
    if block is not None and (block < 1 or block % 16):
        raise UsageError(f"vLLM's --block-size must be a multiple of 16, not {block}", "choose 16, 32, 64 or 128")


def _refuse_heads(request: EngineRequest, kinds: tuple[LayerKind, ...], quirks: Quirks) -> None:
    tp, heads = request.parallel.tp, request.facts.num_heads
    if heads is not None and heads % tp:
        raise UsageError(f"--tp {tp} does not divide the {heads} attention heads")
    for count in sorted({kind.num_kv_heads for kind in kinds if isinstance(kind, (HeadedKind, CrossAttention))}):
        if max(count, tp) % min(count, tp) or (quirks.heads_not_replicated and tp > count):
            raise UnsupportedError(
                f"vLLM splits no {count} KV heads over {tp} ranks", "it needs --tp that divides them or a multiple"
            )


def _refuse_context_parallel(request: EngineRequest, kinds: tuple[LayerKind, ...], traits: Traits) -> None:
    tp, dcp, heads = request.parallel.tp, request.parallel.dcp, request.facts.num_heads or 1
    if any(kind.window_tokens for kind in kinds):
        raise UnsupportedError("vLLM's decode-context parallelism has no sliding windows", "leave --dcp out")
    if traits.latent or not traits.attends:
        return
    count = traits.num_kv_heads
    if tp <= count:
        raise UnsupportedError(
            f"vLLM's decode-context parallelism needs --tp above the model's {count} KV heads, not {tp}",
            "raise --tp or leave --dcp out",
        )
    if dcp > tp // count:
        raise UnsupportedError(f"vLLM allows --dcp {tp // count} at most with --tp {tp} and {count} KV heads")
    if heads // count % dcp:
        raise UnsupportedError(f"--dcp {dcp} does not divide the {heads // count} query heads per KV head")
