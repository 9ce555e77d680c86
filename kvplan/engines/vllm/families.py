"""What vLLM decides by architecture and the layers do not tell: by the family, and by the class where that is narrower.

Each entry names what its model class does in vLLM 0.32.0 and where. Everything else follows from the layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kvplan.core.engine import ModelFacts
from kvplan.core.frozen import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """What a model class asks of vLLM besides its layers.

    ``sinks``: learned attention sinks, which not every backend has. ``image_prefix``: image tokens see each other,
    which needs a backend with prefix-LM masks. ``own_state_dtype``: the recurrent state has the dtype that the
    model's config names, not the compute dtype. ``extra_window_tokens``: added to the configured window.
    ``single_head_uncached_dtype``: attention with one KV head is built without a cache config, so it stays in 16 bits.
    ``softcap``: attention logits are capped. ``heads_not_replicated``: no more ranks than KV heads.
    ``sparse_full_attention``: full layers with index keys have kernels of their own, with 128-token pages.
    ``even_heads_or_flash4``: heads of several sizes go to Triton where there is no FlashAttention 4.
    ``uneven_heads``: MiMo-V2's own attention layer. ``chunk_tokens``: of the Mamba kernels (2048 where no config says).
    ``bounded_gate``: Kimi delta attention with a bounded gate, which FlashKDA needs.
    ``exports_delta_states``: Qwen's gated delta net, whose prefill kernel exports states.
    ``fp8_on_blackwell``: ``auto`` means FP8 on compute capability 10.x.
    ``unsupported``: why vLLM does not run the family after ``runs_until``, its last release that did.
    """

    sinks: bool = False
    image_prefix: bool = False
    own_state_dtype: bool = False
    extra_window_tokens: int = 0
    single_head_uncached_dtype: bool = False
    softcap: bool = False
    heads_not_replicated: bool = False
    sparse_full_attention: bool = False
    even_heads_or_flash4: bool = False
    bounded_gate: bool = False
    uneven_heads: bool = False
    chunk_tokens: int = 2048
    exports_delta_states: bool = False
    fp8_on_blackwell: bool = False
    unsupported: str | None = None
    runs_until: tuple[int, int] = (0, 0)


NO_QUIRKS = Quirks()
_NO_ENCODER_DECODER = Quirks(unsupported="its Transformers backend does not take encoder-decoder models")

QUIRKS: Mapping[str, Quirks] = {
    # models/gpt_oss.py: sinks in every layer; its MXFP4 experts divide by the KV heads of a rank
    "gpt_oss": Quirks(sinks=True, heads_not_replicated=True),
    # models/mimo_v2.py: sinks, and keys wider than values
    "mimo": Quirks(sinks=True, uneven_heads=True),
    # transformers_utils/model_arch_config_convertor.py:364: gemma3, and Gemma 4 where images attend both ways
    # and models/config.py:229: Gemma 4's two head sizes run on FlashAttention 4 or on Triton
    "gemma_multimodal": Quirks(image_prefix=True, even_heads_or_flash4=True),
    "gemma4": Quirks(even_heads_or_flash4=True),
    # models/config.py:712: mamba_ssm_cache_dtype of the config, else float32
    "nemotron_h": Quirks(own_state_dtype=True, chunk_tokens=128),
    # mamba_chunk_size of the published configs, which matters to 0.25 alone
    "bamba": Quirks(chunk_tokens=256),
    "zamba": Quirks(chunk_tokens=256),
    # models/config.py:853: Qwen3.5's mamba_ssm_dtype
    "qwen_vl": Quirks(own_state_dtype=True, exports_delta_states=True),
    "qwen3_next": Quirks(exports_delta_states=True),
    # models/kimi_k3/nvidia/kda.py:341: Kimi-K3's gate has a lower bound, Kimi-Linear's has none
    "kimi_vision": Quirks(bounded_gate=True),
    # models/commandr.py:244: config.sliding_window + 1
    "cohere": Quirks(extra_window_tokens=1),
    # models/falcon.py: the multi-query decoder builds its attention without a cache config
    "falcon": Quirks(single_head_uncached_dtype=True),
    # models/minimax_m3/common/sparse_attention.py:163 and indexer.py:94
    "minimax_m3": Quirks(sparse_full_attention=True),
    # models/registry.py:797: encoder-decoder models went with the old engine, except Whisper
    "mllama": Quirks(unsupported="it supported Llama 3.2 Vision until v0.10.2"),
    "phi4flash": Quirks(unsupported="it supported Phi-4-flash until v0.10.2"),
    "hymba": Quirks(unsupported="it has no class for Hymba"),
    "rwkv": Quirks(unsupported="it has no class for RWKV"),
    "t5": _NO_ENCODER_DECODER,
    "bart": _NO_ENCODER_DECODER,
    "mpt": Quirks(unsupported="it supported MPT until v0.28.0", runs_until=(0, 28)),
    "minimax_01": Quirks(unsupported="it supported MiniMax-Text-01 and M1 until v0.23.0"),
    "openelm": Quirks(unsupported="it takes one number of KV heads for the whole model"),
    "recurrent_gemma": Quirks(unsupported="it has no class for RecurrentGemma"),
    "jet_nemotron": Quirks(unsupported="it has no class for Jet-Nemotron"),
    "mamba_ssm": Quirks(unsupported="it does not read configs of the mamba_ssm package"),
    "gptj": Quirks(unsupported="it has no class for CodeGen and does not read GPT-J's rotary embedding"),
}

CLASS_QUIRKS: Mapping[str, Mapping[str, Any]] = {
    # models/config.py:43: GLM-5 alone of the classes with indexed latent attention
    "GlmMoeDsaForCausalLM": {"fp8_on_blackwell": True},
    # models/gemma2.py:202, paligemma.py (Gemma 2 inside) and transformers/base.py:606; gemma3.py:230 passes none
    "Gemma2ForCausalLM": {"softcap": True},
    "PaliGemmaForConditionalGeneration": {"softcap": True},
    "VaultGemmaForCausalLM": {"softcap": True},
    # models/config.py:880: the text models of Qwen3.5 without their vision wrapper
    "Qwen3_5ForCausalLM": {"own_state_dtype": True},
    "Qwen3_5MoeForCausalLM": {"own_state_dtype": True},
    # model_executor/layers/quantization: its weights' format, in which every checkpoint of the class is stored
    "BitNetForCausalLM": {"unsupported": "it does not read BitNet's weights"},
}
"""What a class asks besides its family, where the class is known."""

DROPPED: Mapping[str, tuple[int, int]] = {
    "AquilaForCausalLM": (0, 24),
    "BaiChuanForCausalLM": (0, 23),
    "BaichuanForCausalLM": (0, 23),
    "BambaForCausalLM": (0, 23),
    "InternLMForCausalLM": (0, 23),
    "QWenLMHeadModel": (0, 23),
    "RWForCausalLM": (0, 28),
    "StableLMEpochForCausalLM": (0, 28),
    "XverseForCausalLM": (0, 23),
}
"""The last release with a class whose family lives on in others (``models/registry.py:799``). Dropped classes that the
Transformers library has and vLLM can run through it are not here."""


def quirks_of(facts: ModelFacts) -> Quirks:
    """The family's entry, or none, changed by what the class asks."""
    quirks, name = QUIRKS.get(facts.family, NO_QUIRKS), facts.architecture_class or ""
    if name in DROPPED:
        major, minor = DROPPED[name]
        gone = f"it supported the class {name} until v{major}.{minor}.0"
        return replace(quirks, unsupported=gone, runs_until=DROPPED[name])
    return replace(quirks, **CLASS_QUIRKS.get(name, {}))
