"""Published dense decoders: the layers and parameter counts that real engines make of the same files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from kvplan.core.attention import HeadedKind
from kvplan.core.errors import MissingKeyError
from kvplan.core.model import Architecture

Layers = list[tuple[int, int, int, int | None]]

# name of the file; parameters; (layers, key-value heads, head width, window).
# Parameters: transformers 5.23, the model's own class built on torch's meta device. Layers: the cache specs of
# vLLM 0.32's own model classes; bitnet, gptj, codegen and mpt: key shapes in transformers 5.23's cache.
MODELS: list[tuple[str, int, Layers]] = [
    ("meta-llama__Llama-3.1-8B", 8030261248, [(32, 8, 128, None)]),
    ("01-ai__Yi-34B", 34388917248, [(60, 8, 128, None)]),
    ("HuggingFaceTB__SmolLM2-135M", 134515008, [(30, 3, 64, None)]),
    ("ibm-granite__granite-3.3-8b-instruct", 8170864640, [(40, 8, 128, None)]),
    ("arcee-ai__AFM-4.5B", 4619189760, [(36, 4, 128, None)]),
    ("swiss-ai__Apertus-8B-2509", 8053338176, [(32, 8, 128, None)]),
    ("microsoft__bitnet-b1.58-2B-4T", 2412820480, [(30, 5, 128, None)]),
    ("naver-hyperclovax__HyperCLOVAX-SEED-Think-14B", 14748112896, [(38, 8, 128, None)]),
    ("stabilityai__stablelm-3b", 2795443200, [(32, 32, 80, None)]),
    ("nvidia__Nemotron-Mini-4B-Instruct", 4190509056, [(32, 8, 128, None)]),
    ("allenai__OLMo-7B-hf", 6888095744, [(32, 32, 128, None)]),
    ("allenai__OLMo-2-0325-32B-Instruct", 32234279936, [(64, 8, 128, None)]),
    ("allenai__Olmo-3.1-32B-Instruct", 32233522176, [(48, 8, 128, 4096), (16, 8, 128, None)]),
    ("zai-org__GLM-4-32B-0414", 32566081536, [(61, 2, 128, None)]),
    ("CohereLabs__aya-23-8B", 8028033024, [(32, 8, 128, None)]),
    # the config's 4096; vLLM's class asks for one token more
    ("mlx-community__c4ai-command-r7b-12-2024-8bit", 8028033024, [(24, 8, 128, 4096), (8, 8, 128, None)]),
    ("mistralai__Mistral-7B-Instruct-v0.1", 7241732096, [(32, 8, 128, 4096)]),
    ("mistralai__Mistral-7B-Instruct-v0.2", 7241732096, [(32, 8, 128, 4096)]),
    ("mistralai__Ministral-8B-Instruct-2410", 8019808256, [(9, 8, 128, None), (27, 8, 128, 32768)]),
    ("mistralai__Mistral-Nemo-Instruct-2407", 12247782400, [(40, 8, 128, None)]),
    ("mistralai__Devstral-2-123B-Instruct-2512", 125025988608, [(88, 8, 128, None)]),
    ("bigcode__starcoder2-15b", 15957889024, [(40, 4, 128, 4096)]),
    ("bigcode__gpt_bigcode-santacoder", 1124886528, [(24, 1, 128, None)]),
    ("Qwen__Qwen2.5-7B-Instruct", 7615616512, [(28, 4, 128, None)]),
    ("Qwen__Qwen3-4B", 4022468096, [(36, 8, 128, None)]),
    ("microsoft__Phi-3-mini-4k-instruct", 3821079552, [(32, 32, 96, 2047)]),
    ("microsoft__Phi-4-mini-reasoning", 3836021760, [(32, 8, 128, 262144)]),
    ("microsoft__phi-4", 14659507200, [(40, 10, 128, None)]),
    ("LGAI-EXAONE__EXAONE-4.0-32B", 32003216384, [(48, 8, 128, 4096), (16, 8, 128, None)]),
    ("tencent__Hunyuan-7B-Instruct", 7504568320, [(32, 8, 128, None)]),
    ("openai-community__gpt2", 124439808, [(12, 12, 64, None)]),
    ("EleutherAI__gpt-j-6b", 6050882784, [(28, 16, 256, None)]),
    ("Salesforce__codegen-16B-multi", 16032155648, [(34, 24, 256, None)]),
    ("facebook__opt-125m", 125239296, [(12, 12, 64, None)]),
    ("mosaicml__mpt-7b", 6649286656, [(32, 32, 128, None)]),
    ("tiiuae__falcon-7b", 6921720704, [(32, 1, 64, None)]),
    ("tiiuae__falcon-40b", 41303293952, [(60, 8, 64, None)]),
]

# Without a class in transformers 5.23: parameters written out from the published modeling files.
COUNTED: list[tuple[str, int, Layers]] = [
    (
        "internlm__internlm-7b",
        2 * 103168 * 4096 + 32 * (4 * (4096 * 4096 + 4096) + 3 * 4096 * 11008 + 2 * 4096) + 4096,
        [(32, 32, 128, None)],
    ),
    (
        "internlm__internlm2-7b",
        2 * 92544 * 4096 + 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096) + 4096,
        [(32, 8, 128, None)],
    ),
    (
        "OrionStarAI__Orion-14B",
        2 * 84608 * 5120 + 40 * (4 * 5120 * 5120 + 3 * 5120 * 15360 + 4 * 5120) + 2 * 5120,
        [(40, 40, 128, None)],
    ),
    (
        "Qwen__Qwen-1.8B",  # intermediate_size 11008 is both halves of the gated block
        2 * 151936 * 2048 + 24 * (4 * 2048 * 2048 + 3 * 2048 + 3 * 2048 * 5504 + 2 * 2048) + 2048,
        [(24, 16, 128, None)],
    ),
    (
        "THUDM__chatglm3-6b",
        2 * 65024 * 4096 + 28 * (2 * 4096 * 4096 + (4096 + 1) * 512 + 4096 + 3 * 4096 * 13696 + 2 * 4096) + 4096,
        [(28, 2, 128, None)],
    ),
    (
        "THUDM__glm-4-9b-chat",
        2 * 151552 * 4096 + 40 * (2 * 4096 * 4096 + (4096 + 1) * 512 + 4096 + 3 * 4096 * 13696 + 2 * 4096) + 4096,
        [(40, 2, 128, None)],
    ),
    (
        "microsoft__phi-2",
        (2 * 2560 + 1) * 51200 + 32 * (4 * (2560 * 2560 + 2560) + 2 * 2560 * 10240 + 12800 + 2 * 2560) + 2 * 2560,
        [(32, 32, 80, None)],
    ),
]


def grouped(architecture: Architecture) -> Layers:
    kinds = [kind for layer in architecture.layers for kind in layer]
    assert all(isinstance(kind, HeadedKind) for kind in kinds)
    counts = Counter((*kind.head_shape()[:2], kind.window_tokens) for kind in kinds)
    return [(count, *shape) for shape, count in counts.items()]  # type: ignore[misc]


@pytest.mark.parametrize(("name", "parameters", "layers"), MODELS + COUNTED, ids=[row[0] for row in MODELS + COUNTED])
def test_layers_and_parameters_agree_with_the_engines(
    read_asset: Callable[..., Architecture], name: str, parameters: int, layers: Layers
) -> None:
    architecture = read_asset(name)
    assert sorted(grouped(architecture), key=str) == sorted(layers, key=str)
    assert architecture.parameters is not None
    assert architecture.parameters.total == parameters
    assert architecture.parameters.active is None


@pytest.mark.parametrize("name", [row[0] for row in MODELS + COUNTED])
def test_the_key_without_which_nothing_is_known_is_named_when_it_is_missing(
    read_asset: Callable[..., Architecture], name: str
) -> None:
    absent: dict[str, Any] = dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "n_layers"), ...)
    with pytest.raises(MissingKeyError, match=r"num_hidden_layers|num_layers"):
        read_asset(name, **absent)


@pytest.mark.parametrize(("stated", "longest"), [({"model_max_length": 131072}, 131072), ({}, 8192)])
def test_command_r_is_as_long_as_its_model_max_length(
    read_asset: Callable[..., Architecture], stated: dict[str, int], longest: int
) -> None:
    # c4ai-command-r-v01 states max_position_embeddings 8192 besides; vLLM 0.32 derives max_model_len 131072
    changes = {"model_max_length": ..., "max_position_embeddings": 8192, **stated}
    assert read_asset("CohereLabs__aya-23-8B", **changes).max_context_tokens == longest
