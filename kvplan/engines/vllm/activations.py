"""The peak of activations while vLLM runs its profiling batch: one sum of live tensors for each phase.

Every phase marked as measured is the list of tensors that a real start-up of vLLM 0.25.1 on an H200 held at its peak
(``tests/vectors/vllm_0.25_startups.json``), named by the code that allocates them. Elements have 16 bits unless said.
T are the batch's tokens, S its requests; rows of heads, feed-forward blocks and the vocabulary are one rank's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kvplan.core.attention import HeadedKind, Latent
from kvplan.core.overhead import LiveTensor, Phase, live_bytes, live_tensor
from kvplan.core.recurrent import (
    GatedDeltaNet,
    KimiDeltaAttention,
    LinearAttention,
    Mamba1,
    Mamba2,
    RecurrentKind,
    ShortConv,
    StateBuffer,
)
from kvplan.core.units import MIB, cdiv
from kvplan.engines.vllm.profile_run import ProfileRun

FLUSHED_CACHE_BYTES = 60 * MIB
"""Buffer by which Inductor clears the L2 cache between trials of a kernel: the L2 of an H200 (50 MiB on an H100)."""

MAX_LATENT_CONTEXT_TOKENS = 64 * 1024
"""Most tokens of context that latent attention projects up at once (``layers/attention/mla_attention.py:1434``)."""

_UNPACKED_EXPERTS = ("mxfp4",)
"""Weights whose kernel on Hopper allocates inside itself instead of in the shared workspace."""


def phases(run: ProfileRun) -> tuple[Phase, ...]:
    """All phases at which the profiling batch may peak, in the order in which they come."""
    return tuple(_phases(run))


def _phases(run: ProfileRun) -> Iterator[Phase]:
    if run.embeds and not run.eager:
        yield compilation(run)
    if run.widths.intermediate_size:
        yield dense_block(run)
    if run.sparse:
        yield mixture_block(run)
    for kind in run.kinds:
        if isinstance(kind, HeadedKind):
            yield attention(run, kind)
        elif isinstance(kind, Latent):
            yield latent_attention(run, kind)
        elif isinstance(kind, RecurrentKind) and not isinstance(kind, StateBuffer):
            yield recurrent_mixer(run, kind)
    if run.samples:
        yield sampler(run)


def compilation(run: ProfileRun) -> Phase:
    """Inductor tries the embedding's kernel on made-up tensors, a second embedding among them.

    Only where nothing is compiled yet: with a warm cache of compiled code the phase does not come up.
    """
    return Phase(
        name="compilation",
        tensors=(
            live_tensor("made-up embedding (vocabulary x hidden)", run.rank_vocab, run.hidden),
            live_tensor("its rows and their norm (2 x T x hidden)", 2, run.tokens, run.hidden),
        ),
        source="torch/_inductor/select_algorithm.py:4425, at the first compilation",
    )


def dense_block(run: ProfileRun) -> Phase:
    """The dense feed-forward block, with what the attention before it left.

    Compiled, the kernel of its activation is being tried; eager, the residual stream and the block's input and output
    are alive instead.
    """
    intermediate = cdiv(run.widths.intermediate_size, run.tp)
    branches = 2 if run.widths.gated else 1
    up = live_tensor("projections (T x branches x intermediate)", run.tokens, branches, intermediate)
    activated = live_tensor("their activation (T x intermediate)", run.tokens, intermediate)
    if run.eager:
        # the fourth: the loop over layers still holds the tensor that it passed in
        around = [
            live_tensor("residual, layer's and block's input, output (4 x T x hidden)", 4, run.tokens, run.hidden)
        ]
    else:
        around = [
            live_tensor("residual and attention's projection (2 x T x hidden)", 2, run.tokens, run.hidden),
            live_tensor("attention's output (T x heads)", run.tokens, _attention_width(run)),
            live_bytes("L2 flush of the kernel's trials", FLUSHED_CACHE_BYTES),
        ]
    before = _workspace_tensors(run) if _dense_after_experts(run) else []
    return Phase(
        name="dense feed-forward",
        tensors=(up, activated, *around, *before, _library(run)),
        source="SiluAndMul of the profiling batch",
        measured=run.widths.gated and not run.eager and run.sixteen_bit_weights,
    )


def _dense_after_experts(run: ProfileRun) -> bool:
    """Whether a dense block comes after experts, whose workspace stays."""
    dense = run.widths.dense_layers
    return run.sparse and any(layer > index for index, layer in enumerate(dense))


def mixture_block(run: ProfileRun) -> Phase:
    """The routed experts, and the shared ones beside them."""
    widths, hidden = run.widths, run.hidden
    around = [
        live_tensor("residuals, input and output (4 x T x hidden)", 4, run.tokens, hidden),
        live_tensor("router (T x experts)", run.tokens, widths.num_experts, element_bytes=4),
    ]
    if not run.eager:
        around.append(live_tensor("attention's output (T x heads)", run.tokens, _attention_width(run)))
    if widths.shared_intermediate_size:
        shared = cdiv(widths.shared_intermediate_size, run.tp)
        branches = 3 if widths.gated else 2
        around += [
            live_tensor("shared experts (T x branches x intermediate)", run.tokens, branches, shared),
            live_tensor("their output (T x hidden)", run.tokens, hidden),
        ]
    inside = []
    if _allocates_inside(run):
        rows = run.tokens * widths.experts_per_token
        inside = [
            live_tensor("experts' rows (T x chosen x (intermediate + hidden))", rows, _expert_width(run) + hidden)
        ]
    return Phase(
        name="experts",
        tensors=(*_workspace_tensors(run), *inside, *around, _library(run)),
        source="layers/fused_moe/modular_kernel.py:1096",
        measured=False,
    )


def workspace_bytes(run: ProfileRun) -> int:
    """The workspace of the experts' kernels, which is kept from the first mixture layer on; 0 without experts.

    T x chosen rows, twice: as wide as the activation, and as the projections, neither below the hidden size
    (``layers/fused_moe/experts/triton_moe.py:181``; CUTLASS and Marlin have the same sum). Triton runs 16-bit experts
    on Hopper whether or not FlashInfer is there (``oracle/unquantized.py:75``).
    """
    if not run.sparse or _allocates_inside(run):
        return 0
    rows = run.tokens * run.dp * run.widths.experts_per_token
    width, branches = _expert_width(run), 2 if run.widths.gated else 1
    return rows * (max(width, run.hidden) + max(branches * width, run.hidden)) * 2


def _allocates_inside(run: ProfileRun) -> bool:
    return run.weight_format in _UNPACKED_EXPERTS


def _expert_width(run: ProfileRun) -> int:
    width = run.widths.moe_intermediate_size
    return width if run.expert_parallel else cdiv(width, run.tp)


def _workspace_tensors(run: ProfileRun) -> list[LiveTensor]:
    size = workspace_bytes(run)
    return [live_bytes("experts' workspace (T x chosen x two buffers)", size)] if size else []


def _library(run: ProfileRun) -> LiveTensor:
    return live_bytes("cuBLAS's workspace", run.library_workspace_bytes)


class HeadWidths(NamedTuple):
    """Elements per token of one rank's queries, keys, values and attention output."""

    query: int
    key: int
    value: int
    output: int


def head_widths(run: ProfileRun, kind: HeadedKind) -> HeadWidths:
    """The widths of one attention layer; a rank holds at least one KV head."""
    kv_heads = max(1, cdiv(kind.num_kv_heads, run.tp))
    v_head_dim = kind.v_head_dim or kind.head_dim
    return HeadWidths(
        run.heads * kind.head_dim, kv_heads * kind.head_dim, kv_heads * v_head_dim, run.heads * v_head_dim
    )


def _attention_width(run: ProfileRun) -> int:
    """The widest output of the stage's attention layers; the hidden size where none attends."""
    outputs = [head_widths(run, kind).output for kind in run.kinds if isinstance(kind, HeadedKind)]
    if any(isinstance(kind, Latent) for kind in run.kinds):
        outputs.append(run.heads * run.widths.v_head_dim)
    return max(outputs, default=run.hidden)


def attention(run: ProfileRun, kind: HeadedKind) -> Phase:
    """The projections before attention, while the layer before is still held. Attention itself is skipped."""
    query, key, value, output = head_widths(run, kind)
    qkv = live_tensor("queries, keys and values (T x heads)", run.tokens, query + key + value)
    if run.eager:
        rest = [
            live_tensor("residual and input (2 x T x hidden)", 2, run.tokens, run.hidden),
            live_tensor("normed queries and keys, output (T x heads)", run.tokens, query + key + output),
        ]
    else:
        rest = [
            live_tensor("residuals of two layers (2 x T x hidden)", 2, run.tokens, run.hidden),
            live_tensor("attention's outputs of two layers (2 x T x heads)", 2, run.tokens, output),
            live_tensor("rotated queries and keys (T x heads)", run.tokens, query + key),
        ]
    return Phase(
        name=f"attention ({kind.kind})",
        tensors=(*_workspace_tensors(run), qkv, *rest, _library(run)),
        source="layers/attention/attention.py:528",
        measured=not run.eager and run.sixteen_bit_weights,
    )


def latent_context_tokens(run: ProfileRun) -> int:
    """Context that latent attention projects up at once (``layers/attention/mla_attention.py:1423``)."""
    requests, block = run.batch.requests, run.block_tokens
    wanted = max(8 * run.max_model_len, 4 * requests * block)
    return max(min(wanted, MAX_LATENT_CONTEXT_TOKENS), requests * block)


def latent_attention(run: ProfileRun, kind: Latent) -> Phase:
    """Latent attention allocates the keys and values that a long context would need, as a trial."""
    widths = run.widths
    nope, v_head_dim = widths.qk_nope_head_dim, widths.v_head_dim
    latent = kind.kv_lora_rank + kind.qk_rope_head_dim
    tensors = [
        live_tensor(
            "trial of keys and values (context x heads)", latent_context_tokens(run), run.heads, nope + v_head_dim
        ),
        live_tensor("queries (T x heads)", run.tokens, run.heads, nope + kind.qk_rope_head_dim),
        live_tensor("output (T x heads)", run.tokens, run.heads, v_head_dim),
        live_tensor("latent and rotary key (T x rank)", run.tokens, latent),
        live_tensor("residual (T x hidden)", run.tokens, run.hidden),
    ]
    if run.eager:
        down = latent + widths.q_lora_rank
        tensors += [live_tensor("input and its projections (T x (hidden + ranks))", run.tokens, run.hidden + down)]
    return Phase(
        name="latent attention",
        tensors=(*_workspace_tensors(run), *tensors, _library(run)),
        source="layers/attention/mla_attention.py:662",
        measured=not widths.q_lora_rank and run.sixteen_bit_weights,
    )


def recurrent_mixer(run: ProfileRun, kind: RecurrentKind) -> Phase:
    """A recurrent mixer: its projection, what it copies of it, and its outputs; the scan itself is skipped.

    Read from ``layers/mamba/mamba_mixer.py:270``, ``mamba_mixer2.py:719`` and ``gdn/qwen_gdn_linear_attn.py:908``.
    """
    projected, copied = _mixer_widths(run, kind)
    return Phase(
        name=f"recurrent mixer ({kind.kind})",
        tensors=(
            *_workspace_tensors(run),
            live_tensor("residual and input (2 x T x hidden)", 2, run.tokens, run.hidden),
            live_tensor("projection (T x width)", run.tokens, cdiv(projected, run.tp)),
            live_tensor("copies and outputs (T x width)", run.tokens, cdiv(copied, run.tp)),
            _library(run),
        ),
        source="model_executor/layers/mamba",
        measured=False,
    )


def _mixer_widths(run: ProfileRun, kind: RecurrentKind) -> tuple[int, int]:
    """Elements per token of a mixer's input projection, and of its copies and outputs."""
    if isinstance(kind, Mamba1):
        return 2 * kind.intermediate_size, kind.intermediate_size + 2 * run.hidden * run.tp
    if isinstance(kind, Mamba2):
        inner, groups = kind.num_heads * kind.head_dim, 2 * kind.num_groups * kind.state_size
        return 2 * inner + groups + kind.num_heads, 3 * inner + 2 * groups
    if isinstance(kind, GatedDeltaNet):
        keys, values = kind.num_k_heads * kind.k_head_dim, kind.num_v_heads * kind.v_head_dim
        return 2 * (keys + values + kind.num_v_heads), 2 * values
    if isinstance(kind, (KimiDeltaAttention, LinearAttention)):
        keys, values = kind.num_heads * kind.head_dim, kind.num_heads * (kind.v_head_dim or kind.head_dim)
        return 2 * (keys + values), keys + 2 * values
    if isinstance(kind, ShortConv):
        return 3 * kind.channels, 2 * kind.channels
    return 4 * run.hidden, 2 * run.hidden


def sampler(run: ProfileRun) -> Phase:
    """Logits of all requests and the copies that sampling makes; hidden states of the whole batch are still alive."""
    name = "sampler of the second runner" if run.second_runner else "sampler of the first runner"
    source = "v1/worker/gpu/sample/sampler.py:134" if run.second_runner else "v1/sample/sampler.py:96"
    return Phase(
        name=name,
        tensors=(
            *_workspace_tensors(run),
            live_tensor("logits (S x vocabulary)", run.requests, run.widths.vocab_size),
            *_logit_copies(run),
            live_tensor("hidden states (T x hidden)", run.tokens, run.hidden),
            live_tensor("sampled rows (S x hidden)", 1 if run.second_runner else 2, run.requests, run.hidden),
            _library(run),
        ),
        source=source,
        measured=not run.rules.second_runner_runs_all,
    )


def _logit_copies(run: ProfileRun) -> Iterator[LiveTensor]:
    """32-bit copies of the logits: three and a scratch of the top-k kernel in the first runner, fewer in the second."""
    rows, vocab = run.requests, run.widths.vocab_size
    scratch = live_tensor("top-k scratch", min(run.multiprocessors, rows), vocab, element_bytes=4)
    if not run.second_runner:
        yield live_tensor(
            "32-bit logits, probabilities and noise (3 x S x vocabulary)", 3, rows, vocab, element_bytes=4
        )
        yield scratch
        return
    if run.rules.profiles_float_logits:
        yield live_tensor("32-bit logits (S x vocabulary)", rows, vocab, element_bytes=4)
    if run.rules.profiles_top_k:
        yield scratch


def runner_buffers(run: ProfileRun) -> LiveTensor | None:
    """Counts of the tokens that each request has put out, which penalties need, and a bit for each of its prompt.

    The second runner allocates them with itself (0.32 ``v1/worker/gpu/sample/penalties.py:40``), before the weights:
    0.25 measured increases from there and so counted them nowhere. None where they do not count.
    """
    if not (run.samples and run.second_runner and run.rules.counts_runner_buffers):
        return None
    words = run.widths.vocab_size + cdiv(run.widths.vocab_size, 32)
    return live_tensor(
        "counts of tokens for penalties (requests x vocabulary)", run.batch.requests, words, element_bytes=4
    )
