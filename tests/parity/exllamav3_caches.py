"""What ExLlamaV3's own cache classes say they store, for the layers of real models.

Run with torch (CPU) and the unpacked wheel of exllamav3 1.6.5; nothing is allocated and no extension is built::

    python tests/parity/exllamav3_caches.py FOLDER_WITH_exllamav3 tests/vectors/exllamav3_1.6.json

The cache classes need only shapes: every other module of the package, and Triton, is replaced by a mock.
"""

from __future__ import annotations

import importlib
import json
import sys
from datetime import date
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

REAL = (
    *("cache", "cache.cache", "cache.fp16", "cache.quant", "cache.mla", "cache.dsa", "cache.qsa", "constants"),
    *("cache.recurrent", "cache.recurrent_util"),
    *("modules.sliding_attn", "modules.gated_delta_net", "modules.short_conv"),
)
TOKENS = 8192
SLOTS = 16

HEADED = (("Llama-3.1-8B", 8, 128), ("Qwen2.5-0.5B", 2, 64), ("Phi-3-mini", 32, 96), ("gemma-3-27b", 16, 128))
LATENTS = (("DeepSeek-V3", 512, 64, None), ("DeepSeek-V3.2", 512, 64, 128))
BITS = ((8, 8), (6, 5), (4, 4), (3, 2))
RINGS = (("gpt-oss-20b", 127, 8, 64), ("Trinity-Mini", 2048, 4, 128), ("gemma-4-31B", 1023, 16, 256))
DELTAS = (
    ("Qwen3-Next-80B-A3B", {"num_k_heads": 16, "num_v_heads": 32, "k_head_dim": 128, "v_head_dim": 128}, 4, ""),
    ("Kimi-Linear-48B-A3B", {"num_k_heads": 32, "num_v_heads": 32, "k_head_dim": 128, "v_head_dim": 128}, 4, "kda"),
    ("Nemotron-H-4B", {"num_k_heads": 8, "num_v_heads": 112, "k_head_dim": 128, "v_head_dim": 64}, 4, "mamba2"),
)
HISTORIES = (0, 3)


class Mocks:
    """Finder of the modules that the cache classes import and do not use."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """A mock for Triton and all of exllamav3 that is not in REAL."""
        head, _, rest = name.partition(".")
        if head == "triton" or (head == "exllamav3" and rest and rest not in REAL):
            return ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The mock."""
        module = MagicMock(name=spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing runs."""


def load(folder: str) -> SimpleNamespace:
    """The classes that hold cache, from the package in ``folder``."""
    for name in ("exllamav3", "exllamav3.modules"):
        package = ModuleType(name)
        package.__path__ = [f"{folder}/{name.replace('.', '/')}"]
        sys.modules[name] = package
    sys.meta_path.insert(0, Mocks())
    names = {
        "cache.fp16": ("CacheLayer_fp16",),
        "cache.quant": ("CacheLayer_quant",),
        "cache.mla": ("CacheLayer_MLA_fp16", "CacheLayer_MLA_quant"),
        "modules.sliding_attn": ("SWALayerState",),
        "modules.gated_delta_net": ("GDNLayerState",),
        "modules.short_conv": ("ShortConvLayerState",),
    }
    found = {
        entry: getattr(importlib.import_module(f"exllamav3.{module}"), entry)
        for module, entries in names.items()
        for entry in entries
    }
    return SimpleNamespace(**found)


def measure(classes: SimpleNamespace) -> list[dict[str, object]]:
    """One row for each layer, cache dtype and speculative history."""
    return [*pages(classes), *latents(classes), *slots(classes)]


def pages(classes: SimpleNamespace) -> list[dict[str, object]]:
    """Attention with keys and values per head."""
    rows = []
    for model, heads, dim in HEADED:
        shape = {"model": model, "kind": "full", "num_kv_heads": heads, "head_dim": dim, "tokens": TOKENS}
        attention = SimpleNamespace(num_kv_heads=heads, head_dim=dim)
        layer = classes.CacheLayer_fp16(None, attention, 0, TOKENS)
        rows.append({**shape, "cache": "fp16", "bytes": int(layer.storage_size())})
        for k_bits, v_bits in BITS:
            layer = classes.CacheLayer_quant(None, attention, 0, TOKENS, k_bits, v_bits)
            rows.append({**shape, "cache": f"{k_bits},{v_bits}", "bytes": int(layer.storage_size())})
    return rows


def latents(classes: SimpleNamespace) -> list[dict[str, object]]:
    """Latent attention, with an index plane or without."""
    rows = []
    for model, rank, rope, index in LATENTS:
        shape = {"model": model, "kind": "latent", "kv_lora_rank": rank, "qk_rope_head_dim": rope, "index": index}
        attention = SimpleNamespace(
            kv_lora_rank=rank, qk_rope_head_dim=rope, idx_plane_dim=index, index_kpool=0, index_head_dim=index
        )
        layer = classes.CacheLayer_MLA_fp16(None, attention, 0, TOKENS)
        rows.append({**shape, "tokens": TOKENS, "cache": "fp16", "bytes": int(layer.storage_size())})
        for k_bits, v_bits in BITS:
            layer = classes.CacheLayer_MLA_quant(None, attention, 0, TOKENS, k_bits, v_bits)
            rows.append({**shape, "tokens": TOKENS, "cache": f"{k_bits},{v_bits}", "bytes": int(layer.storage_size())})
    return rows


def slots(classes: SimpleNamespace) -> list[dict[str, object]]:
    """Rings of windows and recurrent states, all slots."""
    import torch

    rows: list[dict[str, object]] = []
    for model, window, heads, dim in RINGS:
        size = -(-(window + 512) // 256) * 256  # SlidingAttention.__init__ kv_state_size
        module = SimpleNamespace(kv_state_size=size, num_kv_heads=heads, head_dim=dim, sliding_window=window)
        state = classes.SWALayerState(module, SLOTS, 0, 0)
        shape = {"model": model, "kind": "ring", "window": window, "num_kv_heads": heads, "head_dim": dim}
        rows.append({**shape, "slots": SLOTS, "bytes": state.storage_size()})
    for model, heads, kernel, flag in DELTAS:
        channels = 2 * heads["num_k_heads"] * heads["k_head_dim"] + heads["num_v_heads"] * heads["v_head_dim"]
        module = SimpleNamespace(**heads, fdim_qkv=channels, conv_kernel_size=kernel, **({flag: True} if flag else {}))
        for history in HISTORIES:
            for fp32 in (False, True):
                state = classes.GDNLayerState(module, SLOTS, history, 0)
                if not fp32 and flag != "mamba2":  # Cache.__init__
                    state.set_state_dtype(torch.half)
                shape = {"model": model, "kind": flag or "gdn", **heads, "conv_kernel": kernel, "history": history}
                rows.append({**shape, "fp32": fp32, "slots": SLOTS, "bytes": state.storage_size()})
    module = SimpleNamespace(hidden_size=2048, conv_kernel_size=3)
    for history in HISTORIES:
        state = classes.ShortConvLayerState(module, SLOTS, history, 0)
        shape = {"model": "LFM2-8B-A1B", "kind": "short_conv", "channels": 2048, "conv_kernel": 3, "history": history}
        rows.append({**shape, "slots": SLOTS, "bytes": state.storage_size()})
    return rows


def main(folder: str, written: str) -> None:
    """Write the vectors."""
    rows = measure(load(folder))
    source = {"engine": "exllamav3 1.6.5", "classes": "cache/ and modules/, own code", "date": date.today().isoformat()}
    lines = ",\n".join(json.dumps(row) for row in rows)
    Path(written).write_text(f'{{"source": {json.dumps(source)},\n"rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main(*sys.argv[1:])
