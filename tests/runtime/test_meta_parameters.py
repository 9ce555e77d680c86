"""Parameter counts of transformers' own model code against those counted from the same configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kvplan.core.errors import UnsupportedError
from kvplan.core.model import PARAMETER_PARTS, Model, Parameters
from kvplan.specs.config_json import read_config

pytest.importorskip("torch")
pytest.importorskip("transformers")
from kvplan.runtime.meta_parameters import count_parameters, exact_model, part_of

pytestmark = pytest.mark.parity

CONFIGS = Path(__file__).parent.parent / "assets" / "configs"


def config(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    return values


def counted(name: str) -> Model:
    return read_config(config(name), f"{name}.json", name)


def by_part(parameters: Parameters | None) -> dict[str, int]:
    assert parameters is not None
    return {part: getattr(parameters, part) for part in PARAMETER_PARTS}


@pytest.mark.parametrize(
    "name",
    [
        "Qwen__Qwen3-30B-A3B",
        "deepseek-ai__DeepSeek-V3.2",
        "deepseek-ai__DeepSeek-V4-Flash",
        "google__gemma-4-E4B-it",
        "google__mt5-xxl",
        "google__recurrentgemma-2b-it",
        "LiquidAI__LFM2-8B-A1B",
        "nvidia__Nemotron-H-4B-Base-8K",
    ],
)
def test_the_config_counts_as_the_model_code_does_part_by_part(name: str) -> None:
    assert by_part(count_parameters(config(name))) == by_part(counted(name).architecture.parameters)


def test_a_wrapper_ties_no_head_that_was_published_apart() -> None:
    # Hub: 938,193,024 parameters; transformers 5's InternVLConfig ties by default and would build 802,293,120
    parameters = count_parameters(config("OpenGVLab__InternVL3-1B-hf"))
    assert parameters.total == 938_193_024
    assert parameters.output_head == parameters.embedding


def test_an_exact_model_keeps_what_transformers_does_not_say() -> None:
    name = "deepseek-ai__DeepSeek-V3"
    model = exact_model(counted(name), config(name))
    parameters, rule = model.architecture.parameters, counted(name).architecture.parameters
    assert parameters is not None
    assert rule is not None
    assert parameters.certainty == "exact"
    assert parameters.total == 671_026_404_352
    assert (parameters.active, parameters.mtp) == (rule.active, rule.mtp)
    assert model.provenance["parameters"].startswith("transformers ")
    assert model.notes == counted(name).notes


def test_a_count_that_the_config_alone_does_not_give_is_noted() -> None:
    name = "meta-llama__Llama-4-Scout-17B-16E-Instruct"  # this file lacks the config of its vision tower
    model, rule = exact_model(counted(name), config(name)), counted(name).architecture.parameters
    parameters = model.architecture.parameters
    assert parameters is not None
    assert rule is not None
    assert parameters.towers > 0 == rule.towers
    assert parameters.active == rule.active
    assert f"the config alone counts {rule.total} parameters" in model.notes[-1]


def test_remote_code_with_the_layers_of_a_known_class_is_built() -> None:
    # moonshotai/Kimi-K2-Instruct: model_type kimi_k2, architectures DeepseekV3ForCausalLM
    assert count_parameters(config("moonshotai__Kimi-K2-Instruct")).total == 1_026_408_209_408


@pytest.mark.parametrize("name", ["RWKV__rwkv5-3b", "baidu__ERNIE-4.5-VL-424B-A47B-Paddle"])
def test_a_class_of_another_layout_is_refused(name: str) -> None:
    # both name a class of transformers under architectures, which would silently build another model
    with pytest.raises(UnsupportedError, match="does not know the model type"):
        count_parameters(config(name))


@pytest.mark.parametrize("values", [{}, {"model_type": "llama", "hidden_size": "wide"}])
def test_what_transformers_cannot_build_is_refused_in_one_line(values: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedError) as caught:
        count_parameters(values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("transformer.wpe.weight", "embedding"),
        ("transformer.h.0.attn.c_attn.weight", "attention"),
        ("transformer.h.0.ln_1.bias", "norms"),
        ("transformer.blocks.0.norm_attn_norm.attn.Wqkv.weight", "attention"),
        ("model.embedding_norm.weight", "norms"),
        ("model.layers.0.self_attn.q_norm.weight", "norms"),
        ("model.layers.0.self_attn.kv_a_layernorm.weight", "attention"),
        ("model.layers.0.mlp.experts.gate_up_proj", "experts"),
        ("model.layers.0.mlp.gate.weight", "routers"),
        ("model.layers.0.mlp.gate_proj.weight", "mlp"),
        ("model.layers.0.mlp.shared_expert_gate.weight", "routers"),
        ("model.layers.0.mlp.shared_experts.up_proj.weight", "mlp"),
        ("model.layers.0.mixer.q_proj.weight", "attention"),
        ("model.layers.0.mixer.in_proj.weight", "state"),
        ("model.layers.0.mixer.up_proj.weight", "mlp"),
        ("rwkv.blocks.0.attention.key.weight", "state"),
        ("head.weight", "output_head"),
        ("model.encoder.layers.0.self_attn.k_proj.weight", "towers"),
        ("model.decoder.layers.0.encoder_attn.k_proj.weight", "attention"),
        ("decoder.block.0.layer.1.EncDecAttention.q.weight", "attention"),
        ("shared.weight", "embedding"),
        ("model.vision_tower.encoder.layers.0.mlp.fc1.weight", "towers"),
        ("model.visual.merger.mlp.0.weight", "towers"),
        ("model.multi_modal_projector.linear_1.weight", "towers"),
    ],
)
def test_weights_belong_to_the_part_that_a_reader_expects(name: str, part: str) -> None:
    assert part_of(name) == part
