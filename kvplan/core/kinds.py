"""The table of layer kinds by name: what a model spec may write after ``kind:``."""

from __future__ import annotations

from kvplan.core import attention, recurrent
from kvplan.core.attention import LayerKind

KINDS: dict[str, type[LayerKind]] = {
    kind.kind: kind
    for kind in (
        attention.FullAttention,
        attention.SlidingWindow,
        attention.ChunkedLocal,
        attention.Latent,
        attention.IndexKeys,
        attention.CompressedStream,
        attention.CrossAttention,
        attention.Shared,
        attention.NoCache,
        recurrent.Mamba1,
        recurrent.Mamba2,
        recurrent.GatedDeltaNet,
        recurrent.KimiDeltaAttention,
        recurrent.LinearAttention,
        recurrent.RgLru,
        recurrent.Rwkv,
        recurrent.ShortConv,
        recurrent.StateBuffer,
    )
}
