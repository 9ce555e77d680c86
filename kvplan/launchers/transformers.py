"""Hugging Face transformers: Python alone, since ``generate`` is a library's function.

Caches are named as ``generate`` of 5.23.0 names them (``cache_implementation``), a quantized one with the options of
``QuantizedCache`` in ``cache_config``. ``transformers:cache=static`` in the plan's engine asks for a static cache.
"""

from __future__ import annotations

from typing import Any

from kvplan.core.errors import UnsupportedError, UsageError
from kvplan.core.launch import Launch, LaunchPlan
from kvplan.core.launch_text import Code, cache_word, python_call, python_value, refuse_missing, set_options
from kvplan.core.registry import split_call

TARGET = "transformers"
ENGINES = ("transformers",)

_NATIVE = {
    **dict.fromkeys(("bf16", "bfloat16"), "bfloat16"),
    **dict.fromkeys(("fp16", "float16"), "float16"),
    **dict.fromkeys(("fp32", "float32"), "float32"),
}
_PACKAGES = {"quanto": "optimum-quanto", "hqq": "hqq"}
"""What a backend needs besides transformers."""

_KNOWN = ("max_model_len", "max_num_seqs", "attention_backend", "tp", "pp", "eager")
_MAX_NEW_TOKENS = 256


def launch(plan: LaunchPlan) -> Launch:
    """A program that loads the model and generates with the planned cache.

    Raises UnsupportedError where the plan asks for what transformers has no argument for.
    """
    refuse_missing("transformers", plan, _KNOWN)
    word = cache_word(plan)
    dtype = _NATIVE.get(word or "")
    quantized = _quantized_options(word) if word and dtype is None else None
    cache = _cache_arguments(plan, quantized)
    name = python_value(plan.model)
    loading = python_call("AutoModelForCausalLM.from_pretrained", _loading(plan, dtype), [name])
    lines = [
        "import torch" if dtype else None,
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"model = {loading}",
        f"tokenizer = AutoTokenizer.from_pretrained({name})",
        'inputs = tokenizer("Hello", return_tensors="pt").to(model.device)',
        f"outputs = {python_call('model.generate', {'max_new_tokens': _MAX_NEW_TOKENS, **cache}, ['**inputs'])}",
        "print(tokenizer.decode(outputs[0], skip_special_tokens=True))",
    ]
    return Launch(
        target=TARGET,
        python="".join(f"{line}\n" for line in lines if line is not None),
        notes=tuple(_notes(plan, quantized)),
    )


def _loading(plan: LaunchPlan, dtype: str | None) -> dict[str, Any]:
    """Arguments of ``from_pretrained``: tensor parallelism by the model's plan, stages by ``device_map``."""
    spread = {"tp_plan": "auto"} if plan.parallel.tp > 1 else {"device_map": "auto"}
    return {
        "dtype": Code(f"torch.{dtype}") if dtype else None,
        **spread,
        "attn_implementation": plan.attention_backend,
    }


def _cache_arguments(plan: LaunchPlan, quantized: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments of ``generate``; the dynamic cache is its default."""
    if quantized is not None:
        return {"cache_implementation": "quantized", "cache_config": quantized}
    return {"cache_implementation": "static"} if _cache_kind(plan.engine) == "static" else {}


def _cache_kind(engine: str) -> str:
    """``static`` of ``transformers:cache=static``."""
    _, positional, options = split_call(engine, "engine")
    return options.get("cache") or (positional[0] if positional else "dynamic")


def _quantized_options(word: str) -> dict[str, Any]:
    """``quanto4``, ``hqq:bits=8,residual=127`` or ``fp8`` as the options of ``QuantizedCache``.

    Raises UnsupportedError for a word that is none of them.
    """
    if word in ("fp8", "fp8_e4m3"):
        return {"backend": "fp8"}
    name, positional, options = split_call(word, "cache dtype")
    backend = next((entry for entry in _PACKAGES if name.startswith(entry)), None)
    if backend is None:
        raise UnsupportedError(
            f"transformers has no cache dtype {word!r}", "it has fp8, quanto4, quanto2, hqq8 and hqq4"
        )
    bits = name[len(backend) :] or options.get("bits") or (positional[0] if positional else "4")
    group = options.get("group")
    if not bits.isdigit() or not (group or "0").isdigit():
        raise UsageError(f"cache dtype {word!r} has no whole number of bits", "write quanto4 or hqq:bits=8")
    return set_options({"backend": backend, "nbits": int(bits), "q_group_size": int(group) if group else None})


def _notes(plan: LaunchPlan, quantized: dict[str, Any] | None) -> list[str]:
    notes = []
    if quantized is not None and quantized["backend"] in _PACKAGES:
        notes.append(f"the {quantized['backend']} backend needs: pip install {_PACKAGES[quantized['backend']]}")
    if plan.parallel.tp > 1:
        notes.append(f"start it with: torchrun --nproc-per-node {plan.parallel.tp} FILE")
    if plan.max_num_seqs is not None and plan.max_num_seqs > 1:
        notes.append(f"the plan holds {plan.max_num_seqs:,} prompts in one batch, padded to the longest")
    return notes
