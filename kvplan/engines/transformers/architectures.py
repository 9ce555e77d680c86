"""Where the code of an architecture's class in transformers 5.23.0 departs from its layer kinds, by family."""

from __future__ import annotations

WINDOW_EXTRA = {"mimo": 1}
"""Families whose class makes its window longer than the file's: ``MiMoV2FlashConfig`` adds the query itself."""

EXPANDED_HEADS = frozenset({"falcon"})
"""Families that cache every query head once there is more than one KV head: Falcon's grouped heads are broadcast
before they are cached (``FalconAttention._split_heads``: 40B 128 for 8, 180B 232 for 8)."""

OWN_CACHE = {
    "rwkv": "RWKV keeps a list of states of its own",
    "minimax_01": "MiniMax keeps a cache of its own",
}
"""Families for which ``generate`` builds no cache (``_supports_default_dynamic_cache``)."""

STATE_ON_MODULES = frozenset({"rg_lru"})
"""Kinds whose state lies on the model's modules, with k - 1 columns (``RecurrentGemmaRecurrentBlock``)."""

MODEL_DTYPE_STATES = frozenset({"minimax_01"})
"""Families whose recurrent state has the model's dtype, not fp32 (``MiniMaxLightningAttention``)."""

SHARDED_KV = frozenset(
    """
    cohere deepseek_moe ernie_moe ernie_vl exaone gemma gemma3n gemma4 gemma4_assistant gemma_multimodal glm glm_vision
    laguna llama llama4 llama4_vision mimo mistral nemotron qwen qwen3_next qwen_moe qwen_omni smollm3
    """.split()
)
"""Families whose ``base_model_tp_plan`` splits ``k_proj`` by columns, so that each rank caches its heads."""

WHOLE_KV = frozenset(
    """
    afmoe bamba bart bloom dbrx deepseek deepseek_v4 falcon gpt2 gpt_oss gptj hunyuan indexed_latent jamba kimi_linear
    kimi_vision lfm2 longcat_flash mamba minimax_m3 mllama mpt nemotron_h olmo_hybrid opt phi_vision recurrent_gemma
    rwkv stablelm step3 t5 whisper zamba
    """.split()
)
"""Families without such a plan, or with gathered keys: every rank caches all heads (``get_kv_heads_per_rank``)."""

MIXED_KV = frozenset(
    """
    audio_language gpt_neox internvl llama_kin llava minimax_01 mixtral olmo phi pixel_shuffle_vl qwen_vl starcoder
    """.split()
)
"""Families whose classes differ in it (Mixtral splits, OLMoE does not), or that wrap any language model."""

WITH_CLASS = SHARDED_KV | WHOLE_KV | MIXED_KV
"""Families with at least one class in transformers; the others run the code of their repository."""
