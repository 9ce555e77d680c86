"""MLX-LM: ``mlx_lm.server``, and ``generate`` in Python.

Flags are those of 0.32.2 (``server.py``, ``generate.py``). Caches grow with their requests, so there is no option for
the longest one. Quantized caches are served one request at a time (``--kv-bits`` in ``server.py``).
"""

from __future__ import annotations

import re

from kvplan.core.errors import UnsupportedError
from kvplan.core.launch import Launch, LaunchPlan
from kvplan.core.launch_text import cache_word, flag_words, python_call, python_value, refuse_missing

TARGET = "mlx"
ENGINES = ("mlx",)

_NATIVE = ("bf16", "bfloat16", "fp16", "float16", "fp32", "float32")
_KNOWN = ("max_model_len", "max_num_seqs")


def launch(plan: LaunchPlan) -> Launch:
    """``mlx_lm.server --model MODEL`` with the bits of the cache.

    Raises UnsupportedError where the plan asks for what mlx-lm has no option for.
    """
    refuse_missing("mlx-lm", plan, _KNOWN)
    bits = _bits(plan)
    batch = plan.max_num_seqs if bits is None else None
    call = python_call("generate", {"kv_bits": bits}, ["model", "tokenizer", 'prompt="Hello"'])
    loading = python_call("load", {}, [python_value(plan.model)])
    return Launch(
        target=TARGET,
        argv=("mlx_lm.server", *flag_words({"model": plan.model, "kv_bits": bits, "decode_concurrency": batch})),
        python=f"from mlx_lm import generate, load\n\nmodel, tokenizer = {loading}\ntext = {call}\n",
        notes=tuple(_notes(plan, bits)),
    )


def _bits(plan: LaunchPlan) -> int | None:
    """``--kv-bits`` of ``8bit``; None for the model's dtype. Raises UnsupportedError."""
    word = cache_word(plan)
    if word is None or word in _NATIVE:
        return None
    found = re.fullmatch(r"([1-8])(bit)?", word)
    if found is None:
        raise UnsupportedError(f"mlx-lm has no cache dtype {word!r}", "it has 8bit, 6bit, 5bit, 4bit, 3bit, 2bit")
    return int(found[1])


def _notes(plan: LaunchPlan, bits: int | None) -> list[str]:
    if bits is None:
        return []
    notes = ["the first 5,000 tokens stay in the model's dtype (--quantized-kv-start)"]
    if plan.max_num_seqs is not None and plan.max_num_seqs > 1:
        notes.append("with --kv-bits the server takes one request at a time")
    return notes
