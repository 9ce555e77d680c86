"""llama.cpp's server: ``llama-server`` with a context for all slots together.

Flags are those of ``common/arg.cpp`` in 0.5.0 (2026-09-28). ``-c`` counts the cells of all slots; with ``-np`` each
slot has an equal share of them. Without ``-np`` the server starts four slots that share the whole context.
"""

from __future__ import annotations

from kvplan.core.errors import UsageError
from kvplan.core.launch import Launch, LaunchPlan
from kvplan.core.launch_text import cache_word, refuse_missing

TARGET = "llamacpp"
ENGINES = ("llamacpp",)

_WORDS = {"fp16": "f16", "fp32": "f32"}
"""llama.cpp's words for kvplan's names."""

_DEFAULT = "f16"
_FLOATS = ("f32", "f16", "bf16")
_KNOWN = ("max_model_len", "max_num_seqs", "text_only", "prefix_caching", "pp")


def launch(plan: LaunchPlan) -> Launch:
    """``llama-server`` with a file (``-m``) or a Hub repository of GGUF files (``-hf``), every layer on the GPU.

    ``pp`` devices need no flag: layers are split over all that the server sees. Raises UnsupportedError where the plan
    asks for what llama.cpp has no option for.
    """
    refuse_missing("llama.cpp", plan, _KNOWN)
    key, value = _cache_types(plan)
    types = (*(("-ctk", key) if key != _DEFAULT else ()), *(("-ctv", value) if value != _DEFAULT else ()))
    flash = ("-fa", "on") if value not in _FLOATS else ()
    reuse = ("--no-cache-prompt",) if plan.prefix_caching is False else ()
    towers = ("--no-mmproj",) if plan.text_only else ()
    model = ("-m" if plan.model.lower().endswith(".gguf") else "-hf", plan.model)
    return Launch(
        target=TARGET,
        argv=("llama-server", *model, *_slots(plan), *flash, *types, "-ngl", "all", *reuse, *towers),
        notes=tuple(_notes(plan)),
    )


def _slots(plan: LaunchPlan) -> tuple[str, ...]:
    """``-c`` and ``-np``; a number of slots without a length for each leaves the length to the model."""
    length, slots = plan.max_model_len, plan.max_num_seqs
    if slots is not None and length is None:
        raise UsageError("llama.cpp shares one context among all slots", "say how long a request may be: --ctx")
    context = ("-c", str(length * (slots or 1))) if length is not None else ()
    return (*context, *(("-np", str(slots)) if slots is not None else ()))


def _cache_types(plan: LaunchPlan) -> tuple[str, str]:
    """Types of keys and of values: ``q8_0`` or ``q8_0/q4_0``."""
    pieces = (cache_word(plan) or _DEFAULT).split("/")
    if len(pieces) > 2:
        raise UsageError(f"{plan.cache_word!r} is neither one cache type nor a pair K/V", "write q8_0 or q8_0/q4_0")
    key, value = (_WORDS.get(piece, piece) for piece in (pieces[0], pieces[-1]))
    return key, value


def _notes(plan: LaunchPlan) -> list[str]:
    length, slots = plan.max_model_len, plan.max_num_seqs
    shared = length is not None and slots is not None and slots > 1
    notes = [f"-c counts all slots together: {slots:,} x {length:,} tokens"] if shared else []
    if "gguf" not in plan.model.lower():
        notes.append(f"-hf takes a repository of GGUF files: name one that was converted from {plan.model}")
    return notes
