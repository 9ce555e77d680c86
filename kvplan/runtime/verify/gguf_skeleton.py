"""The GGUF header of a small model with another's cache: llama.cpp's architecture, its first layers, narrow weights.

Written from the published config as kvplan reads it, in the keys of llama.cpp's own converter
(``gguf-py/gguf/constants.py``). The tensors follow from the header: ``engine_scripts/start_llamacpp.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from kvplan.core import attention, recurrent
from kvplan.core.attention import HeadedKind, LayerKind
from kvplan.core.errors import UnsupportedError
from kvplan.core.model import Layer, Model

Header = dict[str, Any]

_LEAST_LAYERS = 2
_HIDDEN, _FEED_FORWARD, _QUERY_RANK = 128, 64, 64
_LATENT_QUERY_HEADS, _LATENT_HEAD = 8, 128
_INDEX_HEADS = 4
_ROPE_SECTIONS = [11, 11, 10, 0]

_OF_CLASSES = {
    "arcee": "Arcee",
    "cohere2": "Cohere2",
    "command-r": "Cohere",
    "deepseek2": "DeepseekV2 DeepseekV3",
    "falcon-h1": "FalconH1",
    "gemma": "Gemma",
    "gemma2": "Gemma2",
    "gemma3": "Gemma3 Gemma3ForConditionalGeneration",
    "glm4moe": "Glm4Moe",
    "gpt-oss": "GptOss",
    "granite": "Granite",
    "granitehybrid": "Bamba GraniteMoeHybrid",
    "jamba": "Jamba",
    "lfm2": "Lfm2 Lfm2VlForConditionalGeneration",
    "lfm2moe": "Lfm2Moe",
    "llama": "Llama Mistral Mixtral",
    "llama4": "Llama4 Llama4ForConditionalGeneration",
    "mamba": "FalconMamba Mamba",
    "mamba2": "Mamba2",
    "mimo2": "MiMoV2Flash",
    "nemotron_h": "NemotronH",
    "olmo2": "Olmo2 Olmo3",
    "phi3": "Phi3",
    "qwen2": "Qwen2",
    "qwen2moe": "Qwen2Moe",
    "qwen2vl": "Qwen2VLForConditionalGeneration Qwen2_5_VLForConditionalGeneration",
    "qwen3": "Qwen3",
    "qwen35": "Qwen3_5ForConditionalGeneration",
    "qwen3moe": "Qwen3Moe",
    "qwen3next": "Qwen3Next",
    "qwen3vl": "Qwen3VLForConditionalGeneration",
    "smollm3": "SmolLM3",
    "stablelm": "StableLm",
    "starcoder2": "Starcoder2",
}
ARCHITECTURES: Mapping[str, str] = {
    name if "For" in name else f"{name}ForCausalLM": arch
    for arch, names in _OF_CLASSES.items()
    for name in names.split()
}
"""llama.cpp's architecture of a checkpoint's class (``conversion/__init__.py``), where a header is known to load."""

_MIXTURES = ("deepseek2", "glm4moe", "gpt-oss", "lfm2moe", "llama4", "mimo2", "qwen2moe", "qwen3moe", "qwen3next")
_TRUE_HIDDEN = (
    *("cohere2", "command-r", "granitehybrid", "jamba", "lfm2", "lfm2moe", "mamba", "mamba2", "olmo2", "phi3"),
    *("qwen2", "qwen2moe", "qwen2vl", "stablelm", "starcoder2"),
)
"""Architectures whose loader ties the residual stream to widths of the cache."""

_INTERVALS = ("qwen3next", "qwen35")
"""Architectures whose file says how often attention comes, and not which layers have KV heads."""

_PATTERNED = ("mimo2", "olmo2")
"""Architectures whose windows the file lists, layer by layer."""

_PARTLY_ROTATED = ("mimo2", "qwen3next", "qwen35")

_MORE: Mapping[str, Header] = {
    "deepseek2": {"expert_shared_count": 1, "leading_dense_block_count": 1, "expert_gating_func": 2}
    | {"expert_weights_scale": 1.0},
    "glm4moe": {"expert_shared_count": 1, "leading_dense_block_count": 1, "expert_gating_func": 2}
    | {"expert_weights_scale": 1.0},
    "granite": {"logit_scale": 1.0},
    "cohere2": {"logit_scale": 1.0},
    "command-r": {"logit_scale": 1.0},
    "llama4": {"interleave_moe_layer_step": 1},
    "mimo2": {"rope.freq_base_swa": 10000.0},
    "phi3": {"rope.scaling.original_context_length": 4096},
    "qwen2vl": {"rope.dimension_sections": _ROPE_SECTIONS},
    "lfm2moe": {"leading_dense_block_count": 1, "expert_gating_func": 2},
    "qwen2moe": {"expert_shared_feed_forward_length": 32},
    "qwen35": {"rope.dimension_sections": _ROPE_SECTIONS},
    "qwen3next": {"expert_shared_feed_forward_length": 32},
    "qwen3vl": {"rope.dimension_sections": _ROPE_SECTIONS},
    "stablelm": {"use_parallel_residual": False},
}
"""Keys that the loader insists on and no cache depends on."""

_OPTIONAL: Mapping[str, tuple[str, ...]] = {
    "phi3": ("attn_qkv.weight",),
    "falcon-h1": ("ssm_conv1d.bias",),
    "granitehybrid": ("ssm_conv1d.bias",),
    "nemotron_h": ("ssm_conv1d.bias",),
    "qwen35": ("attn_qkv.weight", "attn_gate.weight"),
    "qwen3next": ("attn_qkv.weight", "attn_gate.weight"),
}
"""Tensors of a layer that the loader does not insist on and the graph needs; with a state, of layers that have one."""


@dataclass(frozen=True, kw_only=True)
class GgufSkeleton:
    """What the script writes: ``header`` without the architecture's name, and the ``num_layers`` that it describes."""

    arch: str
    header: Header
    optional_tensors: tuple[str, ...]
    num_layers: int


def gguf_skeleton(model: Model, claimed: tuple[Layer, ...]) -> GgufSkeleton:
    """The skeleton of a model read from its published config, or from a GGUF file.

    It has as many layers as it takes to meet every kind once, and every other kind that a spec's ``claimed`` layers
    have in its place.

    Raises UnsupportedError for classes and kinds of layers that no header is known for.
    """
    arch = model.family if model.source.endswith(".gguf") else ARCHITECTURES.get(model.architecture_class or "")
    if arch not in _OF_CLASSES:
        raise UnsupportedError(
            f"kvplan writes no GGUF skeleton of {model.architecture_class or model.family}",
            f"it does for {', '.join(sorted(_OF_CLASSES))}",
        )
    layers = _first_layers(model.architecture.layers, claimed)
    header = {
        **_plain(model, layers, arch),
        **_attention(model, layers, arch),
        **_states(layers),
        **(_experts() if arch in _MIXTURES else {}),
        **_MORE.get(arch, {}),
    }
    return GgufSkeleton(
        arch=arch, header=header, optional_tensors=_optional_tensors(arch, layers), num_layers=len(layers)
    )


def _first_layers(layers: tuple[Layer, ...], claimed: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The shortest beginning that holds every layer beside what is claimed of it."""
    pairs = list(zip_longest(layers, claimed))
    most = max(pairs.index(pair) for pair in dict.fromkeys(pairs)) + 1
    return layers[: max(most, _LEAST_LAYERS)]


def _plain(model: Model, layers: tuple[Layer, ...], arch: str) -> Header:
    widths: list[int] | int = _FEED_FORWARD
    if arch == "nemotron_h":
        widths = [_FEED_FORWARD if _only_none(layer) else 0 for layer in layers]
    if arch in ("mamba", "mamba2"):
        widths = 0
    short_conv = any(isinstance(kind, recurrent.ShortConv) for layer in layers for kind in layer)
    return {
        "block_count": len(layers),
        "embedding_length": model.architecture.hidden_size if arch in _TRUE_HIDDEN or short_conv else _HIDDEN,
        "feed_forward_length": widths,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.layer_norm_epsilon": 1e-5,
    }


def _attention(model: Model, layers: tuple[Layer, ...], arch: str) -> Header:
    attending = [_attending(layer) for layer in layers]
    first = next((kind for kind in attending if kind is not None), None)
    if first is None:
        return {"attention.head_count": 0}
    if isinstance(first, attention.Latent):
        return _latent(first)
    assert isinstance(first, HeadedKind)
    if any(isinstance(kind, HeadedKind) and _shape(kind) != _shape(first) for kind in attending):
        raise UnsupportedError(f"kvplan writes no GGUF skeleton of {model.name}, whose heads differ in width")
    kv_heads = [kind.num_kv_heads if isinstance(kind, HeadedKind) else 0 for kind in attending]
    header: Header = {}
    if arch in _INTERVALS:
        header["full_attention_interval"] = attending.index(first) + 1
        kv_heads = [first.num_kv_heads]
    header |= {
        "attention.head_count": model.architecture.num_heads or max(kv_heads),
        "attention.head_count_kv": kv_heads[0] if len(set(kv_heads)) == 1 else kv_heads,
        "attention.key_length": first.head_dim,
        "attention.value_length": first.v_head_dim or first.head_dim,
        "rope.dimension_count": 64 if arch in _PARTLY_ROTATED else first.head_dim,
    }
    windows = [kind.window_tokens if kind is not None else None for kind in attending]
    if any(windows):
        header["attention.sliding_window"] = next(filter(None, windows))
    if any(windows) and arch in _PATTERNED:
        header["attention.sliding_window_pattern"] = [window is not None for window in windows]
    return header


def _shape(kind: HeadedKind) -> tuple[int, int]:
    return kind.head_dim, kind.v_head_dim or kind.head_dim


def _attending(layer: Layer) -> LayerKind | None:
    """The kind of a layer that keeps keys. Raises UnsupportedError for one that no header is known for."""
    for kind in layer:
        if isinstance(kind, (attention.FullAttention, attention.SlidingWindow, attention.ChunkedLocal)):
            return kind
        if isinstance(kind, attention.Latent) and not kind.window:
            return kind
        if not isinstance(kind, (recurrent.RecurrentKind, attention.NoCache)):
            raise UnsupportedError(f"kvplan writes no GGUF skeleton of layers with {kind.kind}")
    return None


def _latent(kind: attention.Latent) -> Header:
    rope = kind.qk_rope_head_dim
    return {
        "attention.head_count": _LATENT_QUERY_HEADS,
        "attention.head_count_kv": 1,
        "attention.key_length": kind.kv_lora_rank + rope,
        "attention.value_length": kind.kv_lora_rank,
        "attention.key_length_mla": _LATENT_HEAD + rope,
        "attention.value_length_mla": _LATENT_HEAD,
        "attention.kv_lora_rank": kind.kv_lora_rank,
        "attention.q_lora_rank": _QUERY_RANK,
        "rope.dimension_count": rope,
    }


def _states(layers: tuple[Layer, ...]) -> Header:
    """The keys of the layers' recurrent state, if they have any."""
    kind = next((kind for layer in layers for kind in layer if isinstance(kind, recurrent.RecurrentKind)), None)
    if kind is None:
        return {}
    if isinstance(kind, recurrent.Mamba1):
        rank = max(1, kind.intermediate_size // 32)
        return _ssm(kind.conv_kernel, kind.intermediate_size, kind.state_size, rank)
    if isinstance(kind, recurrent.Mamba2):
        inner = kind.num_heads * kind.head_dim
        return {**_ssm(kind.conv_kernel, inner, kind.state_size, kind.num_heads), "ssm.group_count": kind.num_groups}
    if isinstance(kind, recurrent.GatedDeltaNet):
        inner = kind.num_v_heads * kind.v_head_dim
        keys = _ssm(kind.conv_kernel, inner, kind.k_head_dim, kind.num_v_heads)
        return {**keys, "ssm.group_count": kind.num_k_heads}
    if isinstance(kind, recurrent.ShortConv):
        return {"shortconv.l_cache": kind.conv_kernel}
    raise UnsupportedError(f"kvplan writes no GGUF skeleton of layers with {kind.kind}")


def _ssm(kernel: int, inner: int, state: int, rank: int) -> Header:
    return {
        "ssm.conv_kernel": kernel,
        "ssm.inner_size": inner,
        "ssm.state_size": state,
        "ssm.time_step_rank": rank,
    }


def _experts() -> Header:
    return {"expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 32}


def _optional_tensors(arch: str, layers: tuple[Layer, ...]) -> tuple[str, ...]:
    names = _OPTIONAL.get(arch, ())
    recurs = [any(isinstance(kind, recurrent.RecurrentKind) for kind in layer) for layer in layers]
    return tuple(
        f"blk.{index}.{name}" for index, recurring in enumerate(recurs) if recurring or arch == "phi3" for name in names
    )


def _only_none(layer: Layer) -> bool:
    return all(isinstance(kind, attention.NoCache) for kind in layer)
