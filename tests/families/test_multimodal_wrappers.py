"""Multimodal wrappers against real model code: transformers 5.23 on the meta device, exact parameter counts.

The cache itself is the nested language model's, which its own family's tests cover.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kvplan.core.attention import FullAttention
from kvplan.core.errors import KvplanError, MissingKeyError, UnknownArchitectureError
from kvplan.core.model import Parameters
from kvplan.specs.config_json import read_config

# name, layers, parameters in all, parameters of towers and projectors
EXACT = [
    ("Qwen__Qwen2.5-VL-7B-Instruct", 28, 8_292_166_656, 676_550_144),
    ("Qwen__Qwen2.5-VL-32B-Instruct", 64, 33_452_718_336, 688_841_984),
    ("Qwen__Qwen3-VL-4B-Instruct", 36, 4_437_815_808, 415_347_712),
    ("Qwen__Qwen3-VL-235B-A22B-Instruct", 94, 235_670_022_896, 576_388_336),
    ("Qwen__Qwen3.5-27B", 64, 27_356_728_560, 460_730_096),
    ("nvidia__Qwen3.6-35B-A3B-NVFP4", 40, 35_107_181_936, 446_571_248),
    ("LiquidAI__LFM2-VL-1.6B", 16, 1_584_804_000, 414_463_392),
    ("google__gemma-3-4b-it", 34, 4_300_079_472, 419_816_304),
    ("google__gemma-4-E4B-it", 42, 7_941_100_832, 478_087_456),
    ("google__gemma-4-12B-unified", 48, 11_959_730_176, 52_379_904),
    ("google__gemma-4-31B-it", 60, 31_273_086_512, 575_741_232),
    ("llava-hf__LLaVA-NeXT-Video-34B-hf", 60, 34_752_083_968, 362_249_216),
    ("llava-hf__llava-onevision-qwen2-7b-ov-hf", 28, 8_030_807_584, 414_732_320),
    ("mistral-community__pixtral-12b", 40, 12_682_739_712, 434_957_312),
    ("mistralai__Ministral-3-8B-Instruct-2512", 34, 8_918_026_240, 428_472_320),
    ("meta-llama__Llama-4-Scout-17B-16E", 48, 108_641_793_536, 871_932_416),
    ("moonshotai__Kimi-K2.5", 61, 1_026_879_353_328, 471_143_920),
    ("zai-org__GLM-4.6V-Flash", 40, 10_292_777_472, 892_498_432),
    ("zai-org__GLM-4.6V", 46, 107_710_927_360, 858_681_856),
    ("zai-org__GLM-OCR", 16, 1_107_405_824, 434_120_192),
]


def parameters_of(architecture: Any) -> Parameters:
    assert architecture.parameters is not None
    parameters: Parameters = architecture.parameters
    return parameters


@pytest.mark.parametrize(("name", "num_layers", "total", "towers"), EXACT)
def test_parameters_are_those_of_the_models_own_code(
    read_asset: Any, name: str, num_layers: int, total: int, towers: int
) -> None:
    architecture = read_asset(name)
    assert architecture.num_layers == num_layers
    assert parameters_of(architecture).total == total
    assert parameters_of(architecture).towers == towers


# transformers 5.23 ties the output head of a config without tie_word_embeddings, which the checkpoints do not:
# InternVL3-1B, InternVL3-38B and Mistral-Small-3.1 are published with 0.938 B, 38.4 B and 24.0 B parameters.
@pytest.mark.parametrize(
    ("name", "tied_total", "output_head"),
    [
        ("OpenGVLab__InternVL3-1B-hf", 802_293_120, 151_674 * 896),
        ("OpenGVLab__InternVL3-38B-hf", 37_611_594_112, 151_674 * 5120),
        ("mistralai__Mistral-Small-3.1-24B-Instruct-2503", 23_340_272_640, 131_072 * 5120),
    ],
)
def test_an_untied_output_head_counts_as_published(
    read_asset: Any, name: str, tied_total: int, output_head: int
) -> None:
    parameters = parameters_of(read_asset(name))
    assert parameters.total == tied_total + output_head
    assert parameters.output_head == output_head


def test_llama_4_without_vision_config_counts_no_tower_and_says_so(read_asset: Any) -> None:
    whole = read_asset("meta-llama__Llama-4-Scout-17B-16E")
    trimmed = read_asset("meta-llama__Llama-4-Scout-17B-16E", vision_config=...)
    assert trimmed.layers == whole.layers
    assert parameters_of(trimmed).towers == 0
    assert parameters_of(trimmed).active == parameters_of(whole).active
    assert any("vision_config is absent" in note for note in trimmed.notes)


def test_kimi_k3_has_a_tower_of_the_published_size(read_asset: Any) -> None:
    # Kimi K3's MoonViT: 401 M in the tower; beside it the projector (4096 x 4096 + 4096 x 7168) and its norm
    towers = parameters_of(read_asset("moonshotai__Kimi-K3")).towers
    assert round((towers - 4096 * 4096 - 4096 * 7168 - 1024) / 1e6) == 401


def test_top_level_text_keys_read_like_nested_ones(read_json: Any, read_asset: Any) -> None:
    name = "Qwen__Qwen2.5-VL-7B-Instruct"
    values = read_json(name)
    own = ("model_type", "vision_config", "architectures")
    nested = {key: values[key] for key in own} | {
        "text_config": {key: value for key, value in values.items() if key not in own} | {"model_type": "qwen2"}
    }
    architecture = read_config(nested, "nested", "nested").architecture
    assert architecture.layers == read_asset(name).layers
    assert architecture.parameters == read_asset(name).parameters


def test_an_unknown_structural_key_beside_the_towers_is_refused(read_asset: Any) -> None:
    with pytest.raises(UnknownArchitectureError, match="num_vision_cache_layers"):
        read_asset("Qwen__Qwen3-VL-4B-Instruct", num_vision_cache_layers=4)


def test_an_unknown_structural_key_of_a_nested_model_is_refused_with_its_path(read_json: Any, read_asset: Any) -> None:
    text = read_json("Qwen__Qwen3-VL-4B-Instruct")["text_config"] | {"kv_compression_rank": 8}
    with pytest.raises(UnknownArchitectureError, match=r"text_config\.kv_compression_rank"):
        read_asset("Qwen__Qwen3-VL-4B-Instruct", text_config=text)


@pytest.mark.parametrize(
    "name", ["Qwen__Qwen3-VL-4B-Instruct", "google__gemma-3-4b-it", "llava-hf__llava-onevision-qwen2-7b-ov-hf"]
)
def test_a_wrapper_without_its_language_model_is_refused(read_asset: Any, name: str) -> None:
    with pytest.raises(MissingKeyError):
        read_asset(name, text_config=...)


CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "image_size": 336,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "patch_size": 14,
}
LLAVA_TEXT = {"model_type": "llama", "vocab_size": 32064, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
QWEN2_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
}
SIGLIP_400M = {
    "model_type": "siglip_vision_model",
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_attention_heads": 16,
    "num_hidden_layers": 27,
    "patch_size": 14,
    "image_size": 980,
    "vision_use_head": False,
}
MHA_7B = FullAttention(num_kv_heads=32, head_dim=128)

# Configs as published; parameters as the model cards' safetensors headers state them.
PUBLISHED: list[tuple[str, dict[str, Any], FullAttention, int]] = [
    (  # llava-hf/llava-1.5-7b-hf: its text_config leaves every size to LlamaConfig
        "llava-1.5-7b",
        {"model_type": "llava", "text_config": LLAVA_TEXT, "vision_config": CLIP, "image_token_index": 32000},
        MHA_7B,
        7_063_427_072,
    ),
    (  # microsoft/Phi-3.5-vision-instruct
        "phi-3.5-vision",
        {
            "model_type": "phi3_v",
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 131072,
            "original_max_position_embeddings": 4096,
            "sliding_window": 262144,
            "tie_word_embeddings": False,
            "vocab_size": 32064,
            "embd_layer": {"embedding_cls": "image", "hd_transform_order": "sub_glb"},
            "img_processor": {"image_dim_out": 1024, "name": "clip_vision_model", "num_img_tokens": 144},
        },
        FullAttention(num_kv_heads=32, head_dim=96),
        4_146_621_440,
    ),
    (  # openbmb/MiniCPM-V-2_6
        "minicpm-v-2.6",
        QWEN2_7B
        | {
            "model_type": "minicpmv",
            "version": 2.6,
            "query_num": 64,
            "vocab_size": 151666,
            "tie_word_embeddings": False,
            "use_sliding_window": False,
            "max_window_layers": 28,
            "sliding_window": 131072,
            "slice_config": {"max_slice_nums": 9, "patch_size": 14},
            "vision_config": SIGLIP_400M,
        },
        FullAttention(num_kv_heads=4, head_dim=128),
        8_099_175_152,
    ),
]


@pytest.mark.parametrize(("name", "values", "kind", "total"), PUBLISHED, ids=[entry[0] for entry in PUBLISHED])
def test_published_models_beyond_the_assets_read_as_published(
    name: str, values: dict[str, Any], kind: FullAttention, total: int
) -> None:
    architecture = read_config(values, name, name).architecture
    fields = {field.name: getattr(kind, field.name) for field in dataclasses.fields(FullAttention)}
    assert all({key: getattr(layer[0], key) for key in fields} == fields for layer in architecture.layers)
    assert parameters_of(architecture).total == total


WRAPPERS: list[dict[str, Any]] = [
    {"model_type": "qwen2_audio", "audio_config": {}},
    {"model_type": "voxtral", "audio_config": {}},
    {"model_type": "ultravox", "audio_config": {}, "stack_factor": 8},
    {"model_type": "granite_speech", "encoder_config": {}, "projector_config": {}},
    {"model_type": "paligemma", "vision_config": SIGLIP_400M},
    {"model_type": "idefics3", "vision_config": SIGLIP_400M, "scale_factor": 2},
    {"model_type": "smolvlm", "vision_config": {}, "scale_factor": 4},
    {"model_type": "aya_vision", "vision_config": SIGLIP_400M, "downsample_factor": 2},
    {"model_type": "cohere2_vision", "vision_config": SIGLIP_400M, "downsample_factor": 2},
    {"model_type": "kimi_vl", "vision_config": {}},
    {"model_type": "internvl_chat", "vision_config": {}, "downsample_ratio": 0.5},
    {"model_type": "vipllava", "vision_config": CLIP},
    {"model_type": "llava_next", "vision_config": CLIP},
    {"model_type": "NemotronH_Nano_VL_V2", "vision_config": {}},
]


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=[wrapper["model_type"] for wrapper in WRAPPERS])
@pytest.mark.parametrize("section", ["text_config", "llm_config"])
def test_a_wrapper_has_the_cache_of_its_language_model(wrapper: dict[str, Any], section: str) -> None:
    text = QWEN2_7B | {"model_type": "qwen2", "vocab_size": 152064, "use_sliding_window": False}
    alone = read_config(text, "text", "text").architecture
    if (section == "llm_config") != (wrapper["model_type"] in ("internvl_chat", "NemotronH_Nano_VL_V2")):
        with pytest.raises(KvplanError):
            read_config({**wrapper, "unused": text}, "wrapper", "wrapper")
        return
    architecture = read_config({**wrapper, section: text}, "wrapper", "wrapper").architecture
    assert architecture.layers == alone.layers
    assert architecture.max_context_tokens == alone.max_context_tokens
    assert parameters_of(architecture).total == parameters_of(alone).total + parameters_of(architecture).towers


def test_qwen_omni_is_the_thinker(read_asset: Any) -> None:
    # Qwen2.5-Omni-7B: its thinker has the language model of Qwen2.5-VL-7B; audio tower (transformers 5.23) 639,647,232
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584, "patch_size": 14}
    text = QWEN2_7B | {"model_type": "qwen2_5_omni_text", "vocab_size": 152064, "use_sliding_window": False}
    thinker = {"model_type": "qwen2_5_omni_thinker", "text_config": text, "vision_config": vision, "audio_config": {}}
    values = {
        "model_type": "qwen2_5_omni",
        "thinker_config": thinker,
        "talker_config": {"text_config": {"num_layers": 9}},
    }
    architecture = read_config(values, "omni", "omni").architecture
    sibling = read_asset("Qwen__Qwen2.5-VL-7B-Instruct")
    assert architecture.layers == sibling.layers
    assert parameters_of(architecture).towers == parameters_of(sibling).towers + 639_647_232
    assert any("talker" in note for note in architecture.notes)


def test_ernies_vision_experts_count_but_no_text_token_uses_them(read_asset: Any) -> None:
    # transformers 5.23: 29,399,294,336 in all, 774,658,560 in tower and resampler (144,225,280 in the resampler alone);
    # 3,496,375,488 active in text with the resampler
    parameters = parameters_of(read_asset("baidu__ERNIE-4.5-VL-28B-A3B-Base-PT"))
    assert parameters.total == 29_399_294_336
    assert parameters.towers == 774_658_560
    assert parameters.active == 3_496_375_488 - 144_225_280


def test_ernie_reads_alike_nested_and_at_the_top_level(read_json: Any, read_asset: Any) -> None:
    name = "baidu__ERNIE-4.5-VL-28B-A3B-Base-PT"
    values = read_json(name)
    text = {
        "model_type": "ernie4_5_vl_moe_text",
        "moe_num_experts": 64,
        "mlp_layer_types": ["dense"] + 27 * ["sparse"],
        **{
            key: values[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
        },
        **{key: values[key] for key in ("num_key_value_heads", "vocab_size", "moe_k", "max_position_embeddings")},
    }
    nested = {"model_type": "ernie4_5_vl_moe", "text_config": text, "vision_config": values["vision_config"]}
    architecture = read_config(nested, "nested", "nested").architecture
    assert architecture.layers == read_asset(name).layers
    assert architecture.parameters == read_asset(name).parameters


def test_ernies_largest_model_has_the_size_in_its_name(read_asset: Any) -> None:
    parameters = parameters_of(read_asset("baidu__ERNIE-4.5-VL-424B-A47B-Paddle"))
    assert parameters.total == pytest.approx(424e9, rel=0.005)
    assert parameters.active == pytest.approx(47e9, rel=0.025)


def test_glm_ocr_has_one_draft_layer_like_its_own(read_asset: Any) -> None:
    architecture = read_asset("zai-org__GLM-OCR")
    assert architecture.draft_layers == architecture.layers[-1:]


def test_deepseek_ocr_may_repeat_its_language_models_keys() -> None:
    # deepseek-ai/DeepSeek-OCR: plain attention (use_mla false), every text key twice
    text = {
        "architectures": ["DeepseekOCRForCausalLM"],
        "first_k_dense_replace": 1,
        "hidden_size": 1280,
        "intermediate_size": 6848,
        "kv_lora_rank": None,
        "lm_head": True,
        "rm_head": False,
        "max_position_embeddings": 8192,
        "moe_intermediate_size": 896,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_attention_heads": 10,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 12,
        "num_key_value_heads": 10,
        "q_lora_rank": None,
        "qk_nope_head_dim": 0,
        "qk_rope_head_dim": 0,
        "use_mla": False,
        "v_head_dim": 0,
        "vocab_size": 129280,
    }
    vision = {"model_name": "deeplip_b_l", "image_size": 1024, "width": {"sam_vit_b": {"layers": 12}}}
    values = {
        **text,
        "model_type": "deepseek_vl_v2",
        "language_config": text,
        "vision_config": vision,
        "projector_config": {"projector_type": "linear", "input_dim": 2048, "n_embed": 1280},
    }
    architecture = read_config(values, "ocr", "ocr").architecture
    assert architecture.layers == 12 * ((FullAttention(num_kv_heads=10, head_dim=128),),)
    assert any("deeplip_b_l" in note for note in architecture.notes)
