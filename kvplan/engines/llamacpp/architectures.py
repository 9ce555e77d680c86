"""What llama.cpp 0.5.0 does otherwise than the layers say, by architecture family: each entry with its source.

Files named here are llama.cpp's own: ``conversion/`` is its converter from Hugging Face, ``src/models/`` one file for
each architecture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kvplan.core.attention import LayerKind
from kvplan.core.engine import ModelFacts, Stage
from kvplan.core.errors import UnsupportedError
from kvplan.core.recurrent import Rwkv

WINDOWS_IGNORED: Mapping[str, str] = {
    "audio_language": "llama",
    "internvl": "qwen2",
    "llama": "llama",
    "llama_kin": "llama",
    "llava": "llama and mistral3",
    "minicpmv": "qwen2",
    "mistral": "llama and mistral3",
    "mixtral": "llama",
    "nemotron_nas": "deci",
    "phi": "phi3",
    "qwen": "qwen2 and qwen3",
    "qwen_moe": "qwen2moe and qwen3moe",
    "qwen_omni": "qwen2vl and qwen3vlmoe",
    "qwen_vl": "qwen2vl and qwen3vl",
    "smollm3": "smollm3",
    "starcoder": "starcoder2",
}
"""Family -> architectures that know no sliding window: ``load_arch_hparams`` in ``src/models/ARCH.cpp`` sets no
``swa_type`` (phi3 reads the window and switches it off, see pull request 13676)."""

NOT_IN_LLAMACPP: Mapping[str, str] = {
    "bart": "BART, M2M-100, Marian or Pegasus",
    "ernie_vl": "ERNIE-4.5-VL",
    "gptj": "GPT-J or CodeGen",
    "hymba": "Hymba",
    "jet_nemotron": "Jet-Nemotron",
    "longcat_flash": "LongCat-Flash",
    "mllama": "Llama-3.2-Vision",
    "olmo_hybrid": "OLMo-Hybrid",
    "opt": "OPT, BioGPT or XGLM",
    "phi4flash": "Phi-4-mini-flash",
    "phi_vision": "Phi-3-Vision or Phi-4-Multimodal",
    "recurrent_gemma": "RecurrentGemma",
    "whisper": "Whisper",
    "zamba": "Zamba",
}
"""Families of which ``conversion/__init__.py`` (``TEXT_MODEL_MAP``) lists no architecture."""

CLASSES_NOT_IN_LLAMACPP: Mapping[str, str] = {
    "AXK1ForCausalLM": "A.X-K1",
    "BailingHybridForCausalLM": "Ling-2.5 hybrid",
    "CwmForCausalLM": "CWM",
    "DeepseekVLV2ForCausalLM": "DeepSeek-VL2",
    "FlexOlmoForCausalLM": "FlexOlmo",
    "GPTNeoForCausalLM": "GPT-Neo",
    "HeliumForCausalLM": "Helium",
    "HyperCLOVAXForCausalLM": "HyperCLOVA X",
    "InternLMForCausalLM": "InternLM (first)",
    "LongT5ForConditionalGeneration": "LongT5",
    "OpenAIGPTLMHeadModel": "GPT (first)",
    "PaliGemmaForConditionalGeneration": "PaliGemma",
    "PersimmonForCausalLM": "Persimmon",
    "Rwkv5ForCausalLM": "RWKV-5",
    "RwkvForCausalLM": "RWKV-4 or RWKV-5",
    "Step3TextForCausalLM": "Step-3",
    "SwitchTransformersForConditionalGeneration": "Switch Transformers",
    "VaultGemmaForCausalLM": "VaultGemma",
}
"""Classes that the same list lacks, of families of which it has others."""

STATES_IN_EVERY_LAYER = frozenset({"mamba", "mamba_ssm", "rwkv"})
"""Architectures with recurrent memory alone (``llm_arch_is_recurrent``): every layer has a state, none has keys."""

KEEPS_ROLLBACK_STATES: Mapping[str, str] = {
    "deepseek_v4": "deepseek4",
    "kimi_vision": "kimi-k3",
    "lfm2": "lfm2 and lfm2moe",
    "nemotron_h": "nemotron_h and nemotron_h_moe",
    "qwen_vl": "qwen35 and qwen35moe",
}
"""Architectures that keep one more state for each drafted token (``llm_arch_supports_rs_rollback``)."""

ROLLBACK_CLASSES = frozenset({"BailingMoeV3ForCausalLM", "Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM"})
"""The same for classes of families of which others keep none."""

CACHE_PER_ENCODER_LAYER = frozenset({"t5"})
"""Encoder-decoders whose cache has a layer for each of the encoder's (``block_count`` is the encoder's depth,
``src/models/t5.cpp`` and ``llama_kv_cache``), whatever the decoder's depth."""

_MINICPM3_ROW = 256 + 32


def refuse_missing(facts: ModelFacts, kinds: Iterable[LayerKind]) -> None:
    """Raise UnsupportedError where llama.cpp has no such architecture, or stores it in a way kvplan cannot see."""
    name = CLASSES_NOT_IN_LLAMACPP.get(facts.architecture_class or "") or NOT_IN_LLAMACPP.get(facts.family)
    for kind in kinds:
        if isinstance(kind, Rwkv) and kind.state_columns == 1:
            name = "RWKV-4"
        if facts.family == "gpt2" and kind.window_tokens:
            name = "GPT-Neo"
        if facts.family == "deepseek" and kind.kind == "latent" and kind.head_shape()[1] == _MINICPM3_ROW:
            raise UnsupportedError(
                "llama.cpp stores MiniCPM3 as keys and values of every head, whose widths the latent does not tell",
                "write a spec with full_attention layers (40 heads, head_dim 96, v_head_dim 64 for MiniCPM3-4B)",
            )
    if name:
        raise UnsupportedError(
            f"llama.cpp has no {name} architecture", "its converter (0.5.0) makes no GGUF file of this family"
        )


def all_kinds(stages: Iterable[Stage]) -> tuple[LayerKind, ...]:
    """Every kind of every layer."""
    return tuple(item.kind for stage in stages for layer in stage for item in layer)
