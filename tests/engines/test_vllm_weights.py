"""vLLM's weights on one GPU against what it logged: "Model loading took … GiB", which is rounded to 0.01 GiB.

Measured with vLLM 0.25.1 on an H200 (torch 2.11, tensor parallelism 1, random weights), 2026-11-23 and 2026-11-24.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.accelerator import Accelerator
from kvplan.core.model import Model, WeightsOnDisk
from kvplan.core.parallel import Parallel
from kvplan.core.weight_shards import shard_weights
from kvplan.core.weights import get_weight_format
from kvplan.engines.vllm.weights import HeldBesides, held_besides, vllm_spread
from kvplan.specs.catalogue import find_spec, load_found
from kvplan.specs.config_json import read_config

CONFIGS = Path(__file__).parents[1] / "assets" / "configs"
GIB = 2**30
ALONE = Parallel()
H200 = Accelerator(name="h200", vendor="nvidia", memory_bytes=150109880320, compute_capability=(9, 0))


def spec(name: str) -> Model:
    found = find_spec(name)
    assert found is not None, name
    return load_found(found)


def truncated(name: str, num_layers: int) -> Model:
    """The published config with its first layers only."""
    values = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    text: dict[str, Any] = values.get("text_config", values)
    text["num_hidden_layers"] = num_layers
    if "layer_types" in text:
        text["layer_types"] = text["layer_types"][:num_layers]
    return read_config(values, name, name)


def besides(model: Model, parallel: Parallel = ALONE, weight_format: str | None = None) -> tuple[HeldBesides, ...]:
    chosen = get_weight_format(weight_format or model.weights.weight_format or model.dtype)
    spread = vllm_spread(parallel)
    return held_besides(model.architecture, model.family, chosen, spread, model.architecture.layers, H200)


def loaded_gib(model: Model, text_only: bool = False) -> float:
    chosen = get_weight_format(model.weights.weight_format or model.dtype)
    found = shard_weights(model.architecture, WeightsOnDisk(), chosen, vllm_spread(ALONE, text_only=text_only))
    assert found is not None
    return (found[0].bytes + sum(entry.bytes for entry in besides(model))) / GIB


# Qwen3.5-27B ran with image inputs disabled.
@pytest.mark.parametrize(
    ("name", "measured_gib", "text_only"),
    [
        ("llama-3.1-8b", 15.0, False),
        ("qwen3-8b", 15.27, False),
        ("gpt-oss-20b", 13.02, False),
        ("qwen3.5-27b", 50.22, True),
        ("deepseek-v2-lite", 29.34, False),
    ],
)
def test_whole_models_weigh_what_vllm_logs(name: str, measured_gib: float, text_only: bool) -> None:
    assert loaded_gib(spec(name), text_only) == pytest.approx(measured_gib, rel=0.005)


# Four layers (Gemma 3: six, image inputs disabled), so that what is held besides weighs more.
@pytest.mark.parametrize(
    ("name", "num_layers", "measured_gib"),
    [
        ("meta-llama__Llama-3.1-8B", 4, 3.63),
        ("microsoft__phi-4", 4, 4.46),
        ("mistralai__Mixtral-8x7B-v0.1", 4, 11.31),
        ("openai__gpt-oss-20b", 4, 4.0),
        ("zai-org__GLM-4.5-Air", 4, 15.88),
        ("google__gemma-3-27b-it", 6, 7.54),
    ],
)
def test_models_of_few_layers_weigh_what_vllm_logs(name: str, num_layers: int, measured_gib: float) -> None:
    assert loaded_gib(truncated(name, num_layers), "gemma" in name) == pytest.approx(measured_gib, rel=0.005)


def test_deepseek_v2_lite_of_four_layers_misses_41_mib_of_which_the_cause_is_not_known() -> None:
    # 4.26 GiB measured: 0.9 % above, of the whole model 0.2 %
    missing_mib = (4.26 - loaded_gib(truncated("deepseek-ai__DeepSeek-V2-Lite", 4))) * 1024
    assert missing_mib == pytest.approx(41, abs=6)


# rows x width x 2 bytes: layers/rotary_embedding/{base,mrope,linear_scaling_rope}.py
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-3.1-8b", 131072 * 128 * 2),
        ("qwen3.5-27b", 4 * 262144 * 64 * 2),
        ("gemma-3-27b", (8 + 1) * 131072 * 128 * 2),
        ("gemma-4-31b", 262144 * (256 + 512) * 2),
        ("gpt-oss-20b", 131072 * 64 * 4),
        ("deepseek-v2-lite", 163840 * 64 * 2),
    ],
)
def test_rotary_tables_have_a_row_for_every_position(name: str, expected: int) -> None:
    assert next(entry.bytes for entry in besides(spec(name)) if entry.words == "rotary tables") == expected


@pytest.mark.parametrize("name", ["gpt2", "bart-base", "nemotron-h-4b"])
def test_models_without_rotation_have_no_tables(name: str) -> None:
    assert besides(spec(name)) == ()


def test_a_quantized_latent_attention_keeps_its_absorbed_projections_in_16_bits() -> None:
    # 61 layers, 128 heads on 8 ranks, a latent of 512 out to 128 + 128: mla_attention.py
    sizes = {entry.words: entry.bytes for entry in besides(spec("deepseek-v3"), Parallel(tp=8), "fp8")}
    assert sizes["absorbed projections of latent attention, in 16 bits"] == 61 * 16 * 512 * 256 * 2
    assert [entry.words for entry in besides(spec("deepseek-v3"), Parallel(tp=8), "bf16")] == ["rotary tables"]


def test_triton_pads_the_scales_of_mxfp4_experts_and_keeps_biases_in_float32() -> None:
    # 32 experts, hidden and width 2880: 5760 rows of 90 scales fill 5888, 2880 rows fill 3072 (hopper_scale.py);
    # biases of 5760 + 2880 in 4 bytes, where the checkpoint's 4.25 bits are counted already
    padding = 32 * ((5888 - 5760) * 90 + (3072 - 2880) * 90)
    biases = 32 * (5760 + 2880) * (4 - 4.25 / 8)
    sizes = {entry.words: entry.bytes for entry in besides(spec("gpt-oss-20b"))}
    assert sizes["padded scales and float32 biases of the MXFP4 experts"] == 24 * (padding + biases)
