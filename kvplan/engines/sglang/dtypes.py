"""The words of ``--kv-cache-dtype`` and what the pools store for them.

``arg_groups/fields/model.py:197`` (the choices), ``mem_cache/kv_cache_dtype.py`` (``auto``),
``arg_groups/overrides.py:490-620, 890`` (sparse attention and DeepSeek-V4).
"""

from __future__ import annotations

from kvplan.core.engine import EngineSettings, ModelFacts, Stage, choose_dtype
from kvplan.core.errors import UnsupportedError
from kvplan.engines.sglang.backends import check_dtype, choose_backend
from kvplan.engines.sglang.families import packs_fp8
from kvplan.engines.sglang.hardware import Hardware, read_hardware
from kvplan.engines.sglang.layers import Traits, read_traits

WORDS = {
    "auto": "auto",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp8_e4m3": "fp8_e4m3",
    "fp8_e5m2": "fp8_e5m2",
    "mxfp8": "mxfp8",
    "nvfp4": "nvfp4",
    "fp4_mx_block16": "fp4_mx_block16",
}

DSA_BACKENDS = {
    "auto": None,
    "flashmla_kv": "fp8_ds_mla",
    "flashmla_sparse": "fp8_ds_mla",
    "flashinfer_sparse_mla": "fp8_ds_mla",
    "fa3": "fp8_ds_mla",
    "trtllm": "fp8_e4m3",
    "tilelang": "fp8_e4m3",
}
"""``--dsa-prefill-backend`` with ``--dsa-decode-backend``, and the FP8 rows they read: packed with scales, or plain
(``mem_cache/kv_cache_configurator.py:3412`` ``calculate_mla_kv_cache_dim``)."""


def resolve_dtype(
    text: str, facts: ModelFacts, stages: tuple[Stage, ...], settings: EngineSettings, dsa_backend: str
) -> str:
    """The kvplan format of a ``--kv-cache-dtype``. Raises UnsupportedError."""
    key = text.strip().lower()
    if key in ("fp16", "float16") and facts.dtype == "fp16":
        key = "auto"  # SGLang has no word for it, and auto stores it
    word = choose_dtype("SGLang", key, WORDS)
    traits = read_traits(stages, facts)
    hardware = read_hardware(settings, word)
    if traits.compressed:
        return _compressed(word)
    if traits.sparse:
        return _sparse(word, facts, hardware, dsa_backend)
    if word == "auto":
        follows = facts.kv_scheme == "fp8_e4m3" and facts.kv_scheme_method == "modelopt"
        word = "fp8_e4m3" if follows else facts.dtype
    _check_pool(word, traits)
    check_dtype(word, choose_backend(settings, traits, hardware, word), traits, hardware)
    return word


def _compressed(word: str) -> str:
    if word not in ("auto", "fp8_e4m3"):
        raise UnsupportedError(f"SGLang has no {word} for DeepSeek-V4 on CUDA devices", "it has auto (fp8_e4m3)")
    return "fp8_ds_mla"


def _sparse(word: str, facts: ModelFacts, hardware: Hardware, dsa_backend: str) -> str:
    """FP8 by default on Blackwell, where rows are plain for the trtllm kernels; packed rows with scales elsewhere."""
    if word == "auto":
        word = "fp8_e4m3" if hardware.blackwell else "bf16"
    if word not in ("bf16", "fp8_e4m3"):
        raise UnsupportedError(f"SGLang has no {word} for sparse attention", "it has auto, bf16 and fp8_e4m3")
    if word == "bf16":
        return "bf16"
    plain = hardware.blackwell and not packs_fp8(facts.architecture_class, hardware.generation)
    return DSA_BACKENDS[dsa_backend] or ("fp8_e4m3" if plain else "fp8_ds_mla")


def _check_pool(word: str, traits: Traits) -> None:
    """Refuse dtypes that only the plain pool of keys and values stores."""
    if traits.latent and word in ("nvfp4", "mxfp8"):
        raise UnsupportedError(f"SGLang has no {word} for latent attention", "it has fp8_e4m3, fp8_e5m2 and bf16")
    if traits.window_pool and word in ("nvfp4", "fp4_mx_block16"):
        raise UnsupportedError(
            f"SGLang's pools for sliding windows have no {word}", "it has fp8_e4m3, fp8_e5m2, mxfp8 and bf16"
        )
    if traits.family == "minimax_m3" and word in ("nvfp4", "fp4_mx_block16", "mxfp8"):
        raise UnsupportedError(f"SGLang's pool for MiniMax-M3 has no {word}", "it has fp8_e4m3, fp8_e5m2 and bf16")
