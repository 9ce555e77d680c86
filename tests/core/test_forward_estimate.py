"""Activations where an engine has no rule of its own, against the tensors that vLLM's profiling batch holds."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from statistics import median

import pytest

from kvplan.core.attention import FullAttention, Latent
from kvplan.core.estimated_widths import estimate_widths
from kvplan.core.model import Architecture, Model
from kvplan.core.overhead import FORWARD_ERROR, GUESSED_ERROR, Forward, estimate_forward, highest_phase
from kvplan.core.widths import Widths
from kvplan.engines.vllm.activations import phases
from kvplan.engines.vllm.profile_run import Batch, ProfileRun
from kvplan.engines.vllm.rules import V0_33
from kvplan.engines.vllm.run import device_of
from kvplan.planning.request import model_facts
from kvplan.specs.accelerator import load_accelerator
from kvplan.specs.catalogue import load_packaged, spec_files

TOKENS, REQUESTS = 8192, 1024
PLAIN = Forward(
    hidden_size=4096,
    num_heads=32,
    widths=Widths(vocab_size=128256, intermediate_size=14336),
    kinds=(FullAttention(num_kv_heads=8, head_dim=128),),
    tokens=TOKENS,
    logit_rows=1,
)
"""Llama-3.1-8B's shape."""


@cache
def measurable() -> list[Model]:
    """Packaged models with widths, but those of latent attention, of which vLLM tries 64k tokens of context."""
    models = [load_packaged(path.stem) for path in spec_files()]
    return [
        model
        for model in models
        if model.architecture.widths is not None
        and model.architecture.parameters is not None
        and not any(isinstance(kind, Latent) for layer in model.architecture.layers for kind in layer)
    ]


def peak_of_vllm(model: Model, widths: Widths) -> int:
    run = ProfileRun(
        rules=V0_33,
        device=device_of(load_accelerator("h200"), flashinfer=True),
        facts=model_facts(model),
        widths=widths,
        layers=model.architecture.layers,
        batch=Batch(TOKENS, REQUESTS),
        max_model_len=32768,
        eager=True,
    )
    return highest_phase(phases(run)).total_bytes


def estimate_of(architecture: Architecture, widths: Widths) -> int:
    kinds = dict.fromkeys(kind for layer in architecture.layers for kind in layer)
    return estimate_forward(
        Forward(
            hidden_size=architecture.hidden_size,
            num_heads=architecture.num_heads or 1,
            widths=widths,
            kinds=tuple(kinds),
            tokens=TOKENS,
            logit_rows=REQUESTS,
        )
    ).activation_bytes


@pytest.mark.parametrize(("guessed", "share"), [(False, FORWARD_ERROR), (True, GUESSED_ERROR)])
def test_nine_in_ten_estimates_are_within_the_stated_error(guessed: bool, share: float) -> None:
    errors = []
    for model in measurable():
        architecture = model.architecture
        assert architecture.widths is not None
        widths = estimate_widths(architecture) if guessed else architecture.widths
        errors.append(abs(peak_of_vllm(model, architecture.widths) / estimate_of(architecture, widths) - 1))
    errors.sort()
    assert len(errors) > 100
    assert errors[len(errors) * 9 // 10] < share
    assert median(errors) < 0.3


def test_the_dense_block_of_llama_holds_three_branches_and_two_rows_of_the_stream() -> None:
    assert estimate_forward(PLAIN).activation_bytes == TOKENS * (3 * 14336 + 2 * 4096) * 2


def test_many_rows_of_logits_outweigh_the_blocks() -> None:
    """16 and 32 bits and probabilities of 4096 rows, beside the residual stream."""
    answer = estimate_forward(replace(PLAIN, logit_rows=4096))
    assert answer.activation_bytes == 4096 * 128256 * 10 + 2 * TOKENS * 4096 * 2


def test_tensor_parallel_ranks_split_branches_but_not_the_stream() -> None:
    answer = estimate_forward(replace(PLAIN, tp=4))
    assert answer.activation_bytes == TOKENS * (3 * 14336 // 4 + 2 * 4096) * 2


def test_guessed_widths_double_the_error_and_say_so() -> None:
    known, guessed = estimate_forward(PLAIN), estimate_forward(replace(PLAIN, guessed=True))
    assert guessed.expected_error_bytes == 2 * known.expected_error_bytes == known.activation_bytes
    assert "states no widths" in guessed.lines[-1]


def test_estimated_widths_are_those_of_the_parameter_counts() -> None:
    model = load_packaged("llama-3.1-8b")
    found = estimate_widths(model.architecture)
    assert found.vocab_size == 128256
    assert found.intermediate_size == 14336
    assert found.num_experts == 0


def test_chosen_experts_are_as_wide_together_as_active_parameters_say() -> None:
    """Qwen3-30B-A3B: 8 of 128 experts of width 768."""
    found = estimate_widths(load_packaged("qwen3-30b-a3b").architecture)
    assert 0.95 < found.experts_per_token * found.moe_intermediate_size / (8 * 768) < 1.05
    assert 120 <= found.num_experts <= 136


def test_without_parameter_counts_widths_are_in_usual_proportions() -> None:
    architecture = replace(load_packaged("llama-3.1-8b").architecture, parameters=None)
    assert estimate_widths(architecture).intermediate_size == 4 * architecture.hidden_size
