"""What transformers' QuantizedCache makes of the rows of ``grouped_rows.py``, with quanto and with hqq, on the CPU.

    python tests/parity/quantized_caches.py OUT.json

needs torch 2.13.0, transformers 5.23.0, optimum-quanto 0.2.7 and hqq 0.2.8.post1, and no kvplan. For each case: the
bytes of codes, scales and zero points, the root mean square error of the decoded keys, and the first of them.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import sys
import warnings
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from grouped_rows import grouped_rows
from torch import Tensor

warnings.simplefilter("ignore")
from transformers import LlamaConfig, QuantizedCache  # noqa: E402

PACKAGES = ("torch", "transformers", "optimum-quanto", "hqq")
BITS = {"quanto": (2, 4), "hqq": (1, 2, 4, 8)}
AXES = {("quanto", "row"): 0, ("quanto", "channel"): -1, ("hqq", "row"): 1, ("hqq", "channel"): 0}
"""transformers' axis for groups of neighbours in a row, and for groups of tokens of one channel."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHAPES = {"quanto": (2, 2, 128, 128), "hqq": (1, 1, 512, 128)}
"""One sequence and head for hqq, which otherwise mixes heads in a group of one channel."""
GROUP = 64
FIRST = 16


def use_quantos_own_python() -> None:
    """quanto's unpacking in Python in place of its C++, which takes minutes to compile and gives the same."""
    register = torch.library.impl

    def keep(*where: Any) -> Any:
        """torch's decorator leaves nothing under the name of what it registers."""
        return lambda function: (register(*where)(function), function)[1]

    with patch.object(torch.library, "impl", keep):
        from optimum.quanto.library.extensions import cpp
        from optimum.quanto.library.unpack import unpack
    cpp.ext = SimpleNamespace(lib=SimpleNamespace(unpack=unpack))


def measure(backend: str, bits: int, axis: str, dtype: str, offset: float) -> dict[str, Any]:
    """One case."""
    rows = grouped_rows(SHAPES[backend], offset).to(DTYPES[dtype])
    number = AXES[backend, axis]
    config = LlamaConfig(num_hidden_layers=1)
    cache = QuantizedCache(backend, config, nbits=bits, axis_key=number, axis_value=number, q_group_size=GROUP)
    cache.update(rows, rows, 0)
    layer = cache.layers[0]
    decoded = layer._dequantize(layer._quantized_keys).float()
    error = (decoded - rows.float()).double().square().mean().sqrt()
    return {
        "backend": backend,
        "bits": bits,
        "axis": axis,
        "dtype": dtype,
        "offset": offset,
        "shape": list(SHAPES[backend]),
        "bytes": [tensor.numel() * tensor.element_size() for tensor in held(layer._quantized_keys)],
        "rmse": float(f"{error:.6g}"),
        "first": [float(f"{value:.7g}") for value in decoded[0, 0, 0, :FIRST].tolist()],
    }


def held(quantized: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scale and zero point (quanto's shift) as a backend holds them."""
    if isinstance(quantized, tuple):
        codes, meta = quantized
        return codes, meta["scale"], meta["zero"]
    return quantized._data._data, quantized._scale, quantized._shift


def main(out: Path) -> None:
    """Measure every case and write them with the versions."""
    use_quantos_own_python()
    cases = [
        measure(backend, bits, axis, dtype, offset)
        for backend, axis in AXES
        for bits, dtype, offset in itertools.product(BITS[backend], DTYPES, (0.0, 8.0))
    ]
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    about = {"versions": versions, "date": date.today().isoformat(), "how": "tests/parity/quantized_caches.py"}
    lines = ",\n".join("  " + json.dumps(case) for case in cases)
    text = json.dumps(about, indent=1)[:-2] + ',\n "cases": [\n' + lines + "\n ]\n}\n"
    out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
