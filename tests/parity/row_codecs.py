"""What engines' own code stores for a few rows.

ggml's reference quantizers, vLLM's UltraQuant and TurboQuant, LMDeploy's TurboQuant and SGLang's block-16 FP4.
Two interpreters fill one file: one with llama-cpp-python (its ``libggml-base`` is called through ctypes), and one with
torch (CPU), triton 3.6 and the unpacked wheels of vLLM 0.33.0, SGLang 0.5.23 and LMDeploy 0.18.0, of which single files
are loaded. Their kernels run in Triton's interpreter::

    python tests/parity/row_codecs.py ggml tests/vectors/row_codecs.json
    TRITON_INTERPRET=1 python tests/parity/row_codecs.py torch tests/vectors/row_codecs.json \\
        FOLDER_WITH_vllm FOLDER_WITH_sglang FOLDER_WITH_lmdeploy
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import random
import struct
import sys
from datetime import date
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

WIDTH = 128
GGML_BLOCK_BYTES = {"q8_0": 34, "q4_0": 18, "q4_1": 20, "q5_0": 22, "q5_1": 24, "iq4_nl": 18}


def input_rows() -> list[list[float]]:
    """Rows of fp16 values: normal at three sizes, a constant, multiples of 1/4 (ties), few non-zeros, one outlier."""
    normal = random.Random(7).gauss
    rows = [[normal(0, size) for _ in range(WIDTH)] for size in (1.0, 1e-3, 300.0)]
    rows.append([0.75] * WIDTH)
    rows.append([round(4 * normal(0, 2)) / 4 for _ in range(WIDTH)])
    rows.append([normal(0, 1) if i % 8 == 3 else 0.0 for i in range(WIDTH)])
    rows.append([normal(3, 1) for _ in range(WIDTH)])
    rows.append([90.0 if i == 40 else normal(0, 1) for i in range(WIDTH)])
    return [[struct.unpack("e", struct.pack("e", x))[0] + 0.0 for x in row] for row in rows]


def ggml_section() -> dict[str, Any]:
    """The bytes that ``quantize_row_*_ref`` writes and the floats that ``dequantize_row_*`` reads from them."""
    import llama_cpp

    library = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.*"))))
    flat = [x for row in input_rows() for x in row]
    source = (ctypes.c_float * len(flat))(*flat)
    formats = {}
    for name, block_bytes in GGML_BLOCK_BYTES.items():
        stored = (ctypes.c_uint8 * (len(flat) // 32 * block_bytes))()
        back = (ctypes.c_float * len(flat))()
        getattr(library, f"quantize_row_{name}_ref")(source, stored, ctypes.c_int64(len(flat)))
        getattr(library, f"dequantize_row_{name}")(stored, back, ctypes.c_int64(len(flat)))
        formats[name] = {"stored": bytes(stored).hex(), "decoded": bytes(back).hex()}
    return {"engine": f"llama-cpp-python {llama_cpp.__version__}, libggml-base", "formats": formats}


def load(name: str, path: Path) -> ModuleType:
    """One file of a package, without the package."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def stub(name: str, **members: Any) -> None:
    """Empty packages down to ``name``, which holds ``members``."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        sys.modules.setdefault(".".join(parts[:end]), ModuleType(parts[end - 1]))
    vars(sys.modules[name]).update(members)


def ultraquant_section(vllm: Path) -> dict[str, Any]:
    """Codes (a byte each), scale bytes and rows, in the rotated basis, of ``ultraquant/reference.py``."""
    import torch

    package = "vllm.v1.attention.ops.ultraquant"
    folder = vllm / "v1/attention/ops/ultraquant"
    stub(package)
    load(f"{package}.format", folder / "format.py")
    reference = load(f"{package}.reference", folder / "reference.py")
    encoded = reference.ultraquant_encode(torch.tensor(input_rows()))
    codes = reference._unpack_nibbles_last_dim(encoded.codes_packed, WIDTH)
    decoded = reference.ultraquant_dequant(encoded, WIDTH)
    return {"engine": "vLLM 0.33.0", **hexed(codes, encoded.scale_bytes, decoded)}


def block16_section(sglang: Path) -> dict[str, Any]:
    """Codes (a byte each), scale bytes and rows of ``kvfp4_tensor.py``."""
    import torch

    stub("sglang.srt.runtime_context", get_platform=SimpleNamespace)
    torch.compile = lambda function: function
    quantize = load("kvfp4_tensor", sglang / "srt/layers/quantization/kvfp4_tensor.py").FP4MXBlock16KVQuantizeUtil
    packed, scales = quantize.batched_quantize(torch.tensor(input_rows()).unsqueeze(0))
    decoded = quantize.batched_dequantize(packed, scales, torch.float32)
    codes = torch.stack([packed & 0xF, packed >> 4], dim=-1).flatten(-2)
    return {"engine": "SGLang 0.5.23", **hexed(codes, scales, decoded)}


TURBOQUANT_ROWS = (0, 1, 2, 5, 6, 7)
"""Those of the input that have no rotated element of 0 and rounding noise, for which codes would be arbitrary."""
TURBOQUANT_BITS = {"turboquant_4bit_nc": (4, 4), "turboquant_k3v4_nc": (3, 4), "turboquant_3bit_nc": (3, 3)}


def turboquant_section(vllm: Path) -> dict[str, Any]:
    """The bytes of each row, keys and values in turn, that vLLM's store kernel writes (FP8 keys are a mere cast)."""
    import torch
    import triton
    import triton.language as tl

    stub("vllm.triton_utils", tl=tl, triton=triton)
    stub("vllm.v1.attention.ops.triton_turboquant_decode", _use_fp8_e4b15=lambda device: 0)
    store = load("turboquant_store", vllm / "v1/attention/ops/triton_turboquant_store.py").triton_turboquant_store
    solve = load("centroids", vllm / "model_executor/layers/quantization/turboquant/centroids.py").get_centroids
    rows = torch.tensor([row for i, row in enumerate(input_rows()) if i in TURBOQUANT_ROWS]).unsqueeze(1)
    slots = torch.arange(len(rows), dtype=torch.int32)
    formats = {}
    for name, (key_bits, value_bits) in TURBOQUANT_BITS.items():
        levels = solve(WIDTH, key_bits)
        key_bytes, value_bytes = WIDTH * key_bits // 8 + 2, WIDTH * value_bits // 8 + 4
        cache = torch.zeros(1, len(rows), 1, key_bytes + value_bytes, dtype=torch.uint8)
        middles = (levels[1:] + levels[:-1]) / 2
        store(rows, rows, cache, slots, hadamard(), middles, key_bits, key_bytes, value_bits)
        keys, values = cache[0, :, 0].split([key_bytes, value_bytes], dim=-1)
        formats[name] = {
            side: each.contiguous().numpy().tobytes().hex() for side, each in (("key", keys), ("value", values))
        }
    return {"engine": "vLLM 0.33.0", "rows": TURBOQUANT_ROWS, "formats": formats}


def turbo_quant_section(lmdeploy: Path) -> dict[str, Any]:
    """The codes and the scales (in float32) that LMDeploy's fill kernel writes."""
    import torch

    policy = SimpleNamespace(NONE=0, INT4=4, INT8=8, FP8=16, FP8_E5M2=17, TURBO_QUANT=42)
    stub("lmdeploy.messages", QuantPolicy=policy)
    stub("lmdeploy.kernels")
    load("lmdeploy.kernels.turbo_quant", lmdeploy / "pytorch/kernels/cuda/turbo_quant.py")
    fill = load("lmdeploy.kernels.fill_kv_cache", lmdeploy / "pytorch/kernels/cuda/fill_kv_cache.py").fill_kv_cache
    rows = torch.tensor([row for i, row in enumerate(input_rows()) if i in TURBOQUANT_ROWS]).unsqueeze(1)
    shape = (1, 16, 1)
    keys, values = (torch.zeros(*shape, WIDTH // each, dtype=torch.uint8) for each in (2, 4))
    key_scales, value_scales = torch.zeros(*shape, 2), torch.zeros(*shape, 1)
    start, length, block = torch.tensor([0]), torch.tensor([len(rows)]), torch.tensor([[0]])
    fill(rows, rows, keys, values, start, length, length, len(rows), block, key_scales, value_scales, 42)
    written = {"key": keys, "key_scales": key_scales, "value": values, "value_scales": value_scales}
    stored = {name: each[0, : len(rows)].contiguous().numpy().tobytes().hex() for name, each in written.items()}
    return {"engine": "LMDeploy 0.18.0", "rows": TURBOQUANT_ROWS, **stored}


def hadamard() -> Any:
    """Sylvester's matrix, orthonormal."""
    import torch

    matrix = torch.ones(1, 1)
    while len(matrix) < WIDTH:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix / WIDTH**0.5


def hexed(codes: Any, scales: Any, decoded: Any) -> dict[str, str]:
    """Tensors as the hexadecimal digits of their bytes."""
    values = {"codes": codes, "scales": scales, "decoded": decoded}
    return {name: value.contiguous().numpy().tobytes().hex() for name, value in values.items()}


def main(which: str, out: Path, *folders: str) -> None:
    """Replace the sections of ``which`` in the file ``out``."""
    held = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    today = date.today().isoformat()
    flat = [x for row in input_rows() for x in row]
    held.update(width=WIDTH, rows_count=len(flat) // WIDTH, rows=struct.pack(f"<{len(flat)}f", *flat).hex())
    if which == "ggml":
        held["ggml"] = {"date": today, **ggml_section()}
    else:
        vllm, sglang, lmdeploy = (Path(folder) for folder in folders)
        held["ultraquant_4bit"] = {"date": today, **ultraquant_section(vllm / "vllm")}
        held["turboquant"] = {"date": today, **turboquant_section(vllm / "vllm")}
        held["turbo_quant"] = {"date": today, **turbo_quant_section(lmdeploy / "lmdeploy")}
        held["fp4_mx_block16"] = {"date": today, **block16_section(sglang / "sglang")}
    out.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
