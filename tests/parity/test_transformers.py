"""transformers' own model code on the meta device: what its cache layers hold, against kvplan's prediction.

Only the number of layers is cut; heads, widths and windows are those of the files or of the classes' defaults. Each
model runs a prompt beyond its window, one more token, and a static cache.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
if transformers.__version__ != "5.23.0":
    pytest.skip("kvplan has the rules of transformers 5.23.0", allow_module_level=True)

from huggingface_hub.errors import StrictDataclassError  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of hqq, which transformers imports where it is installed
    from transformers_models import Measured, measure

from kvplan.core.model import Layer, Model  # noqa: E402
from kvplan.engines import get_engine  # noqa: E402
from kvplan.engines.transformers.architectures import OWN_CACHE, SHARDED_KV, WHOLE_KV  # noqa: E402
from kvplan.families import all_families  # noqa: E402
from kvplan.planning.request import RequestWords, build_request  # noqa: E402
from kvplan.planning.size import size_model  # noqa: E402
from kvplan.runtime.verify.code_prediction import LayerBytes, Run, predict_native  # noqa: E402
from kvplan.runtime.verify.decoder_run import tensors  # noqa: E402
from kvplan.runtime.verify.shrink_steps import cut_layers  # noqa: E402
from kvplan.runtime.verify.skeleton import in_dtype  # noqa: E402
from kvplan.specs.config_json import read_config  # noqa: E402

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # transformers warns of keys in published configs
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # the quantizers' own imports
]

CONFIGS = Path(__file__).parent.parent / "assets" / "configs"
ENCODER_TOKENS = 40
FEW_LAYERS = 6
MORE_LAYERS = {
    "ibm-ai-platform__Bamba-9B-v2": 10,
    "nvidia__Nemotron-H-4B-Base-8K": 9,
    "google__gemma-4-E4B-it": 42,  # its last 18 layers share
    "gemma3n_text": 35,
    "zamba": 12,
    "zamba2": 12,
}
"""Models whose pattern of layers is longer, or must be whole."""

PUBLISHED = """
    CohereLabs__aya-23-8B EleutherAI__gpt-j-6b LGAI-EXAONE__EXAONE-4.0-32B LiquidAI__LFM2-8B-A1B
    MiniMaxAI__MiniMax-M2.5 Qwen__Qwen1.5-MoE-A2.7B Qwen__Qwen2.5-7B-Instruct Qwen__Qwen3-30B-A3B
    Qwen__Qwen3-Next-80B-A3B-Instruct RWKV__rwkv-4-169m-pile Salesforce__codegen-16B-multi XiaomiMiMo__MiMo-V2-Flash
    ai21labs__Jamba-v0.1 allenai__OLMo-7B-hf allenai__Olmo-3.1-32B-Instruct arcee-ai__AFM-4.5B arcee-ai__Trinity-Mini
    bigcode__gpt_bigcode-santacoder bigcode__starcoder2-15b deepseek-ai__DeepSeek-V2-Lite deepseek-ai__DeepSeek-V3
    deepseek-ai__DeepSeek-V3.2 facebook__opt-125m google__gemma-2b google__gemma-3-1b-it google__gemma-4-E4B-it
    google__byt5-xl google__recurrentgemma-2b-it ibm-ai-platform__Bamba-9B-v2 ibm-granite__granite-3.3-8b-instruct
    ibm-granite__granite-4.0-h-micro-base meta-llama__Llama-3.1-8B meta-llama__Llama-3.2-90B-Vision-Instruct
    meta-llama__Llama-4-Scout-17B-16E-Instruct microsoft__Phi-3-mini-4k-instruct microsoft__Phi-mini-MoE-instruct
    mistralai__Mistral-7B-Instruct-v0.1 mistralai__Mixtral-8x7B-v0.1 mlx-community__c4ai-command-r7b-12-2024-8bit
    nvidia__Nemotron-H-4B-Base-8K nvidia__Nemotron-Mini-4B-Instruct openai-community__gpt2 openai__gpt-oss-20b
    openai__whisper-large-v3 poolside__Laguna-XS.2 stabilityai__stablelm-3b state-spaces__mamba-130m-hf
    tencent__Hunyuan-7B-Instruct tiiuae__falcon-40b tiiuae__falcon-7b tiiuae__falcon-mamba-7b unsloth__gemma-2-9b-it
    upstage__Solar-Open-100B zai-org__GLM-4-32B-0414 zai-org__GLM-5.2
""".split()

DEFAULTS = """
    axk2 bailing_hybrid bloom cwm deepseek_v4 ernie4_5_moe falcon_h1 gemma3n_text glm4_moe_lite gpt_neox hy_v4
    kimi_linear mamba2 minicpm3 minimax minimax_m3_vl_text mistral4 olmo_hybrid olmoe phi qwen3_5_text smollm3 umt5
    vaultgemma voxtral xglm zamba zamba2
""".split()
"""Model types built with the defaults of their class: families of which no published file is among the assets."""


def values_of(name: str) -> dict[str, Any]:
    """A published config, or the defaults of a model type, with its first layers only."""
    if name in DEFAULTS:
        text = json.dumps(transformers.CONFIG_MAPPING[name]().to_dict(), default=str)
        values = {**json.loads(text), "model_type": name}
    else:
        values = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    return in_dtype(cut_layers(values, MORE_LAYERS.get(name, FEW_LAYERS)))


def attends_to_an_encoder(layer: Layer) -> bool:
    return any(part.encoder for kind in layer for part in kind.parts())


def prompt_tokens(model: Model) -> int:
    """Beyond the smallest window; few where a recurrence runs token by token."""
    kinds = [kind for layer in model.architecture.layers for kind in layer]
    windows = [kind.window_tokens for kind in kinds if kind.window_tokens]
    if any(kind.states() for kind in kinds) and model.family != "deepseek_v4":
        return 20
    return min(windows, default=0) + 70


def predicted(model: Model, engine: str, tokens: int, encoder_tokens: int) -> list[LayerBytes]:
    return predict_native(model, Run(tokens=tokens, encoder_tokens=encoder_tokens), engine)


def assert_layers(measured: list[int], expected: list[LayerBytes], place: str = "own") -> None:
    figures = [getattr(layer, place) for layer in expected]
    figures = [sum(figures)] if len(measured) == 1 < len(figures) else figures  # RWKV: one tensor for all layers
    assert measured[: len(figures)] == figures
    assert not any(measured[len(figures) :])


@pytest.mark.parametrize("name", PUBLISHED + DEFAULTS)
def test_every_cache_layer_holds_what_is_predicted(name: str) -> None:
    values = values_of(name)
    model = read_config(values, name, name)
    tokens = prompt_tokens(model)
    encoder = ENCODER_TOKENS if any(map(attends_to_an_encoder, model.architecture.layers)) else 0
    encoder = 0 if model.family == "mllama" else encoder  # a text without images
    static = tokens + 37
    measured: Measured = measure(values, tokens, encoder, static)
    after_prompt = predicted(model, "transformers", tokens, encoder)
    assert_layers(measured.prompt, after_prompt)
    assert measured.modules == sum(layer.modules for layer in after_prompt)
    assert_layers(measured.cross, after_prompt if encoder else [], "cross")
    assert_layers(measured.decoded, predicted(model, "transformers", tokens + 1, encoder))
    assert (measured.static is None) == (model.family in {"deepseek_v4", *OWN_CACHE})
    if measured.static is not None:
        assert_layers(measured.static, predicted(model, "transformers:cache=static", static, encoder))


@pytest.mark.parametrize(
    ("backend", "bits", "word"),
    [
        ("fp8", None, "fp8"),
        *(("quanto", bits, f"quanto{bits}") for bits in (4, 2)),
        *(("hqq", bits, f"hqq{bits}") for bits in (8, 4, 2, 1)),
    ],
)
def test_a_quantized_cache_holds_what_is_predicted(backend: str, bits: int | None, word: str) -> None:
    # Real tensors: 3 sequences of 301 tokens, then 5 more that wait in the residual of the group-wise backends.
    pytest.importorskip({"quanto": "optimum.quanto", "hqq": "hqq"}.get(backend, "torch"))
    values = values_of("meta-llama__Llama-3.1-8B") | {"num_hidden_layers": 1}
    model = read_config(values, "config.json", "llama")
    config = transformers.LlamaConfig(num_hidden_layers=1)
    layer = transformers.QuantizedCache(backend, config, nbits=bits).layers[0]
    heads = torch.randn(3, 8, 301, 128, dtype=torch.bfloat16)
    layer.update(heads, heads)
    assert quantized_bytes(layer) == allocated(model, word, 301)
    layer.update(heads[:, :, :5], heads[:, :, :5])
    grown = (
        allocated(model, word, 306) if backend == "fp8" else allocated(model, word, 301) + allocated(model, "bf16", 5)
    )
    assert quantized_bytes(layer) == grown


def allocated(model: Model, word: str, tokens: int) -> int:
    engine = get_engine("transformers")
    words = RequestWords(kv_dtype=word, concurrency=3)
    return size_model(model, build_request(model, tokens, words, engine), engine).allocated_bytes


def quantized_bytes(layer: Any) -> int:
    """Codes, scales and zero points in their storages, and the residual that waits."""
    found = [layer.keys, layer.values]
    for quantized in (layer._quantized_keys, layer._quantized_values):
        if hasattr(quantized, "_scale"):  # quanto: codes are wrapped in a packed tensor
            found += [quantized._data._data, quantized._scale, quantized._shift]
        else:
            found += [quantized[0], *([quantized[1]] if torch.is_tensor(quantized[1]) else tensors(quantized[1]))]
    return sum(tensor.untyped_storage().nbytes() for tensor in found)


def _splits_keys(config: Any) -> bool:
    """As ``get_kv_heads_per_rank`` of ``distributed/tensor_parallel.py`` decides it."""
    from transformers.distributed.tensor_parallel import get_kv_heads_per_rank

    plan = getattr(config.get_text_config(decoder=True), "base_model_tp_plan", None) or {}
    return get_kv_heads_per_rank(plan, 8, 2) == 4


@pytest.mark.parametrize("family", [family for family in all_families() if family.name in SHARDED_KV | WHOLE_KV])
def test_the_classes_of_a_family_split_their_keys_as_listed(family: Any) -> None:
    configs = []
    for model_type in family.model_types:
        try:
            configs.append(transformers.CONFIG_MAPPING[model_type]())
        except (KeyError, StrictDataclassError):  # remote code, or a class without usable defaults
            continue
    assert configs
    assert {_splits_keys(config) for config in configs} == {family.name in SHARDED_KV}
