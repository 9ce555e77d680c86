"""The bytes of one layer's recurrent state on one rank (vLLM 0.32.0 ``model_executor/layers/mamba/mamba_utils.py``).

Convolution states of all kinds but Mamba-1 grow by one row for each speculative token. Channels and heads are split
over tensor-parallel ranks and must divide evenly.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvplan.core.attention import LayerKind
from kvplan.core.errors import UnsupportedError
from kvplan.core.part import STATE_DTYPE_BYTES
from kvplan.core.recurrent import (
    GatedDeltaNet,
    KimiDeltaAttention,
    LinearAttention,
    Mamba1,
    Mamba2,
    RecurrentKind,
    ShortConv,
)
from kvplan.engines.vllm.run import HOPPER, Run

CHECKPOINT_MAJORS = (9, 10, 12)
"""Compute capabilities on which FlashKDA runs, which exports prefill checkpoints."""

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def state_page_bytes(kind: RecurrentKind, run: Run) -> int:
    """Convolution and recurrent state of one request in one layer. Raises UnsupportedError."""
    widened = run.rules.drafts_widen_all_states or not isinstance(kind, (KimiDeltaAttention, ShortConv))
    conv, state = state_elements(kind, run.tp, run.num_speculative_tokens if widened else 0)
    return conv * conv_bytes(run) + state * state_bytes(kind, run)


def state_elements(kind: RecurrentKind, tp: int, drafted: int) -> tuple[int, int]:
    """Elements of the convolution state and of the recurrent state on one of ``tp`` ranks."""
    if isinstance(kind, Mamba1):
        channels = _share(kind.intermediate_size, tp, "channels")
        return (kind.conv_kernel - 1) * channels, channels * kind.state_size
    if isinstance(kind, Mamba2):
        if kind.num_groups % tp and kind.num_groups != 1:
            raise UnsupportedError(f"vLLM splits no {kind.num_groups} Mamba-2 groups over {tp} ranks")
        heads = _share(kind.num_heads, tp, "Mamba-2 heads")
        groups = kind.num_groups if kind.num_groups % tp == 0 else tp
        width = kind.num_heads * kind.head_dim + 2 * groups * kind.state_size
        return _conv(kind.conv_kernel, drafted, width, tp), heads * kind.head_dim * kind.state_size
    if isinstance(kind, GatedDeltaNet):
        heads = _share(kind.num_v_heads, tp, "delta-net heads")
        width = 2 * kind.num_k_heads * kind.k_head_dim + kind.num_v_heads * kind.v_head_dim
        return _conv(kind.conv_kernel, drafted, width, tp), heads * kind.k_head_dim * kind.v_head_dim
    if isinstance(kind, KimiDeltaAttention):
        heads, v_dim = _share(kind.num_heads, tp, "delta-attention heads"), kind.v_head_dim or kind.head_dim
        width = kind.num_heads * (2 * kind.head_dim + v_dim)
        return _conv(kind.conv_kernel, drafted, width, tp), heads * kind.head_dim * v_dim
    if isinstance(kind, ShortConv):
        return _conv(kind.conv_kernel, drafted, kind.channels, tp), 0
    if isinstance(kind, LinearAttention):
        heads = _share(kind.num_heads, tp, "linear-attention heads")
        return 0, heads * kind.head_dim * (kind.v_head_dim or kind.head_dim)
    raise UnsupportedError(f"vLLM has no layers of kind {kind.kind}")


def conv_bytes(run: Run) -> int:
    """Bytes per element of the convolution state: ``--mamba-cache-dtype``, else the compute dtype."""
    return DTYPE_BYTES.get(run.conv_dtype, 2)


def state_bytes(kind: RecurrentKind, run: Run) -> int:
    """Bytes per element of the recurrent state: ``--mamba-ssm-cache-dtype``, else as the model class asks.

    Kimi delta attention keeps float32 (``mamba_utils.py`` ``kda_state_dtype``); families of ``own_state_dtype`` what
    their config says; all others the convolution state's dtype.
    """
    delta = isinstance(kind, KimiDeltaAttention)
    if run.state_dtype in DTYPE_BYTES and (run.rules.drafts_widen_all_states or not delta):
        return DTYPE_BYTES[run.state_dtype]
    if delta:
        return 4
    return STATE_DTYPE_BYTES[kind.state_dtype] if run.quirks.own_state_dtype else conv_bytes(run)


def checkpoint_blocks(kind: LayerKind, run: Run) -> int:
    """Pages on top for prefill checkpoints: Mamba-2 always, delta nets where their kernels export them."""
    exports = run.device.major in CHECKPOINT_MAJORS
    if isinstance(kind, Mamba2) or (isinstance(kind, KimiDeltaAttention) and run.quirks.bounded_gate and exports):
        return run.rules.state_checkpoint_blocks
    return int(isinstance(kind, GatedDeltaNet) and checkpoint_tokens((kind,), run) > 1)


def keeps_every_state(kind: LayerKind, run: Run) -> bool:
    """Whether prefix caching keeps a state of every block: Mamba's ``all`` mode (0.25 ``models/config.py:547``)."""
    return run.rules.keeps_every_mamba_state and run.aligned_states and isinstance(kind, (Mamba1, Mamba2))


def checkpoint_tokens(kinds: Sequence[LayerKind], run: Run) -> int:
    """The multiple that blocks must be of, so that prefill checkpoints land on their boundaries; 1: any block.

    FlashInfer's delta net exports states at one stride, on Hopper and, for keys of 128, on Blackwell; every state of
    the model must be one (0.33 ``layers/mamba/abstract.py:98`` and ``qwen_gdn_linear_attn.py:148``).
    """
    tokens, device = run.rules.delta_net_checkpoint_tokens, run.device
    if not (tokens and run.aligned_states and run.quirks.exports_delta_states):
        return 1
    exported = all(
        isinstance(kind, GatedDeltaNet)
        and (device.capability == HOPPER or (device.major in (10, 12) and kind.k_head_dim == 128))
        for kind in kinds
    )
    return tokens if exported else 1


def _conv(kernel: int, drafted: int, width: int, tp: int) -> int:
    return (kernel - 1 + drafted) * _share(width, tp, "convolution channels")


def _share(count: int, tp: int, what: str) -> int:
    if count % tp:
        raise UnsupportedError(f"vLLM splits no {count} {what} over {tp} ranks", "choose --tp that divides them")
    return count // tp
