"""The table of layer kinds by name: what a model spec may write after ``kind:``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from kvplan.core.attention import LayerKind

_MODULE_OF = {
    "full_attention": "attention",
    "sliding_window": "attention",
    "chunked_local": "attention",
    "latent": "attention",
    "index_keys": "attention",
    "compressed_stream": "attention",
    "cross_attention": "attention",
    "shared": "attention",
    "none": "attention",
    "mamba1": "recurrent",
    "mamba2": "recurrent",
    "gated_delta_net": "recurrent",
    "kda": "recurrent",
    "linear_attention": "recurrent",
    "rg_lru": "recurrent",
    "rwkv": "recurrent",
    "short_conv": "recurrent",
    "state_buffer": "recurrent",
}


class _KindTable(Mapping[str, type[LayerKind]]):
    """A module is imported when one of its kinds is asked for: a decoder does not pay for recurrent layers."""

    def __getitem__(self, name: str) -> type[LayerKind]:
        module = import_module(f"kvplan.core.{_MODULE_OF[name]}")
        classes = (entry for entry in vars(module).values() if isinstance(entry, type) and issubclass(entry, LayerKind))
        return next(entry for entry in classes if entry.kind == name)

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULE_OF)

    def __len__(self) -> int:
        return len(_MODULE_OF)


KINDS: Mapping[str, type[LayerKind]] = _KindTable()
