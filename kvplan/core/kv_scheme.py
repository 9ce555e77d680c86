"""Reads the cache format that a checkpoint asks for out of its ``quantization_config``.

When the cache dtype is ``auto``, vLLM 0.32 follows ModelOpt and, outside latent attention, compressed-tensors
(``utils/torch_utils.py``, ``model_executor/layers/attention/attention.py``; ``tests/parity/vllm_kv_schemes.py`` asks
it). SGLang 0.5.23 follows ModelOpt's fp8 alone (``mem_cache/kv_cache_dtype.py``). What other methods state of the
cache, engines use on request only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kvplan.core.frozen import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class KVScheme:
    """The cache format that a checkpoint asks for and the quantization method that states it, or why there is none."""

    cache_format: str | None = None
    method: str | None = None
    notes: tuple[str, ...] = ()


def kv_scheme_of(quantization_config: Mapping[str, Any]) -> KVScheme:
    """What a ``quantization_config`` says of the cache. What is malformed or unknown is a note, never an error."""
    stated = _stated(quantization_config)
    if not stated or (isinstance(stated, str) and stated.strip().lower() in ("none", "auto")):
        return KVScheme()
    method = _method(quantization_config)
    reader = _READERS.get(method)
    if reader is None:
        note = f"the checkpoint ({method[:40] or 'unnamed quantization'}) has scales for a quantized cache"
        return KVScheme(notes=(f"{note}, which engines use on request only (--kv-dtype fp8_e4m3)",))
    cache_format = reader(stated)
    if cache_format is None:
        note = f"the checkpoint's kv_cache_scheme ({_shown(stated)}) is not known"
        return KVScheme(notes=(f"{note}: its cache is taken for one of 16 bits (--kv-dtype)",))
    return KVScheme(cache_format=cache_format, method=method)


def _method(config: Mapping[str, Any]) -> str:
    """The quantization method in lower case; ModelOpt has a method name for each weight format."""
    producer = config.get("producer")
    if isinstance(producer, Mapping) and producer.get("name") == "modelopt":
        return "modelopt"
    method = str(config.get("quant_method") or "").lower()
    return "modelopt" if method.startswith("modelopt") else method.replace("compressed_tensors", "compressed-tensors")


def _stated(config: Mapping[str, Any]) -> object:
    """What is said of the cache, in ModelOpt's nested form (``quantization``), in the flat one, or in Quark's."""
    nested, export = config.get("quantization"), config.get("export")
    places = (nested, config) if isinstance(nested, Mapping) else (config,)
    for key in ("kv_cache_scheme", "kv_cache_quant_algo"):
        for place in places:
            if place.get(key):
                return place[key]
    return export.get("kv_cache_group") if isinstance(export, Mapping) else None


def _modelopt(stated: object) -> str | None:
    if isinstance(stated, str):
        return {"fp8": "fp8_e4m3", "nvfp4": "nvfp4"}.get(stated.strip().lower())
    if not isinstance(stated, Mapping) or stated.get("type") != "float":
        return None
    if stated.get("num_bits") == 8 and stated.get("dynamic") is False:
        return "fp8_e4m3"
    return "nvfp4" if stated.get("num_bits") == 4 else None


def _compressed_tensors(stated: object) -> str | None:
    if not isinstance(stated, Mapping) or (stated.get("type"), stated.get("num_bits")) != ("float", 8):
        return None
    # other strategies, such as token, would store scales in the cache: no engine has them
    return "fp8_e4m3" if stated.get("strategy") in (None, "tensor", "attn_head") else None


_READERS: dict[str, Callable[[object], str | None]] = {
    "modelopt": _modelopt,
    "compressed-tensors": _compressed_tensors,
}

SCHEME_FORMATS = ("fp8_e4m3", "nvfp4")
"""The formats that a checkpoint can ask for."""

SCHEME_METHODS = tuple(_READERS)
"""The methods whose cache format engines follow."""


def _shown(stated: object) -> str:
    """One short line for people."""
    if isinstance(stated, Mapping):
        stated = ", ".join(f"{key} {value}" for key, value in stated.items())
    return " ".join(str(stated).split())[:80]
