"""Reads a ``config.json``'s ``quantization_config`` into the name of a weight format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

_UNRELATED = re.compile(r"vision|visual|audio|mm_projector|multi_modal|norm")
_ATTENTION = re.compile(r"attn|attention")
_DENSE_MLP = re.compile(r"shared_expert|mlp[^a-z]*(gate_proj|gate\||up_proj|down_proj)")
_LAYER = re.compile(r"layers\.([0-9]+)\.")
_FEW_LAYERS = 4


def weight_format_of(quantization_config: Mapping[str, Any], expert_dtype: str | None = None) -> str | None:
    """The weight format of a checkpoint, as ``--weights`` takes it; None where the scheme is not known.

    ``expert_dtype`` is the key of that name beside the ``quantization_config`` (DeepSeek-V4 has ``fp4``).
    """
    method = str(quantization_config.get("quant_method") or "").lower()
    if not method and {"bits", "group_size"} <= quantization_config.keys():
        method = "mlx"  # mlx-lm writes nothing but these two
    reader = _READERS.get(method)
    if reader is None:
        return None
    name = reader(quantization_config)
    if name == "fp8" and expert_dtype == "fp4":
        return "fp8_mxfp4"
    return name


def _fp8(config: Mapping[str, Any]) -> str | None:
    return "fp8" + _scope(config)


def _mxfp4(config: Mapping[str, Any]) -> str | None:
    return "mxfp4_experts"  # transformers' Mxfp4 quantizer converts routed experts alone (gpt-oss)


def _awq(config: Mapping[str, Any]) -> str | None:
    bits = _integer(config, "bits", "w_bit")
    return f"int4_awq{_group(config, 128)}" if bits == 4 else None


def _gptq(config: Mapping[str, Any]) -> str | None:
    bits = _integer(config, "bits", "w_bit")
    return f"int{bits}_gptq{_group(config, 128)}" if bits in (2, 3, 4, 8) else None


def _mlx(config: Mapping[str, Any]) -> str | None:
    bits = _integer(config, "bits")
    return f"mlx_{bits}bit{_group(config, 64)}" if bits in (2, 3, 4, 6, 8) else None


def _bitsandbytes(config: Mapping[str, Any]) -> str | None:
    if config.get("load_in_4bit"):
        return "bnb_nf4_double" if config.get("bnb_4bit_use_double_quant") else "bnb_nf4"
    return "int8" if config.get("load_in_8bit") else None


def _bitnet(config: Mapping[str, Any]) -> str | None:
    return "bitnet"


def _compressed_tensors(config: Mapping[str, Any]) -> str | None:
    """One scheme for all groups; ``ignore`` says what it leaves alone."""
    schemes = {_scheme(weights) for weights in _group_weights(config)}
    if len(schemes) != 1 or None in schemes:
        return None
    return f"{schemes.pop()}{_scope(config)}"


def _modelopt(config: Mapping[str, Any]) -> str | None:
    nested = config.get("quantization")
    stated = nested if isinstance(nested, Mapping) else config  # hf_quant_config.json nests it
    algorithm = str(stated.get("quant_algo") or "").upper()
    if algorithm == "MIXED_PRECISION":
        schemes = {_scheme(weights) for weights in _group_weights(config)}
        return "nvfp4_mixed" if schemes == {"fp8", "nvfp4"} else None
    name = _MODELOPT.get(algorithm)
    return None if name is None else name + _scope(stated)


_MODELOPT = {
    "FP8": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "FP8_PB_WO": "fp8",
    "NVFP4": "nvfp4",
    "W4A16_NVFP4": "nvfp4",
    "NVFP4_AWQ": "nvfp4",
    "W4A16_AWQ": "int4_awq",
    "W4A8_AWQ": "int4_awq",
    "MXFP4": "mxfp4",
    "W4A8_MXFP4_FP8": "mxfp4",
}

_READERS: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "mxfp4": _mxfp4,
    "awq": _awq,
    "gptq": _gptq,
    "gptq_marlin": _gptq,
    "mlx": _mlx,
    "bitsandbytes": _bitsandbytes,
    "bitnet": _bitnet,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
}


def _group_weights(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    groups = config.get("config_groups")
    entries = groups.values() if isinstance(groups, Mapping) else ()
    weights = [entry.get("weights") for entry in entries if isinstance(entry, Mapping)]
    return [entry for entry in weights if isinstance(entry, Mapping)]


def _scheme(weights: Mapping[str, Any]) -> str | None:
    """One ``weights`` entry of a config group: number type, bits and group size."""
    bits, kind, group = _integer(weights, "num_bits"), weights.get("type"), _integer(weights, "group_size")
    if kind == "float":
        return {(8, None): "fp8", (4, 16): "nvfp4", (4, 32): "mxfp4"}.get((bits or 0, group if bits == 4 else None))
    if kind != "int":
        return None
    return {4: f"int4{_group(weights, 128)}", 8: "int8"}.get(bits or 0)


def _group(config: Mapping[str, Any], usual: int) -> str:
    """``_g32`` where the group size is stated and unusual; per-channel scales (-1) are priced as the usual group."""
    group = _integer(config, "group_size", "q_group_size")
    return f"_g{group}" if group is not None and group > 0 and group != usual else ""


def _integer(config: Mapping[str, Any], *names: str) -> int | None:
    """The first of the keys that holds a whole number."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _scope(config: Mapping[str, Any]) -> str:
    """What the lists of unquantized modules leave out: attention (``_mlp``), or all but experts (``_experts``)."""
    names = [name for name in _ignored(config) if not _UNRELATED.search(name)]
    if not _most_layers(name for name in names if _ATTENTION.search(name)):
        return ""
    return "_experts" if _most_layers(name for name in names if _DENSE_MLP.search(name)) else "_mlp"


def _ignored(config: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for key in ("ignore", "modules_to_not_convert", "ignored_layers", "exclude_modules"):
        value = config.get(key)
        found += [item for item in value if isinstance(item, str)] if isinstance(value, (list, tuple)) else []
    return found


def _most_layers(names: Iterable[str]) -> bool:
    """Whether names cover most layers: one has no layer number, or they have over half the numbers up to the last."""
    numbers: set[int] = set()
    for name in names:
        match = _LAYER.search(name)
        if match is None:
            return True
        numbers.add(int(match[1]))
    return len(numbers) >= _FEW_LAYERS and 2 * len(numbers) > max(numbers) + 1
