"""ExLlamaV3: Python alone; its wheel has no server (TabbyAPI is one that is built on it).

Names are those of 1.6.5 (``cache/cache.py``, ``model_init.py``). The cache is one pool of tokens for all jobs.
"""

from __future__ import annotations

from kvplan.core.errors import UnsupportedError, UsageError
from kvplan.core.launch import Launch, LaunchPlan
from kvplan.core.launch_text import Code, cache_word, python_call, python_value, refuse_missing
from kvplan.core.units import round_up

TARGET = "exllamav3"
ENGINES = ("exllamav3",)

PAGE_TOKENS = 256
"""``constants.py`` PAGE_SIZE: each job takes whole pages."""

_NATIVE = ("fp16", "float16", "f16", "half")
_BITS = tuple("2345678")
_KNOWN = ("max_model_len", "max_num_seqs", "tp")


def launch(plan: LaunchPlan) -> Launch:
    """A program that loads the model, a folder of EXL3 files, with the planned cache.

    Raises UnsupportedError where the plan asks for what ExLlamaV3 has no option for.
    """
    refuse_missing("exllamav3", plan, _KNOWN)
    if plan.max_model_len is None:
        raise UsageError("exllamav3's cache has no size of its own", "say how long a request may be: --ctx")
    tokens = round_up(plan.max_model_len, PAGE_TOKENS) * (plan.max_num_seqs or 1)
    bits = _bits(plan)
    layers = {"layer_type": Code("CacheLayer_quant"), "k_bits": bits[0], "v_bits": bits[1]} if bits else {}
    names = ["Cache", *(["CacheLayer_quant"] if bits else []), "Config", "Generator", "Model", "Tokenizer"]
    cache = python_call("Cache", {"max_num_tokens": tokens, "max_batch_size": plan.max_num_seqs, **layers}, ["model"])
    lines = [
        f"from exllamav3 import {', '.join(names)}",
        "",
        f"config = Config.from_directory({python_value(plan.model)})",
        "model = Model.from_config(config)",
        f"cache = {cache}",
        f"model.load({'tensor_p=True' if plan.parallel.tp > 1 else ''})",
        "generator = Generator(model, cache, Tokenizer.from_config(config))",
    ]
    return Launch(target=TARGET, python="".join(f"{line}\n" for line in lines))


def _bits(plan: LaunchPlan) -> tuple[int, int] | None:
    """Bits of keys and of values: ``8`` or ``6,5``; None for fp16. Raises UnsupportedError."""
    word = cache_word(plan)
    if word is None or word in _NATIVE:
        return None
    pieces = [piece.strip() for piece in word.replace(",", "/").split("/")]
    if len(pieces) > 2 or not all(piece in _BITS for piece in pieces):
        raise UnsupportedError(f"exllamav3 has no cache dtype {word!r}", "it has 2 to 8 bits, or a pair as in 6,5")
    return int(pieces[0]), int(pieces[-1])
