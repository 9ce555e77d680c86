"""What SGLang, llama.cpp and TensorRT-LLM hold besides weights and cache."""

from __future__ import annotations

import json
from fractions import Fraction
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from vllm_questions import from_config, vectors

from kvplan.core.attention import IndexKeys
from kvplan.core.errors import UnsupportedError
from kvplan.core.overhead import Overhead
from kvplan.core.units import GIB
from kvplan.engines.llamacpp.overhead import overhead as llamacpp_overhead
from kvplan.engines.sglang.budget import Reserve, overhead, prefill_graph_tokens, vision_fraction
from kvplan.engines.trtllm import cache_memory
from kvplan.planning.request import model_facts

FRACTIONS = vectors("sglang_0.5.23_fraction.json")["rows"]
H200_BYTES, H200_MIB = 150109880320, 143771


@pytest.mark.parametrize("row", FRACTIONS, ids=lambda row: f"{row[0]}-{json.dumps(row[1])}")
def test_sglangs_default_fraction_is_that_of_its_own_hook(row: list[Any]) -> None:
    memory_mib, options, fraction = row
    assert Reserve(memory_mib=memory_mib, **options).mem_fraction_static == Fraction(fraction)


def test_sglang_captures_58_prefill_sizes_of_an_8192_token_chunk() -> None:
    """8 + 14 + 8 + 8 + 12 sizes up to 4096 tokens, and 8 by 512 from there."""
    assert len(prefill_graph_tokens(8192)) == 8 + 14 + 8 + 8 + 12 + 8


def test_sglang_keeps_clear_of_the_cache_what_the_fraction_leaves_of_free_memory() -> None:
    answer = overhead(H200_BYTES, Reserve(memory_mib=H200_MIB), Fraction("0.9"))
    free = H200_BYTES - answer.non_torch_bytes
    assert answer.total_bytes - answer.non_torch_bytes == free // 10
    assert answer.certainty == "rule"


def test_sglang_reserves_less_where_no_graphs_are_captured() -> None:
    graphs, none = (overhead(H200_BYTES, Reserve(memory_mib=H200_MIB, graphs=on)) for on in (True, False))
    assert none.cuda_graph_bytes == 0 < graphs.cuda_graph_bytes
    assert none.total_bytes < graphs.total_bytes


def test_a_standard_vision_tower_takes_five_percent_of_sglangs_fraction() -> None:
    """``adjust_mem_fraction_for_vlm``: 24 layers of 1024 are its baseline (ViT-L/14)."""
    assert vision_fraction(Fraction("0.9"), 24, 1024) == Fraction("0.855")
    assert vision_fraction(Fraction("0.9"), 64, 4096) == Fraction(str(0.9 * (0.95 * 0.8)))


def test_tensorrt_llm_takes_nine_tenths_of_what_is_left() -> None:
    assert cache_memory(80 * GIB, 16 * GIB, 4 * GIB) == 54 * GIB
    assert cache_memory(80 * GIB, 79 * GIB, 4 * GIB) == 0


ROWS = vectors("llamacpp_0.5_compute.json")["rows"]
ENCODER_DECODERS = ("t5", "bart")


@cache
def compute_buffer(name: str, n_ctx: int, n_seq_max: int) -> Overhead | None:
    """kvplan's answer, for models whose widths it reads."""
    model = from_config(name)
    if model is None or model.architecture.widths is None or model.family in ENCODER_DECODERS:
        return None
    kinds = [kind for layer in model.architecture.layers for kind in layer]
    return llamacpp_overhead(model_facts(model), model.architecture.widths, kinds, 512, n_ctx // n_seq_max, devices=0)


def compute_errors() -> list[float]:
    """Measured less predicted, in shares of the predicted, of models without an indexer."""
    errors = []
    for name, n_ctx, n_seq_max, _, measured in ROWS:
        answer, model = compute_buffer(name, n_ctx, n_seq_max), from_config(name)
        if answer is None or model is None:
            continue
        if not any(isinstance(kind, IndexKeys) for layer in model.architecture.layers for kind in layer):
            errors.append(measured / answer.activation_bytes - 1)
    return errors


def test_half_of_llamacpps_compute_buffers_are_within_2_percent_and_nine_in_ten_within_12() -> None:
    errors = sorted(abs(error) for error in compute_errors())
    assert len(errors) > 200
    assert median(errors) < 0.02
    assert errors[len(errors) * 9 // 10] < 0.12


@pytest.mark.parametrize(
    ("name", "n_ctx", "measured"),
    [
        ("Qwen__Qwen3-30B-A3B", 8192, 319555584),
        ("mistralai__Mixtral-8x7B-v0.1", 8192, 218118144),
        ("mistralai__Mixtral-8x7B-v0.1", 32768, 243283968),
    ],
)
def test_compute_buffers_follow_logits_experts_and_mask(name: str, n_ctx: int, measured: int) -> None:
    """llama.cpp 0.5.0 reserved these (``llamacpp_0.5_compute.json``); positions and such are below 64 KiB."""
    answer = compute_buffer(name, n_ctx, 1)
    assert answer is not None
    assert 0 <= measured - answer.activation_bytes < 65536


def test_llamacpp_leaves_a_gib_of_each_accelerator_to_the_runtime() -> None:
    model = from_config("Qwen__Qwen3-30B-A3B")
    assert model is not None
    assert model.architecture.widths is not None
    kinds = [kind for layer in model.architecture.layers for kind in layer]
    answers = [
        llamacpp_overhead(model_facts(model), model.architecture.widths, kinds, 512, 8192, devices=devices)
        for devices in (0, 1)
    ]
    assert [answer.non_torch_bytes for answer in answers] == [0, GIB]


def test_llamacpps_encoder_decoders_have_no_rule() -> None:
    path = next(Path(__file__).parent.parent.glob("assets/configs/*t5*.json"))
    model = from_config(path.stem)
    assert model is not None
    widths = model.architecture.widths
    if widths is None:
        pytest.skip("the family reads no widths")
    kinds = [kind for layer in model.architecture.layers for kind in layer]
    with pytest.raises(UnsupportedError, match="encoder-decoder"):
        llamacpp_overhead(model_facts(model), widths, kinds, 512, 8192, devices=0)
