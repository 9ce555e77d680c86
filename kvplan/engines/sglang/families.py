"""What SGLang decides by a model's class rather than by its layers: one small table per decision, each with its source.

The keys are kvplan's families, or classes where the family is too coarse. Paths are inside ``sglang/srt`` of the
0.5.23 wheel.
"""

from __future__ import annotations

from collections.abc import Mapping

NO_CLASS: Mapping[str, str] = {
    "BambaForCausalLM": "no class for Bamba, though for Granite 4 and Falcon-H1, its kin",
    "bart": "no class for BART or M2M100",
    "gemma4_assistant": "a draft has no cache of its own",
    "hymba": "no class for Hymba",
    "jamba": "no class for Jamba",
    "mamba_ssm": "no class for checkpoints of the mamba_ssm package",
    "minimax_01": "no class for MiniMax-Text-01 or M1",
    "olmo_hybrid": "no class for OLMo Hybrid",
    "phi4flash": "no class for Phi-4-flash",
    "recurrent_gemma": "no class for RecurrentGemma",
    "rwkv": "no class for RWKV",
    "t5": "no class for T5",
    "whisper": "Whisper's pool also has rows for every encoder layer, which kvplan does not count",
    "zamba": "no class for Zamba",
}
"""``models/`` holds no class for these; ``configs/model_config.py:1592`` counts Whisper's encoder layers."""

WINDOW_POOLS: Mapping[str, int] = {
    "gpt_oss": 1,
    "llama4_vision": 0,
    "mimo": 0,
    "step3": 0,
    "laguna": 0,
    "gemma4": 1,
    "gemma_multimodal": 1,
}
"""Families whose windowed layers have a pool of their own, and the tokens by which SGLang takes the window shorter.

``configs/model_config.py:2651`` ``is_hybrid_swa_model`` lists the classes; all other models keep every token in every
layer. A class with ``get_attention_sliding_window_size`` excludes the current token (gpt-oss, Gemma 4). Of the
multimodal Gemmas only Gemma 4, whose windowed layers have other heads than the full ones, is in the list.
"""

UNCHUNKED = frozenset({"mllama"})
"""Multimodal classes that prefill whole prompts (``configs/model_config.py:2540``)."""

SINKS = frozenset({"gpt_oss", "mimo"})
"""Learned attention sinks, which FlashInfer lacks (``configs/model_config.py:1273`` ``_detect_attention_sinks``)."""

ONE_PAGE_STATES = frozenset({"lfm2", "jet_nemotron"})
"""State models that cache prefixes without an extra buffer, and so in pages of one token alone.

``arg_groups/overrides.py:360-440``: those of ``_MAMBA_RADIX_CACHE_ARCHS`` outside ``_MAMBA_EXTRA_BUFFER_ARCHS``.
"""

BUFFERLESS_STATES = ONE_PAGE_STATES | {"pixel_shuffle_vl"}
"""State models without an extra buffer; LFM2-VL is in neither of the two lists."""

_BY_GENERATION: Mapping[str, Mapping[str, str]] = {
    "gpt_oss": {"sm100": "trtllm_mha", "sm90": "fa3", "*": "triton"},
    "llama4_vision": {"sm100": "trtllm_mha", "sm90": "fa3", "*": "triton"},
    "gemma4": {"sm100": "trtllm_mha", "*": "triton"},
    "mimo": {"sm100": "fa4"},
    "step3": {"sm100": "fa4", "sm120": "fa4", "sm90": "fa3"},
    "exaone": {"sm100": "trtllm_mha", "*": "fa3"},
    "olmo": {"sm100": "trtllm_mha", "*": "fa3"},
    "jet_nemotron": {"sm100": "triton"},
    "bamba": {"sm100": "flashinfer"},
    "lfm2": {"sm100": "flashinfer"},
    "deepseek": {"sm100": "trtllm_mla"},
    "kimi_vision": {"sm100": "trtllm_mla"},
    "longcat_flash": {"sm100": "trtllm_mla"},
    "minimax_m3": {"sm100": "fa4", "sm90": "fa3"},
}
"""``arg_groups/model_overrides/*.py``: the attention backend that a class asks for; ``*`` is any other CUDA device."""

_ASKING_NOTHING = (
    *("DeepseekV2ForCausalLM", "Glm4MoeLiteForCausalLM", "MiniCPM3ForCausalLM"),  # not in deepseek_v2.py:37
    *("ExaoneForCausalLM", "KimiVLForConditionalGeneration", "OlmoForCausalLM"),  # exaone.py:15, olmo2.py:15
)
_BY_CLASS: Mapping[str, Mapping[str, str]] = {
    **{name: {} for name in _ASKING_NOTHING},
    "FalconH1ForCausalLM": {"sm100": "triton"},
}
"""Classes that ask for another backend than the rest of their family, or for none (``falcon_h1.py:12``)."""


def class_backend(family: str, architecture_class: str | None, generation: str) -> str | None:
    """The attention backend that the model's class asks for on this hardware, if it asks for one."""
    chosen = _BY_CLASS.get(architecture_class or "", _BY_GENERATION.get(family, {}))
    return chosen.get(generation, chosen.get("*"))


def packs_fp8(architecture_class: str | None, generation: str) -> bool:
    """Whether FP8 rows of sparse attention are packed with scales on Blackwell: GLM-5's on its workstation cards.

    ``arg_groups/overrides.py:637`` ``is_glm_sm12_fp8``; other classes read plain rows there.
    """
    return architecture_class == "GlmMoeDsaForCausalLM" and generation == "sm120"
